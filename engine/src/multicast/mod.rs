//! The data plane of one subgroup: streams of messages in one round-robin order.
//!
//! [`Multicast::advance`] is one pass: take in what peers published, publish what is committed and the nulls that are
//! due, push the counters. [`Multicast::deliver`] hands everything deliverable to the application. Neither waits for
//! anything, and each does all there is to do, so batches form by themselves.
//!
//! A row holds a few words, which travel together in one small write: `published`, `delivered`, `wanted`, `persisted` and one
//! `received` per slot (see [`mod@column`]); then, on the next cache line, the owner's byte ring.
//!
//! `delivered` matters only to senders that are short of ring space, so it does not travel by itself for every message:
//! it goes along with the other counters, by itself when an eighth of a ring is done with, and when a sender asks for it
//! by `wanted`. So a full ring never waits for ever, and a message delivered costs no write of its own.
//!
//! Views come and go over one row: counters, indices, numbers and ring positions go on ([`order`]). So a view change
//! registers nothing, exchanges nothing and moves no bytes: frames that were not published, and reservations that are
//! open, stay where they are and go out in the next view (see `epoch`).

mod claims;
mod deliver;
mod epoch;
mod frame;
mod memories;
pub mod order;
mod publish;
mod ring;
mod scribe;
mod stability;
mod stream;
mod tail;

pub use claims::Claim;
pub use deliver::Sink;
pub use epoch::{End, Layout, Seat, Standing};
pub use frame::Mode;
pub use ring::{Refusal, Reserved, SendRing};
pub(crate) use scribe::STAMP_MAX_NS;
pub use scribe::{Durability, record_time};
pub(crate) use scribe::{words, words_of};
pub use tail::{TAIL, Tail, TailRecord};

use crate::config::{MemberId, SubgroupId};
use crate::fabric::{Fabric, Rank, Row, SLOTS, Slot, Source, TableId, TableSpec, Ticket};
use crate::planted::{self, Bug};
use crate::sst::Table;
use order::Order;
use publish::Publisher;
use ring::Geometry;
use scribe::Scribe;
use stability::Stability;
use std::sync::Arc;
use stream::Stream;

/// The columns of a multicast row.
pub mod column {
    use crate::sst::Column;
    /// Frames (low half) and messages with the nulls among them (high half) on the owner's stream, modulo 2^32 each.
    pub const PUBLISHED: Column = Column(0);
    /// All messages numbered below this are done with at the owner: their callbacks have returned, and where there is a log
    /// it has them in memory that is not the ring.
    pub const DELIVERED: Column = Column(8);
    /// The owner is short of ring space and wants to be told as soon as all below this is `delivered`.
    pub const WANTED: Column = Column(16);

    /// All messages numbered below this are in the owner's log, synced.
    pub const PERSISTED: Column = Column(24);

    /// All messages of the stream of the process in `slot` below this index, nulls included, have reached the owner.
    pub const fn received(slot: crate::fabric::Slot) -> Column {
        Column(32 + 8 * slot)
    }
}

/// Where the ring begins: behind the columns, on a cache line of its own.
const COLUMNS_LEN: usize = column::received(SLOTS).0.next_multiple_of(64);

/// One delivered message; the payload is valid during the callback. It is read in place, in ring memory.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The subgroup.
    pub subgroup: SubgroupId,
    /// The view it is delivered in.
    pub view: u64,
    /// Who sent it.
    pub sender: MemberId,
    /// Its number in the subgroup's total order, which goes on from view to view; numbers are skipped where a sender had
    /// nothing to say.
    pub sequence: u64,
    /// The mode it was sent with.
    pub mode: Mode,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Counters since the start; all but the memory are of this member alone.
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
    /// What the fabric did.
    pub fabric: crate::fabric::FabricStats,
}

/// Where the counters of the first view begin: all zero, but for tests of their wrap-around.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// Index of each sender's first message.
    pub index: u64,
    /// Ticket of the first claim.
    pub ticket: u32,
    /// Ring position of the first frame, in words.
    pub word: u32,
}

/// A peer that did what no correct member does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Who.
    pub peer: Rank,
    /// What, with the value.
    pub what: String,
}

