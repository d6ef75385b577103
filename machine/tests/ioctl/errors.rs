//! The error matrix (docs/kvm-realm-abi.md section 2.5) as one table, the order of checks included. Whatever fails,
//! everything comes back in the end; what is the VMM's mistake does not even reach the RMM.

use crate::vmm::{DIST, IMAGE_SIZE, PAGE, RAM, RAM_SIZE, SHARED, Stage, V8, Vmm, boot, rec_features};
use realm_abi::Errno;
use realm_abi::kvm::reg::RegId;
use realm_abi::kvm::{
    Cap, ConfigItem, CreateGuestMemfd, DeviceType, EnableCap, ExitReason, IrqLevel, MemoryAttributes,
    MpState, PsciComplete, RealmCommand, RmeConfig, RmeInitRipas, RmePopulate, Run, TARGET_GENERIC_V8,
    UserMemoryRegion2, VGIC_CTRL_INIT, VGIC_GRP_ADDR, VGIC_GRP_CTRL, VGIC_V3_ADDR_DIST, VGIC_V3_ADDR_REDIST,
    VcpuEvents, VcpuFeature, VcpuInit, VmType, numbers,
};
use realm_abi::rmi::{ReturnCode, RmiCommand, Status, Version};
use realm_machine::fault::Point;
use realm_machine::{Machine, MachineConfig, MachineHost, Process};
use realm_vmm::{Fd, System};

/// An address the process has not mapped.
const NOWHERE: u64 = 0x10;
const ERROR_REC: u64 = ReturnCode::ERROR_REC.0;
const ERROR_INPUT: u64 = ReturnCode::ERROR_INPUT.0;

struct Row {
    call: &'static str,
    condition: &'static str,
    /// How far the VM is made.
    stage: Stage,
    expected: Errno,
    attempt: fn(&mut Vmm) -> Result<i64, Errno>,
}

const fn row(
    call: &'static str,
    condition: &'static str,
    stage: Stage,
    expected: Errno,
    attempt: fn(&mut Vmm) -> Result<i64, Errno>,
) -> Row {
    Row { call, condition, stage, expected, attempt }
}

