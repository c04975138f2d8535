//! The state shared by readers and the writer: the existing segments, and the durable end.

use super::codec::{HEAD_BYTES, Head, Stamp, decode};
use super::disk::Disk;
use super::index::{self, Index, Key};
use super::segment::{End, PAGE_BYTES, index_name, segment_name};
use super::source::{Bytes, Source};
use crate::error::Error;
use crate::process::Life;
use crate::sync::lock;
use crate::types::Version;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The state that readers need of a log.
pub(super) struct Shared {
    pub(super) life: Life,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) seed: u32,
    pub(super) segment_bytes: u64,
    table: RwLock<Table>,
}

pub(super) struct Table {
    /// The segments. Never empty; the last one is being written.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// The index of the last segment, up to `end`.
    pub(super) recent: Vec<index::Entry>,
    /// The end of the durable records.
    pub(super) end: End,
    /// How often the log was cut. After a cut, a reader's cached position is void.
    pub(super) cuts: u64,
}

/// A segment, as seen by readers.
pub(super) struct Segment {
    pub(super) number: u64,
    /// The end of the segment before it.
    pub(super) before: End,
    data: Mutex<Data>,
    index: Mutex<Option<Arc<Index>>>,
}

enum Data {
    Closed,
    Mapped(Arc<Source>),
    /// The segment was cut. A reader that still holds it must look it up again.
    Retired,
}

impl Segment {
    pub(super) fn new(number: u64, before: End) -> Arc<Segment> {
        Arc::new(Segment { number, before, data: Mutex::new(Data::Closed), index: Mutex::new(None) })
    }

    /// The file to read from; `None` if the segment was cut in the meantime.
    fn source(&self, disk: &dyn Disk) -> io::Result<Option<Arc<Source>>> {
        let mut data = lock(&self.data);
        match &*data {
            Data::Mapped(source) => return Ok(Some(source.clone())),
            Data::Retired => return Ok(None),
            Data::Closed => {}
        }
        let source = Arc::new(Source::open(disk, &segment_name(self.number))?);
        if source.is_mapped() {
            *data = Data::Mapped(source.clone());
        }
        Ok(Some(source))
    }

    /// Prevents readers from opening the file while the guard exists, because the file may be replaced.
    pub(super) fn hold(&self) -> impl Drop + '_ {
        lock(&self.data)
    }

    /// Prevents readers that have not opened this segment yet from doing so, because its file is about to be replaced.
    pub(super) fn retire(&self) {
        *lock(&self.data) = Data::Retired;
    }
}

