//! Accusations: which member claims that another has failed, and how a claim is withdrawn.
//!
//! Rows only grow, and members relay the accusations that they read. A cleared bit would therefore come back from a
//! member that had read it before. So each pair (accuser, accused) has a *counter*: an odd value means accused. Only
//! the accuser raises it; a relay takes the maximum. After [`FINAL`] changes in one epoch the counter stays odd, so
//! that a link that goes up and down cannot keep an epoch open for ever.
//!
//! An accusation has one or more [`Cause`]s. It is withdrawn when the opposite of each cause has been observed: the
//! heartbeat moves, the link is relinked, the fetch is answered. An accusation for a protocol violation is never
//! withdrawn.

use super::Membership;
use super::row;
use crate::fabric::{Fabric, Rank, SLOTS};
use crate::planted::{self, Bug};

/// The last value of a counter, after which it does not change in this epoch. It is odd.
pub(super) const FINAL: u8 = 9;
/// Bits of a counter.
const BITS: usize = 4;
/// Counters in a word.
const PER_WORD: usize = 64 / BITS;
/// Words of one accuser's counters.
pub(super) const WORDS: usize = SLOTS / PER_WORD;

/// Why a member is accused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its heartbeat does not move. Withdrawn when it moves, or when the link is relinked.
    Silence = 1,
    /// The link to it is down. Withdrawn when the link is relinked.
    LinkDown = 2,
    /// It does not answer a fetch. Withdrawn when it answers, or when the link is relinked.
    Fetch = 4,
    /// It has not come back after a total failure. Withdrawn when it comes back.
    Absent = 8,
    /// It runs, but delays the end of the epoch. Withdrawn when it wedges or flushes, or on a relink.
    Stuck = 16,
    /// It violated the protocol. Never withdrawn.
    Violation = 32,
}

/// The counters of one accuser, indexed by the rank of the accused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counters([u64; WORDS]);

impl Counters {
    /// Makes the counters from the words of a row.
    pub(super) fn new(words: [u64; WORDS]) -> Counters {
        Counters(words)
    }

    pub(super) fn get(&self, accused: Rank) -> u8 {
        (self.0[accused / PER_WORD] >> (accused % PER_WORD * BITS) & 0xf) as u8
    }

    fn set(&mut self, accused: Rank, count: u8) {
        let (word, shift) = (&mut self.0[accused / PER_WORD], accused % PER_WORD * BITS);
        *word = *word & !(0xf << shift) | u64::from(count) << shift;
    }

    /// Takes the maximum of each counter of the first `members` ranks. Skips the accuser's own rank.
    fn merge(&mut self, other: &Counters, accuser: Rank, members: usize) {
        for rank in (0..members).filter(|&rank| rank != accuser) {
            self.set(rank, self.get(rank).max(other.get(rank)));
        }
    }

    /// Whether no counter of the first `members` ranks is above the counter of `other`.
    pub(super) fn is_within(&self, other: &Counters, members: usize) -> bool {
        (0..members).all(|rank| self.get(rank) <= other.get(rank))
    }

    /// Whether every counter has a value that an accuser can reach.
    pub(super) fn is_possible(&self) -> bool {
        (0..SLOTS).all(|rank| self.get(rank) <= FINAL)
    }

    /// The accused members, one bit per rank.
    fn accused(&self) -> u64 {
        (0..SLOTS).filter(|&rank| self.get(rank) % 2 == 1).fold(0, |bits, rank| bits | 1 << rank)
    }
}

/// The accusations of one epoch, as far as this member knows them.
#[derive(Default)]
pub(super) struct Accusations {
    /// The counters, indexed by the accuser's rank.
    counters: Vec<Counters>,
    /// The accused members, one bit per rank, indexed by the accuser's rank. Derived from the counters.
    edges: Vec<u64>,
    /// The causes of this member's own accusations, indexed by the rank of the accused.
    causes: Vec<u8>,
}

impl Accusations {
    pub(super) fn begin(&mut self, members: usize) {
        self.counters = vec![Counters::default(); members];
        self.edges = vec![0; members];
        self.causes = vec![0; members];
    }

    /// The accused members, one bit per rank, indexed by the accuser's rank.
    pub(super) fn edges(&self) -> &[u64] {
        &self.edges
    }

    pub(super) fn of(&self, accuser: Rank) -> Counters {
        self.counters.get(accuser).copied().unwrap_or_default()
    }

    /// Takes over accusations that an earlier incarnation of this process made. They hold until the accused member is
    /// linked.
    fn inherit(&mut self, accused: u64) {
        for rank in (0..self.causes.len()).filter(|rank| accused >> rank & 1 == 1) {
            self.causes[rank] |= Cause::Absent as u8;
        }
    }

    fn has(&self, accused: Rank, cause: Cause) -> bool {
        self.causes.get(accused).is_some_and(|causes| causes & cause as u8 != 0)
    }
}

