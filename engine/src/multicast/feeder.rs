//! The walk along the order that writes the log, in a group with a log.
//!
//! Every message of any mode enters the log once every member has received it ([`Multicast::write`]). `persisted`
//! follows when the disk has it. When an epoch ends, the messages that the flush obtained are saved beside the log
//! ([`Multicast::save_tail`], see [`super::tail`]). Those that the decision keeps enter the log
//! ([`Multicast::write_end`]).
//!
//! Each frame carries its sender's clock before the payload: the *stamp*. A record's time is the larger of its stamp
//! and the previous record's time plus one. This is a hybrid logical clock, and it is the same in every member's log.

use super::epoch::End;
use super::order::Order;
use super::progress::Progress;
use super::stream::Stream;
use super::tail::{TAIL, Tail, TailRecord};
use super::{Multicast, Violation, column};
use crate::fabric::Rank;
use crate::log::{Journal, Kind, Record, Ticket};
use crate::planted::{self, Bug};
use crate::types::{MemberId, Mode, Version};
use std::collections::VecDeque;

/// Bytes of a stamp.
pub(super) const STAMP: usize = 8;
/// The largest valid stamp, in nanoseconds since 1970, even if a clock shows a later time: the year 2116.
pub(crate) const STAMP_MAX_NS: u64 = 1 << 62;
/// Maximum bytes handed to the journal and not on disk yet. Above it the walk waits, so the rings fill and senders
/// wait.
const BACKLOG_BYTES: usize = 32 << 20;

/// The condition that makes a message durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// How many voters must have it on disk. 0, or more than there are, means all.
    pub k: usize,
}

/// The time of a record with the stamp `stamp_ns`, after a record with the time `before_ns`.
pub fn record_time(stamp_ns: u64, before_ns: u64) -> u64 {
    stamp_ns.max(before_ns.saturating_add(1))
}

/// The position of the walk.
#[derive(Clone)]
struct Point {
    streams: Vec<Stream>,
    next: u64,
    turn: Rank,
    index: u64,
    /// The time of the last record.
    time_ns: u64,
}

/// A saved tail: the ends that it covers, the time of its last record, and the ticket of its write.
struct Saved {
    ends: Vec<End>,
    time_ns: u64,
    ticket: Ticket,
}

/// See the module.
pub(super) struct LogFeeder {
    k: usize,
    point: Point,
    tail: Option<Saved>,
    /// The end of the present view is written.
    ended: bool,
    /// Requests to the journal. Each has its ticket, the number up to which the log is complete once it is done, and
    /// the time of the last record before that number.
    asked: VecDeque<(Ticket, u64, u64)>,
    last: Ticket,
    persisted: u64,
    persisted_ns: u64,
}

/// A message on its way into the log. `raw` is the payload with its stamp.
struct Found<'a> {
    sequence: u64,
    sender: Rank,
    mode: Mode,
    time_ns: u64,
    raw: &'a [u8],
}

impl Found<'_> {
    fn record(&self, view: u64, sender: MemberId) -> Record<'_> {
        let Found { sequence, mode, time_ns, raw, .. } = *self;
        let version = Version { view, sequence };
        Record { version, time_ns, sender, mode, kind: Kind::Message, payload: &raw[STAMP..] }
    }
}

