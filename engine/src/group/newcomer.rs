//! A process that has joined and is still without the group's state: what comes meanwhile is kept, and handed over after it.

use super::backlog::{Backlog, Item};
use super::driver::Driver;
use super::gate::Gate;
use super::pulse::{Slice, Timed};
use super::records::{self, Takeover};
use super::transfer::{self, Covered, Restored, Taker};
use super::view::View;
use crate::config::Config;
use crate::error::Error;
use crate::log::Release;
use crate::multicast::Delivery;
use crate::node::{Node, Phase};
use crate::process::Life;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// How far a process has come.
enum Stage {
    /// It has the state, and hears everything directly.
    Settled,
    /// A thread takes the state for it.
    Transfer(Receiver<Restored>),
    /// It has the state, and catches up with what came meanwhile, and with what the state is ahead of it.
    CatchUp(Covered),
}

/// See the module.
pub(super) struct Newcomer {
    stage: Stage,
    /// It was there from the beginning, or has taken the state.
    has_state: bool,
    /// The group was restarted: the application is told what the log holds, whoever votes.
    replays: bool,
    /// In a group with a log: lets the own log go on from what was fetched.
    release: Option<Release>,
    backlog: Backlog,
    most_bytes: usize,
    deadline: Instant,
    join_timeout_ms: u64,
    /// When a process that has the state gives up waiting for the view in which it votes.
    vote_deadline: Instant,
    /// How long a view change may take, at least.
    vote_time: Duration,
    /// When a process that catches up, and is no faster than what comes, gives up.
    catch_up_deadline: Option<Instant>,
    pub(super) gate: Gate,
    life: Life,
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // A forked child would wait for the parent's thread, and end the parent's connection.
        if self.life.is_over() {
            return;
        }
        // From here on the application is not told anything any more.
        self.gate.shut();
    }
}

impl Newcomer {
    pub(super) fn new(config: &Config) -> Newcomer {
        let deadline = Instant::now() + Duration::from_millis(config.join_timeout_ms);
        let (backlog, most_bytes) = (Backlog::default(), config.join_backlog_bytes);
        Newcomer {
            stage: Stage::Settled,
            has_state: false,
            replays: false,
            release: None,
            backlog,
            most_bytes,
            deadline,
            join_timeout_ms: config.join_timeout_ms,
            vote_deadline: deadline,
            vote_time: Duration::from_millis(config.failure_timeout_ms.saturating_mul(2)),
            catch_up_deadline: None,
            gate: Gate::default(),
            life: Life::present(),
        }
    }

    /// When the state must be here.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Why the join failed, with the time that it waited in all: the node knows only what the last attempt had of it.
    pub(super) fn with_whole_wait(&self, reason: &Error) -> Error {
        let after_ms = self.join_timeout_ms;
        match reason.clone() {
            Error::Missing { missing, .. } => Error::Missing { missing, after_ms },
            Error::TimedOut { what: "join", .. } => Error::TimedOut { what: "join", after_ms },
            other => other,
        }
    }

    /// An attempt of a join that may take until `deadline`.
    pub(super) fn must_be_done(&mut self, deadline: Instant) {
        (self.deadline, self.vote_deadline) = (deadline, deadline);
    }

    /// The state is here. An application that takes messages more slowly than they come would catch up for ever: it gets the
    /// join's time once more. One whose group was restarted has its whole log to hear, and waits for nobody.
    fn begin_catch_up(&mut self, covered: Covered) {
        let until = self.deadline.max(Instant::now() + Duration::from_millis(self.join_timeout_ms));
        self.catch_up_deadline = Some(until).filter(|_| !self.replays);
        self.stage = Stage::CatchUp(covered);
    }

    /// Of a group that is restarted.
    pub(super) fn replays(&mut self) {
        self.replays = true;
    }

    /// Of a group with a log, which begins with what is fetched.
    pub(super) fn takes_over(&mut self, release: Option<Release>) {
        self.release = release;
    }

    /// Whether there is anything that the application is not told directly.
    pub(super) fn is_new(&self) -> bool {
        !matches!(self.stage, Stage::Settled)
    }

    /// Whether this process, a voter or not, needs the state and does not take it yet.
    pub(super) fn needs_state(&mut self, voter: bool) -> bool {
        self.has_state |= voter && !self.replays;
        !self.has_state && !self.is_new()
    }

    /// A pass of the node whose deliveries are kept.
    pub(super) fn poll(&mut self, node: &mut Node, now_ms: u64, slice: Slice<'_>) -> bool {
        let backlog = &mut self.backlog;
        let keep = |message: Delivery<'_>| backlog.keep(&message);
        let moved = node.poll(now_ms, &mut Timed { tell: keep, slice });
        let held = self.release.as_ref().map_or(0, Release::held_bytes);
        if backlog.bytes() + held > self.most_bytes && !matches!(node.phase(), Phase::Stopped(_)) {
            let what = format!(
                "more than {} bytes of messages came meanwhile: raise `join_backlog_bytes`, or join when there is less load",
                self.most_bytes
            );
            node.fail(Error::StateTransfer(what));
        }
        moved
    }

