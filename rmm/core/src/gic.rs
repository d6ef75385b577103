//! GICv3 virtualization: what the Host may put into a REC's virtual CPU interface, and what it sees of it
//! (RMM 1.0, RmiRecEnter and RmiRecExit).

use crate::cpu::Gic;
use crate::platform::CpuFeatures;
use realm_abi::rmi::{GICV3_HCR_HOST_BITS, MAX_LRS, RecEnter, RecExit};

/// ICH_HCR_EL2 bits the RMM sets while a realm runs: En, vSGIEOICount (SGIs are not counted in EOIcount), DVIM.
const HCR_RMM_BITS: u64 = 1 | 1 << 8 | 1 << 15;
/// ICH_LR_EL2.NMI: non-maskable. A realm has no FEAT_NMI, so none is for it; the specification does not name the bit.
const LR_NMI: u64 = 1 << 59;
/// ICH_HCR_EL2.EOIcount.
const HCR_EOICOUNT: u64 = 0x1f << 27;

/// First identifier that is not a PPI, an SGI or an SPI of the basic range.
const SPECIAL_IDS: u64 = 1020;
/// First LPI.
const FIRST_LPI: u64 = 8192;

/// The fields of an ICH_LR register.
#[derive(Clone, Copy)]
struct ListRegister(u64);

