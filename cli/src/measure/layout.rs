//! Following a layout file.

use super::{Output, Recorder};
use crate::{Failure, Result, input};
use realm_attest::layout::{Layout, Number, Step};
use realm_attest::rim::PopulateError;
use std::io::{BufReader, Read};
use std::path::Path;

/// Largest layout that is read.
const MAX_LAYOUT: u64 = 16 << 20;

/// Follows the steps of a layout file. Files it names are looked for beside it.
pub fn measure(path: &Path) -> Result<Output> {
    let text = input::read_at_most(path, MAX_LAYOUT + 1)?;
    if text.len() as u64 > MAX_LAYOUT {
        return Err(Failure::in_file(path)(format!("a layout has at most {MAX_LAYOUT} bytes")));
    }
    let layout: Layout = serde_json::from_slice(&text).map_err(Failure::in_file(path))?;
    let parameters = layout.parameters().map_err(Failure::in_file(path))?;
    let mut recorder = Recorder::new(&parameters).map_err(Failure::in_file(path))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    for (i, step) in layout.steps.iter().enumerate() {
        take(&mut recorder, step, directory).map_err(|error| {
            Failure::BadInput(format!("{}: step {} ({}): {error}", path.display(), i + 1, step.name()))
        })?;
    }
    Ok(recorder.finish())
}

fn take(recorder: &mut Recorder, step: &Step, directory: &Path) -> std::result::Result<(), String> {
    let result = match step {
        Step::InitRipas { base: Number(base), size: Number(size) } => recorder.init_ripas(*base, *size),
        Step::Rec { pc: Number(pc), gprs, runnable } => {
            let gprs: Vec<u64> = gprs.iter().map(|number| number.0).collect();
            recorder.rec(*pc, &gprs, *runnable)
        }
        Step::Populate { ipa: Number(ipa), file, measured } => {
            return populate(recorder, *ipa, file, *measured, directory);
        }
    };
    result.map_err(|error| error.to_string())
}

/// Streams a file into the prediction.
fn populate(
    recorder: &mut Recorder,
    ipa: u64,
    name: &str,
    measured: bool,
    directory: &Path,
) -> std::result::Result<(), String> {
    let path = directory.join(name);
    let (file, size) = input::open(&path).map_err(Failure::into_message)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    recorder.populate(ipa, size, measured, name, |out| reader.read_exact(out)).map_err(|error| match error {
        PopulateError::Step(error) => format!("{} ({size} bytes): {error}", path.display()),
        PopulateError::Read(error) => format!("{}: {error}", path.display()),
    })
}
