mod io;

use super::*;
use crate::image::tests::image;
use crate::{Guest, GuestConfig};
use realm_abi::Errno;
use realm_abi::kvm::{
    self, EnableCap, ExitMemoryFault, ExitMmio, ExitSystemEvent, FileKind, InternalError, Ioctl, IrqLevel,
    MemoryAttributes, OneReg, RealmCommand, RmePopulate, Run, SystemEvent, VcpuInit,
};
use std::collections::{BTreeMap, VecDeque};
use zerocopy::{FromBytes, IntoBytes};

const RUN_MAP_SIZE: u64 = 0x1000;

/// A kernel that agrees to everything, remembers what it was asked and runs vCPUs by a script.
struct FakeKernel {
    state: Mutex<State>,
    /// The ioctl, counted from 0, that fails with ENOMEM.
    failing: Option<usize>,
}

#[derive(Default)]
struct State {
    memory: BTreeMap<u64, Vec<u8>>,
    files: BTreeMap<i32, FileKind>,
    next: u64,
    calls: Vec<String>,
    run_page: Option<u64>,
    script: VecDeque<(Result<i64, Errno>, Run)>,
    /// The MMIO data at each KVM_RUN.
    entered_with: Vec<u64>,
    kicks: Vec<Fd>,
    /// As often as the last number says: after a write to the first address the half word at the second one counts up.
    refill: (u64, u64, u32),
}

impl FakeKernel {
    fn new(failing: Option<usize>) -> Self {
        Self { state: Mutex::new(State { next: 0x10_0000, ..State::default() }), failing }
    }

    fn is_empty(&self) -> bool {
        let state = lock(&self.state);
        state.memory.is_empty() && state.files.is_empty()
    }

    fn script(&self, result: Result<i64, Errno>, exit: impl FnOnce(&mut Run)) {
        let mut run = Run::default();
        exit(&mut run);
        lock(&self.state).script.push_back((result, run));
    }

    fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).calls)
    }
}

impl State {
    fn fresh_file(&mut self, kind: FileKind) -> i32 {
        let fd = 3 + self.files.len() as i32;
        self.files.insert(fd, kind);
        fd
    }

    fn at(&mut self, addr: u64, len: usize) -> Result<&mut [u8], Errno> {
        let (base, bytes) = self.memory.range_mut(..=addr).next_back().ok_or(Errno::EFAULT)?;
        let start = (addr - base) as usize;
        bytes.get_mut(start..start + len).ok_or(Errno::EFAULT)
    }

    fn get<T: FromBytes>(&mut self, addr: u64) -> T {
        T::read_from_bytes(self.at(addr, size_of::<T>()).unwrap()).unwrap()
    }

    /// An ioctl with the part of its argument the tests look at.
    fn describe(&mut self, ioctl: Ioctl, arg: u64) -> String {
        match ioctl {
            Ioctl::EnableCap => {
                let cap: EnableCap = self.get(arg);
                match RealmCommand(cap.args[0]) {
                    RealmCommand::POPULATE_REALM => {
                        let populate: RmePopulate = self.get(cap.args[1]);
                        format!("POPULATE_REALM {:#x}+{:#x}", populate.base, populate.size)
                    }
                    command => command.to_string(),
                }
            }
            Ioctl::SetMemoryAttributes => {
                let set: MemoryAttributes = self.get(arg);
                format!("{ioctl} {:#x}+{:#x}={}", set.address, set.size, set.attributes)
            }
            Ioctl::SetOneReg => {
                let one: OneReg = self.get(arg);
                let value: u64 = self.get(one.addr);
                format!("{ioctl} {}={value:#x}", kvm::reg::RegId(one.id))
            }
            Ioctl::IrqLine => {
                let line: IrqLevel = self.get(arg);
                format!("{ioctl} {:#x}={}", line.irq, line.level)
            }
            Ioctl::ArmVcpuInit => format!("{ioctl} {:#x}", self.get::<VcpuInit>(arg).features[0]),
            Ioctl::CreateVm => format!("{ioctl} {arg:#x}"),
            _ => ioctl.to_string(),
        }
    }
}

impl System for FakeKernel {
    fn map(&self, size: u64) -> Result<u64, Errno> {
        let mut state = lock(&self.state);
        let addr = state.next;
        state.next += size + 0x1000;
        state.memory.insert(addr, vec![0; size as usize]);
        Ok(addr)
    }

