//! The registers a VMM can set before a realm runs (KVM_SET_ONE_REG, docs/kvm-realm-abi.md section 2.7).
//!
//! Everything else belongs to the RMM and the realm. What is read back is this record of what was set, not the realm's
//! registers.

use crate::Errno;
use realm_abi::kvm::reg::RegId;
use realm_abi::rmi::{FeatureRegister0, GPRS};
use zerocopy::FromZeros;

/// Bytes of [`RegId::SVE_VLS`], the widest register.
pub const MAX_REG_SIZE: usize = 64;
/// Masks KVM_ARM_GET_REG_WRITABLE_MASKS writes for range 0.
pub const WRITABLE_MASKS: usize = 3 * 8 * 8;

/// A field of four bits in ID_AA64DFR0_EL1, at this bit.
#[derive(Clone, Copy)]
struct DebugField(u32);

impl DebugField {
    const DEBUG_VER: Self = Self(0);
    const BRPS: Self = Self(12);
    const WRPS: Self = Self(20);
    const CTX_CMPS: Self = Self(28);

    const fn get(self, register: u64) -> u64 {
        (register >> self.0) & 0xf
    }
    const fn of(self, value: u64) -> u64 {
        (if value > 0xf { 0xf } else { value }) << self.0
    }
    const fn mask(self) -> u64 {
        0xf << self.0
    }
}

/// What of ID_AA64DFR0_EL1 can be set.
const DFR0_WRITABLE: u64 = DebugField::BRPS.mask() | DebugField::WRPS.mask() | DebugField::CTX_CMPS.mask();
/// ID_AA64DFR0_EL1.DebugVer of an Armv8.0 core, the least an RME machine has.
const DEBUG_V8: u64 = 6;
/// Context comparators KVM's cores have, minus one.
const CTX_CMPS: u64 = 1;

const PMCR_N_SHIFT: u32 = 11;
const PMCR_N_MASK: u64 = 0x1f << PMCR_N_SHIFT;

/// Registers all vCPUs of a VM have in common; REALM_CREATE bakes them into the realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRegisters {
    dfr0: u64,
    pmu_counters: u64,
    features: FeatureRegister0,
}

impl SharedRegisters {
    /// The values that use all the RMM offers.
    #[must_use]
    pub const fn new(features: FeatureRegister0) -> Self {
        let brps = features.num_bps();
        let dfr0 = DebugField::DEBUG_VER.of(DEBUG_V8)
            | DebugField::BRPS.of(brps)
            | DebugField::WRPS.of(features.num_wps())
            | DebugField::CTX_CMPS.of(if brps < CTX_CMPS { brps } else { CTX_CMPS });
        Self { dfr0, pmu_counters: features.pmu_num_ctrs(), features }
    }

    /// Breakpoints minus one.
    #[must_use]
    pub fn num_bps(&self) -> u8 {
        u8::try_from(DebugField::BRPS.get(self.dfr0)).unwrap_or(0)
    }

    /// Watchpoints minus one.
    #[must_use]
    pub fn num_wps(&self) -> u8 {
        u8::try_from(DebugField::WRPS.get(self.dfr0)).unwrap_or(0)
    }

    /// PMU event counters.
    #[must_use]
    pub fn pmu_num_ctrs(&self) -> u8 {
        u8::try_from(self.pmu_counters).unwrap_or(0)
    }

    /// ID_AA64DFR0_EL1.
    #[must_use]
    pub const fn dfr0(&self) -> u64 {
        self.dfr0
    }

    /// PMCR_EL0.
    #[must_use]
    pub const fn pmcr(&self) -> u64 {
        self.pmu_counters << PMCR_N_SHIFT
    }

