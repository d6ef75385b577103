//! The granule locks under a model checker: every interleaving and every reordering the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p realm-rmm --test lock_loom --release`
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::thread;
use realm_rmm::granule::{Bank, GranuleEntry, GranuleGuard, GranuleState, GranuleTable, LockError, LockWord};

/// A lock's word as the model checker sees it.
struct Word(AtomicU32);

impl LockWord for Word {
    fn acquire(&self, from: u32, to: u32) -> Result<(), u32> {
        self.0.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).map(|_| ())
    }
    fn release(&self, value: u32) {
        self.0.store(value, Ordering::Release);
    }
    fn peek(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Granules 0 to 3 with a content each, which no lock of the checker's own protects.
struct Memory {
    entries: [GranuleEntry<Word>; 4],
    contents: [AtomicU64; 4],
}

const BASE: u64 = 0x8000_0000;
const BANK: Bank = Bank { base: BASE, size: 4 * 4096 };

const fn pa(index: usize) -> u64 {
    BASE + index as u64 * 4096
}

type Table<'a> = GranuleTable<'a, Word>;

impl Memory {
    /// Memory whose granules are in these states.
    fn new(states: [GranuleState; 4]) -> Arc<Self> {
        let memory = Self {
            entries: std::array::from_fn(|_| GranuleEntry(Word(AtomicU32::new(0)))),
            contents: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        for (index, state) in states.into_iter().enumerate() {
            memory.table().lock(pa(index), GranuleState::Undelegated).unwrap().set_state(state);
        }
        Arc::new(memory)
    }

    fn table(&self) -> Table<'_> {
        GranuleTable::new(&[BANK], &self.entries, thread::yield_now).unwrap()
    }

    /// A read and a write that only a lock makes one step. Relaxed: if the lock did not publish it, an old value would be
    /// read and an increment lost.
    fn increment(&self, index: usize, _guard: &GranuleGuard<'_, Word>) {
        let value = self.contents[index].load(Ordering::Relaxed);
        self.contents[index].store(value + 1, Ordering::Relaxed);
    }

    fn content(&self, index: usize) -> u64 {
        self.contents[index].load(Ordering::Relaxed)
    }
}

/// Runs both at once, in every way.
fn race(
    states: [GranuleState; 4],
    first: impl Fn(&Memory) + Send + Sync + Copy + 'static,
    second: impl Fn(&Memory) + Send + Sync + Copy + 'static,
    after: impl Fn(&Memory) + Send + Sync + 'static,
) {
    loom::model(move || {
        let memory = Memory::new(states);
        let other = Arc::clone(&memory);
        let thread = thread::spawn(move || first(&other));
        second(&memory);
        thread.join().unwrap();
        after(&memory);
    });
}

use GranuleState::{Data, Delegated, Rd, Rtt, Undelegated};

#[test]
fn one_at_a_time_has_a_granule_and_sees_what_the_last_one_did() {
    let increment = |memory: &Memory| {
        for _ in 0..2 {
            let guard = memory.table().lock(pa(0), Delegated).unwrap();
            memory.increment(0, &guard);
        }
    };
    race([Delegated; 4], increment, increment, |memory| {
        let _guard = memory.table().lock(pa(0), Delegated).unwrap();
        assert_eq!(memory.content(0), 4);
    });
}

#[test]
fn references_counted_under_the_lock_are_not_lost() {
    let count = |memory: &Memory| {
        let mut guard = memory.table().lock(pa(0), Rd).unwrap();
        guard.count(1).unwrap();
    };
    race([Rd; 4], count, count, |memory| {
        let guard = memory.table().lock(pa(0), Rd).unwrap();
        assert_eq!((guard.refcount(), guard.state()), (2, Rd));
    });
}

#[test]
fn of_two_that_want_to_change_a_state_one_finds_it_changed() {
    let take = |memory: &Memory| match memory.table().lock(pa(0), Delegated) {
        Ok(mut guard) => {
            memory.increment(0, &guard);
            guard.set_state(Data);
        }
        Err(error) => assert_eq!(error, LockError::State(Data)),
    };
    race([Delegated; 4], take, take, |memory| {
        let _guard = memory.table().lock(pa(0), Data).unwrap();
        assert_eq!(memory.content(0), 1);
    });
}

#[test]
fn pairs_named_in_opposite_orders_do_not_wait_for_each_other() {
    let pair = |memory: &Memory, first: (usize, GranuleState), second: (usize, GranuleState)| {
        let (a, b) = memory.table().lock_pair((pa(first.0), first.1), (pa(second.0), second.1)).unwrap();
        memory.increment(first.0, &a);
        memory.increment(second.0, &b);
    };
    race(
        [Delegated, Rd, Delegated, Delegated],
        move |memory| pair(memory, (0, Delegated), (1, Rd)),
        move |memory| pair(memory, (1, Rd), (0, Delegated)),
        |memory| assert_eq!([0, 1].map(|index| memory.content(index)), [2, 2]),
    );
}

#[test]
fn a_pair_that_fails_holds_nothing() {
    let fail = |memory: &Memory| {
        let failed = memory.table().lock_pair((pa(1), Delegated), (pa(0), Rd));
        assert!(matches!(failed, Err(LockError::State(_))));
    };
    let lock = |memory: &Memory| {
        let _guard = memory.table().lock(pa(0), Rd).unwrap();
    };
    race([Rd, Undelegated, Undelegated, Undelegated], fail, lock, |memory| {
        let _both = memory.table().lock_pair((pa(0), Rd), (pa(1), Undelegated)).unwrap();
    });
}

/// The locks of DATA_CREATE: data and RD as a pair, then root and leaf hand over hand. Granules: 0 RD, 1 root, 2 leaf, 3
/// data.
fn data_create(memory: &Memory) -> Result<(), LockError> {
    let table = memory.table();
    let (mut data, rd) = table.lock_pair((pa(3), Delegated), (pa(0), Rd))?;
    let root = table.lock(pa(1), Rtt)?;
    drop(rd);
    let mut leaf = table.lock(pa(2), Rtt)?;
    drop(root);
    data.set_state(Data);
    leaf.count(1).unwrap();
    memory.increment(2, &leaf);
    Ok(())
}

/// The locks of DATA_DESTROY: RD, root, leaf, then the granule found in it.
fn data_destroy(memory: &Memory) -> Result<(), LockError> {
    let table = memory.table();
    let rd = table.lock(pa(0), Rd)?;
    let root = table.lock(pa(1), Rtt)?;
    drop(rd);
    let mut leaf = table.lock(pa(2), Rtt)?;
    drop(root);
    if leaf.refcount() == 0 {
        return Err(LockError::State(Delegated));
    }
    let mut data = table.lock(pa(3), Data)?;
    data.set_state(Delegated);
    leaf.count(-1).unwrap();
    memory.increment(2, &leaf);
    Ok(())
}

/// The locks of RTT_DESTROY: RD, root, then the leaf, which must hold nothing.
fn rtt_destroy(memory: &Memory) -> Result<(), LockError> {
    let table = memory.table();
    let rd = table.lock(pa(0), Rd)?;
    let _root = table.lock(pa(1), Rtt)?;
    drop(rd);
    let mut leaf = table.lock(pa(2), Rtt)?;
    if leaf.refcount() != 0 {
        return Err(LockError::State(Rtt));
    }
    leaf.set_state(Delegated);
    Ok(())
}

#[test]
fn creating_and_destroying_data_end_and_agree() {
    race(
        [Rd, Rtt, Rtt, Delegated],
        |memory| data_create(memory).unwrap(),
        |memory| {
            let _ = data_destroy(memory);
        },
        |memory| {
            let leaf = memory.table().lock(pa(2), Rtt).unwrap();
            match memory.table().peek(pa(3)) {
                Some(Data) => assert_eq!((leaf.refcount(), memory.content(2)), (1, 1)),
                Some(Delegated) => assert_eq!((leaf.refcount(), memory.content(2)), (0, 2)),
                other => panic!("{other:?}"),
            }
        },
    );
}

#[test]
fn a_table_goes_only_while_nothing_is_in_it() {
    race(
        [Rd, Rtt, Rtt, Delegated],
        |memory| {
            let _ = data_create(memory);
        },
        |memory| {
            let _ = rtt_destroy(memory);
        },
        |memory| {
            let states = [2, 3].map(|index| memory.table().peek(pa(index)));
            assert!(
                states == [Some(Rtt), Some(Data)] || states == [Some(Delegated), Some(Delegated)],
                "{states:?}"
            );
        },
    );
}

#[test]
fn a_granule_named_wrongly_takes_no_part_in_the_order() {
    // The Host names the leaf as data: a pair with a table somebody holds while he walks.
    race(
        [Rd, Rtt, Rtt, Delegated],
        |memory| {
            let failed = memory.table().lock_pair((pa(2), Delegated), (pa(0), Rd));
            assert_eq!(failed.err(), Some(LockError::State(Rtt)));
        },
        |memory| data_create(memory).unwrap(),
        |memory| assert_eq!(memory.table().peek(pa(3)), Some(Data)),
    );
}
