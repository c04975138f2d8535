//! The data plane's part in the end of an epoch and the beginning of the next.
//!
//! [`Multicast::wedge`] stops the streams and returns where each ends here. [`Multicast::missing`] returns the bytes up
//! to a target that are not here. When they have arrived, [`Multicast::raise`] records that, without delivering
//! anything. [`Multicast::end`] makes the decided ends final, and [`Multicast::deliver`] then delivers everything up to
//! them. [`Multicast::enter`] begins the next view. The streams of members that stay continue where they ended in the
//! old view.

use super::stability::Stability;
use super::stream::Stream;
use super::{Multicast, Violation, column};
use crate::fabric::{Fabric, Rank, Renewed, Row, Slot, Source, TableId};
use crate::multicast::order::Order;
use crate::planted::{self, Bug};
use crate::types::MemberId;
use std::ops::Range;
use std::sync::Arc;

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// Messages, including nulls: the index of the next one.
    pub messages: u64,
    /// Frames.
    pub frames: u64,
    /// Ring position of the next frame, in words modulo 2^32.
    pub word: u32,
}

impl End {
    /// Encodes the end for a row, a decision or a tail.
    pub(crate) fn words(self) -> [u64; 3] {
        [self.messages, self.frames, u64::from(self.word)]
    }

    /// Decodes an end. `None` if the words are not an end.
    pub(crate) fn of_words([messages, frames, word]: [u64; 3]) -> Option<End> {
        Some(End { messages, frames, word: u32::try_from(word).ok()? })
    }
}

/// A member of a view as the data plane sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamConfig {
    /// The slot of its row.
    pub slot: Slot,
    /// Its member id.
    pub id: MemberId,
    /// Whether it is a voter.
    pub voter: bool,
    /// Where its stream ended in the previous view. Zero for a new member.
    pub start: End,
}

/// The data that the data plane needs to begin a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewConfig {
    /// The view's number.
    pub view: u64,
    /// Its members by rank.
    pub seats: Vec<StreamConfig>,
    /// Its order.
    pub order: Order,
    /// The time of the decision that began the view, in nanoseconds, in a group with a log.
    pub time_ns: u64,
}

/// The position of a peer relative to this member's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerPhase {
    /// It is in an earlier view, or in none.
    Behind,
    /// It is in this view.
    Here,
    /// It has wedged this view.
    Gone,
}

impl Multicast {
    /// Stops publishing and taking in. Returns where each stream ends here, by rank.
    ///
    /// The end of this member's own stream covers everything that it has published.
    pub fn wedge(&mut self) -> Vec<End> {
        self.wedged = true;
        let streams = self.streams.iter().enumerate();
        let ends = streams.map(|(rank, stream)| if rank == self.me { self.publisher.end() } else { stream.end() });
        self.flushed = ends.collect();
        self.flushed.clone()
    }

    /// Whether `end` can be the end of `stream` at any member.
    pub fn is_possible(&self, stream: Rank, end: End) -> bool {
        let here = self.flushed[stream];
        let behind = end.frames < here.frames;
        let words = if behind { here.word.wrapping_sub(end.word) } else { end.word.wrapping_sub(here.word) };
        let ring = u64::from(self.geometry.words);
        let own = stream != self.me || (end.messages <= here.messages && end.frames <= here.frames);
        let counts = end.messages >= self.order.base && end.messages <= self.most();
        own && counts && end.frames.abs_diff(here.frames) <= ring && u64::from(words) <= ring
    }

    /// The ends up to which this member has each stream, as wedged and as raised since.
    pub fn flushed(&self) -> &[End] {
        &self.flushed
    }

    /// The byte ranges of a stream's row up to `target` that this member lacks and must fetch.
    pub fn missing(&self, stream: Rank, target: End) -> impl Iterator<Item = Range<usize>> {
        let here = self.flushed[stream];
        let to = if target.frames > here.frames { target.word } else { here.word };
        self.streams[stream].between(here.word, to)
    }

    /// Raises the end of `stream` to `target`. Its bytes are in the row now. Checks that the frames end there.
    pub fn raise(&mut self, stream: Rank, target: End) -> Result<(), String> {
        let here = self.flushed[stream];
        if target.frames > here.frames {
            let (end, walked) = self.streams[stream].walk(target.frames, here.messages.max(target.messages));
            walked?;
            if end.word != target.word {
                return Err(format!(
                    "stream {stream} should end at ring word {}, its frames at {}",
                    target.word, end.word
                ));
            }
        }
        let word = if target.frames > here.frames { target.word } else { here.word };
        let (messages, frames) = (here.messages.max(target.messages), here.frames.max(target.frames));
        self.flushed[stream] = End { messages, frames, word };
        if planted::is(Bug::FetchedEarly) {
            self.streams[stream].finish(self.flushed[stream]);
            self.arrived = self.order.contiguous(self.streams.iter().map(|s| s.messages));
        }
        Ok(())
    }

    /// Gives this member's row new memory, `row`, in which the next view begins.
    ///
    /// Returns false if too many former memories are still in use: see `memories`.
    pub fn renew(&mut self, row: Arc<Row>) -> bool {
        let renewed = self.publisher.renew(row.clone());
        if renewed {
            self.table.attach(self.table.me(), row);
            self.handover.renews = true;
        }
        renewed
    }

    /// Finds the members' rows in this view, from which frames are fetched and delivered.
    ///
    /// Returns the ranks without a row here yet, one bit per rank.
    pub fn follow_all(&mut self, fabric: &mut dyn Fabric, phase_of: &dyn Fn(Slot) -> PeerPhase) -> u64 {
        let mut awaited = 0;
        for peer in 0..self.senders() {
            if peer != self.me && phase_of(self.seats[peer].slot) != PeerPhase::Behind && !self.follow(peer, fabric) {
                awaited |= 1 << peer;
            }
        }
        awaited
    }

