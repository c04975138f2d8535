//! Single-decree Paxos over rows: one decision per epoch, made by the voters of the old view.
//!
//! There are no messages. A leader publishes its ballot as its own promise, and members that see it promise it too. The
//! leader then publishes the value, and members that see it accept it. A member that sees a majority of acceptances of
//! one ballot has learnt the decision.
//!
//! In a group with a log each vote is on disk before it is published ([`super::Action::Save`], then
//! [`super::Action::Show`]).

use super::Membership;
use super::hard_state::Vote;
use super::row::{self, Ballot, Record};
use super::view::ViewDecision;
use crate::fabric::{Fabric, Rank};
use crate::planted::{self, Bug};

/// The first pause of a leader that was overtaken, in milliseconds. It doubles up to `PAUSE_MAX_MS`.
const PAUSE_MS: u64 = 8;
const PAUSE_MAX_MS: u64 = 512;

/// How far a leader's attempt has progressed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Idle,
    /// It waits for promises of this ballot.
    Prepared(Ballot),
    /// It has published the value of this ballot.
    Proposed(Ballot),
}

/// The state of a leader in the epoch.
pub(super) struct Leader {
    stage: Stage,
    /// When to abandon the present attempt or make the next one, in milliseconds.
    until_ms: u64,
    pause_ms: u64,
    /// The state of the random generator for pauses.
    random: u64,
}

impl Leader {
    pub(super) fn new(seed: u64) -> Leader {
        Leader { stage: Stage::Idle, until_ms: 0, pause_ms: PAUSE_MS, random: seed | 1 }
    }

    pub(super) fn begin(&mut self) {
        (self.stage, self.until_ms, self.pause_ms) = (Stage::Idle, 0, PAUSE_MS);
    }

    /// Begins a random pause. Its length grows with the number of earlier attempts.
    fn pause(&mut self, now_ms: u64) {
        // xorshift: any distribution will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.until_ms = now_ms + self.pause_ms + self.random % self.pause_ms;
        self.pause_ms = (2 * self.pause_ms).min(PAUSE_MAX_MS);
    }
}

impl Membership {
    /// Makes one step towards the decision. Returns true if anything changed.
    pub(super) fn decide(&mut self, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        let Some(me) = self.my_rank() else { return false };
        // While one vote is being written to disk, there is no other vote.
        let mut moved = self.epoch.vote.is_none() && self.promise_others(me, fabric);
        moved |= self.epoch.vote.is_none() && self.lead(me, now_ms, fabric);
        moved |= self.epoch.vote.is_none() && self.accept_others(me, fabric);
        if let Some(value) = self.chosen() {
            self.learn(value, fabric);
            moved = true;
        }
        moved
    }

    #[cfg(test)]
    pub(crate) fn decision(&self) -> Option<String> {
        self.epoch.decided.as_ref().map(|value| format!("{value:?}"))
    }

    #[cfg(test)]
    pub(crate) fn has_proposed(&self) -> bool {
        self.table.load(self.me.slot, row::PROPOSED) > 0
    }

    /// When [`Membership::decide`] has something to do even if nothing arrives, in milliseconds.
    pub(super) fn next_attempt_ms(&self) -> u64 {
        self.epoch.leader.until_ms.max(self.rest_until_ms())
    }

    /// Promises the highest ballot that its own leader has published.
    fn promise_others(&mut self, me: Rank, fabric: &mut dyn Fabric) -> bool {
        let shown = self.epoch.shown.iter().enumerate().filter(|&(rank, _)| rank != me);
        let asked =
            shown.map(|(rank, shown)| (rank, shown.promise)).filter(|&(rank, b)| b == Ballot::new(b.attempt(), rank));
        match asked.map(|(_, ballot)| ballot).max() {
            Some(ballot) if ballot > self.promise() => {
                self.vote(me, Vote::promise(ballot), fabric);
                true
            }
            _ => false,
        }
    }

    /// Casts a vote: publishes it at once, or in a group with a log once it is on disk.
    fn vote(&mut self, me: Rank, vote: Vote, fabric: &mut dyn Fabric) {
        if !self.settings.logs || planted::is(Bug::VoteBeforeSaved) {
            return self.show_vote(me, vote, fabric);
        }
        self.epoch.vote = Some(vote);
    }

    /// Publishes the vote that [`Membership::ledger_to_save`] handed out, which is on disk now.
    pub(super) fn voted(&mut self, fabric: &mut dyn Fabric) {
        if let Some((me, vote)) = self.my_rank().zip(self.epoch.vote.take_if(|vote| vote.asked)) {
            self.show_vote(me, vote, fabric);
        }
    }

    pub(super) fn show_vote(&mut self, me: Rank, vote: Vote, fabric: &mut dyn Fabric) {
        let Vote { promise, accept, propose, .. } = vote;
        let mut record = None;
        if let Some((ballot, value)) = accept {
            let words = row::ballot_words(ballot, &value);
            self.write(Record::Accept, &words, fabric);
            self.epoch.shown[me].accepted = Some((ballot, value));
            record = Some(words).filter(|_| propose);
        }
        if promise > self.promise() {
            // This write follows the record: a leader that sees the promise must also see the earlier acceptance.
            self.epoch.shown[me].promise = promise;
            self.store_and_push(row::PROMISE, promise.0, fabric);
        }
        if let Some(words) = record {
            self.write(Record::Propose, &words, fabric);
        }
    }

