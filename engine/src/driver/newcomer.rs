//! A joiner that does not have the group's state yet: it keeps arriving messages, and delivers them after the state.

use super::app::App;
use crate::app::View;
use crate::config::Config;
use crate::driver::backlog::{Backlog, Item};
use crate::error::Error;
use crate::log::Release;
use crate::multicast::Delivery;
use crate::node::{Node, Phase};
use crate::peers::gate::Gate;
use crate::peers::log_transfer::{self, Takeover};
use crate::peers::transfer::{self, Restored, Taker};
use crate::process::Life;
use crate::shared::pulse::{Slice, Timed};
use crate::shared::snapshot::Covered;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// The progress of a joiner.
enum Stage {
    /// Messages go directly to the application. Also the initial stage, before a transfer begins.
    Settled,
    /// A thread takes the state.
    Transfer(Receiver<Restored>),
    /// The state is here. The application receives the kept messages, until the node has delivered everything that the
    /// state covers.
    CatchUp(Covered),
}

/// The progress of a joiner, and the messages that it keeps.
pub(super) struct Newcomer {
    stage: Stage,
    /// This process was a member from the beginning, or has taken the state.
    has_state: bool,
    /// The group was restarted, so the log is replayed to the application even if this process is a voter.
    replays: bool,
    /// In a group with a log: releases the held records once the fetched part of the log is complete.
    release: Option<Release>,
    backlog: Backlog,
    most_bytes: usize,
    deadline: Instant,
    join_timeout_ms: u64,
    /// The time at which a process with the state stops waiting for the view that makes it a voter.
    vote_deadline: Instant,
    /// The minimum time allowed for a view change.
    vote_time: Duration,
    /// The time at which catch-up is given up; `None` if there is no limit.
    catch_up_deadline: Option<Instant>,
    gate: Gate,
    life: Life,
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // In a forked child, this would wait for the parent's thread and end the parent's connection.
        if self.life.is_over() {
            return;
        }
        // From here on the application is not called any more.
        self.gate.shut();
    }
}

