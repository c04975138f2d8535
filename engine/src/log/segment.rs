//! The files of a log: their names, and the header of a segment.
//!
//! A segment is a file of fixed size, `{number:016x}.segment`. Its first page of 4096 bytes is its header: magic,
//! checksum, format, flags, identity, number, size, the end of the segment before it (position, checksum, version,
//! time), and the first segment that the log still had.
//!
//! A segment is created under a temporary name. It is renamed once its header is durable, and that happens after the
//! whole segment before it is durable. So a segment that has a successor is complete.

use super::codec::{Stamp, u32_at, u64_at};
use crate::error::Error;
use crate::types::{MemberId, Version};

/// The size of the first page in bytes. It contains only the header.
pub(super) const PAGE_BYTES: u64 = 4096;
/// The format that this code writes, and the highest that it reads.
pub(super) const FORMAT: u32 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"GSEG");
/// The smallest and the largest size of a segment in bytes.
pub(super) const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 2 * PAGE_BYTES..=1 << 31;

/// The owner of a log: a group, a subgroup and a member. A log is not opened under another identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// The group: its random id and a hash of its name (see [`Identity::of_group`]).
    ///
    /// Zeros for a log without a group.
    pub group: [u8; 16],
    /// The subgroup's number.
    pub subgroup: u32,
    /// The member's number.
    pub member: u64,
}

impl Identity {
    pub(super) const BYTES: usize = 28;

    /// The identity of the log of `member` in the group with this id and name.
    pub fn of_group(group_id: u64, name: &str, member: MemberId) -> Identity {
        let mut group = [0; 16];
        group[..8].copy_from_slice(&group_id.to_le_bytes());
        group[8..].copy_from_slice(&name_hash(name).to_le_bytes());
        Identity { group, subgroup: 0, member: u64::from(member.0) }
    }

    /// The group's id.
    pub fn group_id(&self) -> u64 {
        u64_at(&self.group, 0)
    }

    /// The same identity with another group id. The group's name stays.
    pub(crate) fn with_group_id(mut self, group_id: u64) -> Identity {
        self.group[..8].copy_from_slice(&group_id.to_le_bytes());
        self
    }

    /// Whether the group has this name.
    pub fn is_of(&self, name: &str) -> bool {
        u64_at(&self.group, 8) == name_hash(name)
    }

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.group);
        bytes[16..20].copy_from_slice(&self.subgroup.to_le_bytes());
        bytes[20..].copy_from_slice(&self.member.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Identity {
        let mut group = [0; 16];
        group.copy_from_slice(&bytes[..16]);
        Identity { group, subgroup: u32_at(bytes, 16), member: u64_at(bytes, 20) }
    }

    /// The start value of every record's checksum.
    pub(super) fn seed(self) -> u32 {
        crc32c::crc32c(&self.to_bytes())
    }

    /// Refuses a file that belongs to another log.
    pub(super) fn check(self, file: &str, theirs: Identity) -> Result<(), Error> {
        let hex = |group: [u8; 16]| group.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (key, ours, theirs) = if theirs.group != self.group {
            ("group", hex(self.group), hex(theirs.group))
        } else if theirs.subgroup != self.subgroup {
            ("subgroup", self.subgroup.to_string(), theirs.subgroup.to_string())
        } else if theirs.member != self.member {
            ("member", self.member.to_string(), theirs.member.to_string())
        } else {
            return Ok(());
        };
        Err(Error::LogForeign { file: file.to_owned(), key, ours, theirs })
    }
}

fn name_hash(name: &str) -> u64 {
    let hash = super::codec::hash(name.as_bytes());
    (hash >> 64) as u64 ^ hash as u64
}

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The byte address over all segments: segment number times segment size, plus the offset in the file.
    pub(super) position: u64,
    /// The record before this place; `None` at the beginning of the log.
    pub(super) last: Option<Stamp>,
    /// The checksum of that record; 0 if there is none.
    pub(super) checksum: u32,
}

