//! What no correct member shows: it is severed for it, before anything follows from what it shows.
//!
//! These are checks of form against errors and garbage. A process that makes up a view change that could be true is not
//! found out: members of a group trust each other that far.

use super::Membership;
use super::accusations::Counters;
use super::clocks::TIME_MAX_NS;
use super::row::{self, Ballot, Malformed, Shown};
use super::view::{Value, View};
use crate::fabric::{Rank, Slot};
use crate::multicast::End;

/// No epoch lasts for so many attempts.
const ATTEMPTS_MAX: u64 = 1 << 40;
/// No stream has so many messages.
const MESSAGES_MAX: u64 = 1 << 56;

impl Value {
    /// Whether a majority of `view` can have agreed on it as what comes next.
    pub(super) fn follows(&self, view: &View, lone: bool) -> bool {
        let old = || view.members.iter().map(|member| member.peer);
        let named = self.trims.iter().map(|(peer, _)| *peer).eq(old());
        let messages = || self.trims.iter().map(|(_, end)| end.messages);
        let counted = messages().all(|count| (view.order.base..MESSAGES_MAX).contains(&count));
        let timed = self.time_ns <= TIME_MAX_NS;
        if self.view.number != view.number + 1 || !named || !counted || !timed {
            return false;
        }
        let stays =
            |(rank, peer)| self.view.members.iter().any(|m| m.peer.is_same_member(peer)).then_some(1u64 << rank);
        let went_on = old().enumerate().filter_map(stays).fold(self.left, |bits, rank| bits | rank);
        view.is_majority(went_on, lone)
            && self.view.order == Value::order(view.order, &self.ends(), self.view.members.len())
    }
}

impl Membership {
    /// Whether the words that go on from view to view belong together. The owner stores `INSTALLED` first, so it is loaded
    /// last; a row of which only a part has arrived shows none.
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

    /// Whether the member in `slot` has installed view `number`, whose decision it has shown then.
    pub(super) fn has_installed(&self, slot: Slot, number: u64) -> bool {
        let (installed, decided) = (self.table.load(slot, row::INSTALLED), self.table.load(slot, row::DECIDED));
        installed > number && installed <= decided.saturating_add(1)
    }

    /// Whether what a member shows of the present epoch is what one can show.
    pub(super) fn check_shown(&self, shown: &Shown) -> Result<(), Malformed> {
        let Some((view, me)) = self.view.as_ref().zip(self.my_rank()) else { return Ok(()) };
        let records = || shown.accepted.iter().chain(&shown.proposed);
        let ballots = records().map(|(ballot, _)| *ballot).chain([shown.promise]);
        if !ballots.into_iter().all(|ballot| self.is_possible_ballot(ballot, view.members.len(), me)) {
            return Err(Malformed("a ballot that nobody made"));
        }
        let ends = || shown.wedged.iter().chain(&shown.flushed).flatten();
        let fresh =
            |end: &End| end.frames == 0 && end.word == 0 && (end.messages == 0 || end.messages >= view.order.base);
        if self.restarting && !ends().all(|end| fresh(end) && end.messages < MESSAGES_MAX) {
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
            // A member that is restarted may have made them in a former life.
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