/// Mistakes of a VMM: decided before the RMM is asked for anything.
const MISTAKES: &[Row] = {
    use Stage::{Active, Created, Machine, Populated, Vm};
    &[
        row("CREATE_VM", "not a realm", Vm, Errno::EINVAL, |vmm| vmm.raw_vm(0x21)),
        row("CREATE_VM", "unknown type", Vm, Errno::EINVAL, |vmm| vmm.raw_vm(0x221)),
        row("CREATE_VM", "unknown bits", Vm, Errno::EINVAL, |vmm| vmm.raw_vm(1 << 31 | 0x121)),
        row("CREATE_VM", "less than 32 bits", Vm, Errno::EINVAL, |vmm| vmm.create_vm(31).map(fd)),
        row("CREATE_VM", "more than the RMM has", Vm, Errno::EINVAL, |vmm| vmm.create_vm(49).map(fd)),
        row("CREATE_VM", "the default is no realm", Vm, Errno::EINVAL, |vmm| vmm.raw_vm(0)),
        row("ENABLE_CAP", "flags", Machine, Errno::EINVAL, |vmm| {
            let cap = EnableCap { flags: 1, ..EnableCap::realm(&V8, RealmCommand::CREATE_REALM, 0) };
            vmm.with(vmm.vm, numbers::ENABLE_CAP, &cap)
        }),
        row("ENABLE_CAP", "unknown sub-command", Machine, Errno::EINVAL, |vmm| {
            vmm.realm(RealmCommand(5), &())
        }),
        row("ENABLE_CAP", "another capability", Machine, Errno::EINVAL, |vmm| {
            let cap = EnableCap { cap: 300, ..EnableCap::realm(&V8, RealmCommand::CREATE_REALM, 0) };
            vmm.with(vmm.vm, numbers::ENABLE_CAP, &cap)
        }),
        row("ENABLE_CAP", "unreadable", Machine, Errno::EFAULT, |vmm| {
            vmm.process.ioctl(vmm.vm, numbers::ENABLE_CAP, NOWHERE)
        }),
        row("CONFIG", "unreadable", Machine, Errno::EFAULT, |vmm| vmm.at_nowhere(RealmCommand::CONFIG_REALM)),
        row("INIT_RIPAS", "unreadable", Machine, Errno::EFAULT, |vmm| {
            vmm.at_nowhere(RealmCommand::INIT_RIPAS_REALM)
        }),
        row("POPULATE", "unreadable", Machine, Errno::EFAULT, |vmm| {
            vmm.at_nowhere(RealmCommand::POPULATE_REALM)
        }),
        row("CONFIG", "created", Created, Errno::EBUSY, |vmm| vmm.config(&RmeConfig::rpv(&[1; 64]))),
        row("CONFIG", "created, and an unknown item", Created, Errno::EBUSY, |vmm| {
            vmm.config(&unknown_item())
        }),
        row("CONFIG", "unknown item", Machine, Errno::EINVAL, |vmm| vmm.config(&unknown_item())),
        row("CONFIG", "unknown hash", Machine, Errno::EINVAL, |vmm| vmm.config(&RmeConfig::hash_algo(2))),
        row("CONFIG", "a hash that is known when cut", Machine, Errno::EINVAL, |vmm| {
            vmm.config(&RmeConfig::hash_algo(0x100))
        }),
        row("CREATE", "created", Created, Errno::EEXIST, |vmm| vmm.realm(RealmCommand::CREATE_REALM, &())),
        row("INIT_RIPAS", "wrap, before the state", Machine, Errno::EINVAL, |vmm| {
            vmm.init_ripas(!0xfff, 0x2000)
        }),
        row("INIT_RIPAS", "not created", Machine, Errno::EPERM, |vmm| vmm.init_ripas(RAM, PAGE)),
        row("INIT_RIPAS", "active", Active, Errno::EPERM, |vmm| vmm.init_ripas(RAM, PAGE)),
        row("INIT_RIPAS", "active, before alignment", Active, Errno::EPERM, |vmm| {
            vmm.init_ripas(RAM + 1, PAGE)
        }),
        row("INIT_RIPAS", "base not aligned", Created, Errno::EINVAL, |vmm| vmm.init_ripas(RAM + 1, PAGE)),
        row("INIT_RIPAS", "size not aligned", Created, Errno::EINVAL, |vmm| vmm.init_ripas(RAM, PAGE + 1)),
        row("INIT_RIPAS", "over the middle", Created, Errno::EINVAL, |vmm| {
            vmm.init_ripas((1 << 32) - PAGE, 2 * PAGE)
        }),
        row("INIT_RIPAS", "reserved", Created, Errno::EINVAL, |vmm| {
            let request = RmeInitRipas { base: RAM, size: PAGE, reserved: [0, 1] };
            vmm.realm(RealmCommand::INIT_RIPAS_REALM, &request)
        }),
        row("POPULATE", "not created", Machine, Errno::EPERM, |vmm| vmm.populate(RAM, PAGE)),
        row("POPULATE", "active", Active, Errno::EPERM, |vmm| vmm.populate(RAM, PAGE)),
        row("POPULATE", "active, before alignment", Active, Errno::EPERM, |vmm| vmm.populate(RAM + 1, PAGE)),
        row("POPULATE", "base not aligned", Created, Errno::EINVAL, |vmm| vmm.populate(RAM + 1, PAGE)),
        row("POPULATE", "size not aligned", Created, Errno::EINVAL, |vmm| vmm.populate(RAM, PAGE - 1)),
        row("POPULATE", "unknown flag", Created, Errno::EINVAL, |vmm| vmm.populate_with(2, [0; 3])),
        row("POPULATE", "reserved", Created, Errno::EINVAL, |vmm| vmm.populate_with(0, [0, 0, 1])),
        row("POPULATE", "wrap", Created, Errno::EINVAL, |vmm| vmm.populate(!0xfff, 2 * PAGE)),
        row("POPULATE", "over the middle", Created, Errno::EINVAL, |vmm| {
            vmm.populate((1 << 32) - PAGE, 2 * PAGE)
        }),
        row("POPULATE", "no slot", Created, Errno::EFAULT, |vmm| vmm.populate(RAM + RAM_SIZE, PAGE)),
        row("POPULATE", "past the slot in one chunk", Created, Errno::EINVAL, |vmm| {
            vmm.set_slot(&vmm.slot(1, 0x1000_0000, PAGE, Some(vmm.memfd(PAGE)))).expect("a slot");
            vmm.populate(0x1000_0000, 2 * PAGE)
        }),
        row("POPULATE", "past the slot in a later chunk", Created, Errno::EFAULT, |vmm| {
            vmm.populate(RAM, RAM_SIZE + PAGE)
        }),
        row("POPULATE", "slot without guest_memfd", Created, Errno::EPERM, |vmm| {
            vmm.set_slot(&vmm.slot(1, 0x1000_0000, PAGE, None)).expect("a slot");
            vmm.populate(0x1000_0000, PAGE)
        }),
        row("ACTIVATE", "not created", Machine, Errno::EINVAL, |vmm| {
            vmm.realm(RealmCommand::ACTIVATE_REALM, &())
        }),
        row("ACTIVATE", "active", Active, Errno::EINVAL, |vmm| vmm.realm(RealmCommand::ACTIVATE_REALM, &())),
        row("VCPU_INIT", "32-bit EL1", Vm, Errno::EINVAL, |vmm| {
            vmm.init_vcpu(&rec_features().with(VcpuFeature::EL1_32BIT))
        }),
        row("VCPU_INIT", "number of another generation", Vm, Errno::EINVAL, |vmm| {
            vmm.init_vcpu(&VcpuInit { target: TARGET_GENERIC_V8, ..VcpuInit::default() }.with(VcpuFeature(8)))
        }),
        row("VCPU_INIT", "unknown feature", Vm, Errno::ENOENT, |vmm| {
            vmm.init_vcpu(&rec_features().with(VcpuFeature(10)))
        }),
        row("VCPU_INIT", "unknown target", Vm, Errno::EINVAL, |vmm| {
            vmm.init_vcpu(&VcpuInit { target: 1, ..rec_features() })
        }),
        row("VCPU_INIT", "SVE the RMM has not", Vm, Errno::EINVAL, |vmm| {
            vmm.init_vcpu(&rec_features().with(VcpuFeature::SVE))
        }),
        row("VCPU_INIT", "unlike the other vCPU", Vm, Errno::EINVAL, |vmm| {
            vmm.add_vcpu(1, &rec_features().with(VcpuFeature::PMU_V3));
            vmm.init_vcpu(&rec_features())
        }),
        row("FINALIZE", "not initialised", Vm, Errno::ENOEXEC, |vmm| {
            let vcpu = vmm.new_vcpu(0)?;
            vmm.with(vcpu, numbers::ARM_VCPU_FINALIZE, &V8.vcpu_rec)
        }),
        row("FINALIZE", "unknown feature", Created, Errno::EINVAL, |vmm| vmm.finalize(0, 77)),
        row("FINALIZE", "SVE without SVE", Created, Errno::EINVAL, |vmm| vmm.finalize(0, VcpuFeature::SVE.0)),
        row("FINALIZE", "no REC feature", Vm, Errno::EINVAL, |vmm| {
            vmm.add_vcpu(0, &VcpuInit { target: TARGET_GENERIC_V8, ..VcpuInit::default() });
            vmm.finalize(0, V8.vcpu_rec)
        }),
        row("FINALIZE", "realm not created", Machine, Errno::ENOENT, |vmm| vmm.finalize(0, V8.vcpu_rec)),
        row("FINALIZE", "realm active, before the REC", Active, Errno::ENOENT, |vmm| {
            vmm.finalize(0, V8.vcpu_rec)
        }),
        row("RUN", "not initialised", Vm, Errno::ENOEXEC, |vmm| {
            let vcpu = vmm.new_vcpu(0)?;
            vmm.process.ioctl(vcpu, numbers::RUN, 0)
        }),
        row("RUN", "no REC", Populated, Errno::EPERM, |vmm| vmm.run(0)),
        row("RUN", "an argument", Active, Errno::EINVAL, |vmm| {
            vmm.process.ioctl(vmm.vcpus[0], numbers::RUN, 1)
        }),
        row("PSCI_COMPLETE", "no REC", Populated, Errno::EPERM, |vmm| vmm.psci_complete(1, [0; 3])),
        row("PSCI_COMPLETE", "no REC, and unreadable", Populated, Errno::EPERM, |vmm| {
            vmm.process.ioctl(vmm.vcpus[0], V8.psci_complete.expect("version 8 has it"), NOWHERE)
        }),
        row("PSCI_COMPLETE", "unreadable", Active, Errno::EFAULT, |vmm| {
            vmm.process.ioctl(vmm.vcpus[0], V8.psci_complete.expect("version 8 has it"), NOWHERE)
        }),
        row("PSCI_COMPLETE", "unknown MPIDR", Active, Errno::EINVAL, |vmm| vmm.psci_complete(9, [0; 3])),
        row("PSCI_COMPLETE", "padding", Active, Errno::EINVAL, |vmm| vmm.psci_complete(1, [0, 1, 0])),
        row("SET_ONE_REG", "PSTATE", Machine, Errno::EINVAL, |vmm| vmm.set_reg(0, RegId::PSTATE, &0_u64)),
        row("SET_ONE_REG", "SP", Machine, Errno::EINVAL, |vmm| vmm.set_reg(0, RegId::SP, &0_u64)),
        row("SET_ONE_REG", "V0", Machine, Errno::EINVAL, |vmm| {
            vmm.set_reg(0, RegId::v(0).expect("V0"), &0_u128)
        }),
        row("SET_ONE_REG", "MPIDR_EL1", Machine, Errno::EINVAL, |vmm| {
            vmm.set_reg(0, RegId::MPIDR_EL1, &0_u64)
        }),
        row("SET_ONE_REG", "firmware register", Machine, Errno::EINVAL, |vmm| {
            vmm.set_reg(0, RegId::PSCI_VERSION, &0x1_0000_u64)
        }),
        row("SET_ONE_REG", "no breakpoints", Machine, Errno::EINVAL, |vmm| vmm.change_dfr0(0xf << 12, 0)),
        row("SET_ONE_REG", "no watchpoints", Machine, Errno::EINVAL, |vmm| vmm.change_dfr0(0xf << 20, 0)),
        row("SET_ONE_REG", "more breakpoints than the RMM has", Machine, Errno::EINVAL, |vmm| {
            vmm.change_dfr0(0xf << 12, 6 << 12)
        }),
        row("SET_ONE_REG", "more comparators than breakpoints", Machine, Errno::EINVAL, |vmm| {
            vmm.change_dfr0(0xf << 28, 6 << 28)
        }),
        row("SET_ONE_REG", "ID register after CREATE", Created, Errno::EBUSY, |vmm| {
            vmm.change_dfr0(0xf << 12, 1 << 12)
        }),
        row("SET_ONE_REG", "unreadable", Machine, Errno::EFAULT, |vmm| {
            let request = realm_abi::kvm::OneReg { id: RegId::PC.0, addr: NOWHERE };
            vmm.with(vmm.vcpus[0], numbers::SET_ONE_REG, &request)
        }),
        row("GET_ONE_REG", "a register of the realm", Active, Errno::ENOENT, |vmm| {
            vmm.get_reg(0, RegId::PSTATE).map(|_| 0)
        }),
        row("GET_REG_LIST", "no room", Machine, Errno::E2BIG, |vmm| {
            vmm.with(vmm.vcpus[0], numbers::GET_REG_LIST, &3_u64)
        }),
        row("SET_VCPU_EVENTS", "SError", Active, Errno::EINVAL, |vmm| {
            vmm.events(&VcpuEvents { serror_pending: 1, ..VcpuEvents::default() })
        }),
        row("SET_VCPU_EVENTS", "abort without an MMIO exit", Active, Errno::EINVAL, |vmm| {
            vmm.events(&VcpuEvents { ext_dabt_pending: 1, ..VcpuEvents::default() })
        }),
        row("SET_MP_STATE", "unknown", Machine, Errno::EINVAL, |vmm| {
            vmm.with(vmm.vcpus[0], numbers::SET_MP_STATE, &MpState::SUSPENDED)
        }),
        row("CREATE_DEVICE", "GICv2", Vm, Errno::ENODEV, |vmm| {
            vmm.create_gic(DeviceType::ARM_VGIC_V2).map(fd)
        }),
        row("CREATE_DEVICE", "a second one", Machine, Errno::EEXIST, |vmm| {
            vmm.create_gic(DeviceType::ARM_VGIC_V3).map(fd)
        }),
        row("CREATE_IRQCHIP", "a GICv2", Vm, Errno::ENODEV, |vmm| {
            vmm.process.ioctl(vmm.vm, numbers::CREATE_IRQCHIP, 0)
        }),
        row("IRQ_LINE", "no GIC", Vm, Errno::ENXIO, |vmm| {
            vmm.with(vmm.vm, numbers::IRQ_LINE, &IrqLevel { irq: 1 << 24 | 33, level: 1 })
        }),
        row("IRQ_LINE", "an SGI", Machine, Errno::EINVAL, |vmm| {
            vmm.with(vmm.vm, numbers::IRQ_LINE, &IrqLevel { irq: 2 << 24 | 3, level: 1 })
        }),
        row("CREATE_VCPU", "exists", Vm, Errno::EEXIST, |vmm| {
            vmm.add_vcpu(0, &rec_features());
            vmm.new_vcpu(0).map(fd)
        }),
        row("CREATE_VCPU", "id too large", Vm, Errno::EINVAL, |vmm| vmm.new_vcpu(512).map(fd)),
        row("CREATE_VCPU", "the GIC has started", Machine, Errno::EBUSY, |vmm| vmm.new_vcpu(5).map(fd)),
        row("ARM_SET_COUNTER_OFFSET", "a realm", Machine, Errno::EINVAL, |vmm| {
            vmm.with(vmm.vm, numbers::ARM_SET_COUNTER_OFFSET, &[0_u64; 2])
        }),
        row("SET_GUEST_DEBUG", "a realm", Machine, Errno::EINVAL, |vmm| {
            vmm.with(vmm.vcpus[0], numbers::SET_GUEST_DEBUG, &[0_u64; 65])
        }),
        row("SET_MEMORY_ATTRIBUTES", "unknown attribute", Machine, Errno::EINVAL, |vmm| {
            vmm.attributes(RAM, PAGE, 1, 0)
        }),
        row("SET_MEMORY_ATTRIBUTES", "flags", Machine, Errno::EINVAL, |vmm| vmm.attributes(RAM, PAGE, 8, 1)),
        row("SET_MEMORY_ATTRIBUTES", "nothing", Machine, Errno::EINVAL, |vmm| vmm.attributes(RAM, 0, 8, 0)),
        row("SET_MEMORY_ATTRIBUTES", "not aligned", Machine, Errno::EINVAL, |vmm| {
            vmm.attributes(RAM + 1, PAGE, 8, 0)
        }),
        row("SET_MEMORY_ATTRIBUTES", "wrap", Machine, Errno::EINVAL, |vmm| {
            vmm.attributes(!0xfff, 2 * PAGE, 8, 0)
        }),
        row("CREATE_GUEST_MEMFD", "flags", Machine, Errno::EINVAL, |vmm| vmm.create_memfd(PAGE, 1)),
        row("CREATE_GUEST_MEMFD", "empty", Machine, Errno::EINVAL, |vmm| vmm.create_memfd(0, 0)),
        row("SET_USER_MEMORY_REGION2", "no file", Machine, Errno::EBADF, |vmm| {
            vmm.set_slot(&vmm.slot(1, 0, PAGE, Some(Fd(99))))
        }),
        row("SET_USER_MEMORY_REGION2", "another file", Machine, Errno::EINVAL, |vmm| {
            vmm.set_slot(&vmm.slot(1, 0, PAGE, Some(vmm.vm)))
        }),
        row("SET_USER_MEMORY_REGION2", "a file too short", Machine, Errno::EINVAL, |vmm| {
            vmm.set_slot(&vmm.slot(1, 0, 2 * PAGE, Some(vmm.memfd(PAGE))))
        }),
        row("SET_USER_MEMORY_REGION2", "a file of another VM", Machine, Errno::EINVAL, |vmm| {
            let memfd = vmm.memfd(PAGE);
            vmm.vm = vmm.create_vm(33).expect("another VM");
            vmm.set_slot(&vmm.slot(1, 0, PAGE, Some(memfd)))
        }),
        row("SET_USER_MEMORY_REGION2", "a file bound twice", Machine, Errno::EEXIST, |vmm| {
            let memfd = vmm.memfd(PAGE);
            vmm.set_slot(&vmm.slot(1, 0, PAGE, Some(memfd))).expect("a slot");
            vmm.set_slot(&vmm.slot(2, PAGE, PAGE, Some(memfd)))
        }),
        row("SET_USER_MEMORY_REGION2", "over another", Machine, Errno::EEXIST, |vmm| {
            vmm.set_slot(&vmm.slot(1, RAM, PAGE, None))
        }),
        row("SET_USER_MEMORY_REGION2", "a changed slot", Machine, Errno::EINVAL, |vmm| {
            vmm.set_slot(&vmm.slot(0, RAM, PAGE, None))
        }),
        row("SET_USER_MEMORY_REGION2", "in the shared half", Machine, Errno::EFAULT, |vmm| {
            vmm.set_slot(&vmm.slot(1, 1 << 32, PAGE, None))
        }),
        row("an ioctl", "unknown", Machine, Errno::ENOTTY, |vmm| vmm.process.ioctl(vmm.vm, 0xAE77, 0)),
        row("an ioctl", "of another file", Active, Errno::ENOTTY, |vmm| {
            vmm.process.ioctl(vmm.vm, numbers::RUN, 0)
        }),
    ]
};

