//! Stage 2 of the Realm EL1&0 translation regime: VMSAv8-64, 4 KiB granule, with or without LPA2, as VTTBR_EL2 and
//! VTCR_EL2 set it up. Stage 1 is off: a virtual address is an IPA.

use crate::hardware::memory::Memory;
use crate::hardware::tlb::{Leaf, VmidTlb};
use crate::pas::Pas;
use crate::probe::log::{Event, EventLog};
use realm_abi::GRANULE_SIZE;
use realm_rmm::granule::Granule;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// An access that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// Stage 2 fault, taken to R-EL2: the fault status code.
    Stage2 {
        /// xFSC.
        status: u8,
    },
    /// Fault of stage 1 or of the final access, taken to R-EL1: the fault status code.
    Stage1 {
        /// xFSC.
        status: u8,
    },
}

/// Fault status codes; the level is in bits 1:0, level -1 has codes of its own (Arm ARM, ISS encoding for an exception
/// from a Data Abort).
mod status {
    pub const ADDRESS_SIZE: u8 = 0b00_0000;
    pub const TRANSLATION: u8 = 0b00_0100;
    pub const ACCESS_FLAG: u8 = 0b00_1000;
    pub const PERMISSION: u8 = 0b00_1100;
    pub const EXTERNAL_ON_WALK: u8 = 0b01_0100;
    pub const GPF: u8 = 0b10_1000;
    pub const ADDRESS_SIZE_LEVEL_M1: u8 = 0b10_1001;
    pub const TRANSLATION_LEVEL_M1: u8 = 0b10_1011;
    pub const EXTERNAL_ON_WALK_LEVEL_M1: u8 = 0b01_0011;
}

fn at_level(base: u8, level: i8) -> u8 {
    match (base, level) {
        (status::ADDRESS_SIZE, -1) => status::ADDRESS_SIZE_LEVEL_M1,
        (status::TRANSLATION, -1) => status::TRANSLATION_LEVEL_M1,
        (status::EXTERNAL_ON_WALK, -1) => status::EXTERNAL_ON_WALK_LEVEL_M1,
        (base, level) => base | (level.max(0) as u8),
    }
}

/// Why a walk gave no page.
enum WalkEnd {
    Fault(Abort),
    /// The translations were invalidated under it.
    Again,
}

/// The geometry VTCR_EL2 describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub ipa_width: u32,
    pub start_level: i8,
    pub lpa2: bool,
}

impl Geometry {
    /// Decodes VTCR_EL2, or says what is wrong with it.
    pub fn decode(vtcr: u64) -> Result<Self, String> {
        let field = |high: u32, low: u32| (vtcr >> low) & ((1 << (high - low + 1)) - 1);
        let lpa2 = field(32, 32) == 1;
        let t0sz = field(5, 0) as u32;
        let (sl0, sl2) = (field(7, 6), field(33, 33));
        let start_level = match (sl2, sl0) {
            (1, 0) if lpa2 => -1,
            (0, 2) => 0,
            (0, 1) => 1,
            (0, 0) => 2,
            (0, 3) => 3,
            _ => return Err(format!("VTCR_EL2 {vtcr:#x}: SL2 {sl2} and SL0 {sl0:#b} are reserved")),
        };
        if field(15, 14) != 0 {
            return Err(format!("VTCR_EL2 {vtcr:#x}: TG0 is not 4 KiB"));
        }
        if !(12..=48).contains(&t0sz) || (t0sz < 16 && !lpa2) {
            return Err(format!("VTCR_EL2 {vtcr:#x}: T0SZ {t0sz} is out of range"));
        }
        let geometry = Self { ipa_width: 64 - t0sz, start_level, lpa2 };
        // A starting level resolves 1 to 13 bits: 9 of one table, 4 of up to 16 concatenated ones.
        let resolved = i64::from(geometry.ipa_width) - i64::from(level_shift(start_level));
        if !(1..=13).contains(&resolved) {
            return Err(format!(
                "VTCR_EL2 {vtcr:#x}: {} IPA bits do not fit starting level {start_level}",
                geometry.ipa_width
            ));
        }
        if field(29, 29) != 0 || field(30, 30) != 1 {
            return Err(format!("VTCR_EL2 {vtcr:#x}: NSW must be 0 and NSA 1"));
        }
        Ok(geometry)
    }
}

/// log2 of the bytes an entry at `level` maps.
const fn level_shift(level: i8) -> u32 {
    (12 + 9 * (3 - level as i32)) as u32
}

/// The MMU of a CPU while it runs one REC.
pub(crate) struct Mmu<'a> {
    pub memory: &'a Memory,
    pub log: &'a EventLog,
    pub pa_bits: u8,
    tlb: Arc<VmidTlb>,
    vmid: u16,
    root: u64,
    geometry: Geometry,
}

impl<'a> Mmu<'a> {
    /// The MMU as VTTBR_EL2 and VTCR_EL2 set it up; `None`, and a machine check, if they make no sense.
    pub fn new(
        memory: &'a Memory,
        log: &'a EventLog,
        tlb: impl FnOnce(u16) -> Arc<VmidTlb>,
        pa_bits: u8,
        (vttbr, vtcr): (u64, u64),
    ) -> Option<Self> {
        let geometry = Geometry::decode(vtcr).map_err(|text| log.push(Event::MachineCheck(text))).ok()?;
        let vmid = (vttbr >> 48) as u16;
        // BADDR: bits 47:1, with LPA2 bits 47:6 and PA[51:48] in bits 5:2.
        let root = if geometry.lpa2 {
            (vttbr & 0x0000_ffff_ffff_ffc0) | ((vttbr >> 2) & 0xf) << 48
        } else {
            vttbr & 0x0000_ffff_ffff_fffe
        };
        Some(Self { memory, log, pa_bits, tlb: tlb(vmid), vmid, root, geometry })
    }

