//! The monitor's own translation tables (VMSAv8-64, EL3, 4 KiB granules, 39 bits): everything at its physical address.

use crate::range::Range;

/// Bytes of a table, and of a page.
pub const PAGE_SIZE: u64 = 4096;
/// Entries of a table.
pub const ENTRIES: usize = 512;
/// log2 of the bytes a root entry covers.
const ROOT_SHIFT: u32 = 30;

/// A table as hardware walks it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub struct Table(pub [u64; ENTRIES]);

impl Table {
    /// A table without entries.
    pub const EMPTY: Self = Self([0; ENTRIES]);
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Instructions, read-only, Root.
    Code,
    /// Constants, Root.
    Constants,
    /// Data, Root.
    Data,
    /// Registers of devices, Root.
    Device,
    /// Data of the Non-secure world.
    NonSecureData,
    /// Data of the Realm world.
    RealmData,
}

/// MAIR_EL3 for these tables: 0 is Device-nGnRnE, 1 Normal write-back.
pub const MAIR: u64 = 0xff00;

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const NORMAL: u64 = 1 << 2;
const NS: u64 = 1 << 5;
/// AP[1] is RES1 where there is one privilege level only.
const AP_RES1: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const NSE: u64 = 1 << 11;
const EXECUTE_NEVER: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

impl Kind {
    const fn attributes(self) -> u64 {
        let normal = VALID | NORMAL | INNER_SHAREABLE | ACCESSED | AP_RES1 | NSE;
        match self {
            Self::Code => normal | READ_ONLY,
            Self::Constants => normal | READ_ONLY | EXECUTE_NEVER,
            Self::Data => normal | EXECUTE_NEVER,
            Self::Device => VALID | ACCESSED | AP_RES1 | NSE | EXECUTE_NEVER,
            Self::NonSecureData => (normal | EXECUTE_NEVER | NS) & !NSE,
            Self::RealmData => normal | EXECUTE_NEVER | NS,
        }
    }
}

/// A range cannot be mapped: it is unaligned, out of the address space, mapped already, or there are no tables left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapError(pub Range);

/// Tables that are being built. The first one is the root.
#[derive(Debug)]
pub struct Tables<'a> {
    tables: &'a mut [Table],
    base: u64,
    used: usize,
}

impl<'a> Tables<'a> {
    /// Empty tables; the first of `tables` lies at physical address `base`.
    #[must_use]
    pub fn new(tables: &'a mut [Table], base: u64) -> Self {
        tables.fill(Table::EMPTY);
        Self { tables, base, used: 1 }
    }

    /// Maps a range of whole pages, with blocks of 2 MiB where they fit.
    ///
    /// # Errors
    /// See [`MapError`]; a part may be mapped then.
    pub fn map(&mut self, range: Range, kind: Kind) -> Result<(), MapError> {
        let error = MapError(range);
        let aligned = range.base.is_multiple_of(PAGE_SIZE) && range.size.is_multiple_of(PAGE_SIZE);
        if !aligned || range.base.checked_add(range.size).is_none_or(|end| end > 1 << 39) {
            return Err(error);
        }
        let mut at = range.base;
        while at < range.end() {
            let room = range.end().saturating_sub(at);
            let block = 2 << 20;
            let (level, size) =
                if at.is_multiple_of(block) && room >= block { (2, block) } else { (3, PAGE_SIZE) };
            self.map_one(at, level, kind).ok_or(error)?;
            at = at.saturating_add(size);
        }
        Ok(())
    }

    fn map_one(&mut self, at: u64, level: u32, kind: Kind) -> Option<()> {
        let mut table = 0_usize;
        for step in 1..level {
            table = self.next_table(table, index(at, step)?)?;
        }
        let kind_bits = if level == 3 { TABLE_OR_PAGE } else { 0 };
        let entry = self.tables.get_mut(table)?.0.get_mut(index(at, level)?)?;
        if *entry != 0 {
            return None;
        }
        *entry = at | kind.attributes() | kind_bits;
        Some(())
    }

