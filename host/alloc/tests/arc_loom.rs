//! The count of an `Arc` under a model checker: every interleaving and every reordering the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p realm-alloc --test arc_loom --release`
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use realm_alloc::Arc;

/// Memory that the checker watches: an access that another one does not happen before is a race.
struct Watched {
    content: UnsafeCell<u32>,
    drops: std::sync::Arc<AtomicUsize>,
}

// SAFETY: not at all; the checker reports what is not.
unsafe impl Sync for Watched {}

impl Watched {
    fn shared(drops: &std::sync::Arc<AtomicUsize>) -> Arc<Self> {
        Arc::try_new(Self { content: UnsafeCell::new(7), drops: drops.clone() }).unwrap()
    }

    fn read(&self) {
        // SAFETY: the checker sees to it that nobody writes.
        self.content.with(|content| assert_eq!(unsafe { *content }, 7));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: the checker sees to it that nobody else reads or writes.
        self.content.with_mut(|content| unsafe { *content = 0 });
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

fn model(check: impl Fn(&std::sync::Arc<AtomicUsize>) + Send + Sync + 'static) {
    loom::model(move || {
        let drops = std::sync::Arc::new(AtomicUsize::new(0));
        check(&drops);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn the_last_of_three_drops_after_all_have_read() {
    model(|drops| {
        let first = Watched::shared(drops);
        let threads = [first.clone(), first.clone()].map(|arc| thread::spawn(move || arc.read()));
        first.read();
        drop(first);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_clone_of_a_clone_keeps_the_value() {
    model(|drops| {
        let first = Watched::shared(drops);
        let second = first.clone();
        let thread = thread::spawn(move || {
            let third = second.clone();
            drop(second);
            third.read();
        });
        drop(first);
        thread.join().unwrap();
    });
}

#[test]
fn of_two_that_want_the_value_one_gets_it() {
    model(|drops| {
        let first = Watched::shared(drops);
        let second = first.clone();
        let take = |arc: Arc<Watched>| {
            arc.read();
            Arc::into_inner(arc).is_some()
        };
        let thread = thread::spawn(move || take(second));
        assert_ne!(take(first), thread.join().unwrap());
    });
}

#[test]
fn the_only_owner_writes_after_others_have_read() {
    model(|drops| {
        let mut first = Watched::shared(drops);
        let second = first.clone();
        let thread = thread::spawn(move || second.read());
        if let Some(value) = Arc::get_mut(&mut first) {
            // SAFETY: the checker sees to it that nobody else reads or writes.
            value.content.with_mut(|content| unsafe { *content = 7 });
        }
        thread.join().unwrap();
    });
}
