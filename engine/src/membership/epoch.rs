//! The end of an epoch up to its decision: suspicion, wedge, flush.

use super::accusations::{Accusations, Cause};
use super::candidates::candidates;
use super::hard_state::Vote;
use super::paxos::Leader;
use super::row::{self, Ballot, Record, Shown};
use super::view::{Member, View, ViewDecision};
use super::{Membership, Show};
use crate::fabric::{Fabric, Rank, Slot, Source};
use crate::multicast::{End, Violation};
use crate::planted::{self, Bug};

/// The state of the present epoch, as far as this process knows it.
pub(super) struct Epoch {
    pub(super) accusations: Accusations,
    /// The epoch columns of each member's row, by rank. This member's own are at its own rank.
    pub(super) shown: Vec<Shown>,
    pub(super) leader: Leader,
    /// This member's own vote, while it is being written to disk.
    pub(super) vote: Option<Vote>,
    pub(super) decided: Option<ViewDecision>,
    pub(super) wedged_ms: Option<u64>,
    /// Since when this member has not been in a set of candidates with a majority.
    without_majority_ms: Option<u64>,
    /// When the members' rows last changed, as of the last check of `restless`.
    progress_ms: u64,
    restless: bool,
    /// Until then the leader waits for the remaining members, because a majority has just come back.
    rest_until_ms: u64,
}

impl Epoch {
    pub(super) fn new(seed: u64) -> Epoch {
        Epoch {
            accusations: Accusations::default(),
            shown: Vec::new(),
            leader: Leader::new(seed),
            vote: None,
            decided: None,
            wedged_ms: None,
            without_majority_ms: None,
            progress_ms: 0,
            restless: false,
            rest_until_ms: 0,
        }
    }

    pub(super) fn begin(&mut self, members: usize) {
        self.accusations.begin(members);
        self.shown = vec![Shown::default(); members];
        self.leader.begin();
        self.vote = None;
        self.decided = None;
        self.wedged_ms = None;
        self.without_majority_ms = None;
        self.restless = true;
        self.rest_until_ms = 0;
    }
}

/// A stream that this member must complete before its flush is done: where it ends, and which member has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The stream: its place in a list of ends.
    pub stream: usize,
    /// The rank of its sender.
    pub sender: Rank,
    /// The end that the stream must reach here.
    pub end: End,
    /// The slot to fetch from. `None` if, by the sender's row, all of the stream has arrived here.
    pub from: Option<Slot>,
    /// The slot of the sender.
    pub owner: Option<Slot>,
    /// The rank of the member that published this end.
    pub shown_by: Rank,
}

impl Membership {
    /// The candidates: the members that can end the epoch together, one bit per rank.
    pub(super) fn candidates(&self) -> u64 {
        let edges = self.epoch.accusations.edges();
        let accusers = |of: usize| (0..edges.len()).filter(move |&by| edges[by] >> of & 1 == 1);
        let symmetric: Vec<u64> =
            (0..edges.len()).map(|of| accusers(of).fold(edges[of], |bits, by| bits | 1 << by)).collect();
        let found = candidates(&symmetric, self.voters());
        match self.my_rank() {
            // With `lone_survivor`, each of two voters takes itself for the survivor.
            Some(me) if self.settings.lone_survivor && self.voters() & found == 0 && self.voters() >> me & 1 == 1 => {
                1 << me
            }
            _ => found,
        }
    }

    fn voters(&self) -> u64 {
        let members = self.view.iter().flat_map(|view| &view.members).enumerate();
        members.fold(0, |bits, (rank, member)| bits | u64::from(member.voter) << rank)
    }

    /// Whether this member leads the end of the epoch. The candidate of the lowest rank leads.
    pub(crate) fn is_leader(&self) -> bool {
        let candidates = self.candidates();
        planted::everybody_leads() || candidates != 0 && self.my_rank() == Some(candidates.trailing_zeros() as Rank)
    }

    /// Whether the epoch has to end.
    ///
    /// `leaves` means that this process wants to leave and has published everything that it accepted.
    pub(super) fn must_wedge(&self, leaves: bool) -> bool {
        if self.epoch.wedged_ms.is_some() {
            return false;
        }
        let somebody_is_due = || self.has_ready_learner() || !self.complete_joiners().is_empty();
        // Evaluated last, because this runs at each pass and finding the leader is expensive.
        let for_others = || somebody_is_due() && self.is_leader();
        self.has_suspicions() || leaves || self.somebody_wedged() || for_others()
    }

