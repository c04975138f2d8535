//! The command line.

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use galerna::{FabricKind, Mode, config::MEMBERS_MAX};
use std::net::IpAddr;
use std::path::PathBuf;

/// Readings of eight buoys; see examples/data/generate.py.
const DEFAULT_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/readings.txt");

/// Replicates the lines of a file over member processes on this host, and checks that all have the same history.
///
/// Line i is sent by member i mod N; every member keeps every line. At the end all histories are compared by their
/// SHA-256, and speed and latency are shown. The exit code is 1 if anything differs, or a member dies that --kill does not
/// name.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    #[command(flatten)]
    pub(crate) run: Run,
}

#[derive(Subcommand)]
pub(crate) enum Role {
    /// One member process: started by the example itself.
    #[command(hide = true)]
    Member(Member),
}

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) workload: Workload,
    /// The transport between the members.
    #[arg(long, value_enum, default_value_t = Fabric::Shm)]
    pub(crate) fabric: Fabric,
    /// Addresses of this machine that the members take in turn, on tcp and verbs. For verbs each member uses the device with
    /// its address, if there is one.
    #[arg(long, value_name = "IP,...", value_delimiter = ',', default_value = "127.0.0.1")]
    pub(crate) hosts: Vec<IpAddr>,
    /// Number of member processes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=MEMBERS_MAX as i64))]
    pub(crate) members: u32,
    /// Kill a member with SIGKILL in mid-stream, the last or the one with this id: the others go on without it, and then
    /// a fresh process takes its place, with all lines so far. Without `--rate` the lines are sent over some seconds. Needs 3 members or more.
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    pub(crate) kill: Option<Option<u32>>,
    /// Print the process id of each member.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Args)]
pub(crate) struct Member {
    #[arg(long)]
    pub(crate) config: PathBuf,
    #[arg(long)]
    pub(crate) id: u32,
    /// Lines that the parent found in the file.
    #[arg(long)]
    pub(crate) expect: usize,
    /// Whose failure is no reason to give up.
    #[arg(long)]
    pub(crate) victim: Option<u32>,
    #[command(flatten)]
    pub(crate) workload: Workload,
}

/// What the parent and its members must know alike.
#[derive(Args, Clone)]
pub(crate) struct Workload {
    /// The file whose lines are replicated: any bytes, at most a message's limit between line feeds.
    #[arg(default_value = DEFAULT_FILE, hide_default_value = true)]
    pub(crate) file: PathBuf,
    /// When a line is delivered.
    #[arg(long, value_enum, default_value_t = DeliveryMode::Safe)]
    pub(crate) mode: DeliveryMode,
    /// Cut each line to this many bytes, or pad it with spaces [default: the lines as they are].
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<usize>,
    /// Send the file this many times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) repeat: usize,
    /// Lines a second of all members together [default: as fast as they can].
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fabric {
    /// Shared memory: fastest on one host, and needs no ports.
    Shm,
    /// TCP on free ports: what members on several hosts use.
    Tcp,
    /// RDMA: what members on several hosts use that have a card for it, or SoftRoCE.
    Verbs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeliveryMode {
    /// In each sender's order; lines of different senders may be ordered differently at each member.
    Fifo,
    /// In the one order of all members, as soon as everything before is here.
    Ordered,
    /// In the one order of all members, once every member has received it.
    Safe,
}

impl From<Fabric> for FabricKind {
    fn from(fabric: Fabric) -> FabricKind {
        match fabric {
            Fabric::Shm => FabricKind::Shm,
            Fabric::Tcp => FabricKind::Tcp,
            Fabric::Verbs => FabricKind::Verbs,
        }
    }
}

impl From<DeliveryMode> for Mode {
    fn from(mode: DeliveryMode) -> Mode {
        match mode {
            DeliveryMode::Fifo => Mode::Fifo,
            DeliveryMode::Ordered => Mode::Ordered,
            DeliveryMode::Safe => Mode::Safe,
        }
    }
}

/// The name by which clap knows a value.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

impl Run {
    /// Who is to be killed.
    pub(crate) fn victim(&self) -> Result<Option<u32>> {
        let Some(kill) = self.kill else { return Ok(None) };
        let id = kill.unwrap_or(self.members - 1);
        ensure!(self.members >= 3, "--kill needs 3 members or more: of {} the rest is no majority", self.members);
        ensure!(id < self.members, "--kill={id}: the members are 0 to {}", self.members - 1);
        Ok(Some(id))
    }
}

impl Workload {
    /// The arguments that give another process the same workload.
    pub(crate) fn to_args(&self) -> Vec<std::ffi::OsString> {
        let mut args = vec![format!("--mode={}", name(self.mode)), format!("--repeat={}", self.repeat)];
        args.extend(self.size.map(|size| format!("--size={size}")));
        args.extend(self.rate.map(|rate| format!("--rate={rate}")));
        let mut args: Vec<std::ffi::OsString> = args.into_iter().map(Into::into).collect();
        args.extend(["--".into(), self.file.clone().into_os_string()]);
        args
    }
}
