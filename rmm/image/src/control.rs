//! The EL2 control registers, bit by bit (Arm ARM, chapter D24): what the RMM runs under, and what a realm does. Every bit
//! has its name here, also where it stays 0; one that is forgotten, or named twice, does not compile.

/// A field, what it is set to, and a check that fields cover a register.
#[derive(Clone, Copy)]
struct Field {
    high: u32,
    low: u32,
    value: u64,
}

const fn field(bits: &[u32], value: u64) -> Field {
    Field { high: bits[0], low: bits[bits.len() - 1], value }
}

/// The register's value, once every bit of it belongs to one field.
const fn value(fields: &[Field]) -> u64 {
    let (mut named, mut value, mut n) = (0_u64, 0, 0);
    while n < fields.len() {
        let Field { high, low, value: wanted } = fields[n];
        assert!(low <= high && high < 64, "no such bits");
        let mask = u64::MAX >> (63 - high + low) << low;
        assert!(named & mask == 0, "a bit has two names");
        assert!(wanted <= mask >> low, "a value is wider than its field");
        named |= mask;
        value |= wanted << low;
        n += 1;
    }
    assert!(named == u64::MAX, "a bit has no name");
    value
}

macro_rules! register {
    ($(#[$meta:meta])* $name:ident { $($high:literal $(: $low:literal)? $field:ident = $value:expr;)* }) => {
        $(#[$meta])*
        pub const $name: u64 = {
            // The names are to be read; that they are there is what counts.
            const _: &[&str] = &[$(stringify!($field)),*];
            value(&[$(field(&[$high $(, $low)?], $value)),*])
        };
    };
}

register! {
    /// HCR_EL2 while a realm runs.
    HCR_REALM {
        // Its stage 2.
        0 VM = 1;
        // DC ISW of a realm cleans, too: it may not throw away what others wrote.
        1 SWIO = 1;
        // A stage 1 table in Device memory is a fault, not an access to a device.
        2 PTW = 1;
        // Physical interrupts and SErrors are the RMM's, virtual ones the realm's.
        3 FMO = 1;
        4 IMO = 1;
        5 AMO = 1;
        // Virtual interrupts come by list registers.
        6 VF = 0;
        7 VI = 0;
        // With the REC: `HCR_VSE`.
        8 VSE = 0;
        // A realm's TLB and instruction cache maintenance acts on every CPU its virtual CPU may have run on.
        9 FB = 1;
        // And its barriers reach as far: Inner Shareable.
        11:10 BSU = 0b01;
        // Stage 1 is off when the realm has it off.
        12 DC = 0;
        // With the entry: `HCR_TWI`, `HCR_TWE`.
        13 TWI = 0;
        14 TWE = 0;
        // AArch32 identification, of which EL0 reaches nothing that is not the same for all.
        15 TID0 = 0;
        // REVIDR_EL1, AIDR_EL1, SMIDR_EL1: of this CPU, as MIDR_EL1, to which they belong.
        16 TID1 = 0;
        // Cache geometry: of this CPU. CSSELR_EL1 is switched.
        17 TID2 = 0;
        // Feature ID registers show what the realm has.
        18 TID3 = 1;
        // SMC is the way to the RMM.
        19 TSC = 1;
        // IMPLEMENTATION DEFINED registers and instructions are nobody's to switch.
        20 TIDCP = 1;
        // ACTLR_EL1 is switched.
        21 TACR = 0;
        // By set and way a realm can only clean: SWIO, and stage 2 is write-back by FWB.
        22 TSW = 0;
        23 TPCP = 0;
        24 TPU = 0;
        // The realm's own maintenance: see FB.
        25 TTLB = 0;
        // The realm's own translation registers are switched.
        26 TVM = 0;
        // EL1 runs.
        27 TGE = 0;
        28 TDZ = 0;
        // RES0 where there is EL3; HVC comes here and is answered as undefined.
        29 HCD = 0;
        30 TRVM = 0;
        // EL1 is AArch64.
        31 RW = 1;
        // Stage 2 may be cached.
        32 CD = 0;
        33 ID = 0;
        34 E2H = 1;
        // LORegions are not switched.
        35 TLOR = 1;
        // Error records are of the machine.
        36 TERR = 1;
        // An external abort is looked at before the realm has it.
        37 TEA = 1;
        // No loss of coherency at mismatched cacheability.
        38 MIOCNCE = 0;
        // Transactional memory, which is not shown.
        39 TME = 0;
        // Pointer authentication keys are switched.
        40 APK = 1;
        41 API = 1;
        // No nested virtualization.
        42 NV = 0;
        43 NV1 = 0;
        // Address translation instructions are the realm's, by its stage 2.
        44 AT = 0;
        45 NV2 = 0;
        // The RMM's attributes win, whatever stage 1 says.
        46 FWB = 1;
        // Fault injection: with TERR.
        47 FIEN = 0;
        // A granule protection fault of an access is taken by the realm (docs/rmm-readings.md).
        48 GPF = 0;
        // As TID2.
        49 TID4 = 0;
        // As TPU.
        50 TICAB = 0;
        // Activity monitors are trapped by CPTR_EL2.TAM.
        51 AMVOFFEN = 0;
        52 TOCU = 0;
        // SCXTNUM_EL0 and SCXTNUM_EL1 are not switched: trapped.
        53 EnSCXT = 0;
        // As TTLB.
        54 TTLBIS = 0;
        55 TTLBOS = 0;
        // Memory tags, which are not shown: trapped.
        56 ATA = 0;
        57 DCT = 0;
        58 TID5 = 1;
        // WFE traps at once, if at all.
        59 TWEDEn = 0;
        63:60 TWEDEL = 0;
    }
}

/// HCR_EL2.VSE: a virtual SError waits.
pub const HCR_VSE: u64 = 1 << 8;
/// HCR_EL2.TWI: WFI traps.
pub const HCR_TWI: u64 = 1 << 13;
/// HCR_EL2.TWE: WFE traps.
pub const HCR_TWE: u64 = 1 << 14;

register! {
    /// HCR_EL2 while the RMM runs: a host at EL2 without anything below. All that is about EL1 has no effect.
    HCR_RMM {
        26:0 below = 0;
        // Nothing below, all interrupts here.
        27 TGE = 1;
        30:28 below = 0;
        // What is below is AArch64.
        31 RW = 1;
        33:32 below = 0;
        34 E2H = 1;
        36:35 below = 0;
        // External aborts are here.
        37 TEA = 1;
        63:38 below = 0;
    }
}

register! {
    /// HCRX_EL2 while a realm runs: what it enables has registers that are not switched, so nothing of it is.
    HCRX_REALM {
        // ST64BV0, LD64B and ST64B, ST64BV: ACCDATA_EL1 is not switched, FEAT_LS64 not shown.
        0 EnAS0 = 0;
        1 EnALS = 0;
        2 EnASR = 0;
        // TLBI nXS is as TLBI is.
        3 FnXS = 0;
        4 FGTnXS = 0;
        // SME is trapped.
        5 SMPME = 0;
        // Non-maskable interrupts are not shown: ALLINT is not the realm's to write.
        6 TALLINT = 1;
        7 VINMI = 0;
        8 VFNMI = 0;
        // Cache maintenance at EL0 needs what the realm's SCTLR_EL1 says.
        9 CMOW = 0;
        // FEAT_MOPS is not shown: its instructions do not exist.
        10 MCE2 = 0;
        11 MSCEn = 0;
        13:12 RES0 = 0;
        // TCR2_EL1 (and with it PIR, POR), SCTLR2_EL1: not switched.
        14 TCR2En = 0;
        15 SCTLR2En = 0;
        16 PTTWI = 0;
        // Descriptors of 128 bits: TTBR0_EL1 and others would be twice as wide.
        17 D128En = 0;
        18 EnSNERR = 0;
        19 TMEA = 0;
        20 EnSDERR = 0;
        21 EnIDCP128 = 0;
        // GCSPR_EL1 and others are not switched.
        22 GCSEn = 0;
        // FPMR is not switched.
        23 EnFPM = 0;
        24 PACMEn = 0;
        63:25 RES0 = 0;
    }
}

register! {
    /// MDCR_EL2 while a realm runs, but for HPMN, TPMCR and TPM: see [`mdcr`].
    MDCR_REALM {
        4:0 HPMN = 0;
        5 TPMCR = 0;
        6 TPM = 0;
        // The counters kept for EL2 do not count.
        7 HPME = 0;
        // Debug exceptions are the realm's own.
        8 TDE = 0;
        // Breakpoints and watchpoints are not switched: trapped, with the OS lock and ROM addresses.
        9 TDA = 1;
        10 TDOSA = 1;
        11 TDRA = 1;
        // SPE's buffer is not a realm's.
        13:12 E2PB = 0b00;
        14 TPMS = 1;
        // SPMU is trapped.
        15 EnSPM = 0;
        16 RES0 = 0;
        // Nothing counts at EL2, cycles neither.
        17 HPMD = 1;
        18 RES0 = 0;
        // Trace filters are the Host's.
        19 TTRF = 1;
        22:20 RES0 = 0;
        23 HCCD = 1;
        // TRBE's buffer is not a realm's.
        25:24 E2TB = 0b00;
        // Counters for EL2 overflow at 32 bits: there are none.
        26 HLP = 0;
        // With TDA.
        27 TDCC = 0;
        // Multithreaded counting is for each counter to choose.
        28 MTPME = 1;
        // Counters for EL2 do not freeze: there are none.
        29 HPMFZO = 0;
        // Snapshots, PMU exceptions, extended breakpoints and steps by opcode: trapped or off.
        31:30 PMSSE = 0;
        35:32 RES0 = 0;
        36 HPMFZS = 0;
        39:37 RES0 = 0;
        41:40 PMEE = 0;
        42 RES0 = 0;
        43 EBWE = 0;
        49:44 RES0 = 0;
        50 EnSTEPOP = 0;
        63:51 RES0 = 0;
    }
}

/// MDCR_EL2 of a realm with so many event counters, `None` for one without a PMU: its registers then trap, and all
/// `there` are of the CPU are below HPMN, as HPMN must not be 0 without FEAT_HPMN0.
pub const fn mdcr(counters: Option<u8>, there: u64) -> u64 {
    const TPM_TPMCR: u64 = 1 << 6 | 1 << 5;
    match counters {
        Some(counters) => MDCR_REALM | counters as u64,
        None => MDCR_REALM | TPM_TPMCR | there,
    }
}

register! {
    /// CNTHCTL_EL2 (VHE) while a realm runs: it has counters and timers, and who of EL0 has is in its CNTKCTL_EL1.
    CNTHCTL_REALM {
        // Of EL0 under TGE.
        0 EL0PCTEN = 0;
        1 EL0VCTEN = 0;
        // No event stream of the RMM's.
        2 EVNTEN = 0;
        3 EVNTDIR = 0;
        7:4 EVNTI = 0;
        8 EL0VTEN = 0;
        9 EL0PTEN = 0;
        // Not trapped.
        10 EL1PCTEN = 1;
        11 EL1PTEN = 1;
        // No offset: CNTPOFF_EL2 has no effect.
        12 ECV = 0;
        13 EL1TVT = 0;
        14 EL1TVCT = 0;
        15 EL1NVPCT = 0;
        16 EL1NVVCT = 0;
        17 EVNTIS = 0;
        // With the entry: `CNTHCTL_CNTVMASK`, `CNTHCTL_CNTPMASK`.
        18 CNTVMASK = 0;
        19 CNTPMASK = 0;
        63:20 RES0 = 0;
    }
}

/// CNTHCTL_EL2.CNTVMASK: the virtual timer does not signal.
pub const CNTHCTL_CNTVMASK: u64 = 1 << 18;
/// CNTHCTL_EL2.CNTPMASK: the physical timer does not signal.
pub const CNTHCTL_CNTPMASK: u64 = 1 << 19;

register! {
    /// CPTR_EL2 (VHE) with everything trapped; SIMD, SVE and SME are let through by the fields below.
    CPTR_TRAPS {
        15:0 RES0 = 0;
        17:16 ZEN = 0;
        19:18 RES0 = 0;
        21:20 FPEN = 0;
        23:22 RES0 = 0;
        25:24 SMEN = 0;
        27:26 RES0 = 0;
        // Trace registers.
        28 TTA = 1;
        // POR_EL0, of EL0 under TGE.
        29 E0POE = 0;
        // Activity monitors.
        30 TAM = 1;
        // CPACR_EL1 is switched.
        31 TCPAC = 0;
        63:32 RES0 = 0;
    }
}

/// CPTR_EL2: SIMD does not trap.
pub const CPTR_FPEN: u64 = 0b11 << 20;
/// CPTR_EL2: SVE does not trap.
pub const CPTR_ZEN: u64 = 0b11 << 16;
/// CPTR_EL2: SME does not trap.
pub const CPTR_SMEN: u64 = 0b11 << 24;

register! {
    /// SCTLR_EL2 (VHE, TGE) before there are tables. What is about EL0, which there is none of, is as at reset.
    SCTLR_OFF {
        0 M = 0;
        1 A = 0;
        2 C = 0;
        3 SA = 0;
        4 SA0 = 0;
        5 CP15BEN = 0;
        6 nAA = 0;
        // AArch32 at EL0: RES1 where it is not there.
        7 ITD = 1;
        8 SED = 1;
        9 RES0 = 0;
        10 EnRCTX = 0;
        // Exception entry and return synchronize context.
        11 EOS = 1;
        12 I = 0;
        // The RMM has no keys.
        13 EnDB = 0;
        14 DZE = 0;
        15 UCT = 0;
        16 nTWI = 0;
        17 RES0 = 0;
        18 nTWE = 0;
        19 WXN = 0;
        // SCXTNUM_EL0 is not EL0's.
        20 TSCXT = 1;
        // An error a realm causes is told apart by its own exception, not by a barrier at each entry.
        21 IESB = 0;
        22 EIS = 1;
        // PSTATE.PAN stays as it is: no memory is EL0's.
        23 SPAN = 1;
        24 E0E = 0;
        25 EE = 0;
        26 UCI = 0;
        27 EnDA = 0;
        28 nTLSMD = 1;
        29 LSMAOE = 1;
        30 EnIB = 0;
        31 EnIA = 0;
        32 CMOW = 0;
        33 MSCEn = 0;
        34 EnFPM = 0;
        35 BT0 = 0;
        36 BT = 0;
        37 ITFSB = 0;
        39:38 TCF0 = 0;
        41:40 TCF = 0;
        42 ATA0 = 0;
        43 ATA = 0;
        // PSTATE.SSBS is 0 here: loads do not go ahead of stores.
        44 DSSBS = 0;
        45 TWEDEn = 0;
        49:46 TWEDEL = 0;
        53:50 RES0 = 0;
        54 EnASR = 0;
        55 EnAS0 = 0;
        56 EnALS = 0;
        57 EPAN = 0;
        58 TCSO0 = 0;
        59 TCSO = 0;
        60 EnTP2 = 0;
        // No interrupt is taken here.
        61 NMI = 0;
        62 SPINTMASK = 0;
        63 TIDCP = 0;
    }
}

/// SCTLR_EL2 afterwards: M, C, SA, I, WXN.
pub const SCTLR_ON: u64 = SCTLR_OFF | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;
