//! One sender's stream as a member reads it: what has arrived, and the frames in their order.

use super::End;
use super::frame::{self, Header, Kind, Mode};
use super::ring::{self, Geometry};
use crate::fabric::Row;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// The next message of a stream that has arrived and is not delivered; nulls may lie before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) index: u64,
    /// Ring position of its frame.
    word: u32,
    len: u32,
    pub(super) mode: Mode,
}

impl Head {
    /// Words of its frame.
    pub(super) fn words(self) -> u32 {
        frame::words(self.len as usize)
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Stream {
    row: Arc<Row>,
    geometry: Geometry,
    /// Bytes of a message, with its stamp if there is one, at least and at most.
    sizes: (usize, usize),
    /// Frames, and messages with the nulls among them, that have arrived.
    frames: u64,
    pub(super) messages: u64,
    /// Frames that the own `received` covers.
    acknowledged: u64,
    /// Frames stepped over, and the ring position of the next one.
    frames_done: u64,
    word: u32,
    /// Index of the next message or null that is not delivered.
    pub(super) next: u64,
    /// One above the index of the last message that was delivered.
    pub(super) passed: u64,
    /// One above the index of the last message that the order has gone through.
    pub(super) ordered: u64,
    /// Indices of the messages that were delivered ahead of the order.
    ahead: VecDeque<u64>,
    head: Option<Head>,
}

/// Extends a counter known modulo 2^32 by what its word says now; `None` if it went back.
fn extend(known: u64, word: u32) -> Option<u64> {
    let grown = word.wrapping_sub(known as u32);
    (grown <= u32::MAX / 2).then(|| known + u64::from(grown))
}

impl Stream {
    /// A stream that begins behind `start`, in a view whose first index is `start.messages`.
    pub(super) fn new(row: Arc<Row>, geometry: Geometry, sizes: (usize, usize), start: End) -> Stream {
        Stream {
            row,
            geometry,
            sizes,
            frames: start.frames,
            messages: start.messages,
            acknowledged: start.frames,
            frames_done: start.frames,
            word: start.word,
            next: start.messages,
            passed: start.messages,
            ordered: start.messages,
            ahead: VecDeque::new(),
            head: None,
        }
    }

    /// Where it ends, as far as it has arrived, and is a stream.
    pub(super) fn end(&self) -> End {
        let (end, _) = self.walk(self.frames, self.messages);
        end
    }

    /// Goes along the frames that are not done with, up to `frames` in all of `messages` messages: where that is, or where
    /// something lies that is no frame, and what.
    pub(super) fn walk(&self, frames: u64, messages: u64) -> (End, Result<(), String>) {
        let (mut done, mut word, mut next) = (self.frames_done, self.word, self.next);
        let end = |frames, word| End { messages, frames, word };
        while done < frames {
            let Some((header, index)) = self.frame(word, next, messages) else {
                return (end(done, word), Err(self.fault(word, next, messages)));
            };
            next = index + u64::from(header.kind != Kind::Padding);
            word = word.wrapping_add(frame::words(header.len));
            done += 1;
        }
        (end(done, word), Ok(()))
    }

    /// The frame at `word` with the index of its message, which is at least `next`; for padding that is `next`. `None` if it
    /// is no frame: what is wrong is worked out by [`Stream::fault`].
    fn frame(&self, word: u32, next: u64, messages: u64) -> Option<(Header, u64)> {
        let header = ring::header(&self.row, self.geometry, word)?;
        match header.kind {
            Kind::Padding => Some((header, next)),
            Kind::Message { index, .. } => {
                let index = next + u64::from(index.wrapping_sub(next as u32));
                let (least, most) = self.sizes;
                (index < messages && header.len <= most && header.len >= least).then_some((header, index))
            }
        }
    }

    /// Why there is no [`Stream::frame`].
    #[cold]
    fn fault(&self, word: u32, next: u64, messages: u64) -> String {
        match ring::header(&self.row, self.geometry, word) {
            None => ring::no_header(&self.row, self.geometry, word),
            Some(Header { len, kind: Kind::Message { .. } }) if len > self.sizes.1 => {
                format!("a message of {len} bytes, {} are the limit", self.sizes.1)
            }
            Some(Header { len, kind: Kind::Message { .. } }) if len < self.sizes.0 => {
                format!("a message of {len} bytes, without its time")
            }
            Some(Header { kind: Kind::Message { index, .. }, .. }) => {
                let index = next + u64::from(index.wrapping_sub(next as u32));
                format!("frame {index} lies beyond the {messages} messages published")
            }
            Some(_) => format!("the frame at ring word {word} changed"),
        }
    }

    /// Its bytes lie in `row` from now on, at the same places.
    pub(super) fn moves_to(&mut self, row: Arc<Row>) {
        self.row = row;
    }

    /// The bytes of the row between two ends, the later of which is at most a ring ahead.
    pub(super) fn between(&self, from: u32, to: u32) -> impl Iterator<Item = Range<usize>> {
        let words = to.wrapping_sub(from);
        let first = words.min(self.geometry.room(from));
        let part = |word: u32, words: u32| {
            let start = self.geometry.offset(word);
            start..start + words as usize * frame::WORD
        };
        [part(from, first), part(from.wrapping_add(first), words - first)].into_iter().filter(|range| !range.is_empty())
    }

    /// As far as `other`, which reads the same stream, has come.
    pub(super) fn follow(&mut self, other: &Stream) {
        (self.frames, self.messages) = (other.frames, other.messages);
    }

    /// The epoch ends: this is all that there will be of it.
    pub(super) fn finish(&mut self, trim: End) {
        (self.frames, self.messages) = (trim.frames, trim.messages);
    }

    /// A view begins, all of the one before is delivered: steps over what lies at its end and is no message.
    pub(super) fn restart(mut self, start: End) -> Result<Stream, String> {
        while self.frames_done < self.frames {
            let Some(header) = ring::header(&self.row, self.geometry, self.word) else {
                return Err(ring::no_header(&self.row, self.geometry, self.word));
            };
            self.step(frame::words(header.len));
        }
        if self.frames != start.frames || self.word != start.word {
            let at = format!("frame {} at ring word {}", self.frames, self.word);
            return Err(format!("its stream ends with {at} here, with {} at {} as decided", start.frames, start.word));
        }
        Ok(Stream::new(self.row, self.geometry, self.sizes, start))
    }

    /// Takes in everything that the `published` word covers: its data lies before it in the order of writes, so one
    /// look at the word is enough, whatever the number of frames. `most` bounds the messages. True if there was anything.
    #[inline]
    pub(super) fn take_in(&mut self, published: u64, most: u64) -> Result<bool, String> {
        if published == u64::from(self.frames as u32) | u64::from(self.messages as u32) << 32 {
            return Ok(false);
        }
        let (Some(frames), Some(messages)) =
            (extend(self.frames, published as u32), extend(self.messages, (published >> 32) as u32))
        else {
            return Err(format!("its `published` went back: {published:#018x}"));
        };
        if frames - self.frames_done > u64::from(self.geometry.words) {
            return Err(format!(
                "its `published` claims {} frames, more than its ring holds",
                frames - self.frames_done
            ));
        }
        if messages > most {
            return Err(format!("its `published` claims {messages} messages, {most} are possible"));
        }
        (self.frames, self.messages) = (frames, messages);
        Ok(true)
    }

    /// What has arrived is acknowledged now. True if frames are among it, not only nulls.
    pub(super) fn acknowledge(&mut self) -> bool {
        std::mem::replace(&mut self.acknowledged, self.frames) != self.frames
    }

    /// The next message, if one has arrived; steps over padding.
    #[inline(always)]
    pub(super) fn head(&mut self) -> Result<Option<Head>, String> {
        if self.head.is_none() && self.frames_done < self.frames && !self.is_at_message() {
            self.find_head()?;
        }
        Ok(self.head)
    }

    /// Whether what comes next is a message, which is the head then. The usual case, on the path of every message: everything
    /// else is for [`Stream::find_head`].
    #[inline(always)]
    fn is_at_message(&mut self) -> bool {
        let Some((mode, len, index)) = frame::message(ring::raw_header(&self.row, self.geometry, self.word)) else {
            return false;
        };
        let index = self.next + u64::from(index.wrapping_sub(self.next as u32));
        let (least, most) = self.sizes;
        let is_whole = index < self.messages && len >= least && len <= most;
        let is_inside = frame::words(len) <= self.geometry.room(self.word);
        if is_whole && is_inside {
            self.head = Some(Head { index, word: self.word, len: len as u32, mode });
        }
        is_whole && is_inside
    }

    #[cold]
    fn find_head(&mut self) -> Result<(), String> {
        while self.frames_done < self.frames {
            let Some((header, index)) = self.frame(self.word, self.next, self.messages) else {
                return Err(self.fault(self.word, self.next, self.messages));
            };
            if let Kind::Message { mode, .. } = header.kind {
                self.head = Some(Head { index, word: self.word, len: header.len as u32, mode });
                break;
            }
            self.step(frame::words(header.len));
        }
        Ok(())
    }

    /// The indices of the messages that were delivered ahead of the order.
    pub(super) fn ahead(&self) -> impl Iterator<Item = u64> {
        self.ahead.iter().copied()
    }

    /// The head is delivered ahead of the order.
    pub(super) fn note_ahead(&mut self, index: u64) {
        self.ahead.push_back(index);
    }

    /// The order goes through `index`, which was a null or a message delivered ahead. True if it was a message.
    pub(super) fn go_through(&mut self, index: u64) -> bool {
        let message = self.ahead.front() == Some(&index);
        if message {
            self.ahead.pop_front();
            self.ordered = index + 1;
        }
        message
    }

    /// The head is delivered now: goes on to the next frame. The payload is borrowed until the delivery ends.
    #[inline]
    pub(super) fn take(&mut self, head: Head) -> &[u8] {
        self.head = None;
        self.next = head.index + 1;
        self.passed = self.next;
        self.step(head.words());
        ring::payload(&self.row, self.geometry.payload(head.word, head.len as usize))
    }

    fn step(&mut self, words: u32) {
        self.word = self.word.wrapping_add(words);
        self.frames_done += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_extend_over_the_wrap_and_never_go_back() {
        assert_eq!(extend(u64::from(u32::MAX), 3), Some(u64::from(u32::MAX) + 4));
        assert_eq!(extend(7, 7), Some(7));
        assert_eq!(extend(7, 6), None);
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let row = Arc::new(Row::anonymous(4096, 64).unwrap());
        let geometry = Geometry { base: 64, words: 64 };
        let start = End::default();
        let word = |frames: u64, messages: u64| frames | messages << 32;
        let mut stream = Stream::new(row.clone(), geometry, (0, 200), start);
        assert!(stream.take_in(word(1, 10), 9).unwrap_err().contains("9 are possible"));
        assert!(stream.take_in(word(65, 1), 9).unwrap_err().contains("more than its ring"));
        assert!(stream.take_in(word(1, 1), 9).unwrap());
        assert!(stream.take_in(word(0, 1), 9).unwrap_err().contains("went back"));
        for (raw, expected) in [
            (600, "passes the ring's end"),
            (4 << 28 | 5 << 28, "no frame header"),
            (1 << 31, "no frame header"),
            (5 | 1 << 32, "lies beyond"),
            (201, "200 are the limit"),
        ] {
            row.word(64).store(raw, std::sync::atomic::Ordering::Relaxed);
            assert!(stream.head().unwrap_err().contains(expected), "{raw:#x}");
        }
    }
}
