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
