//! RECs through the commands that make, run and destroy them, with a realm that does what a script says.

mod abort;
mod attestation;
mod create;
mod enter;
mod exit;
mod psci;
mod rsi;
mod sysreg;

use super::*;
use crate::cpu::{CpuContext, RealmExit, RunControls};
use crate::esr;
use crate::fakes::Run;
use crate::granule::Content;
use crate::rec::Rec;
use realm_abi::rmi::{ExitReason, RecEnter, RecExit, RecParams};
use std::boxed::Box;
use zerocopy::FromBytes;

const REC: ReturnCode = ReturnCode::ERROR_REC;
/// End of the protected half of [`World::realm`].
const PROTECTED_TOP: u64 = 1 << 32;

impl World<'_> {
    /// Parameters of a runnable REC with its auxiliary granules delegated.
    fn rec_params(&self, rd: u64, mpidr: u64) -> RecParams {
        let mut params = RecParams::default();
        params.flags = 1;
        params.mpidr = mpidr;
        params.pc = 0x1000;
        [params.num_aux, ..] = self.ok(RmiCommand::RecAuxCount { rd });
        for slot in params.aux.iter_mut().take(params.num_aux as usize) {
            *slot = self.delegated();
        }
        params
    }

    /// Creates a REC; its granule.
    #[track_caller]
    pub(super) fn rec_with(&self, rd: u64, mpidr: u64, change: impl FnOnce(&mut RecParams)) -> u64 {
        let rec = self.delegated();
        let mut params = self.rec_params(rd, mpidr);
        change(&mut params);
        self.machine().host_write(PARAMS, params.as_bytes());
        self.ok(RmiCommand::RecCreate { rd, rec, params_ptr: PARAMS });
        rec
    }

    /// The content of a REC granule.
    pub(super) fn rec(&self, rec: u64) -> Rec {
        assert_eq!(self.state(rec), GranuleState::Rec);
        self.machine().memory(rec, |_, granule| Rec::of(granule).clone())
    }

    /// Changes the content of a REC granule behind the RMM's back.
    fn change_rec(&self, rec: u64, change: impl FnOnce(&mut Rec)) {
        self.machine().memory(rec, |_, granule| change(Rec::of(granule)));
    }
}

/// An ACTIVE realm with one REC, and memory at IPA 0.
struct Vm<'w, 'a> {
    w: &'w World<'a>,
    rd: u64,
    rec: u64,
    run_ptr: u64,
    /// The DATA granule at IPA 0.
    data: u64,
}

impl<'w, 'a> Vm<'w, 'a> {
    #[track_caller]
    fn new(w: &'w World<'a>) -> Self {
        Self::with(w, |_| (), |_| ())
    }

    #[track_caller]
    fn with(
        w: &'w World<'a>,
        realm: impl FnOnce(&mut RealmParams),
        before_activation: impl FnOnce(&Self),
    ) -> Self {
        let rd = w.realm_with(1, realm);
        let data = w.data(rd, 0);
        let rec = w.rec_with(rd, 0, |_| ());
        let vm = Self { w, rd, rec, run_ptr: w.fresh(), data };
        before_activation(&vm);
        w.activate(rd);
        vm
    }

    fn command(&self) -> RmiCommand {
        RmiCommand::RecEnter { rec: self.rec, run_ptr: self.run_ptr }
    }

    /// Puts `enter` where the Host passes it, before an exit area full of ones.
    fn put(&self, enter: &RecEnter) {
        self.w.machine().host_write(self.run_ptr, enter.as_bytes());
        self.w.machine().host_write(self.run_ptr + 0x800, &[0xff; 0x800]);
    }

    fn script(&self, runs: Vec<Run>) {
        let mut script = self.w.machine().runs.lock().unwrap();
        assert!(script.is_empty(), "the realm did less than it should have");
        script.extend(runs);
    }

