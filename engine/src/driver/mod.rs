//! The passes of a member's node, and the library's thread that runs them.
//!
//! `dispatch.rs` is for applications that run the passes themselves. Each of the other files has one part of a pass. A
//! part owns its state; a pass lends it the node and the application.

mod app;
mod backlog;
mod dispatch;
mod join_service;
mod leaving;
mod log_fetch;
mod mending;
mod newcomer;
mod progress;
mod waiters;
mod watchdog;

use crate::app::{Handler, View};
use crate::config::Config;
use crate::deadline::Cancel;
use crate::error::Error;
use crate::log::{Release, wall_ns};
use crate::membership::{Fault, HardState};
use crate::node::{Node, Phase, Recovery};
use crate::peers::acceptor::Acceptor;
use crate::peers::contacts::Memory;
use crate::peers::relink::Caller;
use crate::process::Own;
use crate::shared::snapshot::Snapshot;
use crate::shared::{Shared, millis};
use crate::types::EVERYBODY;
use app::App;
use join_service::JoinService;
use leaving::Leaving;
use log_fetch::LogFetch;
use newcomer::Newcomer;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use progress::Progress;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use waiters::Waiters;
use watchdog::DiskWatchdog;

/// Time that a stopped node continues, so that its last messages reach the other members, in milliseconds.
const LINGER_MS: u64 = 1000;
/// Time limit for the leave of a cancelled join, unless the caller gives another.
pub(crate) const CANCEL_TIME: Duration = Duration::from_secs(1);
/// A driver that never sleeps yields its core after this number of idle passes.
const PASSES_PER_YIELD: u64 = 256;

/// Runs a member's node: see [`crate::Group::join_driven`].
pub struct Driver {
    node: Own<Node>,
    shared: Arc<Shared>,
    app: App,
    newcomer: Newcomer,
    join_service: JoinService,
    log_fetch: LogFetch,
    waiters: Waiters,
    progress: Progress,
    watchdog: DiskWatchdog,
    epoll: Epoll,
    /// The descriptor for the application, if it has one from the beginning of the join.
    outer: Option<Epoll>,
    /// Makes the descriptor readable when a pass is due, for applications that wait on the descriptor themselves.
    timer: TimerFd,
    started: Instant,
    spin: Duration,
    busy_poll: bool,
    passes: u64,
    sleeps: u64,
    notified_stop: bool,
    /// Another attempt to join follows, which needs the log open.
    keeps_log: bool,
    leaving: Leaving,
    /// The time at which the remaining links are given up, after the node has stopped.
    linger_until_ms: Option<u64>,
}

/// The parts of a driver that begins.
pub(crate) struct Start {
    pub(crate) node: Node,
    pub(crate) shared: Arc<Shared>,
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) caller: Caller,
    /// The addresses of the other processes, by incarnation.
    pub(crate) addresses: HashMap<u64, String>,
    pub(crate) memory: Memory,
    pub(crate) acceptor: Acceptor,
    /// The deadline of the whole join, of which this is one attempt.
    pub(crate) deadline: Instant,
    /// Only at a joiner of a group with a log: releases the records that are held back until the earlier part of the
    /// log is complete.
    pub(crate) release: Option<Release>,
    /// Only in a restart of the group: the state of this process before.
    pub(crate) restarts: Option<(HardState, Recovery)>,
}