/// Failures below: of memory, of delegation, of commands.
const FAILURES: &[Row] = {
    use Stage::{Active, Created, Machine, Populated};
    &[
        row("CREATE", "no memory", Machine, Errno::ENOMEM, |vmm| vmm.create_failing(Point::Alloc, 0)),
        row("CREATE", "no memory for the tables", Machine, Errno::ENOMEM, |vmm| {
            vmm.machine.faults().fail_nth(Point::Alloc, 1, 0);
            vmm.realm(RealmCommand::CREATE_REALM, &())
        }),
        row("CREATE", "delegation", Machine, Errno::ENXIO, |vmm| vmm.create_failing(delegate(), ERROR_INPUT)),
        row("CREATE", "REALM_CREATE", Machine, Errno::ENXIO, |vmm| {
            vmm.create_failing(before(RmiCommand::RealmCreate { rd: 0, params_ptr: 0 }), ERROR_INPUT)
        }),
        row("CREATE", "REC_AUX_COUNT", Machine, Errno::ENXIO, |vmm| {
            vmm.create_failing(before(RmiCommand::RecAuxCount { rd: 0 }), ERROR_INPUT)
        }),
        row("INIT_RIPAS", "no memory", Created, Errno::ENOMEM, |vmm| {
            vmm.machine.faults().fail_from(Point::Alloc, 0, 0);
            vmm.init_ripas(RAM, PAGE)
        }),
        row("INIT_RIPAS", "already populated", Populated, Errno::ENXIO, |vmm| vmm.init_ripas(RAM, PAGE)),
        row("POPULATE", "source not mapped", Populated, Errno::EFAULT, |vmm| {
            let slot = UserMemoryRegion2 {
                userspace_addr: 0x10_0000,
                ..vmm.slot(1, 0x1000_0000, PAGE, Some(vmm.memfd(PAGE)))
            };
            vmm.set_slot(&slot).expect("a slot");
            vmm.populate(0x1000_0000, PAGE)
        }),
        row("POPULATE", "delegation", Populated, Errno::ENXIO, |vmm| {
            vmm.machine.faults().fail_from(delegate(), 0, ERROR_INPUT);
            vmm.populate(RAM + IMAGE_SIZE, PAGE)
        }),
        row("POPULATE", "DATA_CREATE", Populated, Errno::ENXIO, |vmm| {
            vmm.machine.faults().fail_from(data_create(), 0, ERROR_INPUT);
            vmm.populate(RAM + IMAGE_SIZE, PAGE)
        }),
        row("ACTIVATE", "REALM_ACTIVATE", Created, Errno::ENXIO, |vmm| {
            vmm.machine.faults().fail_nth(before(RmiCommand::RealmActivate { rd: 0 }), 0, ERROR_INPUT);
            vmm.realm(RealmCommand::ACTIVATE_REALM, &())
        }),
        row("FINALIZE", "a REC already", Populated, Errno::EBUSY, |vmm| {
            vmm.finalize(0, V8.vcpu_rec).expect("a REC");
            vmm.finalize(0, V8.vcpu_rec)
        }),
        row("FINALIZE", "no PSCI", Stage::Vm, Errno::EINVAL, |vmm| {
            let init = VcpuInit { target: TARGET_GENERIC_V8, ..VcpuInit::default() };
            vmm.add_vcpu(0, &init.with(V8.rec_feature()));
            vmm.realm(RealmCommand::CREATE_REALM, &()).expect("CREATE_REALM");
            vmm.finalize(0, V8.vcpu_rec)
        }),
        row("FINALIZE", "no memory", Created, Errno::ENOMEM, |vmm| {
            vmm.machine.faults().fail_from(Point::Alloc, 0, 0);
            vmm.finalize(0, V8.vcpu_rec)
        }),
        row("FINALIZE", "delegation", Created, Errno::ENXIO, |vmm| {
            vmm.machine.faults().fail_from(delegate(), 1, ERROR_INPUT);
            vmm.finalize(0, V8.vcpu_rec)
        }),
        row("FINALIZE", "REC_CREATE", Created, Errno::ENXIO, |vmm| {
            let command = RmiCommand::RecCreate { rd: 0, rec: 0, params_ptr: 0 };
            vmm.machine.faults().fail_nth(before(command), 0, ERROR_INPUT);
            vmm.finalize(0, V8.vcpu_rec)
        }),
        row("FINALIZE", "not in the order of MPIDR", Created, Errno::ENXIO, |vmm| {
            vmm.finalize(1, V8.vcpu_rec)
        }),
        row("RUN", "RECs, but not active", Populated, Errno::EPERM, |vmm| {
            vmm.finalize(0, V8.vcpu_rec).expect("a REC");
            vmm.run(0)
        }),
        row("RUN", "no GIC", Stage::Vm, Errno::EOPNOTSUPP, |vmm| {
            vmm.add_memory();
            vmm.add_vcpu(0, &rec_features());
            vmm.realm(RealmCommand::CREATE_REALM, &()).expect("CREATE_REALM");
            vmm.activate();
            vmm.run(0)
        }),
        row("RUN", "REC_ENTER", Active, Errno::ENXIO, |vmm| vmm.run_failing(ERROR_INPUT)),
        row("RUN", "REC_ENTER, not an RMI code", Active, Errno::ENXIO, |vmm| vmm.run_failing(u64::MAX)),
        row("RUN", "the REC is not ready yet", Active, Errno::EAGAIN, |vmm| vmm.run_failing(ERROR_REC)),
        row("PSCI_COMPLETE", "nothing to complete", Active, Errno::EINVAL, |vmm| {
            vmm.psci_complete(1, [0; 3])
        }),
    ]
};

