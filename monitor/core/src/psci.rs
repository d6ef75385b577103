//! PSCI 1.1 for the Non-secure world (DEN0022): which CPUs run, and what a call makes of them.

use crate::layout::{MAX_CPUS, cpu_of};
use realm_abi::psci::{AffinityState, PsciCall, PsciStatus, VERSION_1_1, fid};
use realm_abi::smccc;
use spin::Mutex;

/// Function identifier of MIGRATE_INFO_TYPE.
const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
/// There is no Trusted OS that would have to be migrated.
const NO_TRUSTED_OS: u64 = 2;
/// CPU_SUSPEND's power state: the state loses the CPU's context. PSCI_FEATURES says that the format is the original one.
const POWER_DOWN: u64 = 1 << 16;
/// Bits of a power state that are reserved: it has an identifier, a type and a level.
const POWER_STATE_RESERVED: u64 = WORD & !(0xffff | POWER_DOWN | 0b11 << 24);
/// An argument of 32 bits; what a caller of the 64-bit form has above it means nothing (DEN0028 section 3).
const WORD: u64 = 0xffff_ffff;
/// Bits of an MPIDR that are an affinity.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Where a CPU starts in the Non-secure world, and with what in X0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Physical address.
    pub address: u64,
    /// X0 there.
    pub context_id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Off,
    OnPending(Entry),
    On,
    /// It cannot take part, and nothing turns it on.
    Unfit,
}

/// What to do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Return this in X0.
    Return(u64),
    /// Wake this CPU, which has an [`Entry`] now, and return success.
    Wake(usize),
    /// Turn the calling CPU off.
    Off,
    /// Wait for an interrupt, then go on: with success in X0, or at an entry if the state loses the context.
    Suspend(Option<Entry>),
    /// Turn the machine off.
    SystemOff,
    /// Reset the machine.
    SystemReset,
}

/// The power states of all CPUs.
#[derive(Debug)]
pub struct Psci {
    cpus: usize,
    power: Mutex<[Power; MAX_CPUS]>,
}

const fn status(status: PsciStatus) -> Action {
    Action::Return(status.0.cast_unsigned())
}

