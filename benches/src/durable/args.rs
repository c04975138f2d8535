//! The flags of `galerna-bench durable`.

use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// The default payload of a run in each log, in bytes.
const RUN_BYTES: u64 = 64 << 20;

/// Measures the cost of durability for a group: its members' logs against the same bytes and syncs without a group, in
/// turn.
///
/// All members are threads of this process, over TCP on 127.0.0.1, with their logs on one disk. All of them send
/// durable messages as fast as the ring takes them. A run ends when every member has delivered all messages. Raw is the
/// same number of parallel threads, each with a preallocated file on the same file system. Each thread writes the bytes
/// that one member's log wrote (headers included), with as many syncs (fdatasync) as that log needed, at equal
/// distances. Figures: the ratio of the rates, group/raw, pair by pair; and the duration of one durable message in a
/// quiet group, from the send to its delivery at its sender, as a ratio to one raw write of its bytes with a sync, 50
/// of each in turn.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct DurableArgs {
    /// The number of members of the group.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// Bytes of each message.
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) size: u64,
    /// Messages of each member in each run. Default: enough for 64 MiB in each log.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub(crate) messages: Option<u64>,
    /// The number of pairs of runs, after one that does not count: at least 5, so that one disturbed run does not
    /// decide the result.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(5..=1000))]
    pub(crate) pairs: u64,
    /// Single messages of each pair, for the latency.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) probes: u64,
    /// Bytes of each sender's ring. Default: the library's default.
    #[arg(long, value_name = "BYTES")]
    pub(crate) ring_bytes: Option<usize>,
    /// An existing directory. Both sides write to a new directory in it, which is removed at the end. Default: `target`
    /// in the working directory if it exists, otherwise the directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl DurableArgs {
    /// The messages of each member in each run.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.unwrap_or((RUN_BYTES / self.size / self.members).max(1))
    }
}
