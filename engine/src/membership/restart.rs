//! The end of the last view after a total failure, run by the restarted processes of its members.
//!
//! A restarted process continues from its hard state: in its last view, wedged, with its promise and its accepted value. It
//! is the same member, with the same slot and member id, in another incarnation ([`Peer::is_same_member`]). The flush
//! compares how far the logs go, expressed as ends of streams. Ring positions are zero, since the rings are new.
//!
//! A value that may have been decided before the failure is adopted, as in any epoch. It names earlier incarnations, so
//! the members end its view in the same way. A value that the restarted members propose themselves names the present
//! incarnations, and its view runs.

use super::action::{Action, Actions, Closing, Show};
use super::hard_state::{HardState, Vote};
use super::row::{self, Ballot, Record};
use super::{Cause, Member, Membership, Peer, Shard};
use crate::error::Error;
use crate::fabric::{Fabric, Rank};
use crate::multicast::End;
use crate::planted::{self, Bug};
use crate::types::{MemberId, Version, named};

/// The records that a restarted process lacks: those after one version and below another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogNeed {
    /// The process that has them.
    pub from: Peer,
    /// The last record that is here.
    pub after: Version,
    /// One above the last record that is wanted.
    pub below: Version,
}

/// The wait of a restarted process for the others.
#[derive(Debug, Default)]
pub(super) struct RestartWait {
    /// Since when enough members are linked to continue without the rest, and how often the rest came back after that.
    enough_ms: Option<u64>,
    gatherings: u32,
    /// Since when the decision is on disk.
    decided_ms: Option<u64>,
}

/// After all members have been linked again this often, the wait for absent ones does not start over any more.
const GATHERINGS_MAX: u32 = 3;

impl Membership {
    /// Continues in the view of `hard_state`, which has wedged. The last record of the log is `last`.
    pub(crate) fn resume(&mut self, hard_state: HardState, last: Version, now_ms: u64, fabric: &mut dyn Fabric) {
        self.restarting = true;
        self.restart_wait = RestartWait::default();
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
        self.wedge(self.ends_of(last), now_ms, fabric);
    }

    /// One pass of a process that is being restarted. The last record of its log is `last`, and `written` means that
    /// the known decision is in the log.
    pub(super) fn restart_pass(
        &mut self,
        now_ms: u64,
        (last, written): (Version, bool),
        fabric: &mut dyn Fabric,
        todo: &mut Actions,
    ) -> bool {
        if let Some(value) = &self.epoch.decided {
            if written {
                // `settle` looks at the outcome.
                todo.push_back(Action::Settle);
                return false;
            } else if matches!(self.outcome(), Some(Outcome::Removed)) {
                todo.push_back(self.removed());
            } else {
                todo.push_back(Action::CloseLog(Box::new(Closing {
                    ends: value.ends(),
                    next: self.beginning_bytes(),
                })));
            }
            return true;
        }
        if self.is_left_behind() {
            todo.push_back(self.removed());
            return true;
        }
        let news = self.give_up_absent(now_ms, fabric);
        self.complete_log(last, todo);
        todo.push_back(Action::Vote);
        news
    }

    /// Accuses the members that have not come back, some time after enough have.
    fn give_up_absent(&mut self, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        let (absent, enough) = self.absent();
        let restart_wait = &mut self.restart_wait;
        if absent.is_empty() || !enough {
            // A member with a link that goes up and down must not delay the others for ever.
            let is_again = restart_wait.enough_ms.is_some() && absent.is_empty();
            if !is_again || restart_wait.gatherings < GATHERINGS_MAX {
                restart_wait.enough_ms = None;
                restart_wait.gatherings += u32::from(is_again);
            }
            return false;
        }
        let since_ms = *restart_wait.enough_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < self.settings.restart_wait_ms {
            return false;
        }
        let mut news = false;
        for (rank, _) in absent {
            news |= self.suspect(rank, Cause::Absent, "it has not come back with the others", fabric);
        }
        news
    }

    /// Completes this member's log to the longest log of a candidate, and publishes that once it is on disk.
    fn complete_log(&self, last: Version, todo: &mut Actions) {
        let Some((target, from)) = self.log_target() else { return };
        let Some(view) = &self.view else { return };
        if self.ends_of(last) == target || planted::is(Bug::RestartFromShortest) {
            todo.extend([Action::FetchLog(None), Action::Show(Show::Flush(target))]);
            return;
        }
        let Some((shard, target)) = view.by_shard(&target).next() else { return };
        let below = shard.order.horizon(target.iter().map(|end| end.messages.max(shard.order.base)));
        let below = Version { view: view.number, sequence: below };
        todo.push_back(Action::FetchLog(Some(LogNeed { from, after: last, below })));
    }

