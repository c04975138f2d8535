//! Measures the cost of the log beyond the disk:
//! `cargo test --release -p galerna --test log_speed -- --ignored --nocapture`.
//!
//! Each run appends to a log and records the operations on its files. Then it repeats the same writes and syncs without
//! the log, on files that are reserved in the same way. The share is the ratio of the two times, the median over pairs
//! of runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use galerna::log::{Disk, File, Log, LogOptions, Map, OsDisk};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(300);
const PAIRS: usize = 7;

/// An operation on the files, in order.
#[derive(Clone)]
enum Done {
    Create(String, u64),
    Write(String, u64, usize),
    Sync(String),
    Rename(String, String),
    SyncNames,
}

type Trace = Arc<Mutex<Vec<Done>>>;

struct Traced {
    disk: OsDisk,
    trace: Trace,
}

struct TracedFile {
    file: Box<dyn File>,
    name: String,
    trace: Trace,
}

impl Traced {
    fn file(&self, name: &str, file: Box<dyn File>) -> Box<dyn File> {
        let name = name.trim_end_matches(".tmp").to_owned();
        Box::new(TracedFile { file, name, trace: self.trace.clone() })
    }
}

impl Disk for Traced {
    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.names()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(self.file(name, self.disk.open(name)?))
    }
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn File>> {
        self.trace.lock().unwrap().push(Done::Create(name.to_owned(), len));
        Ok(self.file(name, self.disk.create(name, len)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.trace.lock().unwrap().push(Done::Rename(from.to_owned(), to.to_owned()));
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.trace.lock().unwrap().push(Done::SyncNames);
        self.disk.sync_names()
    }
}

impl File for TracedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.trace.lock().unwrap().push(Done::Write(self.name.clone(), offset, bytes.len()));
        self.file.write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.trace.lock().unwrap().push(Done::Sync(self.name.clone()));
        self.file.sync()
    }
    fn clear_from(&self, offset: u64) -> io::Result<()> {
        self.file.clear_from(offset)
    }
    fn map(&self) -> io::Result<Option<Map>> {
        self.file.map()
    }
}

fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("log-speed-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// Appends `count` records of `len` bytes, and waits for the disk after every `group`. Returns the time and the
/// operations.
fn with_log(path: &Path, len: usize, count: usize, group: usize) -> (Duration, Vec<Done>) {
    let trace = Trace::default();
    let disk = Traced { disk: OsDisk::open_locked(path).unwrap(), trace: trace.clone() };
    let log = Log::on(Arc::new(disk), LogOptions::default()).unwrap();
    trace.lock().unwrap().clear();
    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let start = Instant::now();
    for n in 1..=count {
        log.append(&payload, LONG).unwrap();
        if n % group == 0 {
            log.sync(LONG).unwrap();
        }
    }
    log.sync(LONG).unwrap();
    let took = start.elapsed();
    log.close().unwrap();
    let done = trace.lock().unwrap().clone();
    (took, done)
}

/// Repeats the same writes and syncs without the log.
fn without(path: &Path, trace: &[Done]) -> Duration {
    let disk = OsDisk::open_locked(path).unwrap();
    // The log's first segment existed before its time was measured.
    let mut files = std::collections::HashMap::new();
    let first = "0000000000000000.segment".to_owned();
    let made = disk.create(&first, LogOptions::default().segment_bytes).unwrap();
    made.write_at(0, &[1; 4096]).unwrap();
    made.sync().unwrap();
    disk.sync_names().unwrap();
    files.insert(first, made);
    let bytes: Vec<u8> = (0..64 << 20).map(|i: u32| i as u8).collect();
    let start = Instant::now();
    for done in trace {
        match done {
            Done::Create(name, len) => {
                files.insert(name.trim_end_matches(".tmp").to_owned(), disk.create(name, *len).unwrap());
            }
            Done::Write(name, offset, len) => files[name].write_at(*offset, &bytes[..*len]).unwrap(),
            Done::Sync(name) => files[name].sync().unwrap(),
            Done::Rename(from, to) => disk.rename(from, to).unwrap(),
            Done::SyncNames => disk.sync_names().unwrap(),
        }
    }
    start.elapsed()
}

fn measure(what: &str, len: usize, count: usize, group: usize) {
    let (mut shares, mut rates, mut syncs) = (Vec::new(), Vec::new(), 0);
    for _ in 0..PAIRS {
        let (ours, raw) = (folder("ours"), folder("raw"));
        let (with, trace) = with_log(&ours, len, count, group);
        std::fs::remove_dir_all(&ours).unwrap();
        let without = without(&raw, &trace);
        std::fs::remove_dir_all(&raw).unwrap();
        syncs = trace.iter().filter(|done| matches!(done, Done::Sync(_))).count();
        shares.push(without.as_secs_f64() / with.as_secs_f64());
        rates.push((len * count) as f64 / 1e6 / with.as_secs_f64());
    }
    shares.sort_by(f64::total_cmp);
    rates.sort_by(f64::total_cmp);
    let (share, rate) = (100.0 * shares[PAIRS / 2], rates[PAIRS / 2]);
    let (least, most) = (100.0 * shares[0], 100.0 * shares[PAIRS - 1]);
    println!(
        "{what}: {rate:.0} MB/s, {share:.0} % of the bare writes ({least:.0} to {most:.0}); {syncs} syncs at last"
    );
}

#[test]
#[ignore = "a measurement: run it by name, in a release build, on a quiet machine"]
fn the_log_costs_little_beside_the_disk() {
    measure("4 KiB records, streamed", 4 << 10, 65_536, usize::MAX);
    measure("64 KiB records, streamed", 64 << 10, 4096, usize::MAX);
    measure("4 KiB records, a sync for 64", 4 << 10, 32_768, 64);
    measure("64 KiB records, a sync for 16", 64 << 10, 4096, 16);
    measure("4 KiB records, a sync for each", 4 << 10, 2000, 1);
}
