extern crate std;

use super::*;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// A token under construction: maps that tests change before signing.
struct Maker {
    platform: Vec<(Value, Value)>,
    realm: Vec<(Value, Value)>,
}

fn int(value: i128) -> Value {
    Value::Int(value)
}
fn bytes(byte: u8, len: usize) -> Value {
    Value::Bytes(vec![byte; len])
}
fn text(text: &str) -> Value {
    Value::Text(text.into())
}
fn platform_key() -> SigningKey {
    SigningKey::from_slice(&[1; 48]).unwrap()
}
fn realm_key() -> SigningKey {
    SigningKey::from_slice(&[2; 48]).unwrap()
}
fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_point(key.verifying_key().to_sec1_point(false).as_bytes()).unwrap()
}

fn sign(key: &SigningKey, claims: Vec<(Value, Value)>) -> Value {
    let mut signed = Sign1 {
        protected: vec![0xa1, 1, 0x38, 0x22],
        algorithm: ES384,
        unprotected: vec![],
        payload: Value::Map(claims).encode(),
        signature: vec![],
    };
    let signature: Signature = key.sign(&signed.to_be_signed());
    signed.signature = signature.to_bytes().to_vec();
    let items = vec![
        Value::Bytes(signed.protected),
        Value::Map(signed.unprotected),
        Value::Bytes(signed.payload),
        Value::Bytes(signed.signature),
    ];
    Value::Bytes(Value::Tag(18, Box::new(Value::Array(items))).encode())
}

impl Maker {
    fn new() -> Self {
        let key = public(&realm_key()).to_cose();
        let component = vec![
            (int(1), text("RMM")),
            (int(2), bytes(0x22, 32)),
            (int(4), text("1.0")),
            (int(5), bytes(0x55, 32)),
        ];
        let mut instance = vec![7; 33];
        instance[0] = 1;
        Self {
            platform: vec![
                (int(265), text(PLATFORM_PROFILE)),
                (int(10), Value::Bytes(Sha256::digest(&key).to_vec())),
                (int(2396), bytes(0x7f, 32)),
                (int(256), Value::Bytes(instance)),
                (int(2401), bytes(0xcf, 4)),
                (int(2395), int(0x3003)),
                (int(2402), text("sha-256")),
                (int(2400), text("https://veraison.example")),
                (int(2399), Value::Array(vec![Value::Map(component)])),
            ],
            realm: vec![
                (int(10), bytes(0xc4, 64)),
                (int(44235), bytes(0x9a, 64)),
                (int(44237), Value::Bytes(key)),
                (int(44236), text("sha-256")),
                (int(44240), text("sha-256")),
                (int(265), text(REALM_PROFILE)),
                (int(44238), bytes(0x11, 32)),
                (int(44239), Value::Array(vec![bytes(0, 32), bytes(1, 32), bytes(2, 32), bytes(3, 32)])),
            ],
        }
    }

    fn set_in(claims: &mut Vec<(Value, Value)>, key: i128, value: Option<Value>) {
        claims.retain(|(label, _)| *label != int(key));
        claims.extend(value.map(|value| (int(key), value)));
    }
    fn platform(mut self, key: i128, value: impl Into<Option<Value>>) -> Self {
        Self::set_in(&mut self.platform, key, value.into());
        self
    }
    fn realm(mut self, key: i128, value: impl Into<Option<Value>>) -> Self {
        Self::set_in(&mut self.realm, key, value.into());
        self
    }

    fn bytes(self) -> Vec<u8> {
        let platform = sign(&platform_key(), self.platform);
        let realm = sign(&realm_key(), self.realm);
        Value::Tag(399, Box::new(Value::Map(vec![(int(44234), platform), (int(44241), realm)]))).encode()
    }
    fn token(self) -> Token {
        Token::decode(&self.bytes()).unwrap()
    }
    fn error(self) -> String {
        Token::decode(&self.bytes()).unwrap_err().to_string()
    }
    fn report(self) -> Report {
        report(&self.token())
    }
}

fn report(token: &Token) -> Report {
    verify(
        token,
        &Expectations {
            platform_key: &public(&platform_key()),
            secured: true,
            rim: Some(&[0x11; 32]),
            rpv: Some(&[0x9a; 64]),
            challenge: Some(&[0xc4; 64]),
        },
    )
}

/// The names of the checks that do not hold.
fn failed(report: &Report) -> Vec<&'static str> {
    assert_eq!(report.ok, report.checks.iter().all(|check| check.ok));
    report.checks.iter().filter(|check| !check.ok).map(|check| check.name).collect()
}

