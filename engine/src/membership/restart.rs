//! The end of the last view after a total failure, run by the restarted processes of its members.
//!
//! A restarted process continues from its hard state: in its last view, wedged, with its promise and its accepted value. It
//! is the same member, with the same slot and member id, in another incarnation ([`Peer::is_same_member`]). The flush
//! compares how far the logs go, expressed as ends of streams. Ring positions are zero, since the rings are new.
//!
//! A value that may have been decided before the failure is adopted, as in any epoch. It names earlier incarnations, so
//! the members end its view in the same way. A value that the restarted members propose themselves names the present
//! incarnations, and its view runs.

use super::hard_state::{HardState, Vote};
use super::row::{self, Ballot, Record};
use super::view::ViewDecision;
use super::{Member, Membership, Peer};
use crate::fabric::{Fabric, Rank};
use crate::multicast::End;
use crate::types::{MemberId, Version};

impl Membership {
    /// Continues in the view of `hard_state`, which has wedged.
    pub(crate) fn resume(&mut self, hard_state: HardState, fabric: &mut dyn Fabric) {
        self.restarting = true;
        let HardState { began, promise, accepted, .. } = hard_state;
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

    /// Whether `a` and `b` are the same process, or during a restart the same member.
    pub(super) fn is_same(&self, a: Peer, b: Peer) -> bool {
        if self.restarting { a.is_same_member(b) } else { a == b }
    }

    /// The process that currently is `member`: during a restart, its present incarnation.
    pub(super) fn living(&self, member: Peer) -> Peer {
        match self.restarting {
            false => member,
            true if member.slot == self.me.slot => self.me,
            true => self.links[member.slot].map_or(member, |link| link.peer),
        }
    }

    /// Whether `peer` is a different process from the one that the view has in that slot.
    pub(crate) fn is_stranger(&self, peer: Peer) -> bool {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| member.peer).any(|member| member.slot == peer.slot && !self.is_same(member, peer))
    }

    /// Whether `peer` is in the view.
    pub(crate) fn is_member(&self, peer: Peer) -> bool {
        self.view.iter().flat_map(|view| &view.members).any(|member| member.peer == peer)
    }

    /// Whether the link to some process of member `id` is up.
    pub(crate) fn is_linked_with(&self, id: MemberId) -> bool {
        self.linked_with().any(|linked| linked == id)
    }

    /// The members of which some process is linked.
    pub(crate) fn linked_with(&self) -> impl Iterator<Item = MemberId> {
        self.links.iter().flatten().filter(|link| link.up).map(|link| link.peer.id)
    }

    /// The members that are not linked, by rank, and whether the linked ones, with this one, are a majority.
    pub(crate) fn absent(&self) -> (Vec<(Rank, Peer)>, bool) {
        let Some(view) = &self.view else { return (Vec::new(), false) };
        let ranks = view.members.iter().map(|member| member.peer).enumerate();
        let (here, absent): (Vec<_>, Vec<_>) = ranks.partition(|&(_, peer)| self.is_linked(peer));
        let here = here.into_iter().fold(0, |bits, (rank, _)| bits | 1u64 << rank);
        (absent, view.is_majority(here, self.settings.lone_survivor))
    }

    /// How many voters of the view are linked, with this one, and how many there are.
    pub(crate) fn returned(&self) -> (usize, usize) {
        let voters = self.view.iter().flat_map(|view| &view.members).filter(|member| member.voter);
        voters.fold((0, 0), |(here, all), member| (here + usize::from(self.is_linked(member.peer)), all + 1))
    }

    /// How far a log with the last record `last` goes, as ends of the present view's streams.
    ///
    /// If `last` is of an earlier view, every end is 0.
    pub(crate) fn ends_of(&self, last: Version) -> Vec<End> {
        let Some(view) = &self.view else { return Vec::new() };
        let (order, next) = (view.order, last.sequence + 1);
        let messages = |rank: u64| match last.view == view.number {
            true => order.base + next.saturating_sub(order.first + rank).div_ceil(view.members.len() as u64),
            false => 0,
        };
        (0..view.members.len() as u64).map(|rank| End { messages: messages(rank), frames: 0, word: 0 }).collect()
    }

    /// How far the logs of the candidates go, and a process that has all of it.
    ///
    /// `None` until all candidates have published how far their logs go.
    pub(crate) fn log_target(&self) -> Option<(Vec<End>, Peer)> {
        let target = self.target(self.candidates())?;
        let has = |rank: &Rank| self.epoch.shown[*rank].wedged.as_ref() == Some(&target);
        let view = self.view.as_ref()?;
        let source = (0..view.members.len()).filter(|rank| self.is_linked(view.members[*rank].peer)).find(has)?;
        Some((target, self.living(view.members[source].peer)))
    }

    /// Whether this restarting process was only ever in the first view, and has not voted to end it.
    pub(crate) fn has_only_founded(&self) -> bool {
        let has_no_vote = |rank: usize| {
            let shown = &self.epoch.shown[rank];
            shown.promise == Ballot(0) && shown.accepted.is_none()
        };
        let is_first = self.view.as_ref().is_some_and(|view| view.number == 0);
        is_first && self.restarting && !self.is_decided() && self.my_rank().is_some_and(has_no_vote)
    }

    /// The decided ends of the view's streams, by rank.
    pub(crate) fn decided_ends(&self) -> Option<Vec<End>> {
        self.epoch.decided.as_ref().map(ViewDecision::ends)
    }

    /// The consequence of the decision for this restarted process. `None` while nothing is decided.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let value = self.epoch.decided.as_ref()?;
        let named = |member: &Member| member.peer.is_same_member(self.me);
        Some(match value.view.members.iter().find(|member| named(member)) {
            Some(member) if member.peer == self.me => Outcome::Runs,
            Some(_) => Outcome::GoesOn(Box::new(HardState::new(self.me, value.clone()))),
            None => Outcome::Removed,
        })
    }

    /// Ends the restart: the decided view runs, and members are identified by incarnation again.
    pub(crate) fn restarted(&mut self) {
        self.restarting = false;
    }
}

/// The consequence of a decision for a restarted process.
pub(crate) enum Outcome {
    /// The decided view runs, with this process in it.
    Runs,
    /// The decision is from before the failure and names an earlier incarnation. The members end its view next.
    GoesOn(Box<HardState>),
    /// The group continues without this member.
    Removed,
}
