use super::*;
use crate::gpt::L1_ENTRIES;
use core::sync::atomic::AtomicU64;

fn board(banks: &[(u64, u64)]) -> Board {
    let banks: Vec<_> = banks.iter().map(|&(base, gib)| Range::new(base, gib << 30)).collect();
    Board::new(&banks, 4).expect("few banks")
}

fn owners(board: &Board, at: &[u64]) -> Vec<Option<Gpi>> {
    let words = |count| -> Vec<_> { (0..count).map(|_| AtomicU64::new(0)).collect() };
    let tables = l1_tables(board);
    let (l0, l1) = (words(L0_SIZE as usize / 8), words(tables.size as usize / 8));
    let gpt = Gpt::new(&l0, &l1, tables.base);
    assign(&gpt, board).expect("room for all tables");
    at.iter().map(|&pa| gpt.owner(pa)).collect()
}

#[test]
fn all_memory_is_the_non_secure_worlds_but_what_the_firmware_keeps() {
    let board = board(&[(0x4000_0000, 6)]);
    let at = [DEVICE_TREE.base, RMM.base - 0x1000, RMM.end(), PAYLOAD_BASE, 0x1_0000_0000, 0x1_bfff_f000];
    assert_eq!(owners(&board, &at), [Some(Gpi::NS); 6]);
    assert_eq!(owners(&board, &[RMM.base, SHARED_BUFFER.base]), [Some(Gpi::REALM); 2]);
    let root = [FLASH.base, FLASH.end() - 0x1000, SRAM.base, GPT_L0.base, GPT_L1.base, SECURE_GPIO.base];
    assert_eq!(owners(&board, &root), [Some(Gpi::ROOT); 6]);
    assert_eq!(owners(&board, &[UART.base, 0x0800_0000, 0x1_c000_0000]), [Some(Gpi::ANY); 3]);
    assert_eq!(owners(&board, &[PROTECTED_SIZE]), [None]);
}

#[test]
fn tables_of_a_large_machine_are_in_memory_that_only_the_monitor_reaches() {
    let small = board(&[(0x4000_0000, 87)]);
    assert_eq!(l1_tables(&small).base, GPT_L1.base);
    assert_eq!(l1_tables(&small).size, GPT_L1.size);
    assert!(kept(&small).all(|(name, _)| name != "gpt"));
    let large = board(&[(0x4000_0000, 255)]);
    let tables = l1_tables(&large);
    assert_eq!(tables, Range::new(GPT_L1_LARGE.base, 256 * 128 * 1024));
    assert!(GPT_L1_LARGE.contains(tables));
    assert_eq!(kept(&large).last(), Some(("gpt", tables)));
    let at = [tables.base, tables.end() - 0x1000, tables.end()];
    assert_eq!(owners(&large, &at), [Some(Gpi::ROOT), Some(Gpi::ROOT), Some(Gpi::NS)]);
}

#[test]
fn the_pool_of_the_rmm_grows_with_the_machine() {
    let small = board(&[(0x4000_0000, 11)]);
    assert_eq!(rmm_pool(&small), RMM_POOL);
    assert_eq!(kept(&small).count(), 1);
    for (gib, mib) in [(12, 14), (22, 24), (255, 258), (900, 0x1a0)] {
        let large = board(&[(0x4000_0000, gib)]);
        let pool = rmm_pool(&large);
        assert_eq!(pool, Range::new(0x4600_0000, mib << 20), "{gib} GiB");
        assert!(kept(&large).any(|kept| kept == ("rmm-pool", pool)) && kept(&large).count() <= MAX_KEPT);
        assert!(pool.end() <= PAYLOAD_BASE);
    }
    let large = board(&[(0x4000_0000, 22)]);
    let pool = rmm_pool(&large);
    let at = [pool.base, pool.end() - 0x1000, pool.end()];
    assert_eq!(owners(&large, &at), [Some(Gpi::REALM), Some(Gpi::REALM), Some(Gpi::NS)]);
}

#[test]
fn two_banks_have_tables_for_their_own_regions() {
    let board = board(&[(0x4000_0000, 2), (0x80_0000_0000, 3)]);
    assert_eq!(l1_tables(&board).size, 6 * L1_ENTRIES as u64 * 8);
    assert_eq!(owners(&board, &[0x80_bfff_f000, 0x80_c000_0000]), [Some(Gpi::NS), Some(Gpi::ANY)]);
}

#[test]
fn cpus_are_counted_in_clusters() {
    for (affinity, cpu) in [(0, 0), (15, 15), (0x100, 16), (0x30f, 63), (0x70a, 122)] {
        assert_eq!(cpu_of(affinity), Some(cpu));
    }
    for affinity in [16, 0x110, 0x70b, 0x1_0000, 1 << 32, u64::MAX] {
        assert_eq!(cpu_of(affinity), None, "{affinity:#x}");
    }
}

#[test]
fn a_board_without_room_is_told() {
    let one = board(&[(0x4000_0000, 1)]);
    assert!(fits(&one, 0x1000) && fits(&one, 512 << 20));
    assert!(!fits(&one, (512 << 20) + 1));
    assert!(!fits(&board(&[(0x8000_0000, 4)]), 0x1000));
}
