//! From an empty process to a realm that can run.

use super::calls::{Caller, Resources};
use super::step::{self, Progress, Step};
use super::{RealmSettings, RealmVm, Vcpu, VmError};
use crate::devices::Devices;
use crate::{Fd, Guest, Layout, System, dtb};
use realm_abi::kvm::{
    self, Cap, CreateDevice, CreateGuestMemfd, DeviceType, Ioctl, MemRegionFlags, MemoryAttributes,
    RealmCommand, RmeConfig, RmeInitRipas, RmePopulate, UserMemoryRegion2, VcpuFeature, VcpuInit, VmType,
    reg::RegId,
};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// The only memory slot.
const RAM_SLOT: u32 = 0;

impl<'s, S: System> RealmVm<'s, S> {
    /// Builds a realm up to and with its activation.
    ///
    /// # Errors
    /// See [`VmError`]. What had been made is given back.
    pub fn build(
        system: &'s S,
        guest: &Guest,
        settings: &RealmSettings,
        progress: &mut dyn Progress,
    ) -> Result<Self, VmError> {
        let mut resources = Resources::new(system);
        let scratch = resources.map(guest.layout.page_size)?;
        let input_scratch = resources.map(guest.layout.page_size)?;
        let mut builder = Builder {
            caller: Caller::new(system, &settings.generation, scratch),
            resources,
            layout: &guest.layout,
            settings,
        };
        let (device, vm) = step::within(progress, Step::CreateVm, || builder.create_vm())?;
        let shared_ram = step::within(progress, Step::Memory, || builder.add_memory(vm))?;
        let vcpus = step::within(progress, Step::Vcpus, || builder.add_vcpus(device, vm))?;
        step::within(progress, Step::InterruptController, || builder.add_gic(vm))?;
        step::within(progress, Step::LoadImages, || builder.load(vm, shared_ram, guest))?;
        step::within(progress, Step::Configure, || builder.configure(vm))?;
        step::within(progress, Step::CreateRealm, || {
            builder.caller.realm(vm, RealmCommand::CREATE_REALM, &())
        })?;
        step::within(progress, Step::InitRipas, || builder.init_ripas(vm))?;
        for part in &guest.parts {
            step::within(progress, Step::Populate(part.name), || {
                let (base, size) = (part.region.base, part.region.size);
                let populate = RmePopulate { base, size, flags: kvm::POPULATE_MEASURE, reserved: [0; 3] };
                builder.caller.realm(vm, RealmCommand::POPULATE_REALM, &populate)
            })?;
        }
        step::within(progress, Step::FinalizeRecs, || builder.finalize_recs(&vcpus, guest))?;
        step::within(progress, Step::Activate, || builder.activate(vm, shared_ram))?;
        Ok(Self {
            resources: builder.resources,
            generation: settings.generation,
            layout: guest.layout.clone(),
            vm,
            shared_ram,
            vcpus,
            devices: Devices::new(&guest.layout),
            input_scratch: Mutex::new(input_scratch),
            exits: Mutex::new(BTreeMap::new()),
            stopping: AtomicBool::new(false),
        })
    }
}

struct Builder<'a, 's, S: System> {
    caller: Caller<'a, S>,
    resources: Resources<'s, S>,
    layout: &'a Layout,
    settings: &'a RealmSettings,
}

impl<S: System> Builder<'_, '_, S> {
    /// Opens the device, asks it for realms and makes the VM.
    fn create_vm(&mut self) -> Result<(Fd, Fd), VmError> {
        let generation = &self.settings.generation;
        let device = self.caller.system.open_device();
        let device = device.map_err(|errno| VmError::System { what: "opening /dev/kvm", errno })?;
        let device = self.resources.file(device);
        match self.caller.value(device, Ioctl::GetApiVersion, 0)? {
            kvm::API_VERSION => {}
            other => return Err(VmError::ApiVersion(other)),
        }
        if self.extension(device, generation.cap_realm)? == 0 {
            return Err(VmError::NoRealms { capability: generation.cap_realm });
        }
        let vm_type = generation.vm_type_arg(VmType { realm: true, ipa_bits: self.layout.ipa_bits });
        let vm = self.caller.file(device, Ioctl::CreateVm, vm_type)?;
        let vm = self.resources.file(vm);
        let (cpus, max) = (self.layout.cpus, self.extension(vm, Cap::MAX_VCPUS)?);
        if i64::from(cpus) > max {
            return Err(VmError::TooManyCpus { cpus, max });
        }
        Ok((device, vm))
    }

    fn extension(&self, fd: Fd, cap: Cap) -> Result<i64, VmError> {
        self.caller.value(fd, Ioctl::CheckExtension, u64::from(cap.0))
    }

    /// Makes RAM's two sides and returns where the process sees the shared one.
    fn add_memory(&mut self, vm: Fd) -> Result<u64, VmError> {
        let ram = self.layout.ram;
        let shared = self.resources.map(ram.size)?;
        let create = CreateGuestMemfd { size: ram.size, ..Default::default() };
        self.caller.with(vm, Ioctl::CreateGuestMemfd, &create).and_then(|memfd| {
            let memfd = self.resources.file(Fd(memfd as i32));
            let region = UserMemoryRegion2 {
                slot: RAM_SLOT,
                flags: MemRegionFlags::GUEST_MEMFD.bits(),
                guest_phys_addr: ram.base,
                memory_size: ram.size,
                userspace_addr: shared,
                guest_memfd: memfd.0 as u32,
                ..Default::default()
            };
            self.caller.with(vm, Ioctl::SetUserMemoryRegion2, &region)
        })?;
        Ok(shared)
    }

