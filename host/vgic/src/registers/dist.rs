//! The distributor's frame (IHI 0069, the GIC Distributor register map; offsets from GICD_base).

use super::{Field, IIDR, Kind, Row, identification, sizes};

const ID: [Row; 12] = identification(0x92);

/// In ascending order. Registers of private interrupts are the redistributors' (affinity routing is always on).
pub static DIST: [Row; 39] = [
    // CTLR: EnableGrp0, EnableGrp1; ARE and DS are RAO/WI; E1NWF is not implemented, RWP is never seen.
    Row { offset: 0x0000, bytes: 4, sizes: sizes::WORD, kind: Kind::Ctlr, fixed: 0x50, written: 0x3 },
    // TYPER: 10 bits of INTIDs. No LPIs, MBIs, security, extended SPIs, Aff3 or range selector; 1 of N is there. ITLinesNumber
    // is the configuration's.
    Row { offset: 0x0004, bytes: 4, sizes: sizes::WORD, kind: Kind::DistType, fixed: 9 << 19, written: 0 },
    Row::constant(0x0008, IIDR),
    // TYPER2: vPEs and more bits of VMIDs are GICv4's.
    Row::zero(0x000c, 4, sizes::WORD),
    // STATUSR is optional.
    Row::zero(0x0010, 4, sizes::WORD),
    // SETSPI_NSR, CLRSPI_NSR, SETSPI_SR, CLRSPI_SR need MBIS.
    Row::zero(0x0040, 0x20, sizes::WORD),
    Row::interrupts(0x0080, 0x80, Field::Group),
    Row::interrupts(0x0100, 0x80, Field::SetEnable),
    Row::interrupts(0x0180, 0x80, Field::ClearEnable),
    Row::interrupts(0x0200, 0x80, Field::SetPending),
    Row::interrupts(0x0280, 0x80, Field::ClearPending),
    Row::interrupts(0x0300, 0x80, Field::SetActive),
    Row::interrupts(0x0380, 0x80, Field::ClearActive),
    Row::interrupts(0x0400, 0x400, Field::Priority),
    // ITARGETSR: RAZ/WI with affinity routing.
    Row::zero(0x0800, 0x400, sizes::BYTE_OR_WORD),
    Row::interrupts(0x0c00, 0x100, Field::Config),
    // IGRPMODR, NSACR: RAZ/WI with one Security state.
    Row::zero(0x0d00, 0x80, sizes::WORD),
    Row::zero(0x0e00, 0x100, sizes::WORD),
    // SGIR: without affinity routing only.
    Row::zero(0x0f00, 4, sizes::WORD),
    // CPENDSGIR, SPENDSGIR: likewise.
    Row::zero(0x0f10, 0x20, sizes::BYTE_OR_WORD),
    // INMIR: without NMIs.
    Row::zero(0x0f80, 0x80, sizes::WORD),
    // Extended SPIs, of which TYPER has none: IGROUPR<n>E to INMIR<n>E.
    Row::zero(0x1000, 0x1000, sizes::BYTE_OR_WORD),
    Row::zero(0x2000, 0x2000, sizes::BYTE_OR_WORD),
    // IROUTER0 to 31 would be private interrupts'.
    Row::zero(0x6000, 0x100, sizes::DOUBLE),
    // IROUTER: Aff0 to Aff2 and Interrupt_Routing_Mode.
    Row {
        offset: 0x6100,
        bytes: 0x1ee0,
        sizes: sizes::DOUBLE,
        kind: Kind::Route,
        fixed: 0,
        written: 0x80ff_ffff,
    },
    // IROUTER<n>E.
    Row::zero(0x8000, 0x2000, sizes::DOUBLE),
    // Implementation defined.
    Row::zero(0xc000, 0x3fd0, sizes::WORD),
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
];
