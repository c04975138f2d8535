//! The tail: the messages that the flush of an epoch obtained and the log does not contain.
//!
//! It is on disk before a member publishes that it has flushed, so that a decision about these messages survives the
//! end of all processes. It is one file that is replaced as a whole. Each new tail covers more than the one before.

use super::epoch::End;
use crate::types::{MemberId, Mode};
use crate::words::{put_words, read_words, words};

/// The name of the file.
pub const TAIL: &str = "tail";
/// The first word of a tail: identifies it and its format.
const FORMAT: u64 = u64::from_le_bytes(*b"galtail\x01");

/// A message of a tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailRecord {
    /// Its sequence number.
    pub sequence: u64,
    /// Its sender.
    pub sender: MemberId,
    /// The mode it was sent with.
    pub mode: Mode,
    /// Its stamp and its payload.
    pub raw: Vec<u8>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tail {
    /// The view that ends.
    pub view: u64,
    /// By rank, the end up to which the log and this tail together cover the stream.
    pub ends: Vec<End>,
    /// The messages that are not in the log, in order.
    pub records: Vec<TailRecord>,
}

impl Tail {
    pub(super) fn encode(&self) -> Vec<u8> {
        let ends = self.ends.iter().flat_map(|end| end.words());
        let head = [FORMAT, self.view, self.ends.len() as u64, self.records.len() as u64];
        let mut bytes = words(head.into_iter().chain(ends));
        for TailRecord { sequence, sender, mode, raw } in &self.records {
            let about = u64::from(sender.0) | (*mode as u64) << 32;
            put_words(&mut bytes, [*sequence, about, raw.len() as u64]);
            bytes.extend(raw);
        }
        bytes
    }

    /// Decodes a saved tail. `None` if the bytes are not a tail.
    pub fn decode(bytes: &[u8]) -> Option<Tail> {
        let mut rest = bytes;
        let [format, view, ends, count] = read_words(&mut rest).ok()?;
        if format != FORMAT || ends > crate::fabric::SLOTS as u64 {
            return None;
        }
        let ends = (0..ends).map(|_| End::of_words(read_words(&mut rest).ok()?)).collect::<Option<_>>()?;
        let mut records = Vec::new();
        for _ in 0..count {
            let [sequence, about, len] = read_words(&mut rest).ok()?;
            let (raw, others) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            let mode = Mode::from_bits(u32::try_from(about >> 32).ok()?)?;
            records.push(TailRecord { sequence, sender: MemberId(about as u32), mode, raw: raw.to_vec() });
            rest = others;
        }
        rest.is_empty().then_some(Tail { view, ends, records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Parser, as_it_is, run};

    fn tail() -> Tail {
        let record =
            |sequence, len| TailRecord { sequence, sender: MemberId(7), mode: Mode::Durable, raw: vec![5; len] };
        let end = End { messages: 4, frames: 3, word: 2 };
        Tail { view: 9, ends: vec![end; 3], records: vec![record(5, 8), record(9, 77)] }
    }

    #[test]
    fn it_survives_and_a_part_of_it_does_not() {
        let bytes = tail().encode();
        assert_eq!(Tail::decode(&bytes), Some(tail()));
        assert!((0..bytes.len()).all(|len| Tail::decode(&bytes[..len]).is_none()));
    }

    #[test]
    fn fuzz_tail() {
        let seeds = vec![tail().encode(), Tail::default().encode()];
        // A record of 24 bytes takes 56, and the memory of the list doubles as it grows.
        let parser = Parser { name: "tail", seeds, repair: &as_it_is, heap_max: (12, 4 << 10) };
        run(&parser, |bytes| {
            let Some(tail) = Tail::decode(bytes) else { return false };
            assert_eq!(tail.encode().len(), bytes.len());
            assert_eq!(Tail::decode(&tail.encode()), Some(tail));
            true
        });
    }
}
