//! The flags of `galerna-bench log`.

use crate::Result;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Bytes of payload in a run, if it is not said otherwise: long enough for a figure, short enough for many pairs.
const RUN_BYTES: u64 = 256 << 20;
/// The same where every few bytes have a sync of their own.
const SYNCS: u64 = 300;
const RECORDS_OF_AN_APPENDER: u64 = 200;
/// In so many turns the two sides of a pair do their part.
const TURNS: u64 = 16;
/// Payload of a batch, if it is not said otherwise.
const BATCH_BYTES: u64 = 1 << 20;

/// How records come to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Load {
    /// One thread appends so many records at a time, and has two such batches on their way.
    Batches(u64),
    /// So many threads each append a record, wait until it is durable, and so on.
    Appenders(u64),
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct LogArgs {
    /// Bytes of each record's payload.
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=32 << 20))]
    pub(crate) size: u64,
    /// Records of each batch; as many as make 1 MiB if not given. One thread appends a batch while the one before it is written,
    /// and waits until that is durable.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) batch: Option<u64>,
    /// N threads, each of which appends a record and waits until it is durable before the next.
    #[arg(long, value_name = "N", conflicts_with = "batch", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) appenders: Option<u64>,
    /// How many pairs of runs, after one that does not count; at least 5, so that one disturbed run does not decide.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(5..=1000))]
    pub(crate) pairs: u64,
    /// Records of each run, of all threads together. If not given: 300 batches, or 200 records of each of --appenders,
    /// but at most 256 MiB of payload.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) records: Option<u64>,
    /// A directory that is there, for both sides to write in: in one of their own, which is removed. If not given: `target` here, or else the directory
    /// for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl LogArgs {
    pub(crate) fn load(&self) -> Load {
        let batch = self.batch.unwrap_or((BATCH_BYTES / self.size).max(1));
        self.appenders.map_or(Load::Batches(batch), Load::Appenders)
    }

    /// Records that are appended together, by batch or by threads, and how many if it is not said otherwise.
    fn group_and_usual(&self) -> (u64, u64) {
        match self.load() {
            Load::Batches(records) => (records, records * SYNCS),
            Load::Appenders(threads) => (threads, threads * RECORDS_OF_AN_APPENDER),
        }
    }

    /// Records of one run: as many for each thread, and whole batches.
    pub(crate) fn records(&self) -> u64 {
        let (group, usual) = self.group_and_usual();
        let most = (RUN_BYTES / self.size).max(1);
        self.records.unwrap_or(usual.min(most)).next_multiple_of(group)
    }

    /// The records of a run, in turns of whole groups.
    pub(crate) fn turns(&self) -> Vec<u64> {
        let (group, _) = self.group_and_usual();
        let groups = self.records() / group;
        let turns = groups.min(TURNS);
        (0..turns).map(|n| group * (groups * (n + 1) / turns - groups * n / turns)).collect()
    }

    /// Refuses what cannot be measured.
    pub(crate) fn check(&self) -> Result<()> {
        const BATCH_MAX: u64 = 1 << 30;
        match self.batch.map(|records| records * self.size) {
            Some(bytes) if bytes > BATCH_MAX => {
                Err(format!("--batch and --size make a batch of {bytes} bytes: at most {BATCH_MAX}").into())
            }
            _ => Ok(()),
        }
    }
}
