//! Every PSCI function the RMM has, and those it has not.

use crate::interrupt::{self, ENABLE, VIRTUAL_TIMER};
use crate::report::{self, Run};
use crate::sysreg::{mrs, msr};
use crate::vcpu::{self, Start};
use crate::{memory, smc, time};
use core::sync::atomic::{AtomicU64, Ordering};
use realm_abi::psci::fid;

const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const INVALID_ADDRESS: i64 = -9;

/// How often the second vCPU has started, with what, and whether it may go off.
static STARTS: AtomicU64 = AtomicU64::new(0);
static CONTEXT: AtomicU64 = AtomicU64::new(0);
static OTHERS: AtomicU64 = AtomicU64::new(0);
static MPIDR: AtomicU64 = AtomicU64::new(0);
static MAY_GO: AtomicU64 = AtomicU64::new(0);

/// A call; whether X0 is `status`, X1 to X3 are zero and all others are as they were.
fn exact(run: &Run, check: &str, arguments: [u64; 4], status: i64) {
    let mut registers: smc::Registers = core::array::from_fn(|n| 0x1111_0000_0000_0000 + n as u64);
    registers[..4].copy_from_slice(&arguments);
    let mut expected = registers;
    expected[..4].copy_from_slice(&[status.cast_unsigned(), 0, 0, 0]);
    smc::raw(&mut registers);
    let wrong = registers.iter().zip(&expected).position(|(found, wanted)| found != wanted);
    let found = registers[wrong.unwrap_or(0)];
    run.check(
        check,
        wrong.is_none(),
        format_args!("X{} is {found:#x}; X0 is {:#x}", wrong.unwrap_or(0), registers[0]),
    );
}