    fn has_ready_learner(&self) -> bool {
        let mut members = self.view.iter().flat_map(|view| &view.members);
        members.any(|member| !member.voter && self.table.load(member.peer.slot, row::READY) == 1)
    }

    /// Notes that the member in `slot` has answered a fetch.
    pub(super) fn answered(&mut self, slot: Slot, fabric: &mut dyn Fabric) {
        if let Some(rank) = self.view.as_ref().and_then(|view| view.rank_of(slot)) {
            self.acquit(rank, Cause::Fetch, fabric);
        }
    }

    /// Whether this member has wedged and knows no decision.
    pub(super) fn is_wedged(&self) -> bool {
        self.epoch.wedged_ms.is_some() && self.epoch.decided.is_none()
    }

    /// Whether the present view's epoch is ending here.
    pub(crate) fn is_between_views(&self) -> bool {
        self.epoch.wedged_ms.is_some() || self.epoch.decided.is_some()
    }

    /// Whether this member knows the decision of the epoch.
    pub(super) fn is_decided(&self) -> bool {
        self.epoch.decided.is_some()
    }

    /// Wedges this member: publishes `ends`, where each stream ends here. The streams have stopped already.
    pub(super) fn wedge(&mut self, ends: Vec<End>, now_ms: u64, fabric: &mut dyn Fabric) {
        if self.settings.logs {
            self.show_clock();
            self.table.push(fabric, &self.audience, row::CLOCK.0..row::CLOCK.at(1).0, Source::Snapshot);
        }
        self.epoch.wedged_ms = Some(now_ms);
        self.write(Record::Wedge, &row::end_words(&ends), fabric);
        if let Some(me) = self.my_rank() {
            self.epoch.shown[me].wedged = Some(ends);
        }
    }

    /// Reads the epoch columns of the row in `slot`. Returns false if they cannot be read at present.
    pub(super) fn read_row(&mut self, slot: Slot, fabric: &mut dyn Fabric) -> Result<bool, Violation> {
        let Some(view) = &self.view else { return Ok(false) };
        let (number, shape) = (view.number, view.shape());
        let Some(rank) = view.rank_of(slot).filter(|_| self.is_readable(slot)) else { return Ok(false) };
        let breach = |row::Malformed(what): row::Malformed| Violation { peer: rank, what: what.to_owned() };
        self.check_words(slot).map_err(breach)?;
        if self.epoch.decided.is_none()
            && let Some(value) = row::decided(&self.table, slot, number).map_err(breach)?
        {
            if !value.follows(view, self.settings.lone_survivor) {
                return Err(breach(row::Malformed("a decision that does not follow from the view")));
            }
            self.learn(value, fabric);
        }
        let Some(shown) = row::read(&self.table, slot, number, shape).map_err(breach)? else { return Ok(true) };
        self.check_shown(&shown).map_err(breach)?;
        for (accuser, counters) in shown.accusations.iter().enumerate() {
            let accused = self.relay_accusations(accuser, counters, fabric);
            if accused != 0 {
                self.note_accusations(accuser, accused);
            }
        }
        let known = &self.epoch.shown[rank];
        if known.wedged.is_some() != shown.wedged.is_some() || known.flushed != shown.flushed {
            self.acquit(rank, Cause::Stuck, fabric);
        }
        self.epoch.restless |= self.epoch.shown[rank] != shown;
        let known = &mut self.epoch.shown[rank];
        // Simulates an acceptance that is older than the promise that arrived with it.
        let late = planted::is(Bug::PromiseBeforeAccepted) && shown.promise > known.promise;
        let accepted = if late { known.accepted.take() } else { shown.accepted.clone() };
        *known = Shown { accepted, ..shown };
        Ok(true)
    }

    /// Notes faults of members that another member accuses and this one does not.
    ///
    /// An accusation by a member that knows the decision is none: those that are in the next view and those that are not
    /// end their links.
    fn note_accusations(&mut self, accuser: Rank, accused: u64) {
        let Some((view, me)) = self.view.as_ref().zip(self.my_rank()) else { return };
        let slot_of = |rank: &Rank| view.members[*rank].peer.slot;
        if self.table.load(slot_of(&accuser), row::DECIDED) > view.number {
            return;
        }
        let stays = |rank: &Rank| !self.is_decided() || self.goes_on(slot_of(rank));
        let accused = accused & !self.epoch.accusations.edges()[me];
        let accused = (0..view.members.len()).filter(|rank| accused >> rank & 1 == 1 && stays(rank));
        for rank in accused.collect::<Vec<_>>() {
            self.note_fault(rank, self.heard_cause(accuser, rank));
        }
    }

