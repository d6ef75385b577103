use crate::*;
use core::cell::Cell;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::format;
use std::string::String;

/// Numbers that follow from a seed (SplitMix64). Strategies of proptest would shrink better, and take an interpreter minutes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// How many things are done in a property test at most.
const STEPS: usize = if cfg!(miri) { 24 } else { 200 };

/// Counts how often it is dropped.
#[derive(Clone)]
pub(crate) struct Counted<'a>(pub &'a Cell<usize>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

mod boxes {
    use super::*;

    #[test]
    fn a_box_holds_its_value_and_drops_it_once() {
        let drops = Cell::new(0);
        let boxed = try_box((7, Counted(&drops))).unwrap();
        assert_eq!((boxed.0, drops.get()), (7, 0));
        drop(boxed);
        assert_eq!(drops.get(), 1);
    }

    #[test]
    fn values_without_size_and_with_a_large_alignment_are_boxed() {
        #[derive(Debug, PartialEq)]
        #[repr(align(256))]
        struct Aligned(u8);
        #[derive(Debug, PartialEq)]
        #[repr(align(4096))]
        struct Nothing;
        let boxed = try_box(Aligned(3)).unwrap();
        assert_eq!((&raw const *boxed as usize % 256, &*boxed), (0, &Aligned(3)));
        let nothing = try_box(Nothing).unwrap();
        assert_eq!((&raw const *nothing as usize % 4096, *nothing), (0, Nothing));
        assert!(try_zeroed_box::<()>().is_ok());
        assert_eq!(try_zeroed_slice::<[u8; 0]>(3).unwrap().len(), 3);
        assert!(try_zeroed_slice::<u32>(0).unwrap().is_empty());
    }

    #[test]
    fn zeroed_memory_is_zero() {
        assert!(try_zeroed_box::<[u8; 4096]>().unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(*try_zeroed_slice::<u64>(5).unwrap(), [0; 5]);
    }

    #[test]
    fn a_slice_larger_than_an_address_space_is_no_memory() {
        assert_eq!(try_zeroed_slice::<u64>(usize::MAX).unwrap_err(), NoMemory);
        assert_eq!(try_zeroed_slice::<u8>(usize::MAX).unwrap_err(), NoMemory);
    }

    #[test]
    fn an_array_is_made_element_by_element() {
        let drops = Cell::new(0);
        let array = try_box_array::<_, 5>(|index| (index, Counted(&drops))).unwrap();
        assert!(array.iter().map(|(index, _)| *index).eq(0..5));
        drop(array);
        assert_eq!(drops.get(), 5);
    }
}

mod vectors {
    use super::*;