fn fd(fd: Fd) -> i64 {
    i64::from(fd.0)
}

fn unknown_item() -> RmeConfig {
    RmeConfig { cfg: ConfigItem(2), ..RmeConfig::rpv(&[0; 64]) }
}

fn before(command: RmiCommand) -> Point {
    Point::RmiCommandBefore(command.fid())
}

fn delegate() -> Point {
    before(RmiCommand::GranuleDelegate { addr: 0 })
}

fn data_create() -> Point {
    let flags = realm_abi::rmi::DataFlags::MEASURE;
    before(RmiCommand::DataCreate { rd: 0, data: 0, ipa: 0, src: 0, flags })
}

impl Vmm {
    fn raw_vm(&self, arg: u64) -> Result<i64, Errno> {
        self.process.ioctl(self.dev, numbers::CREATE_VM, arg)
    }
    fn at_nowhere(&self, command: RealmCommand) -> Result<i64, Errno> {
        self.with(self.vm, numbers::ENABLE_CAP, &EnableCap::realm(&V8, command, NOWHERE))
    }
    fn config(&self, config: &RmeConfig) -> Result<i64, Errno> {
        self.realm(RealmCommand::CONFIG_REALM, config)
    }
    fn populate_with(&self, flags: u32, reserved: [u32; 3]) -> Result<i64, Errno> {
        let request = RmePopulate { base: RAM, size: PAGE, flags, reserved };
        self.realm(RealmCommand::POPULATE_REALM, &request)
    }
    fn new_vcpu(&self, id: u64) -> Result<Fd, Errno> {
        self.process.ioctl(self.vm, numbers::CREATE_VCPU, id).map(|fd| Fd(fd as i32))
    }
    fn init_vcpu(&self, init: &VcpuInit) -> Result<i64, Errno> {
        let vcpu = self.new_vcpu(0)?;
        self.with(vcpu, numbers::ARM_VCPU_INIT, init)
    }
    fn psci_complete(&self, target_mpidr: u64, padding: [u32; 3]) -> Result<i64, Errno> {
        let request = PsciComplete { target_mpidr, psci_status: 0, padding };
        self.with(self.vcpus[0], V8.psci_complete.expect("version 8 has it"), &request)
    }
    /// Replaces a field of ID_AA64DFR0_EL1.
    fn change_dfr0(&self, mask: u64, value: u64) -> Result<i64, Errno> {
        let old = self.get_reg(0, RegId::ID_AA64DFR0_EL1)?;
        self.set_reg(0, RegId::ID_AA64DFR0_EL1, &(old & !mask | value))
    }
    fn events(&self, events: &VcpuEvents) -> Result<i64, Errno> {
        self.with(self.vcpus[0], numbers::SET_VCPU_EVENTS, events)
    }
    fn attributes(&self, address: u64, size: u64, attributes: u64, flags: u64) -> Result<i64, Errno> {
        let request = MemoryAttributes { address, size, attributes, flags };
        self.with(self.vm, numbers::SET_MEMORY_ATTRIBUTES, &request)
    }
    fn create_memfd(&self, size: u64, flags: u64) -> Result<i64, Errno> {
        let request = CreateGuestMemfd { size, flags, reserved: [0; 6] };
        self.with(self.vm, numbers::CREATE_GUEST_MEMFD, &request)
    }
    /// CREATE_REALM with one failure, after which it can be tried again.
    fn create_failing(&self, point: Point, value: u64) -> Result<i64, Errno> {
        self.machine.faults().fail_from(point, 0, value);
        let result = self.realm(RealmCommand::CREATE_REALM, &());
        self.machine.faults().disarm();
        self.realm(RealmCommand::CREATE_REALM, &()).expect("the second attempt succeeds");
        result
    }
    fn run_failing(&self, code: u64) -> Result<i64, Errno> {
        let enter = before(RmiCommand::RecEnter { rec: 0, run_ptr: 0 });
        self.machine.faults().fail_nth(enter, 0, code);
        let result = self.run(0);
        self.machine.faults().disarm();
        assert_eq!(self.run(0), Ok(0), "the realm runs all the same");
        result
    }
}

