//! The engine's side of this member's ring.
//!
//! It publishes the contiguous committed prefix, and frees the bytes that all members have delivered.

use super::claims::{DROPPED, PADDING, WRAP};
use super::frame::{self, Header, Kind, WORD};
use super::order::Order;
use super::ring::SendRing;
use super::{End, Origin};
use crate::fabric::{Rank, Row, Ticket};
use crate::planted::{self, Bug};
use crate::types::Mode;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Ring bytes that become reusable together.
///
/// They do once all members have delivered everything below `sequence`, and the data write `ticket` has completed.
struct Batch {
    sequence: u64,
    ticket: Ticket,
    start_word: u32,
    end_word: u32,
    end_ticket: u32,
}

/// The ticket of a batch with a data write that is not posted yet.
const UNPOSTED: Ticket = Ticket(u64::MAX);

/// See the module.
pub(super) struct Publisher {
    pub(super) ring: Arc<SendRing>,
    row: Arc<Row>,
    me: Rank,
    order: Order,
    /// The stamp of frames in this pass, in a group with a log.
    pub(super) clock_ns: Option<u64>,
    /// Ticket and position of the next frame to publish.
    ticket: u32,
    word: u32,
    /// Published frames, and published messages including nulls.
    pub(super) frames: u64,
    pub(super) messages: u64,
    /// Messages up to the last application message. Later ones are nulls, which carry nothing.
    pub(super) sent: u64,
    /// In a group with a log: for each pass that published messages which are not known to be durable, the frames up to
    /// its end, and the number below which everything must be durable for that.
    unsynced: VecDeque<(u64, u64)>,
    batches: VecDeque<Batch>,
    /// The length at which a batch ends, at the next message boundary.
    ///
    /// So a large pass is freed in parts. Shorter batches are joined, so that there are at most about 32.
    batch_words: u32,
    /// Byte ranges of the row written by the last [`Publisher::advance`].
    ///
    /// At most two, plus some for dropped reservations.
    pub(super) ranges: Vec<Range<usize>>,
    pub(super) published: Published,
}

/// Totals of everything published.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Published {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) nulls: u64,
    pub(super) batches: u64,
}

impl Publisher {
    pub(super) fn new(ring: Arc<SendRing>, row: Arc<Row>, origin: Origin) -> Publisher {
        let batch_words = (ring.geometry.words / 16).max(1);
        Publisher {
            ring,
            row,
            me: 0,
            order: Order { senders: 1, base: origin.index, first: 0 },
            clock_ns: None,
            ticket: origin.ticket,
            word: origin.word,
            frames: origin.index,
            messages: origin.index,
            sent: origin.index,
            unsynced: VecDeque::new(),
            batches: VecDeque::with_capacity(64),
            batch_words,
            ranges: Vec::with_capacity(2),
            published: Published::default(),
        }
    }

    /// Begins a view. Frames that are committed and not published go out in it, after the frames of earlier views.
    pub(super) fn enter(&mut self, order: Order, me: Rank) {
        (self.order, self.me) = (order, me);
        // Every member of the view has the messages of earlier views on disk.
        self.unsynced.clear();
        (self.messages, self.sent) = (order.base, order.base);
    }

    /// Gives this member's row new memory, `row`. Frames in the former memory are copied when they are published.
    ///
    /// Returns false if too many former memories are still in use.
    pub(super) fn renew(&mut self, row: Arc<Row>) -> bool {
        self.ring.retire(self.ticket);
        let renewed = self.ring.renew(row.clone());
        if renewed {
            self.row = row;
        }
        renewed
    }

    /// The end of this member's stream.
    pub(super) fn end(&self) -> End {
        End { messages: self.messages, frames: self.frames, word: self.word }
    }

