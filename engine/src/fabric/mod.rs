//! One-sided ordered writes between members: everything that the protocol sees of a transport.
//!
//! # Contract
//!
//! * **Slots, tables and rows.** Each process of a group has one *slot*. In every *table* it owns the [`Row`] of that
//!   slot. A row lasts as long as its process: views change, the memory stays. After one process has *attached* another
//!   ([`Fabric::attach`]), each of the two holds a copy of the other's rows. Only the owner writes a row. It does so in
//!   its own memory, and pushes ranges of it with [`Fabric::write`] to the same place of its peers' copies.
//! * **Order.** Writes to one peer become visible there in the order in which they were posted. Within one write there
//!   is no order, and a reader may see a part of it. Only an aligned 8-byte word is atomic, and only in the *columns*,
//!   the first [`TableSpec::columns_len`] bytes of a row. The bytes after them are *data*, and have no order among
//!   themselves. Therefore a writer pushes the data first, and then, in a later write, the counter that guards it. A
//!   reader loads the counter with Acquire and then reads the data.
//! * **Columns precede data.** A guard lies at a lower offset than everything that it guards. So a copy that is taken
//!   from front to back, as [`Fabric::sever`] takes it on shared memory, never holds a counter without its data.
//! * **Overwrite.** A [`Source::Snapshot`] write carries the bytes that its source had when the write was posted. The
//!   source of a [`Source::Stable`] write must not change until [`Fabric::completed`] has reached the write's ticket.
//!   On shared memory a store to the own row is visible to peers at once, so values that peers must not see yet are
//!   kept outside the row.
//! * **Ownership.** A peer can write only its own rows. A write that is out of range, names an unknown table, or
//!   crosses the end of the columns is a protocol violation: the peer is severed and reported ([`Event::Violation`]).
//! * **Fetch.** [`Fabric::fetch`] copies data of any row from a peer's memory into the own copy of that row. It is
//!   meant for recovery, when the owner of the row is gone. The peer's protocol code takes no part in it. The bytes are
//!   those that the peer's row holds at some time between the call and the event. The owner must be attached at both
//!   ends (a request for a row that the peer has not attached is a protocol violation), and its slot must belong to the
//!   same process at both: at each end, a fetch uses the row that it found in that slot. It ends with
//!   [`Event::Fetched`], or with the link. Fetches from one peer end in the order of the calls. A fetch starts with the
//!   next [`Fabric::submit`] or [`Fabric::poll`].
//! * **Sever.** After [`Fabric::sever`] has returned, no write of that peer lands any more. The bytes received before
//!   stay readable at the same address, here and through `fetch`, until the slot is attached anew.
//! * **Release.** [`Fabric::release`] severs the peer as well, but the writes that were queued for it are still sent if
//!   the peer takes them, so that it can learn that the others continue without it. Then the link ends. Nothing waits
//!   for the peer: the sources of its writes may change as if they had been sent, the slot may be attached anew, and no
//!   further event names the peer. The sending continues while the fabric is polled.
//! * **Relink.** [`Fabric::relink`] replaces a broken link to the process that is attached already; the link may have
//!   broken at one end or at both. Both ends call it, at any time. Unlike *attach* it zeroes nothing: the own copy of
//!   the peer's rows and the peer's copy of the own rows keep their contents. The old link is severed first. Its queued
//!   writes are dropped, and its stable writes count as completed. After the call has returned, nothing that the peer
//!   wrote through the old link lands any more. Fetches that were under way from the peer are dropped without an event.
//!   Writes that are posted before the other end has called `relink` wait for that call, and land after the other end
//!   has severed its old link. Writes that were lost with the old link are not repeated: the caller of `relink` must
//!   write again everything that the peer must have.
//! * **Renew.** Where rows are shared memory, a departed process may still read the row of a member that ignores it.
//!   [`Fabric::renew`] gives the own row of a table new memory with the same columns and zeroed data. Nothing that is
//!   stored afterwards shows up in the old memory. Peers continue with the old memory until they ask for the new one
//!   with [`Fabric::renewed`]. A peer that has seen anything that the owner stored, in another row, after `renew`
//!   returned gets the new memory from `renewed`, or the answer that it must wait. The new memory may come late. If it
//!   was lost, it comes over the next link that is made between the two. It comes only while the owner is polled.
//! * **Link down.** A link that breaks by itself is reported once, as [`Event::LinkDown`], after everything that
//!   arrived before it broke has become visible.
//! * **Wake.** To sleep, a member calls [`Fabric::arm`], then a [`Fabric::poll`] that finds nothing, and then looks at
//!   the rows and finds nothing new. From then on any write of a peer, and any broken link, makes [`Fabric::fd`]
//!   readable until the next `poll`. A one-sided write alone interrupts nobody, so the writer's fabric sends the
//!   wake-up. None is lost as long as the writer is polled, or sleeps in the same way.
//!
//! A fabric is used by one thread at a time, the one that polls the node.

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
use crate::process::Private;
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A member's position in the view; the first member has 0.
pub type Rank = usize;

