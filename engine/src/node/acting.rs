//! The one place that carries out what the membership wants: see `membership/step.rs`.
//!
//! [`Node::show`] is the one function that enforces *persist before show*: it publishes a vote, the end of a flush or a
//! view only when the disk has everything that it promises.

use super::{Node, Phase};
use crate::error::Error;
use crate::fabric::SLOTS;
use crate::membership::{Action, Fact, Moment, Role, Show};
use crate::multicast::{Delivery, Sink, Violation};
use crate::planted::{self, Bug};

impl Node {
    /// What the membership has to know of this node for a step.
    pub(super) fn moment(&self) -> Moment {
        let role = match &self.phase {
            Phase::Founding => Role::Founds,
            Phase::Joining => Role::Joins,
            Phase::Restarting => {
                let state = self.restart.as_ref().map(|restart| (restart.recovery.last, restart.written));
                let (last, written) = state.unwrap_or_default();
                Role::Restarts { last, written }
            }
            Phase::Running | Phase::Leaving => {
                let leaves = matches!(self.phase, Phase::Leaving);
                let is_silent = leaves && self.lanes.iter().all(|lane| lane.multicast.has_published_all());
                let ending = self.lanes.iter().all(|lane| lane.multicast.is_ending());
                Role::Runs { leaves, is_silent, ending }
            }
            Phase::Parting => Role::Parts,
            Phase::Closing | Phase::Left | Phase::Stopped(_) => Role::Ended,
        };
        Moment { now_ms: self.now_ms, until_ms: self.until_ms, role }
    }

    /// Reports a fact to the membership. Appends the actions that follow from it.
    pub(super) fn report(&mut self, fact: Fact<'_>) -> Result<bool, Violation> {
        let at = self.moment();
        self.membership.step(&at, fact, &mut *self.fabric, &mut self.todo)
    }

    /// Makes one pass in a phase in which the membership takes part. Returns true if anything moved.
    pub(super) fn pass(&mut self, sink: &mut impl Sink) -> bool {
        self.take_in(Fact::Pass, sink).unwrap_or_else(|breach| {
            self.blame(breach);
            true
        })
    }

    /// Reports a fact outside of the membership's pass, and carries out what follows from it.
    pub(super) fn tell(&mut self, fact: Fact<'_>) {
        if let Err(breach) = self.take_in(fact, &mut |_: Delivery<'_>| {}) {
            self.blame(breach);
        }
    }

