//! RMI_REALM_CREATE, RMI_REALM_ACTIVATE and RMI_REALM_DESTROY.

use super::Outcome;
use crate::granule::{GranuleGuard, GranuleState, LockError};
use crate::measurement::initial_rim;
use crate::platform::{Broken, TlbScope};
use crate::realm::{RealmDescriptor, RealmState};
use crate::rtt::{Rtte, Stage2, Table, entry_number};
use crate::{Platform, Rmm};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{HashAlgorithm, RTT_ENTRIES, RealmFlags, RealmParams, ReturnCode, RmiReply};
use zerocopy::FromZeros;

/// Smallest IPA width.
const MIN_IPA_WIDTH: u8 = 32;
/// Most starting-level tables.
const MAX_ROOTS: usize = 16;
/// Physical address bits without which walks cannot start at level 0.
const LEVEL_0_PA_BITS: u8 = 44;

/// The starting-level tables of a realm, all locked.
type Roots<'a> = [Option<GranuleGuard<'a>>; MAX_ROOTS];

impl<'a, P: Platform> Rmm<'a, P> {
    /// RMI_REALM_CREATE.
    pub(super) fn realm_create(&self, rd: u64, params_ptr: u64) -> Outcome {
        // params_align, params_bound, params_pas
        let mut params = RealmParams::new_zeroed();
        self.copy_from_ns(params_ptr, &mut params)?;
        self.check_params(&params)?;
        let mut content = RealmDescriptor::new(&params, [0; 64]);
        let stage2 = content.stage2();
        // rtt_align; the table count is a power of two. Without LPA2 the MMU would walk other tables than those above
        // 48 bits, which the specification says of all tables but these (rtt_bound2).
        let size = stage2.num_start.saturating_mul(GRANULE_SIZE);
        if !stage2.base.is_multiple_of(size) || stage2.base >= stage2.pa_top() {
            return Err(ReturnCode::ERROR_INPUT);
        }
        // alias
        if rd.wrapping_sub(stage2.base) < size {
            return Err(ReturnCode::ERROR_INPUT);
        }
        // rd_align, rd_bound, rd_state, rtt_state
        let lock_rd = || self.granules.lock(rd, GranuleState::Delegated);
        let lock_roots = || self.lock_roots(&stage2, GranuleState::Delegated);
        let (mut rd, roots) = if rd < stage2.base {
            let rd = lock_rd()?;
            (rd, lock_roots()?)
        } else {
            let roots = lock_roots()?;
            (lock_rd()?, roots)
        };
        // vmid_valid; from here on nothing fails.
        if !self.vmids.take(stage2.vmid) {
            return Err(ReturnCode::ERROR_INPUT);
        }

        let [rim, ..] = &mut content.measurements;
        *rim = initial_rim(&self.platform, &params);
        rd.set_state(GranuleState::Rd);
        rd.with(&self.platform, |rd: &mut RealmDescriptor| *rd = content);
        let mut unprotected = entry_number(stage2.protected_top(), stage2.level_start);
        for root in roots.into_iter().flatten() {
            let mut table = Table { guard: root, level: stage2.level_start, lpa2: stage2.lpa2 };
            table.guard.set_state(GranuleState::Rtt);
            // All zeros is UNASSIGNED, EMPTY: what protected entries are to be.
            let start = usize::try_from(unprotected).unwrap_or(RTT_ENTRIES);
            let descriptor = Rtte::UnassignedNs.encode(table.level, table.lpa2);
            table.with(&self.platform, |words| words.fill(start, descriptor, 0));
            unprotected = unprotected.saturating_sub(RTT_ENTRIES as u64);
        }
        Ok(RmiReply::SUCCESS)
    }

    /// `params_valid`, `params_supp` and `rtt_num_level` of REALM_CREATE. Reserved flag bits are ignored ("should be
    /// zero"), but measured.
    fn check_params(&self, params: &RealmParams) -> Result<(), ReturnCode> {
        let features = self.features;
        let flags = RealmFlags::from_bits_retain(params.flags);
        let lpa2 = flags.contains(RealmFlags::LPA2);
        let known_hash = matches!(params.hash_algo, HashAlgorithm::SHA_256 | HashAlgorithm::SHA_512);
        let sve_fits = features.sve_en() != 0 && u64::from(params.sve_vl) <= features.sve_vl();
        let pmu_fits = features.pmu_en() != 0
            && u64::from(params.pmu_num_ctrs) <= features.pmu_num_ctrs()
            && (params.pmu_num_ctrs != 0 || self.cpu.hpmn0);
        let tables = Stage2::tables_at_start(params.s2sz, params.rtt_level_start, lpa2)
            .filter(|_| params.rtt_level_start > 0 || self.cpu.pa_bits >= LEVEL_0_PA_BITS);

        let valid = known_hash && params.num_bps != 0 && params.num_wps != 0;
        let supported = features.supports_hash(params.hash_algo)
            && (!lpa2 || features.lpa2() != 0)
            && params.s2sz >= MIN_IPA_WIDTH
            && u64::from(params.s2sz) <= features.s2sz()
            && u64::from(params.num_bps) <= features.num_bps()
            && u64::from(params.num_wps) <= features.num_wps()
            && (!flags.contains(RealmFlags::SVE) || sve_fits)
            && (!flags.contains(RealmFlags::PMU) || pmu_fits);
        let consistent = tables == Some(params.rtt_num_start.into());
        if valid && supported && consistent { Ok(()) } else { Err(ReturnCode::ERROR_INPUT) }
    }

    /// Locks the starting-level tables, ascending.
    fn lock_roots(&self, stage2: &Stage2, state: GranuleState) -> Result<Roots<'a>, LockError> {
        let mut roots = [const { None }; MAX_ROOTS];
        for (index, slot) in (0..stage2.num_start).zip(&mut roots) {
            *slot = Some(self.granules.lock(stage2.root(index), state)?);
        }
        Ok(roots)
    }

    /// RMI_REALM_ACTIVATE.
    pub(super) fn realm_activate(&self, rd: u64) -> Outcome {
        let mut rd = self.granules.lock(rd, GranuleState::Rd)?;
        rd.with(&self.platform, |rd: &mut RealmDescriptor| {
            if rd.state() != RealmState::New {
                return Err(ReturnCode::ERROR_REALM);
            }
            rd.set_state(RealmState::Active);
            Ok(RmiReply::SUCCESS)
        })
    }

    /// RMI_REALM_DESTROY.
    pub(super) fn realm_destroy(&self, rd: u64) -> Outcome {
        let (rd, stage2) = self.lock_stage2(rd)?;
        let roots = self.lock_roots(&stage2, GranuleState::Rtt)?;
        // realm_live
        if rd.refcount() != 0 || roots.iter().flatten().any(|root| root.refcount() != 0) {
            return Err(ReturnCode::ERROR_REALM);
        }
        // Unprotected mappings in a starting-level table do not make it live, so a TLB may still hold some.
        self.platform.tlb_invalidate(stage2.vmid, TlbScope::All);
        for root in roots.into_iter().flatten() {
            root.release(&self.platform);
        }
        rd.release(&self.platform);
        if !self.vmids.give_back(stage2.vmid) {
            self.platform.stop(Broken::Vmid);
        }
        Ok(RmiReply::SUCCESS)
    }
}
