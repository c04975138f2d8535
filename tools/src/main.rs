//! `galerna-log`: inspects a persistent log without changing it, even while a process writes it.
//!
//! It can also make a new group out of the log.

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

/// The reason why a command ended early.
enum Failure {
    /// Durable data differs from its written content.
    Damaged(String),
    /// The log or the output cannot be used.
    Unusable(String),
    /// The reader of the output has closed it.
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
            _ => Failure::Unusable(format!("cannot write the output: {error}")),
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
