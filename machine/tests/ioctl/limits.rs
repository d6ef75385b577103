//! What a machine runs out of, seen through ioctls.

use crate::vmm::{IPA_BITS, PAGE, Stage, V8, Vmm, boot};
use realm_abi::Errno;
use realm_abi::kvm::{CreateGuestMemfd, DeviceType, EnableCap, RealmCommand, numbers};
use realm_machine::fault::Point;
use realm_machine::{Machine, MachineConfig};
use realm_vmm::System;

#[test]
fn a_machine_has_so_many_realms_as_vmids() {
    let mut config = MachineConfig::new(64 << 20, 1);
    config.features.vmid16 = false;
    let mut vmm = Vmm::at(&Machine::new(config).expect("a valid size"), Stage::Vm, 0);
    let create = |vmm: &Vmm, vm| {
        vmm.with(vm, numbers::ENABLE_CAP, &EnableCap::realm(&V8, RealmCommand::CREATE_REALM, 0))
    };
    let mut vms = vec![vmm.vm];
    for number in 0..256 {
        assert_eq!(create(&vmm, vms[number]), Ok(0), "realm {number}");
        vms.push(vmm.create_vm(IPA_BITS).expect("a VM needs no VMID before its realm"));
    }
    let last = vms[256];
    let before = vmm.device.statistics().ledger;
    for _ in 0..2 {
        assert_eq!(create(&vmm, last), Err(Errno::ENOMEM));
    }
    assert_eq!(
        vmm.device.statistics().ledger.held(),
        before.held(),
        "nothing is kept of a realm that is none"
    );
    // One realm fewer, one more.
    vmm.process.close(vms[77]);
    assert_eq!(create(&vmm, last), Ok(0));
    vmm.vm = last;
    vmm.end();
}

#[test]
fn a_file_without_a_descriptor_is_no_file() {
    type Attempt = fn(&Vmm) -> Result<i64, Errno>;
    let attempts: [(&str, Attempt); 4] = [
        ("KVM_CREATE_VM", |vmm| vmm.create_vm(IPA_BITS).map(|fd| fd.0.into())),
        ("KVM_CREATE_VCPU", |vmm| vmm.process.ioctl(vmm.vm, numbers::CREATE_VCPU, 0)),
        ("KVM_CREATE_DEVICE", |vmm| vmm.create_gic(DeviceType::ARM_VGIC_V3).map(|fd| fd.0.into())),
        ("KVM_CREATE_GUEST_MEMFD", |vmm| {
            let request = CreateGuestMemfd { size: PAGE, ..CreateGuestMemfd::default() };
            vmm.with(vmm.vm, numbers::CREATE_GUEST_MEMFD, &request)
        }),
    ];
    let machine = boot();
    for errno in [Errno::EMFILE, Errno::ENOMEM] {
        for (call, attempt) in attempts {
            let vmm = Vmm::at(&machine, Stage::Vm, 0);
            vmm.process.write(vmm.scratch, &[0]).expect("the scratch page");
            let pages = vmm.device.host().pages_out();
            machine.faults().reset();
            machine.faults().fail_nth(Point::InstallFile, 0, errno.0 as u64);
            assert_eq!(attempt(&vmm), Err(errno), "{call}");
            assert_eq!(machine.faults().fired(), 1, "{call}");
            assert_eq!(vmm.device.host().pages_out(), pages, "{call}: nothing is left");
            assert!(attempt(&vmm).is_ok(), "{call}: nothing is in the way of a second attempt");
            vmm.end();
        }
    }
}
