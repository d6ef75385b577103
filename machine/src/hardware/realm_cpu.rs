//! A CPU in Realm EL1: it carries out the operations of a program until one traps.

use crate::hardware::Hardware;
use crate::hardware::mmu::{Abort, AccessKind, Mmu};
use crate::hardware::syndrome::{self, class};
use crate::hardware::sysregs;
use crate::pas::Pas;
use crate::probe::log::Event;
use crate::realm::instance::{Instance, Pending, Resume, resume_at};
use crate::realm::program::{Access, Op, Outcome};
use realm_abi::GRANULE_SIZE;
use realm_rmm::cpu::{CpuContext, RealmExit, RunControls};
use zerocopy::IntoBytes;

/// PSTATE after an exception to EL1: EL1h, D, A, I and F masked.
const PSTATE_EXCEPTION: u64 = 0x3c5;
/// PSTATE.A.
const PSTATE_A: u64 = 1 << 8;
/// The register system register accesses and single loads use.
const RT: u8 = 9;

/// How an operation went.
enum Step {
    Complete(Outcome),
    Trap(RealmExit),
    /// An exception to EL1 has been taken, or the operation waits: look again.
    Again,
}

/// A CPU for the time of one run of a REC.
pub(crate) struct RealmCpu<'a> {
    pub hardware: &'a Hardware,
    pub cpu: usize,
    pub context: &'a mut CpuContext,
    pub controls: &'a RunControls,
    pub simd: &'a [u64],
    pub mmu: Mmu<'a>,
    /// When the Host's scheduler interrupts this run.
    pub tick: u64,
}