pub fn run(run: &Run) {
    run.state("what there is");
    exact(run, "version", [fid::VERSION, 0, 0, 0], 0x1_0001);
    for function in [
        fid::VERSION,
        fid::CPU_SUSPEND_32,
        fid::CPU_SUSPEND_64,
        fid::CPU_OFF,
        fid::CPU_ON_32,
        fid::CPU_ON_64,
        fid::AFFINITY_INFO_32,
        fid::AFFINITY_INFO_64,
        fid::SYSTEM_OFF,
        fid::SYSTEM_RESET,
        fid::FEATURES,
        0x8000_0000,
    ] {
        exact(run, "features", [fid::FEATURES, function, 0, 0], 0);
    }
    // SMC64 forms that are none, MIGRATE and its like, CPU_FREEZE, SYSTEM_SUSPEND, RESET2, MEM_PROTECT, CLEAN_INV_MEMREGION.
    const NONE: [u64; 12] = [
        0xC400_0000,
        0xC400_0002,
        0xC400_0008,
        0x8400_0005,
        0xC400_0005,
        0x8400_0006,
        0x8400_000B,
        0xC400_000E,
        0xC400_0012,
        0x8400_0013,
        0x8400_001F,
        0xC400_001F,
    ];
    for function in NONE {
        exact(run, "features-none", [fid::FEATURES, function, 0, 0], NOT_SUPPORTED);
        exact(run, "none", [function, 0, 0, 0], NOT_SUPPORTED);
    }
    exact(run, "features-smccc", [fid::FEATURES, 0x8000_0001, 0, 0], NOT_SUPPORTED);
    exact(run, "features-rsi", [fid::FEATURES, 0xC400_0190, 0, 0], NOT_SUPPORTED);

    run.state("who is on");
    for info in [fid::AFFINITY_INFO_32, fid::AFFINITY_INFO_64] {
        exact(run, "self-on", [info, 0, 0, 0], 0);
        exact(run, "other-off", [info, 1, 0, 0], 1);
        for target in [2, 15, 0x10, 0x100, 1 << 16, 1 << 24, 1 << 31] {
            exact(run, "info-nobody", [info, target, 0, 0], INVALID_PARAMETERS);
        }
        for level in [1, 2, 3, 4, 0xffff_ffff] {
            exact(run, "info-level", [info, 0, level, 0], INVALID_PARAMETERS);
        }
    }
    exact(run, "info-aff3", [fid::AFFINITY_INFO_64, 1 << 32, 0, 0], INVALID_PARAMETERS);

    run.state("turning on");
    let entry = vcpu::secondary_entry();
    let alias = memory::alias();
    for address in [alias, alias | entry, 2 * alias, 1 << 63, u64::MAX] {
        exact(run, "on-address", [fid::CPU_ON_64, 1, address, 0], INVALID_ADDRESS);
    }
    for on in [fid::CPU_ON_32, fid::CPU_ON_64] {
        exact(run, "on-self", [on, 0, entry, 0], ALREADY_ON);
        for target in [2, 0x10, 0x100, 1 << 16, 1 << 31] {
            exact(run, "on-nobody", [on, target, entry, 0], INVALID_PARAMETERS);
        }
    }
    for (life, (on, info)) in [
        (fid::CPU_ON_64, fid::AFFINITY_INFO_64),
        (fid::CPU_ON_32, fid::AFFINITY_INFO_32),
        (fid::CPU_ON_64, fid::AFFINITY_INFO_32),
    ]
    .into_iter()
    .enumerate()
    {
        let life = life as u64 + 1;
        // All of X3 is the context, of the 32-bit form half.
        let context = if on == fid::CPU_ON_64 { 0xfeed_0000_0000_0000 + life } else { 0xfeed_0000 + life };
        exact(run, "on", [on, 1, entry, context], 0);
        run.check("on-runs", time::wait_for(|| STARTS.load(Ordering::Acquire) == life), format_args!("not"));
        run.equal("on-context", CONTEXT.load(Ordering::Relaxed), context);
        run.equal("on-others-zero", OTHERS.load(Ordering::Relaxed), 0);
        run.equal("on-mpidr", MPIDR.load(Ordering::Relaxed), 0x8000_0001);
        exact(run, "on-again", [on, 1, entry, 0], ALREADY_ON);
        exact(run, "other-on", [info, 1, 0, 0], 0);
        MAY_GO.store(life, Ordering::Release);
        let off = time::wait_for(|| smc::call(&[info, 1, 0, 0])[0] == 1);
        run.check("off", off, format_args!("still on"));
    }

    run.state("suspending");
    interrupt::init();
    for (nap, suspend) in [fid::CPU_SUSPEND_32, fid::CPU_SUSPEND_64].into_iter().enumerate() {
        let nap = nap as u64 + 1;
        let until = time::now() + time::micros(2000);
        msr!("cntv_cval_el0", until);
        msr!("cntv_ctl_el0", ENABLE);
        // It may come back at any time, like a WFI; that the Host sleeps meanwhile is seen in machine/tests.
        while interrupt::count(VIRTUAL_TIMER) < nap {
            // With interrupts masked none can come between this look and the call.
            vcpu::mask();
            if interrupt::count(VIRTUAL_TIMER) < nap {
                exact(run, "suspend", [suspend, 1 << 16, entry, 7], 0);
            }
            vcpu::unmask();
        }
        run.check("suspend-late-enough", time::now() >= until, format_args!("woken too early"));
    }
    run.end();
}

pub fn secondary(start: Start) -> ! {
    CONTEXT.store(start.context, Ordering::Relaxed);
    OTHERS.store(start.others, Ordering::Relaxed);
    MPIDR.store(mrs!("mpidr_el1"), Ordering::Relaxed);
    let life = STARTS.fetch_add(1, Ordering::Release) + 1;
    if !time::wait_for(|| MAY_GO.load(Ordering::Acquire) == life) {
        report::fail(format_args!("the first vCPU says nothing"));
    }
    let back = smc::call(&[fid::CPU_OFF]);
    report::fail(format_args!("CPU_OFF came back with {:#x}", back[0]));
}
