//! A frame: one header word, then the payload, padded to whole words.
//!
//! Header word, from the low bit: 28 bits payload length in bytes, 2 bits [`Mode`], 1 bit *padding*, 1 bit reserved
//! (zero), 32 bits message index modulo 2^32.

/// Bytes of a ring word; frames are made of whole words.
pub(super) const WORD: usize = 8;
/// Bits of the length in a header.
const LENGTH_BITS: u32 = 28;
/// Largest payload a header can carry.
pub(super) const PAYLOAD_MAX: usize = (1 << LENGTH_BITS) - 1;

/// When a message may be delivered; a flag of each message. One order holds for all modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// As soon as it and all earlier messages of its sender are here; it may overtake other senders' messages.
    Fifo = 0,
    /// In the total order, as soon as everything before it is here (optimistic: it can be lost with all that saw it).
    Ordered = 1,
    /// In the total order, once every member has received it.
    Safe = 2,
    /// In the total order, once every member has received it and the voters (all, or as many as are configured) have it on
    /// their disks. Only in a group with a log.
    Durable = 3,
}

impl Mode {
    pub(crate) fn from_bits(bits: u32) -> Option<Mode> {
        [Mode::Fifo, Mode::Ordered, Mode::Safe, Mode::Durable].get(bits as usize).copied()
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An application message; its index modulo 2^32.
    Message { mode: Mode, index: u32 },
    /// Bytes to skip: the end of the ring, or a reservation that was dropped.
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
    // Fits: the payload has at most 2^28 bytes.
    (1 + len.div_ceil(WORD)) as u32
}

/// Mode, length and index of a word that is a message's header: without the detour over a [`Header`], on the path of every message.
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

    /// `None` if the word is no header.
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
