//! The transitions and the properties, in the form that the checker needs.

use crate::config::{Bug, Config};
use crate::member::Member;
use crate::row::{Ballot, MAJORITY, N, Row, Value, candidates, contains, edge};
use crate::state::State;
use stateright::{Model, Property};

/// One step of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A member reads this many more pushes of each owner, and makes a pass.
    Pass(usize, [u8; N]),
    /// The first suspects the second.
    Suspect(usize, usize),
    /// A member wedges without a suspicion.
    Ask(usize),
    /// A member receives one more message.
    TakeIn(usize),
    /// A member fetches the messages of the candidates, up to this count.
    Flush(usize, u8),
    /// A leader takes a ballot.
    Start(usize, Ballot),
    /// A leader with a majority of promises proposes.
    Propose(usize),
    /// A member crashes.
    Crash(usize),
}

/// The end of one view, within bounds.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// The bounds.
    pub config: Config,
}

impl Epoch {
    fn member<'a>(&'a self, state: &'a mut State, me: usize) -> Member<'a> {
        Member { config: &self.config, state, me }
    }

    fn passes(&self, state: &State, reader: usize, actions: &mut Vec<Action>) {
        let counts = |owner| {
            let whole = move |&count: &usize| self.config.torn || !state.is_torn(reader, owner, count);
            (0..=state.pending(reader, owner)).filter(whole).map(|count| count as u8)
        };
        let [first, second] = [(reader + 1) % N, (reader + 2) % N];
        for one in counts(first) {
            for other in counts(second) {
                let both = one > 0 && other > 0;
                if (one, other) != (0, 0) && (self.config.joint || !both) {
                    let mut news = [0; N];
                    (news[first], news[second]) = (one, other);
                    actions.push(Action::Pass(reader, news));
                }
            }
        }
    }

    fn faults(&self, state: &State, me: usize, actions: &mut Vec<Action>) {
        let row = state.own(me);
        for peer in (0..N).filter(|&peer| peer != me && row.edges & edge(me, peer) == 0) {
            if contains(state.crashed, peer) || state.suspicions < self.config.suspicions {
                actions.push(Action::Suspect(me, peer));
            }
        }
        if self.config.asks && !row.wedged {
            actions.push(Action::Ask(me));
        }
        let closed = row.wedged && self.config.bug != Some(Bug::TakeInAfterWedge);
        if !closed && row.received < self.config.received[0] {
            actions.push(Action::TakeIn(me));
        }
    }

    fn work(&self, state: &State, me: usize, actions: &mut Vec<Action>) {
        if let Some(target) = Member::flush_target(&self.config, state, me) {
            actions.push(Action::Flush(me, target));
        }
        if let Some((ballot, _)) = Member::next_ballot(&self.config, state, me)
            && ballot.attempt() <= self.config.attempts[me]
        {
            actions.push(Action::Start(me, ballot));
        }
        if Member::promised_value(&self.config, state, me).is_some() {
            actions.push(Action::Propose(me));
        }
    }

    /// Whether an action must happen eventually. A link must work unless a member has complained of it.
    fn is_due(&self, state: &State, action: Action) -> bool {
        match action {
            Action::Pass(reader, news) => (0..N).any(|owner| {
                news[owner] > 0 && !contains(state.crashed, owner) && state.own(reader).edges & edge(reader, owner) == 0
            }),
            Action::Suspect(_, peer) => contains(state.crashed, peer),
            Action::Flush(..) | Action::Propose(_) => true,
            Action::Start(me, _) => Member::next_ballot(&self.config, state, me).is_some_and(|(_, due)| due),
            Action::Ask(_) | Action::TakeIn(_) | Action::Crash(_) => false,
        }
    }

    /// Whether no action is left that must happen.
    fn is_at_rest(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        (0..N).filter(|&me| state.is_active(me)).all(|me| {
            actions.clear();
            self.passes(state, me, &mut actions);
            self.faults(state, me, &mut actions);
            self.work(state, me, &mut actions);
            !actions.iter().any(|&action| self.is_due(state, action))
        })
    }

    /// Whether a leader has no attempts left: a bound of the model, not of the protocol.
    fn is_cut_short(&self, state: &State) -> bool {
        (0..N).filter(|&me| state.is_active(me)).any(|me| {
            let next = Member::next_ballot(&self.config, state, me);
            next.is_some_and(|(ballot, due)| due && ballot.attempt() > self.config.attempts[me])
        })
    }

