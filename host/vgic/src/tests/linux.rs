//! What Linux does with the memory-mapped registers from its start on (all it touched in 7.3 with two vCPUs).

use super::{DIST, Gic, OPEN, SGI, redist};
use realm_host::irqchip::{GicExit, GicRegister, Irqchip};

const IRQS: u32 = 64;

/// Waits for GICD_CTLR.RWP as the driver does, which gives up after a million.
fn settled(gic: &Gic) {
    assert_eq!(gic.read(DIST, 4) >> 31, 0);
}

fn distributor(gic: &Gic) {
    assert_eq!(gic.read(DIST + 0xffe8, 4) & 0xf0, 0x30, "GICv3, or there is no distributor");
    let lines = ((gic.read(DIST + 4, 4) & 0x1f) + 1) * 32;
    assert_eq!(lines, u64::from(IRQS));
    assert_eq!(gic.read(DIST + 4, 4) & (1 << 17 | 1 << 16), 0, "neither LPIs nor message-based SPIs");
    gic.read(DIST + 8, 4);
    gic.read(DIST + 0xc, 4);
    gic.write(DIST, 4, 0);
    settled(gic);
    for first in (32..lines).step_by(32) {
        gic.write(DIST + 0x80 + first / 8, 4, 0xffff_ffff);
    }
    for first in (32..lines).step_by(16) {
        gic.write(DIST + 0xc00 + first / 4, 4, 0);
    }
    for first in (32..lines).step_by(4) {
        gic.write(DIST + 0x400 + first, 4, 0xc0c0_c0c0);
    }
    for first in (32..lines).step_by(32) {
        gic.write(DIST + 0x380 + first / 8, 4, 0xffff_ffff);
        gic.write(DIST + 0x180 + first / 8, 4, 0xffff_ffff);
    }
    settled(gic);
    gic.write(DIST, 4, 0x13);
    settled(gic);
    assert_eq!(gic.read(DIST, 4), 0x53, "one Security state, affinity routing, both groups");
    for intid in 32..lines {
        gic.write(DIST + 0x6000 + intid * 8, 8, 0);
    }
}

/// Finds the redistributor of a vCPU by its affinity, and sets it up.
fn redistributor(gic: &Gic, affinity: u64) {
    let mut vcpu = 0;
    loop {
        assert_eq!(gic.read(redist(vcpu) + 0xffe8, 4) & 0xf0, 0x30);
        let kind = gic.read(redist(vcpu) + 8, 8);
        if kind >> 32 == affinity {
            break;
        }
        assert_eq!(kind & 1 << 4, 0, "the last one");
        vcpu += 1;
    }
    let (rd, sgi) = (redist(vcpu), redist(vcpu) + SGI);
    gic.read(rd, 4);
    let waker = gic.read(rd + 0x14, 4);
    gic.write(rd + 0x14, 4, waker & !2);
    assert_eq!(gic.read(rd + 0x14, 4) & 4, 0, "its children are awake");
    gic.write(sgi + 0x80, 4, 0xffff_ffff);
    gic.write(sgi + 0x380, 4, 0xffff_ffff);
    gic.write(sgi + 0x180, 4, 0xffff_ffff);
    for word in 0..8 {
        gic.write(sgi + 0x400 + word * 4, 4, 0xc0c0_c0c0);
    }
    assert_eq!(gic.read(rd, 4) & 1 << 3, 0, "RWP");
    gic.write(sgi + 0x100, 4, 0xff);
    assert_eq!(gic.read(sgi + 0xc04, 4), 0, "PPIs are levels");
}

#[test]
fn linux_finds_its_interrupts() {
    let gic = Gic::new(2, IRQS);
    // The timer's line may be high long before its driver.
    gic.line(27, true);
    distributor(&gic);
    for vcpu in 0..2 {
        redistributor(&gic, vcpu.into());
        gic.sync(vcpu, &GicExit { vmcr: Some(OPEN), ..GicExit::default() });
        assert_eq!(gic.flush(vcpu, 4).lrs, [0; 16], "nothing before its driver is there");
        gic.sync(vcpu, &GicExit { vmcr: Some(OPEN), ..GicExit::default() });
        assert!(!gic.chip.pending(vcpu));
    }
    // Its driver comes: the timer, an SPI that goes to vCPU 1, a call of all others.
    gic.write(redist(0) + SGI + 0x100, 4, 1 << 27);
    assert_eq!(gic.flush(0, 4).lrs[0], 1 << 62 | 1 << 60 | 0xc0 << 48 | 1 << 41 | 27);
    gic.write(DIST + 0x6000 + 33 * 8, 8, 1);
    gic.write(DIST + 0x104, 4, 1 << 1);
    gic.line(33, true);
    gic.chip.write_register(0, GicRegister::Sgi1r, 1 << 40 | 1 << 24, &gic.woken);
    let lists = gic.flush(1, 4).lrs;
    assert_eq!(
        lists[..3],
        [1 << 62 | 1 << 60 | 0xc0 << 48 | 1, 1 << 62 | 1 << 60 | 0xc0 << 48 | 1 << 41 | 33, 0]
    );
}
