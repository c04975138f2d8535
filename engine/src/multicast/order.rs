//! The arithmetic of the round-robin order of one view.
//!
//! Message `i` of the sender of rank `s` among `S` has sequence number `first + (i - base) * S + s`. Indices and
//! numbers continue from view to view: `base` is above all indices of earlier views, and `first` above all their
//! numbers.

use crate::fabric::Rank;

/// The order of one view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The number of senders.
    pub senders: usize,
    /// Index of each sender's first message.
    pub base: u64,
    /// Sequence number of the first message of rank 0.
    pub first: u64,
}

impl Order {
    /// Sequence number of message `index` of `sender`.
    #[inline]
    pub fn sequence(self, index: u64, sender: Rank) -> u64 {
        self.first + (index - self.base) * self.senders as u64 + sender as u64
    }

    /// The number below which everything has arrived, if the messages below `counts[s]` of each sender have.
    ///
    /// Nulls count as messages.
    pub fn contiguous(self, counts: impl IntoIterator<Item = u64>) -> u64 {
        counts.into_iter().enumerate().map(|(s, count)| self.sequence(count, s)).min().unwrap_or(self.first)
    }

    /// One above the number of `sender`'s last message below index `count`; `first` if there is none.
    #[inline]
    pub fn horizon_of(self, count: u64, sender: Rank) -> u64 {
        if count == self.base { self.first } else { self.sequence(count - 1, sender) + 1 }
    }

    /// One above the highest number seen, if the messages below `counts[s]` of each sender are; `first` if none is.
    pub fn horizon(self, counts: impl IntoIterator<Item = u64>) -> u64 {
        counts.into_iter().enumerate().map(|(s, count)| self.horizon_of(count, s)).max().unwrap_or(self.first)
    }

    /// The null rule: the index below which `sender` must have published everything, nulls included.
    ///
    /// With that, all its own numbers below the highest number seen are published. The rule fills the order up to the
    /// highest number seen and never beyond. So a null causes no null that the message behind it did not cause already,
    /// and a quiet group sends nothing.
    pub fn due(self, horizon: u64, sender: Rank) -> u64 {
        let seen = horizon - self.first;
        self.base + seen.saturating_sub(1).saturating_sub(sender as u64).div_ceil(self.senders as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_null_rule_as_the_protocol_words_it() {
        // When message (i, s') has been seen, s must have published i + 1 messages if s < s', and i if s > s'.
        for senders in 1..6 {
            let order = Order { senders, base: 70, first: 1000 };
            for seen in 0..senders {
                for index in 70..75u64 {
                    let horizon = order.sequence(index, seen) + 1;
                    for s in (0..senders).filter(|&s| s != seen) {
                        assert_eq!(order.due(horizon, s), if s < seen { index + 1 } else { index });
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nulls_provoke_no_nulls(counts in prop::collection::vec(7u64..50, 1..8)) {
            let order = Order { senders: counts.len(), base: 7, first: 3 };
            let before = order.horizon(counts.iter().copied());
            let filled: Vec<u64> = counts.iter().enumerate().map(|(s, &c)| c.max(order.due(before, s))).collect();
            prop_assert_eq!(order.horizon(filled.iter().copied()), before);
            prop_assert_eq!(order.contiguous(filled.iter().copied()), before, "everything seen can be delivered");
        }
    }
}
