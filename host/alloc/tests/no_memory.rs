//! Every operation with an allocator that fails at the first allocation, at the second, and so on.

use realm_alloc::{Arc, Box, NoMemory, Spare, Sparse, Unshared, Vec, try_box, try_box_array};
use realm_alloc::{try_uninit_box, try_zeroed_box, try_zeroed_slice};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;

/// The system's allocator, which can be told to fail, and counts. Each test has a thread, and each thread its own counts.
struct Failing;

thread_local! {
    /// How many allocations still succeed.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    static ASKED: Cell<usize> = const { Cell::new(0) };
    /// Bytes that are allocated.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn grant(more: usize) -> bool {
    ASKED.set(ASKED.get() + 1);
    match LEFT.get().checked_sub(1) {
        Some(left) => LEFT.set(left),
        // A failed assertion needs memory to say so.
        None if std::thread::panicking() => LEFT.set(usize::MAX),
        None => return false,
    }
    LIVE.set(LIVE.get().wrapping_add_unsigned(more));
    true
}

// SAFETY: it is the system's allocator, except that it fails more often.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grant(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub_unsigned(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !grant(size) {
            return std::ptr::null_mut();
        }
        LIVE.set(LIVE.get().wrapping_sub_unsigned(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// What `scenario` returns if the first `left` allocations succeed and no other; how many it asked for; what it leaked.
fn limited<R>(left: usize, scenario: impl FnOnce() -> R) -> (R, usize, isize) {
    let (asked, live) = (ASKED.get(), LIVE.get());
    LEFT.set(left);
    let result = scenario();
    LEFT.set(usize::MAX);
    (result, ASKED.get() - asked, LIVE.get() - live)
}

/// A scenario that needs so many allocations fails if one of them does, and leaks nothing. It returns something without
/// memory of its own.
fn fails_at_each<R: Debug>(allocations: usize, scenario: impl Fn() -> Result<R, NoMemory>) {
    for left in 0..allocations {
        let (result, asked, leaked) = limited(left, &scenario);
        assert_eq!(result.err(), Some(NoMemory), "with {left} allocations");
        assert_eq!((asked, leaked), (left + 1, 0), "with {left} allocations");
    }
    let (result, asked, leaked) = limited(allocations, &scenario);
    assert!(result.is_ok());
    assert_eq!((asked, leaked), (allocations, 0));
}

/// Something that needs no memory.
fn needs_none<R>(scenario: impl FnOnce() -> R) -> R {
    let (result, asked, _) = limited(0, scenario);
    assert_eq!(asked, 0);
    result
}

#[test]
fn boxes_fail_without_memory() {
    fails_at_each(1, || try_box(7_u64).map(drop));
    fails_at_each(0, || try_box(()).map(drop));
    fails_at_each(1, || try_uninit_box::<u64>().map(drop));
    fails_at_each(1, || try_zeroed_box::<[u8; 4096]>().map(drop));
    fails_at_each(1, || try_zeroed_slice::<u64>(100).map(drop));
    fails_at_each(1, || try_box_array::<_, 8>(|_| None::<Box<u64>>).map(drop));
    fails_at_each(2, || try_box(try_box(7)?).map(drop));
}

#[test]
fn arcs_fail_without_memory() {
    fails_at_each(1, || Arc::try_new(7).map(drop));
    fails_at_each(1, || Unshared::try_new(7).map(drop));
    let first = Arc::try_new(7).unwrap();
    needs_none(|| {
        let second = first.clone();
        assert_eq!((Arc::into_inner(first), Arc::into_inner(second)), (None, Some(7)));
    });
}

#[test]
fn vectors_fail_without_memory_and_keep_what_they_have() {
    fails_at_each(1, || Vec::<u64>::with_capacity(10).map(drop));
    fails_at_each(0, || Vec::<u64>::with_capacity(0).map(drop));
    fails_at_each(0, || Vec::<()>::with_capacity(10).map(drop));
    fails_at_each(1, || Vec::try_from_iter(0..10).map(drop));
    // An iterator that does not say how long it is: 4, 8, 16.
    fails_at_each(3, || Vec::try_from_iter((0..10).filter(|_| true)).map(drop));
    let mut vec = Vec::try_from_iter(0..4).unwrap();
    fails_at_each(1, || vec.try_clone().map(drop));
    let (result, ..) = limited(0, || (vec.try_reserve(1), vec.try_push(4), vec.try_extend([5, 6])));
    assert_eq!(result, (Err(NoMemory), Err(NoMemory), Err(NoMemory)));
    assert_eq!(&*vec, [0, 1, 2, 3]);
}

#[test]
fn a_vector_gives_back_without_memory() {
    let mut vec = Vec::try_from_iter(0..10).unwrap();
    needs_none(|| {
        assert_eq!((vec.pop(), vec.remove(0), vec.swap_remove(0)), (Some(9), Some(0), Some(1)));
        vec.insert_within(1, 7).unwrap();
        vec.push_within(8).unwrap();
        vec.retain(|value| *value != 8);
        vec.truncate(3);
        assert_eq!(vec.into_iter().sum::<i32>(), 7 + 2 + 3);
    });
}

#[test]
fn a_map_fails_without_memory_and_keeps_what_it_has() {
    let mut map = Sparse::new();
    // Room in the reserve, a leaf; from the second on also room for a branch and the branch.
    for (index, value) in [(5_u64, 'a'), (500, 'b'), (1 << 50, 'c')] {
        for left in 0..4 {
            assert_eq!(limited(left, || map.try_insert(index, 'x')), (Err(NoMemory), left + 1, 0));
            assert_eq!(map.get(index), None);
        }
        map.try_insert(index, value).unwrap();
        assert_eq!(needs_none(|| map.try_insert(index, value)), Ok(Some(value)));
    }
    assert!(map.iter().map(|(_, value)| *value).eq(['a', 'b', 'c']));
}

#[test]
fn a_filled_reserve_is_enough_and_removal_frees_what_it_no_longer_needs() {
    let indices = [0, 1 << 63, 64, 65, 1 << 20, (1 << 20) + 64, u64::MAX];
    let live = LIVE.get();
    let mut spare = Spare::new();
    spare.fill(indices.len()).unwrap();
    let mut map = Sparse::new();
    needs_none(|| {
        for index in indices {
            assert_eq!(map.insert(index, index, &mut spare), Ok(None));
        }
    });
    drop(spare);
    let full = LIVE.get();
    needs_none(|| {
        for index in indices {
            assert_eq!(map.remove(index), Some(index));
        }
    });
    assert!(map.is_empty());
    assert_eq!(LIVE.get(), live, "of {full}");
}

#[test]
fn a_reserve_that_could_not_be_filled_keeps_what_it_has() {
    // A vector and three nodes of each kind.
    for left in 0..8 {
        let live = LIVE.get();
        let mut spare = Spare::<u64>::new();
        assert_eq!(limited(left, || spare.fill(3)).0, Err(NoMemory));
        assert_eq!(limited(8 - left, || spare.fill(3)).0, Ok(()), "after {left}");
        drop(spare);
        assert_eq!(LIVE.get(), live);
    }
}

#[test]
fn an_insertion_that_misses_a_branch_keeps_the_leaf() {
    let mut map = Sparse::new();
    map.try_insert(0, 'a').unwrap();
    let mut spare = Spare::new();
    assert_eq!(limited(2, || spare.fill(1)).0, Err(NoMemory), "room for a leaf, and a leaf");
    assert_eq!(map.insert(64, 'b', &mut spare), Err('b'));
    assert_eq!(limited(2, || spare.fill(1)).0, Ok(()), "room for a branch, and a branch");
    assert_eq!(map.insert(64, 'b', &mut spare), Ok(None));
}

#[test]
fn a_drop_that_unwinds_does_not_cost_the_memory() {
    struct Unwinds;
    impl Drop for Unwinds {
        fn drop(&mut self) {
            std::panic::resume_unwind(std::boxed::Box::new(()));
        }
    }
    let live = LIVE.get();
    let vec = Vec::try_from_iter([(1, Unwinds)]).unwrap();
    assert!(LIVE.get() > live);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(vec))).is_err());
    assert_eq!(LIVE.get(), live);
}
