//! What KVM_RUN does for a running realm.

use crate::vmm::{DIST, IMAGE_SIZE, PAGE, RAM, RAM_SIZE, REDIST, SHARED, Stage, Vmm, boot, boot_with_pages};
use realm_abi::Errno;
use realm_abi::kvm::{
    ExitReason, IrqLevel, IrqLine, MEMORY_FAULT_PRIVATE, MpState, SystemEvent, VcpuEvents, numbers,
};
use realm_abi::psci::{PsciCall, PsciStatus};
use realm_abi::rmi::Ripas;
use realm_abi::rsi::{RsiCall, RsiStatus};
use realm_machine::fault::Point;
use realm_machine::sysregs::{CNTVCT_EL0, ICC_SGI1R_EL1};
use realm_machine::{Guest, Process};
use realm_vmm::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// An address no slot covers.
const DEVICE: u64 = 0x0100_0000;
/// RSI_IPA_STATE_SET: what the Host destroyed may be changed too.
const CHANGE_DESTROYED: u64 = 1;

fn active(vcpus: u32, body: impl Fn(&mut Guest) + Send + Sync + 'static) -> Vmm {
    let machine = boot();
    machine.set_guest(body);
    Vmm::at(&machine, Stage::Active, vcpus)
}

/// Runs a vCPU until the realm switches itself off, converting memory as it asks for.
pub fn run_to_the_end(vmm: &Vmm, vcpu: usize) {
    loop {
        match vmm.run(vcpu) {
            Ok(_) => return assert_end(vmm, vcpu),
            Err(Errno::EFAULT) => convert(vmm, vcpu),
            Err(Errno::EAGAIN) => thread::yield_now(),
            Err(errno) => panic!("KVM_RUN of vCPU {vcpu}: {errno}"),
        }
    }
}

fn assert_end(vmm: &Vmm, vcpu: usize) {
    let exit = vmm.exit(vcpu);
    match exit.exit_reason {
        ExitReason::SHUTDOWN => {}
        ExitReason::SYSTEM_EVENT => assert_eq!(exit.system_event().event, SystemEvent::SHUTDOWN),
        other => panic!("vCPU {vcpu} ended with {other}"),
    }
}

fn convert(vmm: &Vmm, vcpu: usize) {
    let exit = vmm.exit(vcpu);
    assert_eq!(exit.exit_reason, ExitReason::MEMORY_FAULT);
    let fault = exit.memory_fault();
    vmm.set_private(fault.gpa, fault.size, fault.flags == MEMORY_FAULT_PRIVATE).expect("the conversion");
}

/// Shares or takes back a page.
fn set_ripas(guest: &mut Guest, base: u64, top: u64, ripas: Ripas) {
    let mut at = base;
    while at < top {
        let call = RsiCall::IpaStateSet { base: at, top, ripas: u64::from(ripas.0), flags: CHANGE_DESTROYED };
        let (status, [reached, response, ..]) = guest.rsi(&call);
        assert_eq!((status, response), (RsiStatus::SUCCESS, 0));
        at = reached;
    }
}

#[test]
fn a_realm_reads_its_image_and_touches_new_memory() {
    let vmm = active(1, |guest| {
        assert_eq!(guest.read_bytes(RAM, 48).expect("the image")[..48], [[0; 16], [1; 16], [2; 16]].concat());
        let fresh = RAM + RAM_SIZE - PAGE;
        guest.write::<u64>(fresh, 0x1234).expect("new memory");
        assert_eq!(guest.read::<u64>(fresh), Ok(0x1234));
        guest.exec(RAM + IMAGE_SIZE + PAGE).expect("a fetch from memory nobody touched");
    });
    run_to_the_end(&vmm, 0);
    let exits = vmm.device.statistics().exits;
    assert!(exits.by_reason().any(|(reason, count)| reason == "SYNC" && count >= 2));
    vmm.end();
}

#[test]
fn what_every_test_here_does_is_disturbed_by_failing_allocations_and_by_signals() {
    let vmm = active(1, |guest| {
        for page in (0..RAM_SIZE).step_by(PAGE as usize) {
            guest.write::<u8>(RAM + page, 1).expect("new memory");
        }
    });
    let while_made = vmm.process.repeated();
    assert!(while_made > 0, "no allocation failed");
    let run = (0..100).take_while(|_| vmm.process.repeated() == while_made && vmm.run(0).is_err()).count();
    assert!(vmm.process.repeated() > while_made, "KVM_RUN was not disturbed in {run} calls");
    vmm.end();
}

