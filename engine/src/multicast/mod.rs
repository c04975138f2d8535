//! The data plane of one subgroup: streams of messages in one round-robin order.
//!
//! [`Multicast::advance`] is one pass: it takes in the counters of peers, publishes committed frames and due nulls, and
//! pushes the counters. [`Multicast::deliver`] delivers everything deliverable to the application. Neither waits, and
//! each does all the work there is, so batches form by themselves.
//!
//! A row begins with a few words that are pushed together in one small write: `published`, `delivered`, `wanted`,
//! `persisted` and one `received` per slot (see [`mod@column`]). The owner's byte ring begins on the next cache line.
//!
//! `delivered` matters only to senders that are short of ring space. So it is not pushed for every message. It is
//! pushed with the other counters, alone after an eighth of a ring, and when a sender asks for it by `wanted`. So a
//! full ring never waits for ever, and a delivery costs no write of its own.
//!
//! A row outlives views: counters, indices, numbers and ring positions continue ([`order`]). So a view change registers
//! nothing, exchanges nothing and moves no bytes. Unpublished frames and open reservations stay in place and go out in
//! the next view (see `epoch`).

mod claims;
pub mod column;
mod deliver;
mod epoch;
mod feeder;
mod frame;
mod handover;
mod memories;
pub mod order;
mod progress;
mod publish;
mod ring;
mod stability;
mod stream;
mod tail;

pub use claims::Claim;
pub use deliver::Sink;
pub use epoch::{End, PeerPhase, StreamConfig, ViewConfig};
pub(crate) use feeder::STAMP_MAX_NS;
pub use feeder::{Durability, record_time};
pub use progress::Progress;
pub use ring::{Refusal, Reserved, RingSpace, SendRing};
pub use tail::{TAIL, Tail, TailRecord};

use crate::fabric::{Fabric, Rank, Row, Slot, Source, TableId, TableSpec, Ticket};
use crate::planted::{self, Bug};
use crate::sst::Table;
use crate::types::{MemberId, Mode, SubgroupId, Ticket as MessageTicket};
use feeder::LogFeeder;
use handover::Handover;
use order::Order;
use publish::Publisher;
use ring::Geometry;
use stability::Stability;
use std::sync::Arc;
use stream::Stream;

/// The offset of the ring: after the columns, on a cache line of its own.
const COLUMNS_LEN: usize = (column::HAS_MEMORY.0 + 8).next_multiple_of(64);

/// One delivered message. Its payload is read in place, in ring memory, and is valid only during the callback.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The subgroup.
    pub subgroup: SubgroupId,
    /// The view in which it is delivered.
    pub view: u64,
    /// The sender.
    pub sender: MemberId,
    /// Its sequence number in the subgroup's total order, which continues from view to view. The numbers of nulls are
    /// skipped.
    pub sequence: u64,
    /// The mode it was sent with.
    pub mode: Mode,
    /// The ticket that sending it returned, if this process has sent it.
    pub ticket: Option<MessageTicket>,
    /// In a group with a log, the time of its record, in nanoseconds since 1970; otherwise 0.
    ///
    /// A `fifo` message that overtakes others has the time at which it was sent, and its record may have a later one. The
    /// record of an `ordered` message may have another time if this process is removed from the view.
    pub time_ns: u64,
    /// Its payload. It may have any alignment.
    pub payload: &'a [u8],
}

/// Counters of this member since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages and payload bytes sent, null messages, and the batches in which they were published.
    pub messages_sent: u64,
    /// See `messages_sent`.
    pub bytes_sent: u64,
    /// See `messages_sent`.
    pub nulls_sent: u64,
    /// See `messages_sent`.
    pub batches_sent: u64,
    /// Messages and payload bytes delivered, and the passes that delivered any.
    pub messages_delivered: u64,
    /// See `messages_delivered`.
    pub bytes_delivered: u64,
    /// See `messages_delivered`.
    pub batches_delivered: u64,
    /// Passes of the engine, and how often it slept.
    pub passes: u64,
    /// See `passes`.
    pub sleeps: u64,
    /// The fabric's counters.
    pub fabric: crate::fabric::FabricStats,
}

/// The initial counters of the first view. They are zero, except in tests of their wrap-around.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// Index of each sender's first message.
    pub index: u64,
    /// Ticket of the first claim.
    pub ticket: u32,
    /// Ring position of the first frame, in words.
    pub word: u32,
}

