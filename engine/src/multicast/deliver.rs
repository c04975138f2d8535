//! The walk along the order: hands over what its mode allows, skips nulls, stops at what is not safe yet.

use super::frame::Mode;
use super::{Breach, Delivery, Multicast};
use crate::fabric::Rank;

/// Messages handed to the application before the engine looks at the network again.
const DELIVERIES_PER_PASS: usize = 8192;
/// Numbers of the order, nulls included, that one pass goes through.
const NUMBERS_PER_PASS: u64 = 1 << 16;

/// Where deliveries go, and how long a pass lasts: the engine sends heartbeats between passes.
pub trait Sink {
    /// Takes a message. False if the pass has lasted long enough: what is left waits for the next one.
    fn deliver(&mut self, delivery: Delivery<'_>) -> bool;

    /// Whether the pass has lasted long enough, for work that delivers nothing.
    fn is_over(&mut self) -> bool {
        false
    }
}

/// Passes end when there is nothing left to deliver.
impl<F: FnMut(Delivery<'_>)> Sink for F {
    fn deliver(&mut self, delivery: Delivery<'_>) -> bool {
        self(delivery);
        true
    }
}

/// Where the walk is, and what it has handed over: kept apart from the rest of the state, because a loop over small
/// messages is as fast as its variables stay in registers.
struct Walk {
    next: u64,
    turn: Rank,
    index: u64,
    frames: usize,
    words: u32,
    bytes: u64,
    /// The sink says that the pass has lasted long enough.
    over: bool,
}

impl Multicast {
    /// Delivers what its mode allows, in the order, up to a bound of messages, or until `sink` says that the pass has lasted
    /// long enough; `fifo` messages as soon as they lead their stream. True if anything was delivered or skipped.
    pub fn deliver(&mut self, sink: &mut impl Sink) -> Result<bool, Breach> {
        self.stability.refresh();
        let first = self.next;
        if self.senders() == 0 {
            return Ok(false);
        }
        let mut walk =
            Walk { next: first, turn: self.turn, index: self.index, frames: 0, words: 0, bytes: 0, over: false };
        let walked = self.walk(&mut walk, sink);
        (self.next, self.turn, self.index) = (walk.next, walk.turn, walk.index);
        let passed = walked.and_then(|()| self.pass_fifo(&mut walk, sink));
        self.untold_frames += walk.frames;
        self.untold_words += walk.words;
        self.stats.messages_delivered += walk.frames as u64;
        self.stats.bytes_delivered += walk.bytes;
        self.stats.batches_delivered += u64::from(walk.frames > 0);
        self.show_done();
        passed.map(|()| walk.frames > 0 || self.next != first)
    }

    /// Goes along the order until something has to be waited for, or enough was handed over to look around.
    fn walk(&mut self, walk: &mut Walk, sink: &mut impl Sink) -> Result<(), Breach> {
        let senders = self.senders();
        // At the end of an epoch everything decided is delivered, whatever its mode, and what nobody has is skipped.
        let all = self.ending;
        let end = self.arrived.min(walk.next + NUMBERS_PER_PASS);
        // The pass ends when `delivered` is worth telling: senders may wait for it.
        let (tell_frames, tell_words) = self.tell_at();
        let (most_frames, most_words) = match all {
            true => (DELIVERIES_PER_PASS, u32::MAX),
            false => (
                DELIVERIES_PER_PASS.min(tell_frames.saturating_sub(self.untold_frames)),
                tell_words.saturating_sub(self.untold_words),
            ),
        };
        let (durable, stamp) = (self.durable(), self.ring().stamp());
        let mut unstable = (0..senders).any(|s| self.streams[s].ordered > self.stability.stable(s));
        while walk.next < end && walk.frames < most_frames && walk.words < most_words && !walk.over {
            let (sender, index) = (walk.turn, walk.index);
            let stream = &mut self.streams[sender];
            if stream.next > index {
                // A `fifo` message, delivered ahead of its place, or a null before one.
                unstable |= stream.go_through(index) && index >= self.stability.stable(sender);
            } else {
                match stream.head().map_err(|what| Breach { peer: sender, what })? {
                    Some(head) if head.index == index => {
                        let safe = index < self.stability.stable(sender);
                        if head.mode >= Mode::Safe && (unstable || !safe) && !all {
                            break;
                        }
                        if head.mode == Mode::Durable && walk.next >= durable && !all {
                            if self.scribe.is_none() {
                                let what = "a durable message in a group without a log".to_owned();
                                return Err(Breach { peer: sender, what });
                            }
                            break;
                        }
                        unstable |= !safe;
                        stream.ordered = index + 1;
                        let payload = &stream.take(head)[stamp..];
                        walk.count(head.words(), payload);
                        let (subgroup, sender) = (self.subgroup, self.seats[sender].id);
                        let view = self.view;
                        let told = Delivery { subgroup, view, sender, sequence: walk.next, mode: head.mode, payload };
                        walk.over = !sink.deliver(told);
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

    /// Delivers the `fifo` messages that lead their streams, ahead of the order.
    fn pass_fifo(&mut self, walk: &mut Walk, sink: &mut impl Sink) -> Result<(), Breach> {
        let (order, view, stamp) = (self.order, self.view, self.ring().stamp());
        for (sender, stream) in self.streams.iter_mut().enumerate() {
            while walk.frames < DELIVERIES_PER_PASS && !walk.over {
                let head = stream.head().map_err(|what| Breach { peer: sender, what })?;
                let Some(head) = head.filter(|head| head.mode == Mode::Fifo) else { break };
                stream.note_ahead(head.index);
                let payload = &stream.take(head)[stamp..];
                walk.count(head.words(), payload);
                let sequence = order.sequence(head.index, sender);
                let (subgroup, sender) = (self.subgroup, self.seats[sender].id);
                walk.over = !sink.deliver(Delivery { subgroup, view, sender, sequence, mode: head.mode, payload });
            }
        }
        Ok(())
    }
}

impl Walk {
    #[inline]
    fn count(&mut self, words: u32, payload: &[u8]) {
        self.frames += 1;
        self.words += words;
        self.bytes += payload.len() as u64;
    }
}