    #[test]
    fn nothing_grows_that_is_not_asked_to() {
        let mut vec = Vec::with_capacity(2).unwrap();
        assert_eq!((vec.push_within(1), vec.push_within(2), vec.push_within(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(vec.insert_within(0, 4), Err(4));
        assert_eq!((&*vec, vec.capacity(), vec.spare()), (&[1, 2][..], 2, 0));
        vec.try_reserve(1).unwrap();
        assert!(vec.spare() >= 1);
        assert_eq!(vec.insert_within(3, 4), Err(4), "there is no third value to insert before or after");
        assert_eq!(vec.insert_within(2, 4), Ok(()));
        assert_eq!(vec, Vec::try_from_iter([1, 2, 4]).unwrap());
    }

    #[test]
    fn more_than_an_address_space_is_no_memory() {
        let mut vec = Vec::try_from_iter([1_u64]).unwrap();
        assert_eq!(vec.try_reserve(usize::MAX), Err(NoMemory));
        assert_eq!(vec.try_reserve(usize::MAX / 8), Err(NoMemory));
        assert_eq!(Vec::<u64>::with_capacity(usize::MAX), Err(NoMemory));
        assert_eq!(&*vec, [1]);
    }

    #[test]
    fn values_without_size_take_no_room() {
        let mut vec = Vec::new();
        for _ in 0..100 {
            vec.push_within(()).unwrap();
        }
        assert_eq!(
            (vec.len(), vec.spare(), vec.try_reserve(usize::MAX)),
            (100, usize::MAX - 100, Err(NoMemory))
        );
        assert_eq!((vec.remove(3), vec.swap_remove(4), vec.pop()), (Some(()), Some(()), Some(())));
        vec.insert_within(97, ()).unwrap();
        assert_eq!(vec.into_iter().count(), 98);
    }

    #[test]
    fn every_value_is_dropped_once() {
        let drops = Cell::new(0);
        let values = |count| Vec::try_from_iter((0..count).map(|_| Counted(&drops))).unwrap();
        let dropped = |what: &str, count| assert_eq!(drops.replace(0), count, "{what}");

        drop(values(10));
        dropped("drop", 10);
        let mut vec = values(10);
        vec.truncate(20);
        dropped("truncate to more", 0);
        vec.truncate(7);
        dropped("truncate", 3);
        let mut index = 0;
        vec.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        dropped("retain", 4);
        let copy = vec.try_clone().unwrap();
        vec.clear();
        dropped("clear", 3);
        drop((vec, copy));
        dropped("the copy", 3);

        let mut iter = values(10).into_iter();
        assert_eq!(iter.len(), 10);
        drop((iter.next(), iter.next_back(), iter.next()));
        dropped("what an iterator gave", 3);
        drop(iter);
        dropped("what is left of an iterator", 7);

        let mut full = Vec::with_capacity(1).unwrap();
        full.push_within(Counted(&drops)).map_err(|_| ()).unwrap();
        drop(full.push_within(Counted(&drops)));
        dropped("what there was no room for", 1);
        drop((full.remove(1), full.swap_remove(1)));
        dropped("what is not there", 0);
        drop((full.remove(0), full.remove(0), full.pop()));
        dropped("what was taken out", 1);
    }

    #[test]
    fn a_range_is_removed_as_from_the_standard_vector() {
        for (from, to) in (0..7).flat_map(|from| (0..9).map(move |to| (from, to))) {
            let mut ours = Vec::try_from_iter((0..6).map(|value| try_box(value).unwrap())).unwrap();
            let mut theirs: std::vec::Vec<i32> = (0..6).collect();
            ours.remove_range(from, to);
            if from < to {
                theirs.drain(from.min(6)..to.min(6));
            }
            assert!(ours.iter().map(|value| **value).eq(theirs), "{from}..{to}");
        }
        let mut none = Vec::try_from_iter([(); 5]).unwrap();
        none.remove_range(1, 4);
        assert_eq!(none.len(), 2);
    }

    #[test]
    fn an_unwinding_drop_frees_the_rest() {
        struct Last<'a>(bool, #[expect(dead_code, reason = "it is dropped")] Counted<'a>);
        impl Drop for Last<'_> {
            fn drop(&mut self) {
                if self.0 {
                    std::panic::resume_unwind(std::boxed::Box::new(()));
                }
            }
        }
        let drops = Cell::new(0);
        let vec = Vec::try_from_iter((0..4).map(|index| Last(index == 1, Counted(&drops)))).unwrap();
        let caught = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| drop(vec)));
        assert!(caught.is_err());
        assert_eq!(drops.get(), 4);
    }