impl ListRegister {
    const fn is_valid(self) -> bool {
        self.0 >> 62 != 0
    }
    const fn is_hardware(self) -> bool {
        self.0 & (1 << 61) != 0
    }
    const fn priority(self) -> u64 {
        (self.0 >> 48) & 0xff
    }
    /// Bits 44:32; without HW only bit 41, the request for an EOI maintenance interrupt, has a meaning.
    const fn physical_id(self) -> u64 {
        (self.0 >> 32) & 0x1fff
    }
    const fn virtual_id(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// Whether the entry is an encoding the architecture defines on a CPU with `features`. HW must be zero in every
    /// register, also in an invalid one: that is what the specification says, though deployed firmware does not look.
    const fn is_allowed(self, features: &CpuFeatures) -> bool {
        if self.is_hardware() {
            return false;
        }
        if !self.is_valid() {
            return true;
        }
        let unimplemented = match features.gic_priority_bits {
            bits @ 0..=8 => 0xff_u64 >> bits,
            _ => 0,
        };
        self.priority() & unimplemented == 0
            && self.physical_id() & !(1 << 9) == 0
            && is_interrupt_id(self.virtual_id(), features)
    }
}

const fn is_interrupt_id(id: u64, features: &CpuFeatures) -> bool {
    let ids = if features.gic_id_bits >= 24 { 1 << 24 } else { 1 << 16 };
    match id {
        0..SPECIAL_IDS => true,
        1056..=1119 | 4096..=5119 => features.gic_extended_range,
        FIRST_LPI.. => id < ids,
        _ => false,
    }
}

/// List registers that exist.
fn list_registers(features: &CpuFeatures) -> usize {
    usize::from(features.gic_num_lrs).saturating_add(1).min(MAX_LRS)
}

/// `RecGicv3` validity of what the Host passes to REC_ENTER.
pub(crate) fn is_valid_entry(enter: &RecEnter, features: &CpuFeatures) -> bool {
    let count = list_registers(features);
    let lrs = enter.gicv3_lrs.iter().take(count).map(|lr| ListRegister(*lr));
    let duplicate = lrs.clone().enumerate().any(|(n, lr)| {
        lr.is_valid()
            && lrs.clone().take(n).any(|other| other.is_valid() && other.virtual_id() == lr.virtual_id())
    });
    enter.gicv3_hcr & !GICV3_HCR_HOST_BITS == 0 && !duplicate && lrs.clone().all(|lr| lr.is_allowed(features))
}

/// Loads what [`is_valid_entry`] has accepted.
pub(crate) fn load(gic: &mut Gic, enter: &RecEnter, features: &CpuFeatures) {
    gic.ich_hcr = enter.gicv3_hcr | HCR_RMM_BITS;
    // Of an earlier run: nothing is to be reported if this entry ends without running.
    gic.ich_misr = 0;
    gic.ich_lrs = [0; MAX_LRS];
    for (to, from) in gic.ich_lrs.iter_mut().zip(enter.gicv3_lrs).take(list_registers(features)) {
        *to = from & !LR_NMI;
    }
}

/// Reports the virtual CPU interface, as every exit does.
pub(crate) fn report(gic: &Gic, exit: &mut RecExit) {
    exit.gicv3_hcr = gic.ich_hcr & (HCR_EOICOUNT | GICV3_HCR_HOST_BITS);
    exit.gicv3_lrs = gic.ich_lrs;
    exit.gicv3_misr = gic.ich_misr;
    exit.gicv3_vmcr = gic.ich_vmcr;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakePlatform;

    /// Sixteen list registers, all priorities, identifiers of 16 bits in the basic ranges.
    fn features() -> CpuFeatures {
        CpuFeatures { gic_num_lrs: 15, gic_priority_bits: 8, ..FakePlatform::new(1).features }
    }

    const PENDING: u64 = 1 << 62;
    const ACTIVE: u64 = 2 << 62;

    fn accepts(hcr: u64, lrs: &[u64], features: &CpuFeatures) -> bool {
        let mut enter = RecEnter::default();
        enter.gicv3_hcr = hcr;
        enter.gicv3_lrs[..lrs.len()].copy_from_slice(lrs);
        is_valid_entry(&enter, features)
    }

    #[test]
    fn only_the_hosts_bits_of_the_control_register_are_accepted() {
        let host_bits = [1, 2, 3, 4, 5, 6, 7, 14];
        for bit in 0..64 {
            assert_eq!(accepts(1 << bit, &[], &features()), host_bits.contains(&bit), "bit {bit}");
        }
    }

    #[test]
    fn list_registers_are_checked_field_by_field() {
        let basic = features();
        let five_bits = CpuFeatures { gic_priority_bits: 5, ..features() };
        let wide = CpuFeatures { gic_id_bits: 24, ..features() };
        let extended = CpuFeatures { gic_extended_range: true, ..features() };
        let table: &[(&str, u64, &CpuFeatures, bool)] = &[
            ("invalid", 0, &basic, true),
            ("invalid with anything but HW", 0x1fff_ffff_ffff_ffff, &basic, true),
            ("invalid with HW", 1 << 61, &basic, false),
            ("pending with HW", PENDING | 1 << 61 | 40, &basic, false),
            ("pending SGI", PENDING | 3, &basic, true),
            ("active SPI of group 1", ACTIVE | 1 << 60 | 32, &basic, true),
            ("pending and active", PENDING | ACTIVE | 27, &basic, true),
            ("implemented priority", PENDING | 0xf8 << 48 | 27, &five_bits, true),
            ("unimplemented priority", PENDING | 0x04 << 48 | 27, &five_bits, false),
            ("EOI maintenance request", PENDING | 1 << 41 | 27, &basic, true),
            ("physical identifier", PENDING | 1 << 40 | 27, &basic, false),
            ("physical identifier bit 12", PENDING | 1 << 44 | 27, &basic, false),
            ("last SPI", PENDING | 1019, &basic, true),
            ("first special identifier", PENDING | 1020, &extended, false),
            ("last special identifier", PENDING | 1023, &extended, false),
            ("between special and extended PPI", PENDING | 1055, &extended, false),
            ("first extended PPI", PENDING | 1056, &extended, true),
            ("extended PPI without the feature", PENDING | 1056, &basic, false),
            ("last extended PPI", PENDING | 1119, &extended, true),
            ("behind extended PPI", PENDING | 1120, &extended, false),
            ("first extended SPI", PENDING | 4096, &extended, true),
            ("last extended SPI", PENDING | 5119, &extended, true),
            ("extended SPI without the feature", PENDING | 5119, &basic, false),
            ("behind extended SPI", PENDING | 5120, &extended, false),
            ("before LPIs", PENDING | 8191, &basic, false),
            ("first LPI", PENDING | 8192, &basic, true),
            ("last LPI of 16 bits", PENDING | 0xffff, &basic, true),
            ("LPI of 17 bits", PENDING | 0x1_0000, &basic, false),
            ("last LPI of 24 bits", PENDING | 0xff_ffff, &wide, true),
            ("LPI of 25 bits", PENDING | 0x100_0000, &wide, false),
        ];
        for (what, lr, features, expected) in table {
            assert_eq!(accepts(0, &[*lr], features), *expected, "{what}");
            assert_eq!(accepts(0, &[0, *lr], features), *expected, "{what}, second register");
        }
    }

    #[test]
    fn two_valid_registers_with_one_identifier_are_refused() {
        assert!(!accepts(0, &[PENDING | 27, PENDING | 28, ACTIVE | 27], &features()));
        assert!(accepts(0, &[PENDING | 27, 27, 27], &features()));
    }

    #[test]
    fn registers_that_do_not_exist_are_ignored() {
        let four = CpuFeatures { gic_num_lrs: 3, ..features() };
        let lrs = [PENDING | 1, PENDING | 2, PENDING | 3, PENDING | 4, PENDING | 4 | 1 << 61];
        assert!(accepts(0, &lrs, &four));
        let mut enter = RecEnter::default();
        enter.gicv3_lrs[..5].copy_from_slice(&lrs);
        let mut gic = Gic::default();
        load(&mut gic, &enter, &four);
        assert_eq!(gic.ich_lrs[..5], [lrs[0], lrs[1], lrs[2], lrs[3], 0]);
    }

    #[test]
    fn no_interrupt_of_a_realm_is_non_maskable() {
        let mut enter = RecEnter::default();
        enter.gicv3_lrs[1] = PENDING | 1 << 59 | 27;
        assert!(is_valid_entry(&enter, &features()));
        let mut gic = Gic::default();
        load(&mut gic, &enter, &features());
        assert_eq!(gic.ich_lrs[1], PENDING | 27);
    }

    #[test]
    fn an_exit_shows_the_eoi_count_and_the_hosts_bits_only() {
        let gic =
            Gic { ich_hcr: u64::MAX, ich_misr: 5, ich_vmcr: 6, ich_lrs: [7; MAX_LRS], ..Gic::default() };
        let mut exit = RecExit::default();
        report(&gic, &mut exit);
        assert_eq!(exit.gicv3_hcr, 0xf800_0000 | 0x40fe);
        assert_eq!((exit.gicv3_misr, exit.gicv3_vmcr, exit.gicv3_lrs), (5, 6, [7; MAX_LRS]));
    }
}
