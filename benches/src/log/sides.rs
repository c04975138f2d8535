//! The two sides of a pair: the log, and the same bytes and syncs without a log.

use super::args::{Load, LogArgs};
use crate::Result;
use crate::measure::{Cpu, Latencies, now_ns};
use galerna::log::{Log, LogOptions};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// The time limit of every operation, longer than any operation takes on a working disk.
const PATIENCE: Duration = Duration::from_secs(300);
/// The most bytes per system call, as in the log, so that the bytes stay in the processor's cache.
const WRITE_BYTES: u64 = 1 << 20;

/// The result of one run.
pub(super) struct Run {
    pub(super) records: u64,
    /// The payload bytes.
    pub(super) bytes: u64,
    pub(super) syncs: u64,
    pub(super) seconds: f64,
    pub(super) cpu_us: u64,
    /// The latency of each durable append, or of each raw write with its sync.
    pub(super) latencies: Latencies,
}

impl Run {
    pub(super) fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// An empty result.
    pub(super) fn new() -> Result<Run> {
        Ok(Run { records: 0, bytes: 0, syncs: 0, seconds: 0.0, cpu_us: 0, latencies: Latencies::new()? })
    }

    /// Adds `records` records, which `work` makes durable. `work` returns the number of syncs, which is also returned
    /// here.
    fn add(&mut self, args: &LogArgs, records: u64, work: impl FnOnce(&mut Latencies) -> Result<u64>) -> Result<u64> {
        let (cpu, start) = (Cpu::now(), now_ns());
        let syncs = work(&mut self.latencies)?;
        self.seconds += (now_ns() - start) as f64 / 1e9;
        self.cpu_us += Cpu::now().since(cpu).total_us();
        self.records += records;
        self.bytes += records * args.size;
        self.syncs += syncs;
        Ok(syncs)
    }
}

pub(crate) fn filler(len: u64) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 7) as u8).collect()
}

/// Creates a new log, with segments large enough for any record size.
pub(super) fn new_log(directory: &Path) -> Result<Log> {
    Ok(Log::open(directory.join("log"), LogOptions::default())?)
}

/// Appends `records` records to a log, and waits until they are durable. Returns the number of syncs.
pub(super) fn logged(args: &LogArgs, log: &Log, records: u64, run: &mut Run) -> Result<u64> {
    let (payload, before) = (filler(args.size), log.stats().batches);
    run.add(args, records, |latencies| {
        match args.load() {
            Load::Batches(batch) => batches(log, &payload, batch, records / batch)?,
            Load::Appenders(threads) => appenders(log, &payload, threads, records / threads, latencies)?,
        }
        Ok(log.stats().batches - before)
    })
}

/// Appends a batch while the one before it is written.
fn batches(log: &Log, payload: &[u8], records: u64, batches: u64) -> Result<()> {
    let batch = vec![payload; records as usize];
    let mut before = None;
    for _ in 0..batches {
        let last = log.append_batch(&batch, PATIENCE)?;
        if let Some(before) = std::mem::replace(&mut before, last) {
            log.wait_durable(before, PATIENCE)?;
        }
    }
    Ok(log.sync(PATIENCE)?)
}

fn durable_append(log: &Log, payload: &[u8]) -> Result<u64> {
    let start = now_ns();
    let version = log.append(payload, PATIENCE)?;
    log.wait_durable(version, PATIENCE)?;
    Ok(now_ns() - start)
}

fn appenders(log: &Log, payload: &[u8], threads: u64, records: u64, all: &mut Latencies) -> Result<()> {
    let one = || -> Result<Latencies> {
        let mut latencies = Latencies::new()?;
        for _ in 0..records {
            latencies.record(durable_append(log, payload)?);
        }
        Ok(latencies)
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        for thread in running {
            let latencies = thread.join().map_err(|_| "an appender panicked")??;
            all.add(&latencies.counts());
        }
        Ok(())
    })
}

/// A file with preallocated space, like a segment.
pub(crate) struct Raw {
    file: File,
    at: u64,
    bytes: Vec<u8>,
}

impl Raw {
    /// Creates the file with `len` bytes of space.
    pub(crate) fn new(path: &Path, len: u64) -> Result<Raw> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, len as i64)?;
        file.sync_all()?;
        Ok(Raw { file, at: 0, bytes: filler(WRITE_BYTES) })
    }

    /// Writes `len` bytes and syncs. Returns the duration in nanoseconds.
    pub(crate) fn durable_write(&mut self, len: u64) -> Result<u64> {
        let (start, end) = (now_ns(), self.at + len);
        while self.at < end {
            let part = (end - self.at).min(WRITE_BYTES);
            self.file.write_all_at(&self.bytes[..part as usize], self.at)?;
            self.at += part;
        }
        self.file.sync_data()?;
        Ok(now_ns() - start)
    }
}

/// Writes as many bytes as `records` records contain, with `syncs` syncs at equal distances.
pub(super) fn unlogged(args: &LogArgs, raw: &mut Raw, records: u64, syncs: u64, run: &mut Run) -> Result<()> {
    let (start, bytes) = (raw.at, records * args.size);
    run.add(args, records, |latencies| {
        for n in 1..=syncs {
            // Distributes the bytes evenly over the syncs.
            let end = start + (u128::from(bytes) * u128::from(n) / u128::from(syncs)) as u64;
            latencies.record(raw.durable_write(end - raw.at)?);
        }
        Ok(syncs)
    })?;
    Ok(())
}

/// Measures single durable appends and single raw writes in turn, for loads that do not contain any.
pub(super) fn probe(args: &LogArgs, directory: &Path, times: u64) -> Result<[Latencies; 2]> {
    let (log, payload) = (new_log(directory)?, filler(args.size));
    let mut raw = Raw::new(&directory.join("probe"), times * args.size)?;
    let (mut by_log, mut by_raw) = (Latencies::new()?, Latencies::new()?);
    for _ in 0..times {
        by_log.record(durable_append(&log, &payload)?);
        by_raw.record(raw.durable_write(args.size)?);
    }
    log.close()?;
    Ok([by_log, by_raw])
}