impl Newcomer {
    /// `deadline` is that of the whole join, of which this is one attempt. `release` releases the held records, at a
    /// joiner of a group with a log. `replays`: the group is being restarted.
    pub(super) fn new(config: &Config, deadline: Instant, release: Option<Release>, replays: bool) -> Newcomer {
        Newcomer {
            stage: Stage::Settled,
            has_state: false,
            replays,
            release,
            backlog: Backlog::default(),
            most_bytes: config.join_backlog_bytes,
            deadline,
            join_timeout_ms: config.join_timeout_ms,
            vote_deadline: deadline,
            vote_time: Duration::from_millis(config.failure_timeout_ms.saturating_mul(2)),
            catch_up_deadline: None,
            gate: Gate::default(),
            life: Life::present(),
        }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The time by which the state must be here.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Converts the reason of a failed join to show the whole waiting time. The node knows only the time of the last
    /// attempt.
    pub(super) fn with_whole_wait(&self, reason: &Error) -> Error {
        let after_ms = self.join_timeout_ms;
        match reason.clone() {
            Error::Missing { missing, .. } => Error::Missing { missing, after_ms },
            Error::TimedOut { what: "join", .. } => Error::TimedOut { what: "join", after_ms },
            other => other,
        }
    }

    /// Begins the catch-up, after the state has arrived.
    ///
    /// If the application is slower than the stream, catch-up never ends. So it gets the join's time once more. There
    /// is no limit after a restart: the application has to receive the whole log, and it waits for no other process.
    fn begin_catch_up(&mut self, covered: Covered) {
        let until = self.deadline.max(Instant::now() + Duration::from_millis(self.join_timeout_ms));
        self.catch_up_deadline = Some(until).filter(|_| !self.replays);
        self.stage = Stage::CatchUp(covered);
    }

    /// Whether messages do not go directly to the application yet.
    pub(super) fn is_new(&self) -> bool {
        !matches!(self.stage, Stage::Settled)
    }

    /// Whether this process, voter or not, needs the state and is not taking it yet.
    pub(super) fn needs_state(&mut self, voter: bool) -> bool {
        self.has_state |= voter && !self.replays;
        !self.has_state && !self.is_new()
    }

    /// Runs a pass of the node and keeps its deliveries for later.
    pub(super) fn poll(&mut self, node: &mut Node, now_ms: u64, slice: Slice<'_>) -> bool {
        let backlog = &mut self.backlog;
        let keep = |message: Delivery<'_>| backlog.keep(&message);
        let moved = node.poll(now_ms, &mut Timed { tell: keep, slice });
        let held = self.release.as_ref().map_or(0, Release::held_bytes);
        if backlog.bytes() + held > self.most_bytes && !matches!(node.phase(), Phase::Stopped(_)) {
            let what = format!(
                "more than {} bytes of messages arrived during the transfer: raise `join_backlog_bytes`, or join when there is less load",
                self.most_bytes
            );
            node.fail(Error::StateTransfer(what));
        }
        moved
    }

    /// Keeps a new view for later if necessary; returns true if it was kept.
    pub(super) fn begin(&mut self, view: &Arc<View>) -> bool {
        if self.is_new() {
            self.backlog.keep_view(view.clone());
        }
        self.is_new()
    }

    /// Starts to take the state from one of the voters, after this process has joined.
    pub(super) fn take_state(&mut self, node: &mut Node, app: &mut App, group_id: u64) {
        let Some(handler) = app.take_handler() else { return };
        let Some(view) = node.view().map(|view| view.number) else { return };
        let shared = app.shared.clone();
        let taker = Taker { me: node.me(), group_id, view, deadline: self.deadline, stack_bytes: shared.stack_bytes };
        let (done, gate) = (move || shared.ask(), self.gate.clone());
        let started = match app.shared.log.clone() {
            None => transfer::start(handler, gate, taker, done),
            Some(log) => {
                let wake = || app.shared.waker();
                let takeover = self.release.clone().map(|release| Takeover { log: log.clone(), release, wake: wake() });
                log_transfer::start(handler, gate, log, takeover, taker, done)
            }
        };
        match started {
            Ok(receiver) => self.stage = Stage::Transfer(receiver),
            Err(error) => node.fail(error),
        }
    }

    /// Stops a process that has the state but has not become a voter in time.
    pub(super) fn check_vote(&self, node: &mut Node) {
        if Instant::now() >= self.vote_deadline {
            let what = "the view change that makes this process a voter";
            node.fail(Error::TimedOut { what, after_ms: self.join_timeout_ms });
        }
    }

    /// Continues with the state transfer or the catch-up. Returns true if anything changed.
    pub(super) fn welcome(&mut self, node: &mut Node, app: &mut App) -> bool {
        match &self.stage {
            Stage::Settled => false,
            Stage::Transfer(receiver) => match receiver.try_recv() {
                Ok(Restored { handler, result }) => {
                    app.give_back(handler);
                    match result {
                        Ok(covered) => self.begin_catch_up(covered),
                        Err(error) => {
                            self.stage = Stage::Settled;
                            node.fail(error);
                        }
                    }
                    true
                }
                Err(TryRecvError::Empty) => false,
                Err(TryRecvError::Disconnected) => {
                    self.stage = Stage::Settled;
                    node.fail(Error::Internal("the thread that receives the state ended without a result".to_owned()));
                    true
                }
            },
            Stage::CatchUp(_) => self.catch_up(node, app),
        }
    }

    /// Passes the kept messages and views to the application, for as long as a pass may last.
    fn catch_up(&mut self, node: &mut Node, app: &mut App) -> bool {
        // This uses the clock directly: speed is not critical here, and the thread that counts ticks may itself be
        // late.
        let (begin, lasts, mut moved) = (Instant::now(), app.shared.pulse.period(), false);
        loop {
            let now = Instant::now();
            if moved && now >= begin + lasts {
                return true;
            }
            let Stage::CatchUp(covered) = &self.stage else { return true };
            if self.catch_up_deadline.is_some_and(|until| now >= until) {
                let what = format!(
                    "the state has arrived, but {} ms later this process has not caught up: messages arrive faster than its \
                     callbacks take them; raise `join_timeout_ms`, or join when there is less load",
                    self.join_timeout_ms
                );
                node.fail(Error::StateTransfer(what));
                return true;
            }
            if matches!(node.phase(), Phase::Stopped(_)) {
                return moved;
            }
            match self.backlog.next() {
                Some(item) if item.is_covered(covered) => {}
                Some(Item::View(view)) => app.begin_view(node, &view),
                Some(Item::Message(kept)) => app.call(node, |handler| handler.deliver(kept.delivery())),
                // Catch-up ends only when the log is on disk.
                None if self.release.as_ref().is_some_and(|release| !release.is_done()) => return moved,
                None => {
                    if !covered.is_within(&Covered::of(node)) {
                        // The state includes messages that the node here has yet to deliver. The application must not
                        // receive them again.
                        return moved;
                    }
                    self.stage = Stage::Settled;
                    (self.has_state, self.replays) = (true, false);
                    self.release = None;
                    // Replaying a long log may have taken until after the deadline.
                    let vote_deadline = Instant::now() + self.vote_time;
                    self.vote_deadline = vote_deadline.max(self.deadline);
                    node.ready();
                    return true;
                }
            }
            moved = true;
        }
    }
}
