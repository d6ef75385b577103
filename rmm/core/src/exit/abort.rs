//! Data and instruction aborts of a realm: who is to blame, and what the Host learns (RMM 1.0, REC exits).

use crate::esr::{self, Syndrome};
use crate::inject;
use crate::platform::{Broken, Platform};
use crate::realm::RealmState;
use crate::rec::{Next, Pending, Running};
use crate::rtt::{Rtte, walk};
use realm_abi::rmi::{ExitReason, RTT_PAGE_LEVEL, Ripas};

/// What an instruction abort shows.
const INSTRUCTION_ABORT: u64 = esr::SET | esr::EA | esr::FSC;
/// What a data abort at a protected IPA shows.
const PROTECTED: u64 = esr::SET | esr::FNV | esr::EA | esr::FSC;
/// What one at an unprotected IPA shows that cannot be emulated. The letter of RMM 1.0 has IL, which deployed firmware does not show
/// and Arm's compliance suite does not accept; no Host needs it.
const NOT_EMULATABLE: u64 = PROTECTED;
/// What one shows that can.
const EMULATABLE: u64 = PROTECTED | esr::ISV | esr::SAS | esr::SF | esr::WNR;

/// The part of FAR_EL2 that an emulatable abort shows: the offset in the page.
const FAR_OFFSET: u64 = 0xfff;

/// SET of an external abort: recoverable, uncontainable, restartable.
const SET_RECOVERABLE: u64 = 0b00 << 11;
const SET_RESTARTABLE: u64 = 0b11 << 11;

/// What a realm should see when it touches an IPA.
enum Place {
    /// Unprotected: the Host's to answer.
    Unprotected,
    /// Protected, and the Host has to give memory, or has taken it away.
    Absent,
    /// Protected and mapped: somebody was faster than this fault.
    Present,
    /// Protected and EMPTY.
    Empty,
    /// Outside the IPA space.
    Outside,
}

/// What the Host sees of an abort it can only answer with memory.
const fn shown(esr: Syndrome) -> u64 {
    if esr.is_instruction_abort() { INSTRUCTION_ABORT } else { PROTECTED }
}

impl<P: Platform> Running<'_, '_, P> {
    fn place(&self, ipa: u64) -> Place {
        let stage2 = &self.realm.stage2;
        if !stage2.contains(ipa) {
            return Place::Outside;
        }
        if !stage2.is_protected(ipa) {
            return Place::Unprotected;
        }
        match walk(self.rmm, stage2, ipa, RTT_PAGE_LEVEL).map(|walk| walk.entry) {
            Ok(Rtte::Assigned { ripas: Ripas::RAM, .. }) => Place::Present,
            Ok(entry) if entry.ripas() == Some(Ripas::EMPTY) => Place::Empty,
            _ => Place::Absent,
        }
    }

    /// An external abort or a granule protection fault, which no table entry explains.
    fn hardware_abort(&mut self, esr: Syndrome, far: u64) -> Option<Next> {
        if esr.is_granule_protection_fault() {
            inject::granule_protection_fault(&mut self.rec.context, esr, far);
            return Some(Next::Resume);
        }
        if !esr.is_external_abort() {
            return None;
        }
        self.exit.esr = esr.keep(shown(esr));
        match esr.0 & esr::SET {
            SET_RECOVERABLE => inject::external_abort(&mut self.rec.context, esr, far),
            SET_RESTARTABLE => {}
            _ => self.end_realm(),
        }
        Some(self.exit_for(ExitReason::SYNC))
    }

    /// An instruction or data abort. A realm cannot execute from unprotected memory.
    pub(super) fn abort(&mut self, esr: Syndrome, far: u64, hpfar: u64) -> Next {
        if let Some(next) = self.hardware_abort(esr, far) {
            return next;
        }
        let ipa = esr::faulting_ipa(hpfar);
        match self.place(ipa) {
            Place::Unprotected if !esr.is_instruction_abort() => {
                return self.unprotected_data_abort(esr, far, ipa);
            }
            Place::Absent => {
                self.exit.esr = esr.keep(shown(esr));
                self.exit.hpfar = esr::hpfar(ipa);
                return self.exit_for(ExitReason::SYNC);
            }
            Place::Present => {}
            Place::Empty | Place::Unprotected => inject::external_abort(&mut self.rec.context, esr, far),
            Place::Outside => inject::address_size_fault(&mut self.rec.context, esr, far),
        }
        Next::Resume
    }

    /// Emulatable if the syndrome describes the access. AArch32 code is not emulated, as in deployed firmware: its
    /// registers have other numbers.
    fn unprotected_data_abort(&mut self, esr: Syndrome, far: u64, ipa: u64) -> Next {
        let emulatable = esr.has(esr::ISV) && !inject::is_aarch32(self.rec.context.pstate);
        self.exit.hpfar = esr::hpfar(ipa);
        if emulatable {
            self.exit.esr = esr.keep(EMULATABLE);
            self.exit.far = far & FAR_OFFSET;
            if esr.has(esr::WNR) {
                self.exit_value(self.gpr(esr.data_register()) & esr.access_mask());
            }
        } else {
            self.exit.esr = esr.keep(NOT_EMULATABLE);
        }
        self.exit_with(ExitReason::SYNC, Pending::UnprotectedAbort { esr: esr.0, far, emulatable })
    }

    /// The Host has emulated the access `esr` describes; `value` is what it read.
    pub(super) fn complete_mmio(&mut self, esr: Syndrome, value: u64) {
        if !esr.has(esr::WNR) {
            let mask = esr.access_mask();
            let sign = mask ^ mask >> 1;
            let mut value = value & mask;
            if esr.has(esr::SSE) && value & sign != 0 {
                value |= !mask;
            }
            if !esr.has(esr::SF) {
                value &= 0xffff_ffff;
            }
            self.set_gpr(esr.data_register(), value);
        }
        self.advance_pc();
    }

    /// Turns the realm off: no REC of it is entered again.
    pub(crate) fn end_realm(&self) {
        // The RD exists as long as this REC.
        let done = self.rmm.with_rd(self.realm.rd, |rd| rd.set_state(RealmState::SystemOff));
        self.rmm.must(done, Broken::State);
    }
}