    /// The error that names the members that the restart still waits for.
    pub(super) fn missing(&self) -> Error {
        let view = self.number();
        let (absent, enough) = self.absent();
        let members = named(&absent.iter().map(|(_, peer)| peer.id).collect::<Vec<_>>());
        let missing = match absent.len() {
            0 => format!("a decision of the members of view {view}, all of which are here"),
            _ if enough => {
                format!("{members} of view {view}; more than half are here, but have not come to a decision")
            }
            _ => {
                let (here, voters) = self.returned();
                let more = (voters / 2 + 1).saturating_sub(here);
                format!(
                    "{members} of view {view}: {more} more of its {voters} voters must come back with their logs ({here} are here); \
                     if the group may run with members that this process does not know, name one of them in `contacts`; \
                     if their logs are lost for good, `galerna-log recover` begins a new group with one log"
                )
            }
        };
        Error::Missing { missing, after_ms: self.settings.join_timeout_ms }
    }

    /// Continues as the decision requires, which is on disk. `linked` has one bit for each slot with a process that was
    /// ever linked.
    pub(super) fn settle(&mut self, now_ms: u64, linked: u64, todo: &mut Actions) -> bool {
        match self.outcome() {
            None => return false,
            Some(Outcome::GoesOn(hard_state)) => {
                todo.push_back(Action::Resume(hard_state));
                return true;
            }
            Some(Outcome::Removed) => {
                todo.push_back(self.removed());
                return true;
            }
            Some(Outcome::Runs) => {}
        }
        let decided_for_ms = now_ms.saturating_sub(*self.restart_wait.decided_ms.get_or_insert(now_ms));
        // During the restart a broken link can be made anew, and brings the decision. So this process stays in it while
        // no other member of the decided view knows the decision. After the partition timeout it continues.
        if self.nobody_knows() && decided_for_ms < self.partition_timeout_ms() {
            return false;
        }
        if self.next_slots().any(|slot| linked >> slot & 1 == 0) {
            // It cannot read the streams of a member that it was never linked with. The others end the view without one
            // of the two. This process joins anew.
            let late = decided_for_ms >= self.failure_timeout_ms();
            todo.extend(late.then(|| self.removed()));
            return late;
        }
        // Members are identified by incarnation again.
        self.restarting = false;
        todo.extend([Action::Start(None), Action::Install]);
        true
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
    pub(super) fn is_stranger(&self, peer: Peer) -> bool {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| member.peer).any(|member| member.slot == peer.slot && !self.is_same(member, peer))
    }

    /// Whether `peer` is in the view.
    pub(crate) fn is_member(&self, peer: Peer) -> bool {
        self.view.iter().flat_map(|view| &view.members).any(|member| member.peer == peer)
    }

    /// The members of which some process is linked.
    pub(crate) fn linked_with(&self) -> impl Iterator<Item = MemberId> {
        self.links.iter().flatten().filter(|link| link.up).map(|link| link.peer.id)
    }

    /// The members that are not linked, by rank, and whether the linked ones, with this one, are a majority.
    fn absent(&self) -> (Vec<(Rank, Peer)>, bool) {
        let Some(view) = &self.view else { return (Vec::new(), false) };
        let ranks = view.members.iter().map(|member| member.peer).enumerate();
        let (here, absent): (Vec<_>, Vec<_>) = ranks.partition(|&(_, peer)| self.is_linked(peer));
        let here = here.into_iter().fold(0, |bits, (rank, _)| bits | 1u64 << rank);
        (absent, view.is_majority(here, self.settings.lone_survivor))
    }

    /// How many voters of the view are linked, with this one, and how many there are.
    fn returned(&self) -> (usize, usize) {
        let voters = self.view.iter().flat_map(|view| &view.members).filter(|member| member.voter);
        voters.fold((0, 0), |(here, all), member| (here + usize::from(self.is_linked(member.peer)), all + 1))
    }

    /// How far a log with the last record `last` goes, as ends of the present view's streams.
    ///
    /// If `last` is of an earlier view, every end is 0.
    pub(crate) fn ends_of(&self, last: Version) -> Vec<End> {
        let Some(view) = &self.view else { return Vec::new() };
        let counts = |shard: &Shard| shard.counts(view.number, last).unwrap_or_else(|| vec![0; shard.members.len()]);
        let ends = |messages| End { messages, frames: 0, word: 0 };
        view.shards.iter().flat_map(counts).map(ends).collect()
    }

    /// How far the logs of the candidates go, and a process that has all of it.
    ///
    /// `None` until all candidates have published how far their logs go.
    fn log_target(&self) -> Option<(Vec<End>, Peer)> {
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

    /// The consequence of the decision for this restarted process. `None` while nothing is decided.
    fn outcome(&self) -> Option<Outcome> {
        let value = self.epoch.decided.as_ref()?;
        let named = |member: &Member| member.peer.is_same_member(self.me);
        Some(match value.view.members.iter().find(|member| named(member)) {
            Some(member) if member.peer == self.me => Outcome::Runs,
            Some(_) => Outcome::GoesOn(Box::new(HardState::new(self.me, value.clone()))),
            None => Outcome::Removed,
        })
    }
}

/// The consequence of a decision for a restarted process.
enum Outcome {
    /// The decided view runs, with this process in it.
    Runs,
    /// The decision is from before the failure and names an earlier incarnation. The members end its view next.
    GoesOn(Box<HardState>),
    /// The group continues without this member.
    Removed,
}
