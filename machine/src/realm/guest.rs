//! Realm programs as plain closures, each on a thread of its own that waits while its virtual CPU does not run.

use crate::probe::log::{Event, EventLog};
use crate::realm::program::{
    Access, GuestException, Op, Outcome, ProgramKey, RealmProgram, SmcRegs, cpu_off,
};
use realm_abi::psci::{PsciCall, PsciStatus};
use realm_abi::rsi::{RsiCall, RsiStatus};
use realm_rmm::cpu::CpuContext;
use realm_rmm::platform::SysReg;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// What an operation gives a closure.
pub type GuestResult<T> = Result<T, GuestException>;

/// A closure that runs as a virtual CPU.
pub type GuestFn = dyn Fn(&mut Guest) + Send + Sync;

/// Unwinds a closure whose virtual CPU will never run again.
struct Gone;

/// The virtual CPU as a closure sees it. Every operation goes through stage 2 or traps, as its instruction would; an
/// exception the realm's EL1 takes is the operation's error.
pub struct Guest {
    key: ProgramKey,
    entry: u64,
    x: [u64; 8],
    ops: SyncSender<Op>,
    outcomes: Receiver<Outcome>,
}

macro_rules! integers {
    ($($(#[$meta:meta])* $ty:ty),*) => {$(
        impl GuestInt for $ty {
            const SIZE: u8 = size_of::<$ty>() as u8;
            fn from_u64(value: u64) -> Self { value as Self }
            fn into_u64(self) -> u64 { u64::from(self) }
        }
    )*};
}

/// An integer one instruction loads or stores.
pub trait GuestInt: Copy {
    /// Bytes.
    const SIZE: u8;
    /// The low bytes of a register.
    fn from_u64(value: u64) -> Self;
    /// The register that holds it.
    fn into_u64(self) -> u64;
}
integers!(u8, u16, u32, u64);

impl Guest {
    /// Which virtual CPU this is.
    #[must_use]
    pub const fn key(&self) -> ProgramKey {
        self.key
    }
    /// MPIDR_EL1 without bit 31.
    #[must_use]
    pub const fn mpidr(&self) -> u64 {
        self.key.mpidr
    }
    /// PC at which the virtual CPU started.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }
    /// X0 to X7 with which the virtual CPU started.
    #[must_use]
    pub const fn start_regs(&self) -> [u64; 8] {
        self.x
    }

    /// Does one operation.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn op(&mut self, op: Op) -> GuestResult<Outcome> {
        if self.ops.send(op).is_err() {
            resume_unwind(Box::new(Gone));
        }
        match self.outcomes.recv() {
            Ok(Outcome::Exception(exception)) => Err(exception),
            Ok(outcome) => Ok(outcome),
            Err(_) => resume_unwind(Box::new(Gone)),
        }
    }

    fn value(&mut self, op: Op) -> GuestResult<u64> {
        match self.op(op)? {
            Outcome::Value(value) => Ok(value),
            other => unreachable!("the operation gives a value, not {other:?}"),
        }
    }

    /// Loads with any form of the instruction.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn load(&mut self, access: Access) -> GuestResult<u64> {
        self.value(Op::Load(access))
    }
    /// Stores with any form of the instruction.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn store(&mut self, access: Access, value: u64) -> GuestResult<()> {
        self.op(Op::Store(access, value)).map(drop)
    }
    /// Loads an integer from an address that is a multiple of its size.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn read<T: GuestInt>(&mut self, ipa: u64) -> GuestResult<T> {
        self.load(Access::new(ipa, T::SIZE)).map(T::from_u64)
    }
    /// Stores an integer to an address that is a multiple of its size.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn write<T: GuestInt>(&mut self, ipa: u64, value: T) -> GuestResult<()> {
        self.store(Access::new(ipa, T::SIZE), value.into_u64())
    }
    /// Reads bytes.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn read_bytes(&mut self, ipa: u64, len: usize) -> GuestResult<Vec<u8>> {
        match self.op(Op::ReadBytes { ipa, len })? {
            Outcome::Bytes(bytes) => Ok(bytes),
            other => unreachable!("the operation gives bytes, not {other:?}"),
        }
    }
    /// Writes bytes.
    ///
    /// # Errors
    /// The exception EL1 took instead; what lies before it may have been written.
    pub fn write_bytes(&mut self, ipa: u64, bytes: &[u8]) -> GuestResult<()> {
        self.op(Op::WriteBytes { ipa, bytes: bytes.to_vec() }).map(drop)
    }
    /// Fetches an instruction.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn exec(&mut self, ipa: u64) -> GuestResult<()> {
        self.op(Op::Fetch(ipa)).map(drop)
    }
    /// SMC #0 with up to 18 registers; X0 to X17 afterwards.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn try_smc(&mut self, regs: &[u64]) -> GuestResult<SmcRegs> {
        let mut all = [0; 18];
        for (slot, value) in all.iter_mut().zip(regs) {
            *slot = *value;
        }
        match self.op(Op::Smc(all))? {
            Outcome::Regs(regs) => Ok(*regs),
            other => unreachable!("the operation gives registers, not {other:?}"),
        }
    }
    /// SMC #0, which the RMM always answers.
    ///
    /// # Panics
    /// If EL1 takes an exception instead.
    pub fn smc(&mut self, regs: &[u64]) -> SmcRegs {
        self.try_smc(regs).unwrap_or_else(|exception| panic!("SMC {:#x}: {exception}", regs[0]))
    }
    /// An RSI call: its status, and X1 onwards.
    pub fn rsi(&mut self, call: &RsiCall) -> (RsiStatus, [u64; 8]) {
        let regs = self.smc(&call.to_regs());
        (RsiStatus(regs[0]), std::array::from_fn(|i| regs[i + 1]))
    }
    /// A PSCI call: X0.
    pub fn psci(&mut self, call: &PsciCall) -> PsciStatus {
        PsciStatus(self.smc(&call.to_regs())[0].cast_signed())
    }
    /// HVC #0.
    ///
    /// # Errors
    /// The exception EL1 took: realms have no hypervisor to call.
    pub fn hvc(&mut self) -> GuestResult<()> {
        self.op(Op::Hvc).map(drop)
    }
    /// WFI.
    pub fn wfi(&mut self) {
        self.plain(Op::Wfi);
    }
    /// WFE.
    pub fn wfe(&mut self) {
        self.plain(Op::Wfe);
    }
    /// WFIT until the counter is `deadline`.
    pub fn wfit(&mut self, deadline: u64) {
        self.plain(Op::Wfit(deadline));
    }
    /// WFET until the counter is `deadline`.
    pub fn wfet(&mut self, deadline: u64) {
        self.plain(Op::Wfet(deadline));
    }
    /// Runs without trapping until a physical interrupt, or a timer of this virtual CPU, has been taken.
    pub fn spin_until_interrupted(&mut self) {
        self.plain(Op::Spin);
    }
    /// Runs until `condition` holds, letting interrupts in between two looks.
    pub fn spin_until(&mut self, condition: impl Fn() -> bool) {
        while !condition() {
            self.plain(Op::Context(Box::new(|_| std::thread::yield_now())));
        }
    }
    /// Reads a system register.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn mrs(&mut self, reg: SysReg) -> GuestResult<u64> {
        self.value(Op::Mrs(reg))
    }
    /// Writes a system register.
    ///
    /// # Errors
    /// The exception EL1 took instead.
    pub fn msr(&mut self, reg: SysReg, value: u64) -> GuestResult<()> {
        self.op(Op::Msr(reg, value)).map(drop)
    }
    /// Reads the low half of a SIMD register.
    pub fn simd_read(&mut self, register: u8) -> u128 {
        match self.op(Op::SimdRead(register)) {
            Ok(Outcome::Bytes(bytes)) => u128::from_le_bytes(std::array::from_fn(|i| bytes[i])),
            other => unreachable!("SIMD registers can always be read: {other:?}"),
        }
    }
    /// Writes the low half of a SIMD register.
    pub fn simd_write(&mut self, register: u8, value: u128) {
        self.plain(Op::SimdWrite(register, value));
    }
    /// Runs instructions that do not trap: whatever `f` does to the registers.
    pub fn context<R: Send + 'static>(&mut self, f: impl FnOnce(&mut CpuContext) -> R + Send + 'static) -> R {
        let (sender, receiver) = sync_channel(1);
        self.plain(Op::Context(Box::new(move |context| drop(sender.send(f(context))))));
        match receiver.recv() {
            Ok(value) => value,
            Err(_) => unreachable!("the closure has run"),
        }
    }
    /// Takes these interrupts, of Group 1, as a kernel that starts does, on this virtual CPU. `dist` is where the distributor is,
    /// `redist` where this virtual CPU's redistributor is.
    ///
    /// # Panics
    /// If nobody is there.
    pub fn take_interrupts(&mut self, dist: u64, redist: u64, intids: &[u32]) {
        let mut set = |at: u64, value: u32| {
            self.write::<u32>(at, value).expect("a register of the GIC");
        };
        // GICD_CTLR, GICR_WAKER.
        set(dist, 0x13);
        set(redist + 0x14, 0);
        for &intid in intids {
            let word = u64::from(intid / 32) * 4;
            let at = if intid < 32 { redist + 0x1_0000 } else { dist + word };
            // IGROUPR of all 32, ISENABLER.
            set(at + 0x80, u32::MAX);
            set(at + 0x100, 1 << (intid % 32));
        }
        // ICC_PMR_EL1 and ICC_IGRPEN1_EL1.
        self.context(|context| context.gic.ich_vmcr = 0xff << 24 | 1 << 1);
    }
    /// Arms the virtual timer, interrupt not masked.
    pub fn arm_virtual_timer(&mut self, cval: u64) {
        self.context(move |context| (context.timers.cntv_cval, context.timers.cntv_ctl) = (cval, 1));
    }
    /// Arms the physical timer, interrupt not masked.
    pub fn arm_physical_timer(&mut self, cval: u64) {
        self.context(move |context| (context.timers.cntp_cval, context.timers.cntp_ctl) = (cval, 1));
    }

    fn plain(&mut self, op: Op) {
        if let Err(exception) = self.op(op) {
            panic!("{exception}");
        }
    }
}

