//! The realm program that is appended to the image: `MAGIC`, its length as a little-endian `u64`, then its bytes.

const MAGIC: [u8; 8] = *b"RKGUEST\0";

unsafe extern "C" {
    safe static __file_end: u8;
}

/// The realm program.
///
/// # Panics
/// If none is appended.
pub fn image() -> &'static [u8] {
    let start = &raw const __file_end;
    // SAFETY: the linker script leaves room behind the file, which nobody writes.
    let [magic, length] = unsafe { start.cast::<[[u8; 8]; 2]>().read() };
    assert_eq!(magic, MAGIC, "no realm program behind the image");
    let length = u64::from_le_bytes(length) as usize;
    assert!(length <= 4 << 20, "a realm program of {length} bytes");
    // SAFETY: as above; whoever appended it says that it is so long.
    unsafe { core::slice::from_raw_parts(start.wrapping_add(16), length) }
}
