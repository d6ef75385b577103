//! The machine as the RMM sees it.

use crate::hardware::Hardware;
use crate::hardware::clock::HOST_TICK;
use crate::hardware::memory::report;
use crate::hardware::mmu::Mmu;
use crate::hardware::realm_cpu::RealmCpu;
use crate::hardware::{el3, sysregs};
use crate::pas::Pas;
use crate::probe::log::Event;
use crate::realm::program::ProgramKey;
use realm_abi::GRANULE_SIZE;
use realm_rmm::Platform;
use realm_rmm::cpu::{CpuContext, RealmExit, RunControls};
use realm_rmm::granule::{Exclusive, Granule};
use realm_rmm::platform::{Broken, CpuFeatures, El3Error, NsFault, SysReg, TlbScope};
use std::sync::Arc;

/// Affinity fields of MPIDR_EL1.
const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// [`Platform`] over the hardware of a machine.
pub struct MachinePlatform(pub(crate) Arc<Hardware>);

impl Platform for MachinePlatform {
    fn with_granule<E: Exclusive, R>(&self, granule: &mut E, f: impl FnOnce(&mut Granule) -> R) -> R {
        let mut f = Some(f);
        let mut run = |content: &mut Granule| f.take().map(|f| f(content));
        let result = self.0.memory.with(Pas::Realm, Pas::Realm, granule.pa(), &mut run);
        match report(&self.0.log, result).flatten() {
            Some(value) => value,
            // The fault is in the log; the RMM goes on with a granule that nobody keeps.
            None => match run(&mut Granule::zeroed()) {
                Some(value) => value,
                None => unreachable!("a faulting access does not run"),
            },
        }
    }

    fn read_data<E: Exclusive>(&self, data: &mut E, offset: usize, out: &mut [u8]) {
        let result = self.0.memory.read(Pas::Realm, Pas::Realm, data.pa() + offset as u64, out);
        report(&self.0.log, result);
    }

    fn write_data<E: Exclusive>(&self, data: &mut E, offset: usize, bytes: &[u8]) {
        let result = self.0.memory.write(Pas::Realm, Pas::Realm, data.pa() + offset as u64, bytes);
        report(&self.0.log, result);
    }

    fn read_ns(&self, pa: u64, out: &mut [u8]) -> Result<(), NsFault> {
        self.check_ns_range("read", pa, out.len());
        // A fault here is the Host's doing, which the RMM has to cope with: it does not go into the log.
        self.0.memory.read(Pas::Realm, Pas::NonSecure, pa, out).map_err(|_| NsFault)
    }

    fn write_ns(&self, pa: u64, bytes: &[u8]) -> Result<(), NsFault> {
        self.check_ns_range("write", pa, bytes.len());
        self.0.memory.write(Pas::Realm, Pas::NonSecure, pa, bytes).map_err(|_| NsFault)?;
        self.0.trace.ns_write(pa, bytes);
        Ok(())
    }

    fn gtsi_delegate(&self, pa: u64) -> Result<(), El3Error> {
        self.0.el3.delegate(&self.0.memory, &self.0.faults, pa).map_err(El3Error)
    }

    fn gtsi_undelegate(&self, pa: u64) -> Result<(), El3Error> {
        self.0.el3.undelegate(&self.0.memory, &self.0.faults, pa).map_err(El3Error)?;
        if self.0.trace.is_full() {
            let mut content = [0; GRANULE_SIZE as usize];
            let result = self.0.memory.read(Pas::Root, Pas::NonSecure, pa, &mut content);
            report(&self.0.log, result);
            self.0.trace.returned(pa, &content);
        }
        Ok(())
    }

    fn realm_attestation_key(&self, key: &mut [u8; 48]) -> Result<(), El3Error> {
        *key = el3::keys::REALM_ATTESTATION_KEY;
        Ok(())
    }

    fn platform_token(&self, challenge: &[u8], out: &mut [u8]) -> Result<usize, El3Error> {
        self.0.el3.platform_token(challenge, out).map_err(El3Error)
    }

    fn features(&self) -> CpuFeatures {
        self.0.config.features
    }

    fn id_register(&self, reg: SysReg) -> u64 {
        sysregs::id_register(&self.0.config.features, reg)
    }

    fn counter(&self) -> u64 {
        self.0.clock.now()
    }

    fn interrupt_pending(&self) -> bool {
        self.0.cpus.current().is_some_and(|cpu| self.0.cpus.pending(cpu))
    }

