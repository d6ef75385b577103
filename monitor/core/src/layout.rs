//! Where things are on the board (QEMU virt with RME), and what the firmware keeps for itself.

use crate::device_tree::Board;
use crate::gpt::{Gpi, Gpt, L0_REGION_SHIFT, L1_TABLE_SIZE, LayoutError};
pub use crate::range::Range;
use realm_abi::GRANULE_SIZE;

/// Most CPUs the monitor serves: as many as have a redistributor in the board's first region for them (0x080a_0000 to the UART). The
/// board puts those of more CPUs elsewhere.
pub const MAX_CPUS: usize = 123;
/// log2 of the CPUs in a cluster of this board: affinity 0 counts them, affinity 1 the clusters. As many as an SGI can name at once.
pub const CLUSTER_SHIFT: u32 = 4;

/// The CPU with this affinity (an MPIDR without its flags).
#[must_use]
pub fn cpu_of(affinity: u64) -> Option<usize> {
    let (within, cluster) = (affinity & 0xff, affinity >> 8);
    if within >> CLUSTER_SHIFT != 0 || cluster > 0xff {
        return None;
    }
    usize::try_from(cluster << CLUSTER_SHIFT | within).ok().filter(|cpu| *cpu < MAX_CPUS)
}

/// The flash the board starts from: the monitor, then the package.
pub const FLASH: Range = Range::new(0, 64 << 20);
/// Where the package of RMM and payload begins in the flash.
pub const PACKAGE: u64 = 1 << 20;
/// On-chip memory that only the Secure and Root worlds reach.
pub const SRAM: Range = Range::new(0x0e00_0000, 16 << 20);
/// Bytes of it for the monitor's data, its stacks, and the level 0 table at its end.
const DATA_SIZE: u64 = 5 << 20;
/// The monitor's data and stacks.
pub const MONITOR_DATA: Range = Range::new(SRAM.base, DATA_SIZE - L0_SIZE);
/// Bytes of the level 0 Granule Protection Table: an entry a GiB.
pub const L0_SIZE: u64 = (PROTECTED_SIZE >> 30) * 8;
/// Bytes of the physical address space the Granule Protection Table covers (GPCCR_EL3.PPS = 1 TiB).
pub const PROTECTED_SIZE: u64 = 1 << 40;
/// The level 0 Granule Protection Table.
pub const GPT_L0: Range = Range::new(SRAM.base + DATA_SIZE - L0_SIZE, L0_SIZE);
/// Level 1 Granule Protection Tables, as long as they fit.
pub const GPT_L1: Range = Range::new(SRAM.base + DATA_SIZE, SRAM.size - DATA_SIZE);
/// Level 1 Granule Protection Tables of a machine with more memory.
pub const GPT_L1_LARGE_BASE: u64 = 0x4200_0000;
/// Where those may be.
pub const GPT_L1_LARGE: Range = Range::new(GPT_L1_LARGE_BASE, 64 << 20);

/// Devices on the way up to the memory.
pub const DEVICES: Range = Range::new(0x0800_0000, 0x0600_0000);
/// The UART everyone prints to.
pub const UART: Range = Range::new(0x0900_0000, GRANULE_SIZE);
/// The Secure world's UART; nobody's here.
pub const SECURE_UART: Range = Range::new(0x0904_0000, GRANULE_SIZE);
/// The GPIO whose line 0 turns the machine off and line 1 resets it.
pub const SECURE_GPIO: Range = Range::new(0x090b_0000, GRANULE_SIZE);

/// Start of the memory; the board leaves its device tree here.
pub const DEVICE_TREE: Range = Range::new(0x4000_0000, 1 << 20);
/// The RMM's memory, with the shared buffer as its last page.
pub const RMM: Range = Range::new(0x4010_0000, 24 << 20);
/// The page EL3 and the RMM share.
pub const SHARED_BUFFER: Range = Range::new(RMM.base + RMM.size - GRANULE_SIZE, GRANULE_SIZE);
/// The RMM's image and data.
pub const RMM_IMAGE: Range = Range::new(RMM.base, RMM.size - GRANULE_SIZE);
/// The part of it an RMM can ask EL3 for while it starts (RMM_RESERVE_MEMORY), unless the machine has too much memory.
pub const RMM_POOL: Range = Range::new(RMM_IMAGE.base + (12 << 20), RMM_IMAGE.size - (12 << 20));
/// Where the RMM's pool is on a machine with more memory, and the most there can be.
pub const RMM_POOL_LARGE: Range =
    Range::new(GPT_L1_LARGE.base + GPT_L1_LARGE.size, PAYLOAD_BASE - GPT_L1_LARGE.base - GPT_L1_LARGE.size);
