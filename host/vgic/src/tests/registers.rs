//! Every register: reset value, bits that read as zero and ignore writes, side effects, sizes of accesses. What is expected is
//! written from IHI 0069, not taken from the tables.

use super::{DIST, Gic, OPEN, REDIST, SGI, redist};
use realm_host::irqchip::Irqchip;
use std::vec::Vec;

const ALL: u64 = 0xffff_ffff;

/// (offset, value after reset, value after a write of ones, value after a write of zeros then) of words of the distributor of a GIC
/// with 96 interrupts.
const DISTRIBUTOR: &[(u64, u64, u64, u64)] = &[
    // CTLR: RWP 0, DS and ARE, both groups' enables.
    (0x0000, 0x50, 0x53, 0x50),
    // TYPER: IDbits 9, ITLinesNumber 2.
    (0x0004, 9 << 19 | 2, 9 << 19 | 2, 9 << 19 | 2),
    // IIDR.
    (0x0008, 0x5200_043b, 0x5200_043b, 0x5200_043b),
    // TYPER2, STATUSR.
    (0x000c, 0, 0, 0),
    (0x0010, 0, 0, 0),
    // SETSPI_NSR, CLRSPI_NSR, SETSPI_SR, CLRSPI_SR.
    (0x0040, 0, 0, 0),
    (0x0048, 0, 0, 0),
    (0x0050, 0, 0, 0),
    (0x0058, 0, 0, 0),
    // IGROUPR0 to 3: the first is the redistributors', the last is not there.
    (0x0080, 0, 0, 0),
    (0x0084, 0, ALL, 0),
    (0x0088, 0, ALL, 0),
    (0x008c, 0, 0, 0),
    // ISENABLER: zeros do nothing.
    (0x0100, 0, 0, 0),
    (0x0104, 0, ALL, ALL),
    (0x0108, 0, ALL, ALL),
    (0x010c, 0, 0, 0),
    // ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER.
    (0x0180, 0, 0, 0),
    (0x0184, 0, 0, 0),
    (0x0200, 0, 0, 0),
    (0x0204, 0, ALL, ALL),
    (0x0208, 0, ALL, ALL),
    (0x020c, 0, 0, 0),
    (0x0280, 0, 0, 0),
    (0x0284, 0, 0, 0),
    (0x0300, 0, 0, 0),
    (0x0304, 0, ALL, ALL),
    (0x030c, 0, 0, 0),
    (0x0380, 0, 0, 0),
    (0x0384, 0, 0, 0),
    // IPRIORITYR0, 7, 8, 23, 24: five bits of priority.
    (0x0400, 0, 0, 0),
    (0x041c, 0, 0, 0),
    (0x0420, 0, 0xf8f8_f8f8, 0),
    (0x045c, 0, 0xf8f8_f8f8, 0),
    (0x0460, 0, 0, 0),
    // ITARGETSR.
    (0x0800, 0, 0, 0),
    (0x0820, 0, 0, 0),
    // ICFGR0, 1, 2, 5, 6: bit 0 of each field is reserved.
    (0x0c00, 0, 0, 0),
    (0x0c04, 0, 0, 0),
    (0x0c08, 0, 0xaaaa_aaaa, 0),
    (0x0c14, 0, 0xaaaa_aaaa, 0),
    (0x0c18, 0, 0, 0),
    // IGRPMODR, NSACR, SGIR, CPENDSGIR, SPENDSGIR, INMIR.
    (0x0d04, 0, 0, 0),
    (0x0e08, 0, 0, 0),
    (0x0f00, 0, 0, 0),
    (0x0f10, 0, 0, 0),
    (0x0f20, 0, 0, 0),
    (0x0f84, 0, 0, 0),
    // Extended SPIs, and what nobody has a name for.
    (0x1000, 0, 0, 0),
    (0x1200, 0, 0, 0),
    (0x3000, 0, 0, 0),
    (0x0020, 0, 0, 0),
    (0x5000, 0, 0, 0),
    (0x8000, 0, 0, 0),
    (0xc000, 0, 0, 0),
    // IROUTER31, 32, 95, 96: Aff0 to Aff2 and Interrupt_Routing_Mode below, Aff3 above.
    (0x60f8, 0, 0, 0),
    (0x6100, 0, 0x80ff_ffff, 0),
    (0x6104, 0, 0, 0),
    (0x62f8, 0, 0x80ff_ffff, 0),
    (0x6300, 0, 0, 0),
    (0x7fe0, 0, 0, 0),
    // PIDR4 to 7, PIDR0 to 3, CIDR0 to 3.
    (0xffd0, 0x44, 0x44, 0x44),
    (0xffd4, 0, 0, 0),
    (0xffd8, 0, 0, 0),
    (0xffdc, 0, 0, 0),
    (0xffe0, 0x92, 0x92, 0x92),
    (0xffe4, 0xb4, 0xb4, 0xb4),
    (0xffe8, 0x3b, 0x3b, 0x3b),
    (0xffec, 0, 0, 0),
    (0xfff0, 0x0d, 0x0d, 0x0d),
    (0xfff4, 0xf0, 0xf0, 0xf0),
    (0xfff8, 0x05, 0x05, 0x05),
    (0xfffc, 0xb1, 0xb1, 0xb1),
];

