//! What the log holds.

use crate::config::MemberId;
use crate::multicast::Mode;
use std::fmt;

/// The place of a record in the log, and in the group's history: versions grow from record to record, with gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// The view in which the message was delivered; 0 in a log without a group.
    pub view: u64,
    /// Its number in the total order.
    pub sequence: u64,
}

impl Version {
    /// The least version that is greater, in the same view.
    pub(crate) fn next(self) -> Version {
        Version { sequence: self.sequence.saturating_add(1), ..self }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.view, self.sequence)
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message of the application.
    Message = 0,
    /// The end of a view: what was decided, in the protocol's own encoding. Its version is that of the next view's beginning.
    Decision = 1,
}

impl Kind {
    pub(crate) fn from_bits(bits: u8) -> Option<Kind> {
        [Kind::Message, Kind::Decision].get(usize::from(bits)).copied()
    }
}

/// One record, with the bytes in the hands of whoever appends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Greater than the version of the record before.
    pub version: Version,
    /// Hybrid logical time, in nanoseconds since 1970: greater than that of the record before.
    pub time_ns: u64,
    /// Who sent it.
    pub sender: MemberId,
    /// The mode it was sent with.
    pub mode: Mode,
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub payload: &'a [u8],
}
