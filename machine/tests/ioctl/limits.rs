//! What a machine runs out of, seen through ioctls.

use crate::vmm::{IPA_BITS, PAGE, Stage, V8, Vmm, boot};
use realm_abi::Errno;
use realm_abi::kvm::{CreateGuestMemfd, DeviceType, EnableCap, RealmCommand, VmType, numbers};
use realm_host::Limits;
use realm_host::host::Owner;
use realm_machine::fault::Point;
use realm_machine::{Machine, MachineConfig, MachineHost, Process};
use realm_vmm::System;
use std::sync::{Arc, Barrier};
use std::thread;

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

#[test]
fn only_the_process_that_made_a_vm_may_use_it() {
    let machine = boot();
    machine.set_guest(|_| {});
    let vmm = Vmm::at(&machine, Stage::Active, 1);
    let child = vmm.process.fork();
    let gic = vmm.gic.expect("it has a GIC");
    for (file, cmd) in [
        (vmm.vm, numbers::CHECK_EXTENSION),
        (vmm.vm, numbers::CREATE_VCPU),
        (vmm.vm, 0xdead),
        (vmm.vcpus[0], numbers::RUN),
        (vmm.vcpus[0], numbers::GET_MP_STATE),
        (gic, numbers::SET_DEVICE_ATTR),
    ] {
        assert_eq!(child.ioctl(file, cmd, 0), Err(Errno::EIO), "{cmd:#x}");
    }
    assert!(child.ioctl(vmm.dev, numbers::CREATE_VM, 0x1_0000_0000).is_err(), "no realm VM type");
    // It made none of the VMs, but may make its own.
    let own = child.open_device().expect("the device");
    assert_eq!(child.ioctl(own, numbers::GET_API_VERSION, 0), Ok(12));
    // The child keeps the files open, so the VM lives on, and its owner still uses it.
    assert_eq!(vmm.run(0), Ok(0));
    vmm.process.exit();
    assert_ne!(vmm.device.statistics().ledger.held(), 0, "the child has its files");
    child.exit();
    vmm.end();
}

#[test]
fn one_user_leaves_the_others_some_vmids() {
    let mut config = MachineConfig::new(64 << 20, 1);
    config.features.vmid16 = false;
    let machine = Machine::new(config).expect("a valid size");
    let limits = Limits { users: 128, ..Limits::default() };
    let device = MachineHost::boot_with(Arc::clone(&machine), limits);
    let vm_type = V8.vm_type_arg(VmType { realm: true, ipa_bits: IPA_BITS });
    let make = |process: &Process| {
        let device = process.open_device().expect("the device opens");
        process.ioctl(device, numbers::CREATE_VM, vm_type)
    };
    let user = |user, privileged| Process::of(&device, Owner { user, privileged });
    let (greedy, same_user, other, root) =
        (user(1000, false), user(1000, false), user(1001, false), user(0, true));
    assert!(make(&greedy).is_ok() && make(&same_user).is_ok());
    for process in [&greedy, &same_user] {
        assert_eq!(make(process), Err(Errno::EMFILE), "two of 256 VMIDs for one of 128 users");
    }
    assert!(make(&other).is_ok());
    (0..4).for_each(|_| assert!(make(&root).is_ok(), "limits of users are not for root"));
    same_user.exit();
    assert!(make(&greedy).is_ok());
    drop((greedy, other, root));
    assert_eq!(device.statistics().ledger.held(), 0);
}

#[test]
fn a_user_gets_no_more_realms_by_asking_for_all_at_once() {
    // 65,536 VMIDs, of which a user has two.
    let limits = Limits { users: 1 << 15, ..Limits::default() };
    let device = MachineHost::boot_with(boot(), limits);
    let argument = V8.vm_type_arg(VmType { realm: true, ipa_bits: IPA_BITS });
    for round in 0..20 {
        let start = Barrier::new(8);
        let made = thread::scope(|scope| {
            let create = || {
                let process = Process::new(&device);
                let file = process.open_device().expect("the device opens");
                start.wait();
                let made = process.ioctl(file, numbers::CREATE_VM, argument);
                // Nobody's VM goes before all have asked.
                start.wait();
                made.map(|_| ())
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).collect::<Vec<_>>()
        });
        let got = made.iter().filter(|result| result.is_ok()).count();
        assert_eq!(got, 2, "round {round}: {made:?}");
        assert!(made.iter().all(|result| matches!(result, Ok(()) | Err(Errno::EMFILE))), "{made:?}");
    }
}
