//! A vCPU that runs, on a Host that lets nothing but the entry happen between `vcpu_load` and `vcpu_put`.

use super::*;
use crate::fake::{Entry, KILLED};
use crate::realm::Supply;
use crate::{Host, Vm};
use realm_abi::kvm::{VGIC_GRP_ADDR, VGIC_V3_ADDR_DIST, VGIC_V3_ADDR_REDIST};
use realm_abi::rmi::{ExitReason, RecRun, Ripas};

/// Syndrome of a data abort that cannot be emulated.
const DATA_ABORT: u64 = 0x24 << 26;
const ALIAS: u64 = 1 << 32;

/// A realm that can run, and what it takes to run it.
struct Running {
    machine: Machine,
    process: Process,
    fds: Vec<i64>,
    vcpu: File<FakeHost>,
    vm: Arc<Vm<FakeHost>>,
}

impl Running {
    fn new() -> Self {
        let machine = Machine::new(Limits::default());
        let process = machine.process(1);
        let fds = machine.create_realm(&process);
        let chip = machine.get(fds[2]);
        let set = |group, attr, value: u64| {
            let addr = process.put(&value);
            let attr = DeviceAttr { flags: 0, group, attr, addr };
            process.ioctl_with(&chip, cmd(Ioctl::SetDeviceAttr), &attr).unwrap();
        };
        set(VGIC_GRP_ADDR, VGIC_V3_ADDR_DIST, 0x800_0000);
        set(VGIC_GRP_ADDR, VGIC_V3_ADDR_REDIST, 0x80a_0000);
        set(VGIC_GRP_CTRL, VGIC_CTRL_INIT, 0);
        let (vcpu, vm) = (machine.get(fds[1]), machine.get(fds[0]));
        let File::Vm(vm) = vm else { panic!("it is a VM") };
        Self { machine, process, fds, vcpu, vm }
    }

    fn host(&self) -> &FakeHost {
        self.machine.device.host()
    }

    fn run(&self) -> Result<i64, Errno> {
        let result = self.process.ioctl(&self.vcpu, cmd(Ioctl::Run), 0);
        KILLED.set(false);
        result
    }

    /// Lets the realm access these addresses, one in each run; the thread then has a signal.
    fn touch(&self, addresses: &'static [u64]) -> Result<i64, Errno> {
        let mut left = addresses.iter();
        self.host().run_guest(move |run: &mut RecRun| match left.next() {
            None => KILLED.set(true),
            Some(ipa) => {
                run.exit.exit_reason = ExitReason::SYNC;
                (run.exit.esr, run.exit.hpfar, run.exit.far) = (DATA_ABORT, ipa >> 8 & !0xf, ipa & 0xfff);
            }
        });
        self.run()
    }

    fn entry(&self, ipa: u64) -> (i64, Entry) {
        let rd = self.vm.realm.rd().unwrap();
        self.host().with_rmm(|rmm| rmm.realms[&rd].entry(ipa, 3))
    }