#[test]
fn a_good_token_holds_in_every_check() {
    let bytes = Maker::new().bytes();
    assert_eq!(bytes[..7], [0xd9, 0x01, 0x8f, 0xa2, 0x19, 0xac, 0xca]);
    let report = Maker::new().report();
    assert_eq!(failed(&report), [""; 0]);
    assert_eq!(report.checks.len(), 10);
}

#[test]
fn the_fixed_realm_key_of_reference_firmware_has_its_known_hash() {
    let point = hex::decode(concat!(
        "04",
        "76f988091be585ed41801aecfab858548c63057e16b0e676120bbd0d2f9c29e056c5d41a0130eb9c21517899dc23146b",
        "28e1b062bd3ea4b315fd219f1cbb528cb6e74ca49be16773734f61a1ca61031b2bbf3d918f2f94ffc4228e50919544ae"
    ))
    .unwrap();
    let cose = PublicKey::from_point(&point).unwrap().to_cose();
    assert_eq!(cose.len(), 107);
    assert_eq!(
        hex::encode(Sha256::digest(cose)),
        "0d22e08a98469058486318283489bdb36f09dbefeb1864df433fa6e54ea2d711"
    );
    assert_eq!(
        hex::encode(Sha256::digest(point)),
        "b5973cb68baa9fc55558786b7ec67f69e40df5ba5aa921cd0c27f40587a011ea"
    );
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let good = Maker::new().bytes();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        if let Ok(token) = Token::decode(&bad) {
            assert!(!report(&token).ok, "byte {at} changed");
        }
    }
}

#[test]
fn a_token_cut_short_or_with_more_behind_it_is_refused() {
    let good = Maker::new().bytes();
    for end in 0..good.len() {
        assert!(Token::decode(&good[..end]).is_err());
    }
    let mut long = good;
    long.push(0);
    assert_eq!(
        Token::decode(&long).unwrap_err().to_string(),
        "CCA token: 1 bytes after the end of the CBOR item"
    );
    assert!(matches!(Token::decode(&vec![0; MAX_TOKEN_SIZE + 1]), Err(TokenError::TooLarge(_))));
}

#[test]
fn each_check_fails_for_its_own_reason() {
    let other_key = public(&SigningKey::from_slice(&[3; 48]).unwrap());
    let other_cose = Value::Bytes(other_key.to_cose());
    let cases: [(Maker, &[&str]); 11] = [
        (Maker::new().platform(265, text("tag:x")), &["platform profile"]),
        (Maker::new().platform(265, text(PLATFORM_PROFILE_LEGACY)), &["platform profile"]),
        (Maker::new().platform(2395, int(0x4000)), &["platform lifecycle"]),
        (Maker::new().platform(10, bytes(0, 32)), &["binding of realm to platform"]),
        (Maker::new().realm(44240, text("sha-512")), &["binding of realm to platform"]),
        (Maker::new().realm(44240, text("md5")), &["binding of realm to platform"]),
        (Maker::new().realm(44237, other_cose), &["binding of realm to platform", "realm signature"]),
        (Maker::new().realm(265, text(PLATFORM_PROFILE)), &["realm profile"]),
        (Maker::new().realm(44236, text("sha-512")), &["realm measurements"]),
        (Maker::new().realm(10, bytes(0, 64)), &["realm challenge"]),
        (Maker::new().realm(44235, bytes(0, 64)), &["realm personalization value"]),
    ];
    for (maker, names) in cases {
        assert_eq!(failed(&maker.report()), names);
    }
    let longer = Maker::new().realm(44238, bytes(0x11, 64)).report();
    assert_eq!(failed(&longer), ["realm measurements", "realm initial measurement"]);
}

#[test]
fn a_token_signed_by_another_machine_is_refused() {
    let token = Maker::new().token();
    let other = public(&realm_key());
    let expectations =
        Expectations { platform_key: &other, secured: false, rim: None, rpv: None, challenge: None };
    assert_eq!(failed(&verify(&token, &expectations)), ["platform signature"]);
}

#[test]
fn a_realm_part_without_a_profile_is_covered_by_the_platforms() {
    assert!(Maker::new().realm(265, None).report().ok);
}

#[test]
fn a_token_from_before_1_0_has_a_bare_key_and_the_older_profile() {
    let point = realm_key().verifying_key().to_sec1_point(false).as_bytes().to_vec();
    let hash = Value::Bytes(Sha256::digest(&point).to_vec());
    let legacy =
        || Maker::new().realm(44237, Value::Bytes(point.clone())).realm(265, None).platform(10, hash.clone());
    assert!(legacy().platform(265, text(PLATFORM_PROFILE_LEGACY)).report().ok);
    assert_eq!(failed(&legacy().report()), ["platform profile"]);
}