    /// What is done to a vector.
    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Insert(usize, u8),
        Remove(usize),
        SwapRemove(usize),
        Pop,
        Truncate(usize),
        Retain(u8),
        Extend(std::vec::Vec<u8>),
        Reserve(usize),
        Clone,
    }

    fn step(random: &mut Random) -> Step {
        let (index, value) = (random.below(20) as usize, random.next() as u8);
        match random.below(18) {
            0..4 => Step::Push(value),
            4..7 => Step::Insert(index, value),
            7..9 => Step::Remove(index),
            9..11 => Step::SwapRemove(index),
            11 => Step::Pop,
            12 => Step::Truncate(index),
            13 => Step::Retain(2 + value % 3),
            14..16 => Step::Extend((0..index as u8 / 2).map(|more| value ^ more).collect()),
            16 => Step::Reserve(index),
            _ => Step::Clone,
        }
    }

    proptest! {
        #[test]
        fn a_vector_does_what_the_standard_one_does(seed: u64, steps in 0..STEPS) {
            let mut random = Random(seed);
            // Boxes, so that Miri and leak checks see what is lost or freed twice.
            let boxed = |value: u8| try_box(value).unwrap();
            let mut ours: Vec<Box<u8>> = Vec::new();
            let mut theirs: std::vec::Vec<u8> = std::vec::Vec::new();
            for _ in 0..steps {
                let (room, len) = (ours.spare(), ours.len());
                match step(&mut random) {
                    Step::Push(value) => {
                        ours.try_push(boxed(value)).unwrap();
                        theirs.push(value);
                    }
                    Step::Insert(index, value) => {
                        let fits = room > 0 && index <= len;
                        prop_assert_eq!(ours.insert_within(index, boxed(value)).is_ok(), fits);
                        if fits {
                            theirs.insert(index, value);
                        }
                    }
                    Step::Remove(index) => {
                        let expected = (index < len).then(|| theirs.remove(index));
                        prop_assert_eq!(ours.remove(index).map(|value| *value), expected);
                    }
                    Step::SwapRemove(index) => {
                        let expected = (index < len).then(|| theirs.swap_remove(index));
                        prop_assert_eq!(ours.swap_remove(index).map(|value| *value), expected);
                    }
                    Step::Pop => prop_assert_eq!(ours.pop().map(|value| *value), theirs.pop()),
                    Step::Truncate(len) => {
                        ours.truncate(len);
                        theirs.truncate(len);
                    }
                    Step::Retain(divisor) => {
                        ours.retain(|value| **value % divisor == 0);
                        theirs.retain(|value| value % divisor == 0);
                    }
                    Step::Extend(values) => {
                        ours.try_extend(values.iter().copied().map(boxed)).unwrap();
                        theirs.extend(values);
                    }
                    Step::Reserve(more) => {
                        ours.try_reserve(more).unwrap();
                        prop_assert!(ours.spare() >= more);
                    }
                    Step::Clone => ours = ours.try_clone().unwrap(),
                }
                prop_assert!(ours.iter().map(|value| **value).eq(theirs.iter().copied()));
                prop_assert!(ours.capacity() >= ours.len());
            }
            let values: std::vec::Vec<u8> = ours.into_iter().rev().map(|value| *value).collect();
            prop_assert!(values.into_iter().rev().eq(theirs));
        }
    }
}

mod arcs {
    use super::*;

    #[test]
    fn the_last_owner_drops_the_value() {
        let drops = Cell::new(0);
        let first = Arc::try_new(Counted(&drops)).unwrap();
        let second = first.clone();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(Arc::strong_count(&first), 2);
        drop(first);
        assert_eq!((drops.get(), Arc::strong_count(&second)), (0, 1));
        drop(second);
        assert_eq!(drops.get(), 1);
    }

    #[test]
    fn the_last_owner_gets_the_value() {
        let drops = Cell::new(0);
        let mut first = Arc::try_new((5, Counted(&drops))).unwrap();
        Arc::get_mut(&mut first).unwrap().0 = 6;
        let second = first.clone();
        assert!(Arc::get_mut(&mut first).is_none());
        assert!(Arc::into_inner(first).is_none());
        let value = Arc::into_inner(second).unwrap();
        assert_eq!((value.0, drops.get()), (6, 0));
        drop(value);
        assert_eq!(drops.get(), 1);
    }

    #[test]
    fn a_trait_object_is_shared_by_way_of_a_box() {
        trait Say {
            fn say(&self) -> u32;
        }
        impl Say for (u32, Counted<'_>) {
            fn say(&self) -> u32 {
                self.0
            }
        }
        let drops = Cell::new(0);
        let mut boxed = Unshared::try_new((1, Counted(&drops))).unwrap();
        boxed.0 = 2;
        let boxed: Box<Unshared<dyn Say + '_>> = boxed;
        let shared = Arc::from(boxed);
        let other = shared.clone();
        assert!(Arc::ptr_eq(&shared, &other));
        drop(shared);
        assert_eq!((other.say(), drops.get()), (2, 0));
        drop(other);
        assert_eq!(drops.get(), 1);
        drop(Unshared::try_new(Counted(&drops)).unwrap());
        assert_eq!(drops.get(), 2);
    }

