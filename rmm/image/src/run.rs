//! One run of a realm on this CPU: its registers in, the Non-secure world's kept, until something traps.

mod el1;
mod fault;
pub mod forget;
mod gic;
mod pmu;
mod simd;

use simd::find_streaming_ffr;
pub use simd::with_vectors;

use crate::control::{
    CNTHCTL_CNTPMASK, CNTHCTL_CNTVMASK, CNTHCTL_REALM, HCR_REALM, HCR_RMM, HCR_TWE, HCR_TWI, HCR_VSE,
    HCRX_REALM, mdcr,
};
use crate::features::Optional;
use crate::simd::trap_all;
use crate::slots;
use crate::stop;
use crate::sysreg::{instruction, mrs, msr};
use crate::vectors::{self, rmm_enter};
use core::arch::global_asm;
use realm_rmm::cpu::{CpuContext, RealmExit, RunControls};

/// VTCR_EL2 as long as there is no realm.
const VTCR_RES1: u64 = 1 << 31;

global_asm!(
    // HFGRTR2_EL2, HFGWTR2_EL2, HFGITR2_EL2, HDFGRTR2_EL2, HDFGWTR2_EL2: enables of registers that are newer still (PMUACR_EL1,
    // PMICNTR_EL0, SPMU, MDSTEPOP_EL1, ERXGSR_EL1, RCWSMASK_EL1, ...). Where EL3 keeps them (SCR_EL3.FGTEn2 = 0) the first is
    // UNDEFINED, which the exception vector knows, and what they enable traps whatever is in them.
    ".global rmm_trap_later_registers",
    ".global rmm_trap_later_registers_fault",
    "rmm_trap_later_registers:",
    "    msr S3_4_C3_C1_2, xzr",
    "    msr S3_4_C3_C1_3, xzr",
    "    msr S3_4_C3_C1_7, xzr",
    "    msr S3_4_C3_C1_0, xzr",
    "    msr S3_4_C3_C1_1, xzr",
    "rmm_trap_later_registers_fault:",
    "    ret",
);

unsafe extern "C" {
    fn rmm_trap_later_registers();
}

/// EL2 registers that are the same for all realms, set when a CPU starts.
pub fn init() {
    let optional = crate::features::optional();
    find_streaming_ffr(&optional);
    trap_all();
    msr!("mdcr_el2", mdcr(None, optional.event_counters));
    msr!("hstr_el2", 0);
    msr!("cntvoff_el2", 0);
    if optional.counter_offset {
        msr!("S3_4_C14_C0_6", 0);
    }
    let midr = mrs!("midr_el1");
    msr!("vpidr_el2", midr);
    if optional.mpam {
        // MPAM2_EL2: TRAPMPAM0EL1, TRAPMPAM1EL1. Which partition its accesses are in is not a realm's to say.
        msr!("S3_4_C10_C5_0", 1 << 49 | 1 << 48);
    }
    if optional.hcrx {
        msr!("S3_4_C1_C2_2", HCRX_REALM);
    }
    if optional.fine_grained_traps {
        // HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR: what is there since before them is not trapped, and what came with them
        // or later is, as its bits are enables (PIR_EL1, POR_EL1, GCS, RCWMASK_EL1, TPIDR2_EL0, MAIR2_EL1, BRBE, ...).
        msr!("S3_4_C1_C1_4", 0);
        msr!("S3_4_C1_C1_5", 0);
        msr!("S3_4_C1_C1_6", 0);
        msr!("S3_4_C3_C1_4", 0);
        msr!("S3_4_C3_C1_5", 0);
    }
    if optional.fine_grained_traps_2 {
        // SAFETY: it changes these registers only; where EL3 keeps them the exception makes it return.
        unsafe { rmm_trap_later_registers() };
    }
    // VS: how much of a VMID is looked at, by invalidations too, which may come before the first realm runs here.
    msr!("vtcr_el2", VTCR_RES1 | u64::from(optional.vmid16) << 19);
    // A CPU that was off may know translations of realms that are gone.
    instruction!("isb\ntlbi alle1\ndsb nsh");
    // SRE, DFB, DIB, Enable.
    msr!("icc_sre_el2", 0xf);
    msr!("ich_hcr_el2", 0);
    instruction!("isb");
}

