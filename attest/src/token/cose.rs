//! COSE_Sign1 (RFC 9052 section 4.2) and the public keys that verify it.

use super::TokenError;
use super::cbor::Value;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{Signature, VerifyingKey};
use p384::elliptic_curve::pkcs8::DecodePublicKey;

/// COSE algorithm number of ECDSA with P-384 and SHA-384.
pub const ES384: i128 = -35;
/// Bytes of a coordinate of P-384.
const COORDINATE: usize = 48;
/// Bytes of an uncompressed point: 0x04, x, y.
const POINT: usize = 97;

/// A signed message, taken apart but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign1 {
    /// The protected header as it was signed.
    pub protected: Vec<u8>,
    /// Algorithm number, from the protected header.
    pub algorithm: i128,
    /// The unprotected header. Nobody has signed it.
    pub unprotected: Vec<(Value, Value)>,
    /// What was signed.
    pub payload: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Sign1 {
    /// Reads a tagged COSE_Sign1; `part` names it in errors.
    ///
    /// # Errors
    /// Whatever is not as RFC 9052 has it, or a critical header this decoder does not know.
    pub fn decode(part: &'static str, bytes: &[u8]) -> Result<Self, TokenError> {
        let wrong =
            |expected, found: &Value| TokenError::Structure { part, expected, found: found.type_name() };
        let value = Value::decode(bytes).map_err(|error| TokenError::Cbor { part, error })?;
        let Value::Tag(18, inner) = value else {
            return Err(wrong("a COSE_Sign1 with tag 18", &value));
        };
        let Value::Array(items) = *inner else {
            return Err(wrong("an array of 4 in tag 18", &inner));
        };
        let Ok([protected, unprotected, payload, signature]) = <[Value; 4]>::try_from(items) else {
            return Err(TokenError::Structure {
                part,
                expected: "an array of 4 in tag 18",
                found: "an array of another length",
            });
        };
        let Value::Bytes(protected) = protected else {
            return Err(wrong("a protected header in a byte string", &protected));
        };
        let Value::Map(unprotected) = unprotected else {
            return Err(wrong("an unprotected header that is a map", &unprotected));
        };
        let Value::Bytes(payload) = payload else {
            return Err(wrong("a payload in a byte string", &payload));
        };
        let Value::Bytes(signature) = signature else {
            return Err(wrong("a signature in a byte string", &signature));
        };
        let header = Value::decode(&protected).map_err(|error| TokenError::Cbor { part, error })?;
        let Value::Map(header) = header else {
            return Err(wrong("a protected header that is a map", &header));
        };
        if header.iter().any(|(key, _)| *key == Value::Int(2)) {
            return Err(TokenError::Structure {
                part,
                expected: "no critical headers (2)",
                found: "some in the protected header",
            });
        }
        let Some(&(_, Value::Int(algorithm))) = header.iter().find(|(key, _)| *key == Value::Int(1)) else {
            return Err(TokenError::Structure {
                part,
                expected: "an algorithm number (1) in the protected header",
                found: "none",
            });
        };
        Ok(Self { protected, algorithm, unprotected, payload, signature })
    }

    /// The bytes under the signature: the Sig_structure of RFC 9052 section 4.4, without external data.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<u8> {
        Value::Array(Vec::from([
            Value::Text("Signature1".into()),
            Value::Bytes(self.protected.clone()),
            Value::Bytes(Vec::new()),
            Value::Bytes(self.payload.clone()),
        ]))
        .encode()
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// Why it does not hold, in words.
    pub fn verify(&self, key: &PublicKey) -> Result<(), String> {
        if self.algorithm != ES384 {
            return Err(alloc::format!("algorithm {}, only ES384 ({ES384}) is known", self.algorithm));
        }
        let signature = Signature::from_slice(&self.signature).map_err(|_| {
            alloc::format!("a malformed signature of {} bytes, ES384 has 96", self.signature.len())
        })?;
        key.0
            .verify(&self.to_be_signed(), &signature)
            .map_err(|_| String::from("a signature that does not match"))
    }
}

/// An ECDSA public key on P-384.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why bytes are no public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// None of the formats.
    #[error(
        "not a public key: expected PEM or DER (SubjectPublicKeyInfo), an uncompressed P-384 point (97 bytes from 0x04, \
         or as hexadecimal digits) or a COSE_Key"
    )]
    Format,
    /// A private key where a public one belongs.
    #[error("a private key: give the public one (openssl pkey -pubout)")]
    Private,
    /// The format is right, the key is not.
    #[error("{0}")]
    Key(&'static str),
}

