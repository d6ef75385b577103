//! The walker against tables laid out by hand.

use super::*;
use crate::config::DRAM_BASE;
use crate::hardware::tlb::Tlb;
use crate::pas::GranuleFault;
use realm_rmm::platform::TlbScope;

const VMID: u16 = 9;
/// AF, MemAttr Normal Write-Back, S2AP read and write.
const RW: u64 = 1 << 10 | 0b110 << 2 | 0b11 << 6;
const NS: u64 = 1 << 55;
const XN: u64 = 0b10 << 53;
const PAGE: u64 = 0b11;
const BLOCK: u64 = 0b01;
const TABLE: u64 = 0b11;

struct Bench {
    memory: Memory,
    log: EventLog,
    tlb: Tlb,
    used: u64,
}

impl Bench {
    fn new() -> Self {
        Self { memory: Memory::new(8 << 20), log: EventLog::default(), tlb: Tlb::default(), used: 0 }
    }
    fn take(&mut self, count: u64, pas: Pas) -> u64 {
        let pa = DRAM_BASE + self.used * GRANULE_SIZE;
        self.used += count;
        for granule in 0..count {
            if pas != Pas::NonSecure {
                self.memory
                    .transition(pa + granule * GRANULE_SIZE, Pas::NonSecure, pas)
                    .expect("Non-secure before");
            }
        }
        pa
    }
    fn put(&self, table: u64, index: u64, descriptor: u64) {
        let bytes = descriptor.to_le_bytes();
        self.memory.write(Pas::Realm, Pas::Realm, table + index * 8, &bytes).expect("a table");
    }
    fn mmu(&self, root: u64, vtcr: u64) -> Option<Mmu<'_>> {
        let vttbr = root | u64::from(VMID) << 48;
        Mmu::new(&self.memory, &self.log, |vmid| self.tlb.vmid(vmid), 48, (vttbr, vtcr))
    }
    fn mark(&self, pas: Pas, pa: u64, value: u8) {
        self.memory.write(pas, pas, pa, &[value]).expect("memory");
    }
}

/// VTCR_EL2 for an IPA width and starting level without LPA2.
fn vtcr(ipa_width: u64, start_level: i8) -> u64 {
    let sl0 = match start_level {
        0 => 2,
        1 => 1,
        2 => 0,
        _ => 3,
    };
    (64 - ipa_width) | sl0 << 6 | 1 << 30 | 1 << 31
}

fn first_byte(mmu: &Mmu<'_>, ipa: u64) -> Result<u8, Abort> {
    mmu.access(ipa, AccessKind::Read, |granule| (granule.words[0].load(Ordering::Relaxed) & 0xff) as u8)
}

fn fault(status: u8) -> Abort {
    Abort::Stage2 { status }
}

#[test]
fn a_page_is_found_from_every_starting_level() {
    for (ipa_width, start_level) in [(21, 3), (24, 2), (30, 2), (33, 1), (39, 1), (42, 0), (48, 0)] {
        let mut bench = Bench::new();
        let root = bench.take(1, Pas::Realm);
        let ipa = (1_u64 << (ipa_width - 1)) | 0x5000;
        let mut table = root;
        for level in start_level..3 {
            let next = bench.take(1, Pas::Realm);
            bench.put(table, (ipa >> level_shift(level)) & 0x1ff, next | TABLE);
            table = next;
        }
        let data = bench.take(1, Pas::Realm);
        bench.put(table, (ipa >> 12) & 0x1ff, data | RW | PAGE);
        bench.mark(Pas::Realm, data, 0x77);
        let mmu = bench.mmu(root, vtcr(ipa_width, start_level)).expect("a valid VTCR_EL2");
        assert_eq!(first_byte(&mmu, ipa), Ok(0x77), "width {ipa_width}, level {start_level}");
        let end = first_byte(&mmu, ipa + 0x1000);
        assert_eq!(end, Err(fault(status::TRANSLATION | 3)), "width {ipa_width}, level {start_level}");
        bench.log.assert_clean();
    }
}

