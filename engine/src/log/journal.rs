//! What the protocol asks of a disk: it asks, goes on, and looks later how far the disk has come.

use super::{Record, Version};
use crate::error::Error;

/// A place in the order of what was asked: everything up to it is durable once [`Journal::durable`] has reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// A log that is written by somebody else: another thread, or the simulator. No call waits for the disk. What is asked is
/// done in the order of asking; consecutive appends are one batch, with one sync, if they are there together.
pub trait Journal: Send {
    /// Appends a record, whose bytes are copied before the call returns.
    fn append(&mut self, record: Record<'_>) -> Ticket;

    /// Cuts the log's end: every record whose version is `from` or greater is gone before anything that is asked later is done.
    fn cut(&mut self, from: Version) -> Ticket;

    /// Replaces the small file `name` as a whole: after a crash it has the old bytes or these.
    fn save(&mut self, name: &'static str, bytes: &[u8]) -> Ticket;

    /// Everything asked up to this ticket is synced. Grows only.
    fn durable(&self) -> Ticket;

    /// Why the disk does nothing more, ever: what is durable stays as it is.
    fn failure(&self) -> Option<Error>;

    /// Bytes that were appended and are not durable yet: whoever appends more than the disk can take waits by this.
    fn backlog_bytes(&self) -> usize;
}
