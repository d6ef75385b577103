//! A small VMM, one ioctl at a time.

use realm_abi::Errno;
use realm_abi::kvm::reg::RegId;
use realm_abi::kvm::{
    CreateDevice, CreateGuestMemfd, DeviceAttr, DeviceType, EnableCap, Generation, MEMORY_ATTRIBUTE_PRIVATE,
    MemRegionFlags, MemoryAttributes, MpState, OneReg, POPULATE_MEASURE, RealmCommand, RmeInitRipas,
    RmePopulate, Run, TARGET_GENERIC_V8, UserMemoryRegion2, VGIC_CTRL_INIT, VGIC_GRP_ADDR, VGIC_GRP_CTRL,
    VGIC_V3_ADDR_DIST, VGIC_V3_ADDR_REDIST, VcpuFeature, VcpuInit, VmType, numbers,
};
use realm_host::host::Owner;
use realm_host::{Device, Limits};
use realm_machine::config::ClockKind;
use realm_machine::host::MachineHost;
use realm_machine::process::Process;
use realm_machine::{Machine, MachineConfig};
use realm_vmm::{Fd, System};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const V8: Generation = Generation::V8;
pub const RAM: u64 = 0x8000_0000;
pub const RAM_SIZE: u64 = 8 << 20;
pub const IPA_BITS: u8 = 33;
/// The bit that makes an address an unprotected one.
pub const SHARED: u64 = 1 << (IPA_BITS - 1);
pub const DIST: u64 = 0x3fff_0000;
pub const REDIST: u64 = 0x3ff0_0000;
pub const PAGE: u64 = 4096;
/// Bytes populated by [`Vmm::at`] where the Host has pages of 4 KiB.
pub const IMAGE_SIZE: u64 = 2 * PAGE;

/// How far a VM is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// KVM_CREATE_VM.
    Vm,
    /// Memory, vCPUs with features, GIC.
    Machine,
    /// CREATE_REALM.
    Created,
    /// INIT_RIPAS of all RAM, two pages populated.
    Populated,
    /// RECs, ACTIVATE, all RAM private.
    Active,
}

/// A process with one VM.
pub struct Vmm {
    pub machine: Arc<Machine>,
    pub device: realm_host::Arc<Device<MachineHost>>,
    pub process: Process,
    pub dev: Fd,
    pub vm: Fd,
    pub vcpus: Vec<Fd>,
    pub runs: Vec<u64>,
    pub gic: Option<Fd>,
    /// Where the process sees the shared side of RAM.
    pub ram: u64,
    pub scratch: u64,
}

pub fn rec_features() -> VcpuInit {
    let init = VcpuInit { target: TARGET_GENERIC_V8, ..VcpuInit::default() };
    init.with(VcpuFeature::PSCI_0_2).with(V8.rec_feature())
}

pub fn boot() -> Arc<Machine> {
    boot_with_pages(12)
}

/// A machine whose Host has pages of `1 << shift` bytes.
pub fn boot_with_pages(shift: u32) -> Arc<Machine> {
    let clock = ClockKind::Manual;
    // The Host moves what it may whenever it allocates, as one short of memory.
    let (reclaim, disturb) = (true, true);
    let config =
        MachineConfig { clock, host_page_shift: shift, reclaim, disturb, ..MachineConfig::new(64 << 20, 4) };
    Machine::new(config).expect("a valid size")
}

impl Vmm {
    /// A VM with `vcpus` vCPUs, made as far as `stage`.
    pub fn at(machine: &Arc<Machine>, stage: Stage, vcpus: u32) -> Self {
        Self::with_limits(machine, stage, vcpus, Limits::default())
    }

    /// [`Self::at`] with what an administrator chooses.
    pub fn with_limits(machine: &Arc<Machine>, stage: Stage, vcpus: u32, limits: Limits) -> Self {
        let device = MachineHost::boot_with(Arc::clone(machine), limits);
        Self::of(machine, device, Owner { user: 0, privileged: true }, stage, vcpus)
    }

