//! Anybody says anything.

use super::hardware::{self, Interface};
use super::{DIST, Gic, REDIST, SGI, redist};
use proptest::prelude::*;
use realm_host::irqchip::{GicExit, GicRegister, Irqchip};
use std::vec::Vec;

/// What an untrusted guest, an untrusted VMM and an RMM that went wrong can say.
#[derive(Clone, Copy, Debug)]
enum Noise {
    Write(u64, usize, u64),
    Read(u64, usize),
    Register(u32, usize, u64),
    Flush(u32, usize),
    Sync(u32, u64, u64, Option<u64>),
    Shared(u32, bool),
    Private(u32, u32, bool),
}

fn noise() -> impl Strategy<Value = Vec<Noise>> {
    let anywhere = || {
        // Registers with a meaning most of the time.
        let redists = (0..2_u32, 0..0x1000_u64).prop_map(|(vcpu, at)| redist(vcpu) + SGI + at);
        let frames = 0..0x5_0000_u64;
        prop_oneof![4 => DIST..DIST + 0x1000, 4 => redists, 1 => frames.prop_map(|at| REDIST + at), 1 => any::<u64>()]
    };
    let size = || prop_oneof![8 => prop::sample::select(&[1_usize, 4, 4, 8][..]), 1 => any::<usize>()];
    let one = prop_oneof![
        8 => (anywhere(), size(), any::<u64>()).prop_map(|(at, size, value)| Noise::Write(at, size, value)),
        2 => (anywhere(), size()).prop_map(|(at, size)| Noise::Read(at, size)),
        3 => (0..3_u32, 0..4_usize, any::<u64>()).prop_map(|(cpu, which, value)| Noise::Register(cpu, which, value)),
        3 => (0..3_u32, 0..20_usize).prop_map(|(cpu, lrs)| Noise::Flush(cpu, lrs)),
        3 => (0..3_u32, any::<u64>(), any::<u64>(), any::<Option<u64>>())
            .prop_map(|(cpu, hcr, seed, vmcr)| Noise::Sync(cpu, hcr, seed, vmcr)),
        3 => (0..1100_u32, any::<bool>()).prop_map(|(intid, level)| Noise::Shared(intid, level)),
        3 => (0..3_u32, 0..40_u32, any::<bool>()).prop_map(|(cpu, intid, level)| Noise::Private(cpu, intid, level)),
    ];
    prop::collection::vec(one, 1..200)
}

proptest! {
    /// Whatever anybody says, what goes into list registers is what the RMM accepts, and each interrupt is in one vCPU's.
    #[test]
    fn nobody_can_make_it_hand_out_what_the_rmm_refuses(
        noise in noise(), nr_irqs in prop::sample::select(&[32_u32, 64, 96, 1024][..])
    ) {
        let gic = Gic::new(2, nr_irqs);
        let mut given = [[0; 16]; 3];
        for one in noise {
            match one {
                Noise::Write(at, size, value) => {
                    gic.chip.mmio_write(0, at, size, value, &gic.woken);
                }
                Noise::Read(at, size) => {
                    let mask = if size < 8 { !(u64::MAX << (size * 8)) } else { u64::MAX };
                    let value = gic.chip.mmio_read(1, at, size).unwrap_or(0);
                    prop_assert_eq!(value & !mask, 0);
                }
                Noise::Register(cpu, which, value) => {
                    let registers = [GicRegister::Sgi1r, GicRegister::Sgi0r, GicRegister::Asgi1r, GicRegister::Dir];
                    gic.chip.write_register(cpu, registers[which], value, &gic.woken);
                }
                Noise::Flush(cpu, lrs) => {
                    let entry = gic.flush(cpu, lrs);
                    let interface = Interface { mask: 0, groups: [false; 2], splits_eoi: false };
                    hardware::Cpu::new(interface).enter(&entry, 16);
                    prop_assert!(entry.lrs.iter().skip(lrs).all(|lr| *lr == 0));
                    given[cpu as usize] = entry.lrs;
                    let mine = |lr: &&u64| **lr != 0 && **lr as u32 >= 32;
                    for lr in given[0].iter().filter(mine) {
                        let twice = given[1].iter().any(|other| *other as u32 == *lr as u32);
                        prop_assert!(!twice, "{} is in both", *lr as u32);
                    }
                }
                Noise::Sync(cpu, hcr, seed, vmcr) => {
                    let mut lrs = std::mem::take(&mut given[cpu as usize]);
                    // Some of them untouched, some changed at will.
                    for (n, lr) in lrs.iter_mut().enumerate().filter(|(n, _)| seed >> n & 1 != 0) {
                        *lr = (*lr ^ seed.rotate_left(n as u32 * 4)) & !(1 << 61);
                    }
                    gic.sync(cpu, &GicExit { hcr, lrs, misr: 0, vmcr });
                }
                Noise::Shared(intid, level) => {
                    let there = (32..nr_irqs.min(1020)).contains(&intid);
                    let done = gic.chip.set_shared(intid, level, &gic.woken);
                    prop_assert_eq!(done.is_ok(), there);
                }
                Noise::Private(cpu, intid, level) => {
                    let there = cpu < 2 && (16..32).contains(&intid);
                    let done = gic.chip.set_private(cpu, intid, level, &gic.woken);
                    prop_assert_eq!(done.is_ok(), there);
                }
            }
            for cpu in 0..2 {
                gic.chip.pending(cpu);
            }
        }
    }
}