    fn next_table(&mut self, table: usize, index: usize) -> Option<usize> {
        let entry = self.tables.get(table)?.0.get(index).copied()?;
        if entry == 0 {
            let next = self.used;
            self.tables.get(next)?;
            self.used = next.checked_add(1)?;
            let address = self.base.checked_add(u64::try_from(next).ok()?.checked_mul(PAGE_SIZE)?)?;
            *self.tables.get_mut(table)?.0.get_mut(index)? = address | VALID | TABLE_OR_PAGE;
            return Some(next);
        }
        if entry & TABLE_OR_PAGE == 0 {
            return None;
        }
        usize::try_from((entry & ADDRESS).checked_sub(self.base)?.checked_div(PAGE_SIZE)?).ok()
    }
}

/// The index of `at` in a table of `level`.
fn index(at: u64, level: u32) -> Option<usize> {
    let shift = ROOT_SHIFT.checked_sub(level.checked_sub(1)?.checked_mul(9)?)?;
    usize::try_from((at >> shift) & 0x1ff).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x0e01_0000;

    fn walk(tables: &[Table], at: u64) -> Option<u64> {
        let mut table = 0;
        for level in 1..=3 {
            let entry = tables[table].0[index(at, level).expect("level")];
            match (entry & 3, level) {
                (3, 1 | 2) => table = ((entry & ADDRESS) - BASE) as usize / 4096,
                (3, 3) => return Some(entry),
                (1, 2) => return Some(entry),
                _ => return None,
            }
        }
        None
    }

    #[test]
    fn a_range_is_mapped_to_itself_and_nothing_else_is() {
        let mut memory = vec![Table::EMPTY; 8];
        let mut tables = Tables::new(&mut memory, BASE);
        tables.map(Range::new(0x401f_f000, 0x40_2000), Kind::RealmData).expect("room");
        tables.map(Range::new(0, 0x3000), Kind::Code).expect("room");
        for at in [0x401f_f000, 0x4020_0000, 0x403f_f000, 0x4060_0000] {
            let entry = walk(&memory, at).expect("mapped");
            assert_eq!(entry & ADDRESS & !0xfff | at & 0x1f_f000, at);
            assert_eq!(entry & (NS | NSE | EXECUTE_NEVER), NS | NSE | EXECUTE_NEVER);
        }
        assert_eq!(walk(&memory, 0x401f_e000), None);
        assert_eq!(walk(&memory, 0x4060_1000), None);
        let code = walk(&memory, 0x2000).expect("mapped");
        assert_eq!(code & (READ_ONLY | EXECUTE_NEVER | NS | NSE), READ_ONLY | NSE);
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        let kinds =
            [Kind::Code, Kind::Constants, Kind::Data, Kind::Device, Kind::NonSecureData, Kind::RealmData];
        for kind in kinds {
            assert_ne!(kind.attributes() & (READ_ONLY | EXECUTE_NEVER), 0, "{kind:?}");
        }
    }

    #[test]
    fn what_is_mapped_or_does_not_fit_is_refused() {
        let mut memory = vec![Table::EMPTY; 3];
        let mut tables = Tables::new(&mut memory, BASE);
        let map = |tables: &mut Tables<'_>, base, size| {
            tables.map(Range::new(base, size), Kind::Data).map_err(|error| error.0.base)
        };
        assert_eq!(map(&mut tables, 0x1000, 0x1000), Ok(()));
        assert_eq!(map(&mut tables, 0x1000, 0x1000), Err(0x1000));
        assert_eq!(map(&mut tables, 0, 0x20_0000), Err(0));
        assert_eq!(map(&mut tables, 0x20_0000, 0x1000), Err(0x20_0000));
        assert_eq!(map(&mut tables, 0x800, 0x1000), Err(0x800));
        assert_eq!(map(&mut tables, !0xfff, 0x1000), Err(!0xfff));
    }
}
