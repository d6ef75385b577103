//! KVM_ARM_VCPU_INIT and KVM_ARM_VCPU_FINALIZE.

use super::{State, Vcpu};
use crate::realm::rec::{RecConfig, RecParts};
use crate::{Errno, Host, Lock};
use core::sync::atomic::Ordering;
use realm_abi::kvm::{MAX_VCPU_FEATURES, MpState, TARGET_GENERIC_V8, VcpuFeature, VcpuInit};

impl<H: Host> Vcpu<H> {
    /// The same features again reset the vCPU, as long as it is not yet a REC.
    #[inline(never)]
    pub(super) fn init(&self, state: &mut State<H>, init: &VcpuInit) -> Result<(), Errno> {
        if init.target != TARGET_GENERIC_V8 {
            return Err(Errno::EINVAL);
        }
        if init.has_beyond(MAX_VCPU_FEATURES) {
            return Err(Errno::ENOENT);
        }
        let features = self.vm.info.features;
        let offered = [
            (VcpuFeature::EL1_32BIT, false),
            (VcpuFeature::PMU_V3, features.pmu_en() != 0),
            (VcpuFeature::SVE, features.sve_en() != 0),
            // What a realm has of pointer authentication is the RMM's decision alone.
            (VcpuFeature::PTRAUTH_ADDRESS, false),
            (VcpuFeature::PTRAUTH_GENERIC, false),
            (VcpuFeature::HAS_EL2, false),
            (VcpuFeature::HAS_EL2_E2H0, false),
        ];
        if let Some((feature, _)) = offered.into_iter().find(|&(feature, there)| !there && init.has(feature))
        {
            self.vm.host().explain(format_args!("KVM_ARM_VCPU_INIT: a realm here cannot have {feature}"));
            return Err(Errno::EINVAL);
        }
        let common = without_power(init);
        let mut config = self.vm.config.lock_killable()?;
        let differs = |old: VcpuInit| old != common;
        if config.features.is_some_and(differs) || state.init.is_some_and(differs) {
            return Err(Errno::EINVAL);
        }
        if state.rec.is_none() {
            config.features = Some(common);
            state.init = Some(common);
            zerocopy::FromZeros::zero(&mut *state.registers);
            self.public.lock().sve.enabled = init.has(VcpuFeature::SVE);
        }
        drop(config);
        let off = init.has(VcpuFeature::POWER_OFF);
        self.set_power(if off { MpState::STOPPED } else { MpState::RUNNABLE });
        Ok(())
    }

    #[inline(never)]
    pub(super) fn finalize(&self, state: &mut State<H>, feature: i32) -> Result<(), Errno> {
        let init = state.init.ok_or(Errno::ENOEXEC)?;
        let rec = self.vm.device().generation().rec_feature();
        match u32::try_from(feature).map(VcpuFeature) {
            Ok(VcpuFeature::SVE) if init.has(VcpuFeature::SVE) => {
                let sve = &mut self.public.lock().sve;
                if core::mem::replace(&mut sve.finalized, true) {
                    return Err(Errno::EPERM);
                }
                Ok(())
            }
            Ok(feature) if feature == rec && init.has(rec) => self.finalize_rec(state, &init),
            _ => Err(Errno::EINVAL),
        }
    }

    #[inline(never)]
    fn finalize_rec(&self, state: &mut State<H>, init: &VcpuInit) -> Result<(), Errno> {
        const WHAT: &str = "KVM_ARM_VCPU_FINALIZE of a REC";
        self.vm.realm.for_rec_create().map_err(|error| self.vm.explain(WHAT, &error))?;
        if state.rec.is_some() {
            return Err(Errno::EBUSY);
        }
        if !init.has(VcpuFeature::PSCI_0_2) {
            return Err(Errno::EINVAL);
        }
        // Every vCPU has the VM's features, so the series' "the VM has a PMU but this vCPU has not" cannot be.
        let [x0, x1, x2, x3, x4, x5, x6, x7, ..] = state.registers.x;
        let rec = RecConfig {
            mpidr: self.mpidr(),
            pc: state.registers.pc,
            gprs: [x0, x1, x2, x3, x4, x5, x6, x7],
            // As in the series: only the first vCPU, whatever POWER_OFF says; the others wait for CPU_ON.
            runnable: self.id == 0,
        };
        let parts = RecParts::gather(&self.vm.realm).map_err(|error| self.vm.explain(WHAT, &error))?;
        // RECs are created one at a time, each of them measured or not as the realm's state says.
        let config = match self.vm.config.lock_killable() {
            Ok(config) => config,
            Err(errno) => {
                parts.scatter(self.vm.realm.rmm());
                return Err(errno);
            }
        };
        let rec = parts.create(&self.vm.realm, &rec).map_err(|error| self.vm.explain(WHAT, &error))?;
        self.rec_pa.store(rec.pa(), Ordering::SeqCst);
        drop(config);
        state.rec = Some(rec);
        Ok(())
    }
}

/// What all vCPUs of a VM have in common: power is each one's own.
fn without_power(init: &VcpuInit) -> VcpuInit {
    let mut common = *init;
    if let Some(word) = common.features.first_mut() {
        *word &= !(1 << VcpuFeature::POWER_OFF.0);
    }
    common
}
