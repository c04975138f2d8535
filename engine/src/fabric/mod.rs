//! One-sided ordered writes between members: the only thing the protocol sees of a transport.
//!
//! # Contract
//!
//! * Each process of a group has a *slot*, and in every *table* the [`Row`] of that slot. Rows last as long as the process
//!   does: views come and go over the same memory. A process is known to another once it is *attached*
//!   ([`Fabric::attach`]); then each holds a copy of the other's rows. Only its owner writes a row, in its own memory, and
//!   pushes ranges of it with [`Fabric::write`] to the same place of its peers' copies.
//! * **Order.** Writes to one peer become visible there in the order they were posted. Inside one write no order holds
//!   and a reader may see part of it; only an aligned 8-byte word is atomic, and only in the *columns*, the first
//!   [`TableSpec::columns_len`] bytes of a row. What follows them is *data*: bytes without any order of their own.
//!   Hence: data first, then, in a later write, the counter that guards it. The reader loads the counter with Acquire,
//!   then the data.
//! * **Columns precede data.** Whatever guards something lies at a lower offset than what it guards, so that a copy taken
//!   front to back (as [`Fabric::sever`] takes on shared memory) never holds a counter without its data.
//! * **Overwrite.** A [`Source::Snapshot`] write carries the bytes its source had when it was posted. The source of a
//!   [`Source::Stable`] write does not change until [`Fabric::completed`] has reached its ticket. On shared memory a
//!   store to one's own row is itself visible: what must not be seen yet is kept outside the row.
//! * **Ownership.** A peer can write its own rows only. A write out of range, to an unknown table, or one that crosses the
//!   end of the columns is a breach: the peer is severed and reported.
//! * **Fetch.** [`Fabric::fetch`] copies data of any row from a peer's memory to the own copy of that row: for recovery, when
//!   the row's owner is gone. The peer's protocol takes no part in it, and the bytes are those that its row holds at some
//!   time between the call and the event. The owner's row must be attached at both (a request for another is a breach),
//!   and by one process: a fetch keeps to the rows that it found at either end. It ends with [`Event::Fetched`], or with
//!   the link; fetches from one peer end in the order of the calls. It starts with the next
//!   [`Fabric::submit`] or [`Fabric::poll`].
//! * **Sever.** When [`Fabric::sever`] has returned, no write of that peer lands any more; what was received stays
//!   readable at the address it had, here and by `fetch`, until the slot is attached anew.
//! * **Release.** As sever, but what was queued for the peer before still goes out if it takes it, then its link ends: it is
//!   to learn that the others go on without it. Nobody waits for the peer: the sources may change as if it had been sent,
//!   the slot may be attached anew, and nothing is reported of it any more. While the fabric is polled it goes on.
//! * **Relink.** [`Fabric::relink`] makes a new connection the link to the process that is attached already, after the link
//!   to it broke at one end or at both. Both ends call it, each when it likes. Unlike *attach* it zeroes nothing: the own copy
//!   of the peer's rows keeps its contents, and so does the peer's copy of the own rows. The old link is severed first. What
//!   was queued for it is dropped, and its stable writes are complete; when the call has returned, nothing that the peer wrote
//!   through it lands any more. Fetches that were under way from the peer are gone without an event of their own. What is
//!   written before the other end has called `relink` too waits for it, and lands after that end has severed the old link.
//!   A write that was lost with the old link is not repeated: whoever calls `relink` writes again what the peer must have.
//! * **Renew.** Where rows are shared, a process to which nobody pays attention any more may still read one's own row.
//!   [`Fabric::renew`] gives the row of a table new memory, with the same columns and zeros for data; nothing that is stored
//!   from then on is seen in the old one. Peers go on with the old memory until they ask [`Fabric::renewed`] for the new. A peer
//!   that has seen anything that the owner stored after `renew` returned, in another row, is given the new memory, or told to wait:
//!   it may come late, or, if it was lost, over a link that is made again. While the owner is polled it goes on.
//! * **Link down.** A link that breaks by itself is reported once, as [`Event::LinkDown`], after everything that arrived
//!   before it broke has become visible.
//! * **Wake.** After [`Fabric::arm`], followed by a [`Fabric::poll`] that found nothing and a look at the rows that found
//!   nothing new, any later write of a peer, or a broken link, makes [`Fabric::fd`] readable until the next `poll`. No
//!   wake-up is lost as long as the writer is polled or sleeps: one-sided writes interrupt nobody by themselves.
//!
//! A fabric is used by one thread at a time, the one that polls the node.

pub mod meet;
mod memory;
mod peers;
mod setup;
pub mod shm;
pub mod tcp;
mod turns;
pub mod verbs;

#[cfg(test)]
#[path = "../../tests/conformance/mod.rs"]
mod conformance;

pub use memory::Row;
pub use setup::{PeerFault, SetupError};

use crate::error::Error;
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A member's position in the view, 0 for the first.
pub type Rank = usize;

