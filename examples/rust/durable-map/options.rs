//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use galerna::FabricKind;
use std::path::PathBuf;

/// A replicated, durable key-value map.
///
/// Without a command it runs a demonstration: it starts three members on this host, loads them, kills all of them with
/// SIGKILL during the load, and starts them again. Then it checks that every acknowledged change is there and that the
/// three maps are equal. The exit code is 0 only if that holds in every round.
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
    /// Run one member, which reads commands from standard input. The command `help` lists them.
    Member(Member),
}

#[derive(Args)]
pub(crate) struct Member {
    /// Configuration file of the group, with a `[log]` section.
    pub(crate) config: PathBuf,
    /// Id of this process in the configuration [default: the key `member` of the configuration].
    pub(crate) id: Option<u32>,
}

#[derive(Args)]
pub(crate) struct Demo {
    /// Transport between the members.
    #[arg(long, value_enum, default_value_t = Fabric::Shm)]
    pub(crate) fabric: Fabric,
    /// Number of times that all members are killed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Number of changes, of all members together, that are acknowledged before the members are killed.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) changes: u32,
    /// Keep the configuration and the logs in this directory, which must not exist yet [default: a temporary
    /// directory].
    #[arg(long, value_name = "PATH")]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fabric {
    /// Shared memory: the fastest transport on one host. Needs no ports.
    Shm,
    /// TCP on free ports. Also works between hosts.
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