    /// The ends that the flush must reach: of each stream the largest that any candidate has.
    ///
    /// `None` until every candidate has wedged.
    pub(super) fn target(&self, candidates: u64) -> Option<Vec<End>> {
        let shown = &self.epoch.shown;
        let ranks = || (0..shown.len()).filter(|rank| candidates >> rank & 1 == 1);
        if candidates == 0 || !ranks().all(|rank| shown[rank].wedged.is_some()) {
            return None;
        }
        let vectors = || ranks().flat_map(|rank| shown[rank].wedged.iter().chain(&shown[rank].flushed));
        let most = |stream: usize| vectors().map(|ends| ends[stream]).max_by_key(|end| (end.frames, end.messages));
        let least = |stream: usize| vectors().map(|ends| ends[stream]).min_by_key(|end| (end.frames, end.messages));
        let end = |stream| if planted::is(Bug::TrimByMinimum) { least(stream) } else { most(stream) };
        (0..self.view.as_ref()?.shape().streams).map(end).collect()
    }

    /// The streams that this member still has to complete, given the ends `have` that it has reached.
    ///
    /// `None` while some candidate has not wedged, or if this member is not a candidate.
    pub(super) fn wanted(&self, have: &[End]) -> Option<Vec<Wanted>> {
        let candidates = self.candidates();
        self.my_rank().filter(|me| candidates >> me & 1 == 1)?;
        let target = self.target(candidates)?;
        let shown = &self.epoch.shown;
        let senders = self.view.as_ref()?.streams().map(|(_, sender)| sender);
        let lacks = target
            .iter()
            .zip(senders)
            .enumerate()
            .filter(|&(stream, (end, _))| end.frames > have[stream].frames || end.messages > have[stream].messages);
        let wanted = lacks.map(|(stream, (&end, sender))| {
            let has = |ends: &Option<Vec<End>>| ends.as_ref().is_some_and(|ends| ends[stream] == end);
            let ranks = || (0..shown.len()).filter(|rank| candidates >> rank & 1 == 1);
            // A sender writes its frames before its `WEDGED`, so they are here, unless its link was relinked in
            // between.
            let refetched = self.is_relinked(sender) && !planted::is(Bug::RelinkedIsHere);
            let here = candidates >> sender & 1 == 1 && !refetched && has(&shown[sender].wedged);
            // A member that flushed to this end obtained it from a candidate that wedged with it.
            let wedged = ranks().find(|&rank| has(&shown[rank].wedged));
            let source = wedged.or_else(|| ranks().find(|&rank| has(&shown[rank].flushed)));
            let from = source.filter(|_| !here).and_then(|rank| self.slot_of(rank));
            Wanted {
                stream,
                sender,
                end,
                from,
                owner: self.slot_of(sender),
                shown_by: if here { sender } else { source.unwrap_or(sender) },
            }
        });
        Some(wanted.collect())
    }

    /// Publishes that this member has everything that the candidates have. Returns false if that was published before.
    pub(super) fn flushed(&mut self, have: &[End], fabric: &mut dyn Fabric) -> bool {
        let Some(me) = self.my_rank() else { return false };
        if self.epoch.shown[me].flushed.as_deref() == Some(have) {
            return false;
        }
        self.write(Record::Flush, &row::end_words(have), fabric);
        self.epoch.shown[me].flushed = Some(have.to_vec());
        true
    }

    /// The value that this member would propose as the leader.
    ///
    /// Requires that the candidates are a majority and have flushed to the same ends.
    pub(super) fn own_value(&self) -> Option<ViewDecision> {
        let view = self.view.as_ref()?;
        let candidates = self.candidates();
        if !self.is_leader() || !view.is_majority(candidates, self.settings.lone_survivor) {
            return None;
        }
        let target = self.target(candidates)?;
        if target.iter().zip(view.streams()).any(|(end, (shard, _))| end.messages < shard.order.base) {
            // After a restart, no member that is here has the whole log.
            return None;
        }
        let flushed = |rank: Rank| self.epoch.shown[rank].flushed.as_ref() == Some(&target);
        let all = (0..view.members.len()).filter(|rank| candidates >> rank & 1 == 1).all(flushed);
        if !all && !planted::is(Bug::ProposeUnflushed) {
            return None;
        }
        let mut value = self.value(view, candidates, &target);
        if planted::everybody_leads() {
            value.left = 1 << self.my_rank()?;
        }
        Some(value)
    }

