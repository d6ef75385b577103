//! The table as hardware would read it.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const L1_BASE: u64 = 0x0e10_0000;

struct Memory {
    l0: Vec<AtomicU64>,
    l1: Vec<AtomicU64>,
}

impl Memory {
    fn new(regions: usize, tables: usize) -> Self {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { l0: words(regions), l1: words(tables * L1_ENTRIES) }
    }
    fn gpt(&self) -> Gpt<'_> {
        Gpt::new(&self.l0, &self.l1, L1_BASE)
    }
}

/// Records what was asked for.
#[derive(Default)]
struct Recorder(std::cell::RefCell<Vec<(&'static str, u64, u64)>>);

impl Maintenance for Recorder {
    fn write_back<W>(&self, entry: &W) {
        self.0.borrow_mut().push(("write back", core::ptr::from_ref(entry) as u64, 0));
    }
    fn flush(&self, pa: u64, space: Gpi) {
        self.0.borrow_mut().push(("flush", pa, space.bits().into()));
    }
    fn forget(&self, pa: u64, size: u64) {
        self.0.borrow_mut().push(("forget", pa, size));
    }
}

#[test]
fn a_new_table_belongs_to_everyone() {
    let memory = Memory::new(4, 1);
    let gpt = memory.gpt();
    assert_eq!(gpt.owner(0), Some(Gpi::ANY));
    assert_eq!(gpt.owner(0xffff_f000), Some(Gpi::ANY));
    assert_eq!(gpt.owner(0x1_0000_0000), None);
}

#[test]
fn what_a_reset_left_to_the_realm_world_is_found() {
    let memory = Memory::new(4, 3);
    let gpt = memory.gpt();
    gpt.assign(0x4000_0000, 0x8000_0000, Gpi::NS).unwrap();
    gpt.assign(0x4020_0000, 0x20_0000, Gpi::REALM).unwrap();
    gpt.assign(0x0e00_0000, 0x100_0000, Gpi::ROOT).unwrap();
    gpt.delegate(0xbfff_f000, &Recorder::default()).unwrap();
    gpt.delegate(0x8000_1000, &Recorder::default()).unwrap();
    gpt.assign(0x8000_2000, 0x1000, Gpi::NO_ACCESS).unwrap();
    let mut found = Vec::new();
    Gpt::found(&memory.l0, &memory.l1, L1_BASE).for_each_realm_granule(|pa| found.push(pa));
    let mut expected: Vec<u64> = (0x4020_0000..0x4040_0000).step_by(0x1000).collect();
    expected.extend([0x8000_1000, 0x8000_2000, 0xbfff_f000]);
    assert_eq!(found, expected);
}

#[test]
fn ranges_use_the_largest_contiguous_descriptors_that_fit() {
    let memory = Memory::new(4, 2);
    let gpt = memory.gpt();
    gpt.assign(0x4000_0000, 0x4000_0000, Gpi::NS).unwrap();
    gpt.assign(0x0e00_0000, 0x0230_1000, Gpi::ROOT).unwrap();
    let sizes = |pa: u64| {
        let table = &memory.l1[if pa < 0x4000_0000 { L1_ENTRIES..2 * L1_ENTRIES } else { 0..L1_ENTRIES }];
        match L1Descriptor::from_bits(l1_entry(table, pa).unwrap().load(Ordering::Relaxed)) {
            L1Descriptor::Contiguous(_, size) => Some(size),
            L1Descriptor::Granules(_) => None,
        }
    };
    assert_eq!([0x4000_0000, 0x7fff_f000].map(sizes), [Some(Contiguous::Mib512); 2]);
    assert_eq!(
        [0x0e00_0000, 0x0fff_f000, 0x1000_0000, 0x101f_f000, 0x1020_0000, 0x1030_0000].map(sizes),
        [
            Some(Contiguous::Mib32),
            Some(Contiguous::Mib32),
            Some(Contiguous::Mib2),
            Some(Contiguous::Mib2),
            None,
            None
        ]
    );
    assert_eq!(gpt.owner(0x1030_0000), Some(Gpi::ROOT));
    assert_eq!(gpt.owner(0x1030_1000), Some(Gpi::ANY));
}

#[test]
fn a_delegated_granule_splits_its_range_and_only_its_range() {
    let memory = Memory::new(4, 1);
    let gpt = memory.gpt();
    gpt.assign(0x4000_0000, 0x4000_0000, Gpi::NS).unwrap();
    let recorder = Recorder::default();
    gpt.delegate(0x4000_1000, &recorder).unwrap();
    assert_eq!(gpt.owner(0x4000_0000), Some(Gpi::NS));
    assert_eq!(gpt.owner(0x4000_1000), Some(Gpi::REALM));
    assert_eq!(gpt.owner(0x5fff_f000), Some(Gpi::NS));
    let last = &memory.l1[L1_ENTRIES - 1];
    assert_eq!(
        L1Descriptor::from_bits(last.load(Ordering::Relaxed)),
        L1Descriptor::Contiguous(Gpi::NS, Contiguous::Mib512)
    );
    assert_eq!(
        recorder.0.into_inner(),
        [
            ("forget", 0x4000_0000, 512 << 20),
            ("flush", 0x4000_1000, u64::from(Gpi::REALM.bits())),
            ("write back", &raw const memory.l1[0] as u64, 0),
            ("forget", 0x4000_1000, 0x1000),
            ("flush", 0x4000_1000, u64::from(Gpi::NS.bits())),
        ]
    );
}

#[test]
fn a_granule_changes_hands_only_from_its_owner() {
    let memory = Memory::new(4, 2);
    let gpt = memory.gpt();
    gpt.assign(0x4000_0000, 0x1000_0000, Gpi::NS).unwrap();
    gpt.assign(0x0e00_0000, 0x0010_0000, Gpi::ROOT).unwrap();
    let quiet = Recorder::default();
    assert_eq!(gpt.undelegate(0x4000_0000, &quiet), Err(GptError::BadPas(Gpi::NS)));
    assert_eq!(gpt.delegate(0x0e00_0000, &quiet), Err(GptError::BadPas(Gpi::ROOT)));
    assert_eq!(gpt.delegate(0x8000_0000, &quiet), Err(GptError::BadAddress));
    assert_eq!(gpt.delegate(0x4000_0800, &quiet), Err(GptError::BadAddress));
    assert_eq!(gpt.delegate(!0xfff, &quiet), Err(GptError::BadAddress));
    assert!(quiet.0.into_inner().is_empty());
    gpt.delegate(0x4000_0000, &Recorder::default()).unwrap();
    assert_eq!(gpt.delegate(0x4000_0000, &Recorder::default()), Err(GptError::BadPas(Gpi::REALM)));
    gpt.undelegate(0x4000_0000, &Recorder::default()).unwrap();
    assert_eq!(gpt.owner(0x4000_0000), Some(Gpi::NS));
}

#[test]
fn a_layout_needs_room_for_its_tables() {
    let memory = Memory::new(4, 1);
    let gpt = memory.gpt();
    gpt.assign(0x4000_0000, 0x1000, Gpi::NS).unwrap();
    assert_eq!(gpt.assign(0x8000_0000, 0x1000, Gpi::NS), Err(LayoutError::Tables));
    assert_eq!(gpt.assign(0x1_0000_0000, 0x1000, Gpi::NS), Err(LayoutError::Range));
    assert_eq!(gpt.assign(0x4000_0000, 0, Gpi::NS), Err(LayoutError::Range));
    assert_eq!(gpt.assign(0x4000_0800, 0x1000, Gpi::NS), Err(LayoutError::Range));
}

proptest! {
    #[test]
    fn every_granule_belongs_to_the_last_range_that_covered_it(
        ranges in proptest::collection::vec((0_u64..0x4_0000, 1_u64..0x2_0000, 0_usize..3), 1..6),
        probes in proptest::collection::vec(0_u64..0x4_0000, 32),
    ) {
        let memory = Memory::new(2, 2);
        let gpt = memory.gpt();
        let owners = [Gpi::NS, Gpi::REALM, Gpi::SECURE];
        for (first, count, owner) in &ranges {
            let count = (*count).min(0x4_0000 - first);
            gpt.assign(first << 12, count << 12, owners[*owner]).unwrap();
        }
        for probe in probes {
            let expected = ranges
                .iter()
                .rev()
                .find(|(first, count, _)| probe >= *first && probe < first + count)
                .map_or(Gpi::ANY, |(_, _, owner)| owners[*owner]);
            prop_assert_eq!(gpt.owner(probe << 12), Some(expected));
        }
    }
}