#[test]
fn concatenated_tables_are_one_table() {
    let mut bench = Bench::new();
    bench.take(15, Pas::Realm);
    bench.used = 16;
    let root = bench.take(16, Pas::Realm);
    let data = DRAM_BASE + (4 << 20);
    for granule in 0..512 {
        let pa = data + granule * GRANULE_SIZE;
        bench.memory.transition(pa, Pas::NonSecure, Pas::Realm).expect("Non-secure before");
    }
    bench.mark(Pas::Realm, data + 0x3000, 0x21);
    // 34 bits from level 2: 13 bits of index, 16 tables.
    let ipa = (15_u64 << 30) | (3 << 21);
    bench.put(root + 15 * GRANULE_SIZE, 3, data | RW | BLOCK);
    let mmu = bench.mmu(root, vtcr(34, 2)).expect("a valid VTCR_EL2");
    assert_eq!(first_byte(&mmu, ipa + 0x3000), Ok(0x21));
    assert!(bench.mmu(root, vtcr(35, 2)).is_none(), "32 tables are too many");
}

#[test]
fn permissions_and_attributes_are_those_of_the_descriptor() {
    let mut bench = Bench::new();
    let root = bench.take(1, Pas::Realm);
    let pages = bench.take(6, Pas::Realm);
    let page = |n: u64| pages + n * GRANULE_SIZE;
    let read_only = RW & !(1 << 7);
    let write_only = RW & !(1 << 6);
    bench.put(root, 0, page(0) | read_only | PAGE);
    bench.put(root, 1, page(1) | write_only | PAGE);
    bench.put(root, 2, page(2) | RW | XN | PAGE);
    bench.put(root, 3, page(3) | (RW & !(1 << 10)) | PAGE);
    bench.put(root, 4, (1 << 44) | RW | PAGE);
    bench.put(root, 5, page(5) | RW | BLOCK);
    let mmu = bench.mmu(root, vtcr(21, 3)).expect("a valid VTCR_EL2");
    let attempt = |page: u64, kind| mmu.access(page << 12, kind, |_| ());
    let permission = Err(fault(status::PERMISSION | 3));
    assert_eq!(attempt(0, AccessKind::Read), Ok(()));
    assert_eq!(attempt(0, AccessKind::Write), permission);
    assert_eq!(attempt(0, AccessKind::Execute), Ok(()));
    assert_eq!(attempt(1, AccessKind::Read), permission);
    assert_eq!(attempt(1, AccessKind::Write), Ok(()));
    assert_eq!(attempt(2, AccessKind::Write), Ok(()));
    assert_eq!(attempt(2, AccessKind::Execute), permission);
    assert_eq!(attempt(3, AccessKind::Read), Err(fault(status::ACCESS_FLAG | 3)));
    assert_eq!(attempt(5, AccessKind::Read), Err(fault(status::TRANSLATION | 3)), "no block at level 3");
    bench.log.assert_clean();
    let narrow = Mmu::new(&bench.memory, &bench.log, |vmid| bench.tlb.vmid(vmid), 40, (root, vtcr(21, 3)));
    let narrow = narrow.expect("a valid VTCR_EL2");
    let wide_output = narrow.access(4 << 12, AccessKind::Read, |_| ());
    assert_eq!(wide_output, Err(fault(status::ADDRESS_SIZE | 3)));
}

#[test]
fn the_ns_bit_chooses_the_output_address_space() {
    let mut bench = Bench::new();
    let root = bench.take(1, Pas::Realm);
    let shared = bench.take(1, Pas::NonSecure);
    let private = bench.take(1, Pas::Realm);
    bench.put(root, 0, shared | RW | NS | PAGE);
    bench.put(root, 1, private | RW | NS | PAGE);
    bench.put(root, 2, shared | RW | PAGE);
    bench.mark(Pas::NonSecure, shared, 0x33);
    let mmu = bench.mmu(root, vtcr(21, 3)).expect("a valid VTCR_EL2");
    let gpf = Err(Abort::Stage1 { status: status::GPF });
    assert_eq!(first_byte(&mmu, 0), Ok(0x33));
    assert_eq!(first_byte(&mmu, 1 << 12), gpf, "the Host took the page away: the realm's fault to take");
    bench.log.assert_clean();
    assert_eq!(first_byte(&mmu, 2 << 12), gpf);
    let fault = GranuleFault { world: Pas::Realm, pa: shared, pas: Pas::Realm, found: Some(Pas::NonSecure) };
    assert_eq!(
        bench.log.events(),
        [Event::GranuleFault(fault)],
        "the RMM mapped what is not the Realm world's"
    );
}

