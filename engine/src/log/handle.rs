//! A log in a directory, together with the thread that writes it.

use super::codec::Stamp;
use super::disk::Disk;
use super::failure::in_directory;
use super::os::OsDisk;
use super::queue::{LogStats, Queue};
use super::reader::{Entry, Iter, Reader};
use super::segment::Identity;
use super::snapshot::{Snapshot, SnapshotWriter};
use super::store::{SEGMENT_BYTES_DEFAULT, Store};
use super::{Journal, Kind, ReadOnlyLog, Record, Ticket, blobs, writer};
use crate::error::Error;
use crate::sync::lock;
use crate::thread::{self, OWN_STACK_BYTES};
use crate::types::{MemberId, Mode, Version};
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The options of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// The size of a segment in bytes: a multiple of 4096, from 8 KiB to 2 GiB. A record does not span segments.
    ///
    /// An existing log keeps the size with which it was created.
    pub segment_bytes: u64,
    /// The most bytes that may be appended but not durable. Beyond it, appending waits.
    pub backlog_max_bytes: usize,
    /// The group and the member that own the log.
    pub identity: Identity,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: SEGMENT_BYTES_DEFAULT, backlog_max_bytes: 64 << 20, identity: Identity::default() }
    }
}

/// A log that this process has open for writing.
///
/// Any number of threads may use it. All records that they append while the disk is busy form one batch with one sync.
///
/// ```
/// use galerna::log::{Log, LogOptions};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), galerna::Error> {
/// # let directory = std::env::temp_dir().join(format!("galerna-log-example-{}", std::process::id()));
/// # let second = Duration::from_secs(10);
/// let log = Log::open(&directory, LogOptions::default())?;
/// let first = log.append(b"deposit 100", second)?;
/// log.append(b"withdraw 30", second)?;
/// log.sync(second)?;
///
/// let entry = log.get(first)?.expect("it is durable");
/// assert_eq!(&entry[..], b"deposit 100");
/// let moment = entry.time_ns();
/// assert_eq!(log.at_time(moment)?.expect("there was one").version(), first);
/// for entry in log.iter(first..) {
///     println!("{}: {} bytes", entry.as_ref().unwrap().version(), entry?.len());
/// }
/// log.close()?;
/// # std::fs::remove_dir_all(&directory).unwrap();
/// # Ok(())
/// # }
/// ```
///
/// After the disk failed a write or a sync, every call returns [`Error::LogFailed`]. This is final, and data that is
/// not durable by then may be lost. While the disk is full, waiting calls return [`Error::LogFull`]. The log continues
/// when there is space.
///
/// In a child of `fork`, every call on the log or on an object obtained from it returns [`Error::Forked`], and dropping
/// has no effect: the log belongs to the parent.
pub struct Log {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    reader: Reader,
    disk: Arc<dyn Disk>,
    identity: Identity,
}

/// The host's clock, in nanoseconds since 1970.
pub(crate) fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn next_time_ns(last: Option<Stamp>) -> u64 {
    let now = wall_ns();
    last.map_or(now, |last| now.max(last.time_ns.saturating_add(1)))
}

/// The record that follows the last one in a log without a group.
fn own_record(last: Option<Stamp>, payload: &[u8]) -> Record<'_> {
    let version = last.map_or(Version::default(), |last| last.version).next();
    let (sender, mode, kind) = (MemberId(0), Mode::Ordered, Kind::Message);
    Record { version, time_ns: next_time_ns(last), sender, mode, kind, payload }
}

impl Log {
    /// Opens the log in a directory, or creates one. Repairs the effects of a crash.
    ///
    /// Returns [`Error::LogLocked`] if the log is already open for writing, [`Error::LogDamaged`] if durable data is
    /// lost, [`Error::LogForeign`] if the log belongs to another group or member, [`Error::LogFormat`] if a later
    /// version wrote it, and [`Error::LogFull`] if space is missing.
    pub fn open(directory: impl AsRef<Path>, options: LogOptions) -> Result<Log, Error> {
        Log::on(Arc::new(OsDisk::open_locked(directory.as_ref())?), options)
    }

