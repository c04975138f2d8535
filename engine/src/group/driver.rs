//! The passes of a member's node, and the library's thread that runs them. `dispatch.rs` is for applications that run
//! them.

use super::durable::{DiskWatchdog, Frontiers};
use super::flush::Pending;
use super::handler::Handler;
use super::join_service::{HandOut, JoinService};
use super::log_transfer::Fetch;
use super::newcomer::Newcomer;
use super::pulse::Timed;
use super::shared::{Shared, millis};
use super::transfer::text_of;
use super::view::View;
use crate::config::Config;
use crate::config::MemberId;
use crate::error::Error;
use crate::log::wall_ns;
use crate::multicast::Delivery;
use crate::node::{Node, Phase};
use crate::process::Own;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time that a stopped node continues, so that its last messages reach the other members, in milliseconds.
const LINGER_MS: u64 = 1000;
/// A driver that never sleeps yields its core after this number of idle passes.
const PASSES_PER_YIELD: u64 = 256;

/// Runs a member's node: see [`crate::Group::join_driven`].
pub struct Driver {
    pub(super) node: Own<Node>,
    pub(super) shared: Arc<Shared>,
    /// `None` while another thread uses the handler to take the group's state.
    pub(super) handler: Option<Box<dyn Handler>>,
    pub(super) newcomer: Newcomer,
    pub(super) join_service: JoinService,
    pub(super) epoll: Epoll,
    /// Makes the descriptor readable when a pass is due, for applications that wait on the descriptor themselves.
    pub(super) timer: TimerFd,
    started: Instant,
    spin: Duration,
    busy_poll: bool,
    pub(super) flushes: Vec<Pending>,
    pub(super) hand_outs: Vec<HandOut>,
    passes: u64,
    sleeps: u64,
    /// The number of times that the node has freed ring space, as of the latest check.
    pub(super) freed: u64,
    notified_stop: bool,
    /// Faults of members of which the application has not been notified yet.
    pub(super) unreported_faults: VecDeque<(MemberId, String)>,
    /// The progress of the log as of the latest check.
    pub(super) frontiers: Frontiers,
    /// The durable frontier of which the application was last notified.
    pub(super) notified_durable: u64,
    pub(super) fetch: Option<Fetch>,
    pub(super) fetch_again_ms: u64,
    keeps_log: bool,
    pub(super) watchdog: DiskWatchdog,
    /// The time at which reservations that are still open are dropped, while this process leaves.
    drops_at_ms: Option<u64>,
    /// The time at which the remaining links are given up, after the node has stopped.
    linger_until_ms: Option<u64>,
}

impl Driver {
    pub(super) fn new(
        mut node: Node,
        shared: Arc<Shared>,
        handler: Box<dyn Handler>,
        join_service: JoinService,
        config: &Config,
    ) -> Result<Driver, Error> {
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
        Ok(Driver {
            node: Own::new(node),
            shared,
            handler: Some(handler),
            newcomer: Newcomer::new(config),
            join_service,
            epoll,
            timer,
            started: Instant::now(),
            spin: Duration::from_micros(config.spin_us),
            busy_poll: config.busy_poll,
            flushes: Vec::new(),
            hand_outs: Vec::new(),
            passes: 0,
            sleeps: 0,
            freed: 0,
            notified_stop: false,
            unreported_faults: VecDeque::new(),
            frontiers: Frontiers::default(),
            notified_durable: 0,
            fetch: None,
            fetch_again_ms: 0,
            keeps_log: false,
            watchdog: DiskWatchdog::new(config),
            drops_at_ms: None,
            linger_until_ms: None,
        })
    }

    /// Waits until this process has the group's state and a vote; returns false if `give_up` returns true before.
    ///
    /// The wait includes the vote: before that, the group may not survive the failure of the member that this process
    /// is to replace.
    pub(super) fn install(&mut self, mut give_up: impl FnMut(&Node) -> bool) -> Result<bool, Error> {
        loop {
            match self.node.phase() {
                Phase::Stopped(reason) => {
                    let reason = self.newcomer.with_whole_wait(reason);
                    self.linger();
                    return Err(reason);
                }
                Phase::Joining | Phase::Restarting if give_up(&self.node) => return Ok(false),
                Phase::Founding | Phase::Joining | Phase::Restarting => {}
                _ if self.newcomer.is_new() => {}
                _ if self.node.is_voter() => return Ok(true),
                _ => self.check_vote(),
            }
            if !self.pass() {
                self.sleep(Some(Duration::from_millis(20)));
            }
        }
    }

    /// Gives up this attempt to join, and returns the handler. The other members see this process depart.
    pub(super) fn into_handler(mut self) -> Option<Box<dyn Handler>> {
        // The next attempt needs the log open.
        self.keeps_log = true;
        self.handler.take()
    }