#[test]
fn translations_outlive_their_descriptors_until_they_are_invalidated() {
    let mut bench = Bench::new();
    let root = bench.take(1, Pas::Realm);
    let table = bench.take(1, Pas::Realm);
    let data = bench.take(1, Pas::Realm);
    bench.put(root, 0, table | TABLE);
    bench.put(table, 5, data | RW | PAGE);
    bench.mark(Pas::Realm, data, 1);
    let mmu = bench.mmu(root, vtcr(30, 2)).expect("a valid VTCR_EL2");
    assert_eq!(first_byte(&mmu, 5 << 12), Ok(1));
    bench.put(table, 5, 0);
    assert_eq!(first_byte(&mmu, 5 << 12), Ok(1), "still remembered");
    bench.tlb.invalidate(VMID + 1, TlbScope::All);
    bench.tlb.invalidate(VMID, TlbScope::Range { base: 6 << 12, size: 1 << 12 });
    assert_eq!(first_byte(&mmu, 5 << 12), Ok(1), "of another VMID, of another page");
    bench.tlb.invalidate(VMID, TlbScope::Range { base: 5 << 12, size: 1 << 12 });
    assert_eq!(first_byte(&mmu, 5 << 12), Err(fault(status::TRANSLATION | 3)));
    bench.log.assert_clean();
}

#[test]
fn a_table_removed_without_invalidation_is_a_machine_check() {
    let mut bench = Bench::new();
    let root = bench.take(1, Pas::Realm);
    let table = bench.take(1, Pas::Realm);
    bench.put(root, 0, table | TABLE);
    let mmu = bench.mmu(root, vtcr(30, 2)).expect("a valid VTCR_EL2");
    assert_eq!(first_byte(&mmu, 0), Err(fault(status::TRANSLATION | 3)));
    bench.put(root, 0, 0);
    bench.memory.transition(table, Pas::Realm, Pas::NonSecure).expect("Realm before");
    assert_eq!(first_byte(&mmu, 0), Err(fault(status::EXTERNAL_ON_WALK | 3)));
    assert!(matches!(bench.log.take().as_slice(), [Event::MachineCheck(_)]));
    bench.tlb.invalidate(VMID, TlbScope::Range { base: 0, size: 1 << 12 });
    assert_eq!(first_byte(&mmu, 0), Err(fault(status::TRANSLATION | 2)));
    bench.log.assert_clean();
}

#[test]
fn addresses_outside_of_the_ipa_space_and_of_the_cpu_fault_where_they_should() {
    let mut bench = Bench::new();
    let root = bench.take(1, Pas::Realm);
    let mmu = bench.mmu(root, vtcr(33, 1)).expect("a valid VTCR_EL2");
    assert_eq!(first_byte(&mmu, 1 << 33), Err(fault(status::TRANSLATION)));
    assert_eq!(first_byte(&mmu, 1 << 48), Err(Abort::Stage1 { status: status::ADDRESS_SIZE }));
}

#[test]
fn lpa2_walks_start_at_level_minus_one_and_put_high_bits_elsewhere() {
    let mut bench = Bench::new();
    let root = bench.take(1, Pas::Realm);
    let ds_vtcr = (64 - 50) | 1 << 30 | 1 << 31 | 1 << 32 | 1 << 33;
    let geometry = Geometry::decode(ds_vtcr).expect("a valid VTCR_EL2");
    assert_eq!(geometry, Geometry { ipa_width: 50, start_level: -1, lpa2: true });
    let mmu = Mmu::new(&bench.memory, &bench.log, |vmid| bench.tlb.vmid(vmid), 52, (root, ds_vtcr));
    let mmu = mmu.expect("a valid VTCR_EL2");
    assert_eq!(first_byte(&mmu, 1 << 49), Err(fault(status::TRANSLATION_LEVEL_M1)));
    assert_eq!(mmu.output(0x0003_0000_0000_1000 | 0b11 << 8, 12), 0x000f_0000_0000_1000);
}

#[test]
fn a_vtcr_that_cannot_be_is_a_machine_check() {
    let mut bench = Bench::new();
    let root = bench.take(1, Pas::Realm);
    for wrong in [vtcr(40, 2), vtcr(33, 1) & !(1 << 30), vtcr(33, 1) | 1 << 14, vtcr(50, 0)] {
        assert!(bench.mmu(root, wrong).is_none(), "{wrong:#x}");
        assert!(matches!(bench.log.take().as_slice(), [Event::MachineCheck(_)]), "{wrong:#x}");
    }
}
