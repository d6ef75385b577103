//! Everything a vCPU has in registers, while the Host interrupts it again and again: nothing may change. The host runs it twice: with
//! each vCPU on a CPU of its own, and as `turns` with both on one.

use crate::device::{self, Command};
use crate::report::Run;
use crate::state::{self, Features};
use crate::sysreg::{mrs, msr};
use crate::vcpu::{self, Start};
use crate::{smc, time};
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::psci::{PsciCall, PsciStatus};

/// Rounds of each vCPU, and how long one is.
const ROUNDS: u64 = 300;
const ROUND_MICROS: u64 = 500;
/// Entries the Host cuts short at the most.
const PREEMPTIONS: u64 = 1_000_000;

/// What has changed in which round: the number of the check and the round, each plus one; zero for nothing.
static WRONG: AtomicU64 = AtomicU64::new(0);
static ROUNDS_DONE: AtomicU64 = AtomicU64::new(0);

pub fn run(run: &Run) {
    let features = Features::find();
    run.value("sve", u64::from(features.sve));
    run.value("pauth", u64::from(features.pauth));
    run.value("pmu", u64::from(features.pmu));
    let entry_point = vcpu::secondary_entry();
    let on = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point, context_id: 0 };
    run.equal("on", smc::psci(&on), PsciStatus::SUCCESS);
    run.state("computing");
    run.equal("preempt", device::control(Command::Preempt(PREEMPTIONS)), 0);
    let found = rounds(&features, 1);
    run.check("other", time::wait_for(|| ROUNDS_DONE.load(Ordering::Acquire) != 0), format_args!("not done"));
    for (check, other) in [("first", found), ("second", WRONG.load(Ordering::Acquire))] {
        let (what, round) = (other >> 32, other & 0xffff_ffff);
        let name = what.checked_sub(1).and_then(|n| CHECKS.get(n as usize)).map_or("?", |check| check.name);
        run.check(check, other == 0, format_args!("{name} changed in round {round}"));
    }
    run.equal("rounds", ROUNDS_DONE.load(Ordering::Acquire), ROUNDS);
    run.end();
}

pub fn secondary(_start: Start) -> ! {
    let found = rounds(&Features::find(), 2);
    WRONG.store(found, Ordering::Release);
    ROUNDS_DONE.store(ROUNDS, Ordering::Release);
    loop {
        core::hint::spin_loop();
    }
}

/// A kind of state: fills it from a seed, waits, and looks whether it is the same.
struct Check {
    name: &'static str,
    holds: fn(&Features, seed: u64, ticks: u64) -> bool,
}

const CHECKS: &[Check] = &[
    Check { name: "registers", holds: |_, seed, ticks| state::general_registers_stay(seed, ticks) },
    Check { name: "SIMD", holds: |_, seed, ticks| state::simd_stays(seed, ticks) },
    Check { name: "SVE", holds: |features, seed, ticks| !features.sve || state::sve_stays(seed, ticks) },
    Check {
        name: "pointer authentication",
        holds: |features, seed, ticks| !features.pauth || state::pauth_stays(seed, ticks),
    },
    Check {
        name: "performance monitors",
        holds: |features, seed, ticks| !features.pmu || state::pmu_stays(seed, ticks),
    },
    Check { name: "system registers", holds: |_, seed, ticks| system_registers_stay(seed, ticks) },
    Check { name: "SIMD beside system registers", holds: |_, seed, ticks| state::simd_stays(!seed, ticks) },
];

/// All rounds of a vCPU; what has changed, as in [`WRONG`].
fn rounds(features: &Features, vcpu: u64) -> u64 {
    let ticks = time::micros(ROUND_MICROS) / CHECKS.len() as u64;
    for round in 0..ROUNDS {
        for (check, n) in CHECKS.iter().zip(1..) {
            let seed = (vcpu << 56 | round << 32 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if !(check.holds)(features, seed, ticks) {
                return n << 32 | (round + 1);
            }
        }
    }
    0
}

/// Registers of EL1 and EL0 that hold what they are given.
fn system_registers_stay(seed: u64, ticks: u64) -> bool {
    macro_rules! stay {
        ($($name:literal $mask:literal)+) => {{
            let names = [$($name),+].len();
            let mut value = seed;
            let mut wanted = [0; 32];
            let mut slots = wanted[..names].iter_mut();
            $(
                value = value.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
                msr!($name, value & $mask);
                // What of it the register has, the first read tells.
                if let Some(slot) = slots.next() {
                    *slot = mrs!($name);
                }
            )+
            state::wait(ticks);
            let mut same = true;
            let mut slots = wanted.iter();
            $(same &= slots.next() == Some(&mrs!($name));)+
            same
        }};
    }
    vcpu::mask();
    let kept = stay!(
        "tpidr_el0" 0xffff_ffff_ffff_ffff
        "tpidrro_el0" 0xffff_ffff_ffff_ffff
        "tpidr_el1" 0xffff_ffff_ffff_ffff
        "contextidr_el1" 0xffff_ffff
        "sp_el0" 0xffff_ffff_ffff_fff0
        "elr_el1" 0xffff_ffff_fffc
        "spsr_el1" 0xf000_0000
        "esr_el1" 0xffff_ffff
        "far_el1" 0xffff_ffff_ffff_ffff
        "afsr0_el1" 0xffff_ffff
        "afsr1_el1" 0xffff_ffff
        "amair_el1" 0xffff_ffff
        "par_el1" 0xffff_ffff_f000
        "ttbr1_el1" 0xffff_ffff_f000
        "csselr_el1" 0x3
        "cntkctl_el1" 0x3
        "cntv_cval_el0" 0xffff_ffff_ffff_ffff
        "cntp_cval_el0" 0xffff_ffff_ffff_ffff
    );
    vcpu::unmask();
    kept
}