fn check(row: &Row, reaches_rmm: bool) {
    let &Row { call, condition, stage, expected, attempt } = row;
    let machine = boot();
    machine.set_guest(|_| {});
    let mut vmm = Vmm::at(&machine, stage, 2);
    machine.faults().reset();
    let before = vmm.device.statistics();
    let result = attempt(&mut vmm);
    machine.faults().disarm();
    assert_eq!(result, Err(expected), "{call}: {condition}");
    if !reaches_rmm {
        assert_eq!(vmm.device.statistics(), before, "{call}: {condition}: the RMM was not asked");
    }
    vmm.end();
}

#[test]
fn every_mistake_is_named_before_the_rmm_is_asked() {
    for row in MISTAKES {
        check(row, false);
    }
}

#[test]
fn every_failure_is_named_and_everything_comes_back() {
    for row in FAILURES {
        check(row, true);
    }
}

#[test]
fn an_empty_range_is_initialised_without_doing_anything() {
    let vmm = Vmm::at(&boot(), Stage::Created, 1);
    let before = vmm.device.statistics();
    assert_eq!(vmm.init_ripas(RAM, 0), Ok(0));
    assert_eq!(vmm.device.statistics(), before);
    vmm.end();
}

#[test]
fn an_id_register_keeps_its_value_after_creation() {
    let vmm = Vmm::at(&boot(), Stage::Created, 1);
    assert_eq!(vmm.change_dfr0(0, 0), Ok(0));
    vmm.end();
}