impl Psci {
    /// A machine of `cpus` CPUs on which the first runs.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        let mut power = [Power::Off; MAX_CPUS];
        if let Some(first) = power.first_mut() {
            *first = Power::On;
        }
        Self { cpus: cpus.min(MAX_CPUS), power: Mutex::new(power) }
    }

    /// How many CPUs there are.
    #[must_use]
    pub const fn cpus(&self) -> usize {
        self.cpus
    }

    /// Answers a call of CPU `caller`. `is_entry` tells whether an address can be an entry point: memory of the Non-secure
    /// world.
    pub fn call(&self, caller: usize, call: &PsciCall, is_entry: impl Fn(u64) -> bool) -> Action {
        match *call {
            PsciCall::Version => Action::Return(VERSION_1_1),
            PsciCall::CpuSuspend { power_state, entry_point, context_id, .. } => {
                if power_state & POWER_STATE_RESERVED != 0 {
                    return status(PsciStatus::INVALID_PARAMETERS);
                }
                if power_state & POWER_DOWN == 0 {
                    return Action::Suspend(None);
                }
                if !is_entry(entry_point) {
                    return status(PsciStatus::INVALID_ADDRESS);
                }
                Action::Suspend(Some(Entry { address: entry_point, context_id }))
            }
            PsciCall::CpuOff => {
                self.set(caller, Power::Off);
                Action::Off
            }
            PsciCall::CpuOn { target_cpu, entry_point, context_id, .. } => {
                self.on(target_cpu, Entry { address: entry_point, context_id }, is_entry)
            }
            PsciCall::AffinityInfo { target_affinity, lowest_affinity_level, .. } => {
                if lowest_affinity_level & WORD != 0 {
                    return status(PsciStatus::INVALID_PARAMETERS);
                }
                let state =
                    match self.cpu(target_affinity).and_then(|cpu| self.power.lock().get(cpu).copied()) {
                        None => return status(PsciStatus::INVALID_PARAMETERS),
                        Some(Power::On) => AffinityState::ON,
                        Some(Power::OnPending(_)) => AffinityState::ON_PENDING,
                        Some(Power::Off | Power::Unfit) => AffinityState::OFF,
                    };
                Action::Return(state.0)
            }
            PsciCall::SystemOff => Action::SystemOff,
            PsciCall::SystemReset => Action::SystemReset,
            PsciCall::Features { function } => features(function & WORD),
            PsciCall::Unknown { regs: [MIGRATE_INFO_TYPE, ..] } => Action::Return(NO_TRUSTED_OS),
            PsciCall::Unknown { .. } => status(PsciStatus::NOT_SUPPORTED),
        }
    }

    /// Where CPU `cpu` is to start, once for each CPU_ON; it counts as on from then.
    pub fn take_entry(&self, cpu: usize) -> Option<Entry> {
        let mut power = self.power.lock();
        let state = power.get_mut(cpu)?;
        let Power::OnPending(entry) = *state else { return None };
        *state = Power::On;
        Some(entry)
    }

    /// CPU `cpu` can never be turned on: it is not like the others.
    pub fn give_up(&self, cpu: usize) {
        self.set(cpu, Power::Unfit);
    }

    fn on(&self, target: u64, entry: Entry, is_entry: impl Fn(u64) -> bool) -> Action {
        let Some(cpu) = self.cpu(target) else { return status(PsciStatus::INVALID_PARAMETERS) };
        if !is_entry(entry.address) {
            return status(PsciStatus::INVALID_ADDRESS);
        }
        let mut power = self.power.lock();
        match power.get_mut(cpu) {
            None => status(PsciStatus::INVALID_PARAMETERS),
            Some(Power::On) => status(PsciStatus::ALREADY_ON),
            Some(Power::OnPending(_)) => status(PsciStatus::ON_PENDING),
            Some(Power::Unfit) => status(PsciStatus::INTERNAL_FAILURE),
            Some(state @ Power::Off) => {
                *state = Power::OnPending(entry);
                Action::Wake(cpu)
            }
        }
    }

    /// The CPU with this affinity.
    fn cpu(&self, target: u64) -> Option<usize> {
        if target & !AFFINITY != 0 {
            return None;
        }
        cpu_of(target).filter(|cpu| *cpu < self.cpus)
    }

    fn set(&self, cpu: usize, to: Power) {
        if let Some(power) = self.power.lock().get_mut(cpu) {
            *power = to;
        }
    }
}