    fn value(&self, view: &View, candidates: u64, target: &[End]) -> ViewDecision {
        let shows = |slot: Slot, column| self.table.load(slot, column) == 1;
        let leaves = |rank: Rank| shows(view.members[rank].peer.slot, row::LEAVING);
        let left =
            (0..view.members.len()).filter(|&r| candidates >> r & 1 == 1 && leaves(r)).fold(0, |b, r| b | 1u64 << r);
        let stays = view.members.iter().enumerate().filter(|(r, _)| (candidates & !left) >> r & 1 == 1);
        let votes = |m: &Member| m.voter || shows(m.peer.slot, row::READY);
        let mut members: Vec<Member> =
            stays.map(|(_, m)| Member { peer: self.living(m.peer), voter: votes(m) }).collect();
        if members.iter().any(|member| member.voter) {
            let mut joiners = self.complete_joiners();
            joiners.sort_by_key(|peer| peer.id);
            members.extend(joiners.into_iter().map(|peer| Member { peer, voter: false }));
        } else if self.settings.logs {
            // No voter stays. The group sleeps until its last voters come back with their logs.
            let last = view.members.iter().enumerate().filter(|(rank, m)| candidates >> rank & 1 == 1 && m.voter);
            members = last.map(|(_, &member)| member).collect();
        } else {
            // No remaining member has the state. The group ends.
            members.clear();
        }
        let shards = view.next_shards(target, members.len());
        ViewDecision {
            view: View { number: view.number + 1, members, shards },
            old: view.members.iter().map(|member| member.peer).collect(),
            ended: ViewDecision::ended_at(view, target),
            left,
            time_ns: self.decision_time(candidates),
        }
    }

    /// Whether the group goes to sleep: the decided view names this process although it wanted to leave.
    pub(super) fn falls_asleep(&self) -> bool {
        let left = self.epoch.decided.as_ref().map_or(0, |value| value.left);
        self.is_in_next() && self.my_rank().is_some_and(|me| left >> me & 1 == 1)
    }

    /// Whether no member that has the state is left, because every voter has left.
    pub(super) fn everybody_left(&self) -> bool {
        let left = self.epoch.decided.as_ref().map_or(0, |value| value.left);
        let candidates = self.epoch.decided.iter().flat_map(|value| value.view.members.iter());
        let stays = |member: &Member| {
            let rank = self.view.as_ref().and_then(|view| view.rank_of(member.peer.slot));
            member.voter && rank.is_none_or(|rank| left >> rank & 1 == 0)
        };
        left != 0 && !candidates.into_iter().any(stays)
    }

    /// Whether this process votes in the present view.
    pub(crate) fn votes(&self) -> bool {
        self.view.as_ref().zip(self.my_rank()).is_some_and(|(view, me)| view.members[me].voter)
    }

    /// Whether other members may count on the log of this one: it is a voter, or has published `READY`.
    pub(crate) fn is_counted_on(&self) -> bool {
        self.votes() || self.table.load(self.me.slot, row::READY) == 1
    }

    /// Whether other members count on this one's disk when it publishes `what`: they may count on it now, or, for a
    /// view, it is a voter of the decided one.
    pub(crate) fn is_relied_on(&self, what: &Show) -> bool {
        if *what != Show::View {
            return self.is_counted_on();
        }
        let me = self.me;
        let next = self.epoch.decided.iter().flat_map(|value| &value.view.members);
        self.is_counted_on() || next.into_iter().any(|member| member.peer == me && member.voter)
    }

    /// Takes `value` as the decision of this epoch, and publishes it before it has any other effect.
    pub(super) fn learn(&mut self, value: ViewDecision, fabric: &mut dyn Fabric) {
        self.write(Record::Decision(self.number()), &value.encode(), fabric);
        self.epoch.decided = Some(value);
    }

    /// The decided ends of the present view's streams. `None` if this process must not deliver up to them.
    pub(crate) fn trim(&self) -> Option<Vec<End>> {
        let value = self.epoch.decided.as_ref()?;
        let (me, rank) = (self.me, self.my_rank()?);
        let goes_on = self.is_in_next() || value.left >> rank & 1 == 1;
        let mine = value.old.get(rank).is_some_and(|peer| self.is_same(*peer, me));
        (goes_on && mine).then(|| value.ends())
    }

    /// Whether this process is a member of the decided view.
    pub(super) fn is_in_next(&self) -> bool {
        let next = self.epoch.decided.iter().flat_map(|value| &value.view.members);
        next.map(|member| member.peer).any(|peer| peer == self.me)
    }

