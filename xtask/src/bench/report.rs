//! Where results go.

use crate::shell::{Error, Result};
use std::path::Path;

/// Writes a report as JSON if that is wanted; whether the tables are, too.
pub fn write_json(report: &impl serde::Serialize, json: Option<&Path>) -> Result<bool> {
    let text = serde_json::to_string_pretty(report).map_err(|error| Error::Other(error.to_string()))?;
    if json == Some(Path::new("-")) {
        println!("{text}");
        return Ok(false);
    }
    if let Some(path) = json {
        std::fs::write(path, text + "\n").map_err(Error::file(path))?;
    }
    Ok(true)
}