    fn add_vcpus(&mut self, device: Fd, vm: Fd) -> Result<Vec<Vcpu>, VmError> {
        let run_size = self.caller.value(device, Ioctl::GetVcpuMmapSize, 0)? as u64;
        let mut preferred = VcpuInit::default();
        self.caller.exchange(vm, Ioctl::ArmPreferredTarget, &mut preferred)?;
        let boot = preferred.with(VcpuFeature::PSCI_0_2).with(self.settings.generation.rec_feature());
        (0..self.layout.cpus)
            .map(|id| {
                let fd = self.caller.file(vm, Ioctl::CreateVcpu, u64::from(id))?;
                let fd = self.resources.file(fd);
                let run = self.resources.map_run(fd, run_size)?;
                let scratch = self.resources.map(self.layout.page_size)?;
                let init = if id == 0 { boot } else { boot.with(VcpuFeature::POWER_OFF) };
                self.caller.with(fd, Ioctl::ArmVcpuInit, &init)?;
                Ok(Vcpu { fd, run, scratch })
            })
            .collect()
    }

    fn add_gic(&mut self, vm: Fd) -> Result<(), VmError> {
        let mut create = CreateDevice { device_type: DeviceType::ARM_VGIC_V3.0, ..Default::default() };
        self.caller.exchange(vm, Ioctl::CreateDevice, &mut create)?;
        let gic = self.resources.file(Fd(create.fd as i32));
        let (dist, redist) = (self.layout.gic_dist.base, self.layout.gic_redist.base);
        self.caller.set_attribute(gic, kvm::VGIC_GRP_ADDR, kvm::VGIC_V3_ADDR_DIST, &dist)?;
        self.caller.set_attribute(gic, kvm::VGIC_GRP_ADDR, kvm::VGIC_V3_ADDR_REDIST, &redist)?;
        self.caller.set_attribute(gic, kvm::VGIC_GRP_NR_IRQS, 0, &dtb::GIC_IRQS)?;
        self.caller.set_attribute(gic, kvm::VGIC_GRP_CTRL, kvm::VGIC_CTRL_INIT, &())
    }

    /// Copies the images to the shared side and declares all RAM private. POPULATE still reads them there.
    fn load(&self, vm: Fd, shared_ram: u64, guest: &Guest) -> Result<(), VmError> {
        let ram = self.layout.ram;
        for part in &guest.parts {
            self.caller.write(shared_ram + (part.region.base - ram.base), &part.content)?;
        }
        let attributes = kvm::MEMORY_ATTRIBUTE_PRIVATE;
        let all = MemoryAttributes { address: ram.base, size: ram.size, attributes, flags: 0 };
        self.caller.with(vm, Ioctl::SetMemoryAttributes, &all).map(drop)
    }

    fn configure(&self, vm: Fd) -> Result<(), VmError> {
        let hash = RmeConfig::hash_algo(u32::from(self.settings.hash.0));
        self.caller.realm(vm, RealmCommand::CONFIG_REALM, &hash)?;
        match &self.settings.rpv {
            Some(rpv) => self.caller.realm(vm, RealmCommand::CONFIG_REALM, &RmeConfig::rpv(rpv)),
            None => Ok(()),
        }
    }

    fn init_ripas(&self, vm: Fd) -> Result<(), VmError> {
        let ram = self.layout.ram;
        let all = RmeInitRipas { base: ram.base, size: ram.size, reserved: [0; 2] };
        self.caller.realm(vm, RealmCommand::INIT_RIPAS_REALM, &all)
    }

    /// Makes the RECs in ascending order. Only the boot vCPU has initial registers; PSCI CPU_ON sets those of the others.
    fn finalize_recs(&self, vcpus: &[Vcpu], guest: &Guest) -> Result<(), VmError> {
        let feature = self.settings.generation.rec_feature();
        for (id, vcpu) in vcpus.iter().enumerate() {
            if id == 0 {
                if let Some(x0) = RegId::x(0) {
                    self.caller.set_register(vcpu.fd, x0, guest.boot_argument())?;
                }
                self.caller.set_register(vcpu.fd, RegId::PC, guest.entry())?;
            }
            self.caller.with(vcpu.fd, Ioctl::ArmVcpuFinalize, &feature.0)?;
        }
        Ok(())
    }

    /// Activates the realm and drops the shared side, which nobody needs any more.
    fn activate(&self, vm: Fd, shared_ram: u64) -> Result<(), VmError> {
        self.caller.realm(vm, RealmCommand::ACTIVATE_REALM, &())?;
        let discarded = self.caller.system.discard(shared_ram, self.layout.ram.size);
        discarded.map_err(|errno| VmError::System { what: "dropping the shared side of RAM", errno })
    }
}
