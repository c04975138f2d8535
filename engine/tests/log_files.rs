//! The log in real files, with real threads and processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/small_disk.rs"]
mod small_disk;
#[path = "common/stops.rs"]
mod stops;

use folder::Folder;
use galerna::Version;
use galerna::log::{Journal, Kind, Log, LogOptions, Record, Ticket};
use galerna::{Config, Delivery, Error, FabricKind, Group, LogConfig, Member, MemberId, Mode};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use stops::Stops;

const LONG: Duration = Duration::from_secs(60);

fn small() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn open(folder: &Folder) -> Log {
    Log::open(&folder.0, small()).unwrap()
}

fn v(sequence: u64) -> Version {
    Version { view: 0, sequence }
}

fn record(sequence: u64, payload: &[u8]) -> Record<'_> {
    let (sender, mode, kind) = (MemberId(1), Mode::Safe, Kind::Message);
    Record { version: v(sequence), time_ns: sequence + 1, sender, mode, kind, payload }
}

fn sequences(log: &Log) -> Vec<u64> {
    log.iter(..).map(|entry| entry.unwrap().version().sequence).collect()
}

#[test]
fn many_append_and_few_sync() {
    let folder = Folder::new("log");
    let log = Arc::new(open(&folder));
    let threads: Vec<_> = (0..8u8)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || {
                let mut mine = Vec::new();
                for n in 0..200u8 {
                    let version = log.append(&[thread, n], LONG).unwrap();
                    if n % 10 == 0 {
                        log.wait_durable(version, LONG).unwrap();
                        assert_eq!(&log.get(version).unwrap().unwrap()[..], [thread, n]);
                    }
                    mine.push((version, [thread, n]));
                }
                mine
            })
        })
        .collect();
    let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    all.sort();
    Arc::into_inner(log).unwrap().close().unwrap();
    let log = open(&folder);
    let found: Vec<_> = log.iter(..).map(|entry| entry.unwrap()).collect();
    assert_eq!(found.len(), 1600);
    for (entry, (version, payload)) in found.iter().zip(&all) {
        assert_eq!((entry.version(), &entry[..]), (*version, &payload[..]));
    }
    assert!(found.windows(2).all(|pair| pair[0].time_ns() < pair[1].time_ns()));
}

#[test]
fn a_log_has_one_writer() {
    let folder = Folder::new("log");
    let log = open(&folder);
    let second = Log::open(&folder.0, small()).err().unwrap();
    assert!(matches!(&second, Error::LogLocked { directory } if Path::new(directory) == folder.0), "{second}");
    log.append(b"one", LONG).unwrap();
    log.sync(LONG).unwrap();
    let reader = Log::open_read_only(&folder.0).unwrap();
    assert_eq!(reader.reader().iter(..).count(), 1);
    assert_eq!(reader.torn(), None);
    drop(log);
    assert_eq!(sequences(&open(&folder)), [1]);
}