#[test]
fn a_realm_populated_by_half_is_dead_and_says_so() {
    let vmm = Vmm::at(&boot(), Stage::Populated, 1);
    vmm.machine.faults().reset();
    vmm.machine.faults().fail_from(data_create(), 1, ERROR_INPUT);
    assert_eq!(vmm.populate(RAM + IMAGE_SIZE, 4 * PAGE), Err(Errno::ENXIO));
    vmm.machine.faults().disarm();
    assert_eq!(vmm.populate(RAM + IMAGE_SIZE + PAGE, PAGE), Err(Errno::EIO));
    assert_eq!(vmm.init_ripas(RAM, PAGE), Err(Errno::EIO));
    assert_eq!(vmm.finalize(0, V8.vcpu_rec), Err(Errno::EIO));
    assert_eq!(vmm.realm(RealmCommand::ACTIVATE_REALM, &()), Err(Errno::EIO));
    assert_eq!(vmm.run(0), Err(Errno::EIO));
    vmm.end();
}

#[test]
fn the_end_of_the_realm_on_another_vcpu_is_no_error() {
    let vmm = Vmm::at(&boot(), Stage::Active, 2);
    let enter = before(RmiCommand::RecEnter { rec: 0, run_ptr: 0 });
    vmm.machine.faults().reset();
    vmm.machine.faults().fail_nth(enter, 0, ReturnCode::new(Status::ERROR_REALM, 1).0);
    assert_eq!(vmm.run(0), Ok(0));
    assert_eq!(vmm.exit(0).exit_reason, ExitReason::SHUTDOWN);
    vmm.end();
}