/// A protocol violation by a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The peer.
    pub peer: Rank,
    /// A description, with the offending value.
    pub what: String,
}

/// The table of a subgroup in which each member has a ring of `ring_bytes`.
pub fn table_spec(subgroup: SubgroupId, ring_bytes: usize) -> TableSpec {
    // Table 0 is the membership's.
    TableSpec { id: TableId(subgroup.0 + 1), columns_len: COLUMNS_LEN, row_len: COLUMNS_LEN + ring_bytes }
}

/// See the module.
pub struct Multicast {
    subgroup: SubgroupId,
    table: Table,
    geometry: Geometry,
    publisher: Publisher,
    /// The view, its members by rank, this member's rank, and the slots of the others.
    view: u64,
    seats: Vec<StreamConfig>,
    me: Rank,
    peers: Vec<Slot>,
    order: Order,
    /// Bytes of the columns that this view's members use.
    hot_len: usize,
    streams: Vec<Stream>,
    stability: Stability,
    /// By rank: whether the member has been seen in this view.
    entered: Vec<bool>,
    /// Nothing is published or taken in any more in this view.
    wedged: bool,
    /// The end of the epoch is decided, and the rest is delivered.
    ending: bool,
    /// The end of each stream up to which it is complete here, fetched frames included; see [`epoch`].
    flushed: Vec<End>,
    /// Everything below this number has arrived here.
    arrived: u64,
    /// Each member's `delivered`, as last read.
    delivered: Vec<u64>,
    /// In a group with a log: the writer of the log, and each member's `persisted`, as last read.
    feeder: Option<LogFeeder>,
    persisted: Vec<u64>,
    /// The last `persisted` that was pushed.
    advertised_persisted: u64,
    /// The next number in the order, its sender and its index.
    next: u64,
    turn: Rank,
    index: u64,
    /// In a group with a log: the time of the last message that the order has passed.
    time_ns: u64,
    /// The difference between the numbers that tickets carry and those of this member's frames, modulo 2^64. It is zero,
    /// except in tests of the wrap-around of counters.
    ticket_offset: u64,
    /// The last `delivered` that was pushed, and the frames and ring words delivered since.
    advertised: u64,
    unadvertised_frames: usize,
    unadvertised_words: u32,
    /// Each member's `wanted`.
    wanted: Vec<u64>,
    /// Whether the last pass took in all that the peers had published; see [`Progress::taken_in`].
    took_all_in: bool,
    /// How often ring bytes were freed for this member's senders.
    freed: u64,
    /// The due nulls were held back in the last pass.
    holds_nulls: bool,
    /// A peer's `received`, as just read.
    peer_received: Vec<u64>,
    handover: Handover,
    stats: Stats,
}

impl Multicast {
    /// Creates the subgroup over this process's `row` of the table of [`table_spec`]. It has no members yet: it accepts
    /// messages, and they go out after [`Multicast::enter`] names the members.
    pub fn new(
        subgroup: SubgroupId,
        spec: TableSpec,
        me: Slot,
        row: Arc<Row>,
        max_message: usize,
        durability: Option<Durability>,
        origin: Origin,
    ) -> Multicast {
        let geometry = Geometry { base: COLUMNS_LEN, words: ((spec.row_len - COLUMNS_LEN) / frame::WORD) as u32 };
        let stamp = if durability.is_some() { feeder::STAMP } else { 0 };
        let ring = Arc::new(SendRing::new(row.clone(), geometry, max_message, stamp, (origin.ticket, origin.word)));
        Multicast {
            subgroup,
            table: Table::new(spec, me, row.clone()),
            geometry,
            publisher: Publisher::new(ring, row, origin),
            view: 0,
            seats: Vec::new(),
            me: 0,
            peers: Vec::new(),
            order: Order { senders: 0, base: 0, first: 0 },
            hot_len: 0,
            streams: Vec::new(),
            stability: Stability::new(0, 0),
            entered: Vec::new(),
            wedged: false,
            ending: false,
            flushed: Vec::new(),
            arrived: 0,
            delivered: Vec::new(),
            feeder: durability.map(LogFeeder::new),
            persisted: Vec::new(),
            advertised_persisted: 0,
            next: 0,
            turn: 0,
            index: 0,
            time_ns: 0,
            ticket_offset: u64::from(origin.ticket).wrapping_sub(origin.index),
            advertised: 0,
            unadvertised_frames: 0,
            unadvertised_words: 0,
            wanted: Vec::new(),
            took_all_in: true,
            freed: 0,
            holds_nulls: false,
            peer_received: Vec::new(),
            handover: Handover::default(),
            stats: Stats::default(),
        }
    }

