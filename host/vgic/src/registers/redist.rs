//! The two frames of a redistributor (IHI 0069, the GIC Redistributor register map; offsets from GICR_base: RD_base, and SGI_base
//! at 64 KiB).

use super::{Field, IIDR, Kind, Row, identification, sizes};

const ID: [Row; 12] = identification(0x93);
const SGI: u32 = 0x1_0000;

/// In ascending order.
pub static REDIST: [Row; 41] = [
    // CTLR: no LPIs to enable, no DPG bits, and RWP and UWP are never seen.
    Row::zero(0x0000, 4, sizes::WORD),
    Row::constant(0x0004, IIDR),
    // TYPER: affinity, processor number and Last are the vCPU's; no LPIs, no DPG bits.
    Row { offset: 0x0008, bytes: 8, sizes: sizes::DOUBLE, kind: Kind::RedistType, fixed: 0, written: 0 },
    // STATUSR is optional.
    Row::zero(0x0010, 4, sizes::WORD),
    // WAKER: ProcessorSleep; ChildrenAsleep follows it at once.
    Row { offset: 0x0014, bytes: 4, sizes: sizes::WORD, kind: Kind::Waker, fixed: 0, written: 0x2 },
    // MPAMIDR, PARTIDR: without MPAM.
    Row::zero(0x0018, 8, sizes::WORD),
    // SETLPIR, CLRLPIR.
    Row::zero(0x0040, 16, sizes::DOUBLE),
    // PROPBASER, PENDBASER: LPIs' tables.
    Row::zero(0x0070, 16, sizes::DOUBLE),
    // INVLPIR, INVALLR, SYNCR.
    Row::zero(0x00a0, 8, sizes::DOUBLE),
    Row::zero(0x00b0, 8, sizes::DOUBLE),
    Row::zero(0x00c0, 4, sizes::WORD),
    ID[0],
    ID[1],
    ID[2],
    ID[3],
    ID[4],
    ID[5],
    ID[6],
    ID[7],
    ID[8],
    ID[9],
    ID[10],
    ID[11],
    Row::interrupts(SGI | 0x0080, 4, Field::Group),
    // IGROUPR<n>E and so on: extended PPIs, of which TYPER has none.
    Row::zero(SGI | 0x0084, 8, sizes::WORD),
    Row::interrupts(SGI | 0x0100, 4, Field::SetEnable),
    Row::interrupts(SGI | 0x0180, 4, Field::ClearEnable),
    Row::interrupts(SGI | 0x0200, 4, Field::SetPending),
    Row::interrupts(SGI | 0x0280, 4, Field::ClearPending),
    Row::interrupts(SGI | 0x0300, 4, Field::SetActive),
    Row::interrupts(SGI | 0x0380, 4, Field::ClearActive),
    Row::interrupts(SGI | 0x0400, 0x20, Field::Priority),
    Row::zero(SGI | 0x0420, 0x40, sizes::BYTE_OR_WORD),
    // ICFGR0: SGIs are edge-triggered.
    Row::constant(SGI | 0x0c00, 0xaaaa_aaaa),
    // ICFGR1.
    Row {
        offset: SGI | 0x0c04,
        bytes: 4,
        sizes: sizes::WORD,
        kind: Kind::PpiConfig,
        fixed: 0,
        written: 0xaaaa_aaaa,
    },
    Row::zero(SGI | 0x0c08, 0x10, sizes::WORD),
    // IGRPMODR0 and NSACR: RAZ/WI with one Security state.
    Row::zero(SGI | 0x0d00, 12, sizes::WORD),
    Row::zero(SGI | 0x0e00, 4, sizes::WORD),
    // INMIR0: without NMIs.
    Row::zero(SGI | 0x0f80, 12, sizes::WORD),
    // Implementation defined.
    Row::zero(SGI | 0xc000, 0x3fd0, sizes::WORD),
    Row::zero(SGI | 0xffd0, 0x30, sizes::WORD),
];
