//! The parameters of a realm that are part of its measurement.

use realm_abi::rmi::{HashAlgorithm, RealmFlags, RealmParams};

/// Narrowest IPA space of a realm, in bits.
pub const MIN_IPA_BITS: u8 = 32;
/// Widest IPA space without LPA2.
pub const MAX_IPA_BITS: u8 = 48;
/// Widest IPA space with LPA2.
pub const MAX_IPA_BITS_LPA2: u8 = 52;

/// What REALM_CREATE measures, as a person counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealmParameters {
    /// Width of the IPA space in bits: 32 to 48, with LPA2 up to 52. Half of it is protected.
    pub ipa_bits: u8,
    /// Hash of RIM and REMs.
    pub hash: HashAlgorithm,
    /// Stage 2 uses LPA2.
    pub lpa2: bool,
    /// SVE vector length in quadwords minus one (0 to 15); `None`: no SVE.
    pub sve_vl: Option<u8>,
    /// Breakpoints, 2 to 64.
    pub num_bps: u8,
    /// Watchpoints, 2 to 64.
    pub num_wps: u8,
    /// PMU event counters, 0 to 31; `None`: no PMU.
    pub pmu_num_ctrs: Option<u8>,
}

/// Why no realm can have these parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// IPA width.
    #[error("ipa_bits {bits} is not in {MIN_IPA_BITS}..={max}{}", if *max == MAX_IPA_BITS { " (more needs lpa2)" } else { "" })]
    IpaBits {
        /// The width asked for.
        bits: u64,
        /// The widest.
        max: u8,
    },
    /// Hash.
    #[error("hash algorithm {0}: a realm measures with sha256 or sha512")]
    Hash(HashAlgorithm),
    /// A counted feature.
    #[error("{what} {value} is not in {min}..={max}")]
    Range {
        /// Which parameter.
        what: &'static str,
        /// The value asked for.
        value: u64,
        /// Smallest.
        min: u8,
        /// Largest.
        max: u8,
    },
}

impl RealmParameters {
    /// Parameters of a realm without SVE and PMU, with two breakpoints and watchpoints, without LPA2.
    #[must_use]
    pub const fn plain(ipa_bits: u8, hash: HashAlgorithm) -> Self {
        Self { ipa_bits, hash, lpa2: false, sve_vl: None, num_bps: 2, num_wps: 2, pmu_num_ctrs: None }
    }

    /// The structure REALM_CREATE reads, its measured fields set. The fields of a feature that is off are zero, as our
    /// Host core leaves them.
    ///
    /// # Errors
    /// The first parameter outside its range.
    pub fn to_rmi(&self) -> Result<RealmParams, ParameterError> {
        let max = if self.lpa2 { MAX_IPA_BITS_LPA2 } else { MAX_IPA_BITS };
        if !(MIN_IPA_BITS..=max).contains(&self.ipa_bits) {
            return Err(ParameterError::IpaBits { bits: self.ipa_bits.into(), max });
        }
        if !matches!(self.hash, HashAlgorithm::SHA_256 | HashAlgorithm::SHA_512) {
            return Err(ParameterError::Hash(self.hash));
        }
        let mut flags = RealmFlags::empty();
        flags.set(RealmFlags::LPA2, self.lpa2);
        flags.set(RealmFlags::SVE, self.sve_vl.is_some());
        flags.set(RealmFlags::PMU, self.pmu_num_ctrs.is_some());
        let mut params = RealmParams::default();
        params.flags = flags.bits();
        params.s2sz = self.ipa_bits;
        params.sve_vl = in_range("sve_vl", self.sve_vl.unwrap_or(0), 0, 15)?;
        // RmiRealmParams holds breakpoints and watchpoints minus one, and 0 there is reserved.
        params.num_bps = in_range("num_bps", self.num_bps, 2, 64)?.saturating_sub(1);
        params.num_wps = in_range("num_wps", self.num_wps, 2, 64)?.saturating_sub(1);
        params.pmu_num_ctrs = in_range("pmu_num_ctrs", self.pmu_num_ctrs.unwrap_or(0), 0, 31)?;
        params.hash_algo = self.hash;
        Ok(params)
    }
}

fn in_range(what: &'static str, value: u8, min: u8, max: u8) -> Result<u8, ParameterError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(ParameterError::Range { what, value: value.into(), min, max })
    }
}
