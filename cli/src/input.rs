//! What people write on the command line, and the files they name.

use crate::{Failure, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a Realm Personalization Value and of a challenge.
pub const PADDED_SIZE: usize = 64;

/// A size in bytes: digits, or `0x` and hexadecimal digits, with K, M, G or T for powers of 1024.
pub fn size(text: &str) -> std::result::Result<u64, String> {
    let rule = || format!("'{text}' is not a size: digits with an optional K, M, G or T, such as 256M");
    let (digits, shift) = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |digits| (digits, 16));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(rule());
    }
    let beyond = || format!("'{text}' is 2^64 bytes or more");
    let number = u64::from_str_radix(digits, radix).map_err(|_| beyond())?;
    number.checked_mul(1 << shift).ok_or_else(beyond)
}

/// Bytes as hexadecimal digits.
pub fn hex_bytes(text: &str) -> std::result::Result<Vec<u8>, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("not hexadecimal digits".into());
    }
    hex::decode(digits).map_err(|_| format!("{} hexadecimal digits: a byte has 2", digits.len()))
}

/// A measurement as hexadecimal digits: 32 or 64 bytes.
pub fn measurement(text: &str) -> std::result::Result<Vec<u8>, String> {
    let bytes = hex_bytes(text)?;
    match bytes.len() {
        32 | 64 => Ok(bytes),
        len => Err(format!("{len} bytes: a measurement has 32 (sha256) or 64 (sha512)")),
    }
}

/// A 64-byte value as hexadecimal digits; a shorter one is padded with zeros at its end.
pub fn padded_hex(text: &str) -> std::result::Result<[u8; PADDED_SIZE], String> {
    padded(&hex_bytes(text)?)
}

/// A Realm Personalization Value: a text, or `@` and the name of a file; at most 64 bytes, padded with zeros.
pub fn rpv(text: &str) -> Result<[u8; PADDED_SIZE]> {
    let named = |error| Failure::BadInput(format!("--rpv {text}: {error}"));
    let Some(path) = text.strip_prefix('@') else {
        return padded(text.as_bytes()).map_err(named);
    };
    // One byte more than allowed is enough to see that it is too long.
    let bytes = read_at_most(Path::new(path), PADDED_SIZE as u64 + 1)?;
    padded(&bytes).map_err(named)
}

fn padded(bytes: &[u8]) -> std::result::Result<[u8; PADDED_SIZE], String> {
    let mut value = [0; PADDED_SIZE];
    value
        .get_mut(..bytes.len())
        .ok_or_else(|| format!("{} bytes or more: the value has at most {PADDED_SIZE}", bytes.len()))?
        .copy_from_slice(bytes);
    Ok(value)
}

/// Opens a regular file and tells its size.
pub fn open(path: &Path) -> Result<(File, u64)> {
    // Looked at before it is opened: opening a FIFO waits for somebody to write to it.
    let metadata = std::fs::metadata(path).map_err(Failure::in_file(path))?;
    if !metadata.is_file() {
        return Err(Failure::in_file(path)("not a regular file"));
    }
    let file = File::open(path).map_err(Failure::in_file(path))?;
    let size = file.metadata().map_err(Failure::in_file(path))?.len();
    Ok((file, size))
}

/// The first bytes of a file, or of standard input for `-`, up to `limit`.
pub fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let result = if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    result.map_err(Failure::in_file(path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("0x1000"), Ok(4096));
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        assert_eq!(size("2T"), Ok(2 << 40));
        assert_eq!(size("0"), Ok(0));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "-1", "+1", "1.5G", "1MB", "0x", "0xg", "1 G", "é"] {
            assert!(size(text).unwrap_err().contains("is not a size"), "{text}");
        }
        for text in ["18446744073709551616", "16777216T", "0x10000000000000000"] {
            assert!(size(text).unwrap_err().contains("2^64"), "{text}");
        }
    }

    #[test]
    fn short_values_are_padded_and_long_ones_refused() {
        let mut expected = [0; 64];
        expected[0] = 0xab;
        assert_eq!(padded_hex("0xAB"), Ok(expected));
        assert!(padded_hex(&"00".repeat(65)).unwrap_err().contains("at most 64"));
        assert!(padded_hex("abc").unwrap_err().contains("3 hexadecimal digits"));
        assert!(padded_hex("").is_err());
        assert!(measurement("ab").unwrap_err().contains("1 bytes: a measurement has 32"));
        assert_eq!(measurement(&"00".repeat(64)).map(|bytes| bytes.len()), Ok(64));
    }

    #[test]
    fn a_personalization_value_is_text_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rpv");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(rpv("abc"), rpv(&format!("@{}", path.display())));
        std::fs::write(&path, [0; 65]).unwrap();
        assert!(matches!(rpv(&format!("@{}", path.display())), Err(Failure::BadInput(_))));
        assert!(matches!(rpv(&"a".repeat(65)), Err(Failure::BadInput(_))));
        assert!(matches!(rpv("@/no/such/file"), Err(Failure::BadInput(_))));
    }
}
