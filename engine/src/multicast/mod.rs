//! The data plane of one subgroup: streams of messages in one round-robin order.
//!
//! [`Multicast::advance`] is one pass: take in what peers published, publish what is committed and the nulls that are
//! due, push the counters. [`Multicast::deliver`] hands everything deliverable to the application. Neither waits for
//! anything, and each does all there is to do, so batches form by themselves.
//!
//! A row holds a few words, which travel together in one small write: `published`, `delivered`, `wanted` and one `received`
//! per sender (see [`mod@column`]); then, on the next cache line, the owner's byte ring.
//!
//! `delivered` matters only to senders that are short of ring space, so it does not travel by itself for every message:
//! it goes along with the other counters, by itself when an eighth of a ring is done with, and when a sender asks for it
//! by `wanted`. So a full ring never waits for ever, and a message delivered costs no write of its own.

mod claims;
mod deliver;
mod frame;
pub mod order;
mod publish;
mod ring;
mod stability;
mod stream;

pub use claims::Claim;
pub use deliver::Outlook;
pub use frame::Mode;
pub use ring::{Refusal, SendRing};

use crate::config::{MemberId, SubgroupId};
use crate::fabric::{Fabric, Rank, Source, TableId, TableRows, TableSpec, Ticket};
use crate::planted::{self, Bug};
use crate::sst::Table;
use publish::Publisher;
use ring::Geometry;
use stability::{Stability, covers};
use std::sync::Arc;
use stream::Stream;

/// The columns of a multicast row.
pub mod column {
    use crate::sst::Column;
    /// Frames (low half) and messages with the nulls among them (high half) on the owner's stream, modulo 2^32 each.
    pub const PUBLISHED: Column = Column(0);
    /// All messages numbered below this are done with at the owner: their callbacks have returned.
    pub const DELIVERED: Column = Column(8);
    /// The owner is short of ring space and wants to be told as soon as all below this is `delivered`.
    pub const WANTED: Column = Column(16);

    /// How many messages of a sender's stream, nulls included, have reached the owner.
    pub const fn received(sender: crate::fabric::Rank) -> Column {
        Column(24 + 8 * sender)
    }
}

/// Bytes of the columns among `senders`; one small write pushes them all.
const fn hot_len(senders: usize) -> usize {
    column::received(senders).0
}

/// Where the ring begins: behind the columns, on a cache line of its own.
const fn columns_len(senders: usize) -> usize {
    hot_len(senders).next_multiple_of(64)
}

/// One delivered message; the payload is read in place, in ring memory, and is valid during the callback.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The subgroup.
    pub subgroup: SubgroupId,
    /// Who sent it.
    pub sender: MemberId,
    /// Its number in the subgroup's total order; numbers are skipped where a sender had nothing to say.
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

/// Where the counters of a view begin: all zero, but for tests of their wrap-around.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// Index of each sender's first message, and the count of its frames so far.
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

/// The table of a subgroup of `senders`, each with a ring of `ring_bytes`.
pub fn table_spec(subgroup: SubgroupId, senders: usize, ring_bytes: usize) -> TableSpec {
    let columns_len = columns_len(senders);
    // Table 0 is the membership's.
    TableSpec { id: TableId(subgroup.0 + 1), columns_len, row_len: columns_len + ring_bytes }
}

/// See the module.
pub struct Multicast {
    subgroup: SubgroupId,
    ids: Vec<MemberId>,
    table: Table,
    geometry: Geometry,
    publisher: Publisher,
    streams: Vec<Stream>,
    stability: Stability,
    /// Everything numbered below this has arrived here.
    arrived: u64,
    /// Each member's `delivered`, as last read.
    delivered: Vec<u64>,
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
    /// How often ring bytes were given back to the own senders.
    freed: u64,
    /// The nulls that are due were held back in the last pass.
    holds_nulls: bool,
    stats: Stats,
}

impl Multicast {
    /// The subgroup of all `ids`, in rank order, over the table that the fabric made for [`table_spec`].
    pub fn new(
        subgroup: SubgroupId,
        ids: Vec<MemberId>,
        rows: TableRows,
        me: Rank,
        max_message: usize,
        origin: Origin,
    ) -> Multicast {
        let senders = ids.len();
        let TableSpec { columns_len, row_len, .. } = rows.spec;
        let geometry = Geometry { base: columns_len, words: ((row_len - columns_len) / frame::WORD) as u32 };
        let row = rows.rows[me].clone();
        let ring = Arc::new(SendRing::new(row.clone(), geometry, max_message, (origin.ticket, origin.word)));
        let streams = rows.rows.iter().map(|row| Stream::new(row.clone(), geometry, max_message, origin)).collect();
        let start = order::sequence(origin.index, 0, senders);
        Multicast {
            subgroup,
            ids,
            table: Table::new(rows, me),
            geometry,
            publisher: Publisher::new(ring, row, me, senders, origin),
            streams,
            stability: Stability::new(senders, origin.index),
            arrived: start,
            delivered: vec![start; senders],
            next: start,
            turn: 0,
            index: origin.index,
            told: start,
            untold_frames: 0,
            untold_words: 0,
            wanted: vec![0; senders],
            freed: 0,
            holds_nulls: false,
            stats: Stats::default(),
        }
    }

    /// The senders' side of the own ring, for any thread.
    pub fn ring(&self) -> &Arc<SendRing> {
        &self.publisher.ring
    }