/// See [`realm_rmm::Platform::run_realm`].
pub fn run(optional: &Optional, context: &mut CpuContext, controls: &RunControls, simd: &[u64]) -> RealmExit {
    let host = el1::El1::save(optional);
    // The Host's counters would tell it what the realm does, be it that all they are to count is EL1.
    let host_pmu = controls.pmu_counters.map(|_| pmu::save(optional));
    let host_counting = (optional.pmu && host_pmu.is_none()).then(pmu::stop);
    slots::area().realm_loaded.set(1);
    load(optional, context, controls);
    instruction!("isb");

    let mut simd = simd::Lazy::new(optional, controls, simd);
    let exit = loop {
        slots::release();
        if stop::is_stopped() {
            stop::refuse()
        }
        // SAFETY: the context holds X0 to X30; the registers are the realm's, and everything it does to this CPU is behind
        // its stage 2, which the RMM's core has made.
        let vector = unsafe { rmm_enter(context.gprs.as_mut_ptr()) };
        // Where the realm goes on again, nothing else changed: ELR_EL2 and SPSR_EL2 are still its.
        if vector != vectors::SYNC {
            break vector_exit(vector);
        }
        let esr = mrs!("esr_el2");
        if simd.load_for(esr) {
            continue;
        }
        let far = mrs!("far_el2");
        // Without an IPA: the realm changed its tables since. Its instruction, tried again, finds what they are now.
        if let Some(hpfar) = fault::hpfar(esr, far) {
            break RealmExit::Sync { esr, far, hpfar };
        }
    };
    simd.finish();
    store(optional, context, controls);
    if let Some(host) = &host_pmu {
        pmu::load(optional, host);
    }
    if let Some(enabled) = host_counting {
        pmu::go_on(enabled);
    }
    host.restore(optional);
    instruction!("isb");
    slots::area().realm_loaded.set(0);
    exit
}

fn vector_exit(vector: u64) -> RealmExit {
    match vector {
        vectors::IRQ => RealmExit::Irq,
        vectors::FIQ => RealmExit::Fiq,
        _ => RealmExit::SError { esr: mrs!("esr_el2") },
    }
}

fn load(optional: &Optional, context: &CpuContext, controls: &RunControls) {
    let mut hcr = HCR_REALM;
    for (wanted, bit) in [(controls.trap_wfi, HCR_TWI), (controls.trap_wfe, HCR_TWE)] {
        hcr |= if wanted { bit } else { 0 };
    }
    if context.vse != 0 {
        hcr |= HCR_VSE;
        if optional.ras {
            msr!("S3_4_C5_C2_3", context.vsesr);
        }
    }
    let mut cnthctl = CNTHCTL_REALM;
    for (wanted, bit) in [(controls.mask_vtimer, CNTHCTL_CNTVMASK), (controls.mask_ptimer, CNTHCTL_CNTPMASK)]
    {
        cnthctl |= if wanted { bit } else { 0 };
    }
    msr!("cnthctl_el2", cnthctl);
    msr!("vttbr_el2", controls.vttbr);
    msr!("vtcr_el2", controls.vtcr);
    msr!("vmpidr_el2", controls.vmpidr);
    el1::load(optional, &context.el1);
    el1::load_timers(&context.timers);
    if optional.pauth {
        el1::load_keys(&context.pauth_keys);
    }
    gic::load(optional, &context.gic);
    if controls.pmu_counters.is_some() {
        pmu::load(optional, &context.pmu);
        msr!("mdcr_el2", mdcr(controls.pmu_counters, optional.event_counters));
    }
    msr!("elr_el2", context.pc);
    msr!("spsr_el2", context.pstate);
    msr!("hcr_el2", hcr);
}

fn store(optional: &Optional, context: &mut CpuContext, controls: &RunControls) {
    // The CPU clears VSE when the realm takes the SError.
    context.vse = u64::from(mrs!("hcr_el2") & HCR_VSE != 0);
    msr!("hcr_el2", HCR_RMM);
    instruction!("isb");
    context.pc = mrs!("elr_el2");
    context.pstate = mrs!("spsr_el2");
    el1::store(optional, &mut context.el1);
    el1::store_timers(&mut context.timers);
    if optional.pauth {
        el1::store_keys(&mut context.pauth_keys);
    }
    gic::store(optional, &mut context.gic);
    if controls.pmu_counters.is_some() {
        context.pmu = pmu::save(optional);
        msr!("mdcr_el2", mdcr(None, optional.event_counters));
    }
}
