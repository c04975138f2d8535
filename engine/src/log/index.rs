//! The index of a segment: an entry for every 16 KiB of records, at which the search for a version or a time begins.
//!
//! Version and time both grow with the position, so one index serves both. The index of a sealed segment is a file: a
//! header of 64 bytes and entries of 40 bytes. Each entry has its own checksum, so that a search verifies only the
//! entries that it reads. The checksums start from the checksum of the segment's last record, so an index of a
//! different history is not accepted. A missing or damaged index is rebuilt from the records.

use super::codec::{RawStamp, Stamp};
use super::disk::Disk;
use super::segment::{FORMAT, index_name};
use super::source::Source;
use crate::types::Version;
use std::io;
use std::sync::Arc;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

const HEAD_BYTES: usize = size_of::<Head>();
const ENTRY_BYTES: usize = size_of::<RawEntry>();
const MAGIC: [u8; 4] = *b"GIDX";

/// The header of the file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 4],
    /// CRC-32C of the rest of the header.
    checksum: U32,
    format: U32,
    _zeros: [u8; 4],
    /// The number of entries.
    count: U64,
    _more_zeros: [u8; 40],
}

/// An [`Entry`] on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    stamp: RawStamp,
    offset: U64,
    previous: U32,
    /// CRC-32C of the fields before.
    checksum: U32,
}
/// The bytes of records per index entry.
pub(super) const STRIDE_BYTES: u64 = 16 << 10;

/// The record at `offset` in the segment, with the checksum of the record before it in `previous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) stamp: Stamp,
    pub(super) offset: u64,
    pub(super) previous: u32,
}

/// Adds a record to the index of its segment, if it is far enough from the last entry.
pub(super) fn note(entries: &mut Vec<Entry>, entry: Entry) {
    if entries.last().is_none_or(|last| entry.offset >= last.offset + STRIDE_BYTES) {
        entries.push(entry);
    }
}

/// The target of a search.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key {
    Version(Version),
    /// The place before the first record of this version or a greater one.
    Before(Version),
    Time(u64),
}

impl Key {
    /// Whether a record with this stamp lies at or before the target.
    pub(super) fn reached_by(&self, stamp: Stamp) -> bool {
        match *self {
            Key::Version(version) => stamp.version <= version,
            Key::Before(version) => stamp.version < version,
            Key::Time(time_ns) => stamp.time_ns <= time_ns,
        }
    }
}

/// The index of a sealed segment.
pub(super) enum Index {
    File { source: Arc<Source>, count: usize, salt: u32 },
    Built(Vec<Entry>),
}

/// An entry's checksum is wrong.
pub(super) struct Damaged;

pub(super) fn salt(number: u64, seed: u32, end: u32) -> u32 {
    let start = crc32c::crc32c(&number.to_le_bytes());
    crc32c::crc32c_append(start, &[seed.to_le_bytes(), end.to_le_bytes()].concat())
}

impl Head {
    fn checksum(&self, salt: u32) -> u32 {
        crc32c::crc32c_append(salt, &self.as_bytes()[8..])
    }
}

impl RawEntry {
    fn checksum(&self, salt: u32) -> u32 {
        crc32c::crc32c_append(salt, &self.as_bytes()[..36])
    }
}

impl Index {
    /// Writes the index of a segment. `end` is the checksum of its last record.
    ///
    /// The file's name becomes durable with the next sync of names.
    pub(super) fn write(disk: &dyn Disk, number: u64, seed: u32, end: u32, entries: &[Entry]) -> io::Result<()> {
        let salt = salt(number, seed, end);
        let count = (entries.len() as u64).into();
        let mut head = Head { magic: MAGIC, format: FORMAT.into(), count, ..Head::new_zeroed() };
        head.checksum = head.checksum(salt).into();
        let mut bytes = head.as_bytes().to_vec();
        for &Entry { stamp, offset, previous } in entries {
            let (stamp, offset, previous) = (stamp.into(), offset.into(), previous.into());
            let mut entry = RawEntry { stamp, offset, previous, checksum: U32::ZERO };
            entry.checksum = entry.checksum(salt).into();
            bytes.extend_from_slice(entry.as_bytes());
        }
        let file = disk.create(&index_name(number), bytes.len() as u64)?;
        file.write_at(0, &bytes)?;
        file.sync()
    }

    /// Opens the index file. `None` if it is missing or damaged.
    pub(super) fn open(disk: &dyn Disk, number: u64, seed: u32, end: u32) -> Option<Index> {
        let source = Arc::new(Source::open(disk, &index_name(number)).ok()?);
        let len = source.len().ok()?;
        let salt = salt(number, seed, end);
        let bytes = source.view(0, HEAD_BYTES).ok()?;
        let head = Head::ref_from_bytes(&bytes).ok()?;
        if head.magic != MAGIC || head.format.get() != FORMAT || head.checksum.get() != head.checksum(salt) {
            return None;
        }
        let count = usize::try_from(head.count.get()).ok()?;
        if count.checked_mul(ENTRY_BYTES)?.checked_add(HEAD_BYTES)? as u64 != len {
            return None;
        }
        Some(Index::File { source, count, salt })
    }

    fn len(&self) -> usize {
        match self {
            Index::File { count, .. } => *count,
            Index::Built(entries) => entries.len(),
        }
    }

    fn entry(&self, n: usize) -> Result<Entry, Damaged> {
        let (source, salt) = match self {
            Index::Built(entries) => return entries.get(n).copied().ok_or(Damaged),
            Index::File { source, salt, .. } => (source, *salt),
        };
        let bytes = source.view((HEAD_BYTES + n * ENTRY_BYTES) as u64, ENTRY_BYTES).map_err(|_| Damaged)?;
        let entry = RawEntry::ref_from_bytes(&bytes).map_err(|_| Damaged)?;
        if entry.checksum.get() != entry.checksum(salt) {
            return Err(Damaged);
        }
        Ok(Entry { stamp: entry.stamp.into(), offset: entry.offset.get(), previous: entry.previous.get() })
    }

    /// The last entry that is not behind the target.
    pub(super) fn search(&self, key: Key) -> Result<Option<Entry>, Damaged> {
        let (mut low, mut high, mut found) = (0, self.len(), None);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle)?;
            if key.reached_by(entry.stamp) {
                (low, found) = (middle + 1, Some(entry));
            } else {
                high = middle;
            }
        }
        Ok(found)
    }
}

/// Like [`Index::search`], for the entries of the last segment.
pub(super) fn search(entries: &[Entry], key: Key) -> Option<Entry> {
    let behind = entries.partition_point(|entry| key.reached_by(entry.stamp));
    entries[..behind].last().copied()
}
