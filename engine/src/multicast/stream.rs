//! One sender's stream as a member reads it: how much has arrived, and the frames in order.

use super::End;
use super::frame::{self, Header, Kind};
use super::ring::{self, Geometry};
use crate::fabric::Row;
use crate::types::Mode;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// The next message of a stream that has arrived and is not delivered. Nulls may precede it.
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
    /// Minimum and maximum bytes of a message, including the stamp if there is one.
    sizes: (usize, usize),
    /// Frames that have arrived, and messages that have arrived, including nulls.
    frames: u64,
    pub(super) messages: u64,
    /// Frames that this member's `received` covers.
    acknowledged: u64,
    /// Frames stepped over, and the ring position of the next one.
    frames_done: u64,
    word: u32,
    /// Index of the next message or null that is not delivered.
    pub(super) next: u64,
    /// One above the index of the last delivered message.
    pub(super) passed: u64,
    /// One above the index of the last message that the order has passed.
    pub(super) ordered: u64,
    /// Indices of the messages that were delivered ahead of the order, and their stamps.
    ahead: VecDeque<(u64, u64)>,
    head: Option<Head>,
}

/// Extends a counter known modulo 2^32 to the present value of its word. `None` if it went back.
fn extend(known: u64, word: u32) -> Option<u64> {
    let grown = word.wrapping_sub(known as u32);
    (grown <= u32::MAX / 2).then(|| known + u64::from(grown))
}

impl Stream {
    /// Creates a stream that begins at `start`, in a view with the first index `start.messages`.
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

    /// The end up to which the stream has arrived and consists of valid frames.
    pub(super) fn end(&self) -> End {
        let (end, _) = self.walk(self.frames, self.messages);
        end
    }

    /// Walks the remaining frames up to `frames`, of `messages` messages in all.
    ///
    /// Returns the end it reached. The error describes a word that is not a valid frame.
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

    /// The frame at `word` and the index of its message, which is at least `next`. For padding the index is `next`.
    ///
    /// `None` if it is not a valid frame; [`Stream::fault`] describes why.
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

    /// Describes why [`Stream::frame`] returns `None`.
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

    /// Makes `row` the memory of the stream. The bytes are at the same offsets.
    pub(super) fn moves_to(&mut self, row: Arc<Row>) {
        self.row = row;
    }

    /// The byte ranges of the row between two ring positions. `to` is at most one ring ahead of `from`.
    pub(super) fn between(&self, from: u32, to: u32) -> impl Iterator<Item = Range<usize>> {
        let words = to.wrapping_sub(from);
        let first = words.min(self.geometry.room(from));
        let part = |word: u32, words: u32| {
            let start = self.geometry.offset(word);
            start..start + words as usize * frame::WORD
        };
        [part(from, first), part(from.wrapping_add(first), words - first)].into_iter().filter(|range| !range.is_empty())
    }

    /// Takes over the counts of `other`, which reads the same stream.
    pub(super) fn follow(&mut self, other: &Stream) {
        (self.frames, self.messages) = (other.frames, other.messages);
    }

    /// Ends the stream at `trim`, because the epoch ends.
    pub(super) fn finish(&mut self, trim: End) {
        (self.frames, self.messages) = (trim.frames, trim.messages);
    }

    /// Restarts the stream for a new view, when everything before is delivered. Steps over padding at the old end.
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

    /// Takes in everything that the `published` word covers. Returns true if anything is new.
    ///
    /// The data precedes the word in the order of writes, so one load is enough for any number of frames. `most` is the
    /// upper limit of messages.
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

    /// Marks everything that has arrived as acknowledged. Returns true if that includes new frames, not only nulls.
    pub(super) fn acknowledge(&mut self) -> bool {
        std::mem::replace(&mut self.acknowledged, self.frames) != self.frames
    }

    /// The next message, if one has arrived. Steps over padding.
    #[inline(always)]
    pub(super) fn head(&mut self) -> Result<Option<Head>, String> {
        if self.head.is_none() && self.frames_done < self.frames && !self.is_at_message() {
            self.find_head()?;
        }
        Ok(self.head)
    }

    /// Whether the next frame is a message, which then becomes the head.
    ///
    /// This is the usual case, and it runs for every message. [`Stream::find_head`] handles the rest.
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
        self.ahead.iter().map(|&(index, _)| index)
    }

    /// Records that the head, message `index` with the stamp `stamp_ns`, is delivered ahead of the order.
    pub(super) fn note_ahead(&mut self, index: u64, stamp_ns: u64) {
        self.ahead.push_back((index, stamp_ns));
    }

    /// Moves the order past `index`, a null or a message delivered ahead of it. Returns the stamp if it was a message.
    pub(super) fn go_through(&mut self, index: u64) -> Option<u64> {
        let (_, stamp_ns) = *self.ahead.front().filter(|(ahead, _)| *ahead == index)?;
        self.ahead.pop_front();
        self.ordered = index + 1;
        Some(stamp_ns)
    }

    /// The number of the next frame.
    pub(super) fn next_frame(&self) -> u64 {
        self.frames_done
    }

    /// Takes the head for delivery and moves to the next frame. The payload is borrowed until the delivery ends.
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
