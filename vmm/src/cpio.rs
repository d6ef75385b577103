//! Archives from which a Linux kernel unpacks its first files ("newc" cpio). One depends on its content alone, so that
//! the measurement of a realm that boots it does too.

/// Mode of a directory.
pub const DIRECTORY: u32 = 0o040_755;
/// Mode of a program.
pub const EXECUTABLE: u32 = 0o100_755;
/// Mode of any other file.
pub const FILE: u32 = 0o100_644;

/// An archive that is being written. A kernel unpacks several that follow each other; of files with the same name the last one
/// stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

impl Archive {
    /// Adds a member: `name` without a slash at the start. Its directory comes before it.
    #[must_use]
    pub fn with(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.members += 1;
        self.append(self.members, name, mode, content);
        self
    }

    /// The whole archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.append(0, "TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn append(&mut self, inode: u32, name: &str, mode: u32, content: &[u8]) {
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let (size, name_size) = (content.len(), name.len() + 1);
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, uid, gid, links, mtime, size, device and rdevice (major, minor), name size, checksum.
        let fields = [inode as usize, mode as usize, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        Archive::default().with("bin", DIRECTORY, &[]).with("bin/busybox", EXECUTABLE, b"seven!!").finish()
    }

    #[test]
    fn every_member_starts_on_a_multiple_of_four_and_the_trailer_is_last() {
        let archive = archive();
        let starts: Vec<_> =
            archive.windows(6).enumerate().filter(|(_, w)| *w == b"070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|at| at % 4 == 0));
        let last = &archive[*starts.last().unwrap()..];
        assert!(last.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    #[test]
    fn the_header_tells_the_content_size() {
        let archive = archive();
        let name = archive.windows(11).position(|w| w == b"bin/busybox").unwrap();
        let header = &archive[name - 110..name];
        assert_eq!(&header[54..62], b"00000007");
    }
}
