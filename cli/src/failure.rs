//! How a command ends when it does not succeed: exit code and one line on standard error.

use clap::error::ErrorKind;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Exit code 1: a check failed, or the run. The message may be empty when the output has said it all.
    Failed(String),
    /// Exit code 2: bad input. Nothing was done.
    BadInput(String),
    /// An exit code of its own: the realm ended in a way that is told by it.
    Ended {
        /// The code.
        code: u8,
        /// What to say; may be empty.
        message: String,
    },
}

impl Failure {
    /// Bad input, told by an error.
    pub fn bad_input(error: impl Display) -> Self {
        Self::BadInput(error.to_string())
    }
    /// A failure of the machine or the run, told by an error.
    pub fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
    /// Bad input in a file. A path that is empty is shown as `''`.
    pub fn in_file<E: Display>(path: &Path) -> impl FnOnce(E) -> Self {
        let name = if path.as_os_str().is_empty() { "''".into() } else { path.to_string_lossy() };
        move |error| Self::BadInput(format!("{name}: {error}"))
    }

    /// The message alone.
    pub fn into_message(self) -> String {
        match self {
            Self::Failed(message) | Self::BadInput(message) | Self::Ended { message, .. } => message,
        }
    }

    /// Says what is wrong and gives the exit code.
    pub fn report(self) -> ExitCode {
        let code = match self {
            Self::Failed(_) => 1,
            Self::BadInput(_) => 2,
            Self::Ended { code, .. } => code,
        };
        let message = self.into_message();
        if !message.is_empty() {
            complain(format_args!("error: {}", one_line(&message)));
        }
        ExitCode::from(code)
    }
}

/// What clap has to say: help as it is, errors on one line.
pub fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            // The message ends before the usage and the hints that follow an empty line.
            let text = error.to_string();
            let message = text.split("\n\n").next().unwrap_or_default();
            complain(format_args!("{} (see --help)", one_line(message)));
            ExitCode::from(2)
        }
    }
}

/// Writes a line to standard error. Where nobody can read it, the exit code still tells.
fn complain(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    words.join(" ").chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_without_control_characters() {
        assert_eq!(one_line("a\n  b\u{1b}[0m"), "a b\u{fffd}[0m");
    }
}
