//! Reading the log, while it is written: in place, and every record checked before it is handed out.

use super::codec::Head;
use super::index::Key;
use super::source::Bytes;
use super::table::{Cursor, Shared};
use super::{Record, Version};
use crate::error::Error;
use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};
use std::sync::Arc;

/// Reads what is durable. Cheap to clone; any number may read while one appends.
///
/// Every call may give [`Error::LogDamaged`] or [`Error::Io`], and [`Error::LogTrimmed`] for what is no longer there.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

/// A record, with the memory that holds it: where the log is mapped, that of the file.
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

    /// Its version.
    pub fn version(&self) -> Version {
        self.head.stamp.version
    }

    /// Its time in nanoseconds since 1970.
    pub fn time_ns(&self) -> u64 {
        self.head.stamp.time_ns
    }
}

/// The payload.
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

    /// The first record whose version is `version` or greater.
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

    /// The last record whose version is `version` or less.
    pub fn last_at_or_before(&self, version: Version) -> Result<Option<Entry>, Error> {
        self.last_reached_by(Key::Version(version))
    }

    /// The last record whose time is `time_ns` (nanoseconds since 1970) or earlier: the state of that moment.
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
            // This segment's first record is behind the key: it is the last one of the segment before.
            (None, Some(last)) => self.get(last.version),
            (None, None) => Ok(None),
        }
    }

    /// The records of a range of versions, in order, as far as they are durable when the iterator comes to them. It ends at
    /// the end of the log; asked again later, it goes on with what was appended.
    pub fn iter(&self, range: impl RangeBounds<Version>) -> Iter {
        let next = match range.start_bound() {
            Bound::Unbounded => Next::Oldest,
            Bound::Included(&version) => Next::From(version),
            Bound::Excluded(&version) => Next::After(version),
        };
        Iter { shared: self.shared.clone(), next, cursor: None, end: range.end_bound().cloned() }
    }

    /// The version of the oldest record there is.
    pub fn oldest(&self) -> Result<Option<Version>, Error> {
        Ok(self.shared.oldest()?.head()?.map(|head| head.stamp.version))
    }

    /// The version of the last durable record, or of the last one before a trim left nothing.
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

/// See [`Reader::iter`]. After an error there is nothing more.
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
            // The version itself may be trimmed, if what follows is not.
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
