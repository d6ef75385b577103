//! Memory of this process that is not Rust's: realms and the kernel write to it at any time, so it is only copied from and to.

use realm_abi::Errno;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// The mappings: address and size.
#[derive(Default)]
pub struct Mappings(RwLock<BTreeMap<u64, u64>>);

fn length(size: u64) -> Result<usize, Errno> {
    usize::try_from(size).map_err(|_| Errno::ENOMEM)
}

impl Mappings {
    /// Zeroed memory of this process alone.
    pub fn anonymous(&self, size: u64) -> Result<u64, Errno> {
        // A realm's RAM is touched only where it shares it.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.map(size, flags, -1)
    }

    /// The first bytes of a file, shared with it.
    pub fn file(&self, fd: i32, size: u64) -> Result<u64, Errno> {
        self.map(size, libc::MAP_SHARED, fd)
    }

    fn map(&self, size: u64, flags: i32, fd: i32) -> Result<u64, Errno> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses a place where nothing is.
        let addr = unsafe { libc::mmap(std::ptr::null_mut(), length(size)?, access, flags, fd, 0) };
        if addr == libc::MAP_FAILED {
            let errno = std::io::Error::last_os_error().raw_os_error();
            return Err(errno.map_or(Errno::ENOMEM, Errno));
        }
        let addr = addr as u64;
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(addr, size);
        Ok(addr)
    }

    /// Ends a mapping, whole.
    pub fn unmap(&self, addr: u64, size: u64) -> Result<(), Errno> {
        let mut mappings = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if mappings.get(&addr) != Some(&size) {
            return Err(Errno::EINVAL);
        }
        mappings.remove(&addr);
        // SAFETY: it is a mapping of ours, and who copies from or to it holds the lock.
        crate::answered(unsafe { libc::munmap(addr as *mut _, length(size)?) }.into()).map(|_| ())
    }

    /// Lets `work` use the address of `[addr, addr + size)`, if that lies in a mapping: it stays until then.
    fn within<T>(
        &self,
        addr: u64,
        size: u64,
        missing: Errno,
        work: impl FnOnce(*mut u8) -> T,
    ) -> Result<T, Errno> {
        let mappings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (base, all) = mappings.range(..=addr).next_back().ok_or(missing)?;
        let offset = addr - base;
        if offset > *all || size > *all - offset {
            return Err(missing);
        }
        Ok(work(addr as *mut u8))
    }

    /// Drops pages, which read as zeros afterwards.
    pub fn discard(&self, addr: u64, size: u64) -> Result<(), Errno> {
        let length = length(size)?;
        let result = self.within(addr, size, Errno::EINVAL, |at| {
            // SAFETY: the range is mapped, and nothing of Rust's is in it.
            unsafe { libc::madvise(at.cast(), length, libc::MADV_DONTNEED) }
        })?;
        crate::answered(result.into()).map(|_| ())
    }

    /// Copies from a mapping.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
        self.within(addr, out.len() as u64, Errno::EFAULT, |from| {
            for (offset, size) in pieces(addr, out.len()) {
                let from = from.wrapping_add(offset);
                // Others may write the memory, so each byte is read once.
                let value = match size {
                    // SAFETY: the range is mapped and the piece is aligned.
                    8 => unsafe { from.cast::<u64>().read_volatile() }.to_ne_bytes(),
                    // SAFETY: as above.
                    4 => widened(unsafe { from.cast::<u32>().read_volatile() }.to_ne_bytes()),
                    // SAFETY: as above.
                    2 => widened(unsafe { from.cast::<u16>().read_volatile() }.to_ne_bytes()),
                    // SAFETY: the range is mapped.
                    _ => widened([unsafe { from.read_volatile() }]),
                };
                out[offset..offset + size].copy_from_slice(&value[..size]);
            }
        })
    }

    /// Copies to a mapping.
    pub fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.within(addr, bytes.len() as u64, Errno::EFAULT, |to| {
            for (offset, size) in pieces(addr, bytes.len()) {
                let to = to.wrapping_add(offset);
                match bytes[offset..offset + size] {
                    [a, b, c, d, e, f, g, h] => {
                        let value = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                        // SAFETY: the range is mapped and the piece is aligned.
                        unsafe { to.cast::<u64>().write_volatile(value) };
                    }
                    // SAFETY: as above.
                    [a, b, c, d] => unsafe {
                        to.cast::<u32>().write_volatile(u32::from_ne_bytes([a, b, c, d]))
                    },
                    // SAFETY: as above.
                    [a, b] => unsafe { to.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b])) },
                    [a] => {
                        // SAFETY: the range is mapped.
                        unsafe { to.write_volatile(a) };
                    }
                    _ => {}
                }
            }
        })
    }
}

