//! CBOR (RFC 8949) as far as tokens use it, read strictly.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt;
use minicbor::data::{Int, Tag, Type};
use minicbor::{Decoder, Encode, Encoder};

/// Deepest nesting of arrays, maps and tags. Tokens need 5.
pub const MAX_DEPTH: usize = 16;

/// A CBOR data item. Floating point numbers and simple values other than true, false and null are refused: no claim has
/// such a type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Integer, -2^64 to 2^64 - 1.
    Int(i128),
    /// Byte string.
    Bytes(Vec<u8>),
    /// Text string.
    Text(String),
    /// Array.
    Array(Vec<Value>),
    /// Map; keys are unique and in the order of the encoding.
    Map(Vec<(Value, Value)>),
    /// Tagged item.
    Tag(u64, Box<Value>),
    /// True or false.
    Bool(bool),
    /// Null.
    Null,
}

/// Why bytes are not one CBOR data item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// Not CBOR, or cut short.
    #[error("malformed CBOR at byte {at}")]
    Malformed {
        /// Offset of the item.
        at: usize,
    },
    /// A type tokens do not use.
    #[error("CBOR type {found} at byte {at} has no place in a token")]
    Type {
        /// Offset of the item.
        at: usize,
        /// The type.
        found: String,
    },
    /// Nested too deeply.
    #[error("CBOR nested deeper than {MAX_DEPTH} levels at byte {at}")]
    Depth {
        /// Offset of the item.
        at: usize,
    },
    /// The same key twice in one map.
    #[error("duplicate map key {key} at byte {at}")]
    DuplicateKey {
        /// Offset of the second.
        at: usize,
        /// The key.
        key: String,
    },
    /// Bytes after the item.
    #[error("{count} bytes after the end of the CBOR item")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// A length or an integer takes more bytes than it needs.
    #[error("CBOR that is not in its shortest form")]
    NotShortest,
}

impl Value {
    /// Reads the one item that `bytes` hold.
    ///
    /// # Errors
    /// Anything but exactly one item of the types above in its shortest, definite-length encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let mut decoder = Decoder::new(bytes);
        let value = item(&mut decoder, 0)?;
        match bytes.len().saturating_sub(decoder.position()) {
            // What can be written in one way only reads back to the same bytes.
            0 if value.encode() == bytes => Ok(value),
            0 => Err(CborError::NotShortest),
            count => Err(CborError::Trailing { count }),
        }
    }

    /// The shortest encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _: Result<(), minicbor::encode::Error<Infallible>> =
            Encoder::new(&mut bytes).encode(self).map(|_| ());
        bytes
    }

    /// The type in words, for error messages.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Int(_) => "an integer",
            Self::Bytes(_) => "a byte string",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Tag(..) => "a tagged item",
            Self::Bool(_) => "a boolean",
            Self::Null => "null",
        }
    }
}

