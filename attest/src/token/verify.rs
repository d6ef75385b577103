//! What a relying party checks of a token.

use super::{
    KeyError, PLATFORM_PROFILE, PLATFORM_PROFILE_LEGACY, PublicKey, REALM_PROFILE, RealmClaims, Token,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// What the caller knows and the token must agree with.
#[derive(Clone, Debug)]
pub struct Expectations<'a> {
    /// The key of the machine that made the token (IAK), from a source the caller trusts.
    pub platform_key: &'a PublicKey,
    /// Whether only platforms in the secured lifecycle are accepted. Others can be debugged.
    pub secured: bool,
    /// The RIM, as long as the realm's hash.
    pub rim: Option<&'a [u8]>,
    /// The Realm Personalization Value, 64 bytes.
    pub rpv: Option<&'a [u8]>,
    /// The challenge, 64 bytes.
    pub challenge: Option<&'a [u8]>,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What belongs there.
    pub expected: String,
    /// What the token has.
    pub found: String,
    /// Whether it holds.
    pub ok: bool,
}

/// Everything that was checked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Whether all of it holds.
    pub ok: bool,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

/// Checks signatures, the binding of the two parts, profiles, and claims against expectations.
#[must_use]
pub fn verify(token: &Token, expectations: &Expectations<'_>) -> Report {
    let (platform, realm) = (&token.platform_claims, &token.realm_claims);
    let mut checks = Vec::new();
    let mut check =
        |name, ok, expected: String, found: String| checks.push(Check { name, expected, found, ok });

    let signature = token.platform.verify(expectations.platform_key);
    check("platform signature", signature.is_ok(), "valid for the given key".into(), outcome(signature));

    let (key, legacy) = realm_key(realm);
    let profile = if legacy { PLATFORM_PROFILE_LEGACY } else { PLATFORM_PROFILE };
    check("platform profile", platform.profile == profile, profile.into(), escaped(&platform.profile));

    if expectations.secured {
        let expected = "secured (0x3000 to 0x30ff)".into();
        check(
            "platform lifecycle",
            platform.lifecycle.is_secured(),
            expected,
            platform.lifecycle.to_string(),
        );
    }

    let hash = key_hash(realm);
    let expected = match &hash {
        Some(hash) => alloc::format!("{} (hash of the realm key)", hex::encode(hash)),
        None => "the hash of the realm key by sha-256, sha-384 or sha-512".into(),
    };
    let found = match &hash {
        Some(_) => hex::encode(&platform.challenge),
        None => alloc::format!("algorithm {}", escaped(&realm.public_key_hash_algorithm)),
    };
    check("binding of realm to platform", hash.as_ref() == Some(&platform.challenge), expected, found);

    let signature = match key {
        Ok(key) => token.realm.verify(&key),
        Err(error) => Err(alloc::format!("an unusable realm public key: {error}")),
    };
    check(
        "realm signature",
        signature.is_ok(),
        "valid for the realm key in the token".into(),
        outcome(signature),
    );

    // Without a profile of its own the realm part is covered by the platform's (RMM 1.0, CCA attestation token).
    if let Some(profile) = &realm.profile {
        check("realm profile", profile == REALM_PROFILE, REALM_PROFILE.into(), escaped(profile));
    }

    let lengths: Vec<usize> = [&realm.initial_measurement]
        .into_iter()
        .chain(&realm.extensible_measurements)
        .map(Vec::len)
        .collect();
    let hash_length = match realm.hash_algorithm.as_str() {
        "sha-256" => Some(32),
        "sha-512" => Some(64),
        _ => None,
    };
    check(
        "realm measurements",
        hash_length.is_some_and(|length| lengths.iter().all(|found| *found == length)),
        "sha-256 and 32 bytes each, or sha-512 and 64 bytes each".into(),
        alloc::format!("{} and {lengths:?} bytes", escaped(&realm.hash_algorithm)),
    );

    let mut compare = |name, expected: Option<&[u8]>, found: &[u8]| {
        if let Some(expected) = expected {
            check(name, expected == found, hex::encode(expected), hex::encode(found));
        }
    };
    compare("realm challenge", expectations.challenge, &realm.challenge);
    compare("realm initial measurement", expectations.rim, &realm.initial_measurement);
    compare("realm personalization value", expectations.rpv, &realm.personalization_value);

    Report { ok: checks.iter().all(|check| check.ok), checks }
}

/// The key of the realm part, and whether it has the form from before RMM 1.0: a bare point.
fn realm_key(realm: &RealmClaims) -> (Result<PublicKey, KeyError>, bool) {
    match realm.public_key.first() {
        Some(4) => (PublicKey::from_point(&realm.public_key), true),
        _ => (PublicKey::from_cose(&realm.public_key), false),
    }
}

/// What the platform challenge must be: the hash of the content of the realm public key claim.
fn key_hash(realm: &RealmClaims) -> Option<Vec<u8>> {
    let key = &realm.public_key;
    match realm.public_key_hash_algorithm.as_str() {
        "sha-256" => Some(Sha256::digest(key).to_vec()),
        "sha-384" => Some(Sha384::digest(key).to_vec()),
        "sha-512" => Some(Sha512::digest(key).to_vec()),
        _ => None,
    }
}

fn outcome(result: Result<(), String>) -> String {
    result.err().unwrap_or_else(|| "valid".into())
}

/// A text from the token, fit for a terminal.
fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}
