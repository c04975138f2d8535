//! The content of the log.

use crate::types::{MemberId, Mode, Version};

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message of the application.
    Message = 0,
    /// The decision that ends a view, in the protocol's own encoding. Its version is that of the next view's beginning.
    Decision = 1,
}

impl Kind {
    pub(crate) fn from_bits(bits: u8) -> Option<Kind> {
        [Kind::Message, Kind::Decision].get(usize::from(bits)).copied()
    }
}

/// One record. The payload is borrowed from the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The version, greater than that of the record before.
    pub version: Version,
    /// The hybrid logical time, in nanoseconds since 1970. It is greater than that of the record before.
    pub time_ns: u64,
    /// The member that sent the message.
    pub sender: MemberId,
    /// The mode with which the message was sent.
    pub mode: Mode,
    /// The kind of the record.
    pub kind: Kind,
    /// The record's bytes.
    pub payload: &'a [u8],
}

/// A record that owns its payload.
pub(crate) struct OwnedRecord {
    pub(crate) version: Version,
    pub(crate) time_ns: u64,
    pub(crate) sender: MemberId,
    pub(crate) mode: Mode,
    pub(crate) kind: Kind,
    pub(crate) payload: Box<[u8]>,
}

impl OwnedRecord {
    pub(crate) fn record(&self) -> Record<'_> {
        let OwnedRecord { version, time_ns, sender, mode, kind, ref payload } = *self;
        Record { version, time_ns, sender, mode, kind, payload }
    }
}

impl From<Record<'_>> for OwnedRecord {
    fn from(record: Record<'_>) -> OwnedRecord {
        let Record { version, time_ns, sender, mode, kind, payload } = record;
        OwnedRecord { version, time_ns, sender, mode, kind, payload: payload.into() }
    }
}