    /// A view begins. True if the application is to be told of it later.
    pub(super) fn begin(&mut self, view: &Arc<View>) -> bool {
        if self.is_new() {
            self.backlog.keep_view(view.clone());
        }
        self.is_new()
    }
}

impl Driver {
    /// This process has joined: it needs the state of one of the voters.
    pub(super) fn take_state(&mut self) {
        let Some(handler) = self.handler.take() else { return };
        let Some(view) = self.node.view().map(|view| view.number) else { return };
        let shared = self.shared.clone();
        let (me, group_id, deadline) = (self.node.me(), self.reception.group_id(), self.newcomer.deadline);
        let taker = Taker { me, group_id, view, deadline, stack_bytes: self.shared.stack_bytes };
        let (done, gate) = (move || shared.ask(), self.newcomer.gate.clone());
        let started = match self.shared.log.clone() {
            None => transfer::start(handler, gate, taker, done),
            Some(log) => {
                let woken = self.shared.clone();
                let takeover = self.newcomer.release.clone().map(|release| Takeover {
                    log: log.clone(),
                    release,
                    wake: woken.waker(),
                });
                records::start(handler, gate, log, takeover, taker, done)
            }
        };
        match started {
            Ok(receiver) => self.newcomer.stage = Stage::Transfer(receiver),
            Err(error) => self.node.fail(error),
        }
    }

    /// Stops a process that has the state, and that the others do not make a voter in time.
    pub(super) fn check_vote(&mut self) {
        if Instant::now() >= self.newcomer.vote_deadline {
            let what = "the view change that makes this process a voter";
            self.node.fail(Error::TimedOut { what, after_ms: self.newcomer.join_timeout_ms });
        }
    }

    /// Goes on with a process that is new. True if anything moved.
    pub(super) fn welcome(&mut self) -> bool {
        match &self.newcomer.stage {
            Stage::Settled => false,
            Stage::Transfer(receiver) => match receiver.try_recv() {
                Ok(Restored { handler, result }) => {
                    self.handler = Some(handler);
                    match result {
                        Ok(covered) => self.newcomer.begin_catch_up(covered),
                        Err(error) => {
                            self.newcomer.stage = Stage::Settled;
                            self.node.fail(error);
                        }
                    }
                    true
                }
                Err(TryRecvError::Empty) => false,
                Err(TryRecvError::Disconnected) => {
                    self.newcomer.stage = Stage::Settled;
                    self.node.fail(Error::Internal("the thread that takes the state is gone".to_owned()));
                    true
                }
            },
            Stage::CatchUp(_) => self.catch_up(),
        }
    }

    /// Hands over what came while the state did, for as long as a pass may last.
    fn catch_up(&mut self) -> bool {
        // Its own clock: nothing is in a hurry here, and the thread that counts a pulse may itself be late.
        let (begin, lasts, mut moved) = (Instant::now(), self.shared.pulse.period(), false);
        loop {
            let now = Instant::now();
            if moved && now >= begin + lasts {
                return true;
            }
            let Stage::CatchUp(covered) = &self.newcomer.stage else { return true };
            if self.newcomer.catch_up_deadline.is_some_and(|until| now >= until) {
                let what = format!(
                    "the state is here, but {} ms later this process has not caught up with the messages that come: its callbacks \
                     take them more slowly; raise `join_timeout_ms`, or join when there is less load",
                    self.newcomer.join_timeout_ms
                );
                self.node.fail(Error::StateTransfer(what));
                return true;
            }
            if matches!(self.node.phase(), Phase::Stopped(_)) {
                return moved;
            }
            match self.newcomer.backlog.next() {
                Some(item) if item.is_covered(covered) => {}
                Some(Item::View(view)) => self.tell_view(&view),
                Some(Item::Message { subgroup, view, sender, sequence, mode, payload, .. }) => {
                    let payload = &*payload;
                    self.call(|handler| handler.deliver(Delivery { subgroup, view, sender, sequence, mode, payload }));
                }
                // Its log counts once it is on disk.
                None if self.newcomer.release.as_ref().is_some_and(|release| !release.is_done()) => return moved,
                None => {
                    if !covered.is_within(&Covered::of(&self.node)) {
                        // Whoever gave the state has delivered what is still to be delivered here: it must not come again.
                        return moved;
                    }
                    self.newcomer.stage = Stage::Settled;
                    (self.newcomer.has_state, self.newcomer.replays) = (true, false);
                    self.newcomer.release = None;
                    // A long log may have taken the application beyond the deadline.
                    let vote_deadline = Instant::now() + self.newcomer.vote_time;
                    self.newcomer.vote_deadline = vote_deadline.max(self.newcomer.deadline);
                    self.node.ready();
                    return true;
                }
            }
            moved = true;
        }
    }
}
