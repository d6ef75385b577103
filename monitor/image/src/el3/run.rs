//! What each CPU does: it starts the RMM, then the Non-secure world, and serves both until it is turned off.

use super::context::{Exit, World, Worlds, close_rmm, rmm_is_closed, wipe_stack, worlds};
use super::services::{psci, services};
use super::sysreg::{self, read};
use super::{console, gic, gpt, measure, memory, power, reflect, registers};
use realm_abi::psci::PsciCall;
use realm_abi::rmi::Version;
use realm_abi::rmm_el3::{BootCode, ColdBoot, El3Call, WarmBoot};
use realm_abi::smccc;
use realm_monitor::gpt::Gpi;
use realm_monitor::layout;
use realm_monitor::psci::{Action, Entry};
use realm_monitor::smc::{self, Call};
use realm_monitor::undefined::is_trapped_instruction;
use spin::Mutex;

/// Held while the shared buffer is in use here. The RMM serialises its calls; this does not rely on it.
static SHARED_BUFFER: Mutex<()> = Mutex::new(());

const EC_SMC32: u64 = 0x13;
const EC_SMC64: u64 = 0x17;

/// The first CPU: cold boot of the RMM, then the payload.
pub fn first(interface: Version, entry: Entry) -> ! {
    let boot = ColdBoot {
        cpu: 0,
        version: interface,
        max_cpus: psci().cpus() as u64,
        shared_buffer: layout::SHARED_BUFFER.base,
        activation_token: 0,
    };
    Cpu::new(0).run(Some((boot.to_regs(), entry)))
}

/// Any other CPU: it waits until PSCI turns it on.
pub fn parked(cpu: usize) -> ! {
    Cpu::new(cpu).run(None)
}

struct Cpu {
    index: usize,
    worlds: &'static mut Worlds,
}

impl Cpu {
    fn new(index: usize) -> Self {
        // SAFETY: called once on each CPU, for itself.
        let worlds = unsafe { worlds(index) };
        worlds.note_reset();
        Self { index, worlds }
    }

    fn run(&mut self, mut start: Option<([u64; 5], Entry)>) -> ! {
        loop {
            let (boot, entry) = start.take().unwrap_or_else(|| self.wait_for_entry());
            self.worlds.reset();
            self.start_rmm(&boot);
            self.serve(entry);
        }
    }

    /// Waits until another CPU turns this one on.
    fn wait_for_entry(&self) -> ([u64; 5], Entry) {
        loop {
            if let Some(entry) = psci().take_entry(self.index) {
                let boot = WarmBoot { cpu: self.index as u64, activation_token: 0 };
                return (boot.to_regs(), entry);
            }
            sysreg::wfi();
            gic::acknowledge();
        }
    }

    /// Runs the RMM until it is ready for commands on this CPU.
    fn start_rmm(&mut self, regs: &[u64; 5]) {
        if rmm_is_closed() {
            return;
        }
        self.worlds.realm.start_at(layout::RMM_IMAGE.base, regs);
        self.worlds.load(World::Realm);
        loop {
            match self.worlds.enter(World::Realm).1 {
                // It fails while it starts: this is how it refuses a command.
                Exit::Sync if is_call() && matches!(self.rmm_asks(), El3Call::RmiReqComplete { .. }) => {
                    console::print(format_args!(
                        "monitor: CPU {}: the RMM failed while it started\n",
                        self.index
                    ));
                    close_rmm();
                    break;
                }
                Exit::Sync if is_call() => match self.rmm_call() {
                    Some(BootCode::SUCCESS) => break,
                    Some(code) => {
                        console::print(format_args!("monitor: CPU {}: RMM says {code}\n", self.index));
                        close_rmm();
                        break;
                    }
                    None => {}
                },
                Exit::Interrupt => gic::acknowledge(),
                Exit::Sync if is_trapped() => reflect::undefined(&mut self.worlds.realm),
                exit => {
                    self.report(World::Realm, exit);
                    close_rmm();
                    break;
                }
            }
        }
        self.worlds.save(World::Realm);
        let alive = !rmm_is_closed();
        self.worlds.non_secure.set_fast(alive);
        self.worlds.realm.set_fast(alive);
    }

    /// Runs the Non-secure world from `entry` until its CPU is turned off, or has a fault that is nobody's below EL3.
    fn serve(&mut self, entry: Entry) {
        self.worlds.non_secure.start_at(entry.address, &[entry.context_id]);
        self.worlds.load(World::NonSecure);
        let mut world = World::NonSecure;
        loop {
            let (left, exit) = self.worlds.enter(world);
            world = left;
            match (left, exit) {
                (_, Exit::Interrupt) => gic::acknowledge(),
                (_, Exit::Sync) if is_trapped() => reflect::undefined(self.worlds.context(left)),
                (World::Realm, Exit::Sync) if is_call() => {
                    if let Some(code) = self.rmm_call() {
                        // The RMM started long ago. It has nothing to say that we could go on with.
                        console::print(format_args!("monitor: CPU {}: RMM says {code} again\n", self.index));
                        world = self.end_rmm();
                    }
                }
                (World::NonSecure, Exit::Sync) if is_call() => {
                    if !self.non_secure_call() {
                        return;
                    }
                }
                (World::NonSecure, Exit::Sync) if is_call32() => self.non_secure_call32(),
                (World::Realm, exit) => {
                    self.report(World::Realm, exit);
                    world = self.end_rmm();
                }
                (World::NonSecure, exit) => {
                    self.report(World::NonSecure, exit);
                    // As if it had turned itself off: another CPU may start it anew.
                    let _ = psci().call(self.index, &PsciCall::CpuOff, |_| false);
                    return;
                }
            }
        }
    }