    #[test]
    fn values_without_size_are_shared() {
        let unit = Arc::try_new(()).unwrap();
        let other = unit.clone();
        assert!(Arc::into_inner(unit).is_none());
        assert_eq!(Arc::into_inner(other), Some(()));
    }

    #[test]
    fn threads_share_a_value() {
        let value = Arc::try_new(std::sync::Mutex::new(0)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let value = value.clone();
                scope.spawn(move || *value.lock().unwrap() += 1);
            }
        });
        assert_eq!(Arc::into_inner(value).unwrap().into_inner().unwrap(), 3);
    }

    #[test]
    fn it_shows_what_it_holds() {
        let value = Arc::try_new("it").unwrap();
        assert_eq!(format!("{value} {value:?}"), "it \"it\"");
    }
}

mod sparse {
    use super::*;

    /// A map with these indices, each with its half as the value.
    fn map(indices: impl IntoIterator<Item = u64>) -> Sparse<u64> {
        let mut map = Sparse::new();
        for index in indices {
            map.try_insert(index, index / 2).unwrap();
        }
        map
    }

    #[test]
    fn the_ends_of_the_space_are_indices_as_all_others() {
        let mut map = map([u64::MAX, 0, 1 << 63, u64::MAX - 64, 63, 64]);
        let indices = [0, 63, 64, 1 << 63, u64::MAX - 64, u64::MAX];
        assert!(map.iter().map(|(index, _)| index).eq(indices));
        for index in indices {
            assert_eq!((map.get(index), map.next(index)), (Some(&(index / 2)), Some((index, &(index / 2)))));
        }
        assert_eq!(map.next(65), Some((1 << 63, &(1 << 62))));
        assert_eq!(map.last().map(|(index, _)| index), Some(u64::MAX));
        assert_eq!(map.pop_last().map(|(index, _)| index), Some(u64::MAX));
        assert_eq!((map.next(u64::MAX), map.next(u64::MAX - 63), map.len()), (None, None, 5));
        assert_eq!(map.pop_first(), Some((0, 0)));
        *map.next_mut(1).unwrap().1 = 9;
        assert_eq!((map.get(63), map.get(0), map.get(62)), (Some(&9), None, None));
    }

    #[test]
    fn an_insertion_takes_a_leaf_and_a_branch_at_most() {
        let mut spare = Spare::new();
        let mut map = Sparse::new();
        assert_eq!(map.insert(3, 'a', &mut spare), Err('a'));
        for index in (0..64).map(|bit| 1 << bit).chain([0, u64::MAX]) {
            spare.fill(1).unwrap();
            assert_eq!(map.insert(index, 'b', &mut spare), Ok(None));
            let mut none = Spare::new();
            assert_eq!(map.insert(index, 'c', &mut none), Ok(Some('b')));
        }
        let mut none = Spare::new();
        assert_eq!(map.insert(65, 'd', &mut none), Ok(None), "64 has a leaf");
        assert_eq!(map.insert(0x1_0040, 'e', &mut none), Err('e'));
        assert_eq!((map.len(), map.get(0x1_0040)), (67, None));
    }

    #[test]
    fn a_run_needs_what_was_filled_for_it() {
        for (start, len) in [(0, 1), (63, 2), (62, 66), (5, 640)] {
            let (mut map, mut spare) = (Sparse::new(), Spare::new());
            spare.fill_run(len).unwrap();
            for index in start..start + len as u64 {
                assert_eq!(map.insert(index, index, &mut spare), Ok(None));
            }
        }
    }

    #[test]
    fn every_value_is_dropped_once() {
        let drops = Cell::new(0);
        let mut map = Sparse::new();
        for index in [1, 2, 70, 1 << 40, u64::MAX] {
            assert!(map.try_insert(index, Counted(&drops)).unwrap().is_none());
        }
        assert_eq!(drops.get(), 0);
        drop(map.try_insert(70, Counted(&drops)).unwrap());
        assert_eq!(drops.get(), 1);
        assert!(map.remove(3).is_none() && map.remove(71).is_none() && map.remove(1 << 41).is_none());
        drop(map.remove(70));
        assert_eq!((drops.get(), map.len()), (2, 4));
        map.clear();
        assert_eq!((drops.get(), map.is_empty()), (6, true));
    }