    /// [`Self::at`] of this owner, beside other VMs.
    pub fn of(
        machine: &Arc<Machine>,
        device: realm_host::Arc<Device<MachineHost>>,
        owner: Owner,
        stage: Stage,
        vcpus: u32,
    ) -> Self {
        let process = Process::of(&device, owner);
        let dev = process.open_device().expect("the device opens");
        let page = 1 << machine.config().host_page_shift;
        let scratch = process.map(2 * page).expect("memory for arguments");
        let ram = process.map(RAM_SIZE).expect("memory for RAM");
        let mut vmm = Self {
            machine: Arc::clone(machine),
            device,
            process,
            dev,
            vm: dev,
            vcpus: Vec::new(),
            runs: Vec::new(),
            gic: None,
            ram,
            scratch,
        };
        vmm.vm = vmm.create_vm(IPA_BITS).expect("a VM");
        if stage >= Stage::Machine {
            vmm.add_memory();
            (0..vcpus).for_each(|id| vmm.add_vcpu(id, &rec_features()));
            vmm.add_gic();
        }
        if stage >= Stage::Created {
            vmm.realm(RealmCommand::CREATE_REALM, &()).expect("CREATE_REALM");
        }
        if stage >= Stage::Populated {
            vmm.init_ripas(RAM, RAM_SIZE).expect("INIT_RIPAS");
            let image: Vec<u8> = (0..2 * page).map(|at| (at / 16) as u8).collect();
            vmm.process.write(ram, &image).expect("the image");
            vmm.populate(RAM, 2 * page).expect("POPULATE");
        }
        if stage >= Stage::Active {
            vmm.activate();
        }
        vmm
    }

    pub fn create_vm(&self, ipa_bits: u8) -> Result<Fd, Errno> {
        let arg = V8.vm_type_arg(VmType { realm: true, ipa_bits });
        self.process.ioctl(self.dev, numbers::CREATE_VM, arg).map(|fd| Fd(fd as i32))
    }

    /// An ioctl with a structure.
    pub fn with<T: IntoBytes + Immutable>(&self, fd: Fd, cmd: u32, arg: &T) -> Result<i64, Errno> {
        self.process.write(self.scratch, arg.as_bytes()).expect("the scratch page");
        self.process.ioctl(fd, cmd, self.scratch)
    }

    /// The structure the last [`Self::with`] left.
    pub fn answer<T: FromBytes + IntoBytes>(&self) -> T {
        let mut value = T::new_zeroed();
        self.process.read(self.scratch, value.as_mut_bytes()).expect("the scratch page");
        value
    }

    /// Puts something behind the structure of [`Self::with`].
    pub fn inner<T: IntoBytes + Immutable>(&self, value: &T) -> u64 {
        let addr = self.scratch + PAGE;
        self.process.write(addr, value.as_bytes()).expect("the scratch page");
        addr
    }

    pub fn realm<T: IntoBytes + Immutable>(&self, command: RealmCommand, arg: &T) -> Result<i64, Errno> {
        let inner = self.inner(arg);
        self.with(self.vm, numbers::ENABLE_CAP, &EnableCap::realm(&V8, command, inner))
    }

    pub fn init_ripas(&self, base: u64, size: u64) -> Result<i64, Errno> {
        self.realm(RealmCommand::INIT_RIPAS_REALM, &RmeInitRipas { base, size, reserved: [0; 2] })
    }

    pub fn populate(&self, base: u64, size: u64) -> Result<i64, Errno> {
        let request = RmePopulate { base, size, flags: POPULATE_MEASURE, reserved: [0; 3] };
        self.realm(RealmCommand::POPULATE_REALM, &request)
    }

    pub fn memfd(&self, size: u64) -> Fd {
        let request = CreateGuestMemfd { size, ..CreateGuestMemfd::default() };
        Fd(self.with(self.vm, numbers::CREATE_GUEST_MEMFD, &request).expect("a guest_memfd") as i32)
    }

    pub fn slot(&self, slot: u32, base: u64, size: u64, memfd: Option<Fd>) -> UserMemoryRegion2 {
        UserMemoryRegion2 {
            slot,
            flags: if memfd.is_some() { MemRegionFlags::GUEST_MEMFD.bits() } else { 0 },
            guest_phys_addr: base,
            memory_size: size,
            userspace_addr: self.ram,
            guest_memfd: memfd.map_or(0, |fd| fd.0 as u32),
            ..UserMemoryRegion2::default()
        }
    }

    pub fn set_slot(&self, region: &UserMemoryRegion2) -> Result<i64, Errno> {
        self.with(self.vm, numbers::SET_USER_MEMORY_REGION2, region)
    }

    pub fn set_private(&self, base: u64, size: u64, private: bool) -> Result<i64, Errno> {
        let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
        let request = MemoryAttributes { address: base, size, attributes, flags: 0 };
        self.with(self.vm, numbers::SET_MEMORY_ATTRIBUTES, &request)
    }

    pub fn add_memory(&self) {
        let memfd = self.memfd(RAM_SIZE);
        self.set_slot(&self.slot(0, RAM, RAM_SIZE, Some(memfd))).expect("a slot");
        self.process.close(memfd);
    }