    /// Attaches the row of the process in `slot`.
    pub fn attach(&mut self, slot: Slot, row: Arc<Row>) {
        self.table.attach(slot, row);
    }

    /// Whether a row of a process in `slot` was ever attached.
    pub fn is_attached(&self, slot: Slot) -> bool {
        self.table.row(slot).is_some()
    }

    pub(super) fn senders(&self) -> usize {
        self.seats.len()
    }

    /// The senders' side of this member's ring, for any thread.
    pub fn ring(&self) -> &Arc<SendRing> {
        &self.publisher.ring
    }

    /// Makes one pass, without deliveries. `phase_of` returns a peer's present position. Returns true if anything
    /// moved.
    pub fn advance(
        &mut self,
        fabric: &mut dyn Fabric,
        phase_of: &dyn Fn(Slot) -> PeerPhase,
    ) -> Result<bool, Violation> {
        if self.wedged || self.seats.is_empty() {
            return Ok(false);
        }
        let took_in = self.take_in(fabric, phase_of)?;
        let starved = self.ring().starved();
        let freed = self.free(fabric);
        self.note_durable();
        self.show_handover(fabric);
        let held = self.holds_frames();
        let wrote = self.publisher.advance(held);
        // Senders that waited for space have messages to send at once. Nulls now would delay them by a round.
        self.holds_nulls = freed && starved && !self.holds_nulls;
        let published = self.publish(fabric, wrote, !self.holds_nulls)?;
        let received = self.count_received();
        let wants = self.want();
        if published || received || wants {
            self.push(fabric);
        }
        Ok(took_in || freed || published || received || wants)
    }

    /// Asks the peers for the deliveries that free ring space, if a sender is short of it.
    fn want(&mut self) -> bool {
        let me = self.me;
        let Some(wanted) = self.publisher.wanted().filter(|&wanted| wanted > self.wanted[me]) else {
            return false;
        };
        self.wanted[me] = wanted;
        self.table.store(column::WANTED, wanted);
        true
    }

    /// Reads the peers' counters.
    fn take_in(&mut self, fabric: &mut dyn Fabric, phase_of: &dyn Fn(Slot) -> PeerPhase) -> Result<bool, Violation> {
        let mut progress = false;
        self.took_all_in = true;
        for peer in 0..self.senders() {
            if peer == self.me {
                continue;
            }
            let slot = self.seats[peer].slot;
            if !self.entered[peer] {
                // Its row is about an earlier view, or about none.
                if phase_of(slot) == PeerPhase::Behind {
                    continue;
                }
                if !self.follow(peer, fabric) {
                    self.took_all_in = false;
                    continue;
                }
                self.entered[peer] = true;
                self.handover.is_here(peer);
                progress = true;
            }
            let published = self.table.load(slot, column::PUBLISHED);
            let delivered = self.table.load(slot, column::DELIVERED);
            let wanted = self.table.load(slot, column::WANTED);
            let persisted = self.table.load(slot, column::PERSISTED);
            let has_memory = if self.handover.awaits(peer) { self.table.load(slot, column::HAS_MEMORY) } else { 0 };
            for (known, seat) in self.peer_received.iter_mut().zip(&self.seats) {
                *known = self.table.load(slot, column::received(seat.slot));
            }
            // Checked after the loads: on shared memory the row may already be of a later view, also one without this
            // member. A member publishes that it has wedged before its row changes.
            if phase_of(slot) == PeerPhase::Gone {
                self.took_all_in = false;
                continue;
            }
            progress |= self.take_in_row(peer, published, delivered).map_err(|what| Violation { peer, what })?;
            progress |= self.take_in_persisted(peer, persisted).map_err(|what| Violation { peer, what })?;
            progress |= self.handover.take_in(peer, has_memory, self.me);
            self.wanted[peer] = wanted;
        }
        Ok(progress)
    }

    /// Takes in one peer's `published` and `delivered`, and its counts in `peer_received`.
    fn take_in_row(&mut self, peer: Rank, published: u64, delivered: u64) -> Result<bool, String> {
        let mine = self.publisher.messages;
        // It cannot have passed a message that this member has not published.
        let next_of_mine = self.order.sequence(mine, self.me);
        let most = self.most();
        let mut progress = self.streams[peer].take_in(published, most)?;
        progress |= self.stability.take_in(&self.peer_received, peer, self.me, mine, most)?;
        let known = &mut self.delivered[peer];
        if delivered < *known || delivered > next_of_mine {
            return Err(format!("its `delivered` is {delivered}, outside {known}..={next_of_mine}"));
        }
        progress |= delivered != *known;
        *known = delivered;
        Ok(progress)
    }