/// The same of the only redistributor there is.
const REDISTRIBUTOR: &[(u64, u64, u64, u64)] = &[
    // CTLR: no EnableLPIs.
    (0x0000, 0, 0, 0),
    (0x0004, 0x5200_043b, 0x5200_043b, 0x5200_043b),
    // TYPER: Last; affinity 0.
    (0x0008, 0x10, 0x10, 0x10),
    (0x000c, 0, 0, 0),
    (0x0010, 0, 0, 0),
    // WAKER: ProcessorSleep and ChildrenAsleep.
    (0x0014, 6, 6, 0),
    (0x0018, 0, 0, 0),
    (0x001c, 0, 0, 0),
    (0x0040, 0, 0, 0),
    (0x0048, 0, 0, 0),
    (0x0070, 0, 0, 0),
    (0x0074, 0, 0, 0),
    (0x0078, 0, 0, 0),
    (0x00a0, 0, 0, 0),
    (0x00b0, 0, 0, 0),
    (0x00c0, 0, 0, 0),
    (0xffd0, 0x44, 0x44, 0x44),
    (0xffe0, 0x93, 0x93, 0x93),
    (0xffe4, 0xb4, 0xb4, 0xb4),
    (0xffe8, 0x3b, 0x3b, 0x3b),
    (0xfff0, 0x0d, 0x0d, 0x0d),
    (0xfffc, 0xb1, 0xb1, 0xb1),
    (SGI | 0x0080, 0, ALL, 0),
    (SGI | 0x0084, 0, 0, 0),
    (SGI | 0x0100, 0, ALL, ALL),
    (SGI | 0x0104, 0, 0, 0),
    (SGI | 0x0180, 0, 0, 0),
    (SGI | 0x0200, 0, ALL, ALL),
    (SGI | 0x0280, 0, 0, 0),
    (SGI | 0x0300, 0, ALL, ALL),
    (SGI | 0x0380, 0, 0, 0),
    (SGI | 0x0400, 0, 0xf8f8_f8f8, 0),
    (SGI | 0x041c, 0, 0xf8f8_f8f8, 0),
    (SGI | 0x0420, 0, 0, 0),
    // ICFGR0: SGIs are edges for ever. ICFGR1.
    (SGI | 0x0c00, 0xaaaa_aaaa, 0xaaaa_aaaa, 0xaaaa_aaaa),
    (SGI | 0x0c04, 0, 0xaaaa_aaaa, 0),
    (SGI | 0x0c08, 0, 0, 0),
    (SGI | 0x0d00, 0, 0, 0),
    (SGI | 0x0e00, 0, 0, 0),
    (SGI | 0x0f80, 0, 0, 0),
    (SGI | 0xc000, 0, 0, 0),
    (SGI | 0xffe8, 0, 0, 0),
];

fn each_word(base: u64, words: &[(u64, u64, u64, u64)]) {
    for &(offset, reset, ones, zeros) in words {
        let gic = Gic::new(1, 96);
        let at = base + offset;
        assert_eq!(gic.read(at, 4), reset, "{offset:#x} after a reset");
        gic.write(at, 4, ALL);
        assert_eq!(gic.read(at, 4), ones, "{offset:#x} after a write of ones");
        gic.write(at, 4, 0);
        assert_eq!(gic.read(at, 4), zeros, "{offset:#x} after a write of zeros");
    }
}

#[test]
fn each_word_of_the_distributor_has_its_reset_value_and_its_bits() {
    each_word(DIST, DISTRIBUTOR);
}