    pub fn add_vcpu(&mut self, id: u32, init: &VcpuInit) {
        let fd = Fd(self.process.ioctl(self.vm, numbers::CREATE_VCPU, u64::from(id)).expect("a vCPU") as i32);
        let init = if id == 0 { *init } else { init.with(VcpuFeature::POWER_OFF) };
        self.with(fd, numbers::ARM_VCPU_INIT, &init).expect("vCPU features");
        self.runs.push(
            self.process.map_run(fd, 1 << self.machine.config().host_page_shift).expect("the run page"),
        );
        self.vcpus.push(fd);
    }

    pub fn create_gic(&self, device_type: DeviceType) -> Result<Fd, Errno> {
        let request = CreateDevice { device_type: device_type.0, fd: 0, flags: 0 };
        self.with(self.vm, numbers::CREATE_DEVICE, &request)?;
        Ok(Fd(self.answer::<CreateDevice>().fd as i32))
    }

    pub fn set_gic(&self, group: u32, attr: u64, value: u64) -> Result<i64, Errno> {
        let addr = self.inner(&value);
        let gic = self.gic.expect("there is a GIC");
        self.with(gic, numbers::SET_DEVICE_ATTR, &DeviceAttr { flags: 0, group, attr, addr })
    }

    pub fn add_gic(&mut self) {
        self.gic = Some(self.create_gic(DeviceType::ARM_VGIC_V3).expect("a GIC"));
        self.set_gic(VGIC_GRP_ADDR, VGIC_V3_ADDR_DIST, DIST).expect("the distributor");
        self.set_gic(VGIC_GRP_ADDR, VGIC_V3_ADDR_REDIST, REDIST).expect("the redistributors");
        self.set_gic(VGIC_GRP_CTRL, VGIC_CTRL_INIT, 0).expect("the GIC starts");
    }

    pub fn set_reg<T: IntoBytes + Immutable>(&self, vcpu: usize, id: RegId, value: &T) -> Result<i64, Errno> {
        let addr = self.inner(value);
        self.with(self.vcpus[vcpu], numbers::SET_ONE_REG, &OneReg { id: id.0, addr })
    }

    pub fn get_reg(&self, vcpu: usize, id: RegId) -> Result<u64, Errno> {
        let addr = self.inner(&0_u64);
        self.with(self.vcpus[vcpu], numbers::GET_ONE_REG, &OneReg { id: id.0, addr })?;
        let mut value = 0_u64;
        self.process.read(addr, value.as_mut_bytes()).expect("the scratch page");
        Ok(value)
    }

    pub fn finalize(&self, vcpu: usize, feature: u32) -> Result<i64, Errno> {
        self.with(self.vcpus[vcpu], numbers::ARM_VCPU_FINALIZE, &feature)
    }

    pub fn activate(&self) {
        self.set_reg(0, RegId::PC, &RAM).expect("the entry point");
        (0..self.vcpus.len()).for_each(|vcpu| {
            self.finalize(vcpu, V8.vcpu_rec).expect("a REC");
        });
        self.set_private(RAM, RAM_SIZE, true).expect("private RAM");
        self.realm(RealmCommand::ACTIVATE_REALM, &()).expect("ACTIVATE");
    }

    pub fn run(&self, vcpu: usize) -> Result<i64, Errno> {
        self.process.ioctl(self.vcpus[vcpu], numbers::RUN, 0)
    }

    /// What the last KVM_RUN said.
    pub fn exit(&self, vcpu: usize) -> Run {
        let mut run = Run::default();
        self.process.read(self.runs[vcpu], run.as_mut_bytes()).expect("the run page");
        run
    }

    /// Answers an MMIO read.
    pub fn answer_mmio(&self, vcpu: usize, value: u64) {
        let data = self.runs[vcpu] + Run::EXIT_OFFSET as u64 + 8;
        self.process.write(data, value.as_bytes()).expect("the run page");
    }

    pub fn power(&self, vcpu: usize) -> MpState {
        self.with(self.vcpus[vcpu], numbers::GET_MP_STATE, &0_u32).expect("KVM_GET_MP_STATE");
        self.answer()
    }

    /// Ends the process and checks that all it had came back and nothing went wrong.
    pub fn end(self) {
        let Self { machine, device, process, .. } = self;
        process.exit();
        drop(process);
        let statistics = device.statistics();
        assert_eq!(
            (statistics.unfinished_vms, statistics.ledger.held(), statistics.ledger.leaked),
            (0, 0, 0),
            "{:?}",
            device.host().explanations()
        );
        assert_eq!((device.host().pages_out(), device.host().pinned()), (0, 0), "pages out and pinned");
        machine.log().assert_clean();
    }
}
