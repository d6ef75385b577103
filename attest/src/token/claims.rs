//! The claims of the two parts of a CCA token (RMM 1.0, CCA attestation token claims).

use super::TokenError;
use super::cbor::Value;
use alloc::string::String;
use alloc::vec::Vec;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// Profile of the platform part.
pub const PLATFORM_PROFILE: &str = "tag:arm.com,2023:cca_platform#1.0.0";
/// Profile of the platform part in tokens from before RMM 1.0, whose realm keys are bare points.
pub const PLATFORM_PROFILE_LEGACY: &str = "http://arm.com/CCA-SSD/1.0.0";
/// Profile of the realm part.
pub const REALM_PROFILE: &str = "tag:arm.com,2023:realm#1.0.0";

/// What the platform says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlatformClaims {
    /// 265: profile.
    pub profile: String,
    /// 10: the hash of the realm public key.
    #[serde(serialize_with = "as_hex")]
    pub challenge: Vec<u8>,
    /// 2396: implementation, 32 bytes.
    #[serde(serialize_with = "as_hex")]
    pub implementation_id: Vec<u8>,
    /// 256: this instance, 33 bytes from 0x01.
    #[serde(serialize_with = "as_hex")]
    pub instance_id: Vec<u8>,
    /// 2401: configuration.
    #[serde(serialize_with = "as_hex")]
    pub config: Vec<u8>,
    /// 2395: lifecycle.
    pub lifecycle: Lifecycle,
    /// 2402: hash algorithm of the components that name none.
    pub hash_algorithm: String,
    /// 2400: where to verify.
    pub verification_service: Option<String>,
    /// 2399: firmware.
    pub software_components: Vec<SoftwareComponent>,
    /// Claims with other keys.
    pub unknown: Vec<UnknownClaim>,
}

/// One piece of firmware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SoftwareComponent {
    /// 1: what it is.
    pub component_type: Option<String>,
    /// 2: its measurement.
    #[serde(serialize_with = "as_hex")]
    pub measurement: Vec<u8>,
    /// 4: version.
    pub version: Option<String>,
    /// 5: who signed it.
    #[serde(serialize_with = "as_hex")]
    pub signer_id: Vec<u8>,
    /// 6: hash algorithm, if not the platform's.
    pub hash_algorithm: Option<String>,
    /// Other keys.
    pub unknown: Vec<UnknownClaim>,
}

/// What the RMM says of a realm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RealmClaims {
    /// 265: profile; without one the platform's covers the realm too.
    pub profile: Option<String>,
    /// 10: the challenge the realm gave, 64 bytes.
    #[serde(serialize_with = "as_hex")]
    pub challenge: Vec<u8>,
    /// 44235: Realm Personalization Value, 64 bytes.
    #[serde(serialize_with = "as_hex")]
    pub personalization_value: Vec<u8>,
    /// 44236: hash algorithm of the measurements.
    pub hash_algorithm: String,
    /// 44237: the key that signs the realm part: a COSE_Key, in older tokens a bare point.
    #[serde(serialize_with = "as_hex")]
    pub public_key: Vec<u8>,
    /// 44240: hash algorithm that binds the key to the platform part.
    pub public_key_hash_algorithm: String,
    /// 44238: RIM.
    #[serde(serialize_with = "as_hex")]
    pub initial_measurement: Vec<u8>,
    /// 44239: the four REMs.
    #[serde(serialize_with = "all_as_hex")]
    pub extensible_measurements: Vec<Vec<u8>>,
    /// Claims with other keys.
    pub unknown: Vec<UnknownClaim>,
}

/// A claim this decoder has no name for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnknownClaim {
    /// Its key.
    pub key: Value,
    /// Its value.
    pub value: Value,
}

/// The security lifecycle of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifecycle(pub u16);