/// Cuts a range of addresses into aligned pieces of 8, 4, 2 and 1 bytes: offset and size. What is aligned is one piece, so that
/// an index of a ring is never half of the old and half of the new one.
fn pieces(addr: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let fits =
            |size: &usize| *size <= len - offset && (addr + offset as u64).is_multiple_of(*size as u64);
        let size = [8, 4, 2, 1].into_iter().find(fits)?;
        offset += size;
        Some((offset - size, size))
    })
}

/// The bytes of a piece, and zeros.
fn widened<const N: usize>(bytes: [u8; N]) -> [u8; 8] {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(&bytes);
    wide
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_until_it_is_dropped() {
        let mappings = Mappings::default();
        let base = mappings.anonymous(0x4000).expect("memory");
        mappings.write(base + 0x1ffe, b"realm").expect("it is mapped");
        let mut out = [0; 5];
        mappings.read(base + 0x1ffe, &mut out).expect("it is mapped");
        assert_eq!(out, *b"realm");
        mappings.discard(base + 0x2000, 0x1000).expect("it is mapped");
        mappings.read(base + 0x1ffe, &mut out).expect("it is mapped");
        assert_eq!(out, *b"re\0\0\0");
        mappings.unmap(base, 0x4000).expect("it is mapped");
        assert_eq!(mappings.read(base, &mut out), Err(Errno::EFAULT));
    }

    #[test]
    fn aligned_words_are_one_piece() {
        for size in [1, 2, 4, 8_usize] {
            for start in [0, 8, size as u64] {
                assert_eq!(pieces(0x1000 + start, size).collect::<Vec<_>>(), [(0, size)]);
            }
        }
        assert_eq!(pieces(0x1003, 17).collect::<Vec<_>>(), [(0, 1), (1, 4), (5, 8), (13, 4)]);
        assert_eq!(pieces(0x1002, 2).collect::<Vec<_>>(), [(0, 2)]);
        assert_eq!(pieces(u64::MAX, 0).count(), 0);
    }

    #[test]
    fn copies_at_every_offset_and_length_are_whole() {
        let mappings = Mappings::default();
        let base = mappings.anonymous(0x1000).expect("memory");
        let bytes: Vec<u8> = (1..=32).collect();
        for start in 0..9 {
            for len in 0..=32 {
                let mut around = [0xee; 48];
                mappings.write(base, &around).expect("it is mapped");
                mappings.write(base + start, &bytes[..len]).expect("it is mapped");
                mappings.read(base, &mut around).expect("it is mapped");
                let (start, end) = (start as usize, start as usize + len);
                assert_eq!(around[start..end], bytes[..len]);
                assert!(around[..start].iter().chain(&around[end..]).all(|byte| *byte == 0xee));
                let mut out = vec![0; len];
                mappings.read(base + start as u64, &mut out).expect("it is mapped");
                assert_eq!(out, bytes[..len]);
            }
        }
    }

    #[test]
    fn only_mapped_memory_is_reached() {
        let mappings = Mappings::default();
        let base = mappings.anonymous(0x2000).expect("memory");
        assert_eq!(mappings.read(base - 1, &mut [0]), Err(Errno::EFAULT));
        assert_eq!(mappings.write(base + 0x1fff, &[0; 2]), Err(Errno::EFAULT));
        assert_eq!(mappings.write(base + 0x2000, &[0]), Err(Errno::EFAULT));
        assert_eq!(mappings.read(u64::MAX, &mut [0; 2]), Err(Errno::EFAULT));
        assert_eq!(mappings.discard(base, 0x3000), Err(Errno::EINVAL));
        assert_eq!(mappings.unmap(base, 0x1000), Err(Errno::EINVAL));
        mappings.unmap(base, 0x2000).expect("it is mapped");
    }
}