/// The start of a read: a segment, a place in it, and the end of its records.
struct Start {
    segment: Arc<Segment>,
    at: End,
    limit: u64,
    cuts: u64,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, seed: u32, segment_bytes: u64, table: Table) -> Arc<Shared> {
        Arc::new(Shared { life: Life::present(), disk, seed, segment_bytes, table: RwLock::new(table) })
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cursor at the index entry before the first record that matches the key.
    ///
    /// Returns [`Error::LogTrimmed`] if that record was trimmed.
    pub(super) fn seek(self: &Arc<Self>, key: Key) -> Result<Cursor, Error> {
        self.life.check()?;
        loop {
            let table = self.read();
            // Select the last segment for which the record before it precedes the key (for a time: or equals it).
            let behind = table.segments.partition_point(|segment| match (key, segment.before.last) {
                (_, None) => true,
                (Key::Version(version) | Key::Before(version), Some(last)) => last.version < version,
                (Key::Time(time_ns), Some(last)) => last.time_ns <= time_ns,
            });
            let Some(n) = behind.checked_sub(1) else {
                drop(table);
                return Err(self.trimmed(key));
            };
            let start = self.start_at(&table, n);
            let recent = (n + 1 == table.segments.len()).then(|| index::search(&table.recent, key));
            let end = table.segments.get(n + 1).map(|next| next.before.checksum);
            drop(table);
            let found = match (recent, end) {
                (Some(found), _) => found,
                (None, Some(end)) => match self.search(&start, end, key)? {
                    Some(found) => found,
                    None => continue,
                },
                (None, None) => None,
            };
            if let Some(cursor) = self.open(start, found)? {
                return Ok(cursor);
            }
        }
    }

    /// A cursor at the oldest record.
    pub(super) fn oldest(self: &Arc<Self>) -> Result<Cursor, Error> {
        self.life.check()?;
        loop {
            let start = self.start_at(&self.read(), 0);
            if let Some(cursor) = self.open(start, None)? {
                return Ok(cursor);
            }
        }
    }

    /// A cursor at the beginning of a segment.
    ///
    /// Only for the writer, and for a log that is open for reading only: no other party can remove their segments.
    pub(super) fn beginning(self: &Arc<Self>, number: u64) -> Result<Cursor, Error> {
        let start = {
            let table = self.read();
            let first = table.segments.front().map_or(0, |segment| segment.number);
            self.start_at(&table, (number - first) as usize)
        };
        self.open(start, None)?.ok_or_else(|| Error::Internal("a segment of the log was removed".to_owned()))
    }

    fn start_at(&self, table: &Table, n: usize) -> Start {
        let segment = table.segments[n].clone();
        let end = table.segments.get(n + 1).map_or(table.end, |next| next.before);
        let start = segment.number * self.segment_bytes;
        let at = End { position: start + PAGE_BYTES, ..segment.before };
        Start { at, limit: end.position - start, segment, cuts: table.cuts }
    }

    fn open(self: &Arc<Self>, start: Start, found: Option<index::Entry>) -> Result<Option<Cursor>, Error> {
        let Start { segment, at, limit, cuts } = start;
        let source = match segment.source(&*self.disk) {
            Err(error) => return self.failed_to_open(&segment, error).map(|()| None),
            Ok(None) => return Ok(None),
            Ok(Some(source)) => source,
        };
        let (offset, checksum, last) = match found {
            // The stamp of the record before is unknown and not needed: the index guarantees the order.
            Some(entry) => (entry.offset, entry.previous, None),
            None => (PAGE_BYTES, at.checksum, at.last),
        };
        Ok(Some(Cursor { shared: self.clone(), segment, source, offset, checksum, last, limit, cuts }))
    }

    /// Handles a file that cannot be opened. A missing file is no error if the segment was trimmed or cut since the
    /// lookup.
    fn failed_to_open(&self, segment: &Arc<Segment>, error: io::Error) -> Result<(), Error> {
        let gone = !self.read().segments.iter().any(|there| Arc::ptr_eq(there, segment));
        if gone && error.kind() == io::ErrorKind::NotFound {
            return Ok(());
        }
        Err(Error::io(format!("opening {}", segment_name(segment.number)), error))
    }

    /// Searches the index of a sealed segment. Loads or rebuilds the index if necessary.
    ///
    /// The outer `None` means that the segment is gone.
    fn search(self: &Arc<Self>, start: &Start, end: u32, key: Key) -> Result<Option<Option<index::Entry>>, Error> {
        let number = start.segment.number;
        let known = lock(&start.segment.index).clone();
        let known = known.or_else(|| Index::open(&*self.disk, number, self.seed, end).map(Arc::new));
        if let Some(index) = known
            && let Ok(found) = index.search(key)
        {
            *lock(&start.segment.index) = Some(index);
            return Ok(Some(found));
        }
        tracing::warn!("{} is missing or damaged: rebuilding it from the segment", index_name(number));
        let all = Start { segment: start.segment.clone(), ..*start };
        let Some(mut cursor) = self.open(all, None)? else { return Ok(None) };
        let mut entries = Vec::new();
        while let Some(head) = cursor.head()? {
            index::note(&mut entries, cursor.entry(&head));
            cursor.step(&head);
        }
        let found = index::search(&entries, key);
        *lock(&start.segment.index) = Some(Arc::new(Index::Built(entries)));
        Ok(Some(found))
    }

    /// The error for a request of trimmed records.
    pub(super) fn trimmed(self: &Arc<Self>, key: Key) -> Error {
        let wanted = match key {
            Key::Version(version) | Key::Before(version) => format!("version {version}"),
            Key::Time(time_ns) => format!("{time_ns} ns"),
        };
        let oldest = self.oldest().and_then(|mut cursor| cursor.head());
        let oldest = match oldest {
            Ok(Some(head)) => format!("{} of {} ns", head.stamp.version, head.stamp.time_ns),
            Ok(None) | Err(_) => "none".to_owned(),
        };
        Error::LogTrimmed { wanted, oldest }
    }

    pub(super) fn last(&self) -> Option<Stamp> {
        self.life.check().ok()?;
        self.read().end.last
    }
}

