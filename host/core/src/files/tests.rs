//! What processes do with files, and what ends all of it.

use crate::fake::{ALWAYS, Step};
mod pins;
mod run;
mod teardown;

use crate::fake::{FakeHost, Process};
use crate::files::device::{Limits, StillHeld};
use crate::realm::ipa::BLOCK_SIZE;
use crate::{Device, Errno, File};
use core::sync::atomic::{AtomicBool, Ordering};
use realm_abi::kvm::{
    CreateDevice, CreateGuestMemfd, DeviceAttr, DeviceType, EnableCap, Generation, Ioctl,
    MEMORY_ATTRIBUTE_PRIVATE, MemRegionFlags, MemoryAttributes, RealmCommand, TARGET_GENERIC_V8,
    UserMemoryRegion2, VGIC_CTRL_INIT, VGIC_GRP_CTRL, VcpuFeature, VcpuInit, VmType,
};
use realm_abi::rmi::RmiCommand;
use realm_alloc::Arc;
use std::vec::Vec;

const V8: Generation = Generation::V8;
const RAM: u64 = 0x4000_0000;

fn cmd(ioctl: Ioctl) -> u32 {
    ioctl.number(&V8).unwrap()
}

struct Machine {
    device: Arc<Device<FakeHost>>,
    file: File<FakeHost>,
}

impl Machine {
    fn new(limits: Limits) -> Self {
        let device = Device::new(FakeHost::new(12), limits).unwrap();
        Self { file: File::Device(device.clone()), device }
    }

    fn process(&self, number: u64) -> Process {
        Process::new(self.device.rmm(), number)
    }

    fn create_vm(&self, process: &Process) -> Result<i64, Errno> {
        let vm_type = V8.vm_type_arg(VmType { realm: true, ipa_bits: 33 });
        process.ioctl(&self.file, cmd(Ioctl::CreateVm), vm_type)
    }

    fn get(&self, fd: i64) -> File<FakeHost> {
        crate::Host::file(self.device.host(), i32::try_from(fd).unwrap()).unwrap()
    }

    /// A realm that is active, with a vCPU and an interrupt controller; the descriptors.
    fn create_realm(&self, process: &Process) -> Vec<i64> {
        let vm_fd = self.create_vm(process).unwrap();
        let vm = self.get(vm_fd);
        let vcpu_fd = process.ioctl(&vm, cmd(Ioctl::CreateVcpu), 0).unwrap();
        let vcpu = self.get(vcpu_fd);
        let mut init = VcpuInit { target: TARGET_GENERIC_V8, ..VcpuInit::default() };
        let rec = V8.rec_feature();
        for feature in [VcpuFeature::PSCI_0_2, rec] {
            init.features[feature.0 as usize / 32] |= 1 << (feature.0 % 32);
        }
        process.ioctl_with(&vcpu, cmd(Ioctl::ArmVcpuInit), &init).unwrap();
        let chip = CreateDevice { device_type: DeviceType::ARM_VGIC_V3.0, ..CreateDevice::default() };
        process.ioctl_with(&vm, cmd(Ioctl::CreateDevice), &chip).unwrap();
        let chip_fd = vcpu_fd + 1;
        let memfd = CreateGuestMemfd { size: 4 * BLOCK_SIZE, ..CreateGuestMemfd::default() };
        let memfd_fd = process.ioctl_with(&vm, cmd(Ioctl::CreateGuestMemfd), &memfd).unwrap();
        let region = UserMemoryRegion2 {
            flags: MemRegionFlags::GUEST_MEMFD.bits(),
            guest_phys_addr: RAM,
            memory_size: 4 * BLOCK_SIZE,
            userspace_addr: 0x4000_0000,
            guest_memfd: u32::try_from(memfd_fd).unwrap(),
            ..UserMemoryRegion2::default()
        };
        process.ioctl_with(&vm, cmd(Ioctl::SetUserMemoryRegion2), &region).unwrap();
        let attributes = MemoryAttributes {
            address: RAM,
            size: BLOCK_SIZE,
            attributes: MEMORY_ATTRIBUTE_PRIVATE,
            flags: 0,
        };
        process.ioctl_with(&vm, cmd(Ioctl::SetMemoryAttributes), &attributes).unwrap();
        for command in [RealmCommand::CREATE_REALM, RealmCommand::ACTIVATE_REALM] {
            let cap = EnableCap::realm(&V8, command, 0);
            process.ioctl_with(&vm, cmd(Ioctl::EnableCap), &cap).unwrap();
            if command == RealmCommand::CREATE_REALM {
                process.ioctl_with(&vcpu, cmd(Ioctl::ArmVcpuFinalize), &rec.0).unwrap();
            }
        }
        let File::Vm(vm) = vm else { panic!("it is a VM") };
        let slot = vm.memory.lock().slots.find(RAM).cloned().unwrap();
        vm.realm.fault_private(&slot.private_range(&slot.range()).unwrap(), RAM, &ALWAYS, &ALWAYS).unwrap();
        for (ipa, size) in [(RAM + BLOCK_SIZE, BLOCK_SIZE), (RAM + 2 * BLOCK_SIZE, 0x1000)] {
            let pinned = self.device.host().hold(0xa_0000_0000 + ipa, size);
            vm.realm.map_shared(ipa, pinned, &ALWAYS).unwrap();
        }
        std::vec![vm_fd, vcpu_fd, chip_fd, memfd_fd]
    }

