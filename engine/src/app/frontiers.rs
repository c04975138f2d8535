//! The progress of a group's log, as an application sees it.

/// The progress of a group with a log, as this member knows it.
///
/// `stable`, `persisted`, `persisted_all` and `durable` are sequence numbers of the total order: every message numbered
/// below has reached that stage. No value ever decreases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frontiers {
    /// The number of the present view.
    pub view: u64,
    /// Received by every member, and handed to the log of this member.
    pub stable: u64,
    /// On this member's disk.
    pub persisted: u64,
    /// On the disks of all voters: no failure can undo it.
    pub persisted_all: u64,
    /// On the disks of all voters, or of `log.durable_members` of them if that is configured.
    pub durable: u64,
    /// The closed time: up to it, the log is the same at every member, permanently. No record with this stamp or an
    /// earlier one will be added. In nanoseconds since 1970, by the group's hybrid logical clock.
    pub closed_ns: u64,
}