#[test]
fn each_word_of_a_redistributor_has_its_reset_value_and_its_bits() {
    each_word(REDIST, REDISTRIBUTOR);
}

/// All that reads of both frames show.
fn everything(gic: &Gic) -> Vec<u64> {
    let dist = (0..0x1_0000).step_by(4).map(|offset| DIST + offset);
    let redist = (0..0x2_0000).step_by(4).map(|offset| REDIST + offset);
    dist.chain(redist).map(|at| gic.read(at, 4)).collect()
}

#[test]
fn a_register_is_what_the_lists_above_say_and_nothing_else_is_there() {
    let gic = Gic::new(1, 96);
    let before = everything(&gic);
    for at in (0..before.len() as u64).map(|word| word * 4) {
        let (base, offset) = if at < 0x1_0000 { (DIST, at) } else { (REDIST, at - 0x1_0000) };
        gic.write(base + offset, 4, 0xffff_ffff);
    }
    // Registers that set by ones are set by what comes later, too, so nothing is asked but which words can change at all.
    let after = everything(&gic);
    let changed: Vec<u64> = (0_u64..)
        .zip(before.iter().zip(&after))
        .filter(|(_, (before, after))| before != after)
        .map(|(word, _)| word * 4)
        .collect();
    let mut expected: Vec<u64> = Vec::from([0]);
    let banks = |base: u64| (1..3_u64).map(move |bank| base + bank * 4);
    // Enabled and pending were cleared again by the registers that follow, and so were active ones.
    expected.extend(banks(0x80));
    expected.extend((8..24_u64).map(|word| 0x400 + word * 4));
    expected.extend((2..6_u64).map(|word| 0xc00 + word * 4));
    expected.extend((32..96_u64).map(|intid| 0x6000 + intid * 8));
    let sgi = 0x1_0000 + SGI;
    expected.push(sgi + 0x80);
    expected.extend((0..8_u64).map(|word| sgi + 0x400 + word * 4));
    expected.push(sgi + 0xc04);
    assert_eq!(changed, expected);
}

#[test]
fn clearing_registers_clear_just_what_they_name() {
    for (set, clear) in [(0x100, 0x180), (0x200, 0x280), (0x300, 0x380)] {
        for at in [DIST + 4, REDIST + SGI] {
            let gic = Gic::new(1, 96);
            gic.write(at + set, 4, 0xff00_ff00);
            assert_eq!(gic.read(at + clear, 4), 0xff00_ff00, "both show the state");
            gic.write(at + clear, 4, 0x0f00_00ff);
            assert_eq!(gic.read(at + set, 4), 0xf000_ff00);
            assert_eq!(gic.read(at + clear, 4), 0xf000_ff00);
        }
    }
}

#[test]
fn priorities_have_bytes() {
    for first in [DIST + 0x420, REDIST + SGI + 0x404] {
        let gic = Gic::new(1, 64);
        gic.write(first, 4, 0x4030_2010);
        gic.write(first + 1, 1, 0xff);
        gic.write(first + 3, 1, 0x87);
        assert_eq!(gic.read(first, 4), 0x8030_f810);
        assert_eq!(gic.read(first + 1, 1), 0xf8);
        assert_eq!(gic.read(first + 2, 1), 0x30);
    }
}

#[test]
fn a_route_is_64_bits_or_two_halves() {
    let gic = Gic::new(1, 64);
    let route = DIST + 0x6000 + 40 * 8;
    gic.write(route, 8, 0xffff_ffff_0001_0203);
    assert_eq!(gic.read(route, 8), 0x0001_0203, "there is no Aff3");
    gic.write(route + 4, 4, 0xff);
    gic.write(route, 4, 0x8000_0005);
    assert_eq!(gic.read(route, 8), 0x8000_0005);
    assert_eq!((gic.read(route, 4), gic.read(route + 4, 4)), (0x8000_0005, 0));
    assert_eq!(gic.read(route + 8, 8), 0, "the next one");
}

