//! The data plane's part in the end of an epoch and the begin of the next.
//!
//! [`Multicast::wedge`] stops the streams and says where each ends here. [`Multicast::missing`] tells which bytes some
//! target covers that are not here; when they are, [`Multicast::raise`] takes note, without delivering anything.
//! [`Multicast::end`] makes the decided ends final: [`Multicast::deliver`] then hands over all that is left up to them, and
//! [`Multicast::enter`] begins the next view. Streams of members that go on continue where the old view ended.

use super::stability::Stability;
use super::stream::Stream;
use super::{Breach, Multicast, column};
use crate::config::MemberId;
use crate::fabric::{Fabric, Rank, Renewed, Row, Slot, Source, TableId};
use crate::multicast::order::Order;
use crate::planted::{self, Bug};
use std::ops::Range;
use std::sync::Arc;

/// Where a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// Messages, with the nulls among them: the index of the next.
    pub messages: u64,
    /// Frames.
    pub frames: u64,
    /// Ring position of the next frame, in words modulo 2^32.
    pub word: u32,
}

/// A member of a view as the data plane sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Where its row is.
    pub slot: Slot,
    /// Its number.
    pub id: MemberId,
    /// Whether it votes.
    pub voter: bool,
    /// Where its stream ended in the view before; zero for one that is new.
    pub start: End,
}

/// What a view begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The view's number.
    pub view: u64,
    /// Its members by rank.
    pub seats: Vec<Seat>,
    /// Its order.
    pub order: Order,
    /// The time of the decision that began it, where there is a log, in nanoseconds.
    pub time_ns: u64,
}

/// Where a peer is, seen from a member that is in some view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In an earlier view, or in none.
    Behind,
    /// In this view.
    Here,
    /// It has wedged this view.
    Gone,
}

impl Multicast {
    /// Stops publishing and taking in. Where each stream ends here, by rank; the own one with all that is put on it.
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

    /// Where each stream ends that has been taken care of here: as wedged, and raised since.
    pub fn flushed(&self) -> &[End] {
        &self.flushed
    }

    /// The bytes of a stream's row, up to `target`, that this member does not have and must fetch.
    pub fn missing(&self, stream: Rank, target: End) -> impl Iterator<Item = Range<usize>> {
        let here = self.flushed[stream];
        let to = if target.frames > here.frames { target.word } else { here.word };
        self.streams[stream].between(here.word, to)
    }

    /// Everything of `stream` up to `target` is in its row now: checks that it is a stream that ends there.
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

    /// The own row has new memory, `row`, in which the next view begins. False if there is no room for it: see `memories`.
    pub fn renew(&mut self, row: Arc<Row>) -> bool {
        let renewed = self.publisher.renew(row.clone());
        if renewed {
            self.table.attach(self.table.me(), row);
        }
        renewed
    }

    /// Finds the rows that the members have in this view: what is fetched and delivered of them lies there. A bit for each
    /// rank that has no row here yet.
    pub fn follow_all(&mut self, fabric: &mut dyn Fabric, standing: &dyn Fn(Slot) -> Standing) -> u64 {
        let mut awaited = 0;
        for peer in 0..self.senders() {
            if peer != self.me && standing(self.seats[peer].slot) != Standing::Behind && !self.follow(peer, fabric) {
                awaited |= 1 << peer;
            }
        }
        awaited
    }

    /// Finds the row that `peer` has in this view, which it has begun. False if it is not here yet.
    pub(super) fn follow(&mut self, peer: Rank, fabric: &mut dyn Fabric) -> bool {
        match fabric.renewed(self.seats[peer].slot, self.table.id(), self.view) {
            Renewed::Same => {}
            Renewed::New(row) => self.moves_to(peer, row),
            Renewed::Awaited => return false,
        }
        true
    }

    /// The row of the member of `rank` lies in `row` from now on.
    fn moves_to(&mut self, rank: Rank, row: Arc<Row>) {
        self.table.attach(self.seats[rank].slot, row.clone());
        self.streams[rank].moves_to(row.clone());
        if let Some(scribe) = &mut self.scribe {
            scribe.stream_moves_to(rank, row);
        }
    }

    /// The link with the process in `slot` was made again, while this member is wedged; `row` is that process's row and keeps
    /// what it held.
    pub fn relink(&mut self, slot: Slot, row: Arc<Row>, fabric: &mut dyn Fabric) {
        match self.seats.iter().position(|seat| seat.slot == slot) {
            Some(rank) => self.moves_to(rank, row),
            None => self.table.attach(slot, row),
        }
        // What was pushed over the former link may be lost.
        self.table.push(fabric, &[slot], 0..super::COLUMNS_LEN, Source::Snapshot);
    }

    /// The epoch ends here: what the streams bring up to `trim`, by rank, is delivered, and nothing else.
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

    /// Whether the epoch's end is final here.
    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// The table that its rings lie in.
    pub fn table_id(&self) -> TableId {
        self.table.id()
    }

    /// Whether all that the ended epoch brings is delivered.
    pub fn has_ended(&self) -> bool {
        self.ending && self.next >= self.arrived
    }

    /// A view begins. All that the one before brought is delivered here, and every member of this one has received it.
    pub fn enter(&mut self, layout: &Layout, fabric: &mut dyn Fabric) -> Result<(), Breach> {
        let own = self.table.me();
        let Layout { view, seats, order, time_ns } = layout;
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
            self.streams.push(stream.map_err(|what| Breach { peer: rank, what })?);
        }
        let known =
            |seat: &Seat| self.seats.iter().position(|old| old.slot == seat.slot).map(|old| self.delivered[old]);
        // A member that is new needs nothing of what came before it.
        self.delivered = seats.iter().map(|seat| known(seat).unwrap_or(order.first)).collect();
        (self.view, self.order) = (*view, *order);
        self.me = seats.iter().position(|seat| seat.slot == own).unwrap_or(0);
        if let Some(row) = self.table.row(own) {
            // Its memory may be new.
            self.streams[self.me].moves_to(row.clone());
        }
        self.peers = seats.iter().map(|seat| seat.slot).filter(|&slot| slot != own).collect();
        self.hot_len = column::received(seats.iter().map(|seat| seat.slot + 1).max().unwrap_or(0)).0;
        self.seats.clone_from(seats);
        self.stability = Stability::new(seats.len(), order.base);
        self.entered = vec![false; seats.len()];
        self.wanted = vec![0; seats.len()];
        self.told_received = vec![0; seats.len()];
        (self.wedged, self.ending, self.holds_nulls) = (false, false, false);
        (self.arrived, self.next, self.turn, self.index) = (order.first, order.first, 0, order.base);
        self.publisher.enter(*order, self.me);
        self.delivered[self.me] = order.first;
        self.persisted = vec![order.first; seats.len()];
        if let Some(scribe) = &mut self.scribe {
            scribe.enter(self.streams.clone(), *order, *time_ns);
        }
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