/// The table of a subgroup whose members each have a ring of `ring_bytes`.
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
    /// The view, its members by rank, the own rank among them, and the others' slots.
    view: u64,
    seats: Vec<Seat>,
    me: Rank,
    peers: Vec<Slot>,
    order: Order,
    /// Bytes of the columns that this view's members use.
    hot_len: usize,
    streams: Vec<Stream>,
    stability: Stability,
    /// Which members have been seen in this view.
    entered: Vec<bool>,
    /// Nothing is published or taken in any more in this view.
    wedged: bool,
    /// The epoch's end is decided: what is left is delivered.
    ending: bool,
    /// Where each stream ends of which what is missing has been fetched; see [`epoch`].
    flushed: Vec<End>,
    /// Everything numbered below this has arrived here.
    arrived: u64,
    /// Each member's `delivered`, as last read.
    delivered: Vec<u64>,
    /// Where there is a log: who feeds it, and each member's `persisted`, as last read.
    scribe: Option<Scribe>,
    persisted: Vec<u64>,
    /// `persisted` as the peers know it.
    told_persisted: u64,
    /// The next number in the order, its sender and its index.
    next: u64,
    turn: Rank,
    index: u64,
    /// `next` as the peers know it by `delivered`, and the frames and words of ring handed over since.
    told: u64,
    untold_frames: usize,
    untold_words: u32,
    /// What each member wants to be told.
    wanted: Vec<u64>,
    /// See [`Multicast::took_all_in`].
    took_all_in: bool,
    /// How often ring bytes were given back to the own senders.
    freed: u64,
    /// The nulls that are due were held back in the last pass.
    holds_nulls: bool,
    /// A peer's `received`, as just read.
    told_received: Vec<u64>,
    stats: Stats,
}

impl Multicast {
    /// The subgroup over the own `row` of the table of [`table_spec`], with no members yet: messages are accepted, and go
    /// out once [`Multicast::enter`] says who there is.
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
        let stamp = if durability.is_some() { scribe::STAMP } else { 0 };
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
            scribe: durability.map(Scribe::new),
            persisted: Vec::new(),
            told_persisted: 0,
            next: 0,
            turn: 0,
            index: 0,
            told: 0,
            untold_frames: 0,
            untold_words: 0,
            wanted: Vec::new(),
            took_all_in: true,
            freed: 0,
            holds_nulls: false,
            told_received: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// The row of the process that was attached in `slot`.
    pub fn attach(&mut self, slot: Slot, row: Arc<Row>) {
        self.table.attach(slot, row);
    }

    pub(super) fn senders(&self) -> usize {
        self.seats.len()
    }

    /// The senders' side of the own ring, for any thread.
    pub fn ring(&self) -> &Arc<SendRing> {
        &self.publisher.ring
    }

    /// One pass but for the deliveries. `standing` tells where a peer is, each time it is asked. True if anything moved.
    pub fn advance(&mut self, fabric: &mut dyn Fabric, standing: &dyn Fn(Slot) -> Standing) -> Result<bool, Breach> {
        if self.wedged || self.seats.is_empty() {
            return Ok(false);
        }
        let took_in = self.take_in(fabric, standing)?;
        let starved = self.ring().starved();
        let freed = self.free(fabric);
        let wrote = self.publisher.advance();
        // Senders that waited for space have something to say at once: nulls now would push it back by a round.
        self.holds_nulls = freed && starved && !self.holds_nulls;
        let published = self.publish(fabric, wrote, !self.holds_nulls)?;
        let received = self.count_received();
        let wants = self.want();
        if published || received || wants {
            self.push(fabric);
        }
        Ok(took_in || freed || published || received || wants)
    }

    /// Asks the peers for what frees ring space, if a sender is short of it.
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
    fn take_in(&mut self, fabric: &mut dyn Fabric, standing: &dyn Fn(Slot) -> Standing) -> Result<bool, Breach> {
        let mut progress = false;
        self.took_all_in = true;
        for peer in 0..self.senders() {
            if peer == self.me {
                continue;
            }
            let slot = self.seats[peer].slot;
            if !self.entered[peer] {
                // What its row shows is of an earlier view, or of none.
                if standing(slot) == Standing::Behind {
                    continue;
                }
                if !self.follow(peer, fabric) {
                    self.took_all_in = false;
                    continue;
                }
                self.entered[peer] = true;
                progress = true;
            }
            let published = self.table.load(slot, column::PUBLISHED);
            let delivered = self.table.load(slot, column::DELIVERED);
            let wanted = self.table.load(slot, column::WANTED);
            let persisted = self.table.load(slot, column::PERSISTED);
            for (told, seat) in self.told_received.iter_mut().zip(&self.seats) {
                *told = self.table.load(slot, column::received(seat.slot));
            }
            // After the look: on shared memory the row may already be a later view's, or that of one that goes on without
            // this member. Whoever wedges says so before its row moves on.
            if standing(slot) == Standing::Gone {
                self.took_all_in = false;
                continue;
            }
            progress |= self.take_in_row(peer, published, delivered).map_err(|what| Breach { peer, what })?;
            progress |= self.take_in_persisted(peer, persisted).map_err(|what| Breach { peer, what })?;
            self.wanted[peer] = wanted;
        }
        Ok(progress)
    }