impl PublicKey {
    /// Reads a key in any of the usual formats: PEM or DER SubjectPublicKeyInfo, an uncompressed SEC1 point in binary or
    /// hexadecimal, or a COSE_Key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if let Ok(text) = core::str::from_utf8(bytes) {
            return Self::parse_text(text.trim());
        }
        match bytes.first() {
            Some(0x04) => Self::from_point(bytes),
            Some(0x30) => VerifyingKey::from_public_key_der(bytes)
                .map(Self)
                .map_err(|_| KeyError::Key("not a SubjectPublicKeyInfo of a P-384 key")),
            Some(0xa0..=0xbf) => Self::from_cose(bytes),
            _ => Err(KeyError::Format),
        }
    }

    fn parse_text(text: &str) -> Result<Self, KeyError> {
        if text.starts_with("-----BEGIN") {
            if text.contains("PRIVATE KEY") {
                return Err(KeyError::Private);
            }
            return VerifyingKey::from_public_key_pem(text)
                .map(Self)
                .map_err(|_| KeyError::Key("not the PEM of a P-384 public key"));
        }
        let digits: String = text.split_whitespace().collect();
        match hex::decode(digits.strip_prefix("0x").unwrap_or(&digits)) {
            Ok(bytes) => Self::from_point(&bytes),
            Err(_) => Err(KeyError::Format),
        }
    }

    /// Reads an uncompressed point: 0x04, x, y.
    ///
    /// # Errors
    /// A wrong length, another form, or a point that is not on the curve.
    pub fn from_point(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() != POINT || bytes.first() != Some(&4) {
            return Err(KeyError::Key("an uncompressed P-384 point has 97 bytes, the first of them 0x04"));
        }
        VerifyingKey::from_sec1_bytes(bytes).map(Self).map_err(|_| KeyError::Key("the point is not on P-384"))
    }

    /// Reads a COSE_Key of type EC2 (RFC 9053 section 7.1.1).
    ///
    /// # Errors
    /// Another type of key, curve or algorithm, coordinates of a wrong length, or a private key.
    pub fn from_cose(bytes: &[u8]) -> Result<Self, KeyError> {
        let Ok(Value::Map(entries)) = Value::decode(bytes) else {
            return Err(KeyError::Key("a COSE_Key is a CBOR map"));
        };
        let get = |label| entries.iter().find(|(key, _)| *key == Value::Int(label)).map(|(_, value)| value);
        let coordinate = |label| match get(label) {
            Some(Value::Bytes(bytes)) if bytes.len() == COORDINATE => Ok(bytes),
            _ => Err(KeyError::Key("the COSE_Key has no coordinates (-2, -3) of 48 bytes")),
        };
        if get(1) != Some(&Value::Int(2)) || get(-1) != Some(&Value::Int(2)) {
            return Err(KeyError::Key("the COSE_Key is not of type EC2 (1: 2) on P-384 (-1: 2)"));
        }
        if get(3).is_some_and(|algorithm| *algorithm != Value::Int(ES384)) {
            return Err(KeyError::Key("the COSE_Key is for another algorithm (3) than ES384 (-35)"));
        }
        if get(-4).is_some() {
            return Err(KeyError::Private);
        }
        let mut point = Vec::from([4]);
        point.extend(coordinate(-2)?);
        point.extend(coordinate(-3)?);
        Self::from_point(&point)
    }

    /// The COSE_Key with type, curve and coordinates in this order, as TF-RMM encodes it.
    #[must_use]
    pub fn to_cose(&self) -> Vec<u8> {
        let point = self.0.to_sec1_point(false);
        let (x, y) =
            point.as_bytes().get(1..).unwrap_or_default().split_at_checked(COORDINATE).unwrap_or_default();
        Value::Map(Vec::from([
            (Value::Int(1), Value::Int(2)),
            (Value::Int(-1), Value::Int(2)),
            (Value::Int(-2), Value::Bytes(x.into())),
            (Value::Int(-3), Value::Bytes(y.into())),
        ]))
        .encode()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", hex::encode(self.0.to_sec1_point(false).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use p384::ecdsa::SigningKey;
    use p384::elliptic_curve::pkcs8::{EncodePublicKey, LineEnding};
    use p384::pkcs8::EncodePrivateKey;

    fn key() -> VerifyingKey {
        *SigningKey::from_slice(&[7; 48]).unwrap().verifying_key()
    }

    #[test]
    fn one_key_reads_the_same_in_every_format() {
        let spki = p384::PublicKey::from(key());
        let key = PublicKey(key());
        let point = key.0.to_sec1_point(false);
        let formats = [
            spki.to_public_key_pem(LineEnding::LF).unwrap().into_bytes(),
            spki.to_public_key_der().unwrap().into_vec(),
            point.as_bytes().into(),
            alloc::format!("0x{key}\n").into_bytes(),
            key.to_string().to_uppercase().into_bytes(),
            key.to_cose(),
        ];
        for format in formats {
            assert_eq!(PublicKey::parse(&format).as_ref(), Ok(&key));
        }
    }

    #[test]
    fn what_is_no_public_key_on_p384_is_refused() {
        let private = p384::SecretKey::from_slice(&[7; 48]).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
        assert_eq!(PublicKey::parse(private.as_bytes()), Err(KeyError::Private));
        assert_eq!(PublicKey::parse(b"hello"), Err(KeyError::Format));
        assert_eq!(
            PublicKey::parse(&[]),
            Err(KeyError::Key("an uncompressed P-384 point has 97 bytes, the first of them 0x04"))
        );
        let mut point = key().to_sec1_point(false).as_bytes().to_vec();
        point[96] ^= 1;
        assert_eq!(PublicKey::parse(&point), Err(KeyError::Key("the point is not on P-384")));
        let Value::Map(cose) = Value::decode(&PublicKey(key()).to_cose()).unwrap() else { panic!() };
        let with = |label, value| {
            let mut entries = cose.clone();
            entries.retain(|(key, _)| *key != Value::Int(label));
            entries.push((Value::Int(label), value));
            PublicKey::from_cose(&Value::Map(entries).encode())
        };
        assert!(with(3, Value::Int(ES384)).is_ok());
        assert!(with(2, Value::Bytes([1].into())).is_ok());
        assert!(with(3, Value::Int(-7)).is_err());
        assert!(with(1, Value::Int(1)).is_err());
        assert!(with(-1, Value::Int(1)).is_err());
        assert!(with(-2, Value::Bytes([0; 32].into())).is_err());
        assert!(with(-3, Value::Bool(true)).is_err());
        assert_eq!(with(-4, Value::Bytes([0; 48].into())), Err(KeyError::Private));
    }
}