impl Driver {
    pub(crate) fn new(start: Start, config: &Config) -> Result<Driver, Error> {
        let Start { mut node, shared, handler, caller, addresses, memory, acceptor, deadline, release, restarts } =
            start;
        let failed = |e| Error::io("cannot make an epoll descriptor", e);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(&shared.event, readable()).map_err(failed)?;
        if let Some(fd) = node.fabric().fd() {
            epoll.add(fd, readable()).map_err(failed)?;
        }
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK);
        let timer = timer.map_err(|e| Error::io("cannot make a timer", e))?;
        epoll.add(&timer, readable()).map_err(failed)?;
        let newcomer = Newcomer::new(config, deadline, release, restarts.is_some());
        if let Some((hard_state, recovery)) = restarts {
            node.restart(hard_state, recovery);
        }
        let log_fetch = LogFetch::new(caller.group_id);
        Ok(Driver {
            node: Own::new(node),
            app: App::new(shared.clone(), handler),
            shared,
            newcomer,
            join_service: JoinService::new(caller, addresses, memory, acceptor),
            log_fetch,
            waiters: Waiters::default(),
            progress: Progress::default(),
            watchdog: DiskWatchdog::new(config),
            epoll,
            outer: None,
            timer,
            started: Instant::now(),
            spin: Duration::from_micros(config.spin_us),
            busy_poll: config.busy_poll,
            passes: 0,
            sleeps: 0,
            notified_stop: false,
            keeps_log: false,
            leaving: Leaving::default(),
            linger_until_ms: None,
        })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Waits until this process has the group's state and a vote; returns false if `give_up` returns true before.
    ///
    /// The wait includes the vote: before that, the group may not survive the failure of the member that this process
    /// is to replace.
    ///
    /// A cancellation ends the wait with [`Error::Left`]. If this process is in the group by then, it leaves first.
    pub(crate) fn install(&mut self, cancel: &Cancel, mut give_up: impl FnMut(&Node) -> bool) -> Result<bool, Error> {
        let mut leaves_until = None;
        loop {
            if cancel.is_set() && self.leave_cancelled(cancel.timeout(), &mut leaves_until) {
                return Err(Error::Left);
            }
            match self.node.phase() {
                Phase::Stopped(reason) => {
                    let reason = self.newcomer.with_whole_wait(reason);
                    self.linger();
                    return Err(reason);
                }
                Phase::Joining | Phase::Restarting if give_up(&self.node) => return Ok(false),
                Phase::Founding | Phase::Joining | Phase::Restarting => {}
                _ if self.newcomer.is_new() || leaves_until.is_some() => {}
                _ if self.node.is_voter() => return Ok(true),
                _ => self.newcomer.check_vote(&mut self.node),
            }
            if !self.pass() {
                self.sleep(Some(Duration::from_millis(20)));
            }
        }
    }

    /// Takes the application's own handler in place of the one that the join used.
    pub(crate) fn replace_handler(&mut self, handler: Box<dyn Handler>) {
        self.app.give_back(handler);
    }