    /// Whether the process in `slot` is a member of the decided view.
    pub(crate) fn goes_on(&self, slot: Slot) -> bool {
        let next = self.epoch.decided.iter().flat_map(|value| &value.view.members);
        next.into_iter().any(|member| member.peer.slot == slot)
    }

    /// The slots of the other members of the decided view.
    pub(super) fn next_slots(&self) -> impl Iterator<Item = Slot> {
        let next = self.epoch.decided.iter().flat_map(|value| &value.view.members);
        next.map(|member| member.peer.slot).filter(|&slot| slot != self.me.slot)
    }

    /// Accuses candidates that run but delay the end of the epoch, once nothing has changed for the partition timeout.
    ///
    /// A disk that hangs without an error must not keep the other members waiting for ever.
    pub(super) fn suspect_the_stuck(&mut self, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        if std::mem::take(&mut self.epoch.restless) || !self.is_wedged() {
            self.epoch.progress_ms = now_ms;
        }
        let waited_ms = now_ms.saturating_sub(self.epoch.progress_ms);
        if waited_ms < self.partition_timeout_ms() {
            return false;
        }
        self.epoch.progress_ms = now_ms;
        let (candidates, me) = (self.candidates(), self.my_rank());
        let target = self.target(candidates);
        let lags = |shown: &Shown| match &target {
            None => shown.wedged.is_none(),
            Some(target) => shown.flushed.as_ref() != Some(target),
        };
        let shown = self.epoch.shown.iter().enumerate();
        let stuck = shown.filter(|&(rank, shown)| candidates >> rank & 1 == 1 && me != Some(rank) && lags(shown));
        let what = format!("it has kept the end of the view waiting for {waited_ms} ms");
        let stuck: Vec<Rank> = stuck.map(|(rank, _)| rank).collect();
        stuck.into_iter().fold(false, |news, rank| self.suspect(rank, Cause::Stuck, &what, fabric) | news)
    }

    /// Whether this member must stop: for the partition timeout it was in no set of candidates with a majority.
    pub(super) fn has_no_primary(&mut self, now_ms: u64) -> bool {
        if !self.is_wedged() {
            return false;
        }
        let Some((view, me)) = self.view.as_ref().zip(self.my_rank()) else { return false };
        let candidates = self.candidates();
        if candidates >> me & 1 == 1 && view.is_majority(candidates, self.settings.lone_survivor) {
            self.note_majority(now_ms);
            return false;
        }
        let since_ms = *self.epoch.without_majority_ms.get_or_insert(now_ms);
        now_ms.saturating_sub(since_ms) >= self.partition_timeout_ms()
    }

    /// Notes that there is a majority.
    ///
    /// If there was none for half of the failure timeout, an outage has ended. The other members then come back one by
    /// one, as fast as they are relinked. The last of them must not be removed for being last. So the leader waits.
    /// After the failure of one member, another one lacks a majority only until the others detect the failure too. That
    /// takes less than half of the timeout. The leader does not wait then.
    pub(super) fn note_majority(&mut self, now_ms: u64) {
        let timeout_ms = self.failure_timeout_ms();
        let Some(since_ms) = self.epoch.without_majority_ms.take() else { return };
        if now_ms.saturating_sub(since_ms) >= timeout_ms / 2 {
            self.epoch.rest_until_ms = now_ms.saturating_add(timeout_ms);
        }
    }

    /// Whether the leader waits, after an outage, for members that are not candidates yet.
    pub(super) fn waits_for_rest(&self, now_ms: u64) -> bool {
        let members = self.view.as_ref().map_or(0, |view| view.members.len());
        if self.candidates().count_ones() as usize == members {
            return false;
        }
        now_ms < self.rest_until_ms()
    }

    /// Until when the leader waits for those members, in milliseconds.
    pub(super) fn rest_until_ms(&self) -> u64 {
        self.epoch.rest_until_ms.max(self.returned_until_ms)
    }

    /// Whether a peer has advanced so far that the decision of this view can no longer be read.
    pub(super) fn is_left_behind(&self) -> bool {
        let number = self.number();
        self.epoch.decided.is_none() && self.watched.iter().any(|&slot| self.has_installed(slot, number + 2))
    }

    /// The highest ballot that this member has promised.
    pub(super) fn promise(&self) -> Ballot {
        self.my_rank().map_or(Ballot::default(), |me| self.epoch.shown[me].promise)
    }
}
