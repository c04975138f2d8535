//! Replicates the lines of a file over processes on this host. See README.md. The file `replica.rs` shows the use of
//! Galerna.

mod history;
mod judge;
mod lines;
mod member;
mod members;
mod options;
#[path = "../ports.rs"]
mod ports;
mod progress;
mod replica;
mod report;
mod run;
mod views;

use clap::Parser;
use options::{Cli, Role};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Role::Member(member)) = &cli.role {
        return member::main(member);
    }
    match run::run(&cli.run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