    /// Accepts the value of the highest ballot that its own leader has proposed, unless a higher ballot is promised.
    fn accept_others(&mut self, me: Rank, fabric: &mut dyn Fabric) -> bool {
        let shown = self.epoch.shown.iter().enumerate().filter(|&(rank, _)| rank != me);
        let proposed = shown.filter_map(|(rank, shown)| shown.proposed.as_ref().map(|p| (rank, p)));
        let proposed = proposed.filter(|(rank, (ballot, _))| *ballot == Ballot::new(ballot.attempt(), *rank));
        let Some((_, (ballot, value))) = proposed.max_by_key(|(_, (ballot, _))| *ballot) else { return false };
        let accepted = self.epoch.shown[me].accepted.as_ref().map_or(Ballot::default(), |(ballot, _)| *ballot);
        let late = *ballot < self.promise() && !planted::is(Bug::AcceptAfterPromise);
        if late || *ballot <= accepted {
            return false;
        }
        let (ballot, value) = (*ballot, value.clone());
        self.vote(me, Vote::accept(ballot, value, false), fabric);
        true
    }

    /// The value that a majority has accepted in one ballot.
    fn chosen(&self) -> Option<ViewDecision> {
        let view = self.view.as_ref()?;
        let accepted = || self.epoch.shown.iter().enumerate().filter_map(|(r, s)| s.accepted.as_ref().map(|a| (r, a)));
        accepted().find_map(|(_, (ballot, value))| {
            let same = |(_, (other, theirs)): &(Rank, &(Ballot, ViewDecision))| {
                other == ballot || planted::is(Bug::MajorityAcrossBallots) && theirs.view.number == value.view.number
            };
            let ranks = accepted().filter(same).fold(0, |bits, (rank, _)| bits | 1u64 << rank);
            view.is_majority(ranks, self.settings.lone_survivor).then(|| value.clone())
        })
    }

    /// Makes the leader's step. Returns true if anything changed.
    fn lead(&mut self, me: Rank, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        let highest = self.epoch.shown.iter().map(|shown| shown.promise).max().unwrap_or_default();
        let ballot = match &self.epoch.leader.stage {
            Stage::Idle => return self.prepare(me, highest, now_ms, fabric),
            Stage::Prepared(ballot) | Stage::Proposed(ballot) => *ballot,
        };
        if highest > ballot || now_ms >= self.epoch.leader.until_ms {
            // Another leader has overtaken this one, or a member that it counted on has failed.
            self.epoch.leader.stage = Stage::Idle;
            self.epoch.leader.pause(now_ms);
            return true;
        }
        self.epoch.leader.stage == Stage::Prepared(ballot) && self.propose(me, ballot, now_ms, fabric)
    }

    fn prepare(&mut self, me: Rank, highest: Ballot, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        if now_ms < self.epoch.leader.until_ms {
            return false;
        }
        let Some(value) = self.own_value() else { return false };
        self.note_majority(now_ms);
        if self.waits_for_rest(now_ms) {
            return false;
        }
        let first = Ballot::new(1, 0);
        if me == 0 && highest < first {
            // This is the lowest ballot there is, so no member can have accepted anything before it.
            self.show(me, first, value, now_ms, fabric);
            return true;
        }
        let ballot = Ballot::new(highest.attempt() + 1, me);
        self.vote(me, Vote::promise(ballot), fabric);
        self.epoch.leader.stage = Stage::Prepared(ballot);
        self.epoch.leader.pause(now_ms);
        true
    }

    /// Proposes a value once a majority has promised `ballot`.
    ///
    /// The value is one that may have been decided already, or else this member's own value.
    fn propose(&mut self, me: Rank, ballot: Ballot, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        let shown = self.epoch.shown.iter().enumerate();
        let promised: Vec<Rank> = shown.filter(|(_, shown)| shown.promise == ballot).map(|(rank, _)| rank).collect();
        let ranks = promised.iter().fold(0, |bits, rank| bits | 1u64 << rank);
        if !self.view.as_ref().is_some_and(|view| view.is_majority(ranks, self.settings.lone_survivor)) {
            return false;
        }
        let accepted = promised.iter().filter_map(|&rank| self.epoch.shown[rank].accepted.as_ref());
        let adopted = accepted.max_by_key(|(ballot, _)| *ballot).map(|(_, value)| value.clone());
        let adopted = if planted::is(Bug::IgnoreAccepted) { None } else { adopted };
        let Some(value) = adopted.or_else(|| self.own_value()) else { return false };
        self.show(me, ballot, value, now_ms, fabric);
        true
    }

    /// Accepts this member's own proposal, then publishes it.
    fn show(&mut self, me: Rank, ballot: Ballot, value: ViewDecision, now_ms: u64, fabric: &mut dyn Fabric) {
        self.vote(me, Vote::accept(ballot, value, true), fabric);
        self.epoch.leader.stage = Stage::Proposed(ballot);
        self.epoch.leader.pause(now_ms);
    }
}
