//! What the CPUs of this machine have.

use super::sysreg::read;
use realm_monitor::features::{Features, IdRegisters};
use spin::Once;

/// Of the boot CPU, and so of all that take part.
static FEATURES: Once<Features> = Once::new();

/// What the CPUs have.
///
/// # Panics
/// Before [`begin`].
pub fn features() -> Features {
    *FEATURES.get().expect("the first CPU begins with this")
}

/// What this CPU lacks, if the firmware cannot run on it.
pub fn lacks() -> Option<&'static str> {
    find().missing()
}

/// Notes what this CPU has, the first.
pub fn begin() {
    FEATURES.call_once(find);
}

/// Compares this CPU with the first; in what they differ.
pub fn join() -> Option<&'static str> {
    find().mismatch(features())
}

fn find() -> Features {
    let mut registers = IdRegisters {
        pfr0: read!("id_aa64pfr0_el1"),
        pfr1: read!("id_aa64pfr1_el1"),
        pfr2: read!("S3_0_C0_C4_2"),
        smfr0: read!("S3_0_C0_C4_5"),
        dfr0: read!("id_aa64dfr0_el1"),
        dfr1: read!("id_aa64dfr1_el1"),
        dfr2: read!("S3_0_C0_C5_2"),
        isar1: read!("id_aa64isar1_el1"),
        isar2: read!("S3_0_C0_C6_2"),
        mmfr0: read!("id_aa64mmfr0_el1"),
        mmfr1: read!("id_aa64mmfr1_el1"),
        mmfr2: read!("S3_0_C0_C7_2"),
        mmfr3: read!("S3_0_C0_C7_3"),
        mpamidr: 0,
    };
    if registers.features().contains(Features::MPAM) {
        registers.mpamidr = read!("S3_0_C10_C4_4");
    }
    registers.features()
}
