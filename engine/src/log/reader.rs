//! Reads the log while it is written. Records are read in place and checked before they are returned.

use super::Record;
use super::codec::Head;
use super::index::Key;
use super::source::Bytes;
use super::table::{Cursor, Shared};
use crate::error::Error;
use crate::types::Version;
use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};
use std::sync::Arc;

/// Reads the durable records. Cheap to clone; any number of readers may read during an append.
///
/// Every call may return [`Error::LogDamaged`], [`Error::Io`], or [`Error::LogTrimmed`] for records that were trimmed.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

/// A record, with the memory that holds it. Where the log is mapped, that is the file's memory.
#[derive(Clone)]
pub struct Entry {
    head: Head,
    payload: Bytes,
}

impl Entry {
    /// The record.
    pub fn record(&self) -> Record<'_> {
        self.head.record(&self.payload)
    }

    /// The record's version.
    pub fn version(&self) -> Version {
        self.head.stamp.version
    }

    /// The record's time in nanoseconds since 1970.
    pub fn time_ns(&self) -> u64 {
        self.head.stamp.time_ns
    }
}

/// Dereferences to the payload.
impl Deref for Entry {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.payload
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record().fmt(f)
    }
}

impl Reader {
    /// The record of exactly this version.
    pub fn get(&self, version: Version) -> Result<Option<Entry>, Error> {
        Ok(self.first_at_or_after(version)?.filter(|entry| entry.version() == version))
    }

    /// The first record with this version or a greater one.
    pub fn first_at_or_after(&self, version: Version) -> Result<Option<Entry>, Error> {
        let mut cursor = self.shared.seek(Key::Version(version))?;
        loop {
            match cursor.head()? {
                Some(head) if head.stamp.version >= version => return entry(&cursor, head).map(Some),
                Some(head) => cursor.step(&head),
                None => return Ok(None),
            }
        }
    }

    /// The last record with this version or a smaller one.
    pub fn last_at_or_before(&self, version: Version) -> Result<Option<Entry>, Error> {
        self.last_reached_by(Key::Version(version))
    }

    /// The last record at or before `time_ns` (nanoseconds since 1970). It gives the state at that moment.
    pub fn at_time(&self, time_ns: u64) -> Result<Option<Entry>, Error> {
        self.last_reached_by(Key::Time(time_ns))
    }

    fn last_reached_by(&self, key: Key) -> Result<Option<Entry>, Error> {
        let mut cursor = self.shared.seek(key)?;
        let before = cursor.end().last;
        let mut found = None;
        while let Some(head) = cursor.head()?.filter(|head| key.reached_by(head.stamp)) {
            found = Some((cursor.clone(), head));
            cursor.step(&head);
        }
        match (found, before) {
            (Some((cursor, head)), _) => entry(&cursor, head).map(Some),
            // The first record of this segment is behind the key, so the result is the last record of the segment
            // before.
            (None, Some(last)) => self.get(last.version),
            (None, None) => Ok(None),
        }
    }

    /// The records of a range of versions, in order.
    ///
    /// The iterator returns the records that are durable when it reaches them, and `None` at the end of the log. A
    /// later call continues with the records appended since.
    pub fn iter(&self, range: impl RangeBounds<Version>) -> Iter {
        let next = match range.start_bound() {
            Bound::Unbounded => Next::Oldest,
            Bound::Included(&version) => Next::From(version),
            Bound::Excluded(&version) => Next::After(version),
        };
        Iter { shared: self.shared.clone(), next, cursor: None, end: range.end_bound().cloned() }
    }

    /// The version of the oldest record.
    pub fn oldest(&self) -> Result<Option<Version>, Error> {
        Ok(self.shared.oldest()?.head()?.map(|head| head.stamp.version))
    }

    /// The version of the last durable record. After a trim left no records, the version of the last one before it.
    pub fn end(&self) -> Option<Version> {
        self.shared.last().map(|last| last.version)
    }
}

fn entry(cursor: &Cursor, head: Head) -> Result<Entry, Error> {
    Ok(Entry { head, payload: cursor.payload(&head)? })
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Oldest,
    From(Version),
    After(Version),
    Nothing,
}

/// See [`Reader::iter`]. After an error the iterator is finished.
pub struct Iter {
    shared: Arc<Shared>,
    next: Next,
    cursor: Option<Cursor>,
    end: Bound<Version>,
}

impl Iter {
    fn seek(&self) -> Result<Cursor, Error> {
        match self.next {
            Next::Oldest | Next::Nothing => self.shared.oldest(),
            Next::From(version) => self.shared.seek(Key::Version(version)),
            // The version itself may be trimmed, as long as the next one is not.
            Next::After(version) => {
                let after = Version { sequence: version.sequence.saturating_add(1), ..version };
                self.shared.seek(Key::Version(after))
            }
        }
    }

    fn wants(&self, version: Version) -> bool {
        match self.next {
            Next::Oldest => true,
            Next::From(first) => version >= first,
            Next::After(last) => version > last,
            Next::Nothing => false,
        }
    }

    fn advance(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            let mut cursor = match self.cursor.take() {
                Some(cursor) if !cursor.is_void() => cursor,
                _ => self.seek()?,
            };
            let Some(head) = cursor.head()? else {
                let more = cursor.advance()?;
                let void = cursor.is_void();
                self.cursor = Some(cursor);
                if more || void {
                    continue;
                }
                return Ok(None);
            };
            let version = head.stamp.version;
            let beyond = match self.end {
                Bound::Unbounded => false,
                Bound::Included(end) => version > end,
                Bound::Excluded(end) => version >= end,
            };
            if beyond {
                self.next = Next::Nothing;
                return Ok(None);
            }
            let found = if self.wants(version) { Some(entry(&cursor, head)?) } else { None };
            cursor.step(&head);
            self.cursor = Some(cursor);
            if found.is_some() {
                self.next = Next::After(version);
                return Ok(found);
            }
        }
    }
}

impl Iterator for Iter {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.next, Next::Nothing) {
            return None;
        }
        let result = self.shared.life.check().and_then(|()| self.advance());
        if result.is_err() {
            self.next = Next::Nothing;
            self.cursor = None;
        }
        result.transpose()
    }
}
