//! `realm`: Arm CCA confidential VMs from the command line.
#![forbid(unsafe_code)]

mod doctor;
mod failure;
mod input;
mod measure;
mod output;
mod parts;
mod realm_options;
mod run;
mod token;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// Run, measure and verify Arm CCA confidential VMs ("realms").
///
/// A realm is a virtual machine whose memory its host cannot read. What it contained when it started is summed up in a hash, the
/// realm initial measurement (RIM). With this program you run a realm, compute its RIM ahead of time, and verify
/// the token by which a running realm proves what it is.
///
/// Exit codes: 0 all holds; 1 a check or the run failed; 2 bad input.
#[derive(Parser)]
#[command(
    name = "realm",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Options),
    Measure(measure::Options),
    #[command(subcommand)]
    Token(token::Command),
    Doctor(doctor::Options),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let result = match &cli.command {
        Command::Run(options) => run::run(options),
        Command::Measure(options) => measure::measure(options),
        Command::Token(command) => token::token(command),
        Command::Doctor(options) => doctor::doctor(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What every command returns.
type Result<T = ()> = std::result::Result<T, Failure>;