    /// Makes `outer` the descriptor of this driver. It is readable whenever the driver has work.
    pub(crate) fn adopt(&mut self, outer: Epoll) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        outer.add(&self.epoll.0, event).map_err(|e| Error::io("cannot nest an epoll descriptor", e))?;
        self.outer = Some(outer);
        Ok(())
    }

    /// Gives up this attempt to join, and returns the handler. The other members see this process depart.
    pub(crate) fn into_handler(mut self) -> Option<Box<dyn Handler>> {
        // The next attempt needs the log open.
        self.keeps_log = true;
        self.app.take_handler()
    }

    /// Runs passes until the group stops or this process leaves. This is the body of the engine thread.
    pub(crate) fn run(mut self) {
        let mut idle_since = None;
        while !self.ended() {
            if self.pass() {
                idle_since = None;
            } else if self.busy_poll {
                // This thread owns the core, but other threads that need it are let in now and then.
                if self.passes.is_multiple_of(PASSES_PER_YIELD) {
                    std::thread::yield_now()
                } else {
                    std::hint::spin_loop()
                }
            } else if !self.spin.is_zero() && idle_since.get_or_insert_with(Instant::now).elapsed() < self.spin {
                // Other threads may need this core to produce the awaited data.
                std::thread::yield_now();
            } else {
                self.sleep(None);
            }
        }
    }

    /// The time at which a pass is due even if nothing arrives.
    fn next_pass_ms(&self) -> u64 {
        let mends_at_ms = self.join_service.mends_at_ms();
        [self.leaving.next_pass_ms(), self.linger_until_ms, mends_at_ms]
            .into_iter()
            .flatten()
            .fold(self.node.next_pass_ms(), u64::min)
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Runs one pass of the node and serves the requests of the handles. Returns true if anything changed.
    fn pass(&mut self) -> bool {
        let now_ms = self.now_ms();
        let mut moved = self.keep_leave_limits(now_ms);
        if self.leaving.over {
            return false;
        }
        let Driver { node, app, newcomer, .. } = self;
        moved |= newcomer.is_new() && newcomer.welcome(node, app);
        moved |= self.serve_log(now_ms);
        moved |= self.app.poll(&mut self.node, &mut self.newcomer, now_ms);
        self.passes += 1;
        moved |= self.report();
        if self.shared.take_asked() {
            self.serve_handles(now_ms);
            moved = true;
        }
        if moved || self.waiters.is_due(&self.node) {
            self.waiters.serve(&self.node, &self.app);
            self.join_service.hand_out(&self.node);
            // Also done before any waiting thread learns that the group has ended.
            self.show_stats();
            self.progress.show(&mut self.node, &mut self.app, &self.newcomer);
        }
        self.join_service.mend_links(&self.node, now_ms);
        self.watch_phase();
        moved
    }

    /// In a group with a log: fetches what the log lacks, checks the disk, and sets the node's clock. Returns true if
    /// anything changed.
    fn serve_log(&mut self, now_ms: u64) -> bool {
        let Driver { node, shared, app, newcomer, join_service, log_fetch, watchdog, .. } = self;
        let Some(log) = &shared.log else { return false };
        let moved = log_fetch.poll(node, app, now_ms, newcomer.deadline(), |peer| join_service.place(peer));
        watchdog.check(node, log);
        node.set_wall_clock(wall_ns());
        moved
    }

    /// Notifies the application of the faults and the new views of this pass; returns true if some faults remain.
    ///
    /// Messages of a new view are delivered in later passes.
    fn report(&mut self) -> bool {
        let Driver { node, app, newcomer, join_service, shared, .. } = self;
        let mut faults = node.take_faults().into_iter().peekable();
        app.report_warnings(node);
        for change in node.take_changes() {
            // All faults of the former view are passed on before the new view. Those of the new view come after it: its
            // beginning drops the recorded faults of its members.
            while let Some(fault) = faults.next_if(|fault| fault.view < change.view.number) {
                join_service.note_fault(app, fault.member, fault.what);
            }
            app.report_faults(node, true);
            let address_of = |peer| join_service.place(peer).map(|place| place.address);
            let view = Arc::new(View::new(&change, address_of));
            shared.lock().note_departures(&view, shared.me);
            join_service.begin(&change);
            join_service.show_sources(app, newcomer.gate(), &change.view);
            join_service.keep_places(node, app);
            shared.restarting.store(false, Ordering::Relaxed);
            shared.founding.store(false, Ordering::Relaxed);
            if newcomer.needs_state(node.is_voter()) {
                newcomer.take_state(node, app, join_service.group_id());
            }
            if !newcomer.begin(&view) {
                app.begin_view(node, &view);
            }
        }
        for Fault { member, what, .. } in faults {
            join_service.note_fault(app, member, what);
        }
        app.report_faults(node, false);
        app.has_unreported_faults()
    }

    /// Serves the requests of the handles. Requests for which the pass has no time are queued again.
    fn serve_handles(&mut self, now_ms: u64) {
        let shared = self.shared.clone();
        let slice = shared.pulse.begin();
        let mut state = self.shared.lock();
        self.waiters.append(&mut state.flushes);
        let requests = std::mem::take(&mut state.requests);
        let checkpoints = std::mem::take(&mut state.checkpoints);
        let (leaves, times) = (state.leaving, state.leave_times.take());
        drop(state);
        if leaves {
            self.node.leave();
        }
        if let Some(times) = times {
            self.leaving.begin(times, self.started);
        }
        let (mut requests, mut checkpoints) = (requests.into_iter(), checkpoints.into_iter());
        for request in requests.by_ref() {
            let Driver { node, app, newcomer, join_service, .. } = self;
            join_service.receive(request, node, app, newcomer, now_ms);
            if slice.is_over() {
                break;
            }
        }
        for asked in checkpoints.by_ref() {
            // The thread that asked may have given up.
            let _ = asked.reply.try_send(self.snapshot_for_checkpoint());
            if slice.is_over() {
                break;
            }
        }
        if requests.len() + checkpoints.len() > 0 {
            let mut state = self.shared.lock();
            state.requests.splice(..0, requests);
            state.checkpoints.splice(..0, checkpoints);
            drop(state);
            self.shared.ask();
        }
    }

    fn snapshot_for_checkpoint(&mut self) -> Result<Snapshot, Error> {
        if self.newcomer.is_new() || !matches!(self.node.phase(), Phase::Running | Phase::Leaving) {
            return Err(Error::Misuse("this process does not have the group's whole state yet"));
        }
        self.app.snapshot(&mut self.node).map_err(|e| Error::io("the application's `snapshot` failed", e))
    }

    fn show_stats(&mut self) {
        let mut state = self.shared.lock();
        for stats in &mut state.stats {
            *stats = self.node.stats(EVERYBODY);
            (stats.passes, stats.sleeps) = (self.passes, self.sleeps);
        }
    }

    /// Notifies the application and the handles when the node has stopped or left.
    fn watch_phase(&mut self) {
        match self.node.phase() {
            Phase::Stopped(reason) if !self.notified_stop => {
                let reason = self.newcomer.with_whole_wait(reason);
                self.notified_stop = true;
                self.linger_until_ms = Some(self.now_ms() + LINGER_MS);
                self.shared.shut();
                self.shared.stop(&reason);
                self.tell_left();
                // If the application has not received anything yet, it is not notified: another attempt to join may
                // follow.
                let told_nothing = [&self.shared.restarting, &self.shared.founding];
                if !told_nothing.iter().any(|flag| flag.load(Ordering::Relaxed)) {
                    self.app.call(&mut self.node, |handler| handler.stopped(&reason));
                }
            }
            Phase::Left => {
                self.shared.end(Ok(()));
                self.tell_left();
            }
            Phase::Parting | Phase::Closing if self.node.has_departed() => self.shared.lock().departed = true,
            _ => {}
        }
    }

    /// Whether there is nothing left to drive.
    fn ended(&self) -> bool {
        match self.node.phase() {
            Phase::Left => true,
            Phase::Stopped(_) => self.node.closed() || self.linger_until_ms.is_some_and(|until| self.now_ms() >= until),
            _ => self.shared.is_abandoned(),
        }
    }

    /// Runs a stopped node until its last messages have reached the other members, or for at most [`LINGER_MS`].
    fn linger(&mut self) {
        while !self.ended() {
            if !self.pass() {
                self.sleep(Some(Duration::from_millis(20)));
            }
        }
    }

    /// Sleeps in the kernel until there is something to do, at most `timeout`.
    fn sleep(&mut self, timeout: Option<Duration>) {
        // The last link may have gone down in this very pass. No later event would wake the driver then.
        if !self.arm_and_look() && !self.ended() {
            self.block(timeout);
        }
        self.disarm();
    }

    /// Arms the wake-up, then runs one more pass; returns true if that pass found something.
    fn arm_and_look(&mut self) -> bool {
        self.shared.bell.arm();
        self.node.fabric().arm();
        self.pass()
    }

    /// Disarms the wake-up, after a wait on the descriptor, in a loop that continues with [`Driver::poll`].
    ///
    /// Until the next [`Driver::dispatch`], no thread or peer spends time on waking this member.
    pub fn disarm(&mut self) {
        if self.shared.life.is_over() {
            return;
        }
        self.shared.disarm();
        self.node.fabric().disarm();
    }

    fn block(&mut self, timeout: Option<Duration>) {
        self.sleeps += 1;
        self.show_stats();
        // The wait ends when the next pass is due, so that heartbeats continue.
        let left_ms = self.next_pass_ms().saturating_sub(self.now_ms());
        let ms = timeout.map(millis).into_iter().fold(left_ms, u64::min);
        // The time is rounded up. Otherwise a short wait would become a busy loop.
        let timeout = EpollTimeout::try_from(ms.saturating_add(1).min(60_000)).unwrap_or(EpollTimeout::ZERO);
        let mut events = [EpollEvent::empty(); 3];
        // A wait interrupted by a signal merely ends early.
        let _ = self.epoll.wait(&mut events, timeout);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.shared.life.is_over() {
            return;
        }
        // Afterwards all appended records are on disk, and another process may open the log.
        let log = self.shared.log.as_ref().filter(|_| !self.keeps_log);
        if let Some(Err(error)) = log.map(|log| log.shut()) {
            tracing::error!(%error, "cannot close the group's log");
        }
        self.shared.end(Err(Error::Left));
        self.tell_left();
    }
}
