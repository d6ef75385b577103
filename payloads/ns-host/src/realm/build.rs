//! From an open device to a realm that can run.

use super::{Caller, IPA_BITS, RAM_BASE, RAM_SIZE, Realm, vcpu};
use crate::device::Devices;
use crate::host::{BareHost, User};
use crate::{guest, memory};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32};
use realm_abi::Errno;
use realm_abi::kvm::{
    self, CreateDevice, CreateGuestMemfd, DeviceAttr, DeviceType, EnableCap, Generation, Ioctl,
    MEMORY_ATTRIBUTE_PRIVATE, MemRegionFlags, MemoryAttributes, OneReg, RealmCommand, RmeConfig,
    RmeInitRipas, RmePopulate, UserMemoryRegion2, VcpuFeature, VcpuInit, VmType, reg::RegId,
};
use realm_abi::rmi::HashAlgorithm;
use realm_el2::lock::Mutex;
use realm_host::{Device, File, Host};
use zerocopy::{Immutable, IntoBytes};

const DIST: u64 = 0x3fff_0000;
const REDIST_SIZE: u64 = 0x2_0000;
const IRQS: u32 = 64;

/// What distinguishes a realm from others.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// vCPUs.
    pub cpus: usize,
    /// X0 of the first.
    pub argument: u64,
    /// Hash of its measurements.
    pub hash: HashAlgorithm,
    /// Whether it has SVE and a PMU.
    pub full: bool,
}

impl Realm {
    /// Builds a realm from the appended program, up to and with its activation.
    ///
    /// # Errors
    /// What failed, and how. What had been made is given back.
    pub fn build(
        device: &realm_host::Arc<Device<BareHost>>,
        settings: &Settings,
    ) -> Result<Arc<Self>, (&'static str, Errno)> {
        let mut builder = Builder { device, files: Vec::new(), shared: 0 };
        match builder.build(settings) {
            Ok((vm, vcpus)) => Ok(Arc::new(Self {
                device: device.clone(),
                files: builder.files,
                vm,
                vcpus,
                shared: builder.shared,
                devices: Mutex::new(Devices::new()),
                stopping: AtomicBool::new(false),
            })),
            Err(error) => {
                for fd in builder.files.iter().rev() {
                    device.host().close(*fd);
                }
                if builder.shared != 0 && memory::free(builder.shared, RAM_PAGES).is_err() {
                    device.host().warn(format_args!("a shared page is another world's"));
                }
                Err(error)
            }
        }
    }
}

const RAM_PAGES: usize = (RAM_SIZE / memory::PAGE) as usize;

/// Names the step that failed.
trait Step<T> {
    fn step(self, name: &'static str) -> Result<T, (&'static str, Errno)>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, name: &'static str) -> Result<T, (&'static str, Errno)> {
        self.map_err(|error| (name, error))
    }
}

struct Builder<'a> {
    device: &'a realm_host::Arc<Device<BareHost>>,
    files: Vec<i32>,
    shared: u64,
}

type Vcpus = Vec<(i32, realm_host::Arc<realm_host::Vcpu<BareHost>>)>;