#[test]
fn without_an_rmm_no_realm_is_made() {
    let machine = boot();
    let version = before(RmiCommand::Version { req: Version::V1_0 });
    machine.faults().fail_nth(version, 0, ReturnCode::NOT_SUPPORTED.0);
    let device = MachineHost::boot(machine);
    let process = Process::new(&device);
    let dev = process.open_device().expect("the device opens");
    assert_eq!(process.ioctl(dev, numbers::CHECK_EXTENSION, u64::from(V8.cap_realm.0)), Ok(0));
    let arg = V8.vm_type_arg(VmType { realm: true, ipa_bits: 33 });
    assert_eq!(process.ioctl(dev, numbers::CREATE_VM, arg), Err(Errno::EPERM));
    assert_eq!(process.ioctl(dev, numbers::CREATE_VM, 0x221), Err(Errno::EINVAL), "the type comes first");
}

#[test]
fn a_realm_vm_hides_what_it_cannot_have() {
    let vmm = Vmm::at(&boot(), Stage::Vm, 0);
    let ask = |cap: Cap| vmm.process.ioctl(vmm.vm, numbers::CHECK_EXTENSION, u64::from(cap.0));
    assert_eq!(ask(V8.cap_realm), Ok(1));
    for cap in [Cap::SET_GUEST_DEBUG, Cap::COUNTER_OFFSET, Cap::READONLY_MEM, Cap::STEAL_TIME, Cap::ARM_SVE] {
        assert_eq!(ask(cap), Ok(0), "{cap}");
    }
    vmm.end();
}