#[test]
fn the_type_of_a_redistributor_names_its_vcpu() {
    let gic = Gic::new(300, 64);
    for (vcpu, affinity) in [(0, 0), (1, 1), (15, 0xf), (16, 0x100), (257, 0x1001)] {
        let last = 0;
        let expected = affinity << 32 | u64::from(vcpu) << 8 | last;
        assert_eq!(gic.read(redist(vcpu) + 8, 8), expected);
        assert_eq!(gic.read(redist(vcpu) + 8, 4), expected & 0xffff_ffff);
        assert_eq!(gic.read(redist(vcpu) + 12, 4), affinity);
    }
    assert_eq!(gic.read(redist(299) + 8, 8), 0x120b << 32 | 299 << 8 | 0x10);
}

#[test]
fn the_number_of_lines_is_the_configurations() {
    for (nr_irqs, lines) in [(32, 0), (64, 1), (256, 7), (1024, 31)] {
        assert_eq!(Gic::new(1, nr_irqs).read(DIST + 4, 4) & 0x1f, lines);
    }
}

#[test]
fn special_intids_are_no_interrupts() {
    let gic = Gic::new(1, 1024);
    for offset in [0x80, 0x100, 0x200, 0x300] {
        gic.write(DIST + offset + 31 * 4, 4, 0xffff_ffff);
        assert_eq!(gic.read(DIST + offset + 31 * 4, 4), 0x0fff_ffff);
    }
    gic.write(DIST + 0x400 + 1016, 4, 0xffff_ffff);
    gic.write(DIST + 0x400 + 1020, 4, 0xffff_ffff);
    assert_eq!((gic.read(DIST + 0x400 + 1016, 4), gic.read(DIST + 0x400 + 1020, 4)), (0xf8f8_f8f8, 0));
    gic.write(DIST + 0xc00 + 63 * 4, 4, 0xffff_ffff);
    assert_eq!(gic.read(DIST + 0xc00 + 63 * 4, 4), 0x00aa_aaaa);
    gic.write(DIST + 0x6000 + 1019 * 8, 8, 5);
    gic.write(DIST + 0x6000 + 1020 * 8, 8, 5);
    assert_eq!((gic.read(DIST + 0x6000 + 1019 * 8, 8), gic.read(DIST + 0x6000 + 1020 * 8, 8)), (5, 0));
}

#[test]
fn other_sizes_and_alignments_read_as_zero_and_change_nothing() {
    /// Registers with the sizes they have (IHI 0069: words; bytes of priorities; halves and wholes of 64-bit registers).
    const SIZES: &[(u64, &[usize])] = &[
        (DIST, &[4]),
        (DIST + 4, &[4]),
        (DIST + 8, &[4]),
        (DIST + 0x84, &[4]),
        (DIST + 0x104, &[4]),
        (DIST + 0x204, &[4]),
        (DIST + 0x304, &[4]),
        (DIST + 0x420, &[1, 4]),
        (DIST + 0xc08, &[4]),
        (DIST + 0x6100, &[4, 8]),
        (DIST + 0xffe8, &[4]),
        (REDIST + 4, &[4]),
        (REDIST + 8, &[4, 8]),
        (REDIST + 0x14, &[4]),
        (REDIST + 0xffe8, &[4]),
        (REDIST + SGI + 0x80, &[4]),
        (REDIST + SGI + 0x100, &[4]),
        (REDIST + SGI + 0x200, &[4]),
        (REDIST + SGI + 0x300, &[4]),
        (REDIST + SGI + 0x400, &[1, 4]),
        (REDIST + SGI + 0xc00, &[4]),
        (REDIST + SGI + 0xc04, &[4]),
    ];
    for &(at, sizes) in SIZES {
        let gic = Gic::new(1, 64);
        // Something to read in every register that can have it.
        gic.write(at, 4, 0xffff_ffff);
        let value = gic.read(at, 4);
        assert_ne!(value, 0, "{at:#x}");
        let before = everything(&gic);
        for size in [0, 1, 2, 3, 4, 5, 8, 9, usize::MAX] {
            if sizes.contains(&size) {
                assert_ne!(gic.read(at, size), 0, "{size} bytes at {at:#x}");
                continue;
            }
            assert_eq!(gic.read(at, size), 0, "{size} bytes at {at:#x}");
            gic.write(at, size, 0);
            gic.write(at, size, u64::MAX);
        }
        for (offset, size) in [(1, 4), (2, 4), (3, 4), (1, 2), (1, 8), (4, 8), (2, 2)] {
            if !(at + offset).is_multiple_of(size as u64) {
                assert_eq!(gic.read(at + offset, size), 0, "{size} bytes at {at:#x} + {offset}");
                gic.write(at + offset, size, u64::MAX);
            }
        }
        assert_eq!(everything(&gic), before, "{at:#x}");
    }
}