    fn end(self) {
        let Self { machine, fds, vcpu, vm, .. } = self;
        drop((vcpu, vm));
        machine.close(&fds);
        machine.assert_nothing_is_left();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_vcpu_gets_the_memory_it_touches() {
    let running = Running::new();
    let held = running.host().held();
    // The first one is private, and was taken away; the others are shared.
    let touched: &[u64] =
        &[RAM + 0x5000, RAM + 3 * BLOCK_SIZE + ALIAS, RAM + 3 * BLOCK_SIZE + 0x3008 + ALIAS];
    let slot = running.vm.memory.lock().slots.find(RAM).cloned().unwrap();
    let gone = slot.private_range(&(RAM..RAM + 0x1_0000)).unwrap();
    running.vm.realm.unmap_private(&gone, &mut Supply::HostOrReserve, &|| false, &ALWAYS).unwrap();
    assert!(matches!(running.entry(touched[0]).1, Entry::Unassigned(_)));
    drop(slot);
    assert_eq!(running.touch(touched), Err(Errno::EINTR));
    for at in touched {
        assert!(
            matches!(running.entry(at & !0xfff).1, Entry::Assigned(..) | Entry::AssignedNs(_)),
            "{at:#x}"
        );
    }
    assert_eq!(running.host().held(), held + 0x2000);
    running.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn memory_that_the_vmm_maps_as_a_block_is_shared_as_one_unless_a_page_of_it_is_already() {
    let running = Running::new();
    running.process.block.set(BLOCK_SIZE);
    let held = running.host().held();
    assert_eq!(running.touch(&[RAM + 3 * BLOCK_SIZE + 0x7000 + ALIAS]), Err(Errno::EINTR));
    assert_eq!((running.host().held(), running.process.pins()), (held + BLOCK_SIZE, 1));
    assert!(matches!(running.entry(RAM + 3 * BLOCK_SIZE + ALIAS), (2, Entry::AssignedNs(_))));
    // One page of this block is shared.
    assert_eq!(running.touch(&[RAM + 2 * BLOCK_SIZE + 0x7000 + ALIAS]), Err(Errno::EINTR));
    assert_eq!((running.host().held(), running.process.pins()), (held + BLOCK_SIZE + 0x1000, 2));
    running.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_ripas_change_that_is_interrupted_goes_on_with_the_next_run() {
    let running = Running::new();
    let (base, top) = (RAM + 0x3000, RAM + 4 * BLOCK_SIZE);
    let (rd, vm) = (running.vm.realm.rd().unwrap(), &running.vm);
    running.host().with_rmm(|rmm| rmm.realms.get_mut(&rd).unwrap().request = Some((base, top, Ripas::EMPTY)));
    let mut asked = false;
    running.host().run_guest(move |run: &mut RecRun| {
        if core::mem::replace(&mut asked, true) {
            KILLED.set(true);
            return;
        }
        run.exit.exit_reason = ExitReason::RIPAS_CHANGE;
        (run.exit.ripas_base, run.exit.ripas_top, run.exit.ripas_value) = (base, top, Ripas::EMPTY);
    });
    assert_eq!(running.run(), Err(Errno::EFAULT), "the VMM is told first");
    assert!(matches!(running.entry(base).1, Entry::Assigned(..)));
    let mut interrupted = 0;
    loop {
        // Each run gets a little further.
        running.process.dies_after.set(Some(3));
        assert_eq!(running.run(), Err(Errno::EINTR));
        let request = running.host().with_rmm(|rmm| rmm.realms[&rd].request);
        if request.is_none() && matches!(running.entry(RAM + BLOCK_SIZE - 0x1000).1, Entry::Unassigned(_)) {
            break;
        }
        interrupted += 1;
        assert!(interrupted < 100, "it does not get on");
    }
    assert!(interrupted > 1);
    running.process.dies_after.set(None);
    assert!(matches!(running.entry(RAM).1, Entry::Assigned(_, _)), "below the change");
    assert_eq!((running.run(), vm.realm.phase()), (Err(Errno::EINTR), crate::realm::Phase::Active));
    running.end();
}

#[test]
fn a_vm_that_ends_stops_a_vcpu_that_runs() {
    let running = Running::new();
    let (entered, in_realm) = std::sync::mpsc::channel();
    running.host().run_guest(move |_: &mut RecRun| {
        // Only that it runs is told; what comes after it is an interrupt.
        let _ = entered.send(());
    });
    let answer = std::thread::scope(|threads| {
        let (vcpu, rmm) = (running.vcpu.clone(), running.machine.device.rmm().clone());
        let runs = threads.spawn(move || Process::new(&rmm, 1).ioctl(&vcpu, cmd(Ioctl::Run), 0));
        // Long enough for any machine: only a test that fails waits for it.
        in_realm.recv_timeout(core::time::Duration::from_secs(60)).expect("the realm is entered");
        assert_eq!(running.machine.device.shut_down(), Ok(()));
        runs.join().unwrap()
    });
    assert_eq!(answer, Err(Errno::EIO));
    running.end();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn an_interrupt_is_raised_where_nothing_may_sleep() {
    let running = Running::new();
    let gic = running.vm.config.lock().gic.running().unwrap();
    let vcpu = running.vm.vcpus().next().unwrap();
    vcpu.waker().take_kick();
    let entry = crate::host::Entry { vcpu: vcpu.number(), mask_pmu: false };
    running.host().vcpu_load(&entry);
    gic.set_shared(40, true).unwrap();
    let woken = vcpu.waker().take_kick();
    vcpu.kick();
    running.host().vcpu_put(&entry);
    assert!(woken && vcpu.waker().is_kicked());
    drop((gic, vcpu));
    running.end();
}