/// A place in a segment, for reading forward.
#[derive(Clone)]
pub(super) struct Cursor {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    source: Arc<Source>,
    offset: u64,
    /// The checksum of the record before.
    checksum: u32,
    last: Option<Stamp>,
    limit: u64,
    pub(super) cuts: u64,
}

impl Cursor {
    fn damaged(&self, what: &str) -> Error {
        let (file, offset) = (segment_name(self.segment.number), self.offset);
        super::failure::in_directory(Error::LogDamaged { file, offset, what: what.to_owned() }, &*self.shared.disk)
    }

    fn view(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        self.source.view(offset, len).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("the file ends too early"),
            _ => Error::io(format!("reading {} at {offset}", segment_name(self.segment.number)), error),
        })
    }

    /// The header of the record at this place; `None` at the end of the segment's records.
    pub(super) fn head(&mut self) -> Result<Option<Head>, Error> {
        if self.offset >= self.limit {
            return Ok(None);
        }
        if self.offset + HEAD_BYTES as u64 > self.limit {
            return Err(self.damaged("a record extends beyond the end"));
        }
        let bytes = self.view(self.offset, HEAD_BYTES)?;
        let position = self.position();
        let Some(head) = decode(&bytes, position, self.shared.seed) else {
            return Err(self.damaged("the record's header is damaged"));
        };
        if head.previous != self.checksum || !head.stamp.follows(self.last) {
            return Err(self.damaged("the record does not follow the one before it"));
        }
        if self.offset + head.record_bytes() > self.limit {
            return Err(self.damaged("a record extends beyond the end"));
        }
        Ok(Some(head))
    }

    /// The payload of the record at this place. `head` is its header.
    pub(super) fn payload(&self, head: &Head) -> Result<Bytes, Error> {
        let bytes = self.view(self.offset + HEAD_BYTES as u64, head.length as usize)?;
        if crc32c::crc32c(&bytes) != head.payload_checksum {
            return Err(self.damaged("the record's payload is damaged"));
        }
        Ok(bytes)
    }

    /// Moves behind the record at this place.
    pub(super) fn step(&mut self, head: &Head) {
        self.offset += head.record_bytes();
        self.checksum = head.checksum;
        self.last = Some(head.stamp);
    }

    /// Moves to the next segment, or to records that were appended since. Returns false if there are none yet.
    ///
    /// After a cut it returns false: the cursor's place is void (see [`Cursor::is_void`]).
    pub(super) fn advance(&mut self) -> Result<bool, Error> {
        let table = self.shared.read();
        let number = self.segment.number;
        let first = table.segments.front().map_or(0, |segment| segment.number);
        if number < first {
            let last = self.last.map_or(Version::default(), |last| last.version);
            drop(table);
            return Err(self.shared.trimmed(Key::Version(last)));
        }
        let n = (number - first) as usize;
        if table.cuts != self.cuts || n >= table.segments.len() {
            return Ok(false);
        }
        let limit = self.shared.start_at(&table, n).limit;
        if limit > self.limit {
            self.limit = limit;
            return Ok(true);
        }
        if n + 1 == table.segments.len() {
            return Ok(false);
        }
        let start = self.shared.start_at(&table, n + 1);
        drop(table);
        if start.at.checksum != self.checksum {
            return Err(self.damaged("the segment's last record is not the one that the next segment follows"));
        }
        // If that segment was removed just now, the next call detects it.
        if let Some(next) = self.shared.open(start, None)? {
            *self = next;
        }
        Ok(true)
    }

    /// Whether the log was cut since this cursor was created.
    pub(super) fn is_void(&self) -> bool {
        self.shared.read().cuts != self.cuts
    }

    pub(super) fn entry(&self, head: &Head) -> index::Entry {
        index::Entry { stamp: head.stamp, offset: self.offset, previous: self.checksum }
    }

    pub(super) fn position(&self) -> u64 {
        self.segment.number * self.shared.segment_bytes + self.offset
    }

    /// The place before the record at the cursor.
    pub(super) fn end(&self) -> End {
        End { position: self.position(), last: self.last, checksum: self.checksum }
    }

    pub(super) fn number(&self) -> u64 {
        self.segment.number
    }

    /// The end of the segment before this one.
    pub(super) fn before(&self) -> End {
        self.segment.before
    }
}