#[test]
fn any_access_anywhere_is_served() {
    let gic = Gic::new(2, 64);
    for base in [DIST, redist(0), redist(1)] {
        for offset in 0..0x1_0000 {
            for size in [1, 2, 4, 8] {
                for at in [base + offset, base + SGI + offset] {
                    if gic.chip.mmio_read(1, at, size).is_some() {
                        gic.write(at, size, u64::MAX);
                        gic.write(at, size, 0);
                    }
                }
            }
        }
    }
}

#[test]
fn a_level_shows_as_pending_until_it_is_low_and_a_write_until_it_is_cleared() {
    for (intid, at) in [(40, DIST + 4), (27, REDIST + SGI)] {
        let bit = 1 << (intid % 32);
        let gic = Gic::new(1, 64);
        gic.line(intid, true);
        assert_eq!(gic.read(at + 0x200, 4), bit);
        gic.write(at + 0x280, 4, bit);
        assert_eq!(gic.read(at + 0x200, 4), bit, "the line is still high");
        gic.write(at + 0x200, 4, bit);
        gic.line(intid, false);
        assert_eq!(gic.read(at + 0x200, 4), bit, "what was written stays");
        gic.write(at + 0x280, 4, bit);
        assert_eq!(gic.read(at + 0x200, 4), 0);
    }
}

#[test]
fn an_edge_shows_as_pending_until_it_is_cleared() {
    for (intid, at) in [(40, DIST + 4), (27, REDIST + SGI)] {
        let bit = 1 << (intid % 32);
        let gic = Gic::new(1, 64);
        gic.make_edge(intid);
        gic.line(intid, true);
        gic.line(intid, false);
        assert_eq!(gic.read(at + 0x200, 4), bit);
        gic.line(intid, true);
        gic.write(at + 0x280, 4, bit);
        assert_eq!(gic.read(at + 0x200, 4), 0, "a high line is no edge");
        gic.line(intid, true);
        assert_eq!(gic.read(at + 0x200, 4), 0);
    }
}

#[test]
fn the_redistributors_of_other_vcpus_are_others() {
    let gic = Gic::new(2, 64);
    gic.write(redist(1) + SGI + 0x100, 4, 0xf0);
    assert_eq!((gic.read(redist(0) + SGI + 0x100, 4), gic.read(redist(1) + SGI + 0x100, 4)), (0, 0xf0));
    gic.write(redist(1) + 0x14, 4, 0);
    assert_eq!((gic.read(redist(0) + 0x14, 4), gic.read(redist(1) + 0x14, 4)), (6, 0));
}

#[test]
fn a_change_that_matters_wakes_whom_it_matters_to() {
    // (what was before, offset, value): of SPI 40 at vCPU 1 which is pending, enabled, Group 1, at 0xa0.
    let changes = [
        (DIST, 0, 3),
        (DIST + 0x184, 0x104, 1 << 8),
        (DIST + 0x284, 0x204, 1 << 8),
        (DIST + 0x304, 0x384, 1 << 8),
    ];
    for (undo, register, value) in changes {
        let gic = Gic::awake(3, 64);
        gic.write(DIST + 0x6000 + 40 * 8, 8, 1);
        gic.enable(0, 40);
        gic.write(DIST + 0x204, 4, 1 << 8);
        assert!(gic.woken().contains(&1), "pending");
        gic.sync(1, &realm_host::irqchip::GicExit { vmcr: Some(OPEN), ..Default::default() });
        assert!(gic.chip.pending(1));
        gic.write(undo, 4, if undo == DIST { 0 } else { 1 << 8 });
        assert!(!gic.chip.pending(1), "{undo:#x}");
        gic.woken();
        gic.write(DIST + register, 4, value);
        assert!(gic.woken().contains(&1), "{register:#x}");
        assert!(gic.chip.pending(1), "{register:#x}");
    }
    // Its route, and one nobody has.
    let gic = Gic::awake(3, 64);
    gic.enable(0, 40);
    gic.write(DIST + 0x6000 + 40 * 8, 8, 0x99);
    gic.line(40, true);
    assert!(gic.woken().is_empty());
    gic.write(DIST + 0x6000 + 40 * 8, 8, 2);
    assert_eq!(gic.woken(), [2].into());
}