const fn features(function: u64) -> Action {
    match function {
        fid::VERSION
        | fid::CPU_SUSPEND_32
        | fid::CPU_SUSPEND_64
        | fid::CPU_OFF
        | fid::CPU_ON_32
        | fid::CPU_ON_64
        | fid::AFFINITY_INFO_32
        | fid::AFFINITY_INFO_64
        | fid::SYSTEM_OFF
        | fid::SYSTEM_RESET
        | fid::FEATURES
        | MIGRATE_INFO_TYPE
        | smccc::VERSION => status(PsciStatus::SUCCESS),
        _ => status(PsciStatus::NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry = Entry { address: 0x6000_0000, context_id: 7 };

    fn on(psci: &Psci, target_cpu: u64) -> Action {
        let call = PsciCall::CpuOn {
            smc64: true,
            target_cpu,
            entry_point: ENTRY.address,
            context_id: ENTRY.context_id,
        };
        psci.call(0, &call, |address| address == ENTRY.address)
    }

    fn info(psci: &Psci, target_affinity: u64) -> Action {
        psci.call(
            0,
            &PsciCall::AffinityInfo { smc64: true, target_affinity, lowest_affinity_level: 0 },
            |_| true,
        )
    }

    #[test]
    fn a_cpu_is_off_then_pending_then_on_then_off() {
        let psci = Psci::new(2);
        assert_eq!(info(&psci, 1), Action::Return(1));
        assert_eq!(psci.take_entry(1), None);
        assert_eq!(on(&psci, 1), Action::Wake(1));
        assert_eq!(info(&psci, 1), Action::Return(2));
        assert_eq!(on(&psci, 1), status(PsciStatus::ON_PENDING));
        assert_eq!(psci.take_entry(1), Some(ENTRY));
        assert_eq!(psci.take_entry(1), None);
        assert_eq!(info(&psci, 1), Action::Return(0));
        assert_eq!(on(&psci, 1), status(PsciStatus::ALREADY_ON));
        assert_eq!(psci.call(1, &PsciCall::CpuOff, |_| true), Action::Off);
        assert_eq!(info(&psci, 1), Action::Return(1));
        assert_eq!(on(&psci, 1), Action::Wake(1));
    }

    #[test]
    fn a_cpu_that_is_not_like_the_others_stays_off() {
        let psci = Psci::new(2);
        assert_eq!(on(&psci, 1), Action::Wake(1));
        psci.give_up(1);
        assert_eq!(psci.take_entry(1), None);
        assert_eq!(on(&psci, 1), status(PsciStatus::INTERNAL_FAILURE));
        assert_eq!(info(&psci, 1), Action::Return(1));
    }

    #[test]
    fn a_cpu_that_is_not_there_and_an_entry_that_is_none_are_refused() {
        let psci = Psci::new(2);
        for target in [2, 8, 16, 0x100, 1 << 31 | 1, 1 << 40] {
            assert_eq!(on(&psci, target), status(PsciStatus::INVALID_PARAMETERS), "{target:#x}");
            assert_eq!(info(&psci, target), status(PsciStatus::INVALID_PARAMETERS), "{target:#x}");
        }
        let call = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: 4, context_id: 0 };
        assert_eq!(psci.call(0, &call, |_| false), status(PsciStatus::INVALID_ADDRESS));
        assert_eq!(info(&psci, 1), Action::Return(1));
        assert_eq!(on(&psci, 0), status(PsciStatus::ALREADY_ON));
    }

    #[test]
    fn a_suspend_that_loses_the_context_needs_an_entry() {
        let psci = Psci::new(1);
        let call = |power_state, entry_point| {
            let call = PsciCall::CpuSuspend { smc64: true, power_state, entry_point, context_id: 7 };
            psci.call(0, &call, |address| address == ENTRY.address)
        };
        assert_eq!(call(0, 4), Action::Suspend(None));
        assert_eq!(call(1 << 16, ENTRY.address), Action::Suspend(Some(ENTRY)));
        assert_eq!(call(1 << 16, 4), status(PsciStatus::INVALID_ADDRESS));
        for reserved in [17, 20, 26, 30, 31] {
            assert_eq!(call(1 << reserved, ENTRY.address), status(PsciStatus::INVALID_PARAMETERS));
        }
        // The power state has 32 bits.
        assert_eq!(call(1 << 32, 4), Action::Suspend(None));
    }

    #[test]
    fn features_name_what_there_is() {
        let psci = Psci::new(1);
        let ask = |function| psci.call(0, &PsciCall::Features { function }, |_| true);
        assert_eq!(ask(fid::CPU_ON_64), Action::Return(0));
        assert_eq!(ask(smccc::VERSION), Action::Return(0));
        assert_eq!(ask(0xdead_0000_0000_0000 | fid::SYSTEM_RESET), Action::Return(0));
        assert_eq!(ask(0x8400_0014), status(PsciStatus::NOT_SUPPORTED));
        assert_eq!(psci.call(0, &PsciCall::Version, |_| true), Action::Return(0x1_0001));
        let unknown = PsciCall::Unknown { regs: [0x8400_0014, 0, 0, 0] };
        assert_eq!(psci.call(0, &unknown, |_| true), status(PsciStatus::NOT_SUPPORTED));
    }
}
