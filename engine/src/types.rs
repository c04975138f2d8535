//! The words that all rooms share: members, subgroups, delivery modes and versions.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;

/// The id of a member, as given in the configuration. It is unique within the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u32);

/// The number of a subgroup. So far the only one is 0, which contains every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubgroupId(pub u16);

/// The subgroup of all members. So far every group has this one only.
pub(crate) const EVERYBODY: SubgroupId = SubgroupId(0);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Formats the ids as "1, 2".
pub(crate) fn list(members: &[MemberId]) -> String {
    members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Formats the ids as "member 1" or "members 1, 2".
pub(crate) fn named(members: &[MemberId]) -> String {
    format!("member{} {}", if members.len() == 1 { "" } else { "s" }, list(members))
}

impl fmt::Display for SubgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The delivery mode of a message: when it may be delivered. All modes share one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Delivered as soon as it and all earlier messages of its sender are here. It may overtake messages of other
    /// senders.
    Fifo = 0,
    /// Delivered in the total order, as soon as everything before it is here.
    ///
    /// This is optimistic: the message can be lost together with all members that received it.
    Ordered = 1,
    /// Delivered in the total order, once every member has received it.
    Safe = 2,
    /// Delivered in the total order, once every member has received it and enough voters have it on disk.
    ///
    /// All voters, or as many as are configured. Only in a group with a log.
    Durable = 3,
}

impl Mode {
    pub(crate) fn from_bits(bits: u32) -> Option<Mode> {
        [Mode::Fifo, Mode::Ordered, Mode::Safe, Mode::Durable].get(bits as usize).copied()
    }
}

/// The position of a record in the log and in the group's history. Versions grow from record to record, with gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// The view in which the message was delivered; 0 in a log without a group.
    pub view: u64,
    /// Its number in the total order.
    pub sequence: u64,
}

impl Version {
    /// The next greater version in the same view.
    pub(crate) fn next(self) -> Version {
        Version { sequence: self.sequence.saturating_add(1), ..self }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.view, self.sequence)
    }
}

/// Identifies a message that this process has sent.
///
/// Sending returns it, and the delivery of the message here carries it. Tickets of one process grow in the order in
/// which its messages are delivered, with gaps. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(NonZeroU64);

impl Ticket {
    /// The ticket of this process's frame `number`, counted from 0.
    pub(crate) fn of_frame(number: u64) -> Ticket {
        Ticket(NonZeroU64::MIN.saturating_add(number))
    }

    /// The frame's number, counted from 0.
    pub(crate) fn frame(self) -> u64 {
        self.0.get() - 1
    }

    /// The ticket as a number; at least 1.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The ticket with a number from [`Ticket::get`]; `None` for 0.
    pub fn new(number: u64) -> Option<Ticket> {
        NonZeroU64::new(number).map(Ticket)
    }
}

/// The event that [`crate::Group::wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Until {
    /// The message has been delivered here, and the callback has returned.
    Delivered,
    /// The message, and all messages before it in the order, are durable. Only in a group with a log.
    Durable,
}

/// The number of members that must have received a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Copies {
    /// All members of the view.
    All,
    /// At least so many members, the sender included; all, if the view has fewer. At least 1.
    AtLeast(usize),
}
