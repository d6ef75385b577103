//! More interrupts at once than a CPU has list registers, and ends of interrupts that are in none.

use crate::gic;
use crate::interrupt::{self, SPURIOUS, count};
use crate::report::Run;
use crate::sysreg::{instruction, mrs, msr};
use crate::time;
use crate::vcpu;

/// SGIs: no CPU has more list registers (IHI 0069, ICH_VTR_EL2.ListRegs).
const SGIS: u64 = 16;
/// Interrupts that are active at once. Each has a priority of its own, and a CPU may have only 16 that preempt each other.
const NESTED: u64 = 12;
/// ICC_RPR_EL1 while no interrupt is handled.
const IDLE: u64 = 0xff;
/// ISR_EL1: an IRQ is pending.
const ISR_I: u64 = 1 << 7;
/// ICC_CTLR_EL1.EOImode.
const SPLIT: u64 = 1 << 1;

pub fn run(run: &Run) {
    run.state("many SGIs");
    let before: [u64; SGIS as usize] = core::array::from_fn(count);
    vcpu::mask();
    for sgi in 0..SGIS {
        interrupt::send(sgi, 1);
    }
    vcpu::unmask();
    let all = || (0..SGIS as usize).all(|sgi| count(sgi) == before[sgi] + 1);
    run.check("many", time::wait_for(all), format_args!("{before:?} {:?}", [0, 7, 15].map(count)));

    vcpu::mask();
    nested(run);
    split(run);
    vcpu::unmask();
    run.equal("once-each", (0..SGIS as usize).find(|sgi| count(*sgi) != before[*sgi] + 1), None);
}

/// The interrupt that is acknowledged, once there is one.
fn acknowledge(run: &Run) -> u64 {
    run.check("pending", time::wait_for(|| mrs!("isr_el1") & ISR_I != 0), format_args!("no interrupt"));
    mrs!("S3_0_C12_C12_0")
}

/// ICC_EOIR1_EL1.
fn end(sgi: u64) {
    msr!("S3_0_C12_C12_1", sgi);
    instruction!("isb");
}

/// Each SGI preempts the one before; they end the other way round.
fn nested(run: &Run) {
    run.state("nested SGIs");
    for sgi in 0..NESTED {
        gic::set_priority(sgi, 0xc0 - sgi * 0x10);
        interrupt::send(sgi, 1);
        run.equal("nested", acknowledge(run), sgi);
    }
    run.equal("nested-priority", mrs!("S3_0_C12_C11_3"), 0xc0 - (NESTED - 1) * 0x10);
    run.equal("nested-active", gic::active(), (1 << NESTED) - 1);
    for sgi in (0..NESTED).rev() {
        end(sgi);
        run.equal("nested-end", gic::active(), (1 << sgi) - 1);
    }
    run.equal("nested-idle", (mrs!("S3_0_C12_C11_3"), mrs!("S3_0_C12_C12_0")), (IDLE, SPURIOUS));
    for sgi in 0..NESTED {
        gic::set_priority(sgi, 0xa0);
    }
}

/// With split ends, an interrupt is active until its DIR.
fn split(run: &Run) {
    const SGI: u64 = 9;
    run.state("split ends");
    msr!("S3_0_C12_C12_4", SPLIT);
    instruction!("isb");
    for round in 0..2 {
        if round == 0 {
            interrupt::send(SGI, 1);
        }
        run.equal("split", acknowledge(run), SGI);
        end(SGI);
        run.equal("split-dropped", mrs!("S3_0_C12_C11_3"), IDLE);
        if round == 0 {
            interrupt::send(SGI, 1);
        }
        run.equal("split-active", (gic::active(), mrs!("isr_el1") & ISR_I), (1 << SGI, 0));
        // ICC_DIR_EL1.
        msr!("S3_0_C12_C11_1", SGI);
        instruction!("isb");
        run.equal("split-ended", gic::active(), 0);
    }
    run.equal("split-none", mrs!("S3_0_C12_C12_0"), SPURIOUS);
    msr!("S3_0_C12_C12_4", 0);
    instruction!("isb");
}