#[test]
fn claims_that_are_missing_or_of_a_wrong_form_are_named() {
    let cases = [
        (Maker::new().realm(10, None), "realm token: claim 10 (realm challenge) is missing"),
        (
            Maker::new().realm(10, bytes(0, 32)),
            "realm token: claim 10 (realm challenge): expected 64 bytes, found 32 bytes",
        ),
        (
            Maker::new().realm(44238, bytes(0, 33)),
            "realm token: claim 44238 (realm initial measurement): expected 32 or 48 or 64 bytes, found 33 bytes",
        ),
        (
            Maker::new().realm(44239, Value::Array(vec![bytes(0, 32); 3])),
            "realm token: claim 44239 (realm extensible measurements): expected 4 measurements, found 3",
        ),
        (
            Maker::new().realm(44236, int(1)),
            "realm token: claim 44236 (realm hash algorithm): expected a text, found an integer",
        ),
        (Maker::new().platform(265, None), "platform token: claim 265 (platform profile) is missing"),
        (
            Maker::new().platform(256, bytes(2, 33)),
            "platform token: claim 256 (instance id): expected a first byte 0x01, found 0x02",
        ),
        (
            Maker::new().platform(2395, int(0x10000)),
            "platform token: claim 2395 (lifecycle): expected a number below 0x10000, found 65536",
        ),
        (
            Maker::new().platform(2399, Value::Array(vec![])),
            "platform token: claim 2399 (software components): expected at least one component, found none",
        ),
        (
            Maker::new().platform(2399, Value::Array(vec![Value::Map(vec![(int(2), bytes(0, 32))])])),
            "software component: claim 5 (signer id) is missing",
        ),
    ];
    for (maker, message) in cases {
        assert_eq!(maker.error(), message);
    }
}

#[test]
fn the_envelope_is_exactly_two_tagged_parts() {
    let Value::Tag(399, map) = Value::decode(&Maker::new().bytes()).unwrap() else { panic!() };
    let Value::Map(entries) = *map else { panic!() };
    let encode = |tag, entries: Vec<_>| Value::Tag(tag, Box::new(Value::Map(entries))).encode();
    let mut extra = entries.clone();
    extra.push((int(1), int(1)));
    let mut renamed = entries.clone();
    renamed[1].0 = int(44242);
    let mut swapped = entries.clone();
    swapped[0].1 = int(0);
    let mut doubled = entries.clone();
    doubled[1].0 = int(44234);
    for bad in [encode(400, entries.clone()), encode(399, extra), encode(399, renamed), encode(399, swapped)]
    {
        assert!(matches!(Token::decode(&bad), Err(TokenError::Structure { part: "CCA token", .. })));
    }
    assert!(
        Token::decode(&encode(399, doubled)).unwrap_err().to_string().contains("duplicate map key 44234")
    );
    assert!(Token::decode(&encode(399, entries)).is_ok());
}

#[test]
fn unknown_claims_are_kept_and_shown_and_nothing_reaches_the_terminal_raw() {
    let token = Maker::new().realm(-70000, text("\u{1b}[31m")).platform(2400, text("a\u{7}\nb")).token();
    assert_eq!(token.realm_claims.unknown.len(), 1);
    let shown = token.to_string();
    assert!(
        shown.contains(r#"unknown claim -70000"#)
            && shown.contains(r"\u{1b}[31m")
            && shown.contains(r"a\u{7}\nb")
    );
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
    let json = serde_json::to_value(&token).unwrap();
    assert_eq!(json["realm"]["unknown"][0]["key"], "-70000");
    assert_eq!(json["platform"]["lifecycle"], serde_json::json!({"value": 0x3003, "state": "secured"}));
    assert_eq!(json["realm"]["initial_measurement"], "11".repeat(32));
    assert_eq!(json["platform"]["software_components"][0]["component_type"], "RMM");
}

static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| Maker::new().bytes());

proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Token::decode(&bytes).is_err());
        let _ = PublicKey::parse(&bytes);
        let _ = PublicKey::from_cose(&bytes);
        let _ = Sign1::decode("garbage", &bytes);
    }

    #[test]
    fn a_token_changed_anywhere_never_verifies_and_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let good = GOOD.clone();
        let mut bad = good.clone();
        for (at, byte) in changes {
            *at.get_mut(&mut bad) = byte;
        }
        if let Some(cut) = cut {
            bad.truncate(cut.index(bad.len()));
        }
        if let Ok(token) = Token::decode(&bad) {
            prop_assert_eq!(report(&token).ok, bad == good);
            let _ = (token.to_string(), serde_json::to_string(&token));
        }
    }
}
