//! The 16 bytes before each write on the wire: `{kind u8, reserved u8, table u16, len u32, offset u64}`, little endian.

use crate::fabric::{TableId, TableSpec};
use std::ops::Range;

pub(super) const HEADER_LEN: usize = 16;

/// The one kind of header: a write of `len` bytes, which follow, at `offset` of the sender's row of `table`.
pub(super) const KIND_WRITE: u8 = 1;

/// The longest row whose ranges a header can name.
pub(super) const ROW_LEN_MAX: usize = u32::MAX as usize;

/// A write that was checked, or what is still to come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Index of the table among the specs, not its number.
    pub(super) table: usize,
    /// Where the next byte goes in the row.
    pub(super) range: Range<usize>,
    /// Columns, which are stored as words, rather than data.
    pub(super) columns: bool,
}

/// The header of a write of `range`, which lies in a row of at most [`ROW_LEN_MAX`] bytes.
pub(super) fn encode(table: TableId, range: &Range<usize>) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = KIND_WRITE;
    header[2..4].copy_from_slice(&table.0.to_le_bytes());
    header[4..8].copy_from_slice(&(range.len() as u32).to_le_bytes());
    header[8..].copy_from_slice(&(range.start as u64).to_le_bytes());
    header
}

/// What a peer's header asks for, or how it breaks the contract.
pub(super) fn decode(header: &[u8; HEADER_LEN], specs: &[TableSpec]) -> Result<Target, String> {
    let [kind, reserved, t0, t1, l0, l1, l2, l3, offset @ ..] = *header;
    let id = u16::from_le_bytes([t0, t1]);
    let len = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
    let offset = u64::from_le_bytes(offset);
    if kind != KIND_WRITE {
        return Err(format!("a header of the unknown kind {kind}"));
    }
    if reserved != 0 {
        return Err(format!("a header whose reserved byte is {reserved}, not 0"));
    }
    let Some(table) = specs.iter().position(|spec| spec.id.0 == id) else {
        return Err(format!("a write to the unknown table {id}"));
    };
    let TableSpec { columns_len, row_len, .. } = specs[table];
    if len == 0 || !len.is_multiple_of(8) || !offset.is_multiple_of(8) {
        return Err(format!(
            "a write of {len} bytes at {offset} of table {id}, which is no whole number of aligned words"
        ));
    }
    let Some(end) = offset.checked_add(len).filter(|&end| end <= row_len as u64) else {
        return Err(format!("a write of {len} bytes at {offset} of table {id}, whose rows have {row_len} bytes"));
    };
    // Both fit: they are at most `row_len`.
    let range = offset as usize..end as usize;
    let columns = range.start < columns_len;
    if columns && range.end > columns_len {
        return Err(format!(
            "a write of {len} bytes at {offset} of table {id}, across the end of its columns at {columns_len}"
        ));
    }
    Ok(Target { table, range, columns })
}