    #[test]
    fn it_shows_what_it_holds() {
        let shown: String = format!("{:?}", map([2, 1]));
        assert_eq!(shown, "{1: 0, 2: 1}");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, u8),
        Remove(u64),
        Get(u64),
        Next(u64),
        PopFirst,
        PopLast,
    }

    /// Some near to each other, some anywhere, some at the ends.
    fn index(random: &mut Random) -> u64 {
        match random.below(4) {
            0 => random.below(300),
            1 => random.below(4) << random.below(64),
            2 => u64::MAX - random.below(300),
            _ => random.next(),
        }
    }

    fn step(random: &mut Random) -> Step {
        let index = index(random);
        match random.below(13) {
            0..5 => Step::Insert(index, random.next() as u8),
            5..8 => Step::Remove(index),
            8 => Step::Get(index),
            9..11 => Step::Next(index),
            11 => Step::PopFirst,
            _ => Step::PopLast,
        }
    }

    #[expect(clippy::borrowed_box, reason = "as the map gives it")]
    fn see((index, value): (u64, &Box<u8>)) -> (u64, u8) {
        (index, **value)
    }

    proptest! {
        #[test]
        fn a_sparse_map_does_what_the_standard_one_does(seed: u64, steps in 0..STEPS) {
            let mut random = Random(seed);
            let mut ours: Sparse<Box<u8>> = Sparse::new();
            let mut theirs = BTreeMap::new();
            let unbox = |(index, value): (u64, Box<u8>)| (index, *value);
            for _ in 0..steps {
                match step(&mut random) {
                    Step::Insert(index, value) => {
                        let before = ours.try_insert(index, try_box(value).unwrap()).unwrap();
                        prop_assert_eq!(before.map(|value| *value), theirs.insert(index, value));
                    }
                    Step::Remove(index) => {
                        // One that is there, if there is one.
                        let index = theirs.range(index..).next().map_or(index, |(index, _)| *index);
                        prop_assert_eq!(ours.remove(index).map(|value| *value), theirs.remove(&index));
                    }
                    Step::Get(index) => {
                        prop_assert_eq!(ours.get(index).map(|value| **value), theirs.get(&index).copied());
                        prop_assert_eq!(ours.get_mut(index).map(|value| **value), theirs.get(&index).copied());
                    }
                    Step::Next(from) => {
                        let expected = theirs.range(from..).next().map(|(index, value)| (*index, *value));
                        prop_assert_eq!(ours.next(from).map(see), expected);
                        prop_assert_eq!(ours.next_mut(from).map(|(index, value)| (index, **value)), expected);
                    }
                    Step::PopFirst => prop_assert_eq!(ours.pop_first().map(unbox), theirs.pop_first()),
                    Step::PopLast => prop_assert_eq!(ours.pop_last().map(unbox), theirs.pop_last()),
                }
                prop_assert_eq!((ours.len(), ours.is_empty()), (theirs.len(), theirs.is_empty()));
                prop_assert_eq!(ours.first().map(see), theirs.first_key_value().map(|(a, b)| (*a, *b)));
                prop_assert_eq!(ours.last().map(see), theirs.last_key_value().map(|(a, b)| (*a, *b)));
            }
            prop_assert!(ours.iter().map(see).eq(theirs.into_iter()));
        }
    }
}

#[test]
fn what_may_be_sent_or_shared_follows_the_values() {
    trait Sendable {
        const YES: bool = false;
    }
    impl<T: ?Sized> Sendable for T {}
    struct Is<T: ?Sized>(core::marker::PhantomData<T>);
    impl<T: ?Sized + Send> Is<T> {
        const YES: bool = true;
    }
    const fn both<T: Send + Sync>() {}
    both::<(Vec<u8>, Arc<u8>, Sparse<u8>, Spare<u8>, IntoIter<u8>)>();
    const { assert!(!Is::<Arc<Cell<u8>>>::YES) };
    const { assert!(!Is::<Vec<std::rc::Rc<u8>>>::YES) };
    const { assert!(Is::<Vec<Cell<u8>>>::YES) };
}
