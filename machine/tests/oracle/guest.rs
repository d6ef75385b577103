//! What realms run under the oracle: operations chosen by the state of the model, each judged before and after it happens.

use crate::oracle::driver::Shared;
use realm_abi::rsi::RsiStatus;
use realm_machine::Machine;
use realm_machine::memory::Pas;
use realm_machine::program::{Access, Op, Outcome, ProgramKey, RealmProgram, SmcRegs};
use realm_model::{Access as Reach, AccessKind, Registers, Trap};
use realm_rmm::cpu::CpuContext;
use std::sync::{Arc, Mutex, PoisonError};

const IL: u64 = 1 << 25;
/// Far from any PC, so that an exception can be told from everything else.
const VBAR: u64 = 0x7000_0000_0800;
/// Where a WFIT and a WFET have their time.
const TIMEOUT_REGISTER: usize = 9;

/// An operation as it can be repeated: the machine's [`Op`] is used up.
#[derive(Clone, Debug)]
pub enum GuestOp {
    Smc(Box<SmcRegs>),
    Load(Access),
    Store(Access, u64),
    Write(u64, Vec<u8>),
    Fetch(u64),
    Hvc,
    Wait { event: bool, timeout: Option<u64> },
}

/// What the operation should come to.
#[derive(Clone, Debug, PartialEq)]
enum Expected {
    /// It traps; the model judges how it goes on.
    Trap,
    /// It completes, with a value if that is specified.
    Complete(Option<u64>),
    /// EL1 takes an exception the RMM has no part in.
    Exception,
}

/// The operation a REC is at.
#[derive(Clone, Debug)]
pub struct Pending {
    op: GuestOp,
    pc: u64,
    expected: Expected,
}

/// The program of every virtual CPU.
pub struct OracleProgram {
    pub key: ProgramKey,
    pub shared: Arc<Mutex<Shared>>,
}

impl RealmProgram for OracleProgram {
    fn step(&mut self, context: &mut CpuContext, last: Outcome) -> Op {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.step(self.key, context, &last) {
            Ok(op) => op,
            Err(why) => {
                shared.failures.push(why);
                let mut regs = [0; 18];
                regs[0] = realm_abi::psci::fid::SYSTEM_OFF;
                Op::Smc(regs)
            }
        }
    }
}

fn registers(context: &CpuContext) -> Registers {
    let el1 = &context.el1;
    Registers {
        gprs: context.gprs,
        pc: context.pc,
        pstate: context.pstate,
        vbar_el1: el1.vbar_el1,
        elr_el1: el1.elr_el1,
        spsr_el1: el1.spsr_el1,
        esr_el1: el1.esr_el1,
        far_el1: el1.far_el1,
    }
}

impl Shared {
    fn step(&mut self, key: ProgramKey, context: &mut CpuContext, last: &Outcome) -> Result<Op, String> {
        let rec = self.model.running().ok_or("a realm runs that was not entered")?;
        self.check_key(rec, key)?;
        self.judge(rec, context, last)?;
        self.guest_ops += 1;
        if self.guest_ops > 400 {
            return Err("a run does not end".into());
        }
        if matches!(last, Outcome::Started) {
            context.el1.vbar_el1 = VBAR;
        }
        // Instructions that do not trap leave anything in the registers.
        let register = self.choice.below(31) as usize;
        context.gprs[register] = self.choice.next();
        if self.lost_page.is_none() && self.choice.one_in(200) {
            self.lose_run_page();
        }
        let op = self.choose(rec);
        let mut regs = registers(context);
        let expected = self.attempt(rec, &op, &mut regs)?;
        let machine_op = machine_op(&op);
        self.pending.insert(rec, Pending { op, pc: context.pc, expected });
        Ok(machine_op)
    }

    /// Another world takes the run structure while the realm runs.
    fn lose_run_page(&mut self) {
        let page = self.run_page;
        if let Some(machine) = self.machine.upgrade()
            && machine.memory().transition(page, Pas::NonSecure, Pas::Secure).is_ok()
        {
            self.lost_page = Some(page);
        }
    }

    /// Whether the machine runs the REC that was entered.
    fn check_key(&self, rec: u64, key: ProgramKey) -> Result<(), String> {
        let state = &self.model.recs()[&rec];
        let vmid = self.model.realms()[&state.owner].vmid;
        let mpidr = mpidr_of(state.index);
        if (key.vmid, key.mpidr) == (vmid, mpidr) {
            return Ok(());
        }
        Err(format!("VMID {vmid}, MPIDR {mpidr:#x} was entered, {key:x?} runs"))
    }

