//! SGIs: who gets them.

use super::{Gic, OPEN, SGI, redist};
use realm_host::irqchip::{GicExit, GicRegister, Irqchip};
use std::vec::Vec;

/// A GIC of `vcpus` that have SGIs 1 and 2 enabled; 2 is in Group 0.
fn gic(vcpus: u32) -> Gic {
    let gic = Gic::awake(vcpus, 32);
    for vcpu in 0..vcpus {
        gic.write(redist(vcpu) + SGI + 0x100, 4, 0b110);
        gic.write(redist(vcpu) + SGI + 0x80, 4, !0b100 & 0xffff_ffff);
        gic.sync(vcpu, &GicExit { vmcr: Some(OPEN), ..GicExit::default() });
    }
    gic
}

/// Who has SGIs 1 and 2 pending after vCPU 0 wrote this.
fn reached(gic: &Gic, vcpus: u32, register: GicRegister, value: u64) -> Vec<u32> {
    gic.woken();
    gic.chip.write_register(0, register, value, &gic.woken);
    let who: Vec<u32> = (0..vcpus).filter(|vcpu| gic.read(redist(*vcpu) + SGI + 0x200, 4) != 0).collect();
    assert_eq!(gic.woken(), who.iter().copied().collect());
    for vcpu in &who {
        assert!(gic.chip.pending(*vcpu));
        gic.write(redist(*vcpu) + SGI + 0x280, 4, 0xffff_ffff);
    }
    who
}

#[test]
fn a_list_names_vcpus_of_one_cluster() {
    let gic = gic(40);
    let send = |value: u64| reached(&gic, 40, GicRegister::Sgi1r, 1 << 24 | value);
    assert_eq!(send(0b1001), [0, 3]);
    assert_eq!(send(1 << 16 | 0b11), [16, 17]);
    assert_eq!(send(2 << 16 | 0x8080), [39], "39 is the last there is");
    assert!(send(3 << 16 | 1).is_empty());
    assert!(send(1 << 32 | 1).is_empty(), "Aff2");
    assert!(send(1 << 48 | 1).is_empty(), "Aff3");
    assert!(send(1 << 44 | 1).is_empty(), "Aff0 is below 16");
}

#[test]
fn aff2_names_vcpus_from_4096_on() {
    let request = crate::sgi::Sgi::of_write(GicRegister::Sgi1r, 1 << 32 | 2 << 16 | 0b10).expect("an SGI");
    assert_eq!(request.targets().collect::<Vec<_>>(), [4096 + 33]);
}

#[test]
fn irm_names_all_others() {
    let gic = gic(4);
    assert_eq!(reached(&gic, 4, GicRegister::Sgi1r, 1 << 40 | 1 << 24 | 0xf), [1, 2, 3]);
}

#[test]
fn group_0_is_reached_by_its_register_and_either_group_by_that_of_group_1() {
    let gic = gic(1);
    let send = |register, sgi: u64| reached(&gic, 1, register, sgi << 24 | 1).len();
    assert_eq!((send(GicRegister::Sgi1r, 1), send(GicRegister::Sgi1r, 2)), (1, 1));
    assert_eq!((send(GicRegister::Sgi0r, 1), send(GicRegister::Sgi0r, 2)), (0, 1));
    assert_eq!((send(GicRegister::Asgi1r, 1), send(GicRegister::Asgi1r, 2)), (0, 1));
}

#[test]
fn one_that_is_not_enabled_wakes_nobody_and_waits() {
    let gic = gic(1);
    gic.woken();
    gic.chip.write_register(0, GicRegister::Sgi1r, 5 << 24 | 1, &gic.woken);
    assert!(gic.woken().is_empty() && !gic.chip.pending(0));
    assert_eq!(gic.flush(0, 4).lrs, [0; 16]);
    gic.back(&[]);
    gic.write(redist(0) + SGI + 0x100, 4, 1 << 5);
    assert!(gic.chip.pending(0));
}