fn item(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, CborError> {
    let at = decoder.position();
    let malformed = |_| CborError::Malformed { at };
    if depth > MAX_DEPTH {
        return Err(CborError::Depth { at });
    }
    let below = depth.saturating_add(1);
    Ok(match decoder.datatype().map_err(malformed)? {
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int => Value::Int(decoder.int().map_err(malformed)?.into()),
        Type::Bytes => Value::Bytes(decoder.bytes().map_err(malformed)?.into()),
        Type::String => Value::Text(decoder.str().map_err(malformed)?.into()),
        Type::Bool => Value::Bool(decoder.bool().map_err(malformed)?),
        Type::Null => {
            decoder.null().map_err(malformed)?;
            Value::Null
        }
        Type::Tag => Value::Tag(decoder.tag().map_err(malformed)?.as_u64(), Box::new(item(decoder, below)?)),
        Type::Array => {
            // Nothing is reserved for a length that is only claimed: memory grows with the bytes that are there.
            let mut items = Vec::new();
            for _ in 0..decoder.array().map_err(malformed)?.unwrap_or(0) {
                items.push(item(decoder, below)?);
            }
            Value::Array(items)
        }
        Type::Map => {
            let mut entries = Vec::new();
            let mut keys = BTreeSet::new();
            for _ in 0..decoder.map().map_err(malformed)?.unwrap_or(0) {
                let at = decoder.position();
                let key = item(decoder, below)?;
                if !keys.insert(key.clone()) {
                    return Err(CborError::DuplicateKey { at, key: alloc::format!("{key}") });
                }
                entries.push((key, item(decoder, below)?));
            }
            Value::Map(entries)
        }
        other => return Err(CborError::Type { at, found: alloc::format!("{other}") }),
    })
}

impl<C> Encode<C> for Value {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match self {
            Self::Int(value) => {
                let int =
                    Int::try_from(*value).map_err(|_| minicbor::encode::Error::message("beyond 64 bits"))?;
                e.int(int)?;
            }
            Self::Bytes(bytes) => {
                e.bytes(bytes)?;
            }
            Self::Text(text) => {
                e.str(text)?;
            }
            Self::Array(items) => {
                e.array(items.len() as u64)?;
                items.iter().try_for_each(|item| e.encode_with(item, ctx).map(|_| ()))?;
            }
            Self::Map(entries) => {
                e.map(entries.len() as u64)?;
                for (key, value) in entries {
                    e.encode_with(key, ctx)?.encode_with(value, ctx)?;
                }
            }
            Self::Tag(tag, value) => {
                e.tag(Tag::new(*tag))?.encode_with(value, ctx)?;
            }
            Self::Bool(value) => {
                e.bool(*value)?;
            }
            Self::Null => {
                e.null()?;
            }
        }
        Ok(())
    }
}

/// Diagnostic notation (RFC 8949 section 8); control characters in texts are escaped.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Bytes(bytes) => write!(f, "h'{}'", hex::encode(bytes)),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Array(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Tag(tag, value) => write!(f, "{tag}({value})"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Null => f.write_str("null"),
        }
    }
}

impl serde::Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn error(bytes: &[u8]) -> CborError {
        Value::decode(bytes).unwrap_err()
    }

    #[test]
    fn items_read_back_as_written_and_show_in_diagnostic_notation() {
        let value = Value::Map(vec![
            (Value::Int(-1), Value::Array(vec![Value::Bytes(vec![0xab]), Value::Null])),
            (Value::Text("a\u{1b}".into()), Value::Tag(18, Box::new(Value::Bool(true)))),
            (Value::Int(u64::MAX.into()), Value::Int(-1 - i128::from(u64::MAX))),
        ]);
        assert_eq!(Value::decode(&value.encode()), Ok(value.clone()));
        assert_eq!(
            value.to_string(),
            r#"{-1: [h'ab', null], "a\u{1b}": 18(true), 18446744073709551615: -18446744073709551616}"#
        );
    }

    #[test]
    fn what_is_not_strict_is_refused() {
        assert_eq!(error(&[]), CborError::Malformed { at: 0 });
        assert_eq!(error(&[0x42, 1]), CborError::Malformed { at: 0 });
        assert_eq!(error(&[0x01, 0x02]), CborError::Trailing { count: 1 });
        assert_eq!(error(&[0x18, 0x05]), CborError::NotShortest);
        assert_eq!(error(&[0x58, 0x01, 0xff]), CborError::NotShortest);
        assert!(matches!(error(&[0x9f, 0xff]), CborError::Type { .. }), "indefinite length");
        assert!(matches!(error(&[0xf9, 0, 0]), CborError::Type { .. }), "floating point");
        assert_eq!(error(&[0x61, 0xff]), CborError::Malformed { at: 0 }, "not UTF-8");
        assert_eq!(error(&[0xa2, 1, 2, 1, 3]), CborError::DuplicateKey { at: 3, key: "1".into() });
        assert!(matches!(error(&[0x81; 100_000]), CborError::Depth { .. }));
        assert!(matches!(error(&[0xd2; 100_000]), CborError::Depth { .. }));
    }

    #[test]
    fn a_claimed_length_reserves_no_memory() {
        assert!(matches!(
            error(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            CborError::Malformed { .. }
        ));
        assert!(matches!(
            error(&[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            CborError::Malformed { .. }
        ));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_written_back_byte_for_byte(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = Value::decode(&bytes) {
                prop_assert_eq!(value.encode(), bytes);
            }
        }
    }
}