impl Membership {
    /// Accuses the member of `rank` for `cause`; `what` is the reason as text. Returns true if it was not accused
    /// before.
    pub(crate) fn suspect(&mut self, rank: Rank, cause: Cause, what: &str, fabric: &mut dyn Fabric) -> bool {
        let Some(me) = self.my_rank().filter(|&me| me != rank) else { return false };
        self.epoch.accusations.causes[rank] |= cause as u8;
        let mut counters = self.epoch.accusations.of(me);
        let (before, breach) = (counters.get(rank), cause == Cause::Violation);
        let accused = if breach { FINAL } else { before + u8::from(before.is_multiple_of(2)) };
        counters.set(rank, accused);
        if before.is_multiple_of(2) {
            self.show_cause(rank, what, fabric);
            // Once a decision is known, those that are in the next view and those that are not end their links. That is no
            // fault.
            let stays = self.slot_of(rank).is_some_and(|slot| self.goes_on(slot));
            if breach || !self.is_decided() || self.is_in_next() && stays {
                self.note_fault(rank, what.to_owned());
            }
        }
        self.count_accusations(me, counters, fabric);
        before.is_multiple_of(2)
    }

    /// Removes `cause` from the accusation of the member of `rank`, because its opposite was observed.
    ///
    /// Withdraws the accusation if no other cause is left. Returns true if it was withdrawn.
    pub(super) fn acquit(&mut self, rank: Rank, cause: Cause, fabric: &mut dyn Fabric) -> bool {
        if !self.epoch.accusations.has(rank, cause) || self.epoch.decided.is_some() {
            return false;
        }
        self.epoch.accusations.causes[rank] &= !(cause as u8);
        let Some(me) = self.my_rank() else { return false };
        let mut counters = self.epoch.accusations.of(me);
        let count = counters.get(rank);
        let keeps = self.epoch.accusations.causes[rank] != 0 || count.is_multiple_of(2) || count >= FINAL;
        if keeps {
            return false;
        }
        counters.set(rank, count + 1);
        if planted::is(Bug::WithdrawnByClearing) {
            counters.set(rank, 0);
        }
        self.count_accusations(me, counters, fabric);
        true
    }

    /// Merges an accuser's counters, as read in any row, and relays them. Returns the members that are newly accused.
    pub(super) fn relay_accusations(&mut self, accuser: Rank, shown: &Counters, fabric: &mut dyn Fabric) -> u64 {
        let (before, members) = (self.epoch.accusations.edges[accuser], self.epoch.accusations.edges.len());
        let mut counters = self.epoch.accusations.of(accuser);
        counters.merge(shown, accuser, members);
        self.count_accusations(accuser, counters, fabric);
        let accused = self.epoch.accusations.edges[accuser] & !before;
        if accused != 0 && self.my_rank() == Some(accuser) {
            self.epoch.accusations.inherit(accused);
            for rank in (0..members).filter(|rank| accused >> rank & 1 == 1) {
                let here = self.view.as_ref().is_some_and(|view| self.is_linked(view.members[rank].peer));
                if here {
                    self.acquit(rank, Cause::Absent, fabric);
                }
            }
            return 0;
        }
        accused
    }

    /// Stores and pushes the words of an accuser's counters that have changed.
    fn count_accusations(&mut self, accuser: Rank, counters: Counters, fabric: &mut dyn Fabric) {
        let known = std::mem::replace(&mut self.epoch.accusations.counters[accuser], counters);
        self.epoch.accusations.edges[accuser] = counters.accused();
        for n in (0..WORDS).filter(|&n| known.0[n] != counters.0[n]) {
            self.store_and_push(row::EDGES.at(accuser * WORDS + n), counters.0[n], fabric);
        }
    }

    /// Whether this member's accusation of the member of `rank` stays until the end of the epoch.
    pub(super) fn is_final(&self, rank: Rank) -> bool {
        self.my_rank().is_some_and(|me| self.epoch.accusations.of(me).get(rank) >= FINAL)
    }

    /// Whether any member accuses another.
    pub(super) fn has_suspicions(&self) -> bool {
        self.epoch.accusations.edges.iter().any(|&accused| accused != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_counter_wins_and_odd_means_accused() {
        let mut counters = Counters::default();
        for (rank, count) in [(0, 1), (17, 2), (63, FINAL)] {
            counters.set(rank, count);
            assert_eq!(counters.get(rank), count);
        }
        assert_eq!(counters.accused(), 1 | 1 << 63);
        let mut older = Counters::default();
        older.set(17, 1);
        older.set(5, 3);
        let mut merged = counters;
        merged.merge(&older, 9, 64);
        assert_eq!((merged.get(17), merged.get(5), merged.get(63)), (2, 3, FINAL), "an old row brings nothing back");
        assert!(counters.is_within(&merged, 64) && !merged.is_within(&counters, 64));
    }

    #[test]
    fn what_an_accuser_says_of_itself_or_of_nobody_counts_for_nothing() {
        let (mut known, mut shown) = (Counters::default(), Counters::default());
        shown.set(2, 1);
        shown.set(7, 1);
        known.merge(&shown, 2, 5);
        assert_eq!(known, Counters::default());
    }

    #[test]
    fn a_counter_that_nobody_can_reach_is_seen() {
        let mut counters = Counters::default();
        assert!(counters.is_possible());
        counters.set(40, FINAL + 1);
        assert!(!counters.is_possible());
    }
}