    fn close(&self, fds: &[i64]) {
        fds.iter().for_each(|fd| self.device.host().close(*fd));
    }

    fn assert_nothing_is_left(&self) {
        let host = self.device.host();
        FakeHost::assert_all_came_back_or_is_named(self.device.rmm());
        assert_eq!((host.pages(), host.held(), host.warnings()), (0, 0, 0));
        assert_eq!((self.device.rmm().vmids().reserved(), self.device.vcpu_numbers().reserved()), (0, 0));
        assert_eq!(self.device.vms().count(), 0);
    }
}

use crate::Lock;

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn files_closed_in_any_order_take_everything_with_them() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let machine = Machine::new(Limits::default());
        let fds = machine.create_realm(&machine.process(1));
        assert!(
            machine.device.host().held() > BLOCK_SIZE
                && machine.device.rmm().ledger().snapshot().held() > 512
        );
        machine.close(&order.map(|place| fds[place]));
        machine.assert_nothing_is_left();
    }
}

#[test]
fn only_the_process_that_made_a_vm_uses_its_files() {
    let machine = Machine::new(Limits::default());
    let (owner, other) = (machine.process(1), machine.process(2));
    let fds = machine.create_realm(&owner);
    let attr = DeviceAttr { group: VGIC_GRP_CTRL, attr: VGIC_CTRL_INIT, ..DeviceAttr::default() };
    for process in [&owner, &other] {
        let answers = [
            process.ioctl(&machine.get(fds[0]), cmd(Ioctl::CheckExtension), 0).map(|_| ()),
            process.ioctl_with(&machine.get(fds[1]), cmd(Ioctl::GetMpState), &0_u32).map(|_| ()),
            process.ioctl_with(&machine.get(fds[2]), cmd(Ioctl::HasDeviceAttr), &attr).map(|_| ()),
        ];
        let expected = if process.is(1) { Ok(()) } else { Err(Errno::EIO) };
        assert_eq!(answers, [expected; 3]);
    }
    machine.close(&fds);
    machine.assert_nothing_is_left();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_machine_that_goes_down_takes_everything_back_while_files_are_open() {
    let machine = Machine::new(Limits::default());
    let process = machine.process(1);
    let fds: Vec<i64> = (0..2).flat_map(|_| machine.create_realm(&process)).collect();
    assert_eq!(machine.device.shut_down(), Ok(()));
    let ledger = machine.device.rmm().ledger().snapshot();
    assert_eq!((ledger.held(), ledger.leaked, machine.device.host().held()), (0, 0, 0));
    let (vcpus, others): (Vec<i64>, Vec<i64>) =
        fds.iter().partition(|fd| matches!(machine.get(**fd), File::Vcpu(_)));
    let pages = machine.device.host().pages();
    assert_eq!(process.ioctl(&machine.get(fds[0]), cmd(Ioctl::CheckExtension), 0), Err(Errno::EIO));
    assert_eq!(machine.create_vm(&process), Err(Errno::EPERM));
    assert_eq!(machine.device.shut_down(), Ok(()), "once more");
    assert_eq!(machine.device.host().pages(), pages);
    machine.close(&vcpus);
    let left = machine.device.host().pages();
    assert_eq!(left, pages - vcpus.len(), "a process may have mapped a vCPU's page until then");
    machine.close(&others);
    machine.assert_nothing_is_left();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn what_the_rmm_does_not_let_go_of_when_the_machine_goes_down_is_said() {
    let machine = Machine::new(Limits::default());
    let process = machine.process(1);
    let fds = [machine.create_realm(&process), machine.create_realm(&process)].concat();
    let host = machine.device.host();
    host.inject(|step| matches!(step, Step::Call(RmiCommand::RealmDestroy { .. })), 0, 1);
    let Err(StillHeld { vms, granules }) = machine.device.shut_down() else { panic!("one realm is left") };
    assert_eq!((vms, granules), (1, machine.device.rmm().ledger().snapshot().held()));
    assert!(granules > 0);
    assert_eq!(machine.device.shut_down(), Ok(()), "the next try finds the rest");
    machine.close(&fds);
    machine.assert_nothing_is_left();
}

#[test]
fn a_user_leaves_vmids_to_the_others() {
    // 256 VMIDs, of which a user has one in 64.
    let machine = Machine::new(Limits { users: 64, ..Limits::default() });
    let process = machine.process(1);
    let fds: Vec<i64> = (0..4).map(|_| machine.create_vm(&process).unwrap()).collect();
    assert_eq!(machine.create_vm(&process), Err(Errno::EMFILE));
    assert_eq!(
        machine.create_vm(&machine.process(2)),
        Err(Errno::EMFILE),
        "another process of the same user"
    );
    let (mut other, mut root) = (machine.process(3), machine.process(4));
    other.owner.user = 1001;
    root.owner.privileged = true;
    let more = [&other, &root].map(|process| machine.create_vm(process).unwrap());
    machine.close(&fds[..1]);
    assert_eq!(machine.create_vm(&process), Err(Errno::EMFILE), "the privileged one counts as well");
    machine.close(&more[1..]);
    let again = machine.create_vm(&process).unwrap();
    machine.close(&[&fds[1..], &[more[0], again]].concat());
    machine.assert_nothing_is_left();
}

#[test]
fn a_user_leaves_vcpus_to_the_others() {
    // 65,536 vCPUs, of which a user has one in 16,384.
    let machine = Machine::new(Limits { users: 16_384, ..Limits::default() });
    let (process, mut other) = (machine.process(1), machine.process(2));
    other.owner.user = 1001;
    let vms = [&process, &other].map(|process| machine.create_vm(process).unwrap());
    let create =
        |process: &Process, vm: i64, id: u64| process.ioctl(&machine.get(vm), cmd(Ioctl::CreateVcpu), id);
    let mut fds: Vec<i64> = (0..4).map(|id| create(&process, vms[0], id).unwrap()).collect();
    assert_eq!(create(&process, vms[0], 4), Err(Errno::EMFILE));
    fds.push(create(&other, vms[1], 0).unwrap());
    machine.close(&fds);
    assert_eq!(create(&process, vms[0], 4), Err(Errno::EMFILE), "a vCPU stays as long as its VM");
    machine.close(&vms[..1]);
    let again = machine.create_vm(&process).unwrap();
    let vcpu = create(&process, again, 0).unwrap();
    machine.close(&[vms[1], again, vcpu]);
    machine.assert_nothing_is_left();
}

#[test]
fn a_vm_that_could_not_be_destroyed_is_tried_again() {
    let machine = Machine::new(Limits::default());
    let fds = machine.create_realm(&machine.process(1));
    machine.device.host().inject(|step| matches!(step, Step::Call(RmiCommand::RecDestroy { .. })), 0, 2);
    machine.close(&fds);
    assert_eq!(machine.device.statistics().unfinished_vms, 1);
    assert_eq!(machine.device.reclaim(), 1);
    assert_eq!((machine.device.reclaim(), machine.device.statistics().unfinished_vms), (0, 0));
    machine.assert_nothing_is_left();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn one_failure_at_any_allocation_of_a_vmm_leaves_nothing() {
    use crate::fake::heap;
    let done = AtomicBool::new(false);
    for (from, pages) in (0..).flat_map(|from| [(from, true), (from, false)]) {
        let machine = Machine::new(Limits::default());
        let (process, mut results) = (machine.process(1), Vec::with_capacity(8));
        if pages {
            machine.device.host().inject(|step| matches!(step, Step::Alloc(_)), from, 1);
        } else {
            heap::fail(from, 1);
        }
        let vm_type = V8.vm_type_arg(VmType { realm: true, ipa_bits: 33 });
        let vm = process.ioctl(&machine.file, cmd(Ioctl::CreateVm), vm_type);
        if let Ok(fd) = vm {
            let file = machine.get(fd);
            let chip = CreateDevice { device_type: DeviceType::ARM_VGIC_V3.0, ..CreateDevice::default() };
            let memfd = CreateGuestMemfd { size: 4 * BLOCK_SIZE, ..CreateGuestMemfd::default() };
            let cap = EnableCap::realm(&V8, RealmCommand::CREATE_REALM, 0);
            let region = UserMemoryRegion2 { memory_size: 0x1000, ..UserMemoryRegion2::default() };
            let attributes = MemoryAttributes {
                address: RAM,
                size: 0x1000,
                attributes: MEMORY_ATTRIBUTE_PRIVATE,
                flags: 0,
            };
            let answers = [
                process.ioctl(&file, cmd(Ioctl::CreateVcpu), 0),
                process.ioctl_with(&file, cmd(Ioctl::CreateDevice), &chip),
                process.ioctl_with(&file, cmd(Ioctl::CreateGuestMemfd), &memfd),
                process.ioctl_with(&file, cmd(Ioctl::SetUserMemoryRegion2), &region),
                process.ioctl_with(&file, cmd(Ioctl::SetMemoryAttributes), &attributes),
                process.ioctl_with(&file, cmd(Ioctl::EnableCap), &cap),
            ];
            results.extend(answers);
        } else {
            results.push(vm);
        }
        let failed = heap::stop_failing() + machine.device.host().stop_injecting();
        let errors: Vec<Errno> = results.into_iter().filter_map(Result::err).collect();
        assert!(errors.iter().all(|errno| *errno == Errno::ENOMEM), "{errors:?}");
        assert_eq!(errors.len() as u64, failed, "each failure ends its own ioctl");
        machine.device.host().close_all();
        machine.assert_nothing_is_left();
        if failed == 0 && !pages && done.swap(true, Ordering::Relaxed) {
            assert!(from > 15, "{from} allocations");
            break;
        }
    }
}