/// The index of a process in every table, below [`SLOTS`]. A process keeps it from its join to its end; its rank may
/// change.
pub type Slot = usize;

/// The number of slots.
pub const SLOTS: usize = crate::config::MEMBERS_MAX;

/// The number of a table, the same at every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u16);

/// The shape of a table, the same at every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSpec {
    /// The number of the table.
    pub id: TableId,
    /// Bytes of the columns, a multiple of 64. A word of the columns is never seen torn.
    pub columns_len: usize,
    /// Bytes of a row, columns included; a multiple of 64.
    pub row_len: usize,
}

/// The position of a table in `specs`.
///
/// # Panics
/// If there is no such table, which is a bug in this library.
pub(crate) fn index_of(specs: &[TableSpec], table: TableId) -> usize {
    let index = specs.iter().position(|spec| spec.id == table).unwrap_or(usize::MAX);
    assert!(index < specs.len(), "there is no {table:?}");
    index
}

impl TableSpec {
    /// Whether the lengths are valid: multiples of 64, and the columns no longer than the row.
    pub(crate) fn fits(&self) -> bool {
        let TableSpec { columns_len, row_len, .. } = *self;
        row_len > 0 && row_len.is_multiple_of(64) && columns_len.is_multiple_of(64) && columns_len <= row_len
    }

    /// Asserts that a write keeps to the contract of [`Fabric::write`].
    ///
    /// # Panics
    /// If it does not, which is a bug in this library.
    #[inline]
    pub(crate) fn check_write(&self, range: &Range<usize>, source: Source) {
        let TableSpec { id, columns_len, row_len } = *self;
        let Range { start, end } = *range;
        assert!(start <= end && end <= row_len, "{range:?} exceeds the rows of {id:?}, which have {row_len} bytes");
        assert!(
            start.is_multiple_of(8) && end.is_multiple_of(8),
            "{range:?} of {id:?} is not a whole number of aligned words"
        );
        assert!(start >= columns_len || end <= columns_len, "{range:?} of {id:?} crosses {columns_len}");
        assert!(source == Source::Stable || range.len() <= SNAPSHOT_MAX, "a snapshot of {range:?} of {id:?}");
    }

    /// Asserts that a range keeps to the contract of [`Fabric::fetch`].
    ///
    /// # Panics
    /// If it does not, which is a bug in this library.
    pub(crate) fn check_fetch(&self, range: &Range<usize>) {
        let TableSpec { id, columns_len, row_len } = *self;
        let Range { start, end } = *range;
        assert!(
            columns_len <= start && start < end && end <= row_len,
            "{range:?} of {id:?} is not a range of its data"
        );
        assert!(
            start.is_multiple_of(8) && end.is_multiple_of(8),
            "{range:?} of {id:?} is not a whole number of aligned words"
        );
    }
}

