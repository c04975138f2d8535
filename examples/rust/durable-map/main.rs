//! A replicated, durable key-value map. See README.md. The file `store.rs` shows the use of Galerna.

mod demo;
mod expected;
mod map;
mod member;
mod members;
mod options;
#[path = "../ports.rs"]
mod ports;
mod store;

use clap::Parser;
use options::{Cli, Role};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match &cli.role {
        Some(Role::Member(options)) => member::run(options).map(|()| ExitCode::SUCCESS),
        None => demo::run(&cli.demo),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
