//! A machine, a Host and a VMM's process, and what every test wants to know at the end.

#![allow(dead_code, reason = "each test binary uses its part")]

use realm_abi::kvm::Generation;
use realm_abi::rmi::HashAlgorithm;
use realm_host::Device;
use realm_machine::config::ClockKind;
use realm_machine::memory::Pas;
use realm_machine::{Machine, MachineConfig, MachineHost, Process};
use realm_vmm::{Guest, GuestConfig, RealmSettings, RealmVm, Stop, VmError};
use std::sync::Arc;

pub const RAM: u64 = 0x8000_0000;
/// Bytes of the test kernel's file.
pub const KERNEL_SIZE: usize = 0x2800;
pub const SETTINGS: RealmSettings =
    RealmSettings { hash: HashAlgorithm::SHA_256, rpv: Some([0x52; 64]), generation: Generation::V8 };

pub struct World {
    pub machine: Arc<Machine>,
    pub device: realm_host::Arc<Device<MachineHost>>,
}

impl World {
    pub fn new(config: MachineConfig) -> Self {
        let machine = Machine::new(config).expect("a valid size");
        let device = MachineHost::boot(Arc::clone(&machine));
        Self { machine, device }
    }

    /// 128 MiB, 4 CPUs, time that stands still.
    pub fn manual() -> Self {
        Self::new(MachineConfig { clock: ClockKind::Manual, ..MachineConfig::new(128 << 20, 4) })
    }

    pub fn process(&self) -> Process {
        Process::new(&self.device)
    }

    /// Granules that were lost.
    pub fn losses(&self) -> Vec<realm_host::rmm::ledger::Loss> {
        self.device.rmm().ledger().losses().collect()
    }

    /// Asserts that nothing went wrong and nothing is missing.
    #[track_caller]
    pub fn assert_all_back(&self) {
        self.machine.log().assert_clean();
        let ledger = self.device.statistics().ledger;
        assert_eq!((ledger.leaked, ledger.held()), (0, 0), "{:?}", self.losses());
        assert_eq!(ledger.delegated, ledger.undelegated);
        assert_eq!(self.machine.memory().count(Pas::Realm), 0);
        assert_eq!(self.device.host().pages_out(), 0);
        assert_eq!(self.device.host().pinned(), 0);
        assert_eq!(self.device.statistics().unfinished_vms, 0);
    }
}

/// An arm64 Image of [`KERNEL_SIZE`] bytes that claims 0x9000 bytes of memory.
pub fn kernel() -> Vec<u8> {
    let mut file = vec![0xaa; KERNEL_SIZE];
    file[..64].fill(0);
    file[16..24].copy_from_slice(&0x9000_u64.to_le_bytes());
    file[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

pub fn guest(ram_size: u64, cpus: u32) -> Guest {
    guest_on(ram_size, cpus, 0x1000)
}

/// A guest for a Host with other pages.
pub fn guest_on(ram_size: u64, cpus: u32, page_size: u64) -> Guest {
    let config = GuestConfig {
        kernel: &kernel(),
        initrd: Some(b"initial file system"),
        bootargs: Some("console=ttyS0"),
        ram_size,
        cpus,
        ipa_bits: None,
        page_size,
    };
    Guest::new(&config).expect("a valid plan")
}

/// Builds a realm, runs each vCPU on a thread until the realm ends, destroys it.
pub fn live(process: &Process, guest: &Guest) -> Result<Vec<u8>, VmError> {
    let vm = RealmVm::build(process, guest, &SETTINGS, &mut ())?;
    let result = run(&vm, guest.layout.cpus);
    let output = vm.output();
    vm.destroy(&mut ())?;
    result.map(|_| output)
}

/// Runs all vCPUs until the first is told that the realm has ended; that one's answer, or the first error.
pub fn run(vm: &RealmVm<'_, Process>, cpus: u32) -> Result<Stop, VmError> {
    let stops: Vec<Result<Stop, VmError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus)
            .map(|id| {
                scope.spawn(move || {
                    let stop = vm.run_vcpu(id);
                    vm.stop();
                    stop
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a vCPU thread does not panic")).collect()
    });
    if let Some(error) = stops.iter().find(|stop| stop.is_err()) {
        return error.clone();
    }
    stops.into_iter().find(|stop| *stop != Ok(Stop::Stopped)).unwrap_or(Ok(Stop::Stopped))
}

/// [`live`], with the Host core's explanations if it fails.
#[track_caller]
pub fn live_well(world: &World, guest: &Guest) -> Vec<u8> {
    let process = world.process();
    let result = live(&process, guest);
    world.machine.log().assert_clean();
    result.unwrap_or_else(|error| panic!("{error}\n{}", world.device.host().explanations().join("\n")))
}