impl Lifecycle {
    /// The state's name; values outside every range have none.
    #[must_use]
    pub const fn state(self) -> &'static str {
        match self.0 >> 8 {
            0x00 => "unknown",
            0x10 => "assembly and test",
            0x20 => "platform RoT provisioning",
            0x30 => "secured",
            0x40 => "non-platform-RoT debug",
            0x50 => "recoverable platform RoT debug",
            0x60 => "decommissioned",
            _ => "undefined",
        }
    }
    /// Whether the platform is in production use with debug closed.
    #[must_use]
    pub const fn is_secured(self) -> bool {
        self.0 >> 8 == 0x30
    }
}

impl core::fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#06x} ({})", self.0, self.state())
    }
}

impl Serialize for Lifecycle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut both = serializer.serialize_struct("Lifecycle", 2)?;
        both.serialize_field("value", &self.0)?;
        both.serialize_field("state", self.state())?;
        both.end()
    }
}

/// Lengths of the hashes tokens use.
const HASH_LENGTHS: &[usize] = &[32, 48, 64];

/// The entries of a claims map, taken out one by one.
struct Claims {
    part: &'static str,
    entries: Vec<(Value, Value)>,
}

/// A claim's key and its name in errors.
type Key = (i64, &'static str);

impl Claims {
    fn new(part: &'static str, value: Value) -> Result<Self, TokenError> {
        match value {
            Value::Map(entries) => Ok(Self { part, entries }),
            other => {
                Err(TokenError::Structure { part, expected: "a map of claims", found: other.type_name() })
            }
        }
    }

    fn decode(part: &'static str, payload: &[u8]) -> Result<Self, TokenError> {
        Self::new(part, Value::decode(payload).map_err(|error| TokenError::Cbor { part, error })?)
    }

    fn take(&mut self, (key, _): Key) -> Option<Value> {
        let at = self.entries.iter().position(|(label, _)| *label == Value::Int(key.into()))?;
        Some(self.entries.remove(at).1)
    }

    fn wrong(&self, (key, name): Key, expected: &str, found: String) -> TokenError {
        TokenError::Claim { part: self.part, key, name, expected: expected.into(), found }
    }

    fn required(&mut self, key: Key) -> Result<Value, TokenError> {
        self.take(key).ok_or(TokenError::MissingClaim { part: self.part, key: key.0, name: key.1 })
    }

    /// A byte string of one of `lengths`; of any length if there are none.
    fn sized(&self, key: Key, value: Value, lengths: &[usize]) -> Result<Vec<u8>, TokenError> {
        match value {
            Value::Bytes(bytes) if lengths.is_empty() || lengths.contains(&bytes.len()) => Ok(bytes),
            Value::Bytes(bytes) => {
                let lengths: Vec<String> = lengths.iter().map(|length| alloc::format!("{length}")).collect();
                let expected = alloc::format!("{} bytes", lengths.join(" or "));
                Err(self.wrong(key, &expected, alloc::format!("{} bytes", bytes.len())))
            }
            other => Err(self.wrong(key, "a byte string", other.type_name().into())),
        }
    }

    fn bytes(&mut self, key: Key, lengths: &[usize]) -> Result<Vec<u8>, TokenError> {
        let value = self.required(key)?;
        self.sized(key, value, lengths)
    }

    fn optional_text(&mut self, key: Key) -> Result<Option<String>, TokenError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a text", other.type_name().into())),
        }
    }

    fn text(&mut self, key: Key) -> Result<String, TokenError> {
        self.optional_text(key)?.ok_or(TokenError::MissingClaim { part: self.part, key: key.0, name: key.1 })
    }

    fn array(&mut self, key: Key) -> Result<Vec<Value>, TokenError> {
        match self.required(key)? {
            Value::Array(items) => Ok(items),
            other => Err(self.wrong(key, "an array", other.type_name().into())),
        }
    }

    fn unknown(self) -> Vec<UnknownClaim> {
        self.entries.into_iter().map(|(key, value)| UnknownClaim { key, value }).collect()
    }
}

