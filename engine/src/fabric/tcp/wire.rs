//! The 16-byte header of every message.
//!
//! | kind | `owner` | meaning | followed by |
//! |---|---|---|---|
//! | 1 | 0 | a write to the sender's row | `len` bytes |
//! | 2 | a slot | a request for data of that slot's row | nothing |
//! | 3 | a slot | the answer to a request; the other fields repeat those of the request | `len` bytes |

use crate::fabric::{Slot, TableId, TableSpec};
use std::ops::Range;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, transmute};

pub(super) const HEADER_LEN: usize = size_of::<Raw>();

/// A header on the wire.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Raw {
    kind: u8,
    owner: u8,
    table: U16,
    len: U32,
    offset: U64,
}

const KIND_WRITE: u8 = 1;
const KIND_REQUEST: u8 = 2;
const KIND_ANSWER: u8 = 3;

/// The longest row of which a header can name every range.
pub(super) const ROW_LEN_MAX: usize = u32::MAX as usize;

/// A write or an answer with a checked header, or the rest of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The index of the table among the specs, not its number.
    pub(super) table: usize,
    /// The range of the row that is still missing; the next byte goes to its start.
    pub(super) range: Range<usize>,
    /// True for columns, which are stored as whole words; false for data.
    pub(super) columns: bool,
    /// True for an answer, which goes to the row of the request and not to the peer's row.
    pub(super) answer: bool,
}

/// A range of a row's data, as requests and answers name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The index of the table among the specs, not its number.
    pub(super) table: usize,
    pub(super) id: TableId,
    /// Any value from 0 to 255; the receiver checks only that it has a row of this slot.
    pub(super) owner: Slot,
    pub(super) range: Range<usize>,
}

/// The decoded header of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Header {
    Write(Target),
    Request(Place),
    Answer(Place),
}

/// The header of a write of `range`, in a row of at most [`ROW_LEN_MAX`] bytes.
pub(super) fn write(table: TableId, range: &Range<usize>) -> [u8; HEADER_LEN] {
    encode(KIND_WRITE, 0, table, range)
}

/// The header of a request for `place`.
pub(super) fn request(place: &Place) -> [u8; HEADER_LEN] {
    encode(KIND_REQUEST, place.owner, place.id, &place.range)
}

/// The header of the answer with the bytes of `place`.
pub(super) fn answer(place: &Place) -> [u8; HEADER_LEN] {
    encode(KIND_ANSWER, place.owner, place.id, &place.range)
}

fn encode(kind: u8, owner: Slot, table: TableId, range: &Range<usize>) -> [u8; HEADER_LEN] {
    let (len, offset) = ((range.len() as u32).into(), (range.start as u64).into());
    transmute!(Raw { kind, owner: owner as u8, table: table.0.into(), len, offset })
}

/// Decodes a peer's header; the error describes its violation of the protocol.
pub(super) fn decode(header: &[u8; HEADER_LEN], specs: &[TableSpec]) -> Result<Header, String> {
    let Raw { kind, owner, table, len, offset } = transmute!(*header);
    let (id, len, offset) = (table.get(), u64::from(len.get()), offset.get());
    let name = match kind {
        KIND_WRITE => "a write",
        KIND_REQUEST => "a request",
        KIND_ANSWER => "an answer",
        _ => return Err(format!("a header of the unknown kind {kind}")),
    };
    if kind == KIND_WRITE && owner != 0 {
        return Err(format!("a header with the reserved byte {owner}, not 0"));
    }
    let Some(table) = specs.iter().position(|spec| spec.id.0 == id) else {
        return Err(format!("{name} of the unknown table {id}"));
    };
    let TableSpec { columns_len, row_len, .. } = specs[table];
    let what = || format!("{name} of {len} bytes at {offset} of table {id}");
    if len == 0 || !len.is_multiple_of(8) || !offset.is_multiple_of(8) {
        return Err(format!("{}, which is not a whole number of aligned words", what()));
    }
    let Some(end) = offset.checked_add(len).filter(|&end| end <= row_len as u64) else {
        return Err(format!("{}, which has rows of {row_len} bytes", what()));
    };
    // Both fit in `usize`, since they are at most `row_len`.
    let range = offset as usize..end as usize;
    let columns = range.start < columns_len;
    if kind == KIND_WRITE {
        if columns && range.end > columns_len {
            return Err(format!("{}, across the end of its columns at {columns_len}", what()));
        }
        return Ok(Header::Write(Target { table, range, columns, answer: false }));
    }
    if columns {
        return Err(format!("{}, which has its data from {columns_len} on", what()));
    }
    let place = Place { table, id: TableId(id), owner: Slot::from(owner), range };
    Ok(if kind == KIND_REQUEST { Header::Request(place) } else { Header::Answer(place) })
}
