//! The flags of `galerna-bench restart`.

use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Measures how long a group with long logs takes to come back after the end of all its members.
///
/// All members are threads of this process, over TCP on 127.0.0.1, with their logs on one disk. They fill their logs
/// with durable messages, write a checkpoint near the end, and are dropped: no member leaves, and none is removed. Then
/// all members start again, --restarts times, and each sends a durable message as soon as it has joined. Figures: the
/// time from the first call of join to the first delivery of such a message at the last member; the bytes read from
/// files during that time, per member; and the ratio of the time to that of reading the last segment of each log by
/// plain read(), in parallel, right after. The files are in the page cache in both cases.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct RestartArgs {
    /// Bytes of payload in each log.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) bytes: u64,
    /// Bytes of the message that each member sends once it has rejoined.
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(8..=64 << 10))]
    pub(crate) size: u64,
    /// Bytes of each message that fills the logs.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    pub(crate) fill_size: u64,
    /// The number of members of the group.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// The number of restarts of the group.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) restarts: u64,
    /// An existing directory. The logs are in a new directory in it, which is removed at the end. Default: `target` in
    /// the working directory if it exists, otherwise the directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}
