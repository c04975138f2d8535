//! The application's state in transit to a joiner or a checkpoint, and the messages that it covers.

use crate::node::Node;
use crate::types::EVERYBODY;
use crate::words::{read_words, words};
use std::io::{self, Read};

/// The messages that an application has received.
///
/// These are all messages of the views before `view`, and of that view the messages numbered below `below`, and those
/// in `ahead`, which were delivered ahead of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) view: u64,
    pub(crate) below: u64,
    /// In ascending order.
    pub(crate) ahead: Vec<u64>,
}

impl Covered {
    /// The messages that have been delivered at this process so far.
    pub(crate) fn of(node: &Node) -> Covered {
        let (below, mut ahead) = node.subgroup(EVERYBODY).covered();
        ahead.sort_unstable();
        Covered { view: node.view().map_or(0, |view| view.number), below, ahead }
    }

    /// Whether a message is covered.
    pub(crate) fn has(&self, view: u64, sequence: u64) -> bool {
        view < self.view || view == self.view && (sequence < self.below || self.ahead.binary_search(&sequence).is_ok())
    }

    /// Whether `other` covers all of it.
    pub(crate) fn is_within(&self, other: &Covered) -> bool {
        let ahead = || self.ahead.iter().all(|&sequence| other.has(self.view, sequence));
        other.view > self.view || other.view == self.view && other.below >= self.below && ahead()
    }

    /// Encodes the header of a state or a checkpoint: the count of the numbers in `ahead`, then the numbers, u64 each.
    pub(crate) fn head(&self) -> Vec<u8> {
        words([self.ahead.len() as u64].into_iter().chain(self.ahead.iter().copied()))
    }

    /// Reads a [`Covered::head`] and combines it with `view` and `below`.
    pub(crate) fn read(from: &mut dyn Read, view: u64, below: u64) -> io::Result<Covered> {
        let mut word = || read_words(from).map(|[word]| word);
        let count = word()?;
        let ahead = (0..count).map(|_| word()).collect::<io::Result<Vec<u64>>>()?;
        match ahead.is_sorted() {
            true => Ok(Covered { view, below, ahead }),
            false => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the sequence numbers of the state do not increase"))
            }
        }
    }
}

/// The reason why no state is available.
#[derive(Debug)]
pub(crate) enum NoState {
    /// The state is not available now, but may be later.
    Later(String),
    /// The application's `snapshot` failed.
    Failed(String),
}

/// The application's state in transit, and the messages that it covers.
pub(crate) struct Snapshot {
    pub(crate) covered: Covered,
    pub(crate) state: Box<dyn Read + Send>,
}