    /// Like [`Log::open`], on any disk that has no other writer.
    pub fn on(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Log, Error> {
        let store = Store::open(disk.clone(), options.identity, options.segment_bytes);
        let store = store.map_err(|error| in_directory(error, &*disk))?;
        let last = store.last().map(|(version, time_ns)| Stamp { version, time_ns });
        let queue = Queue::new(last, options.backlog_max_bytes, store.payload_max());
        let reader = store.reader();
        let served = queue.clone();
        let serve = move || writer::serve(served, store);
        let thread = thread::spawn("galerna-log", "writes the log", OWN_STACK_BYTES, serve)?;
        let thread = Mutex::new(Some(thread));
        Ok(Log { queue, thread, reader, disk, identity: options.identity })
    }

    /// The identity of the log in a directory; `None` if there is no log or no such directory.
    pub fn identity_of(directory: impl AsRef<Path>) -> Result<Option<Identity>, Error> {
        match directory.as_ref().is_dir() {
            true => {
                let disk = OsDisk::open_read_only(directory.as_ref())?;
                super::recover::identity(&disk).map_err(|error| in_directory(error, &disk))
            }
            false => Ok(None),
        }
    }

    /// Opens a log for reading, even while another process writes it. Changes nothing.
    ///
    /// The reader sees the log up to the last complete record at that time.
    pub fn open_read_only(directory: impl AsRef<Path>) -> Result<ReadOnlyLog, Error> {
        ReadOnlyLog::open(directory.as_ref())
    }

    /// Appends a record with the next version and the present time, and returns its version.
    ///
    /// The record is durable after [`Log::sync`] or [`Log::wait_durable`]. While `backlog_max_bytes` are not durable
    /// yet, the call waits for at most `timeout`, then returns [`Error::TimedOut`]. Returns
    /// [`Error::LogRecordTooLarge`] if the payload does not fit a segment.
    pub fn append(&self, payload: &[u8], timeout: Duration) -> Result<Version, Error> {
        self.queue.append(payload, Some(timeout), |last| own_record(last, payload))
    }

    /// Like [`Log::append`] for several records. No other record comes between them.
    ///
    /// Up to about 8 MiB share one sync. A crash before that sync may leave only the first ones. Returns the version of
    /// the last record, or `None` if there are none.
    pub fn append_batch(&self, payloads: &[&[u8]], timeout: Duration) -> Result<Option<Version>, Error> {
        self.queue.append_batch(payloads, timeout, own_record)
    }

    /// Like [`Log::append`], but returns [`Error::WouldBlock`] instead of waiting.
    pub fn try_append(&self, payload: &[u8]) -> Result<Version, Error> {
        self.queue.append(payload, None, |last| own_record(last, payload))
    }

    /// Appends the given record, and waits like [`Log::append`].
    ///
    /// Returns [`Error::LogOrder`] if its version or its time is not greater than that of the last record.
    pub fn append_record(&self, record: Record<'_>, timeout: Duration) -> Result<Version, Error> {
        self.queue.append(record.payload, Some(timeout), |_| record)
    }

    /// Waits until everything that was appended before the call is durable.
    pub fn sync(&self, timeout: Duration) -> Result<(), Error> {
        let ticket = self.queue.asked()?;
        self.queue.wait_for("the sync of the log", timeout, |queue| queue.done() >= ticket)
    }

    /// Waits until the record of this version and all records before it are durable.
    pub fn wait_durable(&self, version: Version, timeout: Duration) -> Result<(), Error> {
        let durable = |_: &Queue| self.durable().is_some_and(|durable| durable >= version);
        self.queue.wait_for("the sync of the log", timeout, durable)
    }

    /// The version of the last durable record.
    pub fn durable(&self) -> Option<Version> {
        self.reader.end()
    }

    /// The largest payload of a record in bytes, limited by the segment size.
    pub fn payload_max(&self) -> usize {
        self.queue.payload_max()
    }

    /// The bytes that were appended but are not durable yet.
    pub fn backlog_bytes(&self) -> usize {
        self.queue.backlog_bytes()
    }

    /// Counters of the data that was made durable since the log was opened.
    pub fn stats(&self) -> LogStats {
        if self.queue.life.is_over() {
            return LogStats::default();
        }
        self.queue.lock().stats
    }

    /// The reason why the log has stopped for ever, if it has.
    pub fn failure(&self) -> Option<Error> {
        if let Err(forked) = self.queue.life.check() {
            return Some(forked);
        }
        self.queue.lock().failure.clone()
    }

    /// The reason why the log makes no progress at present: the disk is full. It continues by itself once there is
    /// space.
    pub fn obstacle(&self) -> Option<Error> {
        self.queue.life.check().ok()?;
        self.queue.lock().obstacle.clone()
    }

    /// The number of requests to the log's thread so far, and the number of those that are done.
    ///
    /// A caller that compares these over time can see whether the disk makes progress.
    pub fn progress(&self) -> (u64, u64) {
        (self.queue.asked().unwrap_or_default(), self.queue.done())
    }

    /// Removes every record with version `from` or a greater one, durably, once all earlier appends are written.
    pub fn cut(&self, from: Version, timeout: Duration) -> Result<(), Error> {
        self.queue.run("the cut of the log", timeout, true, move |store| store.cut(from))
    }

    /// Removes whole segments of records before `before`, durably. The log then begins at [`Log::oldest`].
    pub fn trim(&self, before: Version, timeout: Duration) -> Result<(), Error> {
        self.queue.run("the trim of the log", timeout, false, move |store| store.trim(before))
    }

    /// Replaces the blob `name` (1 to 64 characters of a-z, 0-9, - and _) as a whole, durably.
    pub fn save(&self, name: &str, bytes: &[u8], timeout: Duration) -> Result<(), Error> {
        let (name, bytes) = (name.to_owned(), bytes.to_owned());
        self.queue.run("saving a blob", timeout, false, move |store| store.save(&name, &bytes))
    }

    /// The durable bytes of the blob `name`; `None` if it was never saved. Returns [`Error::LogDamaged`] if they are
    /// damaged.
    pub fn load(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.queue.life.check()?;
        let loaded = blobs::load(&*self.disk, self.identity, &blobs::blob_file(name)?);
        loaded.map_err(|error| in_directory(error, &*self.disk))
    }

    /// Begins a checkpoint of the application that covers everything up to `version`.
    ///
    /// Write it in pieces, then [`Log::install`] it, then [`Log::trim`] the log.
    pub fn snapshot(&self, version: Version, time_ns: u64) -> Result<SnapshotWriter, Error> {
        self.queue.life.check()?;
        SnapshotWriter::begin(self.disk.clone(), self.identity, version, time_ns)
    }

    /// Makes a checkpoint durable, in place of the older ones.
    pub fn install(&self, mut snapshot: SnapshotWriter, timeout: Duration) -> Result<(), Error> {
        self.queue.life.check()?;
        // The slow part runs in this thread, so that the log's thread is not held up.
        snapshot.seal()?;
        self.queue.run("checkpoint", timeout, false, move |store| store.install(snapshot))
    }

    /// Whether there is a checkpoint.
    pub fn has_snapshot(&self) -> Result<bool, Error> {
        self.queue.life.check()?;
        Snapshot::exists(&*self.disk)
    }

    /// The newest checkpoint, verified; `None` if there is none. Returns [`Error::LogDamaged`] if its bytes are
    /// damaged.
    pub fn load_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        self.queue.life.check()?;
        Snapshot::load(&*self.disk, self.identity).map_err(|error| in_directory(error, &*self.disk))
    }

