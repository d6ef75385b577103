//! The images for the machine: EL3 monitor, RMM and Non-secure programs, and the flash they are put into.

use crate::setup::{self, TARGET};
use crate::shell::{self, Error, Result};
use crate::steps::step;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};
use realm_monitor::layout;
use realm_monitor::package::{Header, MAGIC};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use zerocopy::IntoBytes;

/// The word for the built-in stand-ins instead of a file.
pub const STUB: &str = "stub";
/// The word for the Host with a realm made by hand.
pub const STUB_HOST: &str = "stub-host";

/// A program of this repository that becomes an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The EL3 monitor.
    Monitor,
    /// The RMM.
    Rmm,
    /// The programs that run in realms.
    RealmGuest,
    /// The Non-secure host, with the programs for its realms behind it.
    NsHost,
    /// The Non-secure program that measures every command.
    NsBench,
}

impl Image {
    /// Those `cargo xtask images` builds.
    pub const ALL: [Self; 4] = [Self::Monitor, Self::Rmm, Self::RealmGuest, Self::NsHost];

    const fn name(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Rmm => "rmm",
            Self::RealmGuest => "realm-guest",
            Self::NsHost => "ns-host",
            Self::NsBench => "ns-bench",
        }
    }

    const fn manifest(self) -> &'static str {
        match self {
            Self::Monitor => "monitor/image/Cargo.toml",
            Self::Rmm => "rmm/image/Cargo.toml",
            Self::RealmGuest => "payloads/realm-guest/Cargo.toml",
            Self::NsHost => "payloads/ns-host/Cargo.toml",
            Self::NsBench => "payloads/ns-bench/Cargo.toml",
        }
    }

    /// Builds it and returns the raw image, `target/images/NAME.bin`.
    pub fn build(self) -> Result<PathBuf> {
        once(self.name(), || self.build_now())
    }

    fn build_now(self) -> Result<PathBuf> {
        setup::firmware_target()?;
        let name = self.name();
        step(&format!("build {name}"), || {
            shell::run(shell::cargo().args(["build", "--quiet", "--locked", "--profile", "firmware"]).args([
                "--target",
                TARGET,
                "--bin",
                name,
                "--manifest-path",
                self.manifest(),
            ]))
        })?;
        let file = store(name, &self.program())?;
        if self == Self::NsHost {
            append_guest(&file, &Self::RealmGuest.build()?)?;
        }
        Ok(file)
    }

    /// The linked program the image was made of.
    pub fn program(self) -> PathBuf {
        shell::target().join(TARGET).join("firmware").join(self.name())
    }
}

/// Puts the realm programs behind the Non-secure host, which looks for them there (payloads/ns-host/src/guest.rs).
fn append_guest(host: &Path, guest: &Path) -> Result {
    let guest = std::fs::read(guest).map_err(Error::file(guest))?;
    let mut image = std::fs::read(host).map_err(Error::file(host))?;
    image.extend(b"RKGUEST\0");
    image.extend((guest.len() as u64).to_le_bytes());
    image.extend(guest);
    std::fs::write(host, image).map_err(Error::file(host))
}

/// A stand-in from `monitor/image/stubs`, entered at its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stub {
    /// For the RMM.
    Rmm,
    /// For the payload.
    Payload,
    /// For the payload: a Host with one realm made by hand.
    Host,
    /// For the payload: CPUs that wait for a reset.
    Waiting,
    /// For the monitor.
    El3,
}

impl Stub {
    /// Builds it and returns the raw image, `target/images/stub-NAME.bin`.
    pub fn build(self) -> Result<PathBuf> {
        let (name, base) = match self {
            Self::Rmm => ("stub-rmm", layout::RMM_IMAGE.base),
            Self::Payload => ("stub-payload", layout::PAYLOAD_BASE),
            Self::Host => ("stub-host", layout::PAYLOAD_BASE),
            Self::Waiting => ("stub-waiting", layout::PAYLOAD_BASE),
            Self::El3 => ("stub-el3", layout::FLASH.base),
        };
        once(name, || Self::build_now(name, base))
    }

    fn build_now(name: &str, base: u64) -> Result<PathBuf> {
        setup::firmware_target()?;
        let program = images()?.join(format!("{name}.elf"));
        shell::run(
            shell::command("rustc")
                .args(["--edition", "2024", "--target", TARGET, "-Copt-level=2", "-Cpanic=abort"])
                .args(["-Clink-arg=-Tmonitor/image/stubs/stub.ld", "-Clink-arg=-e_start"])
                .arg(format!("-Clink-arg=--defsym=base={base:#x}"))
                .arg(format!("monitor/image/stubs/{}.rs", name.replace('-', "_")))
                .arg("-o")
                .arg(&program),
        )?;
        store(name, &program)
    }
}

/// Makes an image unless this process has done so: several boots use the same.
fn once(name: &'static str, build: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<&'static str, PathBuf>> = Mutex::new(BTreeMap::new());
    let built = || BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = built().get(name) {
        return Ok(file.clone());
    }
    let file = build()?;
    built().insert(name, file.clone());
    Ok(file)
}

/// Where images are kept.
fn images() -> Result<PathBuf> {
    let dir = shell::target().join("images");
    std::fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    Ok(dir)
}

