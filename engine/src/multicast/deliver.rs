//! The walk along the order. It delivers the messages that their modes allow, skips nulls, and stops at a message that
//! is not safe yet.

use super::feeder::{STAMP_MAX_NS, record_time};
use super::stream::Stream;
use super::{Delivery, Multicast, Violation};
use crate::fabric::Rank;
use crate::types::{Mode, Ticket};

/// Maximum messages that one pass delivers before the engine looks at the network again.
const DELIVERIES_PER_PASS: usize = 8192;
/// Maximum sequence numbers, nulls included, that one pass walks over.
const NUMBERS_PER_PASS: u64 = 1 << 16;

/// The receiver of deliveries. It also limits the time of a pass, because the engine sends heartbeats between passes.
pub trait Sink {
    /// Takes a message. Returns false if the pass has lasted long enough; the next pass delivers the rest.
    fn deliver(&mut self, delivery: Delivery<'_>) -> bool;

    /// Whether the pass has lasted long enough, for work that delivers nothing.
    fn is_over(&mut self) -> bool {
        false
    }
}

/// A closure never ends a pass. The pass ends when there is nothing left to deliver.
impl<F: FnMut(Delivery<'_>)> Sink for F {
    fn deliver(&mut self, delivery: Delivery<'_>) -> bool {
        self(delivery);
        true
    }
}

/// The position of the walk and counts of its deliveries.
///
/// It is separate from the rest of the state because a loop over small messages is fast only while its variables stay
/// in registers.
struct Walk {
    next: u64,
    turn: Rank,
    index: u64,
    frames: usize,
    words: u32,
    bytes: u64,
    /// In a group with a log: the time of the last message that the order has passed.
    time_ns: u64,
    /// The sink has reported that the pass has lasted long enough.
    over: bool,
}

impl Multicast {
    /// Delivers in order the messages that their modes allow. Returns true if anything was delivered or skipped.
    ///
    /// Stops at a limit of messages, or when `sink` reports that the pass has lasted long enough. Delivers a `fifo`
    /// message as soon as it is the next one of its stream.
    pub fn deliver(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        self.stability.refresh();
        let first = self.next;
        if self.senders() == 0 {
            return Ok(false);
        }
        let (turn, index, time_ns) = (self.turn, self.index, self.time_ns);
        let mut walk = Walk { next: first, turn, index, frames: 0, words: 0, bytes: 0, time_ns, over: false };
        let walked = self.walk(&mut walk, sink);
        (self.next, self.turn, self.index, self.time_ns) = (walk.next, walk.turn, walk.index, walk.time_ns);
        let passed = walked.and_then(|()| self.pass_fifo(&mut walk, sink));
        if walk.frames > 0 {
            let frames = self.streams[self.me].next_frame().wrapping_add(self.ticket_offset);
            self.ring().note_delivered(frames);
        }
        self.unadvertised_frames += walk.frames;
        self.unadvertised_words += walk.words;
        self.stats.messages_delivered += walk.frames as u64;
        self.stats.bytes_delivered += walk.bytes;
        self.stats.batches_delivered += u64::from(walk.frames > 0);
        self.show_done();
        passed.map(|()| walk.frames > 0 || self.next != first)
    }

