//! Counting, and what becomes of it.

use crate::kind::{Kind, Mark};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;

/// A world and where its code lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub code: Range<u64>,
}

/// Where what was counted goes.
#[derive(Debug)]
pub struct Options {
    out: String,
    worlds: Vec<World>,
    profile: Option<(u64, String)>,
}

impl Options {
    /// Reads the plugin's arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut options = Self { out: String::new(), worlds: Vec::new(), profile: None };
        for arg in args {
            let wrong = || format!("`{arg}` is no argument of this plugin");
            let (name, value) = arg.split_once('=').ok_or_else(wrong)?;
            match name {
                "out" => options.out = value.into(),
                "world" => options.worlds.push(world(value).ok_or_else(wrong)?),
                "profile" => {
                    let (sample, file) = value.split_once(':').ok_or_else(wrong)?;
                    options.profile = Some((sample.parse().map_err(|_| wrong())?, file.into()));
                }
                _ => return Err(wrong()),
            }
        }
        if options.out.is_empty() {
            return Err("no out=FILE".into());
        }
        Ok(options)
    }
}

fn world(value: &str) -> Option<World> {
    let mut parts = value.split(':');
    let name = parts.next()?.into();
    let mut address = || u64::from_str_radix(parts.next()?, 16).ok();
    let code = address()?..address()?;
    parts.next().is_none().then_some(World { name, code })
}

/// An instruction at its place.
#[derive(Debug)]
pub struct Site {
    address: u64,
    world: usize,
    kind: Kind,
    mark: Option<Mark>,
    executed: Cell<u64>,
}

/// All that is counted.
#[derive(Debug)]
pub struct Samples {
    options: Options,
    out: BufWriter<File>,
    /// By address and instruction: code can change.
    sites: HashMap<(u64, u32), &'static Site>,
    counts: Vec<[u64; Kind::COUNT]>,
    counting: bool,
    /// The number of the sample that is being counted, or the next.
    sample: u64,
}

impl Samples {
    /// Begins the first sample.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(options: Options) -> std::io::Result<Self> {
        let out = BufWriter::new(File::create(&options.out)?);
        let counts = vec![[0; Kind::COUNT]; options.worlds.len() + 1];
        Ok(Self { options, out, sites: HashMap::new(), counts, counting: true, sample: 0 })
    }

    /// The instruction `word` at `address`; there is one site for each as long as the program runs.
    pub fn site(&mut self, address: u64, word: u32) -> &'static Site {
        let worlds = &self.options.worlds;
        self.sites.entry((address, word)).or_insert_with(|| {
            let world = worlds.iter().position(|world| world.code.contains(&address));
            Box::leak(Box::new(Site {
                address,
                world: world.unwrap_or(worlds.len()),
                kind: Kind::of(word),
                mark: Mark::of(word),
                executed: Cell::new(0),
            }))
        })
    }

    /// An instruction is executed.
    ///
    /// # Errors
    /// If a sample that ends cannot be written.
    pub fn executed(&mut self, site: &Site) -> std::io::Result<()> {
        match site.mark {
            Some(Mark::Begin) => {
                self.counts.fill([0; Kind::COUNT]);
                for site in self.sites.values() {
                    site.executed.set(0);
                }
                self.counting = true;
            }
            Some(Mark::End) if self.counting => {
                self.counting = false;
                self.write_sample()?;
                self.sample += 1;
            }
            Some(Mark::End) => {}
            None if self.counting => {
                self.counts[site.world][site.kind as usize] += 1;
                site.executed.set(site.executed.get() + 1);
            }
            None => {}
        }
        Ok(())
    }

    fn write_sample(&mut self) -> std::io::Result<()> {
        let names = self.options.worlds.iter().map(|world| world.name.as_str()).chain(["elsewhere"]);
        let worlds: Vec<_> = names
            .zip(&self.counts)
            .map(|(name, counts)| {
                let kinds: Vec<_> =
                    Kind::NAMES.iter().zip(counts).map(|(kind, n)| format!("\"{kind}\": {n}")).collect();
                format!("\"{name}\": {{{}}}", kinds.join(", "))
            })
            .collect();
        writeln!(self.out, "{{{}}}", worlds.join(", "))?;
        match &self.options.profile {
            Some((sample, file)) if *sample == self.sample => self.write_profile(file),
            _ => Ok(()),
        }
    }

    fn write_profile(&self, file: &str) -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(file)?);
        for site in self.sites.values().filter(|site| site.executed.get() != 0) {
            writeln!(out, "{:x} {}", site.address, site.executed.get())?;
        }
        out.flush()
    }

    /// Writes what is left when the machine ends.
    ///
    /// # Errors
    /// If it cannot.
    pub fn finish(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u32 = 0xd503_2f1f;
    const END: u32 = 0xd503_2f3f;
    const NOP: u32 = 0xd503_201f;
    const ISB: u32 = 0xd503_3fdf;

    #[test]
    fn arguments_are_read_or_refused() {
        let options = Options::parse(["out=f", "world=el3:0:100000", "profile=7:p"]).expect("good");
        assert_eq!(options.worlds, [World { name: "el3".into(), code: 0..0x10_0000 }]);
        assert_eq!((options.out.as_str(), options.profile), ("f", Some((7, "p".into()))));
        for bad in
            [&["world=a:0:1"][..], &["out=f", "world=a:0"], &["out=f", "x=1"], &["out"], &["profile=a:f"]]
        {
            assert!(Options::parse(bad.iter().copied()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_executed_between_the_marks_is_counted_by_world_and_kind() {
        let dir = std::env::temp_dir();
        let [out, profile] = ["out", "profile"].map(|name| {
            dir.join(format!("counter-test-{name}-{}", std::process::id())).display().to_string()
        });
        let args = [format!("out={out}"), "world=low:0:1000".into(), format!("profile=1:{profile}")];
        let options = Options::parse(args.iter().map(String::as_str)).expect("good");
        let mut samples = Samples::new(options).expect("a file");
        // Boot; not counted; a sample; an end without a beginning.
        let trace = [
            (0, NOP),
            (4, END),
            (0, NOP),
            (8, BEGIN),
            (0, NOP),
            (0, NOP),
            (12, ISB),
            (0x1000, ISB),
            (4, END),
            (4, END),
        ];
        for (address, word) in trace {
            let site = samples.site(address, word);
            samples.executed(site).expect("room");
        }
        samples.finish().expect("room");
        let read = |file: &str| {
            let text = std::fs::read_to_string(file).expect("written");
            std::fs::remove_file(file).expect("there");
            text
        };
        let lines = read(&out);
        let lines: Vec<_> = lines.lines().collect();
        let [boot, sample] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(boot.starts_with("{\"low\": {\"plain\": 1, \"dsb\": 0"), "{boot}");
        assert!(
            sample.starts_with("{\"low\": {\"plain\": 2, \"dsb\": 0, \"dmb\": 0, \"isb\": 1"),
            "{sample}"
        );
        assert!(
            sample.contains("\"elsewhere\": {\"plain\": 0, \"dsb\": 0, \"dmb\": 0, \"isb\": 1"),
            "{sample}"
        );
        let profile = read(&profile);
        let mut lines: Vec<_> = profile.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["0 2", "1000 1", "c 1"]);
    }
}
