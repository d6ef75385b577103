//! The memory-mapped registers. A row says where a register (or an array of them) is, how it may be accessed, and which bits a
//! write can change; everything else reads as zero and ignores writes, as do accesses of other sizes and alignments
//! (IHI 0069, access to memory-mapped registers; what it leaves open there is done this way).

mod dist;
mod redist;

pub use dist::DIST;
pub use redist::REDIST;

/// A state that interrupts have, as registers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    Priority,
    Config,
}

impl Field {
    /// log2 of the words for 32 interrupts.
    pub const fn parts_shift(self) -> u32 {
        match self {
            Self::Priority => 3,
            Self::Config => 1,
            _ => 0,
        }
    }
}

/// What handles a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads as what is fixed.
    Constant,
    /// GICD_CTLR.
    Ctlr,
    /// GICD_TYPER.
    DistType,
    /// GICR_TYPER.
    RedistType,
    /// GICR_WAKER.
    Waker,
    /// GICD_IROUTER.
    Route,
    /// GICR_ICFGR1.
    PpiConfig,
    /// A state of interrupts.
    Interrupts(Field),
}

/// Sizes of accesses, a bit each: its value is the number of bytes.
pub mod sizes {
    pub const WORD: u8 = 4;
    pub const BYTE_OR_WORD: u8 = 1 | 4;
    /// A 64-bit register, or a half of it.
    pub const DOUBLE: u8 = 4 | 8;
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub offset: u32,
    /// Of all the registers of an array.
    pub bytes: u32,
    /// Which accesses there are: [`sizes`].
    pub sizes: u8,
    pub kind: Kind,
    /// Bits of each register that always read as one.
    pub fixed: u64,
    /// Bits of each register that a write can change, or set and clear something by.
    pub written: u64,
}

impl Row {
    const fn constant(offset: u32, fixed: u32) -> Self {
        Self { offset, bytes: 4, sizes: sizes::WORD, kind: Kind::Constant, fixed: fixed as u64, written: 0 }
    }

    /// Registers that are not there but whose place has a name.
    const fn zero(offset: u32, bytes: u32, sizes: u8) -> Self {
        Self { offset, bytes, sizes, kind: Kind::Constant, fixed: 0, written: 0 }
    }

    const fn interrupts(offset: u32, bytes: u32, field: Field) -> Self {
        let (sizes, written) = match field {
            // Priority bits that a virtual CPU interface has at least (IHI 0069, ICH_VTR_EL2.PRIbits): so no list register has
            // any that the RMM would refuse.
            Field::Priority => (sizes::BYTE_OR_WORD, 0xf8f8_f8f8),
            Field::Config => (sizes::WORD, 0xaaaa_aaaa),
            _ => (sizes::WORD, 0xffff_ffff),
        };
        Self { offset, bytes, sizes, kind: Kind::Interrupts(field), fixed: 0, written }
    }

    /// log2 of the bytes of one register.
    const fn unit_shift(self) -> u32 {
        if self.sizes & 8 != 0 { 3 } else { 2 }
    }
}

/// An access to a register.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub row: Row,
    /// Which register of the array.
    pub index: u32,
    /// Where in it the access begins, in bits.
    shift: u32,
    /// The bits that are accessed.
    lanes: u64,
}

impl Access {
    /// What the register being `value` makes of a read.
    pub const fn read(&self, value: u64) -> u64 {
        ((value | self.row.fixed) & self.lanes).wrapping_shr(self.shift)
    }

    /// What a write of `value` changes in the register: new value and mask.
    pub const fn written(&self, value: u64) -> (u64, u64) {
        let mask = self.row.written & self.lanes;
        (value.wrapping_shl(self.shift) & mask, mask)
    }
}

/// The register of `rows` (in ascending order) that an access of `size` bytes at `offset` is to.
pub fn find(rows: &[Row], offset: u32, size: usize) -> Option<Access> {
    let size = u32::try_from(size).ok().filter(|size| matches!(size, 1 | 2 | 4 | 8))?;
    if offset & size.wrapping_sub(1) != 0 {
        return None;
    }
    let row = *rows.iter().take_while(|row| row.offset <= offset).last()?;
    let within = offset.wrapping_sub(row.offset);
    if within >= row.bytes || u32::from(row.sizes) & size == 0 {
        return None;
    }
    let unit_shift = row.unit_shift();
    let in_unit = within & 1_u32.wrapping_shl(unit_shift).wrapping_sub(1);
    let shift = in_unit.wrapping_mul(8);
    let ones = u64::MAX.wrapping_shr(64_u32.wrapping_sub(size.wrapping_mul(8)));
    Some(Access { row, index: within.wrapping_shr(unit_shift), shift, lanes: ones.wrapping_shl(shift) })
}

/// The identification registers of a frame, the last 48 bytes of its first 64 KiB: JEP106 code of Arm, whose architecture it
/// is, and GICv3 in PIDR2.ArchRev. `part` is the low byte of the part number.
const fn identification(part: u32) -> [Row; 12] {
    const FIRST: u32 = 0xffd0;
    [
        Row::constant(FIRST, 0x44),
        Row::constant(FIRST + 0x04, 0),
        Row::constant(FIRST + 0x08, 0),
        Row::constant(FIRST + 0x0c, 0),
        Row::constant(FIRST + 0x10, part),
        Row::constant(FIRST + 0x14, 0xb4),
        Row::constant(FIRST + 0x18, 0x3b),
        Row::constant(FIRST + 0x1c, 0),
        Row::constant(FIRST + 0x20, 0x0d),
        Row::constant(FIRST + 0x24, 0xf0),
        Row::constant(FIRST + 0x28, 0x05),
        Row::constant(FIRST + 0x2c, 0xb1),
    ]
}

/// IIDR of distributor and redistributors: product "R", implementer as in the identification registers.
const IIDR: u32 = 0x5200_043b;
