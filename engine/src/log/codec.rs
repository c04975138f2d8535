//! The format of a record on disk: a header of 64 bytes, the payload, and zeros up to a multiple of 8 bytes.
//!
//! All numbers are little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic |
//! | 4..8 | checksum (CRC-32C) of bytes 8..64, the record's position and the log's seed |
//! | 8..12 | checksum of the payload |
//! | 12..16 | checksum of the record before |
//! | 16..20 | length of the payload |
//! | 20..24 | sender |
//! | 24..40 | version: view, sequence |
//! | 40..48 | time in nanoseconds |
//! | 48..56 | position up to which the log was synced before this record's batch |
//! | 56, 57 | mode, kind |
//! | 58..64 | zero |
//!
//! The header's checksum covers the position and the seed (group, subgroup, member). So a record that was copied to
//! another place or from another log is not valid. The payload has a separate checksum: a reader can step from header
//! to header, and the search for evidence of damage reads only headers.

use super::{Kind, Record};
use crate::types::{MemberId, Mode, Version};

pub(super) const HEAD_BYTES: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"GREC");

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

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Appends a record to a batch, except the fields that [`finish`] fills in once the record's position is known.
///
/// `payload_checksum` is the checksum of the payload. The caller computes it outside of any lock.
pub(super) fn encode(batch: &mut Vec<u8>, record: &Record<'_>, payload_checksum: u32) {
    let start = batch.len();
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&MAGIC.to_le_bytes());
    head[8..12].copy_from_slice(&payload_checksum.to_le_bytes());
    // The caller has checked that the payload fits a segment. So its length has less than 32 bits.
    head[16..20].copy_from_slice(&(record.payload.len() as u32).to_le_bytes());
    head[20..24].copy_from_slice(&record.sender.0.to_le_bytes());
    head[24..32].copy_from_slice(&record.version.view.to_le_bytes());
    head[32..40].copy_from_slice(&record.version.sequence.to_le_bytes());
    head[40..48].copy_from_slice(&record.time_ns.to_le_bytes());
    head[56] = record.mode as u8;
    head[57] = record.kind as u8;
    batch.extend_from_slice(&head);
    batch.extend_from_slice(record.payload);
    batch.resize(start + record_bytes(record.payload.len()), 0);
}

/// The payload length and the stamp of the first record in an encoded batch.
pub(super) fn peek(batch: &[u8]) -> (usize, Stamp) {
    let version = Version { view: u64_at(batch, 24), sequence: u64_at(batch, 32) };
    (u32_at(batch, 16) as usize, Stamp { version, time_ns: u64_at(batch, 40) })
}

fn checksum(head: &[u8], position: u64, seed: u32) -> u32 {
    let mut covered = [0; HEAD_BYTES + 4];
    covered[..56].copy_from_slice(&head[8..HEAD_BYTES]);
    covered[56..64].copy_from_slice(&position.to_le_bytes());
    covered[64..].copy_from_slice(&seed.to_le_bytes());
    crc32c::crc32c(&covered)
}

/// Completes the first record in an encoded batch for its position in the log. Returns the record's checksum.
pub(super) fn finish(batch: &mut [u8], position: u64, seed: u32, previous: u32, synced: u64) -> u32 {
    batch[12..16].copy_from_slice(&previous.to_le_bytes());
    batch[48..56].copy_from_slice(&synced.to_le_bytes());
    let checksum = checksum(&batch[..HEAD_BYTES], position, seed);
    batch[4..8].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

/// The header at the start of `bytes`, if it is a valid one of this log at this position.
pub(super) fn decode(bytes: &[u8], position: u64, seed: u32) -> Option<Head> {
    let head = bytes.get(..HEAD_BYTES)?;
    if u32_at(head, 0) != MAGIC || u32_at(head, 4) != checksum(head, position, seed) {
        return None;
    }
    let (length, stamp) = peek(head);
    Some(Head {
        checksum: u32_at(head, 4),
        payload_checksum: u32_at(head, 8),
        previous: u32_at(head, 12),
        length: length as u32,
        stamp,
        synced: u64_at(head, 48),
        sender: MemberId(u32_at(head, 20)),
        mode: Mode::from_bits(u32::from(head[56]))?,
        kind: Kind::from_bits(head[57])?,
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
