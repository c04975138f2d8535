//! The steps of one member: a pass over the rows that it sees, flush, and proposal.

use crate::config::{Bug, Config};
use crate::row::{Ballot, MAJORITY, Members, N, Record, Update, Value, contains, edge};
use crate::state::State;

/// A member that changes a state.
pub(crate) struct Member<'a> {
    pub(crate) config: &'a Config,
    pub(crate) state: &'a mut State,
    pub(crate) me: usize,
}

impl Member<'_> {
    fn push(&mut self, update: Update) {
        self.state.push(self.me, update);
    }

    /// The steps of an engine each time it has read its copies of the rows.
    pub(crate) fn pass(&mut self) {
        let (me, table) = (self.me, self.state.table[self.me]);
        let edges = table.iter().fold(0, |edges, row| edges | row.edges);
        if edges != table[me].edges {
            self.push(Update::Edges(edges));
        }
        if edges != 0 || table.iter().any(|row| row.wedged) {
            self.wedge();
        }
        self.deliver_safe();
        if let Some(row) = table.iter().find(|row| row.decided) {
            self.decide(row.decision);
            return;
        }
        self.answer_leaders();
        self.learn();
    }

    /// Stops receiving messages for the rest of this view.
    pub(crate) fn wedge(&mut self) {
        let row = self.state.own(self.me);
        if !row.wedged {
            let received = row.received;
            self.push(Update::WedgeVector(received));
            self.push(Update::Wedged);
        }
    }

    /// Accuses a peer.
    pub(crate) fn suspect(&mut self, peer: usize) {
        let edges = self.state.own(self.me).edges | edge(self.me, peer);
        self.push(Update::Edges(edges));
        self.pass();
    }

    /// Receives one more message. An `ordered` message is delivered at once.
    pub(crate) fn take_in(&mut self) {
        let received = self.state.own(self.me).received + 1;
        self.push(Update::Received(received));
        self.deliver_safe();
    }

    fn deliver_safe(&mut self) {
        let stable = self.state.table[self.me].iter().map(|row| row.received).min().unwrap_or(0);
        self.state.safe = self.state.safe.max(stable);
    }

    /// The count up to which this member would have to fetch, if every candidate is wedged.
    pub(crate) fn flush_target(config: &Config, state: &State, me: usize) -> Option<u8> {
        let rows = wedged_candidates(state, me)?;
        let target = members(rows).map(|j| state.table[me][j].claims()).max()?;
        // A fetch reads the owner's memory, so the owner's state does not matter. A crashed owner has none.
        let source = |j: usize| state.table[me][j].claims() == target && !contains(state.crashed, j);
        let done = match config.bug {
            Some(Bug::FlushOnce) => state.own(me).flushed > 0,
            _ => state.own(me).flushed > target,
        };
        (!done && members(rows).any(source)).then_some(target)
    }

    /// Fetches all messages that the candidates have.
    pub(crate) fn flush(&mut self, target: u8) {
        self.push(Update::Flushed(target + 1));
    }

    /// The value that this member would propose as the leader.
    pub(crate) fn own_value(config: &Config, state: &State, me: usize) -> Option<Value> {
        if config.synod {
            return Some(Value { members: !(1 << ((me + 1) % N)) & 0b111, trim: 0 });
        }
        let set = wedged_candidates(state, me)?;
        if set.trailing_zeros() as usize != me || set.count_ones() < MAJORITY {
            return None;
        }
        let rows = || members(set).map(|j| &state.table[me][j]);
        let trim = match config.bug {
            Some(Bug::TrimByMinimum) => rows().map(|row| row.wedge_vector).min()?,
            Some(Bug::ProposeUnflushed) => rows().map(|row| row.wedge_vector).max()?,
            _ => {
                let flushed = state.own(me).flushed;
                if rows().any(|row| row.flushed != flushed) {
                    return None;
                }
                flushed.checked_sub(1)?
            }
        };
        Some(Value { members: set, trim })
    }

    /// The ballot that a leader takes next, if it has none, was overtaken, or wants another value; whether it must.
    pub(crate) fn next_ballot(config: &Config, state: &State, me: usize) -> Option<(Ballot, bool)> {
        let value = Self::own_value(config, state, me)?;
        let row = state.own(me);
        let promised = match config.bug {
            Some(Bug::FirstBallotAfterPromise) if row.proposed.counter == 0 && row.prepared == Ballot::default() => {
                Ballot::default()
            }
            _ => state.table[me].iter().map(|row| row.promised).max()?,
        };
        let (mine, proposed) = row.proposed.get();
        if config.bug == Some(Bug::ReuseBallot) && mine == promised && mine == Ballot::new(1, 0) && proposed != value {
            return Some((mine, false));
        }
        let ballot = (1..).map(|attempt| Ballot::new(attempt, me)).find(|&ballot| ballot > promised)?;
        let last = mine.max(row.prepared);
        let due = last == Ballot::default() || last < promised;
        let wants_another = mine == last && proposed != value;
        (due || wants_another).then_some((ballot, due))
    }

    /// Starts a ballot. The lowest of all ballots proposes at once; any other one asks for promises first.
    pub(crate) fn start(&mut self, ballot: Ballot) {
        let at_once = ballot == Ballot::new(1, 0) || self.config.bug == Some(Bug::SkipPromises);
        match Self::own_value(self.config, self.state, self.me) {
            Some(value) if at_once => self.propose(ballot, value),
            _ => {
                self.push(Update::Promised(ballot));
                self.push(Update::Prepared(ballot));
            }
        }
    }

    /// The ballot for which a majority promised, and the value that is to be proposed in it.
    pub(crate) fn promised_value(config: &Config, state: &State, me: usize) -> Option<(Ballot, Value)> {
        let row = state.own(me);
        let ballot = row.prepared;
        if ballot == Ballot::default() || row.promised != ballot || row.proposed.get().0 >= ballot {
            return None;
        }
        let promises = || state.table[me].iter().filter(|row| row.promised >= ballot);
        if promises().count() < MAJORITY as usize {
            return None;
        }
        let (accepted, value) = promises().map(|row| row.accepted.get()).max_by_key(|&(ballot, _)| ballot)?;
        if accepted == Ballot::default() || config.bug == Some(Bug::IgnoreAccepted) {
            return Self::own_value(config, state, me).map(|value| (ballot, value));
        }
        Some((ballot, value))
    }

    /// Accepts the own value, then publishes it.
    pub(crate) fn propose(&mut self, ballot: Ballot, value: Value) {
        self.accept(ballot, value);
        if self.state.own(self.me).promised != ballot {
            self.push(Update::Promised(ballot));
        }
        self.write(Record::Proposed, ballot, value);
        self.learn();
    }

    fn accept(&mut self, ballot: Ballot, value: Value) {
        self.write(Record::Accepted, ballot, value);
    }

    fn write(&mut self, record: Record, ballot: Ballot, value: Value) {
        let row = self.state.own(self.me);
        let counter = 1 + match record {
            Record::Accepted => row.accepted.counter,
            Record::Proposed => row.proposed.counter,
        };
        let mut updates = [
            Update::Ballot(record, counter, ballot),
            Update::Value(record, counter, value),
            Update::Counter(record, counter),
        ];
        if self.config.bug == Some(Bug::CounterBeforeSlot) {
            updates.rotate_right(1);
        }
        updates.into_iter().for_each(|update| self.push(update));
    }

    /// The acceptor. A pass that finds several ballots takes the lowest first, which leads to the most states.
    fn answer_leaders(&mut self) {
        let mut asked = Vec::new();
        for owner in (0..N).filter(|&owner| owner != self.me) {
            let row = &self.state.table[self.me][owner];
            asked.push((row.prepared, None));
            let (ballot, value) = row.proposed.get();
            asked.push((ballot, Some(value)));
        }
        asked.sort_by_key(|&(ballot, value)| (ballot, value.is_some()));
        let row = self.state.own(self.me);
        let (before, mut promised, mut last) = (row.promised, row.promised, row.accepted.get().0);
        let mut accepted = Vec::new();
        for (ballot, value) in asked {
            let heeds = ballot >= promised || self.config.bug == Some(Bug::AcceptAfterPromise);
            if let Some(value) = value.filter(|_| heeds && ballot > last) {
                accepted.push((ballot, value));
                last = ballot;
            }
            promised = promised.max(ballot);
        }
        let promise_first = self.config.bug == Some(Bug::PromiseBeforeAccepted);
        if promise_first && promised != before {
            self.push(Update::Promised(promised));
        }
        accepted.into_iter().for_each(|(ballot, value)| self.accept(ballot, value));
        if !promise_first && promised != before {
            self.push(Update::Promised(promised));
        }
    }

    /// The learner.
    fn learn(&mut self) {
        let accepted = self.state.table[self.me].map(|row| row.accepted.get());
        let bug = self.config.bug;
        let same = |a: &(Ballot, Value), b: &(Ballot, Value)| match bug {
            Some(Bug::MajorityAcrossBallots) => b.0 != Ballot::default() && b.0 <= a.0,
            Some(Bug::MajorityOfOneValue) => a.1 == b.1,
            _ => a == b,
        };
        let majority = |a: &&(Ballot, Value)| accepted.iter().filter(|b| same(a, b)).count() >= MAJORITY as usize;
        let decided = accepted.iter().filter(|a| a.0 != Ballot::default()).find(majority).map(|a| a.1);
        if let Some(value) = decided {
            self.decide(value);
        }
    }

    /// Publishes the decision, then installs it.
    fn decide(&mut self, value: Value) {
        self.push(Update::Decision(value));
        self.push(Update::Decided);
        if contains(value.members, self.me) || self.config.bug == Some(Bug::InstallThoughRemoved) {
            self.state.installed |= 1 << self.me;
        }
    }
}

/// The candidates, if this member is one and sees all of them wedged.
fn wedged_candidates(state: &State, me: usize) -> Option<Members> {
    let set = state.candidates(me);
    (contains(set, me) && members(set).all(|j| state.table[me][j].wedged)).then_some(set)
}

fn members(set: Members) -> impl Iterator<Item = usize> {
    (0..N).filter(move |&member| contains(set, member))
}