#[test]
fn vector_lengths_are_chosen_before_they_are_final_and_alike_on_all_vcpus() {
    let mut config = MachineConfig::new(64 << 20, 2);
    config.features.sve_vl = Some(3);
    let machine = Machine::new(config).expect("a valid size");
    let mut vmm = Vmm::at(&machine, Stage::Vm, 0);
    let sve = VcpuFeature::SVE;
    (0..2).for_each(|id| vmm.add_vcpu(id, &rec_features().with(sve)));
    let lengths = |bits: u8| {
        let mut register = [0_u8; 64];
        register[0] = bits;
        register
    };
    let create = || vmm.realm(RealmCommand::CREATE_REALM, &());
    assert_eq!(
        vmm.set_reg(0, RegId::SVE_VLS, &lengths(0b1_0000)),
        Err(Errno::EINVAL),
        "longer than the RMM has"
    );
    assert_eq!(vmm.set_reg(0, RegId::SVE_VLS, &lengths(0b11)), Ok(0));
    assert_eq!(create(), Err(Errno::EINVAL), "not final");
    assert_eq!(vmm.finalize(0, sve.0), Ok(0));
    assert_eq!(vmm.finalize(0, sve.0), Err(Errno::EPERM));
    assert_eq!(vmm.set_reg(0, RegId::SVE_VLS, &lengths(0b1)), Err(Errno::EPERM), "final");
    assert_eq!(create(), Err(Errno::EINVAL), "the other one is not final");
    assert_eq!(vmm.finalize(1, sve.0), Ok(0));
    assert_eq!(create(), Err(Errno::EINVAL), "the other one is longer");
    vmm.end();
}

#[test]
fn a_vcpu_whose_vector_lengths_are_not_final_does_not_run() {
    let mut config = MachineConfig::new(64 << 20, 1);
    config.features.sve_vl = Some(3);
    let machine = Machine::new(config).expect("a valid size");
    let mut vmm = Vmm::at(&machine, Stage::Vm, 0);
    vmm.add_memory();
    vmm.realm(RealmCommand::CREATE_REALM, &()).expect("a realm without SVE, as no vCPU has it yet");
    vmm.add_vcpu(0, &rec_features().with(VcpuFeature::SVE));
    vmm.add_gic();
    vmm.activate();
    let immediate_exit = vmm.runs[0] + core::mem::offset_of!(Run, immediate_exit) as u64;
    vmm.process.write(immediate_exit, &[1]).expect("the run page");
    assert_eq!(vmm.run(0), Err(Errno::EPERM));
    assert_eq!(vmm.finalize(0, VcpuFeature::SVE.0), Ok(0));
    assert_eq!(vmm.run(0), Err(Errno::EINTR));
    vmm.end();
}

#[test]
fn redistributors_that_do_not_fit_any_more_do_not_start() {
    let mut vmm = Vmm::at(&boot(), Stage::Vm, 0);
    vmm.add_vcpu(0, &rec_features());
    vmm.gic = Some(vmm.create_gic(DeviceType::ARM_VGIC_V3).expect("a GIC"));
    let last = SHARED - 0x2_0000;
    assert_eq!(vmm.set_gic(VGIC_GRP_ADDR, VGIC_V3_ADDR_DIST, DIST), Ok(0));
    assert_eq!(vmm.set_gic(VGIC_GRP_ADDR, VGIC_V3_ADDR_REDIST, last), Ok(0));
    vmm.add_vcpu(1, &rec_features());
    assert_eq!(vmm.set_gic(VGIC_GRP_CTRL, VGIC_CTRL_INIT, 0), Err(Errno::E2BIG));
    vmm.end();
}
