//! The command line.

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use galerna::{FabricKind, MEMBERS_MAX, Mode};
use std::net::IpAddr;
use std::path::PathBuf;

/// Readings of eight buoys. See examples/data/generate.py.
const DEFAULT_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/readings.txt");

/// Replicates the lines of a file over member processes on this host, and checks that all have the same history.
///
/// Member i mod N sends line i, and every member stores every line. At the end the SHA-256 digests of all histories are
/// compared, and throughput and latency are shown. The exit code is 1 if the histories differ, or if a member dies that
/// --kill does not name.
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
    /// Runs one member process. The example itself starts it.
    #[command(hide = true)]
    Member(Member),
}

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) workload: Workload,
    /// Transport between the members.
    #[arg(long, value_enum, default_value_t = Fabric::Shm)]
    pub(crate) fabric: Fabric,
    /// Addresses of this machine, assigned to the members in turn, on tcp and verbs. On verbs each member uses the
    /// device with its address, if there is one.
    #[arg(long, value_name = "IP,...", value_delimiter = ',', default_value = "127.0.0.1")]
    pub(crate) hosts: Vec<IpAddr>,
    /// Number of member processes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=MEMBERS_MAX as i64))]
    pub(crate) members: u32,
    /// Kill a member with SIGKILL during the run: the last member, or the one with this id. The other members continue
    /// without it. Then a new process replaces it and receives all lines so far. Without `--rate` the lines are sent
    /// over some seconds. Needs at least 3 members.
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
    /// Number of lines that the parent found in the file.
    #[arg(long)]
    pub(crate) expect: usize,
    /// The member that the parent kills. Its failure is not an error.
    #[arg(long)]
    pub(crate) victim: Option<u32>,
    #[command(flatten)]
    pub(crate) workload: Workload,
}

/// The options that the parent and its members share.
#[derive(Args, Clone)]
pub(crate) struct Workload {
    /// The file with the lines to replicate. A line may contain any bytes, up to the size limit of a message.
    #[arg(default_value = DEFAULT_FILE, hide_default_value = true)]
    pub(crate) file: PathBuf,
    /// When a line is delivered.
    #[arg(long, value_enum, default_value_t = DeliveryMode::Safe)]
    pub(crate) mode: DeliveryMode,
    /// Cut each line to this number of bytes, or pad it with spaces [default: send the lines unchanged].
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<usize>,
    /// Send the file this many times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) repeat: usize,
    /// Lines per second of all members together [default: as fast as possible].
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fabric {
    /// Shared memory: the fastest transport on one host. Needs no ports.
    Shm,
    /// TCP on free ports. Also works between hosts.
    Tcp,
    /// RDMA. Also works between hosts. Needs an RDMA device, or SoftRoCE.
    Verbs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeliveryMode {
    /// In each sender's order. Lines of different senders may be ordered differently at each member.
    Fifo,
    /// In the total order, as soon as all lines before it have arrived.
    Ordered,
    /// In the total order, once every member has received the line.
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

/// The name of a value on the command line.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

impl Run {
    /// Returns the id of the member to kill, if any.
    pub(crate) fn victim(&self) -> Result<Option<u32>> {
        let Some(kill) = self.kill else { return Ok(None) };
        let id = kill.unwrap_or(self.members - 1);
        ensure!(
            self.members >= 3,
            "--kill needs 3 members or more: the rest of {} members is not a majority",
            self.members
        );
        ensure!(id < self.members, "--kill={id}: there is no such member; the members are 0 to {}", self.members - 1);
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