    /// Drops the rest of the list, and reports the violation that one of its actions found.
    fn blame(&mut self, breach: Violation) {
        self.todo.clear();
        // Nothing that follows from this fact reads what a peer has written.
        let blamed = self.take_in(Fact::Breach(breach), &mut |_: Delivery<'_>| {});
        debug_assert!(blamed.is_ok(), "a second violation: {blamed:?}");
    }

    fn take_in(&mut self, fact: Fact<'_>, sink: &mut impl Sink) -> Result<bool, Violation> {
        debug_assert!(self.todo.is_empty(), "the list of an earlier fact is not carried out: {:?}", self.todo);
        let news = self.report(fact)?;
        Ok(self.carry_out(sink)? | news)
    }

    /// Carries out the actions in order. Each may append others.
    fn carry_out(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        let mut moved = false;
        while let Some(action) = self.todo.pop_front() {
            planted::before_action(&action);
            moved |= self.act(action, sink)?;
        }
        Ok(moved)
    }

    fn act(&mut self, action: Action, sink: &mut impl Sink) -> Result<bool, Violation> {
        match action {
            Action::Lost(slot) => self.fetches.lost(slot),
            Action::Run => return self.stream(sink),
            Action::Wedge => {
                let ends = self.lanes.iter_mut().flat_map(|lane| lane.multicast.wedge()).collect();
                return self.report(Fact::Wedged(ends));
            }
            Action::DeliverRest => {
                return self.deliver(sink, |node, breach| node.report(Fact::Torn(breach)));
            }
            Action::Flush => {
                let (membership, mut awaited) = (&self.membership, Vec::new());
                for lane in &mut self.lanes {
                    let ranks = lane.multicast.follow_all(&mut *self.fabric, &|slot| membership.phase_of(slot));
                    awaited.extend(lane.streams_of(ranks));
                }
                let have = self.lanes.iter().flat_map(|lane| lane.multicast.flushed()).copied().collect();
                return self.report(Fact::Here { have, awaited });
            }
            Action::Obtain(wanted) => return self.obtain(wanted),
            Action::FetchLog(need) => return Ok(self.fetch_log(need)),
            Action::Vote => {
                self.run_clock();
                return self.report(Fact::Clock);
            }
            Action::Save(vote) => self.save_vote(&vote),
            Action::Show(what) => {
                let shown = self.show(&what)?;
                return match what {
                    Show::Vote => Ok(self.report(Fact::AfterVote)? | shown),
                    Show::View => Ok(self.report(Fact::AfterView)? | shown),
                    Show::Flush(_) => Ok(shown),
                };
            }
            Action::Close(closing) => self.close_streams(&closing)?,
            Action::Deliver => return self.deliver_decided(sink),
            Action::CloseLog(closing) => {
                if let Err(what) = self.close_log(&closing) {
                    self.stop(Error::Internal(what));
                }
            }
            Action::Settle => {
                if self.may_show(&Show::View)? {
                    let is_attached = |slot| self.lanes.iter().all(|lane| lane.multicast.is_attached(slot));
                    let linked = (0..SLOTS).filter(|&slot| is_attached(slot));
                    let linked = linked.fold(0, |bits, slot| bits | 1u64 << slot);
                    return self.report(Fact::Settled { linked });
                }
            }
            Action::Resume(hard_state) => {
                let recovery = self.restart.take().map(|restart| restart.recovery).unwrap_or_default();
                self.resume(*hard_state, recovery);
            }
            Action::SaveBeginning(next) => self.write_beginning(&next),
            Action::Start(change) => {
                self.restart = None;
                self.phase = Phase::Running;
                self.changes.extend(change.map(|change| *change));
            }
            Action::Install => self.enter()?,
            Action::Limit(until_ms) => self.until_ms = until_ms,
            Action::Part(until_ms) => (self.phase, self.until_ms) = (Phase::Parting, until_ms),
            Action::Quit(until_ms) => {
                self.fabric.close();
                (self.phase, self.until_ms) = (Phase::Closing, until_ms);
            }
            Action::Stop(error) => self.stop(error),
        }
        Ok(false)
    }

    /// Publishes `what` if everything that it promises is on disk: *persist before show*. Returns true if another pass
    /// is worthwhile.
    ///
    /// In a group with a log nothing else publishes a vote, the end of a flush, or a view that this process has not read
    /// from its disk. If it is not on disk yet, a later pass tries again.
    pub(super) fn show(&mut self, what: &Show) -> Result<bool, Violation> {
        Ok(self.may_show(what)? && self.membership.publish(what, &mut *self.fabric))
    }

    /// Whether `what` may be published: everything that it promises is on disk, or no other member counts on this one's
    /// log.
    ///
    /// For the end of a flush it first writes the messages that are not in the log yet. For a vote or a view, its answer
    /// `true` settles the write, so that a vote is published once.
    pub(super) fn may_show(&mut self, what: &Show) -> Result<bool, Violation> {
        // Other members do not rely on a learner's log yet, so they do not wait for it.
        let relied_on = self.membership.is_relied_on(what);
        match (what, &self.restart) {
            // The tail is handed to the disk all the same.
            (Show::Flush(_), None) if planted::is(Bug::FlushBeforeSaved) => self.save_tail().map(|_| true),
            (Show::Flush(_), _) if planted::is(Bug::FlushBeforeSaved) => Ok(true),
            (Show::View, _) if planted::is(Bug::ViewBeforeSaved) => Ok(true),
            (Show::Flush(_), None) => Ok(self.save_tail()? || !relied_on),
            (Show::Flush(_), Some(restart)) => {
                let has = |ticket| self.logging.as_ref().is_none_or(|logging| logging.has(ticket));
                Ok(restart.fetched.is_none_or(has))
            }
            (Show::Vote, _) if planted::is(Bug::ShowBeforeSaved) => Ok(true),
            (Show::Vote, _) => Ok(self.vote_is_saved(relied_on)),
            (Show::View, _) => Ok(self.decision_is_saved(relied_on)),
        }
    }
}