impl RealmCpu<'_> {
    /// Runs the program until something traps.
    pub fn run(&mut self, instance: &mut Instance) -> RealmExit {
        loop {
            if self.interrupted() {
                return RealmExit::Irq;
            }
            self.take_virtual_serror();
            let Some(pending) = &mut instance.pending else {
                let last = std::mem::replace(&mut instance.last, Outcome::Done);
                let op = instance.program.step(self.context, last);
                instance.pending = Some(Pending { op, pc: self.context.pc, progress: 0, bytes: Vec::new() });
                continue;
            };
            let outcome = match resume_at(pending, self.context) {
                Resume::Retry => match self.execute(pending) {
                    Step::Complete(outcome) => {
                        self.context.pc = self.context.pc.wrapping_add(4);
                        outcome
                    }
                    Step::Trap(exit) => return exit,
                    Step::Again => continue,
                },
                Resume::Emulated => self.emulated(pending),
                Resume::Exception(exception) => {
                    // The realm's handler returns behind the operation.
                    self.context.pc = pending.pc.wrapping_add(4);
                    self.context.pstate = self.context.el1.spsr_el1;
                    Outcome::Exception(exception)
                }
                Resume::Restart => {
                    // Only an exception to a vector the program moved meanwhile can lead here; there is no handler.
                    let text =
                        format!("the virtual CPU went from {:#x} to {:#x}", pending.pc, self.context.pc);
                    self.hardware.log.push(Event::RecMixup(text));
                    Outcome::Done
                }
            };
            instance.pending = None;
            instance.last = outcome;
        }
    }

    /// What the RMM left in the registers for an operation it answered.
    fn emulated(&self, pending: &mut Pending) -> Outcome {
        match &pending.op {
            Op::Smc(_) => Outcome::Regs(Box::new(std::array::from_fn(|i| self.context.gprs[i]))),
            Op::Load(access) => Outcome::Value(self.register(access.rt)),
            Op::Mrs(_) => Outcome::Value(self.register(RT)),
            Op::ReadBytes { .. } | Op::SimdRead(_) => Outcome::Bytes(std::mem::take(&mut pending.bytes)),
            _ => Outcome::Done,
        }
    }

    fn register(&self, rt: u8) -> u64 {
        self.context.gprs.get(usize::from(rt)).copied().unwrap_or(0)
    }

    fn set_register(&mut self, rt: u8, value: u64) {
        if let Some(register) = self.context.gprs.get_mut(usize::from(rt)) {
            *register = value;
        }
    }

    fn execute(&mut self, pending: &mut Pending) -> Step {
        match &mut pending.op {
            Op::Load(access) => self.load(access),
            Op::Store(access, value) => self.store(access, *value),
            Op::ReadBytes { ipa, len } => {
                let (ipa, len) = (*ipa, *len);
                self.copy(ipa, len, AccessKind::Read, &mut pending.progress, &mut pending.bytes)
            }
            Op::WriteBytes { ipa, bytes } => {
                let (ipa, len) = (*ipa, bytes.len());
                self.copy(ipa, len, AccessKind::Write, &mut pending.progress, bytes)
            }
            Op::Fetch(ipa) => match self.mmu.access(*ipa, AccessKind::Execute, |_| ()) {
                Ok(()) => Step::Complete(Outcome::Done),
                Err(Abort::Stage2 { status }) => {
                    Step::Trap(syndrome::stage2_abort(class::INSTRUCTION_ABORT, u64::from(status), *ipa))
                }
                Err(Abort::Stage1 { status }) => {
                    self.take_exception(syndrome::esr(class::INSTRUCTION_ABORT_SAME, u64::from(status)), *ipa)
                }
            },
            Op::Smc(regs) => {
                self.context.gprs[..18].copy_from_slice(&regs[..]);
                Step::Trap(syndrome::sync(class::SMC, 0))
            }
            Op::Hvc => {
                // The preferred return address of HVC is the instruction behind it.
                self.context.pc = self.context.pc.wrapping_add(4);
                Step::Trap(syndrome::sync(class::HVC, 0))
            }
            Op::Wfi => self.wait(self.controls.trap_wfi, 0, None),
            Op::Wfe => self.wait(self.controls.trap_wfe, 1, Some(0)),
            Op::Wfit(deadline) => {
                let deadline = *deadline;
                self.set_register(RT, deadline);
                self.wait(self.controls.trap_wfi, 2, Some(deadline))
            }
            Op::Wfet(deadline) => {
                let deadline = *deadline;
                self.set_register(RT, deadline);
                self.wait(self.controls.trap_wfe, 3, Some(deadline))
            }
            Op::Mrs(reg) => {
                let reg = *reg;
                if let Some(value) =
                    sysregs::read(self.context, self.controls, self.hardware.clock.now(), reg)
                {
                    self.set_register(RT, value);
                    return Step::Complete(Outcome::Value(value));
                }
                Step::Trap(syndrome::sync(class::SYSREG, syndrome::sysreg_iss(reg, RT, true)))
            }
            Op::Msr(reg, value) => {
                let (reg, value) = (*reg, *value);
                self.set_register(RT, value);
                if sysregs::write(self.context, reg, value) {
                    return Step::Complete(Outcome::Done);
                }
                Step::Trap(syndrome::sync(class::SYSREG, syndrome::sysreg_iss(reg, RT, false)))
            }
            Op::SimdRead(register) => {
                let mut bytes = vec![0; 16];
                let at = usize::from(*register & 31) * 16;
                self.simd(|granule| bytes.copy_from_slice(&granule[at..at + 16]));
                Step::Complete(Outcome::Bytes(bytes))
            }
            Op::SimdWrite(register, value) => {
                let (at, bytes) = (usize::from(*register & 31) * 16, value.to_le_bytes());
                self.simd(|granule| granule[at..at + 16].copy_from_slice(&bytes));
                Step::Complete(Outcome::Done)
            }
            Op::Spin => {
                pending.progress += 1;
                // Back after the interrupt it waited for.
                if pending.progress > 1 {
                    return Step::Complete(Outcome::Done);
                }
                self.idle(None);
                Step::Again
            }
            Op::Context(f) => {
                let pc = self.context.pc;
                std::mem::replace(f, Box::new(|_| ()))(self.context);
                self.context.pc = pc;
                Step::Complete(Outcome::Done)
            }
            Op::Raise { esr, far, hpfar } => {
                Step::Trap(RealmExit::Sync { esr: *esr, far: *far, hpfar: *hpfar })
            }
        }
    }

    fn load(&mut self, access: &Access) -> Step {
        let (at, size) = ((access.ipa % GRANULE_SIZE) as usize, usize::from(access.size));
        if !access.ipa.is_multiple_of(u64::from(access.size)) {
            return self.alignment_fault(access.ipa, false);
        }
        let read = |granule: &mut realm_rmm::granule::Granule| {
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(&granule.as_mut_bytes()[at..at + size]);
            u64::from_le_bytes(bytes)
        };
        match self.mmu.access(access.ipa, AccessKind::Read, read) {
            Ok(value) => {
                self.set_register(access.rt, extend(access, value));
                Step::Complete(Outcome::Value(self.register(access.rt)))
            }
            Err(Abort::Stage2 { status }) => Step::Trap(syndrome::stage2_abort(
                class::DATA_ABORT,
                syndrome::data_abort_iss(access, false, status),
                access.ipa,
            )),
            Err(Abort::Stage1 { status }) => self.data_exception(access.ipa, false, status),
        }
    }

    fn store(&mut self, access: &Access, value: u64) -> Step {
        let (at, size) = ((access.ipa % GRANULE_SIZE) as usize, usize::from(access.size));
        if !access.ipa.is_multiple_of(u64::from(access.size)) {
            return self.alignment_fault(access.ipa, true);
        }
        self.set_register(access.rt, value);
        let bytes = self.register(access.rt).to_le_bytes();
        let write = |granule: &mut realm_rmm::granule::Granule| {
            granule.as_mut_bytes()[at..at + size].copy_from_slice(&bytes[..size]);
        };
        match self.mmu.access(access.ipa, AccessKind::Write, write) {
            Ok(()) => Step::Complete(Outcome::Done),
            Err(Abort::Stage2 { status }) => Step::Trap(syndrome::stage2_abort(
                class::DATA_ABORT,
                syndrome::data_abort_iss(access, true, status),
                access.ipa,
            )),
            Err(Abort::Stage1 { status }) => self.data_exception(access.ipa, true, status),
        }
    }

    /// Copies granule by granule, going on after a fault where it stopped; an interrupt gets in between two granules.
    fn copy(
        &mut self,
        ipa: u64,
        len: usize,
        kind: AccessKind,
        progress: &mut usize,
        bytes: &mut Vec<u8>,
    ) -> Step {
        if *progress >= len {
            return Step::Complete(match kind {
                AccessKind::Read => Outcome::Bytes(std::mem::take(bytes)),
                _ => Outcome::Done,
            });
        }
        let at = ipa.wrapping_add(*progress as u64);
        let offset = (at % GRANULE_SIZE) as usize;
        let now = (len - *progress).min(GRANULE_SIZE as usize - offset);
        let write = kind == AccessKind::Write;
        let done = *progress;
        let result = self.mmu.access(at, kind, |granule| {
            let granule = &mut granule.as_mut_bytes()[offset..offset + now];
            if write {
                granule.copy_from_slice(&bytes[done..done + now]);
            } else {
                bytes.extend_from_slice(granule);
            }
        });
        match result {
            Ok(()) => {
                *progress += now;
                Step::Again
            }
            Err(Abort::Stage2 { status }) => Step::Trap(syndrome::stage2_abort(
                class::DATA_ABORT,
                syndrome::plain_abort_iss(write, status),
                at,
            )),
            Err(Abort::Stage1 { status }) => self.data_exception(at, write, status),
        }
    }

    /// The SIMD state of this REC, in its auxiliary granules.
    fn simd(&self, f: impl FnOnce(&mut [u8])) {
        let Some(granule) = self.simd.first() else {
            self.hardware.log.push(Event::RecMixup("a REC without SIMD granules uses SIMD".to_owned()));
            return;
        };
        let result = self.hardware.memory.with(Pas::Realm, Pas::Realm, *granule, |g| f(g.as_mut_bytes()));
        crate::hardware::memory::report(&self.hardware.log, result);
    }

    /// WFI and its kin: traps, or waits for an interrupt. `deadline` 0 does not wait.
    fn wait(&self, trap: bool, ti: u64, deadline: Option<u64>) -> Step {
        if trap {
            // WFIT and WFET name the register that holds the timeout, and say so with RV.
            let operand = if ti >= 2 { u64::from(RT) << 5 | 1 << 2 } else { 0 };
            return Step::Trap(syndrome::sync(class::WFX, operand | ti));
        }
        if !self.virtual_interrupt_pending() && deadline != Some(0) {
            self.idle(deadline);
        }
        Step::Complete(Outcome::Done)
    }

    /// Sleeps until a physical interrupt, a timer of this virtual CPU or `deadline`.
    fn idle(&self, deadline: Option<u64>) {
        loop {
            if self.interrupted() {
                return;
            }
            let until = [deadline, self.next_timer()].into_iter().flatten().fold(self.tick, u64::min);
            match self.hardware.clock.until(until) {
                Some(timeout) => self.hardware.cpus.wait(self.cpu, timeout),
                None => return,
            }
        }
    }

    /// Whether a physical interrupt ends the run.
    fn interrupted(&self) -> bool {
        self.hardware.cpus.pending(self.cpu) || self.timer_signals() || self.hardware.clock.now() >= self.tick
    }

    fn virtual_interrupt_pending(&self) -> bool {
        self.context.gic.ich_lrs.iter().any(|lr| (lr >> 62) & 1 != 0)
    }

    /// (enabled and not masked, deadline, signal masked at EL2) of both timers.
    fn timers(&self) -> [(bool, u64, bool); 2] {
        let timers = &self.context.timers;
        let armed = |ctl: u64| ctl & 0b11 == 0b01;
        [
            (armed(timers.cntv_ctl), timers.cntv_cval, self.controls.mask_vtimer),
            (armed(timers.cntp_ctl), timers.cntp_cval, self.controls.mask_ptimer),
        ]
    }

    fn timer_signals(&self) -> bool {
        let now = self.hardware.clock.now();
        self.timers().iter().any(|(armed, cval, masked)| *armed && !masked && now >= *cval)
    }

    fn next_timer(&self) -> Option<u64> {
        self.timers().iter().filter(|(armed, _, masked)| *armed && !masked).map(|(_, cval, _)| *cval).min()
    }

    fn take_virtual_serror(&mut self) {
        if self.context.vse != 0 && self.context.pstate & PSTATE_A == 0 {
            self.context.vse = 0;
            self.vector(0x180, syndrome::esr(class::SERROR, self.context.vsesr), None);
        }
    }

    fn data_exception(&mut self, ipa: u64, write: bool, status: u8) -> Step {
        self.take_exception(
            syndrome::esr(class::DATA_ABORT_SAME, syndrome::plain_abort_iss(write, status)),
            ipa,
        )
    }

    /// Device memory, which everything is with stage 1 off, allows no unaligned access.
    fn alignment_fault(&mut self, ipa: u64, write: bool) -> Step {
        self.data_exception(ipa, write, 0b10_0001)
    }

    fn take_exception(&mut self, esr: u64, far: u64) -> Step {
        self.vector(0, esr, Some(far));
        Step::Again
    }

    /// Takes an exception to EL1 from EL1h.
    fn vector(&mut self, kind: u64, esr: u64, far: Option<u64>) {
        let context = &mut *self.context;
        context.el1.elr_el1 = context.pc;
        context.el1.spsr_el1 = context.pstate;
        context.el1.esr_el1 = esr;
        if let Some(far) = far {
            context.el1.far_el1 = far;
        }
        context.pc = context.el1.vbar_el1.wrapping_add(0x200 + kind);
        context.pstate = PSTATE_EXCEPTION;
    }
}

/// What a load leaves in its register.
fn extend(access: &Access, value: u64) -> u64 {
    let unused = 64 - 8 * u32::from(access.size);
    let value =
        if access.sign_extend { ((value << unused).cast_signed() >> unused).cast_unsigned() } else { value };
    if access.wide { value } else { value & 0xffff_ffff }
}