    /// The index from which on no stream can have messages. A message with a new highest index is an application
    /// message, and holds a slot of its sender's ring until all members have delivered it. Nulls only fill in up to it.
    fn most(&self) -> u64 {
        self.index + 2 + (self.senders() * self.ring().slots()) as u64
    }

    /// Frees ring bytes of messages that every member has delivered.
    fn free(&mut self, fabric: &dyn Fabric) -> bool {
        let completed = fabric.completed();
        let mut delivered = self.delivered.iter().copied().min().unwrap_or(0);
        if planted::is(Bug::ReuseEarly) {
            delivered += self.senders() as u64;
        }
        let freed = self.publisher.free(delivered, completed);
        self.freed += u64::from(freed);
        freed
    }

    /// Pushes the data of this pass, and its counter in a later write.
    fn publish(&mut self, fabric: &mut dyn Fabric, wrote: bool, fill: bool) -> Result<bool, Violation> {
        let me = self.me;
        let counts = self.streams.iter().enumerate();
        let counts = counts.map(|(s, stream)| if s == me { self.publisher.messages } else { stream.messages });
        let due = self.order.due(self.order.horizon(counts), me);
        let due = if planted::is(Bug::NullOffByOne) { due.saturating_sub(1) } else { due };
        let nulls = fill && self.publisher.fill(due);
        if !wrote && !nulls {
            return Ok(false);
        }
        let published = self.publisher.published_word();
        if planted::is(Bug::CounterBeforeData) {
            self.table.store(column::PUBLISHED, published);
            self.push(fabric);
        }
        let mut ticket = Ticket::default();
        for i in 0..self.publisher.ranges.len() {
            let range = self.publisher.ranges[i].clone();
            ticket = self.table.push(fabric, &self.peers, range, Source::Stable);
            if planted::is(Bug::FirstRangeOnly) {
                self.publisher.posted(ticket);
            }
        }
        self.publisher.posted(ticket);
        self.table.store(column::PUBLISHED, published);
        self.streams[me].take_in(published, u64::MAX).map_err(|what| Violation { peer: me, what })
    }

    /// Stores the `received` of each sender. Returns true if that must be pushed: no sender waits for the
    /// acknowledgement of a null, so nulls are acknowledged along with the next message.
    fn count_received(&mut self) -> bool {
        let me = self.me;
        let (mut moved, mut tell) = (false, false);
        for (sender, stream) in self.streams.iter_mut().enumerate() {
            if self.stability.receive(me, sender, stream.messages) {
                self.table.store(column::received(self.seats[sender].slot), stream.messages);
                moved = true;
                tell |= stream.acknowledge();
            }
        }
        if moved {
            self.arrived = self.order.contiguous(self.streams.iter().map(|s| s.messages));
        }
        tell
    }

    fn push(&mut self, fabric: &mut dyn Fabric) {
        let source = if planted::is(Bug::LateCounter) { Source::Stable } else { Source::Snapshot };
        self.table.push(fabric, &self.peers, 0..self.hot_len, source);
        (self.advertised, self.advertised_persisted) = (self.done(), self.logged().1);
        (self.unadvertised_frames, self.unadvertised_words) = (0, 0);
    }

    /// Pushes `delivered` by itself, if much was delivered since the last push or a sender wants it.
    pub fn advertise(&mut self, fabric: &mut dyn Fabric) {
        if self.wedged {
            return;
        }
        let (frames, words) = self.advertise_at();
        let much = self.unadvertised_frames >= frames || self.unadvertised_words >= words;
        let (advertised, done) = (self.advertised, self.done());
        let peers = self.wanted.iter().enumerate().filter(|&(member, _)| member != self.me);
        let synced = self.logged().1 != self.advertised_persisted;
        if much || synced || peers.into_iter().any(|(_, wanted)| (advertised + 1..=done).contains(wanted)) {
            self.push(fabric);
        }
    }

    /// After this many frames or words `delivered` is pushed by itself: an eighth of a ring.
    fn advertise_at(&self) -> (usize, u32) {
        (self.ring().slots() / 8, self.geometry.words / 8)
    }
}