/// A connection to a peer, after both ends have verified each other. The next byte on it belongs to the fabric.
#[derive(Debug)]
pub enum Connection {
    /// For [`tcp::TcpFabric`].
    Tcp(Private<TcpStream>),
    /// For [`shm::ShmFabric`]; the result of [`shm::Offer::exchange`].
    Shm(shm::Prepared),
    /// For [`verbs::VerbsFabric`]; the result of [`verbs::Offer::exchange`].
    Verbs(Box<verbs::Prepared>),
    /// For the simulated fabric: the number of the process.
    #[cfg(test)]
    Simulated(usize),
    /// For a relink on the simulated fabric: the number of the process, and the number of the connection.
    #[cfg(test)]
    SimulatedAgain(usize, u64),
}

/// The rule for the source bytes of a write, from its posting to its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The bytes are taken when the write is posted (copied or inlined). For columns; at most [`SNAPSHOT_MAX`] bytes.
    Snapshot,
    /// The bytes may be taken at any time until the write completes. They must not change before that.
    Stable,
}

/// The maximum length of one [`Source::Snapshot`] write, in bytes.
pub const SNAPSHOT_MAX: usize = 1024;

/// A position in the sequence of all writes that one fabric has posted, to any peer. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// An event that a fabric reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The link broke by itself: the peer's process died or closed it, or the network gave up.
    LinkDown {
        /// The peer.
        peer: Slot,
        /// The observed cause, as text.
        cause: String,
    },
    /// The peer violated the protocol. It is severed already.
    Violation {
        /// The peer.
        peer: Slot,
        /// A description of the violation.
        what: String,
    },
    /// A [`Fabric::fetch`] is complete: the bytes are in the own copy of the row.
    Fetched {
        /// The peer from which they were fetched.
        peer: Slot,
        /// The `table` argument of the call.
        table: TableId,
        /// The `owner` argument of the call.
        owner: Slot,
        /// The `range` argument of the call.
        range: Range<usize>,
    },
}

/// The answer of [`Fabric::renewed`]: which memory a peer's row has.
#[derive(Clone)]
pub enum Renewed {
    /// The memory that `attach`, `relink` or an earlier call returned.
    Same,
    /// This memory, from now on.
    New(Arc<Row>),
    /// Other memory, which has not arrived yet.
    Awaited,
}

/// Counters of a fabric since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FabricStats {
    /// Writes posted; a write to several peers counts once per peer.
    pub writes_posted: u64,
    /// Bytes sent, headers included. On shared memory: the bytes of the ranges that were announced.
    pub bytes_sent: u64,
    /// Bytes received, headers included. Zero on shared memory.
    pub bytes_received: u64,
    /// System calls that moved data or woke a peer. On RDMA only the device's driver makes such calls, if any.
    pub system_calls: u64,
    /// Requests posted to an RDMA device: writes, wake-ups and reads.
    pub work_requests: u64,
    /// Calls that handed requests to an RDMA device; each one rings one doorbell.
    pub doorbells: u64,
}

/// A transport with the contract of the module's documentation. Calls for a peer that is down or severed do nothing.
pub trait Fabric: Send {
    /// Makes the process at the other end of `connection` the peer in slot `peer`.
    ///
    /// Returns the peer's rows in the order of the tables. They are zero except for the bytes that the peer has written
    /// already. The previous process in the slot is severed; its rows stay valid for their present holders.
    ///
    /// # Errors
    /// [`Error::Misuse`] for the own slot, a slot that is out of range, or a connection of another fabric.
    /// [`Error::Io`] when the system refuses memory or descriptors.
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error>;

