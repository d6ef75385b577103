//! Attestation tokens and keys from anybody: decoded strictly, explained and verified without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_attest::token::cbor::Value;
use realm_attest::token::{Expectations, PublicKey, Token, verify};

/// The base point of P-384, a public key nobody signs with (SEC 2, section 2.5.1).
const POINT: &[u8; 97] = b"\x04\
    \xaa\x87\xca\x22\xbe\x8b\x05\x37\x8e\xb1\xc7\x1e\xf3\x20\xad\x74\x6e\x1d\x3b\x62\x8b\xa7\x9b\x98\
    \x59\xf7\x41\xe0\x82\x54\x2a\x38\x55\x02\xf2\x5d\xbf\x55\x29\x6c\x3a\x54\x5e\x38\x72\x76\x0a\xb7\
    \x36\x17\xde\x4a\x96\x26\x2c\x6f\x5d\x9e\x98\xbf\x92\x92\xdc\x29\xf8\xf4\x1d\xbd\x28\x9a\x14\x7c\
    \xe9\xda\x31\x13\xb5\xf0\xb8\xc0\x0a\x60\xb1\xce\x1d\x7e\x81\x9d\x7a\x43\x1d\x7c\x90\xea\x0e\x5f";

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = Value::decode(data) {
        assert_eq!(value.encode(), data, "a strict decoder accepts one encoding of each value");
    }
    let _ = PublicKey::parse(data).map(|key| key.to_cose());
    match Token::decode(data) {
        Ok(token) => {
            let platform_key = PublicKey::from_point(POINT).expect("a point of the curve");
            let challenge = [0; 64];
            let expectations = Expectations {
                platform_key: &platform_key,
                secured: true,
                rim: Some(&challenge[..32]),
                rpv: Some(&challenge),
                challenge: Some(&challenge),
            };
            let report = verify(&token, &expectations);
            assert!(!report.ok, "nobody has signed with this key");
            let _ = format!("{token:?}");
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
});