    fn unmap(&self, addr: u64, size: u64) -> Result<(), Errno> {
        let removed = lock(&self.state).memory.remove(&addr).ok_or(Errno::EINVAL)?;
        if removed.len() as u64 == size { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn discard(&self, addr: u64, size: u64) -> Result<(), Errno> {
        lock(&self.state).at(addr, size as usize)?.fill(0);
        Ok(())
    }

    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        out.copy_from_slice(lock(&self.state).at(addr, out.len())?);
        Ok(())
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        state.at(addr, bytes.len())?.copy_from_slice(bytes);
        let (written, counter, times) = state.refill;
        if times > 0 && written == addr {
            state.refill.2 -= 1;
            let next = state.get::<u16>(counter) + 1;
            state.at(counter, 2)?.copy_from_slice(&next.to_le_bytes());
        }
        Ok(())
    }

    fn open_device(&self) -> Result<Fd, Errno> {
        Ok(Fd(lock(&self.state).fresh_file(FileKind::Device)))
    }

    fn ioctl(&self, fd: Fd, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let mut state = lock(&self.state);
        let kind = *state.files.get(&fd.0).ok_or(Errno::EBADF)?;
        let ioctl = Ioctl::parse(&Generation::V8, kind, cmd);
        let described = state.describe(ioctl, arg);
        state.calls.push(described);
        if self.failing == Some(state.calls.len() - 1) {
            return Err(Errno::ENOMEM);
        }
        Ok(match ioctl {
            Ioctl::GetApiVersion => kvm::API_VERSION,
            Ioctl::CheckExtension => 2,
            Ioctl::CreateVm => state.fresh_file(FileKind::Vm).into(),
            Ioctl::CreateVcpu => state.fresh_file(FileKind::Vcpu).into(),
            Ioctl::GetVcpuMmapSize => RUN_MAP_SIZE as i64,
            Ioctl::CreateGuestMemfd => state.fresh_file(FileKind::Emulated).into(),
            Ioctl::CreateDevice => {
                let device = state.fresh_file(FileKind::Emulated);
                state.at(arg + 4, 4)?.copy_from_slice(&device.to_le_bytes());
                0
            }
            Ioctl::Run => {
                let (result, run) = state.script.pop_front().expect("a scripted exit");
                let page = state.run_page.expect("a mapped page");
                let data = state.get(page + 40);
                state.entered_with.push(data);
                state.at(page, 288)?.copy_from_slice(&run.as_bytes()[..288]);
                result?
            }
            Ioctl::Unknown(_) => return Err(Errno::ENOTTY),
            _ => 0,
        })
    }

    fn map_run(&self, _vcpu: Fd, size: u64) -> Result<u64, Errno> {
        let addr = self.map(size)?;
        lock(&self.state).run_page.get_or_insert(addr);
        Ok(addr)
    }

    fn kick(&self, vcpu: Fd) {
        lock(&self.state).kicks.push(vcpu);
    }

    fn close(&self, fd: Fd) {
        assert!(lock(&self.state).files.remove(&fd.0).is_some(), "{fd:?} is closed once");
    }
}

const SETTINGS: RealmSettings =
    RealmSettings { hash: HashAlgorithm::SHA_256, rpv: Some([7; RPV_SIZE]), generation: Generation::V8 };

fn guest() -> Guest {
    guest_with_pages(0x1000)
}

fn guest_with_pages(page_size: u64) -> Guest {
    let config = GuestConfig {
        kernel: &image(0x2800, 0x9000),
        initrd: Some(&[1, 2, 3]),
        bootargs: None,
        ram_size: 0x40_0000,
        cpus: 2,
        ipa_bits: None,
        page_size,
    };
    Guest::new(&config).unwrap()
}

fn build(kernel: &FakeKernel) -> RealmVm<'_, FakeKernel> {
    let vm = RealmVm::build(kernel, &guest(), &SETTINGS, &mut ()).unwrap();
    kernel.take_calls();
    vm
}

fn fault(flags: u64, gpa: u64, size: u64) -> impl FnOnce(&mut Run) {
    move |run| run.set_memory_fault(&ExitMemoryFault { flags, gpa, size })
}

fn mmio(phys_addr: u64, write: Option<u8>) -> impl FnOnce(&mut Run) {
    access(phys_addr, 1, write.map(u64::from))
}

fn access(phys_addr: u64, len: u32, write: Option<u64>) -> impl FnOnce(&mut Run) {
    move |run| {
        let data = write.unwrap_or(0).to_le_bytes();
        let is_write = write.is_some().into();
        run.set_mmio(&ExitMmio { phys_addr, len, is_write, data, ..Default::default() });
    }
}

fn shutdown(run: &mut Run) {
    run.set_system_event(&ExitSystemEvent { event: SystemEvent::SHUTDOWN, ndata: 0, data: [0; 16] });
}

