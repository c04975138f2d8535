//! A process that has joined and is still without the group's state: what comes meanwhile is kept, and handed over after it.

use super::backlog::{Backlog, Item};
use super::driver::Driver;
use super::gate::Gate;
use super::records::{self, Takeover};
use super::transfer::{self, Covered, Restored};
use super::view::View;
use crate::config::Config;
use crate::error::Error;
use crate::log::Release;
use crate::multicast::Delivery;
use crate::node::{Node, Phase};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// Items of the backlog handed over in one pass.
const ITEMS_PER_PASS: usize = 4096;

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
    gate: Gate,
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // From here on the application is not told anything any more.
        self.gate.shut();
    }
}

impl Newcomer {
    pub(super) fn new(config: &Config) -> Newcomer {
        let deadline = Instant::now() + Duration::from_millis(config.join_timeout_ms);
        let (backlog, most_bytes) = (Backlog::default(), config.join_backlog_bytes);
        let (has_state, replays, release, gate) = (false, false, None, Gate::default());
        Newcomer { stage: Stage::Settled, has_state, replays, release, backlog, most_bytes, deadline, gate }
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
    pub(super) fn poll(&mut self, node: &mut Node, now_ms: u64) -> bool {
        let backlog = &mut self.backlog;
        let moved = node.poll(now_ms, &mut |message: Delivery<'_>| backlog.keep(&message));
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
        let Some(view) = self.node.view() else { return };
        // The lowest rank leads, and has enough to do.
        let voters = view.members.iter().rev().filter(|member| member.voter).map(|member| member.peer);
        let number = view.number;
        let sources = voters.filter_map(|peer| self.reception.address_of(peer)).collect();
        let shared = self.shared.clone();
        let (group_id, deadline) = (self.reception.group_id(), self.newcomer.deadline);
        let (done, gate) = (move || shared.ask(), self.newcomer.gate.clone());
        let started = match self.shared.log.clone() {
            None => transfer::start(handler, gate, sources, (group_id, number), deadline, done),
            Some(log) => {
                let woken = self.shared.clone();
                let takeover = self.newcomer.release.clone().map(|release| Takeover {
                    log: log.clone(),
                    release,
                    wake: woken.waker(),
                    sources,
                    group_id,
                });
                records::start(handler, gate, log, takeover, number, deadline, done)
            }
        };
        match started {
            Ok(receiver) => self.newcomer.stage = Stage::Transfer(receiver),
            Err(error) => self.node.fail(Error::io("cannot start the thread that takes the state", error)),
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
                        Ok(covered) => self.newcomer.stage = Stage::CatchUp(covered),
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

    /// Hands over what came while the state did.
    fn catch_up(&mut self) -> bool {
        for handed_over in 0..ITEMS_PER_PASS {
            let Stage::CatchUp(covered) = &self.newcomer.stage else { return true };
            if matches!(self.node.phase(), Phase::Stopped(_)) {
                return handed_over > 0;
            }
            match self.newcomer.backlog.next(covered) {
                Some(Item::View(view)) => self.tell_view(&view),
                Some(Item::Message { subgroup, view, sender, sequence, mode, payload, .. }) => {
                    let payload = &*payload;
                    self.call(|handler| handler.deliver(Delivery { subgroup, view, sender, sequence, mode, payload }));
                }
                // Its log counts once it is on disk.
                None if self.newcomer.release.as_ref().is_some_and(|release| !release.is_done()) => {
                    return handed_over > 0;
                }
                None => {
                    if !covered.is_within(&Covered::of(&self.node)) {
                        // Whoever gave the state has delivered what is still to be delivered here: it must not come again.
                        return handed_over > 0;
                    }
                    self.newcomer.stage = Stage::Settled;
                    (self.newcomer.has_state, self.newcomer.replays) = (true, false);
                    self.newcomer.release = None;
                    self.node.ready();
                    return true;
                }
            }
        }
        true
    }
}