impl Point {
    /// Walks the order up to `end`, to a message for which `may` is false, or until `write` returns false.
    fn walk(
        &mut self,
        end: u64,
        may: impl Fn(Rank, u64) -> bool,
        mut write: impl FnMut(Found<'_>) -> bool,
    ) -> Result<(), Violation> {
        while self.next < end {
            let (sender, index) = (self.turn, self.index);
            let stream = &mut self.streams[sender];
            let mut goes_on = true;
            match stream.head().map_err(|what| Violation { peer: sender, what })? {
                Some(head) if head.index == index => {
                    if !may(sender, index) {
                        break;
                    }
                    let raw = stream.take(head);
                    let stamp_ns = stamp(raw);
                    if stamp_ns > STAMP_MAX_NS {
                        return Err(Violation { peer: sender, what: format!("a message of the time {stamp_ns} ns") });
                    }
                    self.time_ns = record_time(stamp_ns, self.time_ns);
                    let (sequence, mode, time_ns) = (self.next, head.mode, self.time_ns);
                    goes_on = write(Found { sequence, sender, mode, time_ns, raw });
                }
                _ => stream.next = index + 1,
            }
            self.next += 1;
            self.turn += 1;
            if self.turn == self.streams.len() {
                self.turn = 0;
                self.index += 1;
            }
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    fn finish(&mut self, ends: &[End]) {
        self.streams.iter_mut().zip(ends).for_each(|(stream, &end)| stream.finish(end));
    }
}

/// The stamp before a payload. It is always there, because a stream has no shorter messages.
fn stamp(raw: &[u8]) -> u64 {
    raw.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl LogFeeder {
    pub(super) fn new(durability: Durability) -> LogFeeder {
        LogFeeder {
            k: durability.k,
            point: Point { streams: Vec::new(), next: 0, turn: 0, index: 0, time_ns: 0 },
            tail: None,
            ended: false,
            asked: VecDeque::new(),
            last: Ticket::default(),
            persisted: 0,
            persisted_ns: 0,
        }
    }

    /// See [`Stream::moves_to`].
    pub(super) fn stream_moves_to(&mut self, rank: Rank, row: std::sync::Arc<crate::fabric::Row>) {
        if let Some(stream) = self.point.streams.get_mut(rank) {
            stream.moves_to(row);
        }
    }

    /// Begins a view over these streams. The log contains everything before it, and its last record has this time.
    pub(super) fn enter(&mut self, streams: Vec<Stream>, order: Order, time_ns: u64) {
        self.point = Point { streams, next: order.first, turn: 0, index: order.base, time_ns };
        (self.tail, self.ended) = (None, false);
        self.asked.clear();
        (self.persisted, self.persisted_ns) = (order.first, time_ns);
    }

    /// The number below which everything is in the log or will be without further work here.
    pub(super) fn next(&self) -> u64 {
        self.point.next
    }

    /// The part of [`Progress`] that is known here.
    pub(super) fn progress(&self) -> Progress {
        let LogFeeder { point, tail, persisted_ns, .. } = self;
        Progress {
            taken_in: None,
            logged: point.next,
            logged_ns: point.time_ns,
            saved_ns: tail.as_ref().map_or(0, |tail| tail.time_ns).max(point.time_ns),
            persisted_ns: *persisted_ns,
            persisted_by_all: 0,
        }
    }

    /// Records how far the disk is.
    fn sync(&mut self, durable: Ticket) {
        let durable = if planted::is(Bug::PersistedBeforeSync) { self.last } else { durable };
        while let Some(&(_, next, time_ns)) = self.asked.front().filter(|(ticket, ..)| *ticket <= durable) {
            (self.persisted, self.persisted_ns) = (next, time_ns);
            self.asked.pop_front();
        }
    }
}

impl Multicast {
    /// Appends stable messages to the log, in order, and publishes how far the disk is. Returns true if anything moved.
    ///
    /// Continues until `is_over`, which is called after each record. If `waits`, it stops while the disk is behind.
    pub fn write(
        &mut self,
        waits: bool,
        journal: &mut dyn Journal,
        is_over: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Violation> {
        self.stability.refresh();
        let Some(feeder) = &mut self.feeder else { return Ok(false) };
        let before = (feeder.point.next, feeder.persisted);
        if !feeder.ended {
            for (own, stream) in feeder.point.streams.iter_mut().zip(&self.streams) {
                own.follow(stream);
            }
            let (stability, seats, view) = (&self.stability, &self.seats, self.view);
            let last = &mut feeder.last;
            let full = waits && journal.backlog_bytes() >= BACKLOG_BYTES;
            let end = if full { feeder.point.next } else { self.arrived };
            feeder.point.walk(
                end,
                |sender, index| index < stability.stable(sender),
                |found| {
                    *last = journal.append(found.record(view, seats[found.sender].id));
                    !is_over() && (!waits || journal.backlog_bytes() < BACKLOG_BYTES)
                },
            )?;
            if feeder.point.next != before.0 {
                feeder.asked.push_back((feeder.last, feeder.point.next, feeder.point.time_ns));
            }
        }
        feeder.sync(journal.durable());
        let after = (feeder.point.next, feeder.persisted);
        if after.1 != before.1 {
            self.persisted[self.me] = after.1;
            self.table.store(column::PERSISTED, after.1);
        }
        self.show_done();
        Ok(after != before)
    }

    /// Saves beside the log the messages that the flush obtained, since a decision may need them.
    ///
    /// Returns true once they are on disk.
    pub fn save_tail(&mut self, journal: &mut dyn Journal) -> Result<bool, Violation> {
        let (view, order) = (self.view, self.order);
        let Some(feeder) = &mut self.feeder else { return Ok(true) };
        if let Some(saved) = &feeder.tail
            && saved.ends == self.flushed
        {
            return Ok(journal.durable() >= saved.ticket);
        }
        let (mut point, ends) = (feeder.point.clone(), self.flushed.clone());
        point.finish(&ends);
        let end = order.horizon(ends.iter().map(|end| end.messages));
        let (seats, mut tail) = (&self.seats, Tail { view, ends: ends.clone(), records: Vec::new() });
        let keep = |found: Found<'_>| {
            let Found { sequence, sender, mode, raw, .. } = found;
            tail.records.push(TailRecord { sequence, sender: seats[sender].id, mode, raw: raw.to_vec() });
            true
        };
        point.walk(end, |_, _| true, keep)?;
        let ticket = journal.save(TAIL, &tail.encode());
        feeder.tail = Some(Saved { ends, time_ns: point.time_ns, ticket });
        Ok(false)
    }

    /// Writes the decided end of the view: the messages still missing up to `trim`, then the record `decision`, if any.
    /// Returns the last write.
    ///
    /// The record has the time that was decided with it.
    pub fn write_end(
        &mut self,
        trim: &[End],
        decision: Option<Record<'_>>,
        journal: &mut dyn Journal,
    ) -> Result<Option<Ticket>, Violation> {
        let (view, order) = (self.view, self.order);
        let Some(feeder) = self.feeder.as_mut().filter(|feeder| !feeder.ended) else { return Ok(None) };
        feeder.point.finish(trim);
        let (end, seats) = (order.horizon(trim.iter().map(|end| end.messages)), &self.seats);
        let last = &mut feeder.last;
        let append = |found: Found<'_>| {
            *last = journal.append(found.record(view, seats[found.sender].id));
            true
        };
        feeder.point.walk(end, |_, _| true, append)?;
        if let Some(decision) = decision {
            feeder.last = journal.append(decision);
            feeder.point.time_ns = decision.time_ns;
        }
        feeder.ended = true;
        let written = Some(feeder.last);
        self.show_done();
        Ok(written)
    }

    /// Takes in how far one peer's disk is.
    pub(super) fn take_in_persisted(&mut self, peer: Rank, persisted: u64) -> Result<bool, String> {
        let known = &mut self.persisted[peer];
        let most = self.order.sequence(self.publisher.messages, self.me);
        if self.feeder.is_none() || persisted == *known {
            return Ok(false);
        }
        if persisted < *known || persisted > most {
            return Err(format!("its `persisted` is {persisted}, outside {known}..={most}"));
        }
        *known = persisted;
        Ok(true)
    }

    /// The number below which this member is done with all messages.
    pub(super) fn done(&self) -> u64 {
        self.feeder.as_ref().map_or(self.next, |feeder| feeder.next().min(self.next))
    }

    /// Stores that number in `delivered`.
    pub(super) fn show_done(&mut self) {
        let done = self.done();
        if self.delivered[self.me] != done {
            self.delivered[self.me] = done;
            self.table.store(column::DELIVERED, done);
        }
    }

    /// Sets the stamp of the frames published from now on, in nanoseconds, in a group with a log.
    pub fn set_clock(&mut self, clock_ns: u64) {
        self.publisher.clock_ns = Some(clock_ns.min(STAMP_MAX_NS));
    }

    /// Two numbers: all below the first has been handed to the log, all below the second is on this member's disk.
    pub fn logged(&self) -> (u64, u64) {
        self.feeder.as_ref().map_or((0, 0), |feeder| (feeder.point.next, feeder.persisted))
    }

    /// Whether everything that `target` covers, per stream of this view, is durable.
    pub fn is_durable(&self, target: &[u64]) -> bool {
        self.durable() >= self.order.horizon(target.iter().copied())
    }

    /// The messages delivered to the application: all below the first number, and the numbers in the list.
    pub fn covered(&self) -> (u64, Vec<u64>) {
        let ahead = self.streams.iter().enumerate();
        let ahead = ahead.flat_map(|(rank, stream)| stream.ahead().map(move |index| self.order.sequence(index, rank)));
        (self.next, ahead.collect())
    }

    /// The number below which everything is on the disks of all voters.
    pub fn persisted_by_all(&self) -> u64 {
        self.voters_persisted().min().unwrap_or(0)
    }

    fn voters_persisted(&self) -> impl Iterator<Item = u64> {
        self.seats.iter().zip(&self.persisted).filter(|(seat, _)| seat.voter).map(|(_, &persisted)| persisted)
    }

    /// The number below which everything is durable: on the disks of all voters, or of as many as are configured.
    pub fn durable(&self) -> u64 {
        let Some(feeder) = &self.feeder else { return 0 };
        if planted::is(Bug::DeliverBeforeDurable) {
            return u64::MAX;
        }
        if feeder.k == 0 || feeder.k >= self.voters_persisted().count() {
            return self.persisted_by_all();
        }
        let enough = |of: &u64| self.voters_persisted().filter(|persisted| persisted >= of).count() >= feeder.k;
        self.voters_persisted().filter(enough).max().unwrap_or(0)
    }
}
