//! Physical CPUs: a thread of this process is on one while it is in a secure monitor call, and interrupts go to CPUs.

use crate::probe::log::lock;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

thread_local! {
    /// The CPUs this thread is on: one for each machine it is inside of.
    static CURRENT: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
struct Line {
    pending: Mutex<bool>,
    wake: Condvar,
}

#[derive(Debug)]
struct Pool {
    free: Vec<usize>,
    loaded: HashMap<u32, usize>,
}

/// The CPUs of one machine.
#[derive(Debug)]
pub(crate) struct Cpus {
    lines: Vec<Line>,
    pool: Mutex<Pool>,
    returned: Condvar,
}

impl Cpus {
    pub fn new(count: usize) -> Self {
        Self {
            lines: (0..count.max(1)).map(|_| Line::default()).collect(),
            pool: Mutex::new(Pool { free: (0..count.max(1)).rev().collect(), loaded: HashMap::new() }),
            returned: Condvar::new(),
        }
    }

    fn machine(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The CPU the calling thread is on.
    pub fn current(&self) -> Option<usize> {
        let machine = self.machine();
        CURRENT.with_borrow(|current| current.iter().find(|(m, _)| *m == machine).map(|(_, cpu)| *cpu))
    }

    /// Puts the calling thread on a free CPU, waiting for one; `vcpu` is who a kick will name. When all CPUs are busy
    /// a scheduler's tick interrupts them.
    pub fn load(&self, vcpu: Option<u32>) -> usize {
        let mut pool = lock(&self.pool);
        let cpu = loop {
            if let Some(cpu) = pool.free.pop() {
                break cpu;
            }
            for cpu in 0..self.lines.len() {
                self.raise(cpu);
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        };
        if let Some(vcpu) = vcpu {
            pool.loaded.insert(vcpu, cpu);
        }
        drop(pool);
        CURRENT.with_borrow_mut(|current| current.push((self.machine(), cpu)));
        cpu
    }

    /// Takes the calling thread off its CPU, which takes its pending interrupt.
    pub fn put(&self, vcpu: Option<u32>) {
        let Some(cpu) = self.current() else { return };
        let machine = self.machine();
        CURRENT.with_borrow_mut(|current| current.retain(|(m, _)| *m != machine));
        let mut pool = lock(&self.pool);
        if let Some(vcpu) = vcpu {
            pool.loaded.remove(&vcpu);
        }
        *lock(&self.lines[cpu].pending) = false;
        pool.free.push(cpu);
        drop(pool);
        self.returned.notify_one();
    }

    /// Interrupts the CPU `vcpu` is loaded on, if it is.
    pub fn kick(&self, vcpu: u32) {
        let pool = lock(&self.pool);
        if let Some(cpu) = pool.loaded.get(&vcpu) {
            self.raise(*cpu);
        }
    }

    /// Makes a physical interrupt pending on `cpu`.
    pub fn raise(&self, cpu: usize) {
        if let Some(line) = self.lines.get(cpu) {
            *lock(&line.pending) = true;
            line.wake.notify_all();
        }
    }

    /// Whether an interrupt is pending on `cpu`.
    pub fn pending(&self, cpu: usize) -> bool {
        self.lines.get(cpu).is_some_and(|line| *lock(&line.pending))
    }

    /// Waits for an interrupt on `cpu`, at most `timeout`.
    pub fn wait(&self, cpu: usize, timeout: Duration) {
        let Some(line) = self.lines.get(cpu) else { return };
        let pending = lock(&line.pending);
        if !*pending {
            drop(line.wake.wait_timeout(pending, timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_before_the_run_is_not_lost_and_ends_with_the_put() {
        let cpus = Cpus::new(2);
        cpus.kick(7);
        let cpu = cpus.load(Some(7));
        assert!(!cpus.pending(cpu), "nobody was there to be kicked");
        cpus.kick(7);
        assert!(cpus.pending(cpu));
        cpus.wait(cpu, Duration::MAX);
        cpus.put(Some(7));
        assert!(!cpus.pending(cpu));
        assert_eq!(cpus.current(), None);
    }
}
