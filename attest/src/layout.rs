//! The steps of a Host as JSON, to predict the measurement of realms other VMMs build.
//!
//! ```json
//! {"ipa_bits": 33, "hash": "sha256", "lpa2": false, "sve_vl": null, "num_bps": 2, "num_wps": 2,
//!  "pmu_num_ctrs": null, "steps": [
//!   {"init_ripas": {"base": "0x80000000", "size": "0x10000000"}},
//!   {"populate": {"ipa": "0x80000000", "file": "Image", "measured": true}},
//!   {"rec": {"pc": "0x80000000", "gprs": ["0x8fe00000"], "runnable": true}}]}
//! ```
//!
//! Numbers are integers or `"0x..."` strings. `null` (or no such key) means that a feature is off.

use crate::rim::{ParameterError, RealmParameters};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use realm_abi::rmi::HashAlgorithm;
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// An unsigned number, written as an integer or as a string of hexadecimal digits after `0x`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number(pub u64);

/// A hash algorithm by name: `sha256` or `sha512`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashName {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A realm and the steps that build it, in the order of the calls.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Width of the IPA space in bits.
    pub ipa_bits: Number,
    /// Hash of the measurements.
    pub hash: HashName,
    /// Stage 2 uses LPA2.
    #[serde(default)]
    pub lpa2: bool,
    /// SVE vector length in quadwords minus one.
    #[serde(default)]
    pub sve_vl: Option<Number>,
    /// Breakpoints; two are 2.
    pub num_bps: Number,
    /// Watchpoints; two are 2.
    pub num_wps: Number,
    /// PMU event counters.
    #[serde(default)]
    pub pmu_num_ctrs: Option<Number>,
    /// What the Host does, in order.
    pub steps: Vec<Step>,
}

/// One call of the VMM.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// INIT_RIPAS.
    InitRipas {
        /// First IPA.
        base: Number,
        /// Bytes.
        size: Number,
    },
    /// POPULATE with the content of a file, padded with zeros to the granule.
    Populate {
        /// First IPA.
        ipa: Number,
        /// Name of the file.
        file: String,
        /// Whether the content goes into the measurement; the address always does.
        measured: bool,
    },
    /// Creation of a REC.
    Rec {
        /// Where it starts.
        pc: Number,
        /// X0 and following, at most 8; the others are zero.
        gprs: Vec<Number>,
        /// Whether it can be entered at once; others are not measured.
        runnable: bool,
    },
}

impl Layout {
    /// The parameters of the realm.
    ///
    /// # Errors
    /// The first parameter that no realm can have.
    pub fn parameters(&self) -> Result<RealmParameters, ParameterError> {
        let narrow = |what, number: Number, min, max| {
            u8::try_from(number.0).map_err(|_| ParameterError::Range { what, value: number.0, min, max })
        };
        let parameters = RealmParameters {
            ipa_bits: narrow("ipa_bits", self.ipa_bits, 32, if self.lpa2 { 52 } else { 48 })?,
            hash: self.hash.into(),
            lpa2: self.lpa2,
            sve_vl: self.sve_vl.map(|vl| narrow("sve_vl", vl, 0, 15)).transpose()?,
            num_bps: narrow("num_bps", self.num_bps, 2, 64)?,
            num_wps: narrow("num_wps", self.num_wps, 2, 64)?,
            pmu_num_ctrs: self.pmu_num_ctrs.map(|n| narrow("pmu_num_ctrs", n, 0, 31)).transpose()?,
        };
        parameters.to_rmi().map(|_| parameters)
    }
}

impl From<HashName> for HashAlgorithm {
    fn from(name: HashName) -> Self {
        match name {
            HashName::Sha256 => Self::SHA_256,
            HashName::Sha512 => Self::SHA_512,
        }
    }
}

impl Step {
    /// The step's key in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InitRipas { .. } => "init_ripas",
            Self::Populate { .. } => "populate",
            Self::Rec { .. } => "rec",
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an unsigned integer below 2^64 or a string of hexadecimal digits after 0x")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                text.strip_prefix("0x")
                    .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .map(Number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    const EXAMPLE: &str = r#"{"ipa_bits": 33, "hash": "sha256", "lpa2": false, "sve_vl": null, "num_bps": 2,
        "num_wps": 2, "pmu_num_ctrs": null, "steps": [
        {"init_ripas": {"base": "0x80000000", "size": "0x10000000"}},
        {"populate": {"ipa": 2147483648, "file": "Image", "measured": true}},
        {"rec": {"pc": "0x80000000", "gprs": ["0x8fe00000"], "runnable": true}}]}"#;

    fn parse(text: &str) -> Result<Layout, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_layout_is_read() {
        let layout = parse(EXAMPLE).unwrap();
        assert_eq!(layout.parameters().unwrap(), RealmParameters::plain(33, HashAlgorithm::SHA_256));
        assert_eq!(
            layout.steps,
            [
                Step::InitRipas { base: Number(0x8000_0000), size: Number(0x1000_0000) },
                Step::Populate { ipa: Number(0x8000_0000), file: "Image".into(), measured: true },
                Step::Rec { pc: Number(0x8000_0000), gprs: [Number(0x8fe0_0000)].into(), runnable: true },
            ]
        );
    }

    #[test]
    fn what_is_not_in_the_format_is_refused_by_name() {
        let refusals = [
            (EXAMPLE.replace("\"lpa2\"", "\"lpa3\""), "unknown field `lpa3`"),
            (
                EXAMPLE.replace("\"measured\": true", "\"measured\": true, \"offset\": 0"),
                "unknown field `offset`",
            ),
            (EXAMPLE.replace("\"rec\"", "\"vcpu\""), "unknown variant `vcpu`"),
            (EXAMPLE.replace("sha256", "sha384"), "unknown variant `sha384`"),
            (EXAMPLE.replace("\"num_bps\": 2,", ""), "missing field `num_bps`"),
            (
                EXAMPLE.replace("\"num_bps\": 2,", "\"num_bps\": 2, \"num_bps\": 2,"),
                "duplicate field `num_bps`",
            ),
            (EXAMPLE.replace("33", "-33"), "integer `-33`"),
            (EXAMPLE.replace("33", "33.5"), "33.5"),
            (EXAMPLE.replace("0x10000000", "10000000"), "string \"10000000\""),
            (EXAMPLE.replace("0x10000000", "0x"), "string \"0x\""),
            (EXAMPLE.replace("0x10000000", "0x+1"), "string \"0x+1\""),
            (EXAMPLE.replace("0x10000000", "0x10000000000000000"), "string \"0x10000000000000000\""),
        ];
        for (text, part) in refusals {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{error:?} should name {part}");
        }
    }

    #[test]
    fn a_parameter_too_large_for_its_field_is_named_whole() {
        let layout = parse(&EXAMPLE.replace("\"num_bps\": 2", "\"num_bps\": 258")).unwrap();
        assert_eq!(layout.parameters().unwrap_err().to_string(), "num_bps 258 is not in 2..=64");
        let layout = parse(&EXAMPLE.replace("33", "\"0x121\"")).unwrap();
        assert_eq!(layout.parameters().unwrap_err().to_string(), "ipa_bits 289 is not in 32..=48");
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = serde_json::from_slice::<Layout>(&bytes);
        }

        #[test]
        fn a_layout_cut_short_is_an_error(end in 0..EXAMPLE.len()) {
            prop_assert!(parse(&EXAMPLE[..end]).is_err());
        }
    }
}
