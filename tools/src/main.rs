//! `galerna-log`: looks at a persistent log, and never changes it, also while a process writes it; or makes a new group out of it.

mod args;
mod export;
mod list;
mod print;
mod record;
mod recover;
mod verify;
mod walk;

use args::{Cli, Command};
use clap::Parser;
use galerna::Error;
use std::io;
use std::process::ExitCode;

/// Why a command ended early.
enum Failure {
    /// Something that was durable is not as it was written.
    Damaged(String),
    /// The log, or the output, cannot be used.
    Unusable(String),
    /// Whoever read the output has seen enough.
    Enough,
}

type Result<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::LogDamaged { .. } => Failure::Damaged(error.to_string()),
            _ => Failure::Unusable(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Enough,
            _ => Failure::Unusable(format!("writing the output: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        io::Error::from(error).into()
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List(args) => list::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Print(args) => print::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Recover(args) => recover::run(&args),
    };
    let (what, status) = match done {
        Ok(()) | Err(Failure::Enough) => return ExitCode::SUCCESS,
        Err(Failure::Damaged(what)) => (what, 1),
        Err(Failure::Unusable(what)) => (what, 2),
    };
    eprintln!("error: {what}");
    ExitCode::from(status)
}