#[test]
fn a_realm_is_built_in_the_order_the_interface_asks_for() {
    let kernel = FakeKernel::new(None);
    let vm = RealmVm::build(&kernel, &guest(), &SETTINGS, &mut ()).unwrap();
    let expected = [
        "KVM_GET_API_VERSION",
        "KVM_CHECK_EXTENSION",
        "KVM_CREATE_VM 0x121",
        "KVM_CHECK_EXTENSION",
        "KVM_CREATE_GUEST_MEMFD",
        "KVM_SET_USER_MEMORY_REGION2",
        "KVM_GET_VCPU_MMAP_SIZE",
        "KVM_ARM_PREFERRED_TARGET",
        "KVM_CREATE_VCPU",
        "KVM_ARM_VCPU_INIT 0x204",
        "KVM_CREATE_VCPU",
        "KVM_ARM_VCPU_INIT 0x205",
        "KVM_CREATE_DEVICE",
        "KVM_SET_DEVICE_ATTR",
        "KVM_SET_DEVICE_ATTR",
        "KVM_SET_DEVICE_ATTR",
        "KVM_SET_DEVICE_ATTR",
        "KVM_SET_MEMORY_ATTRIBUTES 0x80000000+0x400000=8",
        "CONFIG_REALM",
        "CONFIG_REALM",
        "CREATE_REALM",
        "INIT_RIPAS_REALM",
        "POPULATE_REALM 0x80000000+0x3000",
        "POPULATE_REALM 0x801ff000+0x1000",
        "POPULATE_REALM 0x80200000+0x1000",
        "KVM_SET_ONE_REG x0=0x80200000",
        "KVM_SET_ONE_REG pc=0x80000000",
        "KVM_ARM_VCPU_FINALIZE",
        "KVM_ARM_VCPU_FINALIZE",
        "ACTIVATE_REALM",
    ];
    assert_eq!(kernel.take_calls(), expected);
    assert!(vm.destroy(&mut ()).is_ok());
    assert!(kernel.is_empty());
}

#[test]
fn all_memory_is_whole_pages_of_the_host() {
    let kernel = FakeKernel::new(None);
    let vm = RealmVm::build(&kernel, &guest_with_pages(0x1_0000), &SETTINGS, &mut ()).unwrap();
    let state = lock(&kernel.state);
    let run_pages: Vec<u64> = vm.vcpus.iter().map(|vcpu| vcpu.run).collect();
    let mut maps = state.memory.iter().filter(|(addr, _)| !run_pages.contains(addr));
    assert!(maps.all(|(_, bytes)| bytes.len().is_multiple_of(0x1_0000)));
    drop(state);
}

#[test]
fn whichever_ioctl_fails_is_named_and_nothing_is_left_behind() {
    for failing in 0..30 {
        let kernel = FakeKernel::new(Some(failing));
        let error = RealmVm::build(&kernel, &guest(), &SETTINGS, &mut ()).err().expect("it fails");
        let call = kernel.take_calls().pop().expect("a call");
        let name = call.split(' ').next().unwrap_or_default();
        let message = error.to_string();
        assert!(message.contains(name) && message.contains("ENOMEM"), "{message} names {name}");
        assert!(!message.contains('\n'));
        assert!(kernel.is_empty(), "after {name}");
    }
}

#[test]
fn what_the_realm_prints_is_collected() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    for byte in *b"ok" {
        kernel.script(Ok(0), mmio(0x100_0000, Some(byte)));
    }
    kernel.script(Ok(0), shutdown);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    assert_eq!(vm.output(), b"ok");
    assert_eq!(vm.exits(), BTreeMap::from([(ExitReason::MMIO, 2), (ExitReason::SYSTEM_EVENT, 1)]));
}

#[test]
fn a_read_of_the_uart_is_answered_in_the_shared_page() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    kernel.script(Ok(0), mmio(0x100_0005, None));
    kernel.script(Ok(0), shutdown);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    assert_eq!(lock(&kernel.state).entered_with, [0, 0x60], "transmitter empty");
}

#[test]
fn an_access_to_nothing_is_answered_with_an_abort() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    kernel.script(Ok(0), mmio(0x900_0000, None));
    kernel.script(Ok(0), shutdown);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::Event(SystemEvent::SHUTDOWN)));
    assert_eq!(kernel.take_calls(), ["KVM_RUN", "KVM_SET_VCPU_EVENTS", "KVM_RUN"]);
}

