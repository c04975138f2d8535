//! The files of a log: their names, and the header of a segment.
//!
//! A segment is a file of fixed size, `{number:016x}.segment`. Its first page of 4096 bytes is its header.
//!
//! A segment is created under a temporary name. It is renamed once its header is durable, and that happens after the
//! whole segment before it is durable. So a segment that has a successor is complete.

use super::codec::{RawStamp, Stamp};
use crate::error::Error;
use crate::types::{MemberId, Version};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

/// The size of the first page in bytes. It contains only the header.
pub(super) const PAGE_BYTES: u64 = 4096;
/// The format that this code writes, and the highest that it reads.
pub(super) const FORMAT: u32 = 1;
const MAGIC: [u8; 4] = *b"GSEG";
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

/// The parts of [`Identity::group`].
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Group {
    id: U64,
    name_hash: U64,
}

/// An [`Identity`] on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct RawIdentity {
    group: [u8; 16],
    subgroup: U32,
    member: U64,
}

impl From<Identity> for RawIdentity {
    fn from(Identity { group, subgroup, member }: Identity) -> RawIdentity {
        RawIdentity { group, subgroup: subgroup.into(), member: member.into() }
    }
}

impl From<RawIdentity> for Identity {
    fn from(RawIdentity { group, subgroup, member }: RawIdentity) -> Identity {
        Identity { group, subgroup: subgroup.get(), member: member.get() }
    }
}

impl Identity {
    /// The identity of the log of `member` in the group with this id and name.
    pub fn of_group(group_id: u64, name: &str, member: MemberId) -> Identity {
        let group = Group { id: group_id.into(), name_hash: name_hash(name).into() };
        Identity { group: transmute!(group), subgroup: 0, member: u64::from(member.0) }
    }

    /// The group's id.
    pub fn group_id(&self) -> u64 {
        self.halves().id.get()
    }

    /// The same identity with another group id. The group's name stays.
    pub(crate) fn with_group_id(mut self, group_id: u64) -> Identity {
        self.group = transmute!(Group { id: group_id.into(), ..self.halves() });
        self
    }

    /// Whether the group has this name.
    pub fn is_of(&self, name: &str) -> bool {
        self.halves().name_hash.get() == name_hash(name)
    }

    fn halves(&self) -> Group {
        transmute!(self.group)
    }

    /// The start value of every record's checksum.
    pub(super) fn seed(self) -> u32 {
        crc32c::crc32c(RawIdentity::from(self).as_bytes())
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

/// A [`Header`] on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Page {
    magic: [u8; 4],
    /// CRC-32C of the rest of the page.
    checksum: U32,
    format: U32,
    /// 1 if there is a record before.
    has_last: U32,
    identity: RawIdentity,
    before_checksum: U32,
    number: U64,
    segment_bytes: U64,
    before_position: U64,
    last: RawStamp,
    low: U64,
    _zeros: [u8; PAGE_BYTES as usize - 104],
}

const _: () = assert!(size_of::<Page>() == PAGE_BYTES as usize);

impl Page {
    fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[8..])
    }
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let End { position, last, checksum } = self.before;
        let mut page = Page {
            magic: MAGIC,
            format: FORMAT.into(),
            has_last: u32::from(last.is_some()).into(),
            identity: self.identity.into(),
            before_checksum: checksum.into(),
            number: self.number.into(),
            segment_bytes: self.segment_bytes.into(),
            before_position: position.into(),
            last: last.map_or_else(RawStamp::new_zeroed, RawStamp::from),
            low: self.low.into(),
            ..Page::new_zeroed()
        };
        page.checksum = page.checksum().into();
        page.as_bytes().to_vec()
    }

    /// Decodes the first page of `file`, which should be segment `number`.
    pub(super) fn decode(file: &str, number: u64, page: &[u8]) -> Result<Header, Error> {
        let damaged = |what: &str| Err(Error::LogDamaged { file: file.to_owned(), offset: 0, what: what.to_owned() });
        let Some(page) = Page::ref_from_bytes(page).ok().filter(|page| page.magic == MAGIC) else {
            return damaged("the file does not begin with a segment header");
        };
        // The format is checked before the checksum, which a later format may store elsewhere.
        check_format(file, page.format.get())?;
        if page.checksum.get() != page.checksum() {
            return damaged("the checksum of the segment's header is wrong");
        }
        let last = (page.has_last.get() == 1).then(|| Stamp::from(page.last));
        let before = End { position: page.before_position.get(), last, checksum: page.before_checksum.get() };
        let header = Header {
            identity: page.identity.into(),
            number: page.number.get(),
            segment_bytes: page.segment_bytes.get(),
            before,
            low: page.low.get(),
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
