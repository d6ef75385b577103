use super::*;

/// The syndrome of an MRS (`read`) or MSR with Xt = `rt`.
const fn trap([op0, op1, crn, crm, op2]: [u64; 5], rt: u64, read: bool) -> u64 {
    esr::EC_SYSREG << 26
        | esr::IL
        | op0 << 20
        | op2 << 17
        | op1 << 14
        | crn << 10
        | rt << 5
        | crm << 1
        | read as u64
}

/// What the realm reads from a register.
fn read(vm: &Vm<'_, '_>, register: [u64; 5]) -> u64 {
    let pc = vm.content().context.pc;
    vm.enter(std::vec![sync(trap(register, 4, true), 0, 0), irq()]);
    assert_eq!(vm.content().context.pc, pc + 4);
    vm.content().context.gprs[4]
}

const fn id(crm: u64, op2: u64) -> [u64; 5] {
    [3, 0, 0, crm, op2]
}

const fn nibble(value: u64, low: u32) -> u64 {
    value >> low & 0xf
}

#[test]
fn id_registers_describe_a_realm_without_sve_and_pmu() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::with(&w, |params| (params.num_bps, params.num_wps) = (4, 2), |_| ());
    let pfr0 = read(&vm, id(4, 0));
    assert_eq!((nibble(pfr0, 32), nibble(pfr0, 40), nibble(pfr0, 44)), (0, 0, 0), "SVE, MPAM and AMU");
    assert_eq!(nibble(pfr0, 56), 1, "CSV2 without SCXTNUM_EL1");
    assert_eq!(pfr0 | 0xf << 32 | 0xff << 40 | 0xf << 56, u64::MAX);
    let pfr1 = read(&vm, id(4, 1));
    let hidden = [
        (8, "MTE"),
        (16, "MPAM_frac"),
        (24, "SME"),
        (36, "NMI"),
        (40, "MTE_frac"),
        (44, "GCS"),
        (48, "THE"),
        (52, "MTEX"),
        (56, "DF2"),
        (60, "PFAR"),
    ];
    for (low, what) in hidden {
        assert_eq!(nibble(pfr1, low), 0, "{what}");
    }
    assert_eq!(nibble(pfr1, 32), 1, "CSV2_frac without SCXTNUM_EL1");
    assert_eq!(pfr1.count_ones() as usize, 64 - hidden.len() * 4 - 3);
    assert_eq!(read(&vm, id(4, 4)), 0, "SVE features");
    assert_eq!(read(&vm, id(4, 5)), 0, "SME features");
    let dfr0 = read(&vm, id(5, 0));
    assert_eq!((nibble(dfr0, 12), nibble(dfr0, 20)), (4, 2), "breakpoints and watchpoints");
    for hidden in [4, 8, 16, 24, 28, 32, 40, 44, 52, 56, 60] {
        assert_eq!(nibble(dfr0, hidden), 0, "bits from {hidden}");
    }
    for kept in [0, 36, 48] {
        assert_eq!(nibble(dfr0, kept), 0xf, "bits from {kept}");
    }
    assert_eq!(read(&vm, id(5, 1)), 0, "all of it has registers of its own");
}

#[test]
fn id_registers_describe_a_realm_with_sve_and_pmu_and_many_breakpoints() {
    let entries = entries();
    let w = World::with(&entries, |machine| {
        (machine.features.sve_vl, machine.features.num_bps, machine.features.num_wps) = (Some(3), 19, 15);
    });
    let realm = |params: &mut RealmParams| {
        (params.flags, params.sve_vl, params.pmu_num_ctrs) = (6, 3, 4);
        (params.num_bps, params.num_wps) = (19, 15);
    };
    let vm = Vm::with(&w, realm, |_| ());
    assert_eq!(nibble(read(&vm, id(4, 0)), 32), 0xf);
    assert_eq!(read(&vm, id(4, 4)), u64::MAX);
    let dfr0 = read(&vm, id(5, 0));
    assert_eq!((nibble(dfr0, 8), nibble(dfr0, 60)), (0xf, 0xf), "PMU");
    assert_eq!((nibble(dfr0, 12), nibble(dfr0, 20)), (15, 15));
    assert_eq!(read(&vm, id(5, 1)), 19 << 8);
}

