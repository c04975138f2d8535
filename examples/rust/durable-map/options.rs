//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use galerna::FabricKind;
use std::path::PathBuf;

/// A replicated, durable key-value map.
///
/// Without a command it shows what it is for: starts three members on this host, loads them, kills all of them with SIGKILL
/// in the middle of it, starts them again, and checks that every acknowledged change is there and that the three maps are
/// equal. The exit code is 0 only if that holds in every round.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    #[command(flatten)]
    pub(crate) demo: Demo,
}

#[derive(Subcommand)]
pub(crate) enum Role {
    /// Runs one member, which takes commands on its standard input: `help` lists them.
    Member(Member),
}

#[derive(Args)]
pub(crate) struct Member {
    /// The group's configuration, with a `[log]` section.
    pub(crate) config: PathBuf,
    /// The id of this process in it; otherwise its key `member` says so.
    pub(crate) id: Option<u32>,
}

#[derive(Args)]
pub(crate) struct Demo {
    /// The transport between the members.
    #[arg(long, value_enum, default_value_t = Fabric::Shm)]
    pub(crate) fabric: Fabric,
    /// How often all members are killed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Changes that are acknowledged before the members are killed, of all members together.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) changes: u32,
    /// Keep the configuration and the logs in this directory, which must not be there [default: a temporary one].
    #[arg(long, value_name = "PATH")]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fabric {
    /// Shared memory: fastest on one host, and needs no ports.
    Shm,
    /// TCP on free ports: what members on several hosts use.
    Tcp,
}

impl From<Fabric> for FabricKind {
    fn from(fabric: Fabric) -> FabricKind {
        match fabric {
            Fabric::Shm => FabricKind::Shm,
            Fabric::Tcp => FabricKind::Tcp,
        }
    }
}
