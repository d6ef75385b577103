//! A token in words and as JSON.

use super::cose::ES384;
use super::{PlatformClaims, RealmClaims, Sign1, Token, UnknownClaim};
use alloc::string::String;
use core::fmt::{self, Write};
use serde::Serialize;

/// What JSON shows of a token.
#[derive(Serialize)]
struct View<'a> {
    platform: Part<'a, PlatformClaims>,
    realm: Part<'a, RealmClaims>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unsigned_headers: &'a [UnknownClaim],
}

#[derive(Serialize)]
struct Part<'a, C> {
    algorithm: String,
    #[serde(flatten)]
    claims: &'a C,
    signature: String,
}

impl<'a, C> Part<'a, C> {
    fn new(signed: &Sign1, claims: &'a C) -> Self {
        Self { algorithm: algorithm(signed), claims, signature: hex::encode(&signed.signature) }
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        View {
            platform: Part::new(&self.platform, &self.platform_claims),
            realm: Part::new(&self.realm, &self.realm_claims),
            unsigned_headers: &self.unsigned_headers(),
        }
        .serialize(serializer)
    }
}

fn algorithm(signed: &Sign1) -> String {
    if signed.algorithm == ES384 {
        "ES384".into()
    } else {
        alloc::format!("COSE algorithm {}", signed.algorithm)
    }
}

/// Rows of a name and a value under headings. Values are cut to lines of 32 bytes.
struct Rows<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Rows<'_, '_> {
    fn heading(&mut self, text: &str) -> fmt::Result {
        writeln!(self.0, "{text}")
    }
    fn row(&mut self, name: &str, value: impl fmt::Display) -> fmt::Result {
        writeln!(self.0, "  {name:<24} {value}")
    }
    fn text(&mut self, name: &str, text: &str) -> fmt::Result {
        self.row(name, text.escape_debug())
    }
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> fmt::Result {
        if bytes.is_empty() {
            return self.row(name, "(empty)");
        }
        bytes
            .chunks(32)
            .enumerate()
            .try_for_each(|(i, line)| self.row(if i == 0 { name } else { "" }, hex::encode(line)))
    }
    fn optional(&mut self, name: &str, text: Option<&String>) -> fmt::Result {
        text.map_or(Ok(()), |text| self.text(name, text))
    }
    fn unknown(&mut self, claims: &[UnknownClaim]) -> fmt::Result {
        claims.iter().try_for_each(|UnknownClaim { key, value }| {
            self.row(&alloc::format!("unknown claim {key}"), value)
        })
    }
}

/// The claims as a table for a person. Texts of the token are escaped: they come from outside.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (platform, realm) = (&self.platform_claims, &self.realm_claims);
        let mut rows = Rows(f);
        rows.heading("Platform token: what the machine and its firmware are")?;
        rows.row("signed with", algorithm(&self.platform))?;
        rows.text("profile", &platform.profile)?;
        rows.bytes("challenge (realm key)", &platform.challenge)?;
        rows.bytes("implementation id", &platform.implementation_id)?;
        rows.bytes("instance id", &platform.instance_id)?;
        rows.bytes("configuration", &platform.config)?;
        rows.row("lifecycle", platform.lifecycle)?;
        rows.text("hash algorithm", &platform.hash_algorithm)?;
        rows.optional("verification service", platform.verification_service.as_ref())?;
        rows.unknown(&platform.unknown)?;
        for component in &platform.software_components {
            let mut title = String::from("  software component ");
            let name = component.component_type.as_deref().unwrap_or("(without a type)");
            write!(title, "{}", name.escape_debug())?;
            if let Some(version) = &component.version {
                write!(title, ", version {}", version.escape_debug())?;
            }
            rows.heading(&title)?;
            rows.bytes("  measurement", &component.measurement)?;
            rows.bytes("  signer", &component.signer_id)?;
            rows.optional("  hash algorithm", component.hash_algorithm.as_ref())?;
            rows.unknown(&component.unknown)?;
        }
        rows.heading("Realm token: what runs in the realm")?;
        rows.row("signed with", algorithm(&self.realm))?;
        rows.text("profile", realm.profile.as_deref().unwrap_or("none (the platform's covers it)"))?;
        rows.bytes("challenge", &realm.challenge)?;
        rows.bytes("personalization value", &realm.personalization_value)?;
        rows.text("hash algorithm", &realm.hash_algorithm)?;
        rows.bytes("initial measurement", &realm.initial_measurement)?;
        for (i, rem) in realm.extensible_measurements.iter().enumerate() {
            rows.bytes(&alloc::format!("extensible measurement {i}"), rem)?;
        }
        rows.bytes("public key", &realm.public_key)?;
        rows.text("public key hash", &realm.public_key_hash_algorithm)?;
        rows.unknown(&realm.unknown)?;
        if !self.unsigned_headers().is_empty() {
            rows.heading("Headers under no signature: anybody can have written them")?;
            rows.unknown(&self.unsigned_headers())?;
        }
        Ok(())
    }
}