/// A process's place in every table, below [`SLOTS`]; it keeps it from its join to its end, whatever its rank.
pub type Slot = usize;

/// How many slots there are.
pub const SLOTS: usize = crate::config::MEMBERS_MAX;

/// A table's number, the same at every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u16);

/// Shape of a table: the same at every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSpec {
    /// Its number.
    pub id: TableId,
    /// Bytes of the columns, a multiple of 64: words that are never seen torn.
    pub columns_len: usize,
    /// Bytes of a row, columns included, a multiple of 64.
    pub row_len: usize,
}

/// The index of a table.
///
/// # Panics
/// If there is no such table: an error of this library.
pub(crate) fn index_of(specs: &[TableSpec], table: TableId) -> usize {
    let index = specs.iter().position(|spec| spec.id == table).unwrap_or(usize::MAX);
    assert!(index < specs.len(), "there is no {table:?}");
    index
}

impl TableSpec {
    /// Whether the lengths are what they must be.
    pub(crate) fn fits(&self) -> bool {
        let TableSpec { columns_len, row_len, .. } = *self;
        row_len > 0 && row_len.is_multiple_of(64) && columns_len.is_multiple_of(64) && columns_len <= row_len
    }

    /// Holds a write to the contract of [`Fabric::write`].
    ///
    /// # Panics
    /// If the write breaks it: an error of this library.
    #[inline]
    pub(crate) fn check_write(&self, range: &Range<usize>, source: Source) {
        let TableSpec { id, columns_len, row_len } = *self;
        let Range { start, end } = *range;
        assert!(start <= end && end <= row_len, "{range:?} of {id:?}, whose rows have {row_len} bytes");
        assert!(
            start.is_multiple_of(8) && end.is_multiple_of(8),
            "{range:?} of {id:?} is no whole number of aligned words"
        );
        assert!(start >= columns_len || end <= columns_len, "{range:?} of {id:?} crosses {columns_len}");
        assert!(source == Source::Stable || range.len() <= SNAPSHOT_MAX, "a snapshot of {range:?} of {id:?}");
    }

    /// Holds a range to the contract of [`Fabric::fetch`].
    ///
    /// # Panics
    /// If the range breaks it: an error of this library.
    pub(crate) fn check_fetch(&self, range: &Range<usize>) {
        let TableSpec { id, columns_len, row_len } = *self;
        let Range { start, end } = *range;
        assert!(columns_len <= start && start < end && end <= row_len, "{range:?} of {id:?} is no range of its data");
        assert!(
            start.is_multiple_of(8) && end.is_multiple_of(8),
            "{range:?} of {id:?} is no whole number of aligned words"
        );
    }
}

/// What leads to a peer, once both ends have made sure of each other; the next byte on it is the fabric's.
#[derive(Debug)]
pub enum Connection {
    /// For [`tcp::TcpFabric`].
    Tcp(TcpStream),
    /// For [`shm::ShmFabric`]: made by [`shm::Offer::exchange`].
    Shm(shm::Prepared),
    /// For [`verbs::VerbsFabric`]: made by [`verbs::Offer::exchange`].
    Verbs(Box<verbs::Prepared>),
    /// For the simulated fabric: the number of the process.
    #[cfg(test)]
    Simulated(usize),
    /// For the simulated fabric, to make a link again: the number of the process, and that of the connection.
    #[cfg(test)]
    SimulatedAgain(usize, u64),
}

/// What holds for the source of a write between its posting and its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The bytes are taken when the write is posted (copied or inlined). For columns, up to [`SNAPSHOT_MAX`] bytes.
    Snapshot,
    /// The bytes may be taken at any time until the write completes; they do not change before that.
    Stable,
}

/// The most bytes of one [`Source::Snapshot`] write.
pub const SNAPSHOT_MAX: usize = 1024;

/// Position in the sequence of all writes that one fabric posted, to whatever peer; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// What a fabric reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The link broke by itself: the peer's process died, closed it, or the network gave up.
    LinkDown {
        /// The peer.
        peer: Slot,
        /// What was observed.
        cause: String,
    },
    /// The peer broke the contract; it is severed already.
    Breach {
        /// The peer.
        peer: Slot,
        /// What it did.
        what: String,
    },
    /// What [`Fabric::fetch`] was asked for is in the own copy.
    Fetched {
        /// The peer that was asked.
        peer: Slot,
        /// The arguments of the call.
        table: TableId,
        /// See `table`.
        owner: Slot,
        /// See `table`.
        range: Range<usize>,
    },
}

/// The memory of a peer's row: see [`Fabric::renewed`].
#[derive(Clone)]
pub enum Renewed {
    /// That which `attach`, `relink` or an earlier call has returned.
    Same,
    /// This one from now on.
    New(Arc<Row>),
    /// Another one, which is not here yet.
    Awaited,
}

