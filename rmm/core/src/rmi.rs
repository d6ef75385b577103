//! Realm Management Interface 1.0: each command's conditions in the specification's order, then its effects
//! (RMM 1.0, RMI commands).

mod data;
mod granule;
mod psci_complete;
mod realm;
mod rec;
mod rtt;
#[cfg(test)]
pub(crate) mod tests;
mod version_features;

use crate::{Platform, Rmm};
use realm_abi::rmi::{ReturnCode, RmiCommand, RmiReply};
use realm_abi::smccc::SVE_HINT;

/// How a command ends. `Err` is a failure without outputs, which changed nothing; a failure with outputs (the `top` of
/// an `RMI_ERROR_RTT`) is an `Ok` with its code.
pub(crate) type Outcome = Result<RmiReply, ReturnCode>;

impl<P: Platform> Rmm<'_, P> {
    /// Serves one SMC of the Host: X0 to X7 in, X0 to X4 out. X1 to X3 that are no output are zero; X4 then is the caller's, as SMCCC
    /// has callees keep it.
    pub fn handle_rmi(&self, regs: &[u64; 8]) -> [u64; 5] {
        let mut regs = *regs;
        // The function identifier is W0; the hint that the caller has no SVE state to keep is not part of it.
        regs[0] &= 0xffff_ffff & !SVE_HINT;
        let command = RmiCommand::from_regs(&regs);
        let [x0, x1, x2, x3, x4] = self.run_command(command).to_regs();
        let [.., kept, _, _, _] = regs;
        [x0, x1, x2, x3, if command.outputs() < 4 { kept } else { x4 }]
    }

    /// Serves one command. A function of its own in profiles, which is what benchmarks count.
    #[inline(never)]
    pub fn run_command(&self, command: RmiCommand) -> RmiReply {
        let outcome = match command {
            RmiCommand::Version { req } => self.version(req),
            RmiCommand::Features { index } => self.features_read(index),
            RmiCommand::GranuleDelegate { addr } => self.granule_delegate(addr),
            RmiCommand::GranuleUndelegate { addr } => self.granule_undelegate(addr),
            RmiCommand::RealmCreate { rd, params_ptr } => self.realm_create(rd, params_ptr),
            RmiCommand::RealmActivate { rd } => self.realm_activate(rd),
            RmiCommand::RealmDestroy { rd } => self.realm_destroy(rd),
            RmiCommand::RecAuxCount { rd } => self.rec_aux_count(rd),
            RmiCommand::RecCreate { rd, rec, params_ptr } => self.rec_create(rd, rec, params_ptr),
            RmiCommand::RecDestroy { rec } => self.rec_destroy(rec),
            RmiCommand::RecEnter { rec, run_ptr } => self.rec_enter(rec, run_ptr),
            RmiCommand::PsciComplete { calling_rec, target_rec, status } => {
                self.psci_complete(calling_rec, target_rec, status)
            }
            RmiCommand::DataCreate { rd, data, ipa, src, flags } => {
                self.data_create(rd, data, ipa, src, flags)
            }
            RmiCommand::DataCreateUnknown { rd, data, ipa } => self.data_create_unknown(rd, data, ipa),
            RmiCommand::DataDestroy { rd, ipa } => self.data_destroy(rd, ipa),
            RmiCommand::RttCreate { rd, rtt, ipa, level } => self.rtt_create(rd, rtt, ipa, level),
            RmiCommand::RttDestroy { rd, ipa, level } => self.rtt_destroy(rd, ipa, level),
            RmiCommand::RttFold { rd, ipa, level } => self.rtt_fold(rd, ipa, level),
            RmiCommand::RttMapUnprotected { rd, ipa, level, desc } => {
                self.rtt_map_unprotected(rd, ipa, level, desc)
            }
            RmiCommand::RttUnmapUnprotected { rd, ipa, level } => self.rtt_unmap_unprotected(rd, ipa, level),
            RmiCommand::RttReadEntry { rd, ipa, level } => self.rtt_read_entry(rd, ipa, level),
            RmiCommand::RttInitRipas { rd, base, top } => self.rtt_init_ripas(rd, base, top),
            RmiCommand::RttSetRipas { rd, rec, base, top } => self.rtt_set_ripas(rd, rec, base, top),
            RmiCommand::Unknown { .. } => Err(ReturnCode::NOT_SUPPORTED),
        };
        outcome.unwrap_or_else(RmiReply::failed)
    }
}
