//! The writing thread, and the callers that wait for it.

use super::*;
use crate::log::disk::File;
use crate::log::{Journal, Log, LogOptions};
use std::io;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn options() -> LogOptions {
    LogOptions { segment_bytes: SMALL, backlog_max_bytes: 4000, identity: OURS }
}

fn log_on(disk: &SimDisk) -> Log {
    Log::on(Arc::new(disk.clone()), options()).unwrap()
}

/// A disk on which syncs wait while the gate is shut.
#[derive(Clone)]
struct Gated {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// Whether the gate is shut, and the number of syncs.
    state: Mutex<(bool, usize)>,
    moved: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.moved.notify_all();
        drop(self.moved.wait_while(state, |state| state.0).unwrap());
    }

    fn shut(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.moved.notify_all();
    }

    fn syncs(&self) -> usize {
        self.state.lock().unwrap().1
    }

    fn wait_for_sync(&self, n: usize) {
        drop(self.moved.wait_while(self.state.lock().unwrap(), |state| state.1 < n).unwrap());
    }
}

struct GatedFile(Box<dyn File>, Arc<Gate>);

impl Disk for Gated {
    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.names()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(GatedFile(self.disk.open(name)?, self.gate.clone())))
    }
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn File>> {
        Ok(Box::new(GatedFile(self.disk.create(name, len)?, self.gate.clone())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
}

impl File for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, bytes)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync()
    }
    fn clear_from(&self, offset: u64) -> io::Result<()> {
        self.0.clear_from(offset)
    }
}

#[test]
fn what_gathers_during_a_sync_shares_the_next_one_and_is_bounded() {
    let disk = Gated { disk: SimDisk::new(1), gate: Arc::new(Gate::default()) };
    let log = Log::on(Arc::new(disk.clone()), options()).unwrap();
    let before = disk.gate.syncs();
    disk.gate.shut(true);
    log.append(&[0; 100], LONG).unwrap();
    disk.gate.wait_for_sync(before + 1);
    let mut taken = 0;
    let refused = loop {
        match log.try_append(&[1; 100]) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::WouldBlock(_)), "{refused}");
    assert_eq!(taken + 1, 4000 / 168);
    assert_eq!(log.backlog_bytes(), (taken + 1) * 168);
    assert!(matches!(log.append(&[2; 100], SHORT), Err(Error::TimedOut { .. })));
    assert!(matches!(log.sync(SHORT), Err(Error::TimedOut { .. })));
    assert_eq!(log.durable(), None);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| log.append(&[3; 100], LONG));
        disk.gate.shut(false);
        assert_eq!(waiting.join().unwrap().unwrap().sequence, taken as u64 + 2);
    });
    log.sync(LONG).unwrap();
    assert_eq!(log.backlog_bytes(), 0);
    // One sync for the first record, one for all that gathered, and one for the append that waited.
    assert!(disk.gate.syncs() - before <= 3, "{}", disk.gate.syncs() - before);
}

#[test]
fn everybody_learns_of_a_failed_sync_for_ever() {
    let disk = SimDisk::new(1);
    let log = log_on(&disk);
    let first = log.append(b"one", LONG).unwrap();
    log.sync(LONG).unwrap();
    let (sender, woken) = std::sync::mpsc::channel();
    let mut journal = log.journal(Box::new(move || sender.send(()).unwrap_or_default()));
    disk.fail_sync_after(0);
    let failed = |result: Result<(), Error>| assert!(matches!(&result, Err(Error::LogFailed { .. })), "{result:?}");
    std::thread::scope(|scope| {
        let waits: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| log.append(b"two", LONG).and_then(|version| log.wait_durable(version, LONG))))
            .collect();
        waits.into_iter().for_each(|wait| failed(wait.join().unwrap()));
    });
    failed(log.append(b"three", LONG).map(drop));
    failed(log.try_append(b"three").map(drop));
    failed(log.sync(LONG));
    failed(log.cut(first, LONG));
    failed(log.trim(first, LONG));
    failed(log.save("blob", b"", LONG));
    woken.recv_timeout(LONG).unwrap();
    let ticket = journal.append(record(9, b""));
    assert!(journal.durable() < ticket);
    failed(Err(journal.failure().unwrap()));
    failed(Err(log.failure().unwrap()));
    // Durable records stay available.
    assert_eq!(log.durable(), Some(first));
    log.wait_durable(first, LONG).unwrap();
    assert_eq!(&log.get(first).unwrap().unwrap()[..], b"one");
    failed(log.close());
}

#[test]
fn a_log_waits_for_space_and_goes_on() {
    let disk = SimDisk::new(1);
    let log = log_on(&disk);
    let mut journal = log.journal(Box::new(|| {}));
    disk.set_capacity(Some(SMALL));
    let refused = loop {
        match log.append(&[5; 1000], LONG) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::LogFull { .. }), "{refused}");
    assert!(matches!(log.sync(LONG), Err(Error::LogFull { .. })));
    assert!(matches!(log.try_append(&[5; 1000]), Err(Error::LogFull { .. })));
    let saved = journal.save("blob", b"later");
    assert!(journal.failure().is_none(), "a full disk is no failure");
    disk.set_capacity(None);
    let start = std::time::Instant::now();
    while journal.durable() < saved {
        assert!(start.elapsed() < LONG);
        std::thread::yield_now();
    }
    log.append(b"more", LONG).unwrap();
    log.sync(LONG).unwrap();
    assert_eq!(log.load("blob").unwrap().unwrap(), b"later");
    let all: Vec<_> = log.iter(..).map(|entry| entry.unwrap().version().sequence).collect();
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    log.close().unwrap();
}

#[test]
fn a_full_disk_at_the_end_is_told() {
    let disk = SimDisk::new(1);
    let log = log_on(&disk);
    disk.set_capacity(Some(SMALL));
    while log.append(&[5; 1000], LONG).is_ok() {}
    assert!(matches!(log.close(), Err(Error::LogFull { .. })));
}

#[test]
fn a_journal_outlives_its_log() {
    let disk = SimDisk::new(1);
    let log = log_on(&disk);
    let mut journal = log.journal(Box::new(|| {}));
    let ticket = journal.append(record(1, b"one"));
    let reader = log.reader();
    log.close().unwrap();
    assert!(journal.durable() >= ticket);
    assert!(journal.failure().is_some());
    let late = journal.append(record(2, b"two"));
    assert!(journal.durable() < late);
    assert_eq!(reader.end(), Some(version(1)));
}