    /// Compares what the last operation came to with what it should have.
    fn judge(&mut self, rec: u64, context: &CpuContext, last: &Outcome) -> Result<(), String> {
        let pending = self.pending.remove(&rec);
        let mut seen = registers(context);
        let expected = match (&pending, last) {
            (_, Outcome::Started) | (None, _) => Expected::Trap,
            (Some(pending), _) => pending.expected.clone(),
        };
        match (expected, last) {
            (Expected::Trap, _) => {
                if matches!(last, Outcome::Exception(_)) {
                    // The handler has returned by now; this is where it was.
                    seen.pc = seen.vbar_el1.wrapping_add(0x200);
                    seen.pstate = 0x3c5;
                }
                let name = self.model.observe_resume(&seen)?;
                self.coverage.count("realm goes on", name);
                if name == "RSI_ATTESTATION_TOKEN_CONTINUE" {
                    self.coverage.count(name, &format!("{:?}", RsiStatus(seen.gprs[0])));
                }
                Ok(())
            }
            (Expected::Complete(None), Outcome::Done | Outcome::Value(_)) => Ok(()),
            (Expected::Complete(Some(value)), Outcome::Value(found)) if value == *found => Ok(()),
            (Expected::Exception, Outcome::Exception(_)) => Ok(()),
            (expected, found) => Err(format!("{pending:x?} came to {found:x?}, not {expected:x?}")),
        }
    }

    /// A REC is entered whose next instruction is the one its operation is at: the machine repeats that.
    pub fn retry(&mut self, rec: u64) -> Result<(), String> {
        let (Some(mut regs), Some(pending)) = (self.model.expected_resume(), self.pending.get(&rec).cloned())
        else {
            return Ok(());
        };
        if regs.pc != pending.pc {
            return Ok(());
        }
        let name = self.model.observe_resume(&regs)?;
        self.coverage.count("realm goes on", name);
        let expected = self.attempt(rec, &pending.op, &mut regs)?;
        self.pending.insert(rec, Pending { expected, ..pending });
        Ok(())
    }

    /// Tells the model what an operation does, and how the machine should see it end.
    fn attempt(&mut self, rec: u64, op: &GuestOp, regs: &mut Registers) -> Result<Expected, String> {
        let sync = |esr: u64, far: u64, hpfar: u64| Trap::Sync { esr: esr | IL, far, hpfar };
        let (ipa, kind) = match op {
            GuestOp::Smc(call) => {
                regs.gprs[..18].copy_from_slice(&call[..]);
                self.model.trap(regs, sync(0x17 << 26, 0, 0))?;
                return Ok(Expected::Trap);
            }
            GuestOp::Hvc => {
                // The preferred return address of HVC is the instruction behind it.
                regs.pc = regs.pc.wrapping_add(4);
                self.model.trap(regs, sync(0x16 << 26, 0, 0))?;
                return Ok(Expected::Trap);
            }
            GuestOp::Wait { event, timeout } => {
                if let Some(timeout) = timeout {
                    regs.gprs[TIMEOUT_REGISTER] = *timeout;
                }
                let trapped = if *event { self.trap_wfe } else { self.trap_wfi };
                if !trapped {
                    return Ok(Expected::Complete(None));
                }
                let ti = u64::from(*event) | u64::from(timeout.is_some()) << 1;
                let operand = if timeout.is_some() { (TIMEOUT_REGISTER as u64) << 5 | 1 << 2 } else { 0 };
                self.model.trap(regs, sync(0x01 << 26 | operand | ti, 0, 0))?;
                return Ok(Expected::Trap);
            }
            GuestOp::Load(access) => (access.ipa, AccessKind::Read),
            GuestOp::Store(access, value) => {
                if let Some(register) = regs.gprs.get_mut(usize::from(access.rt)) {
                    *register = *value;
                }
                (access.ipa, AccessKind::Write)
            }
            GuestOp::Write(ipa, _) => (*ipa, AccessKind::Write),
            GuestOp::Fetch(ipa) => (*ipa, AccessKind::Fetch),
        };
        // An address wider than the physical ones is not for stage 2: EL1 gets it.
        if ipa >> self.model.config().pa_bits != 0 {
            return Ok(Expected::Exception);
        }
        let owner = self.model.recs()[&rec].owner;
        let realm = &self.model.realms()[&owner];
        let level = self.model.walk(owner, ipa, 3).map_or(0, |walk| walk.level);
        let reach = realm.access(ipa, kind);
        let unprotected = ipa < realm.ipa_end() && !realm.protected(ipa);
        let mapped = self
            .model
            .walk(owner, ipa, 3)
            .is_some_and(|walk| matches!(walk.entry, realm_model::Entry::AssignedNs(_)));
        let permission = matches!(reach, Reach::Exit { permission: true, .. })
            || (kind == AccessKind::Fetch && unprotected && mapped);
        let status = if permission { 0b1100 } else { 0b0100 } | level.cast_unsigned();
        let status = if level < 0 { 0x2b } else { status };
        match reach {
            Reach::Data(pa) => Ok(self.complete(op, pa)),
            Reach::Ns(pa) => Ok(self.complete_ns(op, pa)),
            Reach::External | Reach::AddressSize | Reach::Exit { .. } => {
                let esr = match op {
                    GuestOp::Fetch(_) => 0x20 << 26 | status,
                    GuestOp::Write(..) => 0x24 << 26 | 1 << 6 | status,
                    GuestOp::Store(access, _) => abort_esr(access, true) | status,
                    GuestOp::Load(access) => abort_esr(access, false) | status,
                    GuestOp::Smc(_) | GuestOp::Hvc | GuestOp::Wait { .. } => 0,
                };
                self.model.trap(regs, sync(esr, ipa, ipa >> 12 << 4))?;
                Ok(Expected::Trap)
            }
        }
    }

