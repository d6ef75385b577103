//! Software generated interrupts: the values written to ICC_SGI1R_EL1 and its kin (IHI 0069).

use crate::dist::vcpu_of;
use realm_host::irqchip::GicRegister;

/// A request for an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sgi {
    pub intid: u32,
    /// Whether it also reaches vCPUs at which it is in Group 1. With one Security state ICC_SGI1R reaches either group, as
    /// GICR_IGROUPR0 says; ICC_SGI0R reaches Group 0, and so does ICC_ASGI1R, as no other state's Group 1 exists.
    pub group_1: bool,
    value: u64,
}

impl Sgi {
    /// What a write asks for; `None` for a register that makes no SGIs.
    pub const fn of_write(register: GicRegister, value: u64) -> Option<Self> {
        let group_1 = match register {
            GicRegister::Sgi1r => true,
            GicRegister::Asgi1r | GicRegister::Sgi0r => false,
            GicRegister::Dir => return None,
        };
        Some(Self { intid: (value >> 24) as u32 & 0xf, group_1, value })
    }

    /// IRM: everyone but the sender.
    pub const fn to_all_others(self) -> bool {
        self.value & 1 << 40 != 0
    }

    /// The vCPUs it names.
    pub fn targets(self) -> impl Iterator<Item = u32> {
        let field = move |shift: u32, mask: u32| self.value.wrapping_shr(shift) as u32 & mask;
        let (aff3, aff2, aff1) = (field(48, 0xff), field(32, 0xff), field(16, 0xff));
        let range = field(44, 0xf);
        let list = if aff3 == 0 { field(0, 0xffff) } else { 0 };
        crate::bank::bits(list).filter_map(move |number| vcpu_of(aff2, aff1, range << 4 | number))
    }
}
