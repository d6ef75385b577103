//! Data and instruction aborts of a realm, as the RMM reports them (RMM 1.0, REC exits due to aborts).

/// Exception classes of the synchronous exits a Host handles (ESR_EL2.EC).
pub mod ec {
    /// WFI, WFE, WFIT, WFET.
    pub const WFX: u64 = 0x01;
    /// MSR, MRS or system instruction.
    pub const SYSREG: u64 = 0x18;
    /// Instruction abort.
    pub const INSTRUCTION_ABORT: u64 = 0x20;
    /// Data abort.
    pub const DATA_ABORT: u64 = 0x24;
}

/// The exception class of a syndrome.
#[must_use]
pub const fn class(esr: u64) -> u64 {
    (esr >> 26) & 0x3f
}

const ISV: u64 = 1 << 24;
const SAS_SHIFT: u32 = 22;
const WNR: u64 = 1 << 6;
/// WFx: the two bits that tell WFI, WFE, WFIT and WFET apart.
const TI_MASK: u64 = 3;

/// Bits of HPFAR_EL2 that hold IPA\[51:12\].
const FIPA: u64 = 0x0000_0fff_ffff_fff0;

/// The address of an abort: the page from HPFAR_EL2, the offset (known for emulatable aborts only) from FAR_EL2.
#[must_use]
pub const fn fault_ipa(hpfar: u64, far: u64) -> u64 {
    (hpfar & FIPA) << 8 | far & 0xfff
}

/// An access that can be emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Bytes: 1, 2, 4 or 8.
    pub size: usize,
    /// Whether it writes.
    pub write: bool,
}

impl Access {
    /// Reads a data abort's syndrome; `None` if it does not describe the access (ISV = 0).
    #[must_use]
    pub const fn of_syndrome(esr: u64) -> Option<Self> {
        if class(esr) != ec::DATA_ABORT || esr & ISV == 0 {
            return None;
        }
        Some(Self { size: 1 << ((esr >> SAS_SHIFT) & 3), write: esr & WNR != 0 })
    }

    /// The low [`Self::size`] bytes of a value.
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        match self.size {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }
}

/// A trapped wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// WFI: until an interrupt.
    Interrupt,
    /// WFE: until an event; there are none, so it is a hint to let others run.
    Event,
    /// WFIT: until an interrupt or the counter reaches the value in `gprs[0]`.
    InterruptOrTime,
    /// WFET.
    EventOrTime,
}

impl Wait {
    /// Reads a WFx syndrome.
    #[must_use]
    pub const fn of_syndrome(esr: u64) -> Self {
        match esr & TI_MASK {
            0 => Self::Interrupt,
            1 => Self::Event,
            2 => Self::InterruptOrTime,
            _ => Self::EventOrTime,
        }
    }
}

/// A trapped access to a system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysregAccess {
    /// Op0, Op1, CRn, CRm, Op2.
    pub encoding: (u8, u8, u8, u8, u8),
    /// Whether it writes.
    pub write: bool,
}

impl SysregAccess {
    /// Reads an MSR/MRS syndrome.
    #[must_use]
    pub const fn of_syndrome(esr: u64) -> Self {
        const fn field(esr: u64, shift: u32, mask: u8) -> u8 {
            (esr >> shift) as u8 & mask
        }
        Self {
            encoding: (
                field(esr, 20, 3),
                field(esr, 14, 7),
                field(esr, 10, 15),
                field(esr, 1, 15),
                field(esr, 17, 7),
            ),
            write: esr & 1 == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_comes_from_two_registers() {
        assert_eq!(fault_ipa(0x1_0100_0000_u64 >> 8, 0xffff_0000_0000_0018), 0x1_0100_0018);
        assert_eq!(fault_ipa(1 << 63 | 0x80_0000, 0), 0x8000_0000);
    }

    #[test]
    fn a_syndrome_tells_size_and_direction() {
        let abort = ec::DATA_ABORT << 26 | ISV;
        assert_eq!(Access::of_syndrome(abort | 2 << 22 | WNR), Some(Access { size: 4, write: true }));
        assert_eq!(Access::of_syndrome(abort | 3 << 22), Some(Access { size: 8, write: false }));
        assert_eq!(Access::of_syndrome(ec::DATA_ABORT << 26), None);
        assert_eq!(Access::of_syndrome(ec::INSTRUCTION_ABORT << 26 | ISV), None);
        assert_eq!(Access { size: 2, write: true }.truncate(0x1234_5678), 0x5678);
    }

    #[test]
    fn an_sgi_write_is_recognised() {
        // msr ICC_SGI1R_EL1, x3: S3_0_C12_C11_5.
        let esr = ec::SYSREG << 26 | 3 << 20 | 5 << 17 | 12 << 10 | 3 << 5 | 11 << 1;
        let access = SysregAccess::of_syndrome(esr);
        assert_eq!(access, SysregAccess { encoding: (3, 0, 12, 11, 5), write: true });
    }
}