    /// Finds the row of `peer`, which has begun this view. Returns false if the row is not here yet.
    pub(super) fn follow(&mut self, peer: Rank, fabric: &mut dyn Fabric) -> bool {
        match fabric.renewed(self.seats[peer].slot, self.table.id(), self.view) {
            Renewed::Same => {}
            Renewed::New(row) => self.moves_to(peer, row),
            Renewed::Awaited => return false,
        }
        true
    }

    /// Makes `row` the row of the member of `rank`.
    fn moves_to(&mut self, rank: Rank, row: Arc<Row>) {
        self.table.attach(self.seats[rank].slot, row.clone());
        self.streams[rank].moves_to(row.clone());
        if let Some(feeder) = &mut self.feeder {
            feeder.stream_moves_to(rank, row);
        }
    }

    /// Notes that the link with the process in `slot` was relinked while this member is wedged.
    ///
    /// `row` is that process's row and keeps its contents.
    pub fn relink(&mut self, slot: Slot, row: Arc<Row>, fabric: &mut dyn Fabric) {
        match self.seats.iter().position(|seat| seat.slot == slot) {
            Some(rank) => self.moves_to(rank, row),
            None => self.table.attach(slot, row),
        }
        // Writes over the former link may be lost.
        self.table.push(fabric, &[slot], 0..super::COLUMNS_LEN, Source::Snapshot);
    }

    /// Ends the epoch: the streams are delivered up to the ends `trim`, by rank, and no further.
    pub fn end(&mut self, trim: &[End]) {
        self.ending = true;
        let most = self.most();
        for (rank, (stream, &trim)) in self.streams.iter_mut().zip(trim).enumerate() {
            if planted::is(Bug::LateWrite) {
                let published = self.table.load(self.seats[rank].slot, column::PUBLISHED);
                if stream.take_in(published, most) == Ok(true) && stream.messages > trim.messages {
                    continue;
                }
            }
            stream.finish(trim);
        }
        self.arrived = self.order.horizon(self.streams.iter().map(|stream| stream.messages));
    }

    /// Whether the end of the epoch is decided and final here.
    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// The table that holds this subgroup's rings.
    pub fn table_id(&self) -> TableId {
        self.table.id()
    }

    /// Whether everything up to the decided ends is delivered.
    pub fn has_ended(&self) -> bool {
        self.ending && self.next >= self.arrived
    }

    /// Begins a view. This member has delivered everything of the previous view, and all members of this one have
    /// received it.
    pub fn enter(&mut self, layout: &ViewConfig, fabric: &mut dyn Fabric) -> Result<(), Violation> {
        let own = self.table.me();
        let ViewConfig { view, seats, order, time_ns } = layout;
        let sizes = (self.ring().stamp(), self.ring().stamp() + self.ring().max_message());
        let mut streams: Vec<Option<Stream>> = std::mem::take(&mut self.streams).into_iter().map(Some).collect();
        for (rank, seat) in seats.iter().enumerate() {
            let before = self.seats.iter().position(|old| old.slot == seat.slot);
            let start = End { messages: order.base, ..seat.start };
            let stream = match before.and_then(|old| streams[old].take()) {
                Some(stream) => stream.restart(start),
                None => match self.table.row(seat.slot) {
                    Some(row) => Ok(Stream::new(row.clone(), self.geometry, sizes, start)),
                    None => Err("it is not attached".to_owned()),
                },
            };
            self.streams.push(stream.map_err(|what| Violation { peer: rank, what })?);
        }
        let known = |seat: &StreamConfig| {
            self.seats.iter().position(|old| old.slot == seat.slot).map(|old| self.delivered[old])
        };
        // A new member needs nothing of the earlier views.
        self.delivered = seats.iter().map(|seat| known(seat).unwrap_or(order.first)).collect();
        (self.view, self.order) = (*view, *order);
        self.me = seats.iter().position(|seat| seat.slot == own).unwrap_or(0);
        if let Some(row) = self.table.row(own) {
            // The row may have new memory.
            self.streams[self.me].moves_to(row.clone());
        }
        self.peers = seats.iter().map(|seat| seat.slot).filter(|&slot| slot != own).collect();
        self.hot_len = column::received(seats.iter().map(|seat| seat.slot + 1).max().unwrap_or(0)).0;
        self.seats.clone_from(seats);
        self.stability = Stability::new(seats.len(), order.base);
        self.entered = vec![false; seats.len()];
        self.wanted = vec![0; seats.len()];
        self.peer_received = vec![0; seats.len()];
        (self.wedged, self.ending, self.holds_nulls) = (false, false, false);
        (self.arrived, self.next, self.turn, self.index) = (order.first, order.first, 0, order.base);
        self.time_ns = if self.feeder.is_some() { *time_ns } else { 0 };
        self.publisher.enter(*order, self.me);
        if self.feeder.is_some() {
            self.ring().note_durable(self.publisher.frames.wrapping_add(self.ticket_offset));
        }
        self.delivered[self.me] = order.first;
        self.persisted = vec![order.first; seats.len()];
        if let Some(feeder) = &mut self.feeder {
            feeder.enter(self.streams.clone(), *order, *time_ns);
        }
        self.begin_handover();
        for seat in seats {
            self.table.store(column::received(seat.slot), order.base);
        }
        self.table.store(column::DELIVERED, order.first);
        self.table.store(column::PERSISTED, order.first);
        self.table.store(column::PUBLISHED, self.publisher.published_word());
        self.push(fabric);
        Ok(())
    }
}