    /// The RMM failed while it served a command: the command fails, and there are no more.
    fn end_rmm(&mut self) -> World {
        close_rmm();
        self.worlds.save(World::Realm);
        // It may have been a realm's turn.
        registers::clear_realm(self.worlds.actlr_el1);
        self.worlds.non_secure.gprs[0] = smccc::NOT_SUPPORTED;
        self.worlds.load(World::NonSecure);
        World::NonSecure
    }

    /// Answers a call of the Non-secure world from AArch32. There the registers have 32 bits, and which CPUs run is decided in
    /// AArch64.
    fn non_secure_call32(&mut self) {
        let regs = &mut self.worlds.non_secure.gprs;
        let args = [regs[0], regs[1], regs[2], regs[3]].map(|value| value & 0xffff_ffff);
        let answer = match smc::non_secure(&args) {
            Call::Answer(value) => value,
            Call::Psci(_) => smccc::NOT_SUPPORTED,
        };
        regs[0] = answer & 0xffff_ffff;
    }

    /// Answers a call of the Non-secure world; whether it goes on.
    fn non_secure_call(&mut self) -> bool {
        let regs = &mut self.worlds.non_secure.gprs;
        let [x0, x1, x2, x3, ..] = *regs;
        let call = match smc::non_secure(&[x0, x1, x2, x3]) {
            Call::Answer(value) => {
                regs[0] = value;
                return true;
            }
            Call::Psci(call) => call,
        };
        let is_entry =
            |address: u64| address.is_multiple_of(4) && gpt::table().owner(address) == Some(Gpi::NS);
        match psci().call(self.index, &call, is_entry) {
            Action::Return(value) => regs[0] = value,
            Action::Wake(cpu) => {
                regs[0] = 0;
                gic::wake(cpu);
            }
            Action::Off => return false,
            Action::Suspend(entry) => {
                sysreg::wfi();
                gic::acknowledge();
                match entry {
                    None => regs[0] = 0,
                    Some(entry) => {
                        self.worlds.non_secure.start_at(entry.address, &[entry.context_id]);
                        self.worlds.start_non_secure_anew();
                    }
                }
            }
            Action::SystemOff => power::off(),
            Action::SystemReset => power::reset(),
        }
        true
    }

    /// Answers a call of the RMM; a code if it says how its start went.
    fn rmm_call(&mut self) -> Option<BootCode> {
        let call = self.rmm_asks();
        if let El3Call::BootComplete { code, .. } = call {
            return Some(code);
        }
        let guard = SHARED_BUFFER.lock();
        // SAFETY: the page is always mapped, and who holds the lock is the only one at EL3 who uses it.
        let shared = unsafe { memory::slice_mut(layout::SHARED_BUFFER) };
        let reply = services().call(&call, shared, measure::platform);
        drop(guard);
        if matches!(call, El3Call::AttestGetPlatToken { .. } | El3Call::TokenSign { .. }) {
            wipe_stack(self.index);
        }
        self.worlds.realm.gprs[..4].copy_from_slice(&reply.to_regs());
        None
    }

    /// The call the RMM makes.
    fn rmm_asks(&self) -> El3Call {
        let mut args = [0; 12];
        args.copy_from_slice(&self.worlds.realm.gprs[..12]);
        // The function identifier is in W0.
        args[0] &= 0xffff_ffff;
        El3Call::from_regs(&args)
    }

    fn report(&mut self, world: World, exit: Exit) {
        let context = self.worlds.context(world);
        console::print(format_args!(
            "monitor: FAULT on CPU {} in the {world:?} world: {exit:?} ESR {:#x} ELR {:#x} SPSR {:#x} FAR {:#x}\n",
            self.index,
            read!("esr_el3"),
            context.elr,
            context.spsr,
            read!("far_el3")
        ));
    }
}

/// Whether the last exception was a call.
fn is_call() -> bool {
    read!("esr_el3") >> 26 & 0x3f == EC_SMC64
}

/// Whether the last exception was a call from AArch32.
fn is_call32() -> bool {
    read!("esr_el3") >> 26 & 0x3f == EC_SMC32
}

/// Whether the last exception was an instruction that EL3 refuses.
fn is_trapped() -> bool {
    is_trapped_instruction(read!("esr_el3"))
}
