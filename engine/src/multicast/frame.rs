//! A frame: one header word, then the payload, padded to whole words.
//!
//! Header word, from the low bit: 28 bits payload length in bytes, 2 bits [`Mode`], 1 bit *padding*, 1 bit reserved
//! (zero), 32 bits message index modulo 2^32.

use crate::types::Mode;
/// Bytes of a ring word. A frame consists of whole words.
pub(super) const WORD: usize = 8;
/// Bits of the length in a header.
const LENGTH_BITS: u32 = 28;
/// Largest payload length that a header can express, in bytes.
pub(super) const PAYLOAD_MAX: usize = (1 << LENGTH_BITS) - 1;

/// The kind of a frame, from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An application message, with its index modulo 2^32.
    Message { mode: Mode, index: u32 },
    /// Bytes to skip: the end of the ring, or a dropped reservation.
    Padding,
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) len: usize,
    pub(super) kind: Kind,
}

/// Words of a frame with a payload of `len` bytes.
#[inline]
pub(super) fn words(len: usize) -> u32 {
    // This fits: the payload has at most 2^28 bytes.
    (1 + len.div_ceil(WORD)) as u32
}

/// Mode, length and index, if `word` is the header of a message. Avoids building a [`Header`], since it runs for every
/// message.
#[inline(always)]
pub(super) fn message(word: u64) -> Option<(Mode, usize, u32)> {
    let mode = match word as u32 >> LENGTH_BITS {
        0 => Mode::Fifo,
        1 => Mode::Ordered,
        2 => Mode::Safe,
        3 => Mode::Durable,
        _ => return None,
    };
    Some((mode, word as usize & PAYLOAD_MAX, (word >> 32) as u32))
}

impl Header {
    #[inline]
    pub(super) fn encode(self) -> u64 {
        let (low, index) = match self.kind {
            Kind::Message { mode, index } => ((mode as u64) << LENGTH_BITS, index),
            Kind::Padding => (1 << (LENGTH_BITS + 2), 0),
        };
        self.len as u64 | low | u64::from(index) << 32
    }

    /// Decodes a header. `None` if the word is not a header.
    #[inline]
    pub(super) fn decode(word: u64) -> Option<Header> {
        let (kind, len) = match message(word) {
            Some((mode, len, index)) => (Kind::Message { mode, index }, len),
            None if word as u32 >> LENGTH_BITS == 4 => (Kind::Padding, word as usize & PAYLOAD_MAX),
            None => return None,
        };
        Some(Header { len, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_itself(word: u64) {
            if let Some(header) = Header::decode(word) {
                let again = header.encode();
                prop_assert_eq!(Header::decode(again), Some(header));
            }
        }

        #[test]
        fn messages_survive(len in 0..=PAYLOAD_MAX, index: u32, mode in 0u32..4) {
            let mode = Mode::from_bits(mode).unwrap();
            let header = Header { len, kind: Kind::Message { mode, index } };
            prop_assert_eq!(Header::decode(header.encode()), Some(header));
        }
    }

    #[test]
    fn reserved_bits_are_refused() {
        assert_eq!(Header::decode(1 << 31), None);
        assert_eq!(words(0), 1);
        assert_eq!(words(1), 2);
        assert_eq!(words(8), 2);
        assert_eq!(words(9), 3);
    }
}