#[test]
fn a_directory_that_cannot_hold_a_log_is_named_with_advice() {
    let folder = Folder::new("log");
    let file = folder.0.join("file");
    std::fs::write(&file, "").unwrap();
    let directory = file.join("log");
    let error = Log::open(&directory, small()).err().unwrap().to_string();
    let advice = "give a directory in which this process may create and write files";
    let expected = format!("cannot create the log directory {} ({advice}): ", directory.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn a_journal_says_what_is_durable_and_wakes() {
    let folder = Folder::new("log");
    let log = open(&folder);
    let woken = Arc::new(AtomicU64::new(0));
    let counter = woken.clone();
    let mut journal = log.journal(Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let wait = |journal: &dyn Journal, ticket: Ticket| {
        let start = Instant::now();
        while journal.durable() < ticket {
            assert!(journal.failure().is_none() && start.elapsed() < LONG);
            std::thread::yield_now();
        }
    };
    let tickets: Vec<_> = (1..=100).map(|n| journal.append(record(n, &[n as u8; 900]))).collect();
    assert!(tickets.windows(2).all(|pair| pair[0] < pair[1]));
    let cut = journal.cut(v(51));
    let saved = journal.save("paxos", b"promise");
    let last = journal.append(record(60, b"after the cut"));
    assert!(cut < saved && saved < last);
    wait(&journal, last);
    assert_eq!(journal.backlog_bytes(), 0);
    assert_eq!(sequences(&log), (1..=50).chain([60]).collect::<Vec<_>>());
    assert_eq!(log.load("paxos").unwrap().unwrap(), b"promise");
    // A record that the handle appends comes after those of the journal.
    assert_eq!(log.append(b"own", LONG).unwrap(), v(61));
    let cut = journal.cut(v(40));
    assert_eq!(log.append(b"after the cut", LONG).unwrap(), v(40));
    wait(&journal, cut);
    assert!(woken.load(Ordering::SeqCst) > 0);
    journal.append(record(5, b"too late"));
    let start = Instant::now();
    while journal.failure().is_none() {
        assert!(start.elapsed() < LONG);
        std::thread::yield_now();
    }
    assert!(matches!(journal.failure(), Some(Error::LogOrder { .. })));
    assert!(log.close().is_err());
    assert!(journal.failure().is_some());
}

#[test]
fn an_entry_outlives_what_happens_to_the_log() {
    let folder = Folder::new("log");
    let log = open(&folder);
    for n in 0..200u8 {
        log.append(&[n; 2000], LONG).unwrap();
    }
    log.sync(LONG).unwrap();
    let entries: Vec<_> = log.iter(..).map(|entry| entry.unwrap()).collect();
    log.cut(v(150), LONG).unwrap();
    log.trim(v(100), LONG).unwrap();
    for n in 0..100u8 {
        log.append(&[!n; 2000], LONG).unwrap();
    }
    log.sync(LONG).unwrap();
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(&entry[..], [n as u8; 2000]);
    }
    let now: Vec<_> = log.iter(v(100)..).map(|entry| entry.unwrap()).collect();
    assert_eq!(now.len(), 150);
    assert!(now.iter().take(50).all(|entry| entry[0] == entry.version().sequence as u8 - 1));
    assert!(now.iter().skip(50).enumerate().all(|(n, entry)| entry[..] == [!(n as u8); 2000]));
    log.cut(v(120), LONG).unwrap();
    log.close().unwrap();
    assert!(now.iter().skip(50).enumerate().all(|(n, entry)| entry[..] == [!(n as u8); 2000]));
    assert_eq!(sequences(&open(&folder)).last(), Some(&119));
}

/// Runs in the child process that [`a_log_survives_a_kill`] kills; returns at once elsewhere.
#[test]
fn child_that_appends() {
    let Some(path) = std::env::var_os("GALERNA_LOG_CHILD") else { return };
    let log = Log::open(path, small()).unwrap();
    let mut journal = log.journal(Box::new(|| {}));
    let first = log.durable().map_or(1, |last| last.sequence + 1);
    for n in first.. {
        while journal.backlog_bytes() > 1 << 20 {
            std::thread::yield_now();
        }
        journal.append(record(n, &vec![n as u8; (n % 3000) as usize]));
        if let Some(durable) = log.durable() {
            println!("durable {}", durable.sequence);
        }
    }
}

#[test]
fn a_log_survives_a_kill() {
    use std::io::{BufRead, BufReader};
    let folder = Folder::new("log");
    let mut least = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_appends", "--exact", "--nocapture"])
            .env("GALERNA_LOG_CHILD", &folder.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        for line in lines {
            let line = line.unwrap();
            if let Some(number) = line.split("durable ").nth(1) {
                least = number.parse().unwrap_or(least);
                said += 1;
            }
            if said == 300 + 170 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let log = open(&folder);
        let found: Vec<_> = log.iter(..).map(|entry| entry.unwrap()).collect();
        assert!(found.len() as u64 >= least, "{} of {least}", found.len());
        for (n, entry) in found.iter().enumerate() {
            let n = n as u64 + 1;
            assert_eq!(entry.record(), record(n, &vec![n as u8; (n % 3000) as usize]));
        }
    }
    assert!(least > 0);
}

#[test]
fn a_batch_is_synced_as_one() {
    let folder = Folder::new("log");
    let log = open(&folder);
    assert_eq!(log.append_batch(&[], LONG).unwrap(), None);
    let payloads: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 100 * n as usize]).collect();
    let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    for batch in 0..5 {
        let last = log.append_batch(&slices, LONG).unwrap().unwrap();
        log.wait_durable(last, LONG).unwrap();
        let stats = log.stats();
        assert_eq!((stats.records, stats.batches), (40 * (batch + 1), batch + 1));
        assert!(stats.bytes >= 40 * 64 * (batch + 1));
    }
    let too_large = vec![0; 64 << 10];
    let refused = log.append_batch(&[b"fits", &too_large], LONG).unwrap_err();
    assert!(matches!(refused, Error::LogRecordTooLarge { .. }), "{refused}");
    let found: Vec<_> = log.iter(..).map(|entry| entry.unwrap()).collect();
    assert_eq!(found.len(), 200, "nothing of a batch that is refused is appended");
    assert!(found.iter().zip(slices.iter().cycle()).all(|(entry, payload)| entry[..] == **payload));
}

#[test]
fn a_log_for_reading_knows_its_segments() {
    let folder = Folder::new("log");
    let log = open(&folder);
    for n in 0..300 {
        log.append(&vec![1; n * 8], LONG).unwrap();
    }
    log.trim(v(200), LONG).unwrap();
    let reading = Log::open_read_only(&folder.0).unwrap();
    let oldest = reading.reader().oldest().unwrap().unwrap();
    let (segments, mut sequence) = (reading.segments(), oldest.sequence);
    assert!(segments.len() > 3 && oldest > v(1) && oldest <= v(200));
    for segment in &segments {
        assert!(folder.0.join(&segment.file).is_file() && segment.file_bytes == 64 << 10);
        assert_eq!(segment.before.unwrap().0, v(sequence - 1));
        let count = reading.count(segment).unwrap();
        assert_eq!(count.first.unwrap().0, v(sequence));
        assert_eq!(count.payload_bytes + 64 * count.records, segment.bytes);
        sequence += count.records;
        assert_eq!(segment.last.unwrap().0, v(sequence - 1));
    }
    assert_eq!(sequence, 301);
    let unknown = galerna::log::SegmentInfo { number: 0, ..segments[0].clone() };
    assert!(reading.count(&unknown).is_err());
}

/// A reader may see files of different moments; that is not damage.
#[test]
fn a_log_is_opened_for_reading_while_it_is_written_and_trimmed() {
    let folder = Folder::new("log");
    let log = open(&folder);
    let done = Arc::new(AtomicU64::new(0));
    let writer = {
        let done = done.clone();
        std::thread::spawn(move || {
            while done.load(Ordering::Relaxed) == 0 {
                let last = log.append_batch(&[&[1; 3000], &[2; 500], &[3; 3000]], LONG).unwrap().unwrap();
                if last.sequence.is_multiple_of(5) {
                    log.trim(v(last.sequence.saturating_sub(20)), LONG).unwrap();
                }
            }
        })
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let reading = Log::open_read_only(&folder.0).unwrap();
        assert!(reading.segments().len() < 100);
    }
    done.store(1, Ordering::Relaxed);
    writer.join().unwrap();
}

/// Runs in a child process of [`a_real_disk_can_be_full`], on a small file system; returns at once elsewhere.
#[test]
fn child_on_a_full_disk() {
    let Some(path) = std::env::var_os("GALERNA_LOG_FULL") else { return };
    let ballast = Path::new(&path).join("ballast");
    let log = Log::open(Path::new(&path).join("log"), small()).unwrap();
    std::fs::write(&ballast, vec![1; 400 << 10]).unwrap();
    let full = (0..).find_map(|_| log.append(&[7; 8000], LONG).and_then(|_| log.sync(LONG)).err()).unwrap();
    assert!(matches!(full, Error::LogFull { .. }), "{full}");
    assert!(log.failure().is_none());
    std::fs::remove_file(ballast).unwrap();
    let start = Instant::now();
    while log.sync(LONG).is_err() {
        assert!(start.elapsed() < LONG);
    }
    let last = log.append(b"more", LONG).unwrap();
    log.close().unwrap();
    let log = Log::open(Path::new(&path).join("log"), small()).unwrap();
    assert_eq!(sequences(&log), (1..=last.sequence).collect::<Vec<_>>());
    println!("it went on");
}

#[test]
fn a_real_disk_can_be_full() {
    let folder = Folder::new("log");
    if let Some(output) = small_disk::run_on_one(&folder.0, 1, "GALERNA_LOG_FULL", "child_on_a_full_disk") {
        small_disk::assert_said(&output, "it went on");
    }
}

/// Runs in a child process of [`a_limit_of_file_sizes_is_an_error`], since the limit holds for the whole process.
#[test]
fn child_with_a_limit_of_file_sizes() {
    let Some(path) = std::env::var_os("GALERNA_LOG_LIMITED") else { return };
    let path = Path::new(&path);
    let limited = |bytes| {
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, bytes, hard).unwrap();
    };
    let says_limit = |error: Error| {
        let text = error.to_string();
        assert!(matches!(error, Error::LogFull { .. }) && text.contains("RLIMIT_FSIZE"), "{text}");
    };
    let log = Log::open(path.join("small"), small()).unwrap();
    log.append(b"one", LONG).unwrap();
    log.sync(LONG).unwrap();
    limited(1 << 20);
    let mut checkpoint = log.snapshot(v(1), 1).unwrap();
    says_limit(checkpoint.write(&vec![7; 2 << 20]).unwrap_err());
    drop(checkpoint);
    says_limit(Log::open(path.join("large"), LogOptions::default()).map(drop).unwrap_err());
    let address = ports::free_addresses(["127.0.0.1"].into_iter()).unwrap().remove(0);
    let me = Member { id: MemberId(1), address };
    let config = Config::new("limited", FabricKind::Tcp, vec![me]).with_member(MemberId(1));
    let with_log = config.clone().with_log(LogConfig::new(path.join("group")));
    says_limit(Group::join(with_log, |_: Delivery<'_>| {}).map(drop).unwrap_err());
    let me = Member { id: MemberId(1), address: format!("unix:{}", path.join("socket").display()) };
    let on_memory = Config { fabric: FabricKind::Shm, members: vec![me], ..config };
    let error = Group::join(on_memory, |_: Delivery<'_>| {}).map(drop).unwrap_err();
    assert!(error.to_string().contains("RLIMIT_FSIZE"), "{error}");
    // A program that blocks the signal and unblocks it later is not killed then.
    let signal = SigSet::from(Signal::SIGXFSZ);
    signal.thread_block().unwrap();
    says_limit(Log::open(path.join("large"), LogOptions::default()).map(drop).unwrap_err());
    signal.thread_unblock().unwrap();
    // Writes within the limit still succeed.
    log.append(b"two", LONG).unwrap();
    log.close().unwrap();
    assert_eq!(sequences(&Log::open(path.join("small"), small()).unwrap()), [1, 2]);
    println!("it lives");
}

#[test]
fn a_limit_of_file_sizes_is_an_error() {
    let folder = Folder::new("log");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child_with_a_limit_of_file_sizes", "--nocapture"]).env("GALERNA_LOG_LIMITED", &folder.0);
    let output = child.output().unwrap();
    small_disk::assert_said(&output, "it lives");
}

/// Threads read all the time while the log grows, is cut and is trimmed.
#[test]
fn readers_see_true_records_whatever_happens() {
    let folder = Folder::new("log");
    let log = open(&folder);
    let stop = AtomicBool::new(false);
    let (log, stop) = (&log, &stop);
    let read = |seed: u64| {
        let (mut seen, reader) = (0_u64, log.reader());
        while !stop.load(Ordering::SeqCst) {
            let from = Version { view: 0, sequence: (seen * 37 + seed) % 3000 };
            for entry in reader.iter(from..).take(50) {
                match entry {
                    Ok(entry) => {
                        let sequence = entry.version().sequence;
                        assert_eq!(entry.len() as u64, 8 + sequence % 700);
                        assert_eq!(entry[..8], sequence.to_le_bytes());
                        // The bytes do not change while the entry is held, even if a cut removes the record.
                        assert!(entry[8..].iter().all(|&byte| byte == sequence as u8));
                    }
                    Err(Error::LogTrimmed { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
                seen += 1;
            }
            match reader.at_time(seen * 13 % 3000) {
                Ok(_) | Err(Error::LogTrimmed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            seen += 1;
        }
        seen
    };
    let sequence = |log: &Log| log.durable().map_or(0, |last| last.sequence);
    std::thread::scope(|scope| {
        let stops = Stops(stop);
        let readers: Vec<_> = (0..3).map(|n| scope.spawn(move || read(n * 1000))).collect();
        for round in 0..60_u64 {
            for n in sequence(log) + 1..sequence(log) + 60 {
                let mut payload = n.to_le_bytes().to_vec();
                payload.resize(8 + (n % 700) as usize, n as u8);
                log.append_record(record(n, &payload), LONG).unwrap();
            }
            log.sync(LONG).unwrap();
            let end = sequence(log);
            if round % 3 == 0 {
                log.cut(v(end.saturating_sub(round * 7 % 40)), LONG).unwrap();
            }
            if round % 10 == 9 {
                log.trim(v(end.saturating_sub(500)), LONG).unwrap();
            }
        }
        drop(stops);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

/// Opens files until the process has no descriptor left.
fn all_descriptors() -> Vec<std::fs::File> {
    std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
}

/// Runs in a child process of [`a_log_goes_on_without_a_free_descriptor`], with a low limit.
#[test]
fn child_without_descriptors() {
    let Some(path) = std::env::var_os("GALERNA_LOG_DESCRIPTORS") else { return };
    let log = Log::open(&path, small()).unwrap();
    let append = |count: u64| (0..count).try_for_each(|_| log.append(&[7; 8000], LONG).map(|_| ()));
    let held = all_descriptors();
    // The log changes segments several times with the descriptors that it keeps in reserve.
    for _ in 0..10 {
        append(8).and_then(|()| log.sync(LONG)).unwrap();
    }
    // Other threads take every descriptor that the log frees for a moment; then the log waits.
    let (stop, shortage) = (AtomicBool::new(false), std::sync::Mutex::new(None));
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        let grabs = || {
            let mut grabbed = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                grabbed.extend(all_descriptors());
            }
        };
        (0..2).for_each(|_| drop(scope.spawn(grabs)));
        let start = Instant::now();
        while shortage.lock().unwrap().is_none() && start.elapsed() < Duration::from_secs(20) {
            *shortage.lock().unwrap() = append(8).and_then(|()| log.sync(LONG)).err();
        }
    });
    let shortage = shortage.into_inner().unwrap();
    assert!(shortage.is_none() || matches!(shortage, Some(Error::LogFull { .. })), "{shortage:?}");
    assert!(log.failure().is_none(), "{:?}", log.failure());
    drop(held);
    let start = Instant::now();
    while log.sync(LONG).is_err() {
        assert!(start.elapsed() < LONG);
    }
    let last = log.append(b"more", LONG).unwrap();
    log.close().unwrap();
    assert_eq!(sequences(&Log::open(&path, small()).unwrap()), (1..=last.sequence).collect::<Vec<_>>());
    println!("it went on after {shortage:?}");
}

#[test]
fn a_log_goes_on_without_a_free_descriptor() {
    let folder = Folder::new("log");
    let script = format!(
        "ulimit -n 64 && exec {} child_without_descriptors --exact --nocapture",
        std::env::current_exe().unwrap().display()
    );
    let output = Command::new("sh").args(["-c", &script]).env("GALERNA_LOG_DESCRIPTORS", folder.0.join("log")).output();
    small_disk::assert_said(&output.unwrap(), "it went on");
}
