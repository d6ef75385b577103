//! Makes an access that EL3 refuses UNDEFINED in the world that made it.

use super::context::Context;
use super::cpu;
use super::sysreg::{self, read, write};
use realm_monitor::features::Features;
use realm_monitor::undefined::{Controls, State, Target, take};

/// Register that AArch32 calls LR_und.
const LR_UND: usize = 22;

/// Has `context`, whose registers are loaded, take the exception.
pub fn undefined(context: &mut Context) {
    let features = cpu::features();
    let gcs = features.contains(Features::GCS);
    let controls = Controls {
        hcr: read!("hcr_el2"),
        sctlr: [read!("sctlr_el1"), read!("sctlr_el2")],
        vbar: [read!("vbar_el1"), read!("vbar_el2")],
        gcscr: if gcs { [read!("S3_0_C2_C5_0"), read!("S3_4_C2_C5_0")] } else { [0; 2] },
    };
    let from = State { pc: context.elr, pstate: context.spsr };
    let exception = take(from, &controls, features);
    match exception.target {
        Target::El1 => {
            write!("elr_el1", exception.link);
            write!("spsr_el1", exception.saved);
            write!("esr_el1", exception.esr);
        }
        Target::El2 => {
            write!("elr_el2", exception.link);
            write!("spsr_el2", exception.saved);
            write!("esr_el2", exception.esr);
        }
        Target::Undefined32 => {
            context.gprs[LR_UND] = exception.link;
            // SPSR_und.
            write!("S3_4_C4_C3_2", exception.saved);
        }
    }
    sysreg::isb();
    context.elr = exception.next.pc;
    context.spsr = exception.next.pstate;
}