    fn tlb_invalidate(&self, vmid: u16, scope: TlbScope) {
        self.0.tlb.invalidate(vmid, scope);
    }

    fn cpu(&self) -> usize {
        // A thread that is on no CPU is on one nobody knows.
        self.0.cpus.current().unwrap_or(usize::MAX)
    }

    fn forget_virtual_cpu(&self, vmid: u16) {
        if let Some(cpu) = self.0.cpus.current() {
            self.0.tlb.vmid(vmid).forget_virtual_cpu(cpu);
        }
    }

    fn stop(&self, why: Broken) -> ! {
        self.0.log.push(Event::MachineCheck(format!("the RMM stops: {why:?}")));
        panic!("the RMM stops: {why:?}")
    }

    fn wait_for_lock() {
        std::thread::yield_now();
    }

    fn simd_aux_granules(&self) -> usize {
        // Z0 to Z31, P0 to P15 and FFR of the longest vector; 32 registers of 16 bytes without SVE.
        let quadwords = usize::from(self.0.config.features.sve_vl.unwrap_or(0)) + 1;
        (quadwords * (32 * 16 + 17 * 2) + 64).div_ceil(GRANULE_SIZE as usize)
    }

    fn run_realm(&self, context: &mut CpuContext, controls: &RunControls, simd: &[u64]) -> RealmExit {
        let hardware = &*self.0;
        let Some(cpu) = hardware.cpus.current() else {
            hardware.log.push(Event::RecMixup("a REC runs on a thread that is on no CPU".to_owned()));
            return RealmExit::Irq;
        };
        let registers = (controls.vttbr, controls.vtcr);
        let tlb = |vmid| hardware.tlb.vmid(vmid);
        let pa_bits = hardware.config.features.pa_bits;
        let Some(mmu) = Mmu::new(&hardware.memory, &hardware.log, tlb, pa_bits, registers) else {
            return RealmExit::SError { esr: 0 };
        };
        let key = ProgramKey { vmid: mmu.vmid(), mpidr: controls.vmpidr & MPIDR_AFFINITY };
        if let Some(other) = hardware.tlb.vmid(mmu.vmid()).runs(cpu, key.mpidr) {
            hardware.log.push(Event::MachineCheck(format!(
                "CPU {cpu} runs virtual CPU {:#x} of VMID {} with stage 1 translations of {other:#x}",
                key.mpidr, key.vmid
            )));
        }
        let (id, mut instance) = hardware.programs.take(context, key, &hardware.log);
        let tick = hardware.clock.now() + HOST_TICK;
        let exit = RealmCpu { hardware, cpu, context, controls, simd, mmu, tick }.run(&mut instance);
        hardware.programs.put(id, instance);
        read_back(context, hardware.clock.now());
        exit
    }

    fn sha256_compress(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]) {
        sha2::block_api::compress256(state, blocks);
    }

    fn sha512_compress(&self, state: &mut [u64; 8], blocks: &[[u8; 128]]) {
        sha2::block_api::compress512(state, blocks);
    }
}

impl MachinePlatform {
    /// The RMM promises aligned addresses and ranges inside one granule.
    fn check_ns_range(&self, what: &str, pa: u64, len: usize) {
        if !pa.is_multiple_of(8) || pa % GRANULE_SIZE + len as u64 > GRANULE_SIZE {
            let text =
                format!("Non-secure {what} of {len} bytes at {pa:#x} crosses a granule or is not aligned");
            self.0.log.push(Event::MachineCheck(text));
        }
    }
}

/// What reading the registers after a run finds that hardware changed: ISTATUS of the timers, ICH_MISR_EL2.
fn read_back(context: &mut CpuContext, now: u64) {
    let timers = &mut context.timers;
    for (ctl, cval) in [(&mut timers.cntp_ctl, timers.cntp_cval), (&mut timers.cntv_ctl, timers.cntv_cval)] {
        let enabled = *ctl & 1;
        *ctl = (*ctl & 0b11) | u64::from(enabled == 1 && now >= cval) << 2;
    }
    let gic = &mut context.gic;
    let states = gic.ich_lrs.iter().map(|lr| lr >> 62);
    let underflow = states.clone().filter(|state| *state != 0).count() <= 1;
    let none_pending = !states.clone().any(|state| state & 1 != 0);
    let misr = u64::from(underflow) << 1 | u64::from(none_pending) << 3;
    // UIE and NPIE are where U and NP are.
    gic.ich_misr = misr & gic.ich_hcr & 0b1010;
}