/// What a fabric has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FabricStats {
    /// Writes posted, one per peer.
    pub writes_posted: u64,
    /// Bytes put on the wire, headers included; on shared memory the bytes of the ranges that were announced.
    pub bytes_sent: u64,
    /// Bytes taken from the wire, headers included; zero on shared memory.
    pub bytes_received: u64,
    /// System calls that moved data or woke a peer; on RDMA it is the device's driver who makes them, if any.
    pub system_calls: u64,
    /// Requests given to an RDMA device: writes, wake-ups and reads.
    pub work_requests: u64,
    /// Calls that gave an RDMA device its requests, each one doorbell.
    pub doorbells: u64,
}

/// The contract of the module's documentation. Calls for a peer that is down or severed do nothing.
pub trait Fabric: Send {
    /// Makes the process at the other end of `connection` the peer in `peer`, and returns its rows in the order of the
    /// tables, all zero but for what it has written. Who had the slot before is severed; its rows stay with whoever still
    /// holds them.
    ///
    /// # Errors
    /// [`Error::Misuse`] for the own slot, one out of range, or a connection of another fabric; [`Error::Io`] when the system
    /// refuses memory or descriptors.
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error>;

    /// Makes `connection` the link to the very process that is attached in `peer`, whose rows keep their contents: see
    /// *Relink*. Returns the rows in the order of the tables, as the caller knows them already or as other maps of the same
    /// memory: the caller uses these from now on.
    ///
    /// # Errors
    /// [`Error::Misuse`] if nobody is attached in `peer`, or for a connection of another fabric or to another process;
    /// [`Error::Io`] when the system refuses memory or descriptors. The old link is down after an error, too.
    fn relink(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error>;

    /// Queues a write of `range` of one's own row of `table` to the same place of `peer`'s copy.
    ///
    /// # Panics
    /// If the range is out of the row, crosses the end of the columns, is no whole number of aligned words, or is a
    /// snapshot of more than [`SNAPSHOT_MAX`] bytes: errors of the caller, which is this library.
    fn write(&mut self, peer: Slot, table: TableId, range: Range<usize>, source: Source) -> Ticket;

    /// Starts all writes queued since the last call, with as few system calls or doorbells as the transport allows.
    fn submit(&mut self);

    /// All [`Source::Stable`] writes up to this ticket have been taken: their sources may change.
    fn completed(&self) -> Ticket;

    /// Writes with stable sources, or whatever waits here, to peers that are up: they would be lost if this process died now.
    fn has_unsent(&self) -> bool;

    /// Lets received writes land, sends what is queued, and appends what happened to `events`. True when anything was sent
    /// or is known to have landed; where peers write without anybody's help, only a look at the rows finds it.
    fn poll(&mut self, events: &mut Vec<Event>) -> bool;

    /// Copies `range`, whole words of the data of `owner`'s row of `table`, from `peer`'s memory: see *Fetch*.
    ///
    /// # Panics
    /// If the range is empty or not of the data, or the owner was never attached: errors of the caller, which is this library.
    fn fetch(&mut self, peer: Slot, table: TableId, owner: Slot, range: Range<usize>);

    /// Ends the link to `peer`: see the contract.
    fn sever(&mut self, peer: Slot);

    /// Ends the link to `peer` once it has heard what is queued for it: see the contract.
    fn release(&mut self, peer: Slot);

    /// Announces the orderly end: everything queued is sent, then the peers see the links go down.
    /// Until [`Fabric::closed`], `poll` must go on being called.
    fn close(&mut self);

    /// True once every link is down. A released one counts while its peer takes what was queued for it, and not when it
    /// takes nothing for the moment: it may be stopped.
    fn closed(&self) -> bool;

    /// Prepares for sleep: see *Wake*.
    fn arm(&mut self);

    /// Undoes [`Fabric::arm`]: peers need not wake this member any more.
    fn disarm(&mut self);

    /// Becomes readable when there is something to poll; `None` on a fabric that has no descriptor (the simulated one).
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether a row is one memory for all, so that it changes under its readers whenever its owner stores. Without a default:
    /// what protects readers of such memory depends on the answer.
    fn shares_rows(&self) -> bool;

    /// Gives the own row of `table` new memory where rows are shared, and all peers but the `departed` as well; `epoch` counts up
    /// with each call. `None`, and the row is as it was, where rows are copies, or none of the departed can read any more. See
    /// *Renew*.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses memory or descriptors: the row is as it was.
    fn renew(&mut self, table: TableId, epoch: u64, departed: &[Slot]) -> Result<Option<Arc<Row>>, Error>;

    /// The memory that the row of `peer` in `table` has in `epoch`. See *Renew*.
    fn renewed(&mut self, peer: Slot, table: TableId, epoch: u64) -> Renewed;

    /// Bytes that have come from `peer` over the network so far, by whatever link: a change is a sign of life, also where what
    /// comes is a part of something long that a slow network carries. 0 where the fabric cannot know, or where nothing is
    /// ever under way: on shared memory, and on RDMA, where the device takes no notice of the receiver.
    fn received_from(&self, peer: Slot) -> u64;

    /// Counters for the application.
    fn stats(&self) -> FabricStats;
}