    /// VTTBR_EL2.VMID.
    pub const fn vmid(&self) -> u16 {
        self.vmid
    }

    /// Runs `f` on the granule behind `ipa`.
    pub fn access<R>(
        &self,
        ipa: u64,
        kind: AccessKind,
        f: impl FnOnce(&mut Granule) -> R,
    ) -> Result<R, Abort> {
        // With stage 1 off an address beyond the physical address size never reaches stage 2.
        if ipa >> self.pa_bits != 0 {
            return Err(Abort::Stage1 { status: status::ADDRESS_SIZE });
        }
        if ipa >> self.geometry.ipa_width != 0 {
            return Err(Abort::Stage2 { status: status::TRANSLATION });
        }
        let mut f = Some(f);
        loop {
            let generation = self.tlb.generation();
            let leaf = match self.tlb.page(ipa) {
                Some(leaf) => leaf,
                None => match self.walk(generation, ipa) {
                    Ok(leaf) => leaf,
                    Err(WalkEnd::Fault(abort)) => return Err(abort),
                    Err(WalkEnd::Again) => continue,
                },
            };
            let allowed = match kind {
                AccessKind::Read => leaf.read,
                AccessKind::Write => leaf.write,
                AccessKind::Execute => leaf.execute,
            };
            if !allowed {
                return Err(Abort::Stage2 { status: at_level(status::PERMISSION, leaf.level) });
            }
            let pas = if leaf.ns { Pas::NonSecure } else { Pas::Realm };
            let valid = || self.tlb.generation() == generation;
            let run = |granule: &mut Granule| f.take().map(|f| f(granule));
            match self.memory.with_valid(Pas::Realm, pas, leaf.pa, valid, run) {
                Ok(Some(Some(value))) => return Ok(value),
                Ok(_) => {}
                Err(fault) => {
                    // A Host may take Non-secure memory away under a realm; a realm's own memory is the RMM's duty.
                    if !leaf.ns {
                        self.log.push(Event::GranuleFault(fault));
                    }
                    return Err(Abort::Stage1 { status: status::GPF });
                }
            }
        }
    }

    fn walk(&self, generation: u64, ipa: u64) -> Result<Leaf, WalkEnd> {
        let cached = self.tlb.table(ipa);
        let (mut level, mut table) =
            cached.map_or((self.geometry.start_level, self.root), |table| (3, table));
        loop {
            let shift = level_shift(level);
            let index =
                if level == self.geometry.start_level { ipa >> shift } else { (ipa >> shift) & 0x1ff };
            let descriptor = self.descriptor(generation, table + index * 8, ipa, level)?;
            let fault = |base| Err(WalkEnd::Fault(Abort::Stage2 { status: at_level(base, level) }));
            let block_allowed = level == 2 || level == 1 || (level == 0 && self.geometry.lpa2);
            match (descriptor & 0b11, level) {
                (0b11, 3) => {}
                (0b11, _) => {
                    table = self.output(descriptor, 12);
                    level += 1;
                    if level == 3 {
                        self.tlb.fill_table(generation, ipa, table);
                    }
                    continue;
                }
                (0b01, _) if block_allowed => {}
                _ => return fault(status::TRANSLATION),
            }
            let base = self.output(descriptor, shift);
            if base >> self.pa_bits != 0 {
                return fault(status::ADDRESS_SIZE);
            }
            if descriptor & (1 << 10) == 0 {
                return fault(status::ACCESS_FLAG);
            }
            if (descriptor >> 2) & 0b1111 == 0b0100 {
                self.check(format!("IPA {ipa:#x}: descriptor {descriptor:#x} has a reserved MemAttr"));
            }
            let leaf = Leaf {
                pa: (base | (ipa & ((1 << shift) - 1))) & !0xfff,
                ns: descriptor & (1 << 55) != 0,
                read: descriptor & (1 << 6) != 0,
                write: descriptor & (1 << 7) != 0,
                // XN[1:0]: 0b00 and 0b11 let EL1 execute (FEAT_XNX).
                execute: matches!((descriptor >> 53) & 0b11, 0b00 | 0b11),
                level,
            };
            self.tlb.fill_page(generation, ipa, leaf);
            return Ok(leaf);
        }
    }

    /// The output address of a descriptor, its bits below `shift` dropped.
    fn output(&self, descriptor: u64, shift: u32) -> u64 {
        let address = if self.geometry.lpa2 {
            (descriptor & 0x0003_ffff_ffff_f000) | ((descriptor >> 8) & 0b11) << 50
        } else {
            descriptor & 0x0000_ffff_ffff_f000
        };
        address & !((1 << shift) - 1)
    }

    fn descriptor(&self, generation: u64, pa: u64, ipa: u64, level: i8) -> Result<u64, WalkEnd> {
        let word = ((pa % GRANULE_SIZE) / 8) as usize;
        let valid = || self.tlb.generation() == generation;
        let read = |granule: &mut Granule| granule.words[word].load(Ordering::Acquire);
        match self.memory.with_valid(Pas::Realm, Pas::Realm, pa, valid, read) {
            Ok(Some(descriptor)) => Ok(descriptor),
            Ok(None) => Err(WalkEnd::Again),
            Err(fault) => {
                self.check(format!(
                    "VMID {}, IPA {ipa:#x}: walk of the level {level} table: {fault}",
                    self.vmid
                ));
                Err(WalkEnd::Fault(Abort::Stage2 { status: at_level(status::EXTERNAL_ON_WALK, level) }))
            }
        }
    }

    fn check(&self, text: String) {
        self.log.push(Event::MachineCheck(text));
    }
}

#[cfg(test)]
mod tests;
