//! The format of a record on disk: a header of 64 bytes, the payload, and zeros up to a multiple of 8 bytes.
//!
//! The header's checksum covers the position and the seed (group, subgroup, member). So a record that was copied to
//! another place or from another log is not valid. The payload has a separate checksum: a reader can step from header
//! to header, and the search for evidence of damage reads only headers.

use super::{Kind, Record};
use crate::types::{MemberId, Mode, Version};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const HEAD_BYTES: usize = size_of::<RawHead>();
const MAGIC: [u8; 4] = *b"GREC";

/// A header on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    /// CRC-32C of the rest of the header, the record's position and the log's seed.
    checksum: U32,
    payload_checksum: U32,
    /// The checksum of the record before.
    previous: U32,
    /// Of the payload, in bytes.
    length: U32,
    sender: U32,
    stamp: RawStamp,
    /// The position up to which the log was synced before this record's batch.
    synced: U64,
    mode: u8,
    kind: u8,
    _zeros: [u8; 6],
}

/// A [`Stamp`] on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct RawStamp {
    view: U64,
    sequence: U64,
    time_ns: U64,
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) checksum: u32,
    pub(super) payload_checksum: u32,
    pub(super) previous: u32,
    pub(super) length: u32,
    pub(super) stamp: Stamp,
    pub(super) synced: u64,
    pub(super) sender: MemberId,
    pub(super) mode: Mode,
    pub(super) kind: Kind,
}

/// The version and time of a record. Both give its place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) version: Version,
    pub(super) time_ns: u64,
}

impl Stamp {
    /// Whether a record with this stamp may follow one with the stamp `last`.
    pub(super) fn follows(&self, last: Option<Stamp>) -> bool {
        last.is_none_or(|last| self.version > last.version && self.time_ns > last.time_ns)
    }
}

impl From<Stamp> for RawStamp {
    fn from(Stamp { version, time_ns }: Stamp) -> RawStamp {
        RawStamp { view: version.view.into(), sequence: version.sequence.into(), time_ns: time_ns.into() }
    }
}

impl From<RawStamp> for Stamp {
    fn from(RawStamp { view, sequence, time_ns }: RawStamp) -> Stamp {
        Stamp { version: Version { view: view.get(), sequence: sequence.get() }, time_ns: time_ns.get() }
    }
}

/// The 128-bit FNV-1a hash. It is part of the format on disk and must not change.
pub(crate) fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}
/// The bytes that a record with a payload of `payload` bytes takes on disk.
pub(super) fn record_bytes(payload: usize) -> usize {
    (HEAD_BYTES + payload).next_multiple_of(8)
}

/// Appends a record to a batch, except the fields that [`finish`] fills in once the record's position is known.
///
/// `payload_checksum` is the checksum of the payload. The caller computes it outside of any lock.
pub(super) fn encode(batch: &mut Vec<u8>, record: &Record<'_>, payload_checksum: u32) {
    let start = batch.len();
    let Record { version, time_ns, sender, mode, kind, payload } = *record;
    let head = RawHead {
        magic: MAGIC,
        payload_checksum: payload_checksum.into(),
        // The caller has checked that the payload fits a segment. So its length has less than 32 bits.
        length: (payload.len() as u32).into(),
        sender: sender.0.into(),
        stamp: Stamp { version, time_ns }.into(),
        mode: mode as u8,
        kind: kind as u8,
        ..RawHead::new_zeroed()
    };
    batch.extend_from_slice(head.as_bytes());
    batch.extend_from_slice(payload);
    batch.resize(start + record_bytes(payload.len()), 0);
}

/// The payload length and the stamp of the first record in an encoded batch; `None` if the batch is empty.
pub(super) fn peek(batch: &[u8]) -> Option<(usize, Stamp)> {
    let (head, _) = RawHead::ref_from_prefix(batch).ok()?;
    Some((head.length.get() as usize, head.stamp.into()))
}

fn checksum(head: &RawHead, position: u64, seed: u32) -> u32 {
    let mut covered = [0; HEAD_BYTES + 4];
    covered[..56].copy_from_slice(&head.as_bytes()[8..]);
    covered[56..64].copy_from_slice(&position.to_le_bytes());
    covered[64..].copy_from_slice(&seed.to_le_bytes());
    crc32c::crc32c(&covered)
}

/// Completes the first record in an encoded batch for its position in the log. Returns the record's checksum; `None` if
/// the batch is empty.
pub(super) fn finish(batch: &mut [u8], position: u64, seed: u32, previous: u32, synced: u64) -> Option<u32> {
    let (head, _) = RawHead::mut_from_prefix(batch).ok()?;
    (head.previous, head.synced) = (previous.into(), synced.into());
    let checksum = checksum(head, position, seed);
    head.checksum = checksum.into();
    Some(checksum)
}

/// The header at the start of `bytes`, if it is a valid one of this log at this position.
pub(super) fn decode(bytes: &[u8], position: u64, seed: u32) -> Option<Head> {
    let (head, _) = RawHead::ref_from_prefix(bytes).ok()?;
    if head.magic != MAGIC || head.checksum.get() != checksum(head, position, seed) {
        return None;
    }
    Some(Head {
        checksum: head.checksum.get(),
        payload_checksum: head.payload_checksum.get(),
        previous: head.previous.get(),
        length: head.length.get(),
        stamp: head.stamp.into(),
        synced: head.synced.get(),
        sender: MemberId(head.sender.get()),
        mode: Mode::from_bits(u32::from(head.mode))?,
        kind: Kind::from_bits(head.kind)?,
    })
}

impl Head {
    /// The size of the whole record in bytes.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(self.length as usize) as u64
    }

    pub(super) fn record<'a>(&self, payload: &'a [u8]) -> Record<'a> {
        let Stamp { version, time_ns } = self.stamp;
        Record { version, time_ns, sender: self.sender, mode: self.mode, kind: self.kind, payload }
    }
}
