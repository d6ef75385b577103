//! `realm token`: show and verify attestation tokens.

use crate::output::JsonOption;
use crate::{Failure, Result, input};
use clap::{Args, Subcommand};
use realm_attest::token::{Expectations, MAX_TOKEN_SIZE, PublicKey, Report, Token, verify};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Show or verify an attestation token.
///
/// A CCA attestation token is a signed statement of a realm's platform and of the realm itself: what firmware the machine has, what
/// the realm contained when it started (RIM), what it has added since (REMs), and the challenge it was asked with.
/// `realm run --token FILE` saves one.
#[derive(Subcommand)]
pub enum Command {
    Show(ShowOptions),
    Verify(VerifyOptions),
}

/// Show what a token says, without verifying it.
#[derive(Args)]
pub struct ShowOptions {
    /// The token, as CBOR; "-" for standard input.
    #[arg(value_name = "TOKEN")]
    token: PathBuf,
    #[command(flatten)]
    json: JsonOption,
}

/// Verify a token: both signatures, that its two parts belong together, and what you expect it to say.
///
/// Prints every check with what was expected and found. The exit code is 0 only when all of them hold.
#[derive(Args)]
pub struct VerifyOptions {
    /// The token, as CBOR; "-" for standard input.
    #[arg(value_name = "TOKEN")]
    token: PathBuf,
    /// The public key of the machine (IAK, ECDSA P-384) from a source you trust: PEM, DER, an uncompressed point in
    /// binary or hexadecimal, or a COSE_Key.
    #[arg(long, value_name = "FILE")]
    platform_key: PathBuf,
    /// The initial measurement the realm must have, in hexadecimal: what `realm measure` printed.
    #[arg(long, value_name = "HEX", value_parser = input::measurement)]
    rim: Option<std::vec::Vec<u8>>,
    /// The personalization value the realm must have, in hexadecimal; padded with zeros to 64 bytes.
    #[arg(long, value_name = "HEX", value_parser = input::padded_hex)]
    rpv: Option<[u8; input::PADDED_SIZE]>,
    /// The challenge the token must answer, in hexadecimal; padded with zeros to 64 bytes.
    #[arg(long, value_name = "HEX", value_parser = input::padded_hex)]
    challenge: Option<[u8; input::PADDED_SIZE]>,
    /// Accept platforms that are not in the secured lifecycle, which can be debugged.
    #[arg(long)]
    any_lifecycle: bool,
    #[command(flatten)]
    json: JsonOption,
}

/// Runs the command.
pub fn token(command: &Command) -> Result {
    match command {
        Command::Show(options) => show(options),
        Command::Verify(options) => check(options),
    }
}

fn show(options: &ShowOptions) -> Result {
    options.json.check()?;
    let token = read(&options.token)?;
    options.json.write(&token, &token.to_string())
}

fn check(options: &VerifyOptions) -> Result {
    options.json.check()?;
    let token = read(&options.token)?;
    let key = input::read_at_most(&options.platform_key, 1 << 16)?;
    let key = PublicKey::parse(&key).map_err(Failure::in_file(&options.platform_key))?;
    let report = verify(
        &token,
        &Expectations {
            platform_key: &key,
            secured: !options.any_lifecycle,
            rim: options.rim.as_deref(),
            rpv: options.rpv.as_ref().map(<[u8; 64]>::as_slice),
            challenge: options.challenge.as_ref().map(<[u8; 64]>::as_slice),
        },
    );
    options.json.write(&report, &explain(&report))?;
    match report.checks.iter().filter(|check| !check.ok).count() {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!("{failed} of {} checks do not hold", report.checks.len()))),
    }
}

fn read(path: &Path) -> Result<Token> {
    let bytes = input::read_at_most(path, MAX_TOKEN_SIZE as u64 + 1)?;
    Token::decode(&bytes).map_err(Failure::in_file(path))
}

/// The report for a person: a line for what holds, expected and found for what does not.
fn explain(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let _ = if check.ok {
            writeln!(text, "ok    {}: {}", check.name, check.found)
        } else {
            writeln!(
                text,
                "FAIL  {}\n        expected: {}\n        found:    {}",
                check.name, check.expected, check.found
            )
        };
    }
    text
}