#[test]
fn a_device_access_goes_to_the_vmm_and_back() {
    let vmm = active(1, |guest| {
        guest.write::<u16>(SHARED + DEVICE + 2, 0xbeef).expect("a device write");
        assert_eq!(guest.read::<u32>(SHARED + DEVICE + 4), Ok(0x0bad_cafe));
        let abort = guest.read::<u8>(SHARED + DEVICE).expect_err("the VMM answers with an abort");
        assert_eq!(abort.esr & 0x3f, 0x10);
        // LDP: a data abort without a syndrome, which nobody can emulate.
        let abort = guest.read_bytes(SHARED + DEVICE, 16).expect_err("the Host answers with an abort");
        assert_eq!(abort.esr & 0x3f, 0x10);
    });
    assert_eq!(vmm.run(0), Ok(0));
    let exit = vmm.exit(0);
    let mmio = exit.mmio();
    assert_eq!(
        (exit.exit_reason, mmio.phys_addr, mmio.len, mmio.is_write),
        (ExitReason::MMIO, DEVICE + 2, 2, 1)
    );
    assert_eq!(mmio.data[..2], [0xef, 0xbe]);
    assert_eq!(vmm.run(0), Ok(0));
    let mmio = vmm.exit(0).mmio();
    assert_eq!((mmio.phys_addr, mmio.len, mmio.is_write), (DEVICE + 4, 4, 0));
    // More than was asked for does not reach the realm.
    vmm.answer_mmio(0, 0xffff_ffff_0bad_cafe);
    assert_eq!(vmm.run(0), Ok(0));
    assert_eq!(vmm.exit(0).mmio().phys_addr, DEVICE);
    let abort = VcpuEvents { ext_dabt_pending: 1, ..VcpuEvents::default() };
    vmm.with(vmm.vcpus[0], numbers::SET_VCPU_EVENTS, &abort).expect("an abort instead of a value");
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_shared_page_is_the_processs_and_a_private_one_is_not() {
    let page = RAM + (4 << 20);
    let vmm = active(1, move |guest| {
        guest.write::<u64>(page, 0x5ec2e7).expect("private");
        set_ripas(guest, page, page + PAGE, Ripas::EMPTY);
        assert_eq!(guest.read::<u64>(SHARED + page), Ok(0), "what was private is not shared");
        guest.write::<u64>(SHARED + page, 0x0be1).expect("shared");
        set_ripas(guest, page, page + PAGE, Ripas::RAM);
        assert_eq!(guest.read::<u64>(page), Ok(0), "what was shared is not private");
    });
    run_to_the_end(&vmm, 0);
    let mut shared = [0; 8];
    vmm.process.read(vmm.ram + (4 << 20), &mut shared).expect("the shared side");
    assert_eq!(u64::from_le_bytes(shared), 0x0be1);
    vmm.end();
}

#[test]
fn an_access_that_disagrees_with_the_attribute_returns_to_the_vmm() {
    let page = RAM + (4 << 20);
    let vmm = active(1, move |guest| {
        guest.read::<u64>(SHARED + page).expect("shared after the conversion");
        guest.read::<u64>(page + PAGE).expect("private after the conversion");
    });
    vmm.set_private(page + PAGE, PAGE, false).expect("shared");
    let fault = |private| {
        (ExitReason::MEMORY_FAULT, page + if private { PAGE } else { 0 }, PAGE, u64::from(private) << 3)
    };
    for private in [false, true] {
        assert_eq!(vmm.run(0), Err(Errno::EFAULT));
        let exit = vmm.exit(0);
        let memory = exit.memory_fault();
        assert_eq!((exit.exit_reason, memory.gpa, memory.size, memory.flags), fault(private));
        convert(&vmm, 0);
    }
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn memory_the_process_gives_up_is_the_realms_until_its_end() {
    let page = RAM + (4 << 20);
    let vmm = active(1, move |guest| {
        guest.write::<u64>(SHARED + page, 1).expect("shared");
        guest.read::<u8>(SHARED + DEVICE).expect("the VMM drops the page here");
        assert_eq!(guest.read::<u64>(SHARED + page), Ok(1), "it is held");
    });
    vmm.set_private(page, PAGE, false).expect("shared");
    assert_eq!(vmm.run(0), Ok(0));
    vmm.process.discard(vmm.ram + (4 << 20), PAGE).expect("the page is dropped");
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_ripas_change_outside_the_protected_half_never_reaches_the_vmm() {
    let vmm = active(1, |guest| {
        let call = RsiCall::IpaStateSet {
            base: SHARED,
            top: SHARED + PAGE,
            ripas: u64::from(Ripas::RAM.0),
            flags: CHANGE_DESTROYED,
        };
        assert_eq!(guest.rsi(&call).0, RsiStatus::ERROR_INPUT);
    });
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_host_call_is_answered() {
    let vmm = active(1, |guest| {
        let buffer = RAM + PAGE;
        let mut call = [0; 256];
        call[8..16].copy_from_slice(&0x8600_0001_u64.to_le_bytes());
        call[16..24].copy_from_slice(&77_u64.to_le_bytes());
        call[48..56].copy_from_slice(&99_u64.to_le_bytes());
        guest.write_bytes(buffer, &call).expect("the call");
        assert_eq!(guest.rsi(&RsiCall::HostCall { addr: buffer }).0, RsiStatus::SUCCESS);
        assert_eq!(guest.read::<u64>(buffer + 8), Ok(u64::MAX), "an unknown function is not supported");
        assert_eq!(guest.read::<u64>(buffer + 16), Ok(0));
        assert_eq!(guest.read::<u64>(buffer + 48), Ok(99), "X5 is the realm's");
    });
    run_to_the_end(&vmm, 0);
    assert!(vmm.device.statistics().exits.by_reason().any(|exit| exit == ("HOST_CALL", 1)));
    vmm.end();
}

#[test]
fn an_sgi_wakes_a_vcpu_that_waits() {
    static ARRIVED: AtomicBool = AtomicBool::new(false);
    let vmm = active(2, |guest| {
        if guest.mpidr() == 1 {
            guest.take_interrupts(SHARED + DIST, SHARED + REDIST + 0x2_0000, &[0]);
            ARRIVED.store(true, Ordering::SeqCst);
            guest.wfi();
            return;
        }
        let call = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: RAM, context_id: 7 };
        assert_eq!(guest.psci(&call), PsciStatus::SUCCESS);
        assert_eq!(guest.psci(&call), PsciStatus::ALREADY_ON);
        guest.spin_until(|| ARRIVED.load(Ordering::SeqCst));
        guest.msr(ICC_SGI1R_EL1, 1 << 1).expect("an SGI to vCPU 1");
        let info = PsciCall::AffinityInfo { smc64: true, target_affinity: 1, lowest_affinity_level: 0 };
        while guest.psci(&info) == PsciStatus(0) {}
    });
    thread::scope(|scope| {
        scope.spawn(|| run_to_the_end(&vmm, 1));
        run_to_the_end(&vmm, 0);
    });
    assert_eq!(vmm.power(1), MpState::STOPPED);
    vmm.end();
}

#[test]
fn every_way_to_wait_sleeps_once_until_the_timer() {
    // The clock of this machine stands still until somebody sleeps: a wait that does not sleep ends at once, and too early.
    const UNTIL: u64 = 1 << 40;
    type Wait = fn(&mut Guest);
    const WAYS: [(&str, Wait); 3] = [
        ("WFI", |guest| guest.wfi()),
        ("WFIT", |guest| guest.wfit(u64::MAX)),
        ("CPU_SUSPEND", |guest| {
            let call = PsciCall::CpuSuspend { smc64: true, power_state: 0, entry_point: 0, context_id: 0 };
            assert_eq!(guest.psci(&call), PsciStatus::SUCCESS);
        }),
    ];
    for (way, wait) in WAYS {
        let woken = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&woken);
        let vmm = active(1, move |guest| {
            guest.take_interrupts(SHARED + DIST, SHARED + REDIST, &[27]);
            guest.arm_virtual_timer(UNTIL);
            wait(guest);
            seen.store(guest.mrs(CNTVCT_EL0).expect("the counter"), Ordering::SeqCst);
        });
        run_to_the_end(&vmm, 0);
        assert_eq!(woken.load(Ordering::SeqCst), UNTIL, "{way}");
        vmm.end();
    }
}

#[test]
fn a_line_from_the_vmm_wakes_a_vcpu() {
    static WAITING: AtomicBool = AtomicBool::new(false);
    let vmm = active(1, |guest| {
        guest.take_interrupts(SHARED + DIST, SHARED + REDIST, &[33]);
        WAITING.store(true, Ordering::SeqCst);
        guest.wfi();
    });
    thread::scope(|scope| {
        let runner = scope.spawn(|| run_to_the_end(&vmm, 0));
        while !WAITING.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let line = IrqLevel { irq: IrqLine::spi(33).0, level: 1 };
        vmm.with(vmm.vm, numbers::IRQ_LINE, &line).expect("the line rises");
        runner.join().expect("the vCPU ends");
    });
    vmm.end();
}

#[test]
fn the_gic_is_emulated_in_the_kernel() {
    let vmm = active(1, |guest| {
        // GICD_CTLR with ARE and DS, GICD_PIDR2, GICR_TYPER.
        guest.write::<u32>(SHARED + DIST, 2).expect("the distributor");
        assert_eq!(guest.read::<u32>(SHARED + DIST), Ok(0x52));
        assert_eq!(guest.read::<u32>(SHARED + DIST + 0xffe8), Ok(0x3b));
        assert_eq!(guest.read::<u64>(SHARED + REDIST + 8), Ok(0x10), "vCPU 0, the last");
    });
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_signal_interrupts_a_realm_that_runs_and_one_that_sleeps() {
    for sleeps in [false, true] {
        let go_on = Arc::new(AtomicBool::new(false));
        let may_end = Arc::clone(&go_on);
        let vmm = active(1, move |guest| {
            if sleeps {
                guest.wfi();
            }
            guest.spin_until(|| may_end.load(Ordering::SeqCst));
        });
        thread::scope(|scope| {
            let runner = scope.spawn(|| vmm.run(0));
            // The only SYNC exit of the realm is its WFI.
            let there = || {
                let statistics = vmm.device.statistics();
                let mut exits = statistics.exits.by_reason();
                let mut calls = statistics.ledger.calls();
                if sleeps {
                    exits.any(|(reason, _)| reason == "SYNC")
                } else {
                    calls.any(|(name, _)| name == "RMI_REC_ENTER")
                }
            };
            while !there() {
                thread::yield_now();
            }
            vmm.process.kick(vmm.vcpus[0]);
            assert_eq!(runner.join().expect("the thread ends"), Err(Errno::EINTR));
        });
        assert_eq!(vmm.exit(0).exit_reason, ExitReason::INTR);
        // An interrupted WFI is over: the realm goes on when it is run again.
        go_on.store(true, Ordering::SeqCst);
        run_to_the_end(&vmm, 0);
        vmm.end();
    }
}

#[test]
fn immediate_exit_returns_before_the_realm_is_entered() {
    let vmm = active(1, |_| {});
    vmm.process.write(vmm.runs[0] + 1, &[1]).expect("the run page");
    assert_eq!(vmm.run(0), Err(Errno::EINTR));
    assert_eq!(vmm.device.statistics().exits.total(), 0);
    vmm.process.write(vmm.runs[0] + 1, &[0]).expect("the run page");
    run_to_the_end(&vmm, 0);
    vmm.end();
}

#[test]
fn a_process_that_dies_while_its_vcpus_run_loses_nothing() {
    let machine = boot();
    machine.set_guest(|guest| {
        let call = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: RAM, context_id: 0 };
        if guest.mpidr() == 0 {
            assert_eq!(guest.psci(&call), PsciStatus::SUCCESS);
        }
        for page in (0..RAM_SIZE).step_by(PAGE as usize).cycle() {
            guest.write(RAM + page, page).expect("RAM");
        }
    });
    let vmm = Vmm::at(&machine, Stage::Active, 3);
    thread::scope(|scope| {
        let runners: Vec<_> = (0..3)
            .map(|vcpu| {
                scope.spawn({
                    let vmm = &vmm;
                    move || vmm.run(vcpu)
                })
            })
            .collect();
        while vmm.device.statistics().exits.total() < 6 {
            thread::yield_now();
        }
        Process::exit(&vmm.process);
        for runner in runners {
            let result = runner.join().expect("the thread ends");
            assert!(matches!(result, Err(Errno::EIO | Errno::EINTR | Errno::EBADF)), "{result:?}");
        }
    });
    vmm.end();
}

#[test]
fn the_end_of_the_realm_reaches_every_vcpu() {
    let vmm = active(3, |guest| {
        if guest.mpidr() == 0 {
            let call = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point: RAM, context_id: 0 };
            assert_eq!(guest.psci(&call), PsciStatus::SUCCESS);
        } else {
            guest.wfi();
        }
    });
    thread::scope(|scope| {
        for vcpu in 0..3 {
            let vmm = &vmm;
            scope.spawn(move || run_to_the_end(vmm, vcpu));
        }
    });
    // And for ever.
    assert_eq!(vmm.run(2), Ok(0));
    assert_eq!(vmm.exit(2).exit_reason, ExitReason::SHUTDOWN);
    vmm.end();
}

#[test]
fn a_vcpu_that_goes_off_while_another_switches_it_on_is_not_forgotten() {
    static STARTS: AtomicU64 = AtomicU64::new(0);
    let vmm = active(2, |guest| {
        if guest.mpidr() == 1 {
            STARTS.fetch_add(1, Ordering::SeqCst);
            return;
        }
        for round in 1..=100 {
            // The machine knows a new start by its address.
            let entry_point = RAM + round % 2 * 0x40;
            let call = PsciCall::CpuOn { smc64: true, target_cpu: 1, entry_point, context_id: 0 };
            while guest.psci(&call) != PsciStatus::SUCCESS {}
            guest.spin_until(|| STARTS.load(Ordering::SeqCst) >= round);
        }
    });
    thread::scope(|scope| {
        scope.spawn(|| run_to_the_end(&vmm, 1));
        run_to_the_end(&vmm, 0);
    });
    assert_eq!(STARTS.load(Ordering::SeqCst), 100);
    vmm.end();
}

#[test]
fn a_vm_that_cannot_be_destroyed_at_once_is_destroyed_later() {
    let populated = || {
        let vmm = active(2, |guest| {
            guest.write::<u64>(RAM + (2 << 20) + PAGE, 1).expect("a block");
            guest.write::<u64>(RAM + (5 << 20), 1).expect("another one");
            guest.write::<u64>(SHARED + DEVICE, 1).expect("the VMM sees this");
        });
        assert_eq!(vmm.run(0), Ok(0));
        assert_eq!(vmm.exit(0).exit_reason, ExitReason::MMIO);
        vmm.machine.faults().reset();
        vmm
    };
    let vmm = populated();
    vmm.process.exit();
    let calls = vmm.machine.faults().count(Point::RmiBefore);
    // Undelegations are the bulk of them; a step of 37 meets every kind.
    for nth in (0..calls).step_by(37) {
        let vmm = populated();
        vmm.machine.faults().fail_nth(Point::RmiBefore, nth, 1);
        vmm.process.exit();
        vmm.machine.faults().disarm();
        assert_eq!(vmm.device.reclaim(), 0, "call {nth}");
        let statistics = vmm.device.statistics();
        assert_eq!(statistics.ledger.held(), 0, "call {nth}");
        assert!(statistics.ledger.leaked <= 1, "call {nth}");
        assert_eq!(vmm.device.rmm().ledger().losses().count() as u64, statistics.ledger.leaked);
    }
}

#[test]
fn realms_run_on_hosts_with_larger_pages() {
    for shift in [14, 16] {
        let page = 1_u64 << shift;
        let machine = boot_with_pages(shift);
        machine.set_guest(move |guest| {
            assert_eq!(guest.read_bytes(RAM + page + 16, 16), Ok(vec![1; 16]));
            let shared = RAM + (4 << 20);
            guest.write::<u64>(shared + page - 8, 1).expect("private");
            set_ripas(guest, shared, shared + page, Ripas::EMPTY);
            guest.write::<u64>(SHARED + shared + page - 8, 0x0be1).expect("shared");
        });
        let vmm = Vmm::at(&machine, Stage::Active, 1);
        run_to_the_end(&vmm, 0);
        let mut shared = [0; 8];
        vmm.process.read(vmm.ram + (4 << 20) + page - 8, &mut shared).expect("the shared side");
        assert_eq!(u64::from_le_bytes(shared), 0x0be1);
        vmm.end();
    }
}