    fn complete(&mut self, op: &GuestOp, pa: u64) -> Expected {
        let (granule, offset) = (pa & !0xfff, (pa & 0xfff) as usize);
        match op {
            GuestOp::Load(access) => {
                let bytes = self.model.read_data(granule, offset, access.size.into());
                Expected::Complete(bytes.map(|bytes| loaded(access, bytes)))
            }
            GuestOp::Store(access, value) => {
                let value = if access.rt == 31 { 0 } else { *value };
                self.model.write_data(granule, offset, &value.to_le_bytes()[..access.size.into()]);
                Expected::Complete(None)
            }
            GuestOp::Write(_, bytes) => {
                self.model.write_data(granule, offset, bytes);
                Expected::Complete(None)
            }
            _ => Expected::Complete(None),
        }
    }

    fn complete_ns(&self, op: &GuestOp, pa: u64) -> Expected {
        let size = if let GuestOp::Load(access) = op { access.size.into() } else { 1 };
        let mut bytes = vec![0; size];
        let read =
            |machine: Arc<Machine>| machine.memory().read(Pas::Root, Pas::NonSecure, pa, &mut bytes).ok();
        match (self.machine.upgrade().and_then(read), op) {
            // A granule protection fault, which is the realm's to take.
            (None, _) => Expected::Exception,
            (Some(()), GuestOp::Load(access)) => Expected::Complete(Some(loaded(access, &bytes))),
            (Some(()), _) => Expected::Complete(None),
        }
    }
}

fn abort_esr(access: &Access, write: bool) -> u64 {
    0x24 << 26
        | 1 << 24
        | u64::from(access.size.trailing_zeros()) << 22
        | u64::from(access.sign_extend) << 21
        | u64::from(access.rt & 0x1f) << 16
        | u64::from(access.wide) << 15
        | u64::from(write) << 6
}

/// What a load leaves in its register.
fn loaded(access: &Access, bytes: &[u8]) -> u64 {
    if access.rt == 31 {
        return 0;
    }
    let negative = access.sign_extend && bytes.last().is_some_and(|top| top >> 7 == 1);
    let mut word = if negative { [0xff; 8] } else { [0; 8] };
    word[..bytes.len()].copy_from_slice(bytes);
    let value = u64::from_le_bytes(word);
    if access.wide { value } else { value & 0xffff_ffff }
}

fn machine_op(op: &GuestOp) -> Op {
    match op {
        GuestOp::Smc(regs) => Op::Smc(**regs),
        GuestOp::Load(access) => Op::Load(*access),
        GuestOp::Store(access, value) => Op::Store(*access, *value),
        GuestOp::Write(ipa, bytes) => Op::WriteBytes { ipa: *ipa, bytes: bytes.clone() },
        GuestOp::Fetch(ipa) => Op::Fetch(*ipa),
        GuestOp::Hvc => Op::Hvc,
        GuestOp::Wait { event: false, timeout: None } => Op::Wfi,
        GuestOp::Wait { event: true, timeout: None } => Op::Wfe,
        GuestOp::Wait { event: false, timeout: Some(deadline) } => Op::Wfit(*deadline),
        GuestOp::Wait { event: true, timeout: Some(deadline) } => Op::Wfet(*deadline),
    }
}

/// MPIDR_EL1 of the REC with this index, without bit 31.
pub fn mpidr_of(index: u64) -> u64 {
    (index & 0xf) | (index >> 4 & 0xff) << 8 | (index >> 12 & 0xff) << 16 | (index >> 20 & 0xff) << 32
}