/// The first page of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) identity: Identity,
    pub(super) number: u64,
    pub(super) segment_bytes: u64,
    /// The end of the segment before.
    pub(super) before: End,
    /// The first segment that was not trimmed when this one was created.
    pub(super) low: u64,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES as usize];
        let last = self.before.last;
        let stamp = last.unwrap_or(Stamp { version: Version::default(), time_ns: 0 });
        page[..4].copy_from_slice(&MAGIC.to_le_bytes());
        page[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        page[12..16].copy_from_slice(&u32::from(last.is_some()).to_le_bytes());
        page[16..44].copy_from_slice(&self.identity.to_bytes());
        page[44..48].copy_from_slice(&self.before.checksum.to_le_bytes());
        let words = [
            self.number,
            self.segment_bytes,
            self.before.position,
            stamp.version.view,
            stamp.version.sequence,
            stamp.time_ns,
            self.low,
        ];
        for (word, place) in words.iter().zip(page[48..].chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&page[8..]);
        page[4..8].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Decodes the first page of `file`, which should be segment `number`.
    pub(super) fn decode(file: &str, number: u64, page: &[u8]) -> Result<Header, Error> {
        let damaged = |what: &str| Err(Error::LogDamaged { file: file.to_owned(), offset: 0, what: what.to_owned() });
        if u32_at(page, 0) != MAGIC {
            return damaged("the file does not begin with a segment header");
        }
        // The format is checked before the checksum, which a later format may store elsewhere.
        check_format(file, u32_at(page, 8))?;
        if u32_at(page, 4) != crc32c::crc32c(&page[8..]) {
            return damaged("the checksum of the segment's header is wrong");
        }
        let word = |n: usize| u64_at(page, 48 + 8 * n);
        let version = Version { view: word(3), sequence: word(4) };
        let last = (u32_at(page, 12) == 1).then_some(Stamp { version, time_ns: word(5) });
        let header = Header {
            identity: Identity::from_bytes(&page[16..44]),
            number: word(0),
            segment_bytes: word(1),
            before: End { position: word(2), last, checksum: u32_at(page, 44) },
            low: word(6),
        };
        if header.number != number {
            return damaged(&format!(
                "the file contains segment {:016x}, which belongs to another name",
                header.number
            ));
        }
        let room = u64::MAX / SEGMENT_BYTES.end();
        if !valid_size(header.segment_bytes) || header.low > number || number >= room {
            return damaged("the segment's header contradicts itself");
        }
        Ok(header)
    }

    /// The place at which the records of this segment begin.
    pub(super) fn start(&self) -> End {
        End { position: self.number * self.segment_bytes + PAGE_BYTES, ..self.before }
    }
}

pub(super) fn valid_size(segment_bytes: u64) -> bool {
    SEGMENT_BYTES.contains(&segment_bytes) && segment_bytes.is_multiple_of(PAGE_BYTES)
}

pub(super) fn check_format(file: &str, found: u32) -> Result<(), Error> {
    if found > FORMAT {
        return Err(Error::LogFormat { file: file.to_owned(), found, known: FORMAT });
    }
    Ok(())
}

/// The suffix of the temporary name of a file that is being created.
pub(super) const TEMPORARY: &str = ".tmp";

pub(super) fn segment_name(number: u64) -> String {
    format!("{number:016x}.segment")
}

pub(super) fn index_name(number: u64) -> String {
    format!("{number:016x}.index")
}

/// The kind of a log file, according to its name. Files with other names are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Segment(u64),
    Index(u64),
    Snapshot(Version),
    Blob,
    Marks,
    Temporary,
}

impl Named {
    pub(super) fn of(name: &str) -> Option<Named> {
        if let Some(whole) = name.strip_suffix(TEMPORARY) {
            // A temporary name may contain `~` and a number, because several checkpoints may be in progress.
            let whole = whole.split_once('~').map_or(whole, |(whole, _)| whole);
            return Named::of(whole).map(|_| Named::Temporary);
        }
        if name == super::marks::MARKS {
            return Some(Named::Marks);
        }
        let (stem, what) = name.rsplit_once('.')?;
        match what {
            "segment" => hex(stem).map(Named::Segment),
            "index" => hex(stem).map(Named::Index),
            "snapshot" => {
                let (view, sequence) = stem.split_once('-')?;
                Some(Named::Snapshot(Version { view: hex(view)?, sequence: hex(sequence)? }))
            }
            "blob" => super::blobs::valid_name(stem).then_some(Named::Blob),
            _ => None,
        }
    }
}

fn hex(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain { u64::from_str_radix(digits, 16).ok() } else { None }
}