    /// A view change ends if a majority is alive and its links work.
    fn ends(&self, state: &State) -> bool {
        let live = || (0..N).filter(|&i| !contains(state.crashed, i));
        if !live().any(|i| state.own(i).wedged) || !self.is_at_rest(state) {
            return true;
        }
        let set = candidates(live().fold(0, |edges, i| edges | state.own(i).edges));
        let stuck = (0..N).any(|i| contains(set, i) && state.is_active(i));
        set.count_ones() < MAJORITY || !stuck || self.is_cut_short(state)
    }
}

impl Model for Epoch {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let synod = self.config.synod;
        let row = |received| Row { received, wedged: synod, flushed: u8::from(synod), ..Row::default() };
        vec![State::new(self.config.received.map(row))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for me in (0..N).filter(|&me| state.is_active(me)) {
            self.passes(state, me, actions);
            self.faults(state, me, actions);
            self.work(state, me, actions);
        }
        if state.crashed.count_ones() < self.config.crashes {
            let live = (0..N).filter(|&me| !contains(state.crashed, me));
            actions.extend(live.map(Action::Crash));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Pass(reader, news) => {
                for (owner, &count) in news.iter().enumerate() {
                    state.deliver(reader, owner, count);
                }
                self.member(&mut state, reader).pass();
            }
            Action::Suspect(me, peer) => {
                state.suspicions += u8::from(!contains(last.crashed, peer));
                self.member(&mut state, me).suspect(peer);
            }
            Action::Ask(me) => self.member(&mut state, me).wedge(),
            Action::TakeIn(me) => self.member(&mut state, me).take_in(),
            Action::Flush(me, target) => self.member(&mut state, me).flush(target),
            Action::Start(me, ballot) => self.member(&mut state, me).start(ballot),
            Action::Propose(me) => {
                let (ballot, value) = Member::promised_value(&self.config, last, me)?;
                self.member(&mut state, me).propose(ballot, value);
            }
            Action::Crash(me) => state.crashed |= 1 << me,
        }
        state.compact();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one decision", |_, state| {
                let mut values = decisions(state);
                values.next().is_none_or(|first| values.all(|value| value == first))
            }),
            Property::always("the next view has all up to the trim", |_, state| {
                decisions(state).all(|v| (0..N).all(|i| !contains(v.members, i) || state.own(i).has() >= v.trim))
            }),
            Property::always("the next view delivered nothing beyond the trim", |_, state| {
                decisions(state).all(|v| (0..N).all(|i| !contains(v.members, i) || state.own(i).received <= v.trim))
            }),
            Property::always("every message delivered as safe is in the trim", |_, state| {
                decisions(state).all(|value| state.safe <= value.trim)
            }),
            Property::always("only members of the next view install it", |_, state: &State| {
                (0..N).all(|i| !contains(state.installed, i) || contains(state.own(i).decision.members, i))
            }),
            Property::always("a connected majority ends the epoch", |model, state| model.ends(state)),
            Property::sometimes("a decision for the same members", |_, state| decided_for(state, 0b111)),
            Property::sometimes("a decision without rank 0", |_, state| decided_for(state, 0b110)),
            Property::sometimes("rank 1 finishes a proposal of rank 0", |_, state| {
                decisions(state).any(|value| {
                    let adopted = |i| {
                        let (ballot, accepted) = state.own(i).accepted.get();
                        ballot.rank() == 1 && accepted == value
                    };
                    contains(value.members, 0) && adopted(1) && (0..N).any(|i| i != 1 && adopted(i))
                })
            }),
            Property::sometimes("two leaders propose two values", |_, state: &State| {
                let [first, second] = [0, 1].map(|i| state.own(i).proposed.get().1);
                first != Value::default() && second != Value::default() && first != second
            }),
        ]
    }
}

fn decisions(state: &State) -> impl Iterator<Item = Value> {
    (0..N).map(|i| state.own(i)).filter(|row| row.decided).map(|row| row.decision)
}

fn decided_for(state: &State, members: u8) -> bool {
    decisions(state).any(|value| value.members == members)
}
