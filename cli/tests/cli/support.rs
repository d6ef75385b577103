//! A directory to work in, and the `realm` command in it.

use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Bytes of [`Dir`]'s kernel.
pub const KERNEL_SIZE: usize = 0x3000;

/// A directory that holds a kernel, `Image`.
pub struct Dir(TempDir);

impl Dir {
    pub fn new() -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        dir.write("Image", &kernel(KERNEL_SIZE, 0x5000));
        dir
    }
    pub fn path(&self) -> &Path {
        self.0.path()
    }
    pub fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path().join(name), content).unwrap();
    }
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }
    /// The names of all files, sorted.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    /// Runs `realm` with words separated by spaces.
    pub fn realm(&self, line: &str) -> Output {
        self.realm_with(&line.split_whitespace().collect::<Vec<_>>())
    }
    /// Runs `realm`; a realm on the hosted machine, unless the arguments name one: another may be ready here.
    pub fn realm_with(&self, arguments: &[&str]) -> Output {
        let mut realm = Command::new(env!("CARGO_BIN_EXE_realm"));
        realm.args(arguments).current_dir(self.path());
        if arguments.first() == Some(&"run") && !arguments.contains(&"--machine") {
            realm.args(["--machine", "hosted"]);
        }
        realm.output().unwrap()
    }
    /// Runs `realm`, which has to succeed, and reads the JSON it prints.
    pub fn json(&self, line: &str) -> serde_json::Value {
        let output = self.realm(&format!("{line} --json -"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "realm {line}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// An arm64 Image of `len` bytes that takes `image_size` bytes of memory.
pub fn kernel(len: usize, image_size: u64) -> Vec<u8> {
    let mut file = vec![0xaa; len];
    file[..64].fill(0);
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24] = 0xa;
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}