    /// Takes in what one peer's row showed: the two words, and `told_received`.
    fn take_in_row(&mut self, peer: Rank, published: u64, delivered: u64) -> Result<bool, String> {
        let mine = self.publisher.messages;
        // It cannot have got past a message that I have not published.
        let next_of_mine = self.order.sequence(mine, self.me);
        let most = self.most();
        let mut progress = self.streams[peer].take_in(published, most)?;
        progress |= self.stability.take_in(&self.told_received, peer, self.me, mine, most)?;
        let known = &mut self.delivered[peer];
        if delivered < *known || delivered > next_of_mine {
            return Err(format!("its `delivered` is {delivered}, outside {known}..={next_of_mine}"));
        }
        progress |= delivered != *known;
        *known = delivered;
        Ok(progress)
    }

    /// No stream has messages from this index on: whatever takes an index that nobody had takes a slot of its sender's
    /// ring, which is not free before everybody has delivered it; nulls fill in up to those.
    fn most(&self) -> u64 {
        self.index + 2 + (self.senders() * self.ring().slots()) as u64
    }

    /// Reuses ring bytes of messages that every member has delivered.
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

    /// Posts the data of this pass, then shows it: the data first, its counter in a later write.
    fn publish(&mut self, fabric: &mut dyn Fabric, wrote: bool, fill: bool) -> Result<bool, Breach> {
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
        self.streams[me].take_in(published, u64::MAX).map_err(|what| Breach { peer: me, what })
    }

    /// Shows what has arrived from everybody. True if peers should hear of it: nulls are acknowledged along with the next
    /// message, since nobody waits for theirs.
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
        (self.told, self.told_persisted) = (self.done(), self.logged().1);
        (self.untold_frames, self.untold_words) = (0, 0);
    }

    /// Pushes `delivered` by itself: when much has been delivered since the counters last travelled, or a sender wants it.
    pub fn tell(&mut self, fabric: &mut dyn Fabric) {
        if self.wedged {
            return;
        }
        let (frames, words) = self.tell_at();
        let much = self.untold_frames >= frames || self.untold_words >= words;
        let (told, done) = (self.told, self.done());
        let peers = self.wanted.iter().enumerate().filter(|&(member, _)| member != self.me);
        let synced = self.logged().1 != self.told_persisted;
        if much || synced || peers.into_iter().any(|(_, wanted)| (told + 1..=done).contains(wanted)) {
            self.push(fabric);
        }
    }

    /// So many frames or words done with since the counters last travelled are worth a push: an eighth of a ring.
    fn tell_at(&self) -> (usize, u32) {
        (self.ring().slots() / 8, self.geometry.words / 8)
    }

    /// Per stream of this view, a count that covers all messages that this member sent with a ticket below `ticket`, and
    /// all that it was delivered; `None` while they are not all published.
    pub fn flush_target(&self, ticket: u32) -> Option<Vec<u64>> {
        let mut target = self.told();
        let mine = target.get_mut(self.me)?;
        *mine = (*mine).max(self.publisher.sent);
        self.publisher.has_published(ticket).then_some(target)
    }

    /// Per stream, how many messages the application has been told, those ahead of the order among them.
    pub fn told(&self) -> Vec<u64> {
        self.streams.iter().map(|stream| stream.passed).collect()
    }

    /// Whether at least `k` members (0, or more than there are, means all) have received what `target` covers.
    pub fn received_by(&self, k: usize, target: &[u64]) -> bool {
        self.stability.received_by(k, target)
    }

    /// How often ring bytes were given back to the own senders.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Whether the last pass took in what all peers show, so that [`Multicast::horizon`] covers all that they had published: not
    /// where one has wedged meanwhile.
    pub fn took_all_in(&self) -> bool {
        self.took_all_in
    }

    /// One above the highest number that has arrived.
    pub fn horizon(&self) -> u64 {
        self.order.horizon(self.streams.iter().map(|stream| stream.messages))
    }

    /// Whether everything that was claimed so far is published.
    pub fn has_published_all(&self) -> bool {
        self.publisher.has_published(self.ring().next_ticket())
    }

    /// Counters so far, but for those of the engine and the fabric.
    pub fn stats(&self) -> Stats {
        let published = self.publisher.published;
        Stats {
            messages_sent: published.messages,
            bytes_sent: published.bytes,
            nulls_sent: published.nulls,
            batches_sent: published.batches,
            ..self.stats
        }
    }
}
