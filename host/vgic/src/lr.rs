//! List registers (`ICH_LR<n>_EL2`) and the control registers beside them (IHI 0069, virtual interface control registers).

use realm_abi::rmi::MAX_LRS;

/// What a list register says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lr(pub u64);

impl Lr {
    pub const PENDING: u64 = 1 << 62;
    pub const ACTIVE: u64 = 1 << 63;
    const GROUP_1: u64 = 1 << 60;
    const PRIORITY_SHIFT: u32 = 48;
    /// Without HW: a maintenance interrupt when the interrupt is deactivated.
    const EOI: u64 = 1 << 41;

    /// HW is always 0 (RMM 1.0, RmiRecEnter).
    pub const fn new(intid: u32, priority: u8, group_1: bool, eoi: bool, state: u64) -> Self {
        let group = if group_1 { Self::GROUP_1 } else { 0 };
        let eoi = if eoi { Self::EOI } else { 0 };
        Self(intid as u64 | (priority as u64) << Self::PRIORITY_SHIFT | group | eoi | state)
    }

    pub const fn intid(self) -> u32 {
        self.0 as u32
    }

    pub const fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    pub const fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }

    /// Neither pending nor active.
    pub const fn is_empty(self) -> bool {
        self.0 & (Self::PENDING | Self::ACTIVE) == 0
    }
}

/// Bits of ICH_HCR_EL2.
pub mod hcr {
    /// A maintenance interrupt while EOIcount is not 0.
    pub const LRENPIE: u64 = 1 << 2;
    /// A maintenance interrupt while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// A maintenance interrupt while the guest has a group enabled: VGrp0EIE, VGrp1EIE.
    pub const ENABLED: [u64; 2] = [1 << 4, 1 << 6];
    /// A maintenance interrupt while it has not: VGrp0DIE, VGrp1DIE.
    pub const DISABLED: [u64; 2] = [1 << 5, 1 << 7];
    /// Writes to ICC_DIR_EL1 are trapped.
    pub const TDIR: u64 = 1 << 14;

    /// EOIs of interrupts that are in no list register.
    pub const fn eoi_count(hcr: u64) -> u32 {
        (hcr >> 27 & 0x1f) as u32
    }
}

/// ICH_VMCR_EL2: what the guest made of its CPU interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vmcr(pub u64);

impl Vmcr {
    /// VENG0 or VENG1.
    pub const fn enables(self, group_1: bool) -> bool {
        let bit = if group_1 { 1 << 1 } else { 1 << 0 };
        self.0 & bit != 0
    }

    /// VEOIM: EOIs only drop the priority, and DIR deactivates.
    pub const fn splits_eoi(self) -> bool {
        self.0 & 1 << 9 != 0
    }

    /// VPMR: interrupts have to be of a higher priority, that is a lower number, than this.
    pub const fn lets_through(self, priority: u8) -> bool {
        (priority as u64) < (self.0 >> 24 & 0xff)
    }
}

/// Why an interrupt wants a list register, what is most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Want {
    /// It is pending, and the CPU interface passes its group on.
    Pending,
    /// It is active. Nothing is lost by leaving it out: its end is counted (EOIcount), or its DIR trapped.
    Active,
    /// It is pending, in a group that the CPU interface does not pass on now.
    Closed,
}

/// The interrupts for the list registers: by urgency, then by priority.
///
/// A pending one that is left out has a lower priority than all that are in, so it is not missed before these are
/// acknowledged, which NPIE tells, or their group is turned off, or its own on. UIE would tell earlier, when one is left:
/// nothing is won by that.
pub struct Picks {
    /// The best so far, in order; the rest is [`Self::NONE`].
    keys: [u64; MAX_LRS],
    room: usize,
    left_out: u64,
}

impl Picks {
    const NONE: u64 = u64::MAX;
    const WANT_SHIFT: u32 = 40;

    pub const fn new(room: usize) -> Self {
        Self { keys: [Self::NONE; MAX_LRS], room, left_out: 0 }
    }

    pub fn offer(&mut self, intid: u32, priority: u8, want: Want) {
        let mut key = (want as u64) << Self::WANT_SHIFT | u64::from(priority) << 32 | u64::from(intid);
        for slot in self.keys.iter_mut().take(self.room) {
            if key < *slot {
                core::mem::swap(&mut key, slot);
            }
        }
        if key != Self::NONE {
            self.left_out |= 1_u64.wrapping_shl((key >> Self::WANT_SHIFT) as u32);
        }
    }

    /// Whether there was no room for one that wanted it for this.
    pub const fn leaves_out(&self, want: Want) -> bool {
        self.left_out & 1_u64.wrapping_shl(want as u32) != 0
    }

    /// The INTIDs that were picked.
    pub fn intids(&self) -> impl Iterator<Item = u32> {
        self.keys.iter().take_while(|key| **key != Self::NONE).map(|key| *key as u32)
    }
}
