//! A small machine with a Host and a VMM's process, what fuzz targets do in it, and what must hold at the end.

use arbitrary::Arbitrary;
use realm_abi::kvm::Generation;
use realm_abi::psci::PsciCall;
use realm_abi::rmi::HashAlgorithm;
use realm_abi::rsi::RsiCall;
use realm_host::Device;
use realm_machine::config::ClockKind;
use realm_machine::log::Event;
use realm_machine::memory::Pas;
use realm_machine::{Machine, MachineConfig, MachineHost, Process};
use realm_vmm::{Guest, GuestConfig, RealmSettings, RealmVm, Stop, System, VmError};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// First address of RAM.
pub const RAM: u64 = realm_vmm::layout::RAM_BASE;
/// Bytes of RAM.
pub const RAM_SIZE: u64 = 4 << 20;
/// Settings of every realm.
pub const SETTINGS: RealmSettings =
    RealmSettings { hash: HashAlgorithm::SHA_256, rpv: None, generation: Generation::V8 };

/// A machine and its Host.
pub struct World {
    pub machine: Arc<Machine>,
    pub device: realm_host::Arc<Device<MachineHost>>,
}

impl Default for World {
    /// 16 MiB, 2 CPUs, time that stands still; a Host short of memory, which moves what it may at every allocation.
    fn default() -> Self {
        let config =
            MachineConfig { clock: ClockKind::Manual, reclaim: true, ..MachineConfig::new(16 << 20, 2) };
        let machine = Machine::new(config).expect("a valid size");
        Self { device: MachineHost::boot(Arc::clone(&machine)), machine }
    }
}

impl World {
    /// A VMM's process.
    pub fn process(&self) -> Process {
        Process::new(&self.device)
    }

    /// After every process has gone: nothing went wrong, and what did not come back is what the ledger says is lost. With
    /// `warnings`, the Host may have told its administrator something.
    pub fn check(&self, warnings: bool) {
        let events = self.machine.log().take();
        let serious = events.iter().find(|event| !(warnings && matches!(event, Event::HostWarning(_))));
        assert!(serious.is_none(), "the machine reports: {serious:?}");
        let statistics = self.device.statistics();
        let ledger = statistics.ledger;
        if !warnings {
            assert_eq!(ledger.leaked, 0, "nothing has failed that could lose a granule");
        }
        assert_eq!(ledger.held(), 0, "no granule is with the RMM and not lost: {ledger:?}");
        assert_eq!(
            self.machine.memory().count(Pas::Realm) as u64,
            ledger.leaked,
            "lost granules are those in the Realm world"
        );
        assert_eq!(self.device.host().pinned(), 0);
        assert_eq!(statistics.unfinished_vms, 0);
        if ledger.leaked == 0 {
            assert_eq!(self.device.host().pages_out(), 0);
        }
    }
}

/// A guest with a kernel of three pages.
pub fn guest(cpus: u32) -> Guest {
    let mut kernel = vec![0xaa; 0x2800];
    kernel[..64].fill(0);
    kernel[16..24].copy_from_slice(&0x9000_u64.to_le_bytes());
    kernel[56..60].copy_from_slice(b"ARM\x64");
    let config = GuestConfig {
        kernel: &kernel,
        initrd: None,
        bootargs: Some(""),
        ram_size: RAM_SIZE,
        cpus,
        ipa_bits: None,
        page_size: 0x1000,
    };
    Guest::new(&config).expect("a valid plan")
}

/// An address a realm might use: mostly RAM of either half or the UART.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Ipa {
    Ram { shared: bool, offset: u32 },
    Uart { shared: bool, offset: u8 },
    /// The distributor's frame, or one of the redistributors' before it.
    Gic { shared: bool, offset: u32 },
    Any(u64),
}

impl Ipa {
    /// The address, for an IPA width of 33 bits.
    pub fn address(self) -> u64 {
        const ALIAS: u64 = 1 << 32;
        let half = |shared| if shared { ALIAS } else { 0 };
        match self {
            // A page more than there is, so that the end is met.
            Self::Ram { shared, offset } => half(shared) + RAM + u64::from(offset) % (RAM_SIZE + 0x1000),
            Self::Uart { shared, offset } => {
                half(shared) + realm_vmm::layout::UART_BASE + u64::from(offset % 16)
            }
            Self::Gic { shared, offset } => {
                half(shared) + realm_vmm::layout::GIC_DIST_BASE - 0x4_0000 + u64::from(offset) % 0x5_0000
            }
            Self::Any(address) => address,
        }
    }
}

