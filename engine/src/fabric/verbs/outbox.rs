//! The writes to one peer that have not been posted yet, in order.

use super::super::Row;
use std::collections::VecDeque;
use std::ops::Range;

/// The maximum length of one work request, in bytes. A longer write is split, so that it completes piece by piece.
const PIECE_MAX: usize = 1 << 20;

/// A write, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// The index of the table.
    pub(super) table: usize,
    /// The range of the row.
    pub(super) range: Range<usize>,
    pub(super) bytes: Bytes,
}

/// The location of a write's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    /// Copied: at this position of [`Outbox::copies`], counted from the first byte ever copied.
    Copied(u64),
    /// In the row, until the write is complete. The last piece of a write has its ticket.
    Stable(Option<u64>),
}

/// The queue of one peer. See the module's documentation.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Write>,
    /// The copied bytes, from position `taken_before` on.
    copies: Vec<u8>,
    taken_before: u64,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a write and copies its bytes at once.
    pub(super) fn push_copy(&mut self, table: usize, range: Range<usize>, row: &Row) {
        let place = self.copies.len();
        self.copies.resize(place + range.len(), 0);
        row.load_words(range.start, &mut self.copies[place..]);
        self.queue.push_back(Write { table, range, bytes: Bytes::Copied(self.taken_before + place as u64) });
    }

    /// Queues a write with a source that does not change until `ticket` is complete.
    pub(super) fn push_stable(&mut self, table: usize, range: Range<usize>, ticket: u64) {
        let Range { mut start, end } = range;
        while start < end {
            let piece = start..end.min(start + PIECE_MAX);
            start = piece.end;
            let ticket = (start == end).then_some(ticket);
            self.queue.push_back(Write { table, range: piece, bytes: Bytes::Stable(ticket) });
        }
    }

    /// The ticket of the first write with a source that must not change yet.
    pub(super) fn first_stable(&self) -> Option<u64> {
        self.queue.iter().find_map(|write| match write.bytes {
            Bytes::Stable(ticket) => ticket,
            Bytes::Copied(_) => None,
        })
    }

    /// The writes, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Write> {
        self.queue.iter()
    }

    /// The copied bytes of a write.
    pub(super) fn copied(&self, place: u64, len: usize) -> &[u8] {
        let start = (place - self.taken_before) as usize;
        &self.copies[start..start + len]
    }

    /// Removes the first `count` writes.
    pub(super) fn pop(&mut self, count: usize) {
        self.queue.drain(..count);
        if self.queue.is_empty() {
            self.taken_before += self.copies.len() as u64;
            self.copies.clear();
        } else if let Some(place) = self.queue.iter().find_map(|write| match write.bytes {
            Bytes::Copied(place) => Some(place),
            Bytes::Stable(_) => None,
        }) {
            let over = (place - self.taken_before) as usize;
            // Only now and then, so that each byte is moved a few times at most.
            if over > self.copies.len() / 2 {
                self.copies.drain(..over);
                self.taken_before = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_readable_until_they_are_popped() {
        let row = Row::anonymous(4096, 4096).unwrap();
        let mut outbox = Outbox::default();
        let mut first = 0u64;
        for n in 0..1000u64 {
            row.word(64).store(n, std::sync::atomic::Ordering::Relaxed);
            outbox.push_copy(0, 64..72, &row);
            if n % 5 == 0 {
                outbox.push_stable(1, 0..8, n + 1);
            }
            if n % 3 == 0 {
                let count = outbox.iter().take(3).count();
                for write in outbox.iter().take(count) {
                    if let Bytes::Copied(place) = write.bytes {
                        assert_eq!(outbox.copied(place, 8), first.to_ne_bytes());
                        first += 1;
                    }
                }
                outbox.pop(count);
            }
        }
        assert!(outbox.copies.len() < 8 * 1000);
    }

    #[test]
    fn a_long_write_goes_in_pieces_and_completes_with_the_last() {
        let mut outbox = Outbox::default();
        outbox.push_stable(0, 64..64 + 2 * PIECE_MAX + 8, 7);
        let pieces: Vec<_> = outbox.iter().map(|w| (w.range.clone(), w.bytes)).collect();
        let ends = [64, 64 + PIECE_MAX, 64 + 2 * PIECE_MAX, 72 + 2 * PIECE_MAX];
        assert_eq!(
            pieces,
            [
                (ends[0]..ends[1], Bytes::Stable(None)),
                (ends[1]..ends[2], Bytes::Stable(None)),
                (ends[2]..ends[3], Bytes::Stable(Some(7)))
            ]
        );
        assert_eq!(outbox.first_stable(), Some(7));
        outbox.pop(3);
        assert!(outbox.is_empty() && outbox.first_stable().is_none());
    }
}