/// Turns a linked program into `target/images/NAME.bin`.
fn store(name: &str, program: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(program).map_err(Error::file(program))?;
    let raw =
        raw(&bytes).map_err(|error| Error::Other(format!("{}: no program: {error}", program.display())))?;
    let file = images()?.join(format!("{name}.bin"));
    std::fs::write(&file, raw).map_err(Error::file(&file))?;
    Ok(file)
}

/// What is loaded of an ELF program, from its lowest load address on.
fn raw(program: &[u8]) -> object::read::Result<Vec<u8>> {
    let header = elf::FileHeader64::<Endianness>::parse(program)?;
    let endian = header.endian()?;
    let mut parts = Vec::new();
    for segment in header.program_headers(endian, program)? {
        if segment.p_type(endian) == elf::PT_LOAD && segment.p_filesz(endian) != 0 {
            let data = segment.data(endian, program).unwrap_or_default();
            parts.push((segment.p_paddr(endian), data));
        }
    }
    let base = parts.iter().map(|(address, _)| *address).min().unwrap_or(0);
    let mut raw = Vec::new();
    for (address, data) in parts {
        let start = usize::try_from(address - base).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        if raw.len() < end {
            raw.resize(end, 0);
        }
        raw[start..end].copy_from_slice(data);
    }
    Ok(raw)
}

/// Exception returns of an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Returns {
    /// How many.
    pub returns: usize,
    /// Where in the image those are behind which no barrier is.
    pub unguarded: Vec<usize>,
}

/// Finds instructions ERET of a raw image that no DSB and ISB, and no SB, follow.
pub fn unguarded_returns(image: &[u8]) -> Returns {
    const ERET: u32 = 0xd69f_03e0;
    const SB: u32 = 0xd503_30ff;
    const DSB_NSH: u32 = 0xd503_379f;
    const ISB: u32 = 0xd503_3fdf;
    let words: Vec<u32> = image.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let returns = words.iter().enumerate().filter(|(_, word)| **word == ERET).map(|(at, _)| at);
    let guarded = |at: usize| matches!(words.get(at + 1..), Some([SB, ..] | [DSB_NSH, ISB, ..]));
    Returns {
        returns: returns.clone().count(),
        unguarded: returns.filter(|at| !guarded(*at)).map(|at| 4 * at).collect(),
    }
}

/// Versions the RMM is offered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Minor version of the RMM-EL3 interface.
    pub interface: u32,
    /// Minor version of the boot manifest.
    pub manifest: u32,
}

/// The flash: the monitor, and behind it the package of RMM and payload. A monitor larger than its place is a whole flash
/// of someone else's and stays as it is.
pub fn flash(monitor: &[u8], rmm: &[u8], payload: &[u8], offer: Offer) -> Result<Vec<u8>> {
    let place = usize::try_from(layout::PACKAGE).unwrap_or(usize::MAX);
    if monitor.len() > place {
        return Ok(monitor.to_vec());
    }
    let page = 4096_usize;
    let rmm_offset = page;
    let payload_offset = (rmm_offset + rmm.len()).next_multiple_of(page);
    let header = Header {
        magic: MAGIC,
        rmm_offset: rmm_offset as u64,
        rmm_size: rmm.len() as u64,
        payload_offset: payload_offset as u64,
        payload_size: payload.len() as u64,
        interface: offer.interface,
        manifest: offer.manifest,
    };
    let mut flash = monitor.to_vec();
    flash.resize(place, 0);
    flash.extend(header.as_bytes());
    for (offset, image) in [(rmm_offset, rmm), (payload_offset, payload)] {
        flash.resize(place + offset, 0);
        flash.extend(image);
    }
    let size = usize::try_from(layout::FLASH.size).unwrap_or(usize::MAX);
    if flash.len() > size {
        return Err(Error::Other(format!(
            "monitor, RMM and payload take {} bytes, the flash has {size}",
            flash.len()
        )));
    }
    Ok(flash)
}

/// Builds all images there are.
pub fn images_command() -> Result {
    for image in Image::ALL {
        let file = image.build()?;
        let size = std::fs::metadata(&file).map_err(Error::file(&file))?.len();
        println!("{size:>9} bytes  {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use realm_monitor::package::Package;

    const OFFER: Offer = Offer { interface: 8, manifest: 5 };

    #[test]
    fn the_monitor_finds_what_was_packed() {
        let flash = flash(&[1; 10], &[2; 5000], &[3; 7], OFFER).expect("room");
        let package = Package::parse(&flash[1 << 20..], 5000, 7).expect("a package");
        assert_eq!((package.rmm, package.payload), (&[2; 5000][..], &[3; 7][..]));
        assert_eq!(flash[..10], [1; 10]);
    }

    #[test]
    fn a_return_without_a_barrier_is_found() {
        let image = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
        let eret = 0xd69f_03e0;
        let found = unguarded_returns(&image(&[eret, 0xd503_379f, 0xd503_3fdf, eret, 0xd503_30ff]));
        assert_eq!(found, Returns { returns: 2, unguarded: Vec::new() });
        let found = unguarded_returns(&image(&[0, eret, 0xd503_379f, 0, eret]));
        assert_eq!(found, Returns { returns: 2, unguarded: vec![4, 16] });
    }

    #[test]
    fn a_whole_flash_stays_as_it_is_and_one_too_large_is_refused() {
        let whole = vec![7; (1 << 20) + 1];
        assert_eq!(flash(&whole, &[], &[], OFFER).expect("whole"), whole);
        assert!(flash(&[], &[], &vec![0; 64 << 20], OFFER).is_err());
    }
}