/// A closure's thread, and its ends of the rendezvous.
struct Running {
    ops: Receiver<Op>,
    outcomes: SyncSender<Outcome>,
    thread: JoinHandle<()>,
}

/// A closure as a [`RealmProgram`]. When it returns, the virtual CPU with MPIDR 0 turns the realm off (PSCI_SYSTEM_OFF)
/// and any other itself (PSCI_CPU_OFF). When it panics, the machine's log says so and the realm is turned off.
pub(crate) struct GuestProgram {
    key: ProgramKey,
    body: Arc<GuestFn>,
    log: Arc<EventLog>,
    running: Option<Running>,
    /// The closure has ended by a panic.
    failed: Arc<std::sync::atomic::AtomicBool>,
}

impl GuestProgram {
    pub fn new(key: ProgramKey, body: Arc<GuestFn>, log: Arc<EventLog>) -> Self {
        Self { key, body, log, running: None, failed: Arc::default() }
    }

    fn start(&mut self, context: &CpuContext) {
        let (op_sender, ops) = sync_channel(0);
        let (outcomes, outcome_receiver) = sync_channel(1);
        let mut guest = Guest {
            key: self.key,
            entry: context.pc,
            x: std::array::from_fn(|i| context.gprs[i]),
            ops: op_sender,
            outcomes: outcome_receiver,
        };
        let (body, log, failed) = (Arc::clone(&self.body), Arc::clone(&self.log), Arc::clone(&self.failed));
        let thread = std::thread::spawn(move || {
            let key = guest.key;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&mut guest)))
                && !panic.is::<Gone>()
            {
                failed.store(true, std::sync::atomic::Ordering::Release);
                let text = panic_text(panic.as_ref());
                log.push(Event::GuestPanic(format!("VMID {}, MPIDR {:#x}: {text}", key.vmid, key.mpidr)));
            }
        });
        self.running = Some(Running { ops, outcomes, thread });
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "panic".to_owned(),
    }
}

impl RealmProgram for GuestProgram {
    fn step(&mut self, context: &mut CpuContext, last: Outcome) -> Op {
        if last == Outcome::Started {
            self.start(context);
        } else if let Some(running) = &self.running {
            // A closure that has ended does not take its last outcome; the answer below covers that.
            let _ = running.outcomes.send(last);
        }
        match self.running.as_ref().map(|running| running.ops.recv()) {
            Some(Ok(op)) => op,
            _ if self.key.mpidr == 0 || self.failed.load(std::sync::atomic::Ordering::Acquire) => {
                let mut regs = [0; 18];
                regs[0] = realm_abi::psci::fid::SYSTEM_OFF;
                Op::Smc(regs)
            }
            _ => cpu_off(),
        }
    }
}

impl Drop for GuestProgram {
    fn drop(&mut self) {
        if let Some(Running { ops, outcomes, thread }) = self.running.take() {
            drop((ops, outcomes));
            // Its panic, if any, is in the log already.
            let _ = thread.join();
        }
    }
}
