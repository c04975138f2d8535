//! Stability: which messages every member has received. That makes a message safe.
//!
//! A row counts the messages of *each* stream that have reached its owner. One contiguous count of the whole order
//! would also do, but one step later: it cannot pass the numbers of silent members before their nulls arrive. Those
//! nulls are published when the message itself is acknowledged.

use crate::fabric::Rank;
use crate::types::Copies;

/// See the module.
pub(super) struct Stability {
    /// `received[m][s]`: how many messages of stream `s`, nulls included, have reached member `m`.
    received: Vec<Vec<u64>>,
    /// The minimum of these per stream. [`Stability::refresh`] updates it.
    stable: Vec<u64>,
    stale: bool,
}

impl Stability {
    pub(super) fn new(members: usize, start: u64) -> Stability {
        Stability { received: vec![vec![start; members]; members], stable: vec![start; members], stale: false }
    }

    /// Takes in the counts that `peer` advertises. Returns true if any changed.
    ///
    /// It cannot have more of this member's own stream `me` than the `mine` published messages, nor more than `most` of
    /// any stream.
    pub(super) fn take_in(&mut self, told: &[u64], peer: Rank, me: Rank, mine: u64, most: u64) -> Result<bool, String> {
        let mut moved = false;
        for (stream, (known, &value)) in self.received[peer].iter_mut().zip(told).enumerate() {
            if value != *known {
                let most = if stream == me { mine } else { most };
                if value < *known || value > most {
                    return Err(format!("its `received` of stream {stream} is {value}, outside {known}..={most}"));
                }
                *known = value;
                moved = true;
            }
        }
        self.stale |= moved;
        Ok(moved)
    }

    /// Records that this member has received `count` messages of `stream`. Returns true if that is new.
    pub(super) fn receive(&mut self, me: Rank, stream: Rank, count: u64) -> bool {
        let known = &mut self.received[me][stream];
        let moved = *known != count;
        *known = count;
        self.stale |= moved;
        moved
    }

    /// Recomputes the stable counts, if any count changed.
    pub(super) fn refresh(&mut self) {
        if std::mem::take(&mut self.stale) {
            for (stream, stable) in self.stable.iter_mut().enumerate() {
                *stable = self.received.iter().map(|of| of[stream]).min().unwrap_or(0);
            }
        }
    }

    /// The number of messages of a stream that every member has received.
    #[inline]
    pub(super) fn stable(&self, stream: Rank) -> u64 {
        self.stable[stream]
    }

    /// Whether enough members have `target[s]` messages of each stream.
    pub(super) fn received_by(&self, copies: Copies, target: &[u64]) -> bool {
        let all = self.received.len();
        let need = if let Copies::AtLeast(k) = copies { k.clamp(1, all.max(1)) } else { all };
        let has = |of: &&Vec<u64>| covers(of, target);
        self.received.iter().filter(has).count() >= need
    }
}

/// Whether `counts` has at least as much of each stream as `target`.
fn covers(counts: &[u64], target: &[u64]) -> bool {
    counts.iter().zip(target).all(|(have, want)| have >= want)
}