    /// One pass but for the deliveries. True if anything moved.
    pub fn advance(&mut self, fabric: &mut dyn Fabric) -> Result<bool, Breach> {
        let took_in = self.take_in()?;
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
        let me = self.table.me();
        let Some(wanted) = self.publisher.wanted().filter(|&wanted| wanted > self.wanted[me]) else {
            return false;
        };
        self.wanted[me] = wanted;
        self.table.store(column::WANTED, wanted);
        true
    }

    /// Reads the peers' counters.
    fn take_in(&mut self) -> Result<bool, Breach> {
        let me = self.table.me();
        let mine = self.publisher.messages;
        // It cannot have got past a message that I have not published.
        let next_of_mine = order::sequence(mine, me, self.ids.len());
        // Whatever takes an index that nobody had takes a slot of its sender's ring, which is not free before everybody
        // has delivered it; nulls fill in up to those.
        let most = self.index + 2 + (self.ids.len() * self.ring().slots()) as u64;
        let mut progress = false;
        for peer in (0..self.ids.len()).filter(|&r| r != me) {
            let breach = |what| Breach { peer, what };
            let published = self.table.load(peer, column::PUBLISHED);
            progress |= self.streams[peer].take_in(published, most).map_err(breach)?;
            progress |= self.stability.take_in(&self.table, peer, mine, most).map_err(breach)?;
            let delivered = self.table.load(peer, column::DELIVERED);
            let known = &mut self.delivered[peer];
            if delivered < *known || delivered > next_of_mine {
                return Err(breach(format!("its `delivered` is {delivered}, outside {known}..={next_of_mine}")));
            }
            progress |= delivered != *known;
            *known = delivered;
            self.wanted[peer] = self.table.load(peer, column::WANTED);
        }
        Ok(progress)
    }

    /// Reuses ring bytes of messages that every member has delivered.
    fn free(&mut self, fabric: &dyn Fabric) -> bool {
        let completed = fabric.completed();
        let mut delivered = self.delivered.iter().copied().min().unwrap_or(0);
        if planted::is(Bug::ReuseEarly) {
            delivered += self.ids.len() as u64;
        }
        let freed = self.publisher.free(delivered, completed);
        self.freed += u64::from(freed);
        freed
    }

    /// Posts the data of this pass, then shows it: the data first, its counter in a later write.
    fn publish(&mut self, fabric: &mut dyn Fabric, wrote: bool, fill: bool) -> Result<bool, Breach> {
        let me = self.table.me();
        let counts = self.streams.iter().enumerate();
        let counts = counts.map(|(s, stream)| if s == me { self.publisher.messages } else { stream.messages });
        let horizon = order::horizon(counts, self.ids.len());
        let due = order::due(horizon, me, self.ids.len());
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
            ticket = self.table.push(fabric, range, Source::Stable);
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
        let me = self.table.me();
        let (mut moved, mut tell) = (false, false);
        for (sender, stream) in self.streams.iter_mut().enumerate() {
            if self.stability.receive(me, sender, stream.messages) {
                self.table.store(column::received(sender), stream.messages);
                moved = true;
                tell |= stream.acknowledge();
            }
        }
        if moved {
            self.arrived = order::contiguous(self.streams.iter().map(|s| s.messages), self.ids.len());
        }
        tell
    }

    fn push(&mut self, fabric: &mut dyn Fabric) {
        let source = if planted::is(Bug::LateCounter) { Source::Stable } else { Source::Snapshot };
        self.table.push(fabric, 0..hot_len(self.ids.len()), source);
        self.told = self.next;
        (self.untold_frames, self.untold_words) = (0, 0);
    }

    /// Pushes `delivered` by itself: when much has been delivered since the counters last travelled, or a sender wants it.
    pub fn tell(&mut self, fabric: &mut dyn Fabric) {
        let (frames, words) = self.tell_at();
        let much = self.untold_frames >= frames || self.untold_words >= words;
        let told = self.told;
        let peers = self.wanted.iter().enumerate().filter(|&(member, _)| member != self.table.me());
        if much || peers.into_iter().any(|(_, wanted)| (told + 1..=self.next).contains(wanted)) {
            self.push(fabric);
        }
    }

    /// So many frames or words done with since the counters last travelled are worth a push: an eighth of a ring.
    fn tell_at(&self) -> (usize, u32) {
        (self.ring().slots() / 8, self.geometry.words / 8)
    }

    /// Per stream, a count that covers all messages that this member sent with a ticket below `ticket`, and all that it
    /// was delivered; `None` while they are not all published.
    pub fn flush_target(&self, ticket: u32) -> Option<Vec<u64>> {
        let mut target: Vec<u64> = self.streams.iter().map(|stream| stream.passed).collect();
        let mine = &mut target[self.table.me()];
        *mine = (*mine).max(self.publisher.sent);
        self.publisher.has_published(ticket).then_some(target)
    }

    /// Whether at least `k` members (0, or more than there are, means all) have received what `target` covers.
    pub fn received_by(&self, k: usize, target: &[u64]) -> bool {
        self.stability.received_by(k, target)
    }

    /// How often ring bytes were given back to the own senders.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Whether all that this member has sent is delivered here, and with it all that comes before.
    pub fn delivered_mine(&self) -> bool {
        self.streams[self.table.me()].passed >= self.publisher.sent
    }

    /// Whether nulls are held back that others wait for.
    pub fn holds_nulls(&self) -> bool {
        self.holds_nulls
    }

    /// Whether `member` has received what `target` covers, as far as is known here.
    pub fn has_received(&self, member: Rank, target: &[u64]) -> bool {
        covers(self.stability.of(member), target)
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
