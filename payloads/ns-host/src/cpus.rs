//! The CPUs: the first one decides, the others do what it gives them.

use crate::host::CpuEvent;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use realm_el2::lock::{Mutex, relax};
use realm_el2::sysreg::{mask, unmask, wfi};
use realm_el2::{MAX_CPUS, gic, power};
use realm_host::host::Event;

type Work = Box<dyn FnOnce() + Send>;

static WORK: [Mutex<Option<Work>>; MAX_CPUS] = [const { Mutex::new(None) }; MAX_CPUS];
static ONLINE: AtomicUsize = AtomicUsize::new(1);

/// Turns all CPUs on; how many there are.
pub fn start() -> usize {
    for cpu in 1..MAX_CPUS {
        if !power::cpu_on(cpu) {
            break;
        }
        while ONLINE.load(Ordering::Acquire) != cpu + 1 {
            relax();
        }
    }
    unmask();
    ONLINE.load(Ordering::Acquire)
}

/// What all CPUs but the first do.
pub fn work(cpu: usize) -> ! {
    ONLINE.fetch_add(1, Ordering::Release);
    loop {
        mask();
        let work = WORK[cpu].lock().take();
        match work {
            Some(work) => {
                unmask();
                work();
            }
            None => {
                // An interrupt that came since the look is pending and ends the wait at once.
                wfi();
                unmask();
            }
        }
    }
}

/// Work on another CPU.
pub struct Task(Arc<CpuEvent>);

impl Task {
    /// Gives `work` to CPU `cpu`, which has nothing else to do.
    ///
    /// # Panics
    /// If it has.
    pub fn start(cpu: usize, work: impl FnOnce() + Send + 'static) -> Self {
        let done = Arc::new(CpuEvent::fresh());
        let signal = Arc::clone(&done);
        let work: Work = Box::new(move || {
            work();
            signal.signal();
        });
        let before = WORK[cpu].lock().replace(work);
        assert!(before.is_none(), "CPU {cpu} has work already");
        gic::wake(cpu);
        Self(done)
    }

    /// Waits until it is done.
    pub fn join(self) {
        self.0.wait(None);
    }
}
