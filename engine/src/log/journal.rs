//! The interface between the protocol and a disk: the protocol makes a request, continues, and later checks the
//! progress.

use super::Record;
use crate::error::Error;
use crate::types::Version;

/// The position of a request in the order of requests. It is durable once [`Journal::durable`] has reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// A log that is written elsewhere: by another thread or by the simulator. No call waits for the disk.
///
/// Requests are executed in the order in which they are made. Consecutive appends that are waiting together form one
/// batch with one sync.
pub trait Journal: Send {
    /// Appends a record. Its bytes are copied before the call returns.
    fn append(&mut self, record: Record<'_>) -> Ticket;

    /// Removes every record with version `from` or a greater one, before any later request is executed.
    fn cut(&mut self, from: Version) -> Ticket;

    /// Replaces the small file `name` as a whole. After a crash it contains the old bytes or the new ones.
    fn save(&mut self, name: &'static str, bytes: &[u8]) -> Ticket;

    /// Every request up to this ticket is synced. The value never decreases.
    fn durable(&self) -> Ticket;

    /// The reason why the disk does nothing more, for ever. Data that is durable stays durable.
    fn failure(&self) -> Option<Error>;

    /// The bytes that were appended but are not durable yet. A caller that outpaces the disk slows down by this value.
    fn backlog_bytes(&self) -> usize;
}