#[test]
fn memory_becomes_what_the_realm_expects() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    let shared = vm.shared_ram + 0x1000;
    kernel.write(shared, &[9]).unwrap();
    kernel.script(Err(Errno::EFAULT), fault(0, 0x8000_1000, 0x1000));
    kernel.script(Err(Errno::EFAULT), fault(kvm::MEMORY_FAULT_PRIVATE, 0x8000_1000, 0x2000));
    kernel.script(Ok(0), |run| run.exit_reason = ExitReason::UNKNOWN);
    assert_eq!(vm.run_vcpu(0), Ok(Stop::RealmOff));
    assert_eq!(
        kernel.take_calls(),
        [
            "KVM_RUN",
            "KVM_SET_MEMORY_ATTRIBUTES 0x80001000+0x1000=0",
            "KVM_RUN",
            "KVM_SET_MEMORY_ATTRIBUTES 0x80001000+0x2000=8",
            "KVM_RUN",
        ]
    );
    let mut byte = [1];
    kernel.read(shared, &mut byte).unwrap();
    assert_eq!(byte, [0], "the shared page is dropped");
}

#[test]
fn the_vmm_reads_what_the_realm_shares_and_nothing_outside_ram() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    kernel.write(vm.shared_ram + 0x1000, &[1, 2]).unwrap();
    let mut bytes = [0; 2];
    vm.read_shared(0x8000_1000, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2]);
    let outside = VmError::NotRam { base: 0x803f_ffff, size: 2 };
    assert_eq!(vm.read_shared(0x803f_ffff, &mut bytes), Err(outside));
}

#[test]
fn a_fault_outside_ram_ends_the_vcpu() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    kernel.script(Err(Errno::EFAULT), fault(8, 0x803f_f000, 0x2000));
    let error = VmError::FaultOutsideRam { vcpu: 0, base: 0x803f_f000, size: 0x2000 };
    assert_eq!(vm.run_vcpu(0), Err(error));
    kernel.script(Err(Errno::EFAULT), fault(8, u64::MAX, 0x2000));
    assert!(matches!(vm.run_vcpu(0), Err(VmError::FaultOutsideRam { .. })));
}

#[test]
fn a_fault_that_never_ends_is_noticed() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    for _ in 0..100 {
        kernel.script(Err(Errno::EFAULT), fault(8, 0x8000_0000, 0x1000));
    }
    assert_eq!(vm.run_vcpu(0), Err(VmError::NoProgress { vcpu: 0, base: 0x8000_0000 }));
}

#[test]
fn interruptions_are_retried_and_errors_are_not() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    kernel.script(Err(Errno::EINTR), |_| {});
    kernel.script(Err(Errno::EAGAIN), |_| {});
    kernel.script(Err(Errno::ENXIO), |_| {});
    let error = vm.run_vcpu(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "KVM_RUN failed: ENXIO (the RMM refused; the kernel's log names its status)"
    );
    kernel.script(Err(Errno::EFAULT), |_| {});
    assert!(matches!(vm.run_vcpu(0), Err(VmError::Ioctl { errno: Errno::EFAULT, .. })));
    assert_eq!(vm.run_vcpu(2), Err(VmError::NoVcpu(2)));
}

#[test]
fn an_internal_error_is_told_with_its_data() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    kernel.script(Ok(0), |run| {
        let mut error = kvm::ExitInternalError {
            suberror: InternalError::UNEXPECTED_EXIT_REASON,
            ndata: 1,
            data: [0; 16],
        };
        error.data[0] = 0x42;
        run.set_internal_error(&error);
    });
    let error = vm.run_vcpu(0).unwrap_err();
    assert_eq!(error.to_string(), "vCPU 0 cannot go on: KVM reports UNEXPECTED_EXIT_REASON [42]");
}

#[test]
fn stop_kicks_every_vcpu() {
    let kernel = FakeKernel::new(None);
    let vm = build(&kernel);
    vm.stop();
    assert_eq!(lock(&kernel.state).kicks.len(), 2);
    assert_eq!(vm.run_vcpu(1), Ok(Stop::Stopped));
}

#[test]
fn a_step_that_fails_still_ends() {
    #[derive(Default)]
    struct Log(Vec<String>);
    impl Progress for Log {
        fn begin(&mut self, step: Step) {
            self.0.push(format!("+{step}"));
        }
        fn end(&mut self, step: Step) {
            self.0.push(format!("-{step}"));
        }
    }
    let mut log = Log::default();
    assert!(RealmVm::build(&FakeKernel::new(Some(4)), &guest(), &SETTINGS, &mut log).is_err());
    assert_eq!(log.0, ["+create vm", "-create vm", "+memory", "-memory"]);
}
