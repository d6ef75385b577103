//! The IPA of a realm's abort.

use crate::sysreg::{mrs, msr};
use crate::vectors::rmm_translate;

const EC_INSTRUCTION_ABORT: u64 = 0x20;
const EC_DATA_ABORT: u64 = 0x24;
/// The fault was on a stage 1 walk.
const S1PTW: u64 = 1 << 7;
/// Fault status codes of permission faults: these and the level.
const PERMISSION: u64 = 0x0c;
/// PAR_EL1: the translation failed.
const PAR_FAILED: u64 = 1;
/// PAR_EL1: the address, 52 bits of it with LPA2, without the offset in the page.
const PAR_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// HPFAR_EL2 of an exception with this ESR_EL2 and FAR_EL2, while the realm's registers are loaded.
///
/// The CPU leaves it unknown at a stage 2 permission fault that is not one of a stage 1 walk (Arm ARM, HPFAR_EL2): the realm's stage 1
/// then says which IPA is behind FAR_EL2. `None` if it does not do so any more.
pub fn hpfar(esr: u64, far: u64) -> Option<u64> {
    let is_abort = matches!(esr >> 26 & 0x3f, EC_INSTRUCTION_ABORT | EC_DATA_ABORT);
    if !is_abort || esr & 0x3c != PERMISSION || esr & S1PTW != 0 {
        return Some(mrs!("hpfar_el2"));
    }
    // These are the realm's, and an abort of the walk is an exception here.
    let (old_par, elr, spsr) = (mrs!("par_el1"), mrs!("elr_el2"), mrs!("spsr_el2"));
    // SAFETY: HCR_EL2 and the registers of stage 1 are still the realm's; what it changes is put back.
    let par = unsafe { rmm_translate(far) };
    msr!("par_el1", old_par);
    msr!("elr_el2", elr);
    msr!("spsr_el2", spsr);
    // FIPA has the bits from 12 on at bit 4.
    if par & PAR_FAILED != 0 { None } else { Some((par & PAR_ADDRESS) >> 8) }
}