    /// A reader of the durable records. It works even after the log was closed.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Same as [`Reader::get`].
    pub fn get(&self, version: Version) -> Result<Option<Entry>, Error> {
        self.reader.get(version)
    }

    /// Same as [`Reader::first_at_or_after`].
    pub fn first_at_or_after(&self, version: Version) -> Result<Option<Entry>, Error> {
        self.reader.first_at_or_after(version)
    }

    /// Same as [`Reader::at_time`].
    pub fn at_time(&self, time_ns: u64) -> Result<Option<Entry>, Error> {
        self.reader.at_time(time_ns)
    }

    /// Same as [`Reader::iter`].
    pub fn iter(&self, range: impl RangeBounds<Version>) -> Iter {
        self.reader.iter(range)
    }

    /// Same as [`Reader::oldest`].
    pub fn oldest(&self) -> Result<Option<Version>, Error> {
        self.reader.oldest()
    }

    /// A handle for a caller that must not wait.
    ///
    /// The log's thread calls `wake` when [`Journal::durable`] has advanced or the log has failed. `wake` must not wait
    /// either.
    pub fn journal(&self, wake: Box<dyn Fn() + Send + Sync>) -> LogJournal {
        LogJournal { wake: self.queue.add_wake(wake.into()), queue: self.queue.clone() }
    }

    /// Makes all appended records durable, and closes the log.
    ///
    /// The error is the reason why some are not durable. Dropping the log does the same, without reporting the error.
    pub fn close(self) -> Result<(), Error> {
        self.shut()
    }

    /// Like [`Log::close`], for a log that still has readers. Another writer may open it afterwards.
    pub fn shut(&self) -> Result<(), Error> {
        self.queue.life.check()?;
        let mut slot = lock(&self.thread);
        let Some(thread) = slot.take() else { return Ok(()) };
        let ended = self.finish(thread);
        self.disk.unlock();
        ended
    }

    fn finish(&self, thread: JoinHandle<()>) -> Result<(), Error> {
        self.queue.lock().closing = true;
        self.queue.work.notify_one();
        if thread.join().is_err() {
            return Err(Error::Internal("the thread that writes the log panicked".to_owned()));
        }
        match self.failure() {
            None | Some(Error::Misuse(_)) => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.queue.life.is_over() {
            // Both the thread and the directory's lock belong to the parent.
            std::mem::forget(self.thread.get_mut().ok().and_then(Option::take));
            return;
        }
        if let Err(error) = self.shut() {
            tracing::error!("cannot close the log: {error}");
        }
    }
}

/// The [`Journal`] of a [`Log`]: see [`Log::journal`].
pub struct LogJournal {
    queue: Arc<Queue>,
    wake: u64,
}

impl Journal for LogJournal {
    fn append(&mut self, record: Record<'_>) -> Ticket {
        Ticket(self.queue.append_at_once(&record))
    }

    fn cut(&mut self, from: Version) -> Ticket {
        Ticket(self.queue.ask(Box::new(move |store: &mut Store| store.cut(from)), true))
    }

    fn save(&mut self, name: &'static str, bytes: &[u8]) -> Ticket {
        let bytes = bytes.to_owned();
        Ticket(self.queue.ask(Box::new(move |store: &mut Store| store.save(name, &bytes)), false))
    }

    fn durable(&self) -> Ticket {
        Ticket(self.queue.done())
    }

    fn failure(&self) -> Option<Error> {
        self.queue.lock().failure.clone()
    }

    fn backlog_bytes(&self) -> usize {
        self.queue.backlog_bytes()
    }
}

impl Drop for LogJournal {
    fn drop(&mut self) {
        self.queue.remove_wake(self.wake);
    }
}