    /// Sets ID_AA64DFR0_EL1. Once the realm is created (`frozen`) only the present value is accepted.
    ///
    /// # Errors
    /// `EBUSY` when frozen; `EINVAL` for a change of another field, for no breakpoint or watchpoint but one (0 is
    /// reserved), for more than the RMM has, for more context comparators than breakpoints.
    pub fn set_dfr0(&mut self, value: u64, frozen: bool) -> Result<(), Errno> {
        if value == self.dfr0 {
            return Ok(());
        }
        if frozen {
            return Err(Errno::EBUSY);
        }
        let [brps, wrps, ctx] =
            [DebugField::BRPS, DebugField::WRPS, DebugField::CTX_CMPS].map(|field| field.get(value));
        let reserved = brps == 0 || wrps == 0;
        let too_many = brps > self.features.num_bps() || wrps > self.features.num_wps() || ctx > brps;
        if (value ^ self.dfr0) & !DFR0_WRITABLE != 0 || reserved || too_many {
            return Err(Errno::EINVAL);
        }
        self.dfr0 = value;
        Ok(())
    }

    /// Sets PMCR_EL0, of which only N matters. Once the realm is created (`frozen`) it has no effect, as in KVM.
    ///
    /// # Errors
    /// `EINVAL` for more counters than the RMM has (KVM ignores such a write, and the VMM finds out from the realm).
    pub fn set_pmcr(&mut self, value: u64, frozen: bool) -> Result<(), Errno> {
        let counters = (value & PMCR_N_MASK) >> PMCR_N_SHIFT;
        if counters > self.features.pmu_num_ctrs() {
            return Err(Errno::EINVAL);
        }
        if !frozen {
            self.pmu_counters = counters;
        }
        Ok(())
    }
}

/// Registers of one vCPU.
#[derive(Debug, FromZeros, PartialEq, Eq)]
pub struct CoreRegisters {
    /// X0 to X30.
    pub x: [u64; GPRS],
    /// Program counter.
    pub pc: u64,
}

/// The vector lengths of a vCPU: bit n - 1 is set if n quadwords can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorLengths(u64);

impl VectorLengths {
    /// All the RMM has.
    #[must_use]
    pub const fn new(features: FeatureRegister0) -> Self {
        Self(2_u64.wrapping_shl(features.sve_vl() as u32).wrapping_sub(1))
    }

    /// The longest one, in quadwords minus one.
    #[must_use]
    pub fn sve_vl(self) -> u8 {
        u8::try_from(self.0.checked_ilog2().unwrap_or(0)).unwrap_or(0)
    }

    /// The 512-bit register.
    #[must_use]
    pub fn to_bytes(self) -> [u8; MAX_REG_SIZE] {
        let mut bytes = [0; MAX_REG_SIZE];
        for (byte, value) in bytes.iter_mut().zip(self.0.to_le_bytes()) {
            *byte = value;
        }
        bytes
    }

    /// From the 512-bit register.
    ///
    /// # Errors
    /// `EINVAL` if no length is selected or one the RMM does not have. Which of the shorter ones exist only the CPU
    /// knows, so holes are accepted: the longest one is what the realm gets.
    pub fn from_bytes(bytes: &[u8; MAX_REG_SIZE], features: FeatureRegister0) -> Result<Self, Errno> {
        let (low, high) = bytes.split_at(8);
        let lengths = low.try_into().map_or(0, u64::from_le_bytes);
        let offered = Self::new(features).0;
        if lengths == 0 || lengths & !offered != 0 || high.iter().any(|&byte| byte != 0) {
            return Err(Errno::EINVAL);
        }
        Ok(Self(lengths))
    }
}

/// What KVM_GET_REG_LIST answers: the registers that can be set.
pub fn settable(pmu: bool, sve: bool) -> impl Iterator<Item = RegId> {
    let core = (0..=30).filter_map(RegId::x).chain([RegId::PC, RegId::ID_AA64DFR0_EL1]);
    core.chain(pmu.then_some(RegId::PMCR_EL0)).chain(sve.then_some(RegId::SVE_VLS))
}