impl PlatformClaims {
    /// Reads the payload of the platform part.
    ///
    /// # Errors
    /// A required claim that is missing, or one of a wrong type or length.
    pub fn decode(payload: &[u8]) -> Result<Self, TokenError> {
        const LIFECYCLE: Key = (2395, "lifecycle");
        const COMPONENTS: Key = (2399, "software components");
        const INSTANCE: Key = (256, "instance id");
        let mut claims = Claims::decode("platform token", payload)?;
        let instance_id = claims.bytes(INSTANCE, &[33])?;
        // EAT UEID type RAND (RFC 9711 section 4.2.1.1).
        if let Some(first) = instance_id.first().filter(|first| **first != 1) {
            return Err(claims.wrong(INSTANCE, "a first byte 0x01", alloc::format!("{first:#04x}")));
        }
        let lifecycle = match claims.required(LIFECYCLE)? {
            Value::Int(value) => u16::try_from(value)
                .map(Lifecycle)
                .map_err(|_| claims.wrong(LIFECYCLE, "a number below 0x10000", alloc::format!("{value}")))?,
            other => return Err(claims.wrong(LIFECYCLE, "an unsigned integer", other.type_name().into())),
        };
        let components = claims.array(COMPONENTS)?;
        if components.is_empty() {
            return Err(claims.wrong(COMPONENTS, "at least one component", "none".into()));
        }
        Ok(Self {
            profile: claims.text((265, "platform profile"))?,
            challenge: claims.bytes((10, "platform challenge"), HASH_LENGTHS)?,
            implementation_id: claims.bytes((2396, "implementation id"), &[32])?,
            instance_id,
            config: claims.bytes((2401, "platform config"), &[])?,
            lifecycle,
            hash_algorithm: claims.text((2402, "platform hash algorithm"))?,
            verification_service: claims.optional_text((2400, "verification service"))?,
            software_components: components
                .into_iter()
                .map(SoftwareComponent::new)
                .collect::<Result<_, _>>()?,
            unknown: claims.unknown(),
        })
    }
}

impl SoftwareComponent {
    fn new(value: Value) -> Result<Self, TokenError> {
        let mut claims = Claims::new("software component", value)?;
        Ok(Self {
            component_type: claims.optional_text((1, "component type"))?,
            measurement: claims.bytes((2, "measurement value"), HASH_LENGTHS)?,
            version: claims.optional_text((4, "version"))?,
            signer_id: claims.bytes((5, "signer id"), HASH_LENGTHS)?,
            hash_algorithm: claims.optional_text((6, "hash algorithm"))?,
            unknown: claims.unknown(),
        })
    }
}

impl RealmClaims {
    /// Reads the payload of the realm part.
    ///
    /// # Errors
    /// A required claim that is missing, or one of a wrong type or length.
    pub fn decode(payload: &[u8]) -> Result<Self, TokenError> {
        const REMS: Key = (44239, "realm extensible measurements");
        let mut claims = Claims::decode("realm token", payload)?;
        let rems = claims.array(REMS)?;
        if rems.len() != 4 {
            return Err(claims.wrong(REMS, "4 measurements", alloc::format!("{}", rems.len())));
        }
        let rems =
            rems.into_iter().map(|rem| claims.sized(REMS, rem, HASH_LENGTHS)).collect::<Result<_, _>>()?;
        Ok(Self {
            profile: claims.optional_text((265, "realm profile"))?,
            challenge: claims.bytes((10, "realm challenge"), &[64])?,
            personalization_value: claims.bytes((44235, "realm personalization value"), &[64])?,
            hash_algorithm: claims.text((44236, "realm hash algorithm"))?,
            public_key: claims.bytes((44237, "realm public key"), &[])?,
            public_key_hash_algorithm: claims.text((44240, "realm public key hash algorithm"))?,
            initial_measurement: claims.bytes((44238, "realm initial measurement"), HASH_LENGTHS)?,
            extensible_measurements: rems,
            unknown: claims.unknown(),
        })
    }
}

fn as_hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}

fn all_as_hex<S: Serializer>(all: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(all.iter().map(hex::encode))
}