    fn exit(&self) -> RecExit {
        RecExit::read_from_bytes(&self.w.machine().content(self.run_ptr)[0x800..]).unwrap()
    }

    /// Enters the REC with what `enter` changes of nothing; the realm does `runs`.
    #[track_caller]
    fn enter_with(&self, enter: impl FnOnce(&mut RecEnter), runs: Vec<Run>) -> RecExit {
        let mut structure = RecEnter::default();
        enter(&mut structure);
        self.put(&structure);
        self.script(runs);
        self.w.ok(self.command());
        assert!(self.w.machine().runs.lock().unwrap().is_empty(), "the realm was stopped too early");
        self.exit()
    }

    #[track_caller]
    fn enter(&self, runs: Vec<Run>) -> RecExit {
        self.enter_with(|_| (), runs)
    }

    /// An entry with `change` fails with `code` and changes nothing.
    #[track_caller]
    fn refuses(&self, code: ReturnCode, change: impl FnOnce(&mut RecEnter)) {
        let mut enter = RecEnter::default();
        change(&mut enter);
        self.put(&enter);
        self.w.fails(self.command(), code);
    }

    /// Makes the realm call by SMC and go on until an interrupt; its registers then.
    #[track_caller]
    fn call(&self, regs: &[u64]) -> [u64; 31] {
        let pc = self.content().context.pc;
        let exit = self.enter(std::vec![smc(regs), irq()]);
        assert_eq!(exit.exit_reason, ExitReason::IRQ);
        assert_eq!(self.content().context.pc, pc + 4, "PC is behind the SMC");
        self.content().context.gprs
    }

    /// Makes the realm call by SMC and exit to the Host.
    #[track_caller]
    fn call_exits(&self, regs: &[u64]) -> RecExit {
        self.enter(std::vec![smc(regs)])
    }

    fn content(&self) -> Rec {
        self.w.rec(self.rec)
    }

    /// The realm's registers as it goes on after the next entry with `enter`.
    #[track_caller]
    fn resumed_with(&self, enter: impl FnOnce(&mut RecEnter)) -> CpuContext {
        let exit = self.enter_with(enter, std::vec![irq()]);
        assert_eq!(exit.exit_reason, ExitReason::IRQ);
        self.content().context
    }
}

/// The realm runs until something happens.
fn happens(exit: RealmExit) -> Run {
    Box::new(move |_, _| exit)
}

fn irq() -> Run {
    happens(RealmExit::Irq)
}

fn sync(esr: u64, far: u64, hpfar: u64) -> Run {
    happens(RealmExit::Sync { esr, far, hpfar })
}

/// The realm makes an SMC with X0 and on as given.
fn smc(regs: &[u64]) -> Run {
    let regs = regs.to_vec();
    Box::new(move |context, _| {
        context.gprs[..regs.len()].copy_from_slice(&regs);
        RealmExit::Sync { esr: esr::EC_SMC << 26 | esr::IL, far: 0x1234, hpfar: 0x5678 }
    })
}

/// The realm changes its registers, then `exit` happens.
fn does(mut change: impl FnMut(&mut CpuContext) + Send + 'static, exit: RealmExit) -> Run {
    Box::new(move |context, _| {
        change(context);
        exit
    })
}

/// The realm looks at how it runs.
fn observes(mut look: impl FnMut(&RunControls) + Send + 'static) -> Run {
    Box::new(move |_, controls| {
        look(controls);
        RealmExit::Irq
    })
}

/// Checks that an exit is what `fill` makes of one that is all zero.
#[track_caller]
fn assert_exit(exit: &RecExit, fill: impl FnOnce(&mut RecExit)) {
    let mut expected = RecExit::default();
    fill(&mut expected);
    for (offset, (found, wanted)) in exit.as_bytes().iter().zip(expected.as_bytes()).enumerate() {
        assert_eq!(found, wanted, "byte {offset:#x} of the exit: {exit:x?}");
    }
}