/// The masks of KVM_ARM_GET_REG_WRITABLE_MASKS for range 0: op1 in {0, 1, 3}, then CRm, then op2.
pub fn writable_masks() -> impl Iterator<Item = u64> {
    /// ID_AA64DFR0_EL1: op1 0, CRm 5, op2 0.
    const DFR0: usize = 5 * 8;
    (0..WRITABLE_MASKS).map(|index| if index == DFR0 { DFR0_WRITABLE } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> FeatureRegister0 {
        let features = FeatureRegister0::default().with_num_bps(5).with_num_wps(3);
        features.with_pmu_en(1).with_pmu_num_ctrs(6).with_sve_en(1).with_sve_vl(3)
    }

    fn dfr0(brps: u64, wrps: u64, ctx: u64) -> u64 {
        6 | brps << 12 | wrps << 20 | ctx << 28
    }

    #[test]
    fn id_registers_start_with_what_the_rmm_has() {
        let registers = SharedRegisters::new(features());
        assert_eq!(registers.dfr0(), dfr0(5, 3, 1));
        assert_eq!(registers.pmcr(), 6 << 11);
    }

    #[test]
    fn breakpoints_can_be_reduced_before_the_realm_is_created() {
        let mut registers = SharedRegisters::new(features());
        assert_eq!(registers.set_dfr0(dfr0(2, 1, 1), false), Ok(()));
        assert_eq!((registers.num_bps(), registers.num_wps()), (2, 1));
        for (what, value) in [
            ("no breakpoints", dfr0(0, 1, 0)),
            ("no watchpoints", dfr0(2, 0, 1)),
            ("too many breakpoints", dfr0(6, 1, 1)),
            ("too many watchpoints", dfr0(2, 4, 1)),
            ("more comparators than breakpoints", dfr0(2, 1, 3)),
            ("another field", dfr0(2, 1, 1) | 1 << 8),
        ] {
            assert_eq!(registers.set_dfr0(value, false), Err(Errno::EINVAL), "{what}");
        }
        assert_eq!(registers.set_dfr0(dfr0(3, 1, 1), true), Err(Errno::EBUSY));
        assert_eq!(registers.set_dfr0(dfr0(2, 1, 1), true), Ok(()));
        assert_eq!(registers.dfr0(), dfr0(2, 1, 1));
    }

    #[test]
    fn only_the_number_of_counters_counts_in_pmcr() {
        let mut registers = SharedRegisters::new(features());
        assert_eq!(registers.set_pmcr(0x1f | 4 << 11, false), Ok(()));
        assert_eq!(registers.pmu_num_ctrs(), 4);
        assert_eq!(registers.set_pmcr(7 << 11, false), Err(Errno::EINVAL));
        assert_eq!(registers.set_pmcr(2 << 11, true), Ok(()));
        assert_eq!(registers.pmu_num_ctrs(), 4);
    }

    #[test]
    fn the_longest_vector_is_what_the_realm_gets() {
        let all = VectorLengths::new(features());
        assert_eq!((all.sve_vl(), all.to_bytes()[0]), (3, 0b1111));
        let mut bytes = [0; MAX_REG_SIZE];
        assert_eq!(VectorLengths::from_bytes(&bytes, features()), Err(Errno::EINVAL));
        bytes[0] = 0b0011;
        assert_eq!(VectorLengths::from_bytes(&bytes, features()).map(VectorLengths::sve_vl), Ok(1));
        bytes[0] = 0b1_0000;
        assert_eq!(VectorLengths::from_bytes(&bytes, features()), Err(Errno::EINVAL));
        bytes[0] = 1;
        bytes[63] = 1;
        assert_eq!(VectorLengths::from_bytes(&bytes, features()), Err(Errno::EINVAL));
    }

    #[test]
    fn the_list_holds_what_can_be_set() {
        assert_eq!(settable(false, true).count(), 34);
        let has = |register| settable(false, true).any(|other| other == register);
        assert!(has(RegId::SVE_VLS) && !has(RegId::PMCR_EL0));
        assert_eq!(settable(true, false).last(), Some(RegId::PMCR_EL0));
    }
}