#[test]
fn known_registers_are_the_hardwares_and_unknown_ones_zero() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    assert_eq!(read(&vm, id(7, 1)), !(0xf << 16), "all but LORegions");
    assert_eq!(read(&vm, id(6, 0)), !(0xf << 24), "all but TME");
    assert_eq!(read(&vm, id(6, 1)), !(0xf << 60), "all but LS64");
    let known = [(5, 4), (5, 5), (7, 0), (7, 2)];
    for (crm, op2) in known {
        assert_eq!(read(&vm, id(crm, op2)), u64::MAX, "CRm {crm} op2 {op2}");
    }
    for (crm, op2) in [(1, 0), (2, 7), (3, 0), (4, 2), (6, 2), (7, 3), (7, 4), (0, 0)] {
        assert_eq!(read(&vm, id(crm, op2)), 0, "CRm {crm} op2 {op2}");
    }
}

#[test]
fn interrupts_the_realm_sends_are_the_hosts_to_emulate() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    for op2 in [1, 5, 6, 7] {
        let pc = vm.content().context.pc;
        let esr = trap([3, 0, 12, 11, op2], 6, false);
        let exit = vm.enter(std::vec![does(
            |context| context.gprs[6] = 0xabcd,
            RealmExit::Sync { esr, far: 1, hpfar: 2 }
        )]);
        let shown = trap([3, 0, 12, 11, op2], 0, false);
        assert_exit(&exit, |exit| (exit.esr, exit.gprs[0]) = (shown, 0xabcd));
        assert_eq!(vm.content().context.pc, pc + 4);
    }
    // By XZR.
    let exit = vm.enter(std::vec![sync(trap([3, 0, 12, 11, 5], 31, false), 1, 2)]);
    assert_eq!((exit.esr, exit.gprs[0]), (trap([3, 0, 12, 11, 5], 0, false), 0));
}

#[test]
fn implementation_defined_registers_do_not_exist() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    for register in [[3, 0, 11, 0, 0], [3, 3, 15, 2, 1], [1, 0, 11, 0, 0], [1, 7, 15, 0, 0], [2, 4, 11, 0, 0]]
    {
        w.change_rec(vm.rec, |rec| rec.context.pc = 0x1000);
        vm.enter(std::vec![sync(trap(register, 4, true), 0, 0), irq()]);
        let context = vm.content().context;
        assert_eq!((context.el1.esr_el1, context.el1.elr_el1), (esr::IL, 0x1000), "{register:?}");
    }
}

#[test]
fn everything_else_reads_as_zero_and_ignores_writes() {
    let entries = entries();
    let w = World::new(&entries);
    let vm = Vm::new(&w);
    // PMCR_EL0, DBGBVR0_EL1, and a read of ICC_SGI1R_EL1.
    for register in [[3, 3, 9, 12, 0], [2, 0, 0, 0, 4], [3, 0, 12, 11, 5]] {
        w.change_rec(vm.rec, |rec| rec.context.gprs = [9; 31]);
        assert_eq!(read(&vm, register), 0, "{register:?}");
    }
    w.change_rec(vm.rec, |rec| rec.context.gprs = [9; 31]);
    vm.enter(std::vec![sync(trap([3, 3, 9, 12, 0], 4, false), 0, 0), irq()]);
    assert_eq!(vm.content().context.gprs, [9; 31]);
}

#[test]
fn a_pmu_of_a_realm_is_at_most_v3p8() {
    for (hardware, shown) in [(0x4, 0x4), (0x8, 0x8), (0x9, 0x8), (0xe, 0x8), (0xf, 0xf)] {
        let entries = entries();
        let w = World::with(&entries, |machine| machine.id_registers = u64::MAX << 12 | hardware << 8);
        let vm = Vm::with(&w, |params| (params.flags, params.pmu_num_ctrs) = (4, 3), |_| ());
        assert_eq!(nibble(read(&vm, id(5, 0)), 8), shown);
    }
}
