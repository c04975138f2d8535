//! The arithmetic of the round-robin order: message `i` of the sender of rank `s` among `S` has number `i * S + s`.

use crate::fabric::Rank;

/// Number of message `index` of `sender`.
#[inline]
pub fn sequence(index: u64, sender: Rank, senders: usize) -> u64 {
    index * senders as u64 + sender as u64
}

/// All numbers below this have arrived, when `counts[s]` messages of each sender have, nulls included.
pub fn contiguous(counts: impl IntoIterator<Item = u64>, senders: usize) -> u64 {
    counts.into_iter().enumerate().map(|(s, count)| sequence(count, s, senders)).min().unwrap_or(0)
}

/// One above the number of the last of `count` messages of `sender`; 0 when there is none.
#[inline]
pub fn horizon_of(count: u64, sender: Rank, senders: usize) -> u64 {
    if count == 0 { 0 } else { sequence(count - 1, sender, senders) + 1 }
}

/// One above the highest number seen, when `counts[s]` messages of each sender are; 0 when there is none.
pub fn horizon(counts: impl IntoIterator<Item = u64>, senders: usize) -> u64 {
    counts.into_iter().enumerate().map(|(s, count)| horizon_of(count, s, senders)).max().unwrap_or(0)
}

/// How many messages `sender` must have published, nulls included, so that it has every number of its own below the
/// highest one seen: the null rule. It fills the order up to what is seen and never beyond, so nulls provoke no nulls
/// that their cause did not provoke already, and a quiet group stays silent.
pub fn due(horizon: u64, sender: Rank, senders: usize) -> u64 {
    horizon.saturating_sub(1).saturating_sub(sender as u64).div_ceil(senders as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_null_rule_as_the_protocol_words_it() {
        // When message (i, s') has been seen, s must have published i + 1 messages if s < s', i if s > s'.
        for senders in 1..6 {
            for seen in 0..senders {
                for index in 0..5u64 {
                    let horizon = sequence(index, seen, senders) + 1;
                    for s in (0..senders).filter(|&s| s != seen) {
                        assert_eq!(due(horizon, s, senders), if s < seen { index + 1 } else { index });
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nulls_provoke_no_nulls(counts in prop::collection::vec(0u64..50, 1..8)) {
            let n = counts.len();
            let before = horizon(counts.iter().copied(), n);
            let filled: Vec<u64> = (0..n).map(|s| counts[s].max(due(before, s, n))).collect();
            prop_assert_eq!(horizon(filled.iter().copied(), n), before);
            prop_assert_eq!(contiguous(filled.iter().copied(), n), before, "everything seen can be delivered");
        }
    }
}