    /// Writes the headers of all committed frames and collects the byte ranges to push. Returns true if there are any.
    ///
    /// A pass never ends with the padding of a dropped reservation alone: a null covers it. A reader is known to have
    /// stepped over padding only once it has delivered a later message. Padding before a wrap waits for its message.
    ///
    /// `held`: nothing may be published yet ([`super::handover`]).
    pub(super) fn advance(&mut self, held: bool) -> bool {
        self.ranges.clear();
        if held {
            return false;
        }
        let first = self.frames;
        let mut start = self.word;
        let mut batch_start = self.word;
        let mut uncovered = false;
        while let Some(committed) = self.ring.claims.committed(self.ticket) {
            if committed.flags & WRAP != 0 && self.ring.claims.committed(self.ticket.wrapping_add(1)).is_none() {
                break;
            }
            let kind = self.kind(committed.flags);
            let header = Header { len: committed.len, kind };
            let geometry = self.ring.geometry;
            self.row.word(geometry.offset(self.word)).store(header.encode(), Ordering::Relaxed);
            // Padding has no payload to copy, and padding before a wrap was not assigned a memory.
            if let Kind::Message { .. } = kind
                && let Some(former) = self.ring.former(self.ticket)
            {
                for offset in geometry.payload(self.word, committed.len).step_by(WORD) {
                    self.row.word(offset).store(former.word(offset).load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            if let (Kind::Message { .. }, Some(clock_ns)) = (kind, self.clock_ns) {
                self.row.word(geometry.offset(self.word) + WORD).store(clock_ns, Ordering::Relaxed);
            }
            let words = frame::words(committed.len);
            uncovered = kind == Kind::Padding;
            if committed.flags & WRAP != 0 || committed.flags == DROPPED {
                // Only the header of the padding is sent.
                self.range(start, self.word.wrapping_sub(start) + 1);
                start = self.word.wrapping_add(words);
            }
            self.word = self.word.wrapping_add(words);
            self.ticket = self.ticket.wrapping_add(1);
            self.frames += 1;
            if let Kind::Message { .. } = kind {
                self.messages += 1;
                self.sent = self.messages;
                self.published.messages += 1;
                self.published.bytes += (committed.len - self.ring.stamp()) as u64;
                if self.word.wrapping_sub(batch_start) >= self.batch_words {
                    self.end_batch(batch_start);
                    batch_start = self.word;
                }
            }
            if geometry.room(self.word) == geometry.words && self.word != start {
                self.range(start, self.word.wrapping_sub(start));
                start = self.word;
            }
        }
        self.range(start, self.word.wrapping_sub(start));
        if uncovered && !planted::is(Bug::PaddingUncovered) {
            self.messages += 1;
            self.published.nulls += 1;
        }
        if batch_start != self.word {
            self.end_batch(batch_start);
        }
        if self.clock_ns.is_some() && self.frames != first {
            let below = match self.sent > self.order.base {
                true => self.order.sequence(self.sent - 1, self.me) + 1,
                false => self.order.first,
            };
            self.unsynced.push_back((self.frames, below));
        }
        self.ring.retire(self.ticket);
        self.published.batches += u64::from(!self.ranges.is_empty());
        !self.ranges.is_empty()
    }

    fn kind(&self, flags: u8) -> Kind {
        // The flags come from `SendRing::commit`, so they contain a valid mode.
        let mode = Mode::from_bits(u32::from(flags & 3)).unwrap_or(Mode::Safe);
        match flags & PADDING {
            0 => Kind::Message { mode, index: self.messages as u32 },
            _ => Kind::Padding,
        }
    }

    fn range(&mut self, word: u32, words: u32) {
        if words > 0 {
            let offset = self.ring.geometry.offset(word);
            self.ranges.push(offset..offset + words as usize * WORD);
        }
    }

    /// Ends a batch at the current position. Joins it with the previous batch while the two are short.
    fn end_batch(&mut self, mut start_word: u32) {
        if let Some(last) = self.batches.back()
            && self.word.wrapping_sub(last.start_word) <= self.batch_words
        {
            start_word = last.start_word;
            self.batches.pop_back();
        }
        self.batches.push_back(Batch {
            sequence: self.order.horizon_of(self.messages, self.me),
            ticket: UNPOSTED,
            start_word,
            end_word: self.word,
            end_ticket: self.ticket,
        });
    }

    /// Records the ticket of the last data write for the batches of the last [`Publisher::advance`].
    pub(super) fn posted(&mut self, ticket: Ticket) {
        for batch in self.batches.iter_mut().rev().take_while(|b| b.ticket == UNPOSTED) {
            batch.ticket = ticket;
        }
    }

    /// The number of frames that are durable, if it has grown: everything below `durable` is.
    pub(super) fn durable_frames(&mut self, durable: u64) -> Option<u64> {
        let mut frames = None;
        while let Some(&(end, _)) = self.unsynced.front().filter(|&&(_, below)| below <= durable) {
            frames = Some(end);
            self.unsynced.pop_front();
        }
        frames
    }

    /// Publishes nulls up to `due` messages. Returns true if there were any.
    pub(super) fn fill(&mut self, due: u64) -> bool {
        let nulls = due.saturating_sub(self.messages);
        self.messages += nulls;
        self.published.nulls += nulls;
        nulls > 0
    }

    /// Frees ring bytes for new claims. Returns true if there were any.
    ///
    /// All members are done with everything below `delivered`, and the fabric has completed all writes up to
    /// `completed`.
    pub(super) fn free(&mut self, delivered: u64, completed: Ticket) -> bool {
        let mut last = None;
        while self.batches.front().is_some_and(|b| b.sequence <= delivered && b.ticket <= completed) {
            last = self.batches.pop_front();
        }
        if let Some(batch) = &last {
            self.ring.claims.free(batch.end_word, batch.end_ticket);
        }
        last.is_some()
    }

    /// The number that all members must deliver up to before bytes become free, if a sender is short of space.
    pub(super) fn wanted(&self) -> Option<u64> {
        if self.ring.starved() { self.batches.front().map(|batch| batch.sequence) } else { None }
    }

    /// Whether everything claimed before `ticket` is published.
    pub(super) fn has_published(&self, ticket: u32) -> bool {
        (self.ticket.wrapping_sub(ticket) as i32) >= 0
    }

    /// The `published` word: frames in the low half, messages in the high half, each modulo 2^32.
    pub(super) fn published_word(&self) -> u64 {
        u64::from(self.frames as u32) | u64::from(self.messages as u32) << 32
    }
}
