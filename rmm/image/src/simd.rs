//! Whether EL2 may use SIMD and SVE, and how large the room for their registers is.

use crate::control::{CPTR_FPEN, CPTR_SMEN, CPTR_TRAPS, CPTR_ZEN};
use crate::sysreg::{instruction, msr};
use core::cell::UnsafeCell;

/// Bytes before the registers of an area: FPSR, FPCR, ZCR_EL1.
pub const HEAD: usize = 64;
/// The longest vector in quadwords.
pub const LONGEST: usize = 16;

/// Bytes of the registers with this vector length (in quadwords, minus one).
pub fn area_size(sve_vl: Option<u8>) -> usize {
    // Z0 to Z31; P0 to P15 and FFR, an eighth as long.
    let quadwords = sve_vl.map_or(1, |vl| usize::from(vl) + 1);
    HEAD + quadwords * (32 * 16 + 17 * 2)
}

/// Room for the registers with any vector length.
#[repr(C, align(64))]
pub struct SimdArea(UnsafeCell<[u8; HEAD + LONGEST * (32 * 16 + 17 * 2)]>);

impl SimdArea {
    pub const fn address(&self) -> *mut u8 {
        self.0.get().cast()
    }
}

/// Makes every use of SIMD trap, the RMM's own too; only whether there is a streaming mode can be asked.
pub fn trap_all() {
    msr!("cptr_el2", CPTR_TRAPS | CPTR_SMEN);
    instruction!("isb");
}

/// Runs `f` with SIMD, and SVE if there is any, usable at EL2. `f` has to keep what is in the registers.
pub fn with_simd<R>(sve: bool, f: impl FnOnce() -> R) -> R {
    allow(sve);
    let result = f();
    trap_all();
    result
}

/// Makes SIMD, and SVE if there is any, usable at EL2.
pub fn allow(sve: bool) {
    msr!("cptr_el2", CPTR_TRAPS | CPTR_SMEN | CPTR_FPEN | if sve { CPTR_ZEN } else { 0 });
    instruction!("isb");
}
