//! The flags of `galerna-bench durable`.

use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Payload of a run in each log, if it is not said otherwise.
const RUN_BYTES: u64 = 64 << 20;

/// What durability costs a group: its members' logs, and the same bytes and syncs without a group, in turn.
///
/// All members are threads of this process, over TCP on 127.0.0.1, with their logs on one disk, and all of them send durable
/// messages as fast as the ring takes them; a run ends when every member has been delivered all. Raw is as many threads side
/// by side, each with a file on the same file system whose space is taken before: each writes the bytes that the log of one
/// member wrote (headers included), with as many syncs (fdatasync) as that log needed, at equal distances. Figures: the ratio of the rates,
/// group/raw, pair by pair; and how long one durable message takes in a quiet group, from the send to its delivery at its
/// sender, as a ratio to one raw write of its bytes and a sync, 50 of each in turn.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct DurableArgs {
    /// Members of the group.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// Bytes of each message.
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) size: u64,
    /// Messages of each member in each run; as many as make 64 MiB in each log if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub(crate) messages: Option<u64>,
    /// How many pairs of runs, after one that does not count; at least 5, so that one disturbed run does not decide.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(5..=1000))]
    pub(crate) pairs: u64,
    /// Single messages of each pair, for their latency.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) probes: u64,
    /// Bytes of each sender's ring; the library's default if not given.
    #[arg(long, value_name = "BYTES")]
    pub(crate) ring_bytes: Option<usize>,
    /// A directory that is there, for both sides to write in: in one of their own, which is removed. If not given: `target`
    /// here, or else the directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl DurableArgs {
    /// Messages of each member in each run.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.unwrap_or((RUN_BYTES / self.size / self.members).max(1))
    }
}