    /// Walks the order until a message must wait, or until the pass is long enough.
    fn walk(&mut self, walk: &mut Walk, sink: &mut impl Sink) -> Result<(), Violation> {
        let senders = self.senders();
        // At the end of an epoch everything decided is delivered in any mode, and messages that no member has are
        // skipped.
        let all = self.ending;
        let end = self.arrived.min(walk.next + NUMBERS_PER_PASS);
        // The pass ends when `delivered` is due to be pushed, since senders may wait for it.
        let (tell_frames, tell_words) = self.advertise_at();
        let (most_frames, most_words) = match all {
            true => (DELIVERIES_PER_PASS, u32::MAX),
            false => (
                DELIVERIES_PER_PASS.min(tell_frames.saturating_sub(self.unadvertised_frames)),
                tell_words.saturating_sub(self.unadvertised_words),
            ),
        };
        let (durable, stamp) = (self.durable(), self.ring().stamp());
        let (me, ticket_offset) = (self.me, self.ticket_offset);
        let mut unstable = (0..senders).any(|s| self.streams[s].ordered > self.stability.stable(s));
        while walk.next < end && walk.frames < most_frames && walk.words < most_words && !walk.over {
            let (sender, index) = (walk.turn, walk.index);
            let stream = &mut self.streams[sender];
            if stream.next > index {
                // A `fifo` message that was delivered ahead of the order, or a null before one.
                if let Some(stamp_ns) = stream.go_through(index) {
                    walk.pass_time(stamp, stamp_ns);
                    unstable |= index >= self.stability.stable(sender);
                }
            } else {
                match stream.head().map_err(|what| Violation { peer: sender, what })? {
                    Some(head) if head.index == index => {
                        let safe = index < self.stability.stable(sender);
                        if head.mode >= Mode::Safe && (unstable || !safe) && !all {
                            break;
                        }
                        if head.mode == Mode::Durable && walk.next >= durable && !all {
                            if self.feeder.is_none() {
                                let what = "a durable message in a group without a log".to_owned();
                                return Err(Violation { peer: sender, what });
                            }
                            break;
                        }
                        unstable |= !safe;
                        stream.ordered = index + 1;
                        let ticket = ticket_of(stream, sender == me, ticket_offset);
                        let (stamp_ns, payload) = split(stream.take(head), stamp);
                        walk.count(head.words(), payload);
                        walk.pass_time(stamp, stamp_ns);
                        walk.over = !sink.deliver(Delivery {
                            subgroup: self.subgroup,
                            view: self.view,
                            sender: self.seats[sender].id,
                            sequence: walk.next,
                            mode: head.mode,
                            ticket,
                            time_ns: walk.time_ns,
                            payload,
                        });
                    }
                    _ => stream.next = index + 1,
                }
            }
            walk.next += 1;
            walk.turn += 1;
            if walk.turn == senders {
                walk.turn = 0;
                walk.index += 1;
            }
        }
        Ok(())
    }

    /// Delivers, ahead of the order, the `fifo` messages that are next in their streams.
    fn pass_fifo(&mut self, walk: &mut Walk, sink: &mut impl Sink) -> Result<(), Violation> {
        let (order, view, stamp) = (self.order, self.view, self.ring().stamp());
        let (me, ticket_offset) = (self.me, self.ticket_offset);
        for (sender, stream) in self.streams.iter_mut().enumerate() {
            while walk.frames < DELIVERIES_PER_PASS && !walk.over {
                let head = stream.head().map_err(|what| Violation { peer: sender, what })?;
                let Some(head) = head.filter(|head| head.mode == Mode::Fifo) else { break };
                let ticket = ticket_of(stream, sender == me, ticket_offset);
                let (time_ns, payload) = split(stream.take(head), stamp);
                walk.count(head.words(), payload);
                walk.over = !sink.deliver(Delivery {
                    subgroup: self.subgroup,
                    view,
                    sender: self.seats[sender].id,
                    sequence: order.sequence(head.index, sender),
                    mode: head.mode,
                    ticket,
                    time_ns,
                    payload,
                });
                stream.note_ahead(head.index, time_ns);
            }
        }
        Ok(())
    }
}

/// The ticket of the next message of `stream`, if the stream is this member's own.
#[inline]
fn ticket_of(stream: &Stream, own: bool, offset: u64) -> Option<Ticket> {
    own.then(|| Ticket::of_frame(stream.next_frame().wrapping_add(offset)))
}

/// Splits a frame's bytes into the stamp, 0 if there is none, and the payload.
#[inline]
fn split(raw: &[u8], stamp: usize) -> (u64, &[u8]) {
    match raw.split_first_chunk() {
        Some((stamp_ns, payload)) if stamp > 0 => (u64::from_le_bytes(*stamp_ns).min(STAMP_MAX_NS), payload),
        _ => (0, raw),
    }
}

impl Walk {
    /// Moves the time to that of the next message's record.
    #[inline]
    fn pass_time(&mut self, stamp: usize, stamp_ns: u64) {
        if stamp > 0 {
            self.time_ns = record_time(stamp_ns, self.time_ns);
        }
    }

    #[inline]
    fn count(&mut self, words: u32, payload: &[u8]) {
        self.frames += 1;
        self.words += words;
        self.bytes += payload.len() as u64;
    }
}
