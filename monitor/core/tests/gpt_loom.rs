//! Splits of contiguous ranges and transitions in them under a model checker: interleavings and reorderings the memory model
//! allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p realm-monitor --test gpt_loom --release`
#![cfg(loom)]

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use realm_monitor::gpt::{Gpi, Gpt, GptError, L1_ENTRIES, L1Descriptor, Maintenance, Word as GptWord};

/// A word as the model checker sees it; entries that no test looks at are not worth its time.
enum Word {
    Checked(AtomicU64),
    Plain(std::sync::atomic::AtomicU64),
}

impl Word {
    fn plain() -> Self {
        Self::Plain(std::sync::atomic::AtomicU64::new(0))
    }
}

impl GptWord for Word {
    fn new(value: u64) -> Self {
        Self::Checked(AtomicU64::new(value))
    }
    fn load(&self) -> u64 {
        match self {
            Self::Checked(word) => word.load(Ordering::Acquire),
            Self::Plain(word) => word.load(Ordering::Acquire),
        }
    }
    fn store(&self, value: u64) {
        match self {
            Self::Checked(word) => word.store(value, Ordering::Release),
            Self::Plain(word) => word.store(value, Ordering::Release),
        }
    }
    fn replace(&self, from: u64, to: u64) -> Result<(), u64> {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self {
            Self::Checked(word) => word.compare_exchange(from, to, success, failure).map(|_| ()),
            Self::Plain(word) => word.compare_exchange(from, to, success, failure).map(|_| ()),
        }
    }
    fn relax() {
        thread::yield_now();
    }
}

/// How often threads are interrupted where they do not wait, at most, in one execution. Without a bound this takes half a minute and
/// passes, too; what went wrong once shows with one interruption.
const PREEMPTIONS: Option<usize> = Some(3);

/// A region whose first 2 MiB are one contiguous range of the Non-secure world.
const RANGE: u64 = 2 << 20;
const ENTRY: u64 = 64 << 10;
/// The last entry of the range: written last when it is split.
const LAST: u64 = RANGE - ENTRY;

struct Memory {
    l0: [Word; 1],
    l1: Vec<Word>,
    /// What the CPUs' TLBs hold of the range: whether it is one contiguous Non-secure range. A walk holds this lock: an
    /// invalidation waits for walks under way.
    cached: Mutex<bool>,
}

impl Memory {
    fn new() -> Self {
        let checked = [0, 1, (LAST / ENTRY) as usize];
        let entry = |n| if checked.contains(&n) { Word::new(0) } else { Word::plain() };
        Self { l0: [Word::plain()], l1: (0..L1_ENTRIES).map(entry).collect(), cached: Mutex::new(false) }
    }

    /// Whether the last entry still is contiguous.
    fn last_is_contiguous(&self) -> bool {
        let bits = self.l1[(LAST / ENTRY) as usize].load();
        matches!(L1Descriptor::from_bits(bits), L1Descriptor::Contiguous(..))
    }

    /// A CPU reads the last entry of the range.
    fn walk(&self) {
        let mut cached = self.cached.lock().unwrap();
        if self.last_is_contiguous() {
            *cached = true;
        }
    }
}

/// The TLB of [`Memory`].
struct Tlb<'a>(&'a Memory);

impl Maintenance for Tlb<'_> {
    fn write_back<W>(&self, _: &W) {}
    fn flush(&self, _: u64, _: Gpi) {}
    fn forget(&self, _: u64, _: u64) {
        // Every range that is named here is in the contiguous one, so the entry of that goes.
        *self.0.cached.lock().unwrap() = false;
    }
}

/// Delegates `pa`. From then on nobody may hold it to be the Non-secure world's, now or later.
fn delegate(memory: &Memory, gpt: &Gpt<'_, Word>, pa: u64) -> Result<(), GptError> {
    gpt.delegate(pa, &Tlb(memory))?;
    let cached = memory.cached.lock().unwrap();
    assert!(!*cached, "a CPU still reaches {pa:#x}, which is the Realm world's");
    assert!(!memory.last_is_contiguous(), "a CPU can still learn that {pa:#x} is the Non-secure world's");
    drop(cached);
    Ok(())
}

/// Runs both, and with `walked` a CPU that walks the table, in every way.
fn race(
    walked: bool,
    first: impl Fn(&Memory, &Gpt<'_, Word>) + Send + Sync + Copy + 'static,
    second: impl Fn(&Memory, &Gpt<'_, Word>) + Send + Sync + Copy + 'static,
    after: impl Fn(&Gpt<'_, Word>) + Send + Sync + 'static,
) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = PREEMPTIONS;
    checker.check(move || {
        let memory = Box::into_raw(Box::new(Memory::new()));
        {
            // SAFETY: it is given back below, when the threads that have the reference are done.
            let memory: &'static Memory = unsafe { &*memory };
            let gpt = Gpt::new(&memory.l0, &memory.l1, 0);
            gpt.assign(0, RANGE, Gpi::NS).unwrap();
            let gpt = Arc::new(gpt);
            let other = Arc::clone(&gpt);
            let splitter = thread::spawn(move || first(memory, &other));
            let walker = walked.then(|| thread::spawn(move || memory.walk()));
            second(memory, &gpt);
            splitter.join().unwrap();
            if let Some(walker) = walker {
                walker.join().unwrap();
            }
            after(&gpt);
        }
        // SAFETY: nobody has the reference any more.
        drop(unsafe { Box::from_raw(memory) });
    });
}

#[test]
fn a_delegated_granule_is_nobody_elses_while_its_range_is_being_split() {
    race(
        true,
        |memory, gpt| delegate(memory, gpt, 0).unwrap(),
        |memory, gpt| delegate(memory, gpt, ENTRY).unwrap(),
        |gpt| {
            let owners = [0, ENTRY, 0x1000, LAST].map(|pa| gpt.owner(pa));
            assert_eq!(owners, [Gpi::REALM, Gpi::REALM, Gpi::NS, Gpi::NS].map(Some));
        },
    );
}

#[test]
fn of_two_that_delegate_a_granule_one_finds_it_gone() {
    race(
        false,
        |memory, gpt| {
            let _ = delegate(memory, gpt, 0);
        },
        |memory, gpt| {
            let _ = delegate(memory, gpt, 0);
        },
        |gpt| assert_eq!((gpt.owner(0), gpt.owner(0x1000)), (Some(Gpi::REALM), Some(Gpi::NS))),
    );
}
