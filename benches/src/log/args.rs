//! The flags of `galerna-bench log`.

use crate::Result;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// The default payload of a run in bytes: long enough for a figure, short enough for many pairs.
const RUN_BYTES: u64 = 256 << 20;
/// The default limits for runs with few bytes per sync: syncs of a run, and records per appending thread.
const SYNCS: u64 = 300;
const RECORDS_OF_AN_APPENDER: u64 = 200;
/// The number of turns into which the two sides of a pair divide their work.
const TURNS: u64 = 16;
/// The default payload of a batch in bytes.
const BATCH_BYTES: u64 = 1 << 20;

/// The way in which records become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Load {
    /// One thread appends this many records at a time, with two such batches in progress.
    Batches(u64),
    /// This many threads append a record each, wait until it is durable, and repeat.
    Appenders(u64),
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct LogArgs {
    /// Bytes of each record's payload.
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=32 << 20))]
    pub(crate) size: u64,
    /// Records of each batch. Default: enough for 1 MiB. One thread appends a batch while the one before it is written,
    /// and waits until that one is durable.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) batch: Option<u64>,
    /// N threads, each of which appends a record and waits until it is durable before the next.
    #[arg(long, value_name = "N", conflicts_with = "batch", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) appenders: Option<u64>,
    /// The number of pairs of runs, after one that does not count: at least 5, so that one disturbed run does not
    /// decide the result.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(5..=1000))]
    pub(crate) pairs: u64,
    /// Records of each run, over all threads. Default: 300 batches, or 200 records for each of --appenders, but at most
    /// 256 MiB of payload.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) records: Option<u64>,
    /// An existing directory. Both sides write to a new directory in it, which is removed at the end. Default: `target`
    /// in the working directory if it exists, otherwise the directory for temporary files.
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

    /// The records that are appended together, by batch or by threads, and the default number per run.
    fn group_and_usual(&self) -> (u64, u64) {
        match self.load() {
            Load::Batches(records) => (records, records * SYNCS),
            Load::Appenders(threads) => (threads, threads * RECORDS_OF_AN_APPENDER),
        }
    }

    /// The records of one run: the same number for each thread, and only whole batches.
    pub(crate) fn records(&self) -> u64 {
        let (group, usual) = self.group_and_usual();
        let most = (RUN_BYTES / self.size).max(1);
        self.records.unwrap_or(usual.min(most)).next_multiple_of(group)
    }

    /// The records of each turn of a run. Every turn has whole batches, or the same number of records for each thread.
    pub(crate) fn turns(&self) -> Vec<u64> {
        let (group, _) = self.group_and_usual();
        let groups = self.records() / group;
        let turns = groups.min(TURNS);
        (0..turns).map(|n| group * (groups * (n + 1) / turns - groups * n / turns)).collect()
    }

    /// Refuses flags that cannot be measured.
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