impl Builder<'_> {
    fn keep(&mut self, fd: i64) -> i32 {
        let fd = fd as i32;
        self.files.push(fd);
        fd
    }

    fn build(&mut self, settings: &Settings) -> Result<(i32, Vcpus), (&'static str, Errno)> {
        let never = AtomicBool::new(false);
        let host = self.device.host();
        let caller = Caller { host, user: User { stop: &never, patience: AtomicU32::new(u32::MAX) } };
        let device = host.install_file(File::Device(self.device.clone())).step("open")?;
        let device = self.keep(device.into());
        let vm_type = Generation::V8.vm_type_arg(VmType { realm: true, ipa_bits: IPA_BITS });
        let vm = caller.value(device, Ioctl::CreateVm, vm_type).step("CREATE_VM")?;
        let vm = self.keep(vm);
        self.add_memory(&caller, vm).step("memory")?;
        let vcpus = (0..settings.cpus)
            .map(|id| self.add_vcpu(&caller, vm, id, settings.full))
            .collect::<Result<Vcpus, Errno>>()
            .step("vCPUs")?;
        self.add_gic(&caller, vm, settings.cpus).step("GIC")?;
        let all = MemoryAttributes {
            address: RAM_BASE,
            size: RAM_SIZE,
            attributes: MEMORY_ATTRIBUTE_PRIVATE,
            flags: 0,
        };
        let size = (guest::image().len() as u64).next_multiple_of(memory::PAGE);
        memory::write(self.shared, guest::image());
        caller.with(vm, Ioctl::SetMemoryAttributes, &all).step("attributes")?;
        let hash = RmeConfig::hash_algo(u32::from(settings.hash.0));
        realm(&caller, vm, RealmCommand::CONFIG_REALM, &hash).step("CONFIG_REALM")?;
        realm(&caller, vm, RealmCommand::CREATE_REALM, &()).step("CREATE_REALM")?;
        let ram = RmeInitRipas { base: RAM_BASE, size: RAM_SIZE, reserved: [0; 2] };
        realm(&caller, vm, RealmCommand::INIT_RIPAS_REALM, &ram).step("INIT_RIPAS_REALM")?;
        let content = RmePopulate { base: RAM_BASE, size, flags: kvm::POPULATE_MEASURE, reserved: [0; 3] };
        realm(&caller, vm, RealmCommand::POPULATE_REALM, &content).step("POPULATE_REALM")?;
        for (id, (fd, _)) in vcpus.iter().enumerate() {
            if id == 0 {
                self.set_register(&caller, *fd, RegId::x(0), settings.argument).step("X0")?;
                self.set_register(&caller, *fd, Some(RegId::PC), RAM_BASE).step("PC")?;
            }
            caller.with(*fd, Ioctl::ArmVcpuFinalize, &Generation::V8.rec_feature().0).step("FINALIZE")?;
        }
        realm(&caller, vm, RealmCommand::ACTIVATE_REALM, &()).step("ACTIVATE_REALM")?;
        // What the realm shares later begins empty.
        for page in (self.shared..).step_by(memory::PAGE as usize).take((size / memory::PAGE) as usize) {
            memory::write(page, &[0; memory::PAGE as usize]);
        }
        Ok((vm, vcpus))
    }

    /// RAM's two sides. The shared one is a single block, so every 2 MiB of it are mapped as one.
    fn add_memory(&mut self, caller: &Caller<'_>, vm: i32) -> Result<(), Errno> {
        self.shared = memory::alloc(RAM_PAGES).ok_or(Errno::ENOMEM)?;
        let create = CreateGuestMemfd { size: RAM_SIZE, ..Default::default() };
        let memfd = caller.with(vm, Ioctl::CreateGuestMemfd, &create)?;
        let memfd = self.keep(memfd);
        let region = UserMemoryRegion2 {
            flags: MemRegionFlags::GUEST_MEMFD.bits(),
            guest_phys_addr: RAM_BASE,
            memory_size: RAM_SIZE,
            userspace_addr: self.shared,
            guest_memfd: memfd as u32,
            ..Default::default()
        };
        caller.with(vm, Ioctl::SetUserMemoryRegion2, &region).map(drop)
    }

    fn add_vcpu(
        &mut self,
        caller: &Caller<'_>,
        vm: i32,
        id: usize,
        full: bool,
    ) -> Result<(i32, realm_host::Arc<realm_host::Vcpu<BareHost>>), Errno> {
        let fd = caller.value(vm, Ioctl::CreateVcpu, id as u64)?;
        let fd = self.keep(fd);
        let mut init = VcpuInit::default();
        caller.exchange(vm, Ioctl::ArmPreferredTarget, &mut init)?;
        let init = init.with(VcpuFeature::PSCI_0_2).with(Generation::V8.rec_feature());
        let init = if id == 0 { init } else { init.with(VcpuFeature::POWER_OFF) };
        let init = if full { init.with(VcpuFeature::SVE).with(VcpuFeature::PMU_V3) } else { init };
        caller.with(fd, Ioctl::ArmVcpuInit, &init)?;
        if full {
            caller.with(fd, Ioctl::ArmVcpuFinalize, &VcpuFeature::SVE.0)?;
        }
        Ok((fd, vcpu(caller.host, fd)?))
    }

    fn add_gic(&mut self, caller: &Caller<'_>, vm: i32, cpus: usize) -> Result<(), Errno> {
        let mut create = CreateDevice { device_type: DeviceType::ARM_VGIC_V3.0, ..Default::default() };
        caller.exchange(vm, Ioctl::CreateDevice, &mut create)?;
        let gic = self.keep(create.fd.into());
        let set = |group, attr, value: u64| {
            let addr = (&raw const value).expose_provenance() as u64;
            caller.with(gic, Ioctl::SetDeviceAttr, &DeviceAttr { flags: 0, group, attr, addr }).map(drop)
        };
        set(kvm::VGIC_GRP_ADDR, kvm::VGIC_V3_ADDR_DIST, DIST)?;
        set(kvm::VGIC_GRP_ADDR, kvm::VGIC_V3_ADDR_REDIST, DIST - REDIST_SIZE * cpus as u64)?;
        set(kvm::VGIC_GRP_NR_IRQS, 0, IRQS.into())?;
        set(kvm::VGIC_GRP_CTRL, kvm::VGIC_CTRL_INIT, 0)
    }

    fn set_register(&self, caller: &Caller<'_>, fd: i32, id: Option<RegId>, value: u64) -> Result<(), Errno> {
        let id = id.ok_or(Errno::ENOENT)?.0;
        let addr = (&raw const value).expose_provenance() as u64;
        caller.with(fd, Ioctl::SetOneReg, &OneReg { id, addr }).map(drop)
    }
}

/// A realm command with its structure; `&()` where it has none.
fn realm<T: IntoBytes + Immutable>(
    caller: &Caller<'_>,
    vm: i32,
    command: RealmCommand,
    arg: &T,
) -> Result<(), Errno> {
    let inner = if size_of::<T>() == 0 { 0 } else { core::ptr::from_ref(arg).expose_provenance() as u64 };
    caller.with(vm, Ioctl::EnableCap, &EnableCap::realm(&Generation::V8, command, inner)).map(drop)
}
