//! The last view's own epoch, run by the restarted processes of its members after a total failure.
//!
//! A restarted process goes on where its ledger says: in its last view, wedged, with what it promised and accepted. Members
//! are the same by slot and number, in another life ([`Peer::is_same_member`]). What the flush compares is how far the logs
//! go, as ends of streams; ring positions are zero, since the rings are new. If a value may have been decided before the
//! failure it is adopted, like in any epoch; it names former lives, so its view is gone through in the same way. A value of
//! their own names the present lives: that view runs.

use super::ledger::{Ledger, Vote};
use super::row::{self, Ballot, Record};
use super::view::Value;
use super::{Member, Membership, Peer};
use crate::config::MemberId;
use crate::fabric::{Fabric, Rank};
use crate::log::Version;
use crate::multicast::End;

impl Membership {
    /// Goes on in the view of `ledger`.
    pub fn resume(&mut self, ledger: Ledger, fabric: &mut dyn Fabric) {
        self.restarting = true;
        let Ledger { began, promise, accepted, .. } = ledger;
        self.clear_epoch(fabric);
        self.begin(began.view.clone());
        let number = began.view.number;
        self.store_and_push(row::INSTALLED, number + 1, fabric);
        if let Some(before) = number.checked_sub(1) {
            self.write(Record::Decision(before), &began.encode(), fabric);
        }
        self.began = Some(began);
        if let Some(me) = self.my_rank() {
            self.show_vote(me, Vote { promise, accept: accepted, propose: false, asked: true }, fabric);
        }
        self.store_and_push(row::EPOCH, number + 1, fabric);
    }

    /// Whether two name the same process; while a group is restarted, whether they name the same member.
    pub(super) fn is_same(&self, a: Peer, b: Peer) -> bool {
        if self.restarting { a.is_same_member(b) } else { a == b }
    }

    /// The process that is `member` now.
    pub(super) fn living(&self, member: Peer) -> Peer {
        match self.restarting {
            false => member,
            true if member.slot == self.me.slot => self.me,
            true => self.links[member.slot].map_or(member, |link| link.peer),
        }
    }

    /// Whether `peer` is another process than the one that the view has in its slot.
    pub fn is_stranger(&self, peer: Peer) -> bool {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| member.peer).any(|member| member.slot == peer.slot && !self.is_same(member, peer))
    }

    /// Whether `peer` is in the view.
    pub fn is_member(&self, peer: Peer) -> bool {
        self.view.iter().flat_map(|view| &view.members).any(|member| member.peer == peer)
    }

    /// Whether the link to some process of this member is up.
    pub fn is_linked_with(&self, id: MemberId) -> bool {
        self.linked_with().any(|linked| linked == id)
    }

    /// The members to some process of which the link is up.
    pub fn linked_with(&self) -> impl Iterator<Item = MemberId> {
        self.links.iter().flatten().filter(|link| link.up).map(|link| link.peer.id)
    }

    /// The members that are not here, by rank; those that are here, a bit per rank, may be enough to go on.
    pub fn absent(&self) -> (Vec<(Rank, Peer)>, bool) {
        let Some(view) = &self.view else { return (Vec::new(), false) };
        let ranks = view.members.iter().map(|member| member.peer).enumerate();
        let (here, absent): (Vec<_>, Vec<_>) = ranks.partition(|&(_, peer)| self.is_linked(peer));
        let here = here.into_iter().fold(0, |bits, (rank, _)| bits | 1u64 << rank);
        (absent, view.is_majority(here, self.settings.lone_survivor))
    }

    /// How far a log goes, as ends of the present view's streams, whose last record is `last`; nowhere, if that is of an
    /// earlier view.
    pub fn ends_of(&self, last: Version) -> Vec<End> {
        let Some(view) = &self.view else { return Vec::new() };
        let (order, next) = (view.order, last.sequence + 1);
        let messages = |rank: u64| match last.view == view.number {
            true => order.base + next.saturating_sub(order.first + rank).div_ceil(view.members.len() as u64),
            false => 0,
        };
        (0..view.members.len() as u64).map(|rank| End { messages: messages(rank), frames: 0, word: 0 }).collect()
    }

    /// How far the logs of those who are here go, and who has all of it; `None` until all candidates have told.
    pub fn log_target(&self) -> Option<(Vec<End>, Peer)> {
        let target = self.target(self.candidates())?;
        let has = |rank: &Rank| self.epoch.shown[*rank].wedged.as_ref() == Some(&target);
        let view = self.view.as_ref()?;
        let source = (0..view.members.len()).filter(|rank| self.is_linked(view.members[*rank].peer)).find(has)?;
        Some((target, self.living(view.members[source].peer)))
    }

    /// Whether this process, which is being restarted, was in the first view only, and has not voted to end it.
    pub fn has_only_founded(&self) -> bool {
        let has_no_vote = |rank: usize| {
            let shown = &self.epoch.shown[rank];
            shown.promise == Ballot(0) && shown.accepted.is_none()
        };
        let is_first = self.view.as_ref().is_some_and(|view| view.number == 0);
        is_first && self.restarting && !self.is_decided() && self.my_rank().is_some_and(has_no_vote)
    }

    /// What was decided: by rank where the view's streams end.
    pub fn decided_ends(&self) -> Option<Vec<End>> {
        self.epoch.decided.as_ref().map(Value::ends)
    }

    /// What follows for a restarted process from what was decided.
    pub fn outcome(&self) -> Option<Outcome> {
        let value = self.epoch.decided.as_ref()?;
        let named = |member: &Member| member.peer.is_same_member(self.me);
        Some(match value.view.members.iter().find(|member| named(member)) {
            Some(member) if member.peer == self.me => Outcome::Runs,
            Some(_) => Outcome::GoesOn(Box::new(Ledger::new(self.me, value.clone()))),
            None => Outcome::Removed,
        })
    }

    /// The view that was decided runs: members are processes again.
    pub fn restarted(&mut self) {
        self.restarting = false;
    }
}

/// What follows for a restarted process from a decision.
pub enum Outcome {
    /// The view runs, with this process in it.
    Runs,
    /// It was decided before the failure, and names the member's former life: the view is gone through next.
    GoesOn(Box<Ledger>),
    /// The group goes on without this member.
    Removed,
}