    /// Runs passes until the group stops or this process leaves. This is the body of the engine thread.
    pub(super) fn run(mut self) {
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
    pub(super) fn next_pass_ms(&self) -> u64 {
        let mending_ms = self.join_service.mending.due_ms();
        [self.drops_at_ms, self.linger_until_ms, mending_ms]
            .into_iter()
            .flatten()
            .fold(self.node.next_pass_ms(), u64::min)
    }

    /// Drops the reservations that delay a leave, once it has waited long enough for them.
    fn drop_reservations(&mut self, now_ms: u64) -> bool {
        if self.drops_at_ms.take_if(|at_ms| now_ms >= *at_ms).is_none() {
            return false;
        }
        let dropped: usize = self.shared.rings.iter().map(|ring| ring.drop_open()).sum();
        if dropped > 0 {
            tracing::warn!(dropped, "reservations that were still open as this process left were dropped");
        }
        dropped > 0
    }

    pub(super) fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Runs one pass of the node and serves the requests of the handles. Returns true if anything changed.
    pub(super) fn pass(&mut self) -> bool {
        let now_ms = self.now_ms();
        let mut moved = self.newcomer.is_new() && self.welcome();
        moved |= self.drop_reservations(now_ms);
        if self.shared.logs() {
            moved |= self.fetch_log(now_ms);
            self.check_space();
            self.node.set_wall_clock(wall_ns());
        }
        let Driver { node, shared, handler, newcomer, .. } = self;
        let slice = shared.pulse.begin();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            shared.as_callback(|| match handler.as_mut().filter(|_| !newcomer.is_new()) {
                Some(handler) => {
                    let tell = |delivery: Delivery<'_>| handler.deliver(delivery);
                    node.poll(now_ms, &mut Timed { tell, slice })
                }
                None => newcomer.poll(node, now_ms, slice),
            })
        }));
        self.passes += 1;
        moved |= match polled {
            Ok(moved) => moved,
            Err(panic) => self.panicked(&*panic),
        };
        moved |= self.tell_views();
        if self.shared.take_asked() {
            self.serve_handles();
            moved = true;
        }
        if moved {
            self.serve_waiters();
            // Also done before any waiting thread learns that the group has ended.
            self.show_stats();
            self.show_frontiers();
        }
        self.mend_links(now_ms);
        self.watch_phase();
        moved
    }

    /// Notifies the application of the faults and the new views of this pass; returns true if some faults remain.
    ///
    /// Messages of a new view are delivered in later passes.
    fn tell_views(&mut self) -> bool {
        for (member, what) in self.node.take_faults() {
            self.note_fault(member, what);
        }
        let changes = self.node.take_changes();
        if !self.unreported_faults.is_empty() {
            let shared = self.shared.clone();
            let slice = shared.pulse.begin();
            while let Some((member, what)) = self.unreported_faults.pop_front() {
                self.call(|handler| handler.suspected(member, &what));
                // All faults of the former view are passed on before the new view.
                if changes.is_empty() && slice.is_over() {
                    break;
                }
            }
        }
        self.tell_warnings();
        for change in changes {
            let view = Arc::new(View::new(&change));
            self.shared.lock().note_departures(&view, self.shared.me);
            self.join_service.begin(&change);
            self.show_sources(&change.view);
            self.keep_places();
            self.shared.restarting.store(false, Ordering::Relaxed);
            self.shared.founding.store(false, Ordering::Relaxed);
            if self.newcomer.needs_state(self.node.is_voter()) {
                self.take_state();
            }
            if self.newcomer.begin(&view) {
                continue;
            }
            self.tell_view(&view);
        }
        !self.unreported_faults.is_empty()
    }

    pub(super) fn tell_view(&mut self, view: &Arc<View>) {
        self.shared.lock().view = view.clone();
        self.call(|handler| handler.view(view));
    }

    /// Calls the application, unless another thread uses the handler.
    pub(super) fn call(&mut self, f: impl FnOnce(&mut dyn Handler)) {
        let Driver { shared, handler, .. } = self;
        let Some(handler) = handler else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.as_callback(|| f(&mut **handler)))) {
            self.panicked(&*panic);
        }
    }

    /// Serves the requests of the handles. Requests for which the pass has no time are queued again.
    fn serve_handles(&mut self) {
        let shared = self.shared.clone();
        let slice = shared.pulse.begin();
        let mut state = self.shared.lock();
        self.flushes.append(&mut state.flushes);
        let requests = std::mem::take(&mut state.requests);
        let checkpoints = std::mem::take(&mut state.checkpoints);
        let (leaving, drops_at) = (state.leaving, state.drops_at.take());
        drop(state);
        if leaving {
            self.node.leave();
        }
        if let Some(at) = drops_at {
            self.drops_at_ms = Some(millis(at.saturating_duration_since(self.started)));
        }
        let (mut requests, mut checkpoints) = (requests.into_iter(), checkpoints.into_iter());
        for request in requests.by_ref() {
            self.receive(request);
            if slice.is_over() {
                break;
            }
        }
        for asked in checkpoints.by_ref() {
            self.take_checkpoint(&asked);
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

    fn show_stats(&mut self) {
        let mut state = self.shared.lock();
        for stats in &mut state.stats {
            *stats = self.node.stats();
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
                // If the application has not received anything yet, it is not notified: another attempt to join may
                // follow.
                let told_nothing = [&self.shared.restarting, &self.shared.founding];
                if !told_nothing.iter().any(|flag| flag.load(Ordering::Relaxed)) {
                    self.call(|handler| handler.stopped(&reason));
                }
            }
            Phase::Left => self.shared.end(Ok(())),
            _ => {}
        }
    }

    pub(super) fn panicked(&mut self, panic: &(dyn std::any::Any + Send)) -> bool {
        self.node.fail(Error::CallbackPanicked(text_of(panic)));
        true
    }

    /// Whether there is nothing left to drive.
    pub(super) fn ended(&self) -> bool {
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
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) {
        // The last link may have gone down in this very pass. No later event would wake the driver then.
        if !self.arm_and_look() && !self.ended() {
            self.block(timeout);
        }
        self.disarm();
    }

    /// Arms the wake-up, then runs one more pass; returns true if that pass found something.
    pub(super) fn arm_and_look(&mut self) -> bool {
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

    pub(super) fn block(&mut self, timeout: Option<Duration>) {
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
            tracing::error!(%error, "the group's log");
        }
        self.shared.end(Err(Error::Left));
    }
}
