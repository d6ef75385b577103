//! A small initramfs: busybox and an init that says where it is. The archive depends on its content alone, so that
//! the measurement of a realm that boots it does too.

/// What runs first in the guest.
const INIT: &str = "#!/bin/busybox sh\n/bin/busybox mkdir -p /proc /sys /dev\n/bin/busybox mount -t proc none /proc\n\
/bin/busybox mount -t sysfs none /sys\n/bin/busybox mount -t devtmpfs none /dev\n/bin/busybox uname -a\n\
exec /bin/busybox sh\n";

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

/// A cpio archive ("newc") with `busybox` as its only program.
pub fn archive(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let files: [(&str, u32, &[u8]); 3] = [
        ("bin", DIRECTORY, &[]),
        ("bin/busybox", EXECUTABLE, busybox),
        ("init", EXECUTABLE, INIT.as_bytes()),
    ];
    for (inode, (name, mode, content)) in files.into_iter().enumerate() {
        append(&mut archive, inode + 1, name, mode, content);
    }
    append(&mut archive, 0, "TRAILER!!!", 0, &[]);
    archive
}

/// An archive with nothing but another init, to follow a whole one.
pub fn init_only(init: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    append(&mut archive, 1, "init", EXECUTABLE, init.as_bytes());
    append(&mut archive, 0, "TRAILER!!!", 0, &[]);
    archive
}

fn append(archive: &mut Vec<u8>, inode: usize, name: &str, mode: u32, content: &[u8]) {
    let links = if mode == DIRECTORY { 2 } else { 1 };
    let name_size = name.len() + 1;
    // Fields of a "newc" header: inode, mode, uid, gid, links, mtime, size, device and rdevice (major, minor), name size, checksum.
    let fields = [inode, mode as usize, 0, 0, links, 0, content.len(), 0, 0, 0, 0, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_starts_on_a_multiple_of_four_and_the_trailer_is_last() {
        let archive = archive(b"seven!!");
        let starts: Vec<_> =
            archive.windows(6).enumerate().filter(|(_, w)| *w == b"070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0));
        let last = &archive[*starts.last().unwrap()..];
        assert!(last.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    #[test]
    fn the_header_tells_the_content_size() {
        let archive = archive(b"seven!!");
        let name = archive.windows(11).position(|w| w == b"bin/busybox").unwrap();
        let header = &archive[name - 110..name];
        assert_eq!(&header[54..62], b"00000007");
    }
}