/// What a realm does.
#[derive(Arbitrary, Clone, Debug)]
pub enum GuestOp {
    Read(Ipa),
    Write(Ipa, u64),
    Bytes(Ipa, u8),
    Execute(Ipa),
    Smc([u64; 11]),
    /// An RSI call by its place in the table.
    Rsi(u8, [u64; 10]),
    /// An RSI call about memory.
    Memory {
        call: u8,
        base: Ipa,
        pages: u8,
        more: [u64; 2],
    },
    Psci {
        function: u8,
        wide: bool,
        args: [u64; 3],
    },
    Hvc,
    /// A write of ICC_SGI1R_EL1, ICC_ASGI1R_EL1, ICC_SGI0R_EL1 or ICC_DIR_EL1.
    Gic(u8, u64),
    Timer {
        physical: bool,
        ticks: u8,
    },
}

impl GuestOp {
    /// Does it. Exceptions that the realm takes are its own affair.
    pub fn run(&self, guest: &mut realm_machine::Guest) {
        match self {
            Self::Read(ipa) => {
                let _ = guest.read::<u64>(ipa.address() & !7);
            }
            Self::Write(ipa, value) => {
                let _ = guest.write::<u32>(ipa.address() & !3, *value as u32);
            }
            Self::Bytes(ipa, len) => {
                let _ = guest.read_bytes(ipa.address(), usize::from(*len));
            }
            Self::Execute(ipa) => {
                let _ = guest.exec(ipa.address() & !3);
            }
            Self::Smc(regs) => {
                let _ = guest.try_smc(regs);
            }
            Self::Rsi(call, args) => {
                let mut regs = [0; 11];
                regs[0] = RsiCall::TABLE[usize::from(*call) % RsiCall::TABLE.len()].0;
                regs[1..].copy_from_slice(args);
                let _ = guest.try_smc(&regs);
            }
            Self::Memory { call, base, pages, more } => {
                let addr = base.address() & !0xfff;
                let top = addr.wrapping_add(u64::from(*pages) << 12);
                let call = match call % 5 {
                    0 => RsiCall::IpaStateSet { base: addr, top, ripas: more[0] % 3, flags: more[1] % 3 },
                    1 => RsiCall::IpaStateGet { base: addr, top },
                    2 => RsiCall::RealmConfig { addr },
                    3 => RsiCall::HostCall { addr: base.address() & !0xff },
                    _ => RsiCall::AttestationTokenContinue {
                        addr,
                        offset: more[0] % 0x1100,
                        size: more[1] % 0x1100,
                    },
                };
                let _ = guest.try_smc(&call.to_regs());
            }
            Self::Psci { function, wide, args } => {
                // Suspending waits for an interrupt that nobody may send.
                let number = u64::from(function % 0x20);
                let base = if *wide { 0xC400_0000 } else { 0x8400_0000 };
                if number != 1 {
                    let _ = guest.try_smc(&[base | number, args[0] % 4, args[1], args[2]]);
                }
            }
            Self::Hvc => {
                let _ = guest.hvc();
            }
            Self::Gic(register, value) => {
                let op2 = [5, 6, 7, 1][usize::from(register % 4)];
                let _ = guest.msr(realm_machine::sysregs::encoding(3, 0, 12, 11, op2), *value);
            }
            Self::Timer { physical, ticks } => {
                let deadline = guest.mrs(realm_machine::sysregs::CNTVCT_EL0).unwrap_or(0) + u64::from(*ticks);
                if *physical { guest.arm_physical_timer(deadline) } else { guest.arm_virtual_timer(deadline) }
            }
        }
    }
}

/// Turns the realm off.
pub fn system_off(guest: &mut realm_machine::Guest) {
    let _ = guest.try_smc(&PsciCall::SystemOff.to_regs());
}

/// Longest a realm may run before its VMM stops it: it may wait for what nobody will do.
const PATIENCE: Duration = Duration::from_millis(100);

/// Runs vCPU 0 until it ends, or patience does.
pub fn run_for_a_while<S: System>(vm: &RealmVm<'_, S>) -> Result<Stop, VmError> {
    let (done, waiter) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if waiter.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                vm.stop();
            }
        });
        let stop = vm.run_vcpu(0);
        drop(done);
        stop
    })
}
