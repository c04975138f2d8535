//! Checks of a peer's membership row against values that no correct member writes.
//!
//! A peer that fails a check is severed before any of its values is used. The checks find errors and garbage. They do
//! not detect a process that forges a plausible view change: members of a group trust each other that far.

use super::Membership;
use super::accusations::Counters;
use super::clocks::TIME_MAX_NS;
use super::row::{self, Ballot, Malformed, Shown};
use super::view::{View, ViewDecision};
use crate::fabric::{Rank, Slot};
use crate::multicast::End;

/// More attempts than any epoch has.
const ATTEMPTS_MAX: u64 = 1 << 40;
/// More messages than any stream has.
const MESSAGES_MAX: u64 = 1 << 56;

impl ViewDecision {
    /// Whether a majority of `view` can have agreed on this value as the successor of `view`.
    pub(super) fn follows(&self, view: &View, lone: bool) -> bool {
        let old = || view.members.iter().map(|member| member.peer);
        let named = self.old.iter().copied().eq(old());
        let streams =
            || self.ended.iter().flat_map(|shard| shard.ends.iter().map(|&(rank, end)| (shard.id, rank, end)));
        let owned = view.streams().map(|(shard, rank)| (shard.id, rank)).eq(streams().map(|(id, rank, _)| (id, rank)));
        let bases = view.streams().map(|(shard, _)| shard.order.base);
        let counted = bases.zip(streams()).all(|(base, (.., end))| (base..MESSAGES_MAX).contains(&end.messages));
        let timed = self.time_ns <= TIME_MAX_NS;
        if self.view.number != view.number + 1 || !named || !owned || !counted || !timed {
            return false;
        }
        let stays =
            |(rank, peer)| self.view.members.iter().any(|m| m.peer.is_same_member(peer)).then_some(1u64 << rank);
        let went_on = old().enumerate().filter_map(stays).fold(self.left, |bits, rank| bits | rank);
        view.is_majority(went_on, lone) && self.view.shards == view.next_shards(&self.ends(), self.view.members.len())
    }
}

impl Membership {
    /// Checks the words that continue from view to view for consistency.
    ///
    /// The owner stores `INSTALLED` first, so it is loaded last. In a row that has arrived only in part, `INSTALLED` is
    /// 0.
    pub(super) fn check_words(&self, slot: Slot) -> Result<(), Malformed> {
        let load = |column| self.table.load(slot, column);
        let (wedged, epoch, decided) = (load(row::WEDGED), load(row::EPOCH), load(row::DECIDED));
        let installed = load(row::INSTALLED);
        if installed > 0 && wedged.max(epoch).max(decided) > installed {
            return Err(Malformed("a row about a view that its owner has not installed"));
        }
        if !self.has_possible_timeouts(slot) {
            return Err(Malformed("timeouts that no configuration has"));
        }
        Ok(())
    }

    /// Whether the member in `slot` has installed view `number` or a later one.
    ///
    /// The view counts only if the member publishes the decision that began it.
    pub(super) fn has_installed(&self, slot: Slot, number: u64) -> bool {
        let (installed, decided) = (self.table.load(slot, row::INSTALLED), self.table.load(slot, row::DECIDED));
        installed > number && installed <= decided.saturating_add(1)
    }

    /// Checks that a correct member can publish these values in the present epoch.
    pub(super) fn check_shown(&self, shown: &Shown) -> Result<(), Malformed> {
        let Some((view, me)) = self.view.as_ref().zip(self.my_rank()) else { return Ok(()) };
        let records = || shown.accepted.iter().chain(&shown.proposed);
        let ballots = records().map(|(ballot, _)| *ballot).chain([shown.promise]);
        if !ballots.into_iter().all(|ballot| self.is_possible_ballot(ballot, view.members.len(), me)) {
            return Err(Malformed("a ballot that nobody made"));
        }
        let fresh = |(end, base): (&End, u64)| {
            let counted = end.messages == 0 || (base..MESSAGES_MAX).contains(&end.messages);
            end.frames == 0 && end.word == 0 && counted
        };
        let bases = || view.streams().map(|(shard, _)| shard.order.base);
        let mut lists = shown.wedged.iter().chain(&shown.flushed);
        if self.restarting && !lists.all(|ends| ends.iter().zip(bases()).all(fresh)) {
            return Err(Malformed("a log that ends where none can"));
        }
        if !records().all(|(_, value)| value.follows(view, self.settings.lone_survivor)) {
            return Err(Malformed("a value that does not follow from the view"));
        }
        if !shown.accusations.iter().all(Counters::is_possible) {
            return Err(Malformed("an accusation that changed more often than one can"));
        }
        let own = self.epoch.accusations.of(me);
        match shown.accusations.get(me) {
            // During a restart, an earlier incarnation of this process may have made these accusations.
            Some(mine) if !self.restarting && !mine.is_within(&own, view.members.len()) => {
                Err(Malformed("an accusation that this process never made"))
            }
            _ => Ok(()),
        }
    }

    fn is_possible_ballot(&self, ballot: Ballot, members: usize, me: Rank) -> bool {
        let known = ballot.rank() != me || ballot <= self.promise();
        ballot.rank() < members && ballot.attempt() < ATTEMPTS_MAX && known
    }
}
