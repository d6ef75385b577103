//! The options that describe a realm, shared by `realm run` and `realm measure`.

use crate::{Failure, Result, input, output};
use realm_abi::GRANULE_SIZE;
use realm_abi::rmi::{HashAlgorithm, RPV_SIZE};
use realm_vmm::{Guest, GuestConfig};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Kernel, initrd and device tree lie in the first 256 MiB of a realm's memory.
const MAX_IMAGE: u64 = 256 << 20;

/// The realm.
#[derive(clap::Args, Debug)]
pub struct RealmOptions {
    /// An initial file system (cpio archive) for the kernel.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line [default: console=hvc0, bounce buffers from the size of RAM].
    #[arg(long, value_name = "STRING")]
    append: Option<String>,
    /// Number of virtual CPUs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Memory of the realm in bytes, or with K, M, G or T.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = input::size)]
    pub memory: u64,
    /// Hash of the realm's measurements.
    #[arg(long, value_enum, default_value_t = Hash::Sha256)]
    hash: Hash,
    /// Realm personalization value: a text of up to 64 bytes, or @FILE. It is part of the token, not of the RIM.
    #[arg(long, value_name = "STRING|@FILE")]
    rpv: Option<String>,
    /// Width of the realm's address space in bits; half of it is private [default: the smallest that holds the memory].
    #[arg(long, value_name = "N")]
    pub ipa_bits: Option<u8>,
}

/// A hash algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Hash {
    Sha256,
    Sha512,
}

/// A hash algorithm as options and JSON name it.
pub const fn hash_name(hash: HashAlgorithm) -> &'static str {
    match hash {
        HashAlgorithm::SHA_512 => "sha512",
        _ => "sha256",
    }
}

impl RealmOptions {
    /// The hash algorithm.
    pub const fn hash(&self) -> HashAlgorithm {
        match self.hash {
            Hash::Sha256 => HashAlgorithm::SHA_256,
            Hash::Sha512 => HashAlgorithm::SHA_512,
        }
    }

    /// The Realm Personalization Value.
    pub fn rpv(&self) -> Result<[u8; RPV_SIZE]> {
        self.rpv.as_deref().map_or(Ok([0; RPV_SIZE]), input::rpv)
    }

    /// The file of the initial file system.
    pub fn initrd(&self) -> Option<&Path> {
        self.initrd.as_deref()
    }

    /// The options that are not about files, as another `realm run` takes them.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("--cpus={}", self.cpus),
            format!("--memory={}", self.memory),
            format!("--hash={}", hash_name(self.hash())),
        ];
        words.extend(self.append.as_ref().map(|append| format!("--append={append}")));
        words.extend(self.ipa_bits.map(|bits| format!("--ipa-bits={bits}")));
        words
    }

    /// Whether a Realm Personalization Value was given.
    pub const fn rpv_given(&self) -> bool {
        self.rpv.is_some()
    }

    /// Reads the files and plans the realm's memory for a Host with 4 KiB pages.
    pub fn guest(&self, kernel: &Path) -> Result<Guest> {
        let kernel_file = image(kernel)?;
        let initrd_file = self.initrd.as_deref().map(image).transpose()?;
        let config = GuestConfig {
            kernel: &kernel_file,
            initrd: initrd_file.as_deref(),
            bootargs: self.append.as_deref(),
            ram_size: self.memory,
            cpus: self.cpus,
            ipa_bits: self.ipa_bits,
            page_size: GRANULE_SIZE,
        };
        Guest::new(&config).map_err(|error| match error {
            realm_vmm::GuestError::Image(error) => Failure::in_file(kernel)(error),
            other => Failure::bad_input(other),
        })
    }
}

/// Reads a file that will be in the realm's memory, if it can be.
fn image(path: &Path) -> Result<Vec<u8>> {
    let (mut file, size) = input::open(path)?;
    if size > MAX_IMAGE {
        let room = output::bytes(MAX_IMAGE);
        return Err(Failure::in_file(path)(format!("{size} bytes do not fit in the first {room} of memory")));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.by_ref().take(MAX_IMAGE).read_to_end(&mut bytes).map_err(Failure::in_file(path))?;
    Ok(bytes)
}
