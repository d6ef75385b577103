//! The KVM user ABI: ioctl numbers, VM types, register identifiers, interrupt lines and structures.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use realm_abi::kvm::reg::{RegId, RegKind};
use realm_abi::kvm::{
    EnableCap, FileKind, Generation, Ioctl, IrqLine, MemoryAttributes, PsciComplete, RmeConfig, RmeInitRipas,
    RmePopulate, Run, UserMemoryRegion2, VcpuFeature, VcpuInit, vcpu_mpidr,
};
use realmkit_fuzz::check_structure;

fn run(mut input: Unstructured<'_>) -> arbitrary::Result<()> {
    let generation = Generation::V8;
    let kinds = [FileKind::Device, FileKind::Vm, FileKind::Vcpu, FileKind::Emulated];
    let kind = *input.choose(&kinds)?;
    let cmd = if input.arbitrary()? { input.choose(Ioctl::TABLE)?.1 } else { input.arbitrary()? };
    let ioctl = Ioctl::parse(&generation, kind, cmd);
    assert_eq!(ioctl.number(&generation), Some(cmd));
    let _ = format!("{ioctl}");

    let arg: u64 = input.arbitrary()?;
    if let Ok(vm) = generation.parse_vm_type(arg) {
        assert_eq!(generation.vm_type_arg(vm), arg);
    }
    let id = RegId(if input.arbitrary()? { RegId::PC.0 ^ (input.arbitrary::<u16>()? as u64) } else { arg });
    if let RegKind::X(n) = id.kind() {
        assert_eq!(RegId::x(n), Some(id));
    }
    if id.kind() != RegKind::Unknown {
        assert!(id.size().is_some());
    }
    let _ = format!("{id}");
    let line = IrqLine(input.arbitrary()?);
    if line.is_ppi() {
        assert_eq!(IrqLine::ppi(line.vcpu(), line.intid()), line);
    }
    let (one, other) = (input.arbitrary::<u32>()? & 0xf_ffff, input.arbitrary::<u32>()? & 0xf_ffff);
    assert_eq!(vcpu_mpidr(one) == vcpu_mpidr(other), one == other);
    let feature = VcpuFeature(input.int_in_range(0..=300)?);
    let init = VcpuInit::default().with(feature);
    assert_eq!(init.has(feature), feature.0 < 224);
    assert_eq!(init.has_beyond(10), (10..224).contains(&feature.0));

    let rest = input.take_rest();
    check_structure::<EnableCap>(rest);
    check_structure::<RmeConfig>(rest);
    check_structure::<RmePopulate>(rest);
    check_structure::<RmeInitRipas>(rest);
    check_structure::<PsciComplete>(rest);
    check_structure::<MemoryAttributes>(rest);
    check_structure::<UserMemoryRegion2>(rest);
    if let Ok((mut run, _)) = <Run as zerocopy::FromBytes>::read_from_prefix(rest) {
        let (mmio, fault) = (run.mmio(), run.memory_fault());
        let _ = (run.hypercall(), run.system_event(), run.internal_error());
        run.set_mmio(&mmio);
        assert_eq!(run.mmio(), mmio);
        run.set_memory_fault(&fault);
        assert_eq!(run.memory_fault(), fault);
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