/// What an RMM may want to keep of all memory: four bytes a granule.
const POOL_SHARE_SHIFT: u32 = 10;
/// An RMM may map its pool by blocks, and wants it aligned so.
const POOL_UNIT: u64 = 2 << 20;
/// Where the Non-secure payload is loaded and entered.
pub const PAYLOAD_BASE: u64 = 0x6000_0000;
/// Most bytes of the payload.
pub const PAYLOAD_MAX: u64 = FLASH.size - PACKAGE;

/// Where the level 1 tables for the memory of `board` go, one for each GiB with memory and one for the devices: on the chip
/// if they fit, else to memory.
#[must_use]
pub fn l1_tables(board: &Board) -> Range {
    let regions = board.banks().iter().fold(1_u64, |count, bank| {
        let first = bank.base >> L0_REGION_SHIFT;
        let last = bank.end().saturating_sub(1) >> L0_REGION_SHIFT;
        count.saturating_add(last.saturating_sub(first)).saturating_add(1)
    });
    let size = regions.saturating_mul(L1_TABLE_SIZE as u64);
    if size <= GPT_L1.size { Range::new(GPT_L1.base, size) } else { Range::new(GPT_L1_LARGE_BASE, size) }
}

/// What the RMM can ask EL3 for on `board`.
#[must_use]
pub fn rmm_pool(board: &Board) -> Range {
    let memory = board.banks().iter().fold(0_u64, |sum, bank| sum.saturating_add(bank.size));
    let wanted = memory >> POOL_SHARE_SHIFT;
    if wanted <= RMM_POOL.size {
        return RMM_POOL;
    }
    // A unit more, as the RMM may ask for several pieces.
    let size = wanted.next_multiple_of(POOL_UNIT).saturating_add(POOL_UNIT);
    Range::new(RMM_POOL_LARGE.base, size.min(RMM_POOL_LARGE.size))
}

/// Most ranges the firmware keeps.
pub const MAX_KEPT: usize = 3;
/// The name of what only the monitor reaches.
const TABLES: &str = "gpt";

/// What the firmware keeps of the memory of `board`, with the names the device tree gives it.
pub fn kept(board: &Board) -> impl Iterator<Item = (&'static str, Range)> {
    let pool = Some(rmm_pool(board)).filter(|pool| pool.base == RMM_POOL_LARGE.base);
    let tables = Some(l1_tables(board)).filter(|tables| tables.base == GPT_L1_LARGE_BASE);
    let more = pool.map(|pool| ("rmm-pool", pool)).into_iter().chain(tables.map(|tables| (TABLES, tables)));
    core::iter::once(("rmm", RMM)).chain(more)
}

/// Whether the memory of `board` has room for the firmware and a payload of `payload` bytes.
#[must_use]
pub fn fits(board: &Board, payload: u64) -> bool {
    let payload = Range::new(PAYLOAD_BASE, payload);
    let in_memory = |range: Range| board.banks().iter().any(|bank| bank.contains(range));
    in_memory(DEVICE_TREE) && in_memory(payload) && kept(board).all(|(_, range)| in_memory(range))
}

/// Gives the memory of `board` its first owners: all of it to the Non-secure world but what the firmware keeps. Devices
/// are everyone's, except what only the monitor may use.
///
/// # Errors
/// See [`LayoutError`].
pub fn assign(gpt: &Gpt<'_>, board: &Board) -> Result<(), LayoutError> {
    for range in [FLASH, SRAM, SECURE_UART, SECURE_GPIO] {
        gpt.assign(range.base, range.size, Gpi::ROOT)?;
    }
    for bank in board.banks() {
        gpt.assign(bank.base, bank.size, Gpi::NS)?;
    }
    for (name, range) in kept(board) {
        gpt.assign(range.base, range.size, if name == TABLES { Gpi::ROOT } else { Gpi::REALM })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
