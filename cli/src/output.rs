//! Where results go: tables for people on standard output, JSON for programs where `--json` says.

use crate::{Failure, Result};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The `--json` option.
#[derive(clap::Args, Debug)]
pub struct JsonOption {
    /// Also write the result as JSON to FILE; "-" for standard output, instead of the text for people.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl JsonOption {
    /// Refuses a file that could not be written, before work is done for it.
    pub fn check(&self) -> Result {
        self.json.as_deref().filter(|path| path.as_os_str() != "-").map_or(Ok(()), check_writable)
    }

    /// Whether the JSON goes into this file.
    pub fn goes_to(&self, path: &Path) -> bool {
        self.json.as_deref() == Some(path)
    }

    /// Writes the JSON where it belongs, and the text for people unless JSON took its place.
    pub fn write(&self, value: &impl Serialize, text: &str) -> Result {
        let to_stdout = self.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
        if !to_stdout {
            print(text)?;
        }
        let Some(path) = &self.json else { return Ok(()) };
        let mut json = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
        json.push('\n');
        if to_stdout { print(&json) } else { std::fs::write(path, json).map_err(Failure::in_file(path)) }
    }
}

/// Refuses a path that is or can only be a directory, whose directory is not there, or a file that cannot be written.
pub fn check_writable(path: &Path) -> Result {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Failure::in_file(path)("is a directory, a file belongs here"));
    }
    if !parent.is_dir() {
        return Err(Failure::in_file(path)(format!("there is no directory {}", parent.display())));
    }
    // A pipe is left alone: opening and closing it would end what its reader reads.
    if path.is_file() {
        std::fs::OpenOptions::new().write(true).open(path).map_err(Failure::in_file(path))?;
    }
    Ok(())
}

/// Writes to standard output. A reader that has gone away is not an error.
pub fn print(text: &str) -> Result {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A number of bytes as a person reads it.
pub fn bytes(count: u64) -> String {
    match count {
        0x4000_0000.. if count.is_multiple_of(0x4000_0000) => format!("{} GiB", count >> 30),
        0x10_0000.. if count.is_multiple_of(0x10_0000) => format!("{} MiB", count >> 20),
        0x400.. if count.is_multiple_of(0x400) => format!("{} KiB", count >> 10),
        _ => format!("{count} B"),
    }
}

/// A label and items separated by commas, in lines of at most 100 columns.
pub fn list(label: &str, items: &[String]) -> String {
    let indent = label.chars().count();
    let (mut text, mut column) = (label.to_owned(), indent);
    for (i, item) in items.iter().enumerate() {
        let separator = if i + 1 == items.len() { "" } else { "," };
        let width = item.chars().count() + separator.len();
        if column > indent && column + 1 + width > 100 {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            text.push(' ');
            column += 1;
        }
        text.push_str(item);
        text.push_str(separator);
        column += width;
    }
    text
}

/// Columns as wide as their widest cell; the columns named in `right` are aligned to the right.
pub fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let cells: Vec<String> =
            row.iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    if right.contains(&column) {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                })
                .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_divides_them() {
        let shown: Vec<String> = [0, 1023, 4096, 4097, 256 << 20, 1 << 30].into_iter().map(bytes).collect();
        assert_eq!(shown, ["0 B", "1023 B", "4 KiB", "4097 B", "256 MiB", "1 GiB"]);
    }

    #[test]
    fn a_list_is_broken_into_lines_under_its_label() {
        let items: Vec<String> = (0..30).map(|i| format!("item {i:02}")).collect();
        let text = list("what: ", &items);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= 100));
        assert!(lines[0].starts_with("what: item 00, ") && lines[1].starts_with("      item "));
        assert!(text.ends_with("item 29"));
        assert_eq!(list("none: ", &[]), "none: ");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["populate".into(), "12".into()], vec!["run".into(), "3456".into()]];
        assert_eq!(
            table(&["step", "calls"], &[1], &rows),
            "step      calls\npopulate     12\nrun        3456\n"
        );
    }
}
