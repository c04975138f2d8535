//! Measures Galerna: clusters of processes, the raw limits of the transports below them, and comparisons of the two.
//!
//! The process that the user starts only coordinates. It executes itself once per member ([`crew`]), or is one of
//! several such commands on as many machines ([`across`]). The member processes measure ([`member`], [`limit`],
//! [`pingpong`], [`idle`], [`failover`], [`join`]), and the coordinator combines and shows their reports. The
//! persistent [`log`] needs no members. The members of a group with a log ([`durable`], [`restart`]) are threads of one
//! process.

mod across;
mod args;
mod cluster;
mod compare;
mod control;
mod crew;
mod devices;
mod durable;
mod failover;
mod idle;
mod join;
mod limit;
mod log;
mod measure;
mod member;
mod pingpong;
mod place;
#[path = "../../engine/tests/common/ports.rs"]
mod ports;
mod report;
mod restart;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// The error type of the tool: a text for the user.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Cluster(args) => cluster::run(&args),
        Command::Limit(args) => limit::run(&args),
        Command::Pingpong(args) => pingpong::run(&args),
        Command::Idle(args) => idle::run(&args),
        Command::Failover(args) => failover::run(&args),
        Command::Join(args) => join::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Durable(args) => durable::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Member => return control::work(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