    /// Makes `connection` the link to the process that is attached in `peer` already: see *Relink*.
    ///
    /// The rows keep their contents. Returns them in the order of the tables: either the same maps as before, or other
    /// maps of the same memory. The caller must use the returned ones from now on.
    ///
    /// # Errors
    /// [`Error::Misuse`] if no process is attached in `peer`, or for a connection of another fabric or to another
    /// process. [`Error::Io`] when the system refuses memory or descriptors. The old link is down after an error, too.
    fn relink(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error>;

    /// Queues a write of `range` of the own row of `table` to the same place in `peer`'s copy.
    ///
    /// # Panics
    /// If the range exceeds the row, crosses the end of the columns, or does not consist of whole aligned words, or if
    /// it is a snapshot of more than [`SNAPSHOT_MAX`] bytes. Each of these is a bug in this library, which is the only
    /// caller.
    fn write(&mut self, peer: Slot, table: TableId, range: Range<usize>, source: Source) -> Ticket;

    /// Starts all writes queued since the last call, with as few system calls or doorbells as the transport allows.
    fn submit(&mut self);

    /// The ticket up to which all [`Source::Stable`] writes are complete: their sources may change.
    fn completed(&self) -> Ticket;

    /// Whether stable writes, or other writes still held here, are unsent to peers that are up. If this process died
    /// now, they would be lost.
    fn has_unsent(&self) -> bool;

    /// Lets received writes land, sends queued writes, and appends new events to `events`.
    ///
    /// Returns true if anything was sent or is known to have landed. Where peers write directly into this process's
    /// memory, the caller has to look at the rows to find new writes.
    fn poll(&mut self, events: &mut Vec<Event>) -> bool;

    /// Copies `range` of `owner`'s row of `table` from `peer`'s memory: see *Fetch*. The range is whole words of the
    /// data.
    ///
    /// # Panics
    /// If the range is empty or lies outside the data, or if the owner was never attached. Each of these is a bug in
    /// this library, which is the only caller.
    fn fetch(&mut self, peer: Slot, table: TableId, owner: Slot, range: Range<usize>);

    /// Ends the link to `peer` at once: see *Sever*.
    fn sever(&mut self, peer: Slot);

    /// Ends the link to `peer` after the writes queued for it have been sent: see *Release*.
    fn release(&mut self, peer: Slot);

    /// Begins an orderly shutdown: everything queued is sent, then the peers see their links go down. The caller must
    /// keep calling `poll` until [`Fabric::closed`] returns true.
    fn close(&mut self);

    /// True once every link is down. A link that is being released counts as up while its peer takes the writes queued
    /// for it, but not while the peer takes nothing, since it may be stopped.
    fn closed(&self) -> bool;

    /// Prepares for sleep: see *Wake*.
    fn arm(&mut self);

    /// Undoes [`Fabric::arm`]: peers need not wake this member any more.
    fn disarm(&mut self);

    /// A descriptor that becomes readable when there is something to poll. `None` on the simulated fabric, which has
    /// none.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether all processes share one memory per row, so that a row changes under its readers whenever its owner
    /// stores. There is no default, because the protection of readers of such memory depends on the answer.
    fn shares_rows(&self) -> bool;

    /// Gives the own row of `table` new memory, if rows are shared: see *Renew*.
    ///
    /// All peers except the `departed` get it, too. `epoch` increases with each call. Returns `None`, and leaves the
    /// row as it is, where rows are copies, or if none of the departed processes can read any more.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses memory or descriptors. The row is as it was.
    fn renew(&mut self, table: TableId, epoch: u64, departed: &[Slot]) -> Result<Option<Arc<Row>>, Error>;

    /// The memory that `peer`'s row in `table` has in `epoch`: see *Renew*.
    fn renewed(&mut self, peer: Slot, table: TableId, epoch: u64) -> Renewed;

    /// Bytes that have arrived from `peer` over the network so far, over all of its links.
    ///
    /// A change is a sign of life, even while only a part of a long transfer over a slow network has arrived. Always 0
    /// where the fabric cannot know, or where nothing is ever under way: on shared memory, and on RDMA, where the
    /// device does not notify the receiver.
    fn received_from(&self, peer: Slot) -> u64;

    /// The counters of this fabric, for the application.
    fn stats(&self) -> FabricStats;
}
