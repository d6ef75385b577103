//! vCPUs and devices on threads of their own: nobody sleeps over an interrupt.

use super::{DIST, OPEN, SGI, config, redist};
use crate::{Locks, Order, SpinLock, Vgic};
use realm_abi::Errno;
use realm_host::irqchip::{GicEntry, GicExit, GicRegister, Irqchip, Wake};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

const VCPUS: u32 = 3;
/// Shared interrupts: one for each vCPU, and two for any.
const LINES: [u32; 5] = [32, 33, 34, 70, 71];
const ROUNDS: u64 = 2000;
const STATE: u64 = 3 << 62;
/// Nobody waits so long but for something that was lost.
const LOST: Duration = Duration::from_secs(120);

struct Blocking<T>(Mutex<T>);

impl<T: Send> SpinLock<T> for Blocking<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;
    fn new(_order: Order, value: T) -> Result<Self, Errno> {
        Ok(Self(Mutex::new(value)))
    }
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics with it")
    }
}

struct Blockings;

impl Locks for Blockings {
    type Lock<T: Send> = Blocking<T>;
}

/// Something to wait for.
#[derive(Default)]
struct Event(Mutex<bool>, Condvar);

impl Event {
    fn signal(&self) {
        *self.0.lock().expect("a flag") = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        let guard = self.0.lock().expect("a flag");
        let (mut guard, timeout) = self.1.wait_timeout_while(guard, LOST, |set| !*set).expect("a flag");
        assert!(!timeout.timed_out(), "nobody came");
        *guard = false;
    }
}

/// What the Host core keeps of a vCPU, for the GIC to wake.
#[derive(Default)]
struct Vcpu {
    kicked: AtomicBool,
    event: Event,
    sgis: AtomicU64,
}

#[derive(Default)]
struct Machine {
    vcpus: [Vcpu; VCPUS as usize],
    /// How often each line was served, and that it was.
    served: [AtomicU64; LINES.len()],
    serviced: [Event; LINES.len()],
    sent: [Event; VCPUS as usize],
    over: AtomicBool,
}

impl Wake for Machine {
    fn wake(&self, vcpu: u32) {
        let vcpu = &self.vcpus[vcpu as usize];
        vcpu.kicked.store(true, Ordering::SeqCst);
        vcpu.event.signal();
    }
}

impl Machine {
    /// Takes what is in the list registers, and ends it.
    fn run(&self, gic: &Vgic<Blockings>, vcpu: u32, entry: &GicEntry) -> GicExit {
        let mut exit = GicExit { vmcr: Some(OPEN), lrs: entry.lrs, ..GicExit::default() };
        for lr in exit.lrs.iter_mut().filter(|lr| **lr & STATE != 0) {
            let intid = *lr as u32;
            if let Some(line) = LINES.iter().position(|line| *line == intid) {
                gic.set_shared(intid, false, self).expect("a line");
                self.served[line].fetch_add(1, Ordering::SeqCst);
                self.serviced[line].signal();
            } else {
                self.vcpus[vcpu as usize].sgis.fetch_add(1, Ordering::SeqCst);
                self.sent[vcpu as usize].signal();
            }
            *lr &= !STATE;
        }
        exit
    }

    /// The loop of KVM_RUN.
    fn vcpu(&self, gic: &Vgic<Blockings>, id: u32) {
        let vcpu = &self.vcpus[id as usize];
        while !self.over.load(Ordering::SeqCst) {
            vcpu.kicked.store(false, Ordering::SeqCst);
            let entry = gic.flush(id, 1);
            let exit = if vcpu.kicked.load(Ordering::SeqCst) {
                GicExit { lrs: entry.lrs, ..GicExit::default() }
            } else {
                self.run(gic, id, &entry)
            };
            gic.sync(id, &exit, self);
            if !gic.pending(id) && !self.over.load(Ordering::SeqCst) {
                vcpu.event.wait();
            }
        }
    }
}

#[test]
fn whoever_waits_is_woken_and_every_interrupt_is_served_once() {
    let gic = Vgic::<Blockings>::new(&config(VCPUS, 96)).expect("a GIC");
    let machine = Machine::default();
    let write = |at, size, value| assert!(gic.mmio_write(0, at, size, value, &machine));
    write(DIST, 4, 3);
    for (line, route) in LINES.into_iter().zip([0, 1, 2, 1 << 31, 1 << 31]) {
        let word = u64::from(line / 32) * 4;
        write(DIST + 0x80 + word, 4, u64::from(u32::MAX));
        write(DIST + 0x100 + word, 4, 1 << (line % 32));
        write(DIST + 0x6000 + u64::from(line) * 8, 8, route);
    }
    for vcpu in 0..VCPUS {
        write(redist(vcpu) + 0x14, 4, 0);
        write(redist(vcpu) + SGI + 0x80, 4, u64::from(u32::MAX));
        write(redist(vcpu) + SGI + 0x100, 4, 1);
    }
    thread::scope(|scope| {
        let (gic, machine) = (&gic, &machine);
        let vcpus = (0..VCPUS).map(|id| scope.spawn(move || machine.vcpu(gic, id)));
        let vcpus: std::vec::Vec<_> = vcpus.collect();
        let devices = (0..LINES.len()).map(|line| {
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    gic.set_shared(LINES[line], true, machine).expect("a line");
                    machine.serviced[line].wait();
                }
            })
        });
        let devices: std::vec::Vec<_> = devices.collect();
        let senders = (0..VCPUS).map(|target| {
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    gic.write_register(0, GicRegister::Sgi1r, 1 << target, machine);
                    machine.sent[target as usize].wait();
                }
            })
        });
        let senders: std::vec::Vec<_> = senders.collect();
        let ended = devices.into_iter().chain(senders).map(|thread| thread.join().is_ok()).min();
        machine.over.store(true, Ordering::SeqCst);
        (0..VCPUS).for_each(|vcpu| machine.wake(vcpu));
        let stopped = vcpus.into_iter().map(|thread| thread.join().is_ok()).min();
        assert_eq!((ended, stopped), (Some(true), Some(true)));
    });
    for served in &machine.served {
        assert_eq!(served.load(Ordering::SeqCst), ROUNDS);
    }
    for vcpu in &machine.vcpus {
        assert_eq!(vcpu.sgis.load(Ordering::SeqCst), ROUNDS);
    }
}
