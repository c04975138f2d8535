//! How a member leaves the group: it stays until the other members know the decision.
//!
//! In a group with a log it stays until they have the decision on disk. Its own disk takes in the decision only then,
//! because a process that has it on disk does not come back as a member. If the power failed everywhere in between, those
//! that stay could be too few to end the view that their disks know.

use super::action::{Action, Actions, Moment, Role};
use super::{Departure, Membership, Peer, row};
use crate::fabric::Rank;
use crate::planted::{self, Bug};

impl Membership {
    /// One step of a leaver: it stays until all other members know the decision.
    ///
    /// A member that has stopped responding does not delay it for long. But while no member knows the decision, the
    /// leaver waits longer, because a broken link may be relinked. Without that link the group would end.
    pub(super) fn part(&mut self, at: &Moment, todo: &mut Actions) -> bool {
        let goes = self.all_know() || at.now_ms >= self.parts_until_ms(at);
        if goes {
            if self.saves_late() && self.is_kept() {
                todo.extend(self.beginning_bytes().map(|last| Action::SaveBeginning(Box::new(last))));
            }
            todo.push_back(self.quit(at));
        }
        goes
    }

    /// Whether this process saves the decision only when a majority of the next view has it on disk: it is a voter that
    /// leaves.
    pub(super) fn saves_late(&self) -> bool {
        let next = self.epoch.decided.as_ref().map(|value| &value.view.members);
        let leaves = next.is_some_and(|members| !members.is_empty()) && !self.is_in_next();
        self.settings.logs && self.votes() && leaves && !planted::is(Bug::LeaverSavesFirst)
    }

    /// Whether `peer` runs the decided view, which a voter publishes when its disk has the decision.
    fn has_entered(&self, peer: Peer) -> bool {
        self.table.load(peer.slot, row::INSTALLED) > self.number() + 1
    }

    /// Whether a majority of the decided view has the decision on disk.
    fn is_kept(&self) -> bool {
        self.epoch.decided.as_ref().is_some_and(|value| {
            let members = value.view.members.iter().enumerate().filter(|(_, member)| self.has_entered(member.peer));
            value.view.is_majority(members.fold(0, |ranks, (rank, _)| ranks | 1 << rank), false)
        })
    }

    /// The latest time until which a leaver stays, in milliseconds.
    pub(super) fn parts_until_ms(&self, at: &Moment) -> u64 {
        let more_ms = if self.nobody_knows() { self.partition_timeout_ms() } else { 0 };
        at.until_ms.saturating_add(more_ms)
    }

    /// Handles the answer of `peer` that the group has continued without this process.
    ///
    /// This process had wedged view `view` when it asked. It cannot learn the decision any more, or it has left and no
    /// member waits for it.
    pub(super) fn learn_gone_on(
        &mut self,
        at: &Moment,
        peer: Peer,
        view: u64,
        departure: Departure,
        todo: &mut Actions,
    ) {
        if self.view.as_ref().is_none_or(|mine| mine.number != view) {
            return;
        }
        match at.role {
            // It has waited for another member that knows the decision.
            Role::Parts if self.nobody_knows() && self.is_heir(peer) => todo.push_back(self.quit(at)),
            Role::Runs { leaves: true, .. } if self.is_wedged() && departure == Departure::Left => {
                todo.push_back(self.quit(at));
            }
            Role::Runs { .. } if self.is_wedged() => todo.push_back(self.removed()),
            _ => {}
        }
    }

    fn quit(&self, at: &Moment) -> Action {
        Action::Quit(at.now_ms.saturating_add(self.failure_timeout_ms()))
    }

    /// The processes that must learn the decision from a leaver, each with whether it is known to have learnt it.
    ///
    /// These are the other members of the decided view. If that view has no members, they are the other leavers.
    fn heirs(&self) -> impl Iterator<Item = (Peer, bool)> {
        let number = self.number();
        let value = self.epoch.decided.as_ref();
        let next = value.into_iter().flat_map(|value| &value.view.members).map(|member| member.peer);
        let nobody = value.is_some_and(|value| value.view.members.is_empty());
        let left = move |rank: &Rank| nobody && value.is_some_and(|value| value.left >> rank & 1 == 1);
        let members = self.view.iter().flat_map(|view| &view.members).enumerate();
        let left = members.filter(move |(rank, _)| left(rank)).map(|(_, member)| member.peer);
        let others = next.chain(left).filter(|&peer| peer != self.me);
        others.map(move |peer| (peer, self.table.load(peer.slot, row::DECIDED) > number))
    }

    /// Whether a leaver may go.
    ///
    /// All linked processes that must learn the decision must know it, or have it on disk if this process saves it late.
    /// At least one process must know it.
    fn all_know(&self) -> bool {
        let late = self.saves_late();
        let has = |peer: Peer, knows: bool| if late { self.has_entered(peer) } else { knows };
        self.heirs().all(|(peer, knows)| has(peer, knows) || !self.is_linked(peer)) && !self.nobody_knows()
    }

    /// Whether `peer` must learn the decision from a leaver.
    fn is_heir(&self, peer: Peer) -> bool {
        self.heirs().any(|(heir, _)| heir == peer)
    }

    /// The processes with a broken link that must learn the decision, if none of those that must is known to have.
    pub(super) fn cut_off_heirs(&self) -> Vec<Peer> {
        let heirs = self.heirs().map(|(peer, _)| peer).filter(|_| self.nobody_knows());
        heirs.filter(|&peer| self.is_broken(peer)).collect()
    }

    /// Whether some processes must learn the decision and none of them is known to have learnt it.
    pub(crate) fn nobody_knows(&self) -> bool {
        self.heirs().next().is_some() && !self.heirs().any(|(_, knows)| knows)
    }
}
