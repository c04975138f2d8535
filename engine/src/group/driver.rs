//! Who calls the node's `poll`: a thread of the library, or the application through a descriptor.

use super::durable::{Frontiers, Fullness};
use super::flush::Pending;
use super::handler::Handler;
use super::newcomer::Newcomer;
use super::reception::{HandOut, Reception};
use super::revive::Fetch;
use super::shared::{Shared, after, millis};
use super::view::View;
use crate::config::Config;
use crate::error::Error;
use crate::log::wall_ns;
use crate::node::{Node, Phase};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a stopped node goes on, so that its last words reach the others, in milliseconds.
const LINGER_MS: u64 = 1000;
/// A driver that never sleeps offers its core to others once in so many idle passes.
const PASSES_PER_YIELD: u64 = 256;
/// Passes of one [`Driver::dispatch`], which does not stay for ever in a busy group.
const PASSES_PER_DISPATCH: usize = 64;

/// Runs a member's node: see [`crate::Group::join_driven`].
pub struct Driver {
    pub(super) node: Node,
    pub(super) shared: Arc<Shared>,
    /// Away while it takes the group's state.
    pub(super) handler: Option<Box<dyn Handler>>,
    pub(super) newcomer: Newcomer,
    pub(super) reception: Reception,
    epoll: Epoll,
    /// Makes the descriptor readable when a pass is due, for applications that wait on it themselves.
    timer: TimerFd,
    started: Instant,
    spin: Duration,
    busy_poll: bool,
    flushes: Vec<Pending>,
    pub(super) hand_outs: Vec<HandOut>,
    passes: u64,
    sleeps: u64,
    /// The node's count of frees, as of the last look.
    freed: u64,
    told_stop: bool,
    /// How far the log was at the last look, and what is fetched for it.
    pub(super) frontiers: Frontiers,
    /// What the application was told to be durable.
    pub(super) told_durable: u64,
    pub(super) fetch: Option<Fetch>,
    pub(super) fetch_again_ms: u64,
    keeps_log: bool,
    pub(super) fullness: Fullness,
    /// When to give up what is left of the links after the end.
    linger_until_ms: Option<u64>,
}

impl Driver {
    pub(super) fn new(
        mut node: Node,
        shared: Arc<Shared>,
        handler: Box<dyn Handler>,
        reception: Reception,
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
            node,
            shared,
            handler: Some(handler),
            newcomer: Newcomer::new(config),
            reception,
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
            told_stop: false,
            frontiers: Frontiers::default(),
            told_durable: 0,
            fetch: None,
            fetch_again_ms: 0,
            keeps_log: false,
            fullness: Fullness::new(config),
            linger_until_ms: None,
        })
    }

    /// Waits until this process runs in a view, and has the group's state if it joined, or until `give_up` says that it has
    /// waited enough (then it is false).
    pub(super) fn install(&mut self, mut give_up: impl FnMut(&Node) -> bool) -> Result<bool, Error> {
        loop {
            match self.node.phase() {
                Phase::Stopped(reason) => {
                    let reason = reason.clone();
                    self.linger();
                    return Err(reason);
                }
                Phase::Joining | Phase::Restarting if give_up(&self.node) => return Ok(false),
                Phase::Founding | Phase::Joining | Phase::Restarting => {}
                _ if self.newcomer.is_new() => {}
                _ => return Ok(true),
            }
            if !self.pass() {
                self.sleep(Some(Duration::from_millis(20)));
            }
        }
    }

    /// Gives the attempt up: the others see this process go.
    pub(super) fn into_handler(mut self) -> Option<Box<dyn Handler>> {
        // The next attempt needs it.
        self.keeps_log = true;
        self.handler.take()
    }

    /// The engine thread: until the group stops or this process leaves.
    pub(super) fn run(mut self) {
        let mut idle_since = None;
        while !self.ended() {
            if self.pass() {
                idle_since = None;
            } else if self.busy_poll {
                // The core is its own, but a neighbour that needs it after all is let in now and then.
                if self.passes.is_multiple_of(PASSES_PER_YIELD) {
                    std::thread::yield_now()
                } else {
                    std::hint::spin_loop()
                }
            } else if !self.spin.is_zero() && idle_since.get_or_insert_with(Instant::now).elapsed() < self.spin {
                // Others may need this core to produce what is waited for.
                std::thread::yield_now();
            } else {
                self.sleep(None);
            }
        }
    }

    /// Becomes readable when there is something to [`Driver::dispatch`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Does what there is to do, callbacks included, and returns without waiting. In a busy group it returns before all is
    /// done; the descriptor is readable then. An error is the reason why the group stopped.
    pub fn dispatch(&mut self) -> Result<(), Error> {
        self.disarm();
        // Readable again when it is set again.
        let _ = self.timer.unset();
        let idle = (0..PASSES_PER_DISPATCH).any(|_| !self.pass());
        // Armed, the node looks once more: what came before is found now, what comes later makes the descriptor readable.
        if !idle || self.arm_and_look() {
            self.shared.ring();
        } else {
            self.set_timer();
        }
        self.shared.lock().stopped.clone().map_or(Ok(()), Err)
    }

    /// Heartbeats go on while the application waits on the descriptor.
    fn set_timer(&self) {
        let due_ms = self.node.next_pass_ms().saturating_sub(self.now_ms()).clamp(1, 60_000);
        let expiration = Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(due_ms)));
        if let Err(error) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            tracing::error!(%error, "cannot set a timer: heartbeats depend on the application's calls");
        }
    }

    /// One pass, for applications that call again at once and never wait on the descriptor. True if anything moved.
    pub fn poll(&mut self) -> bool {
        self.pass()
    }

    /// Dispatches, and sleeps in between, until `done` says so or `timeout` has passed (then it is false).
    pub fn wait(&mut self, timeout: Duration, mut done: impl FnMut() -> bool) -> Result<bool, Error> {
        let deadline = after(timeout);
        loop {
            let stopped = self.dispatch();
            if done() {
                return Ok(true);
            }
            stopped?;
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            self.block(Some(deadline - now));
        }
    }

    /// [`crate::Group::leave`] for whoever drives the group.
    pub fn leave(mut self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave()?;
        let deadline = after(timeout);
        while !self.ended() {
            if Instant::now() >= deadline {
                self.shared.end(Err(Error::TimedOut { what: "leave", after_ms: millis(timeout) }));
                break;
            }
            if !self.pass() {
                self.sleep(Some(deadline.saturating_duration_since(Instant::now())));
            }
        }
        self.shared.lock().ended.clone().unwrap_or(Ok(()))
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// One pass of the node and of what the handles asked for.
    fn pass(&mut self) -> bool {
        let now_ms = self.now_ms();
        let mut moved = self.newcomer.is_new() && self.welcome();
        if self.shared.logs() {
            moved |= self.fetch_log(now_ms);
            self.check_space(now_ms);
            self.node.tell_time(wall_ns());
        }
        let Driver { node, shared, handler, newcomer, .. } = self;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            shared.as_callback(|| match handler.as_mut().filter(|_| !newcomer.is_new()) {
                Some(handler) => node.poll(now_ms, &mut |delivery| handler.deliver(delivery)),
                None => newcomer.poll(node, now_ms),
            })
        }));
        self.passes += 1;
        moved |= match polled {
            Ok(moved) => moved,
            Err(panic) => self.panicked(&*panic),
        };
        self.tell_views();
        if self.shared.take_asked() {
            self.serve_handles();
            moved = true;
        }
        if moved {
            self.serve_waiters();
            // Before anybody is told that the group has ended, too.
            self.show_stats();
            self.show_frontiers();
        }
        self.watch_phase();
        moved
    }

    /// Tells the application whom this pass spoke against, and of the views that began in it: their deliveries come in later
    /// ones.
    fn tell_views(&mut self) {
        for (member, what) in self.node.take_faults() {
            tracing::warn!(member = member.0, what, "suspected");
            self.shared.lock().faults.insert(member, what.clone());
            self.call(|handler| handler.suspected(member, &what));
        }
        for change in self.node.take_changes() {
            let view = Arc::new(View::new(&change));
            self.reception.begin(&change);
            self.keep_places();
            self.shared.restarting.store(false, Ordering::Relaxed);
            if self.newcomer.needs_state(self.node.is_voter()) {
                self.take_state();
            }
            if self.newcomer.begin(&view) {
                continue;
            }
            self.tell_view(&view);
        }
    }

    pub(super) fn tell_view(&mut self, view: &Arc<View>) {
        self.shared.lock().view = view.clone();
        self.call(|handler| handler.view(view));
    }

    /// Calls the application, if it is here.
    pub(super) fn call(&mut self, f: impl FnOnce(&mut dyn Handler)) {
        let Driver { shared, handler, .. } = self;
        let Some(handler) = handler else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.as_callback(|| f(&mut **handler)))) {
            self.panicked(&*panic);
        }
    }

    /// Takes what the handles asked for.
    fn serve_handles(&mut self) {
        let mut state = self.shared.lock();
        self.flushes.append(&mut state.flushes);
        let visits = std::mem::take(&mut state.visits);
        let checkpoints = std::mem::take(&mut state.checkpoints);
        let leaving = state.leaving;
        drop(state);
        if leaving {
            self.node.leave();
        }
        for visit in visits {
            self.receive(visit);
        }
        checkpoints.iter().for_each(|asked| self.take_checkpoint(asked));
    }

    fn show_stats(&mut self) {
        let mut state = self.shared.lock();
        for stats in &mut state.stats {
            *stats = self.node.stats();
            (stats.passes, stats.sleeps) = (self.passes, self.sleeps);
        }
    }

    /// Wakes threads that wait for ring space or a flush.
    fn serve_waiters(&mut self) {
        let freed = self.node.multicast().freed();
        if std::mem::replace(&mut self.freed, freed) != freed {
            self.shared.space_freed();
        }
        self.hand_out();
        let before = self.flushes.len();
        self.flushes.retain_mut(|flush| !flush.check(&self.node));
        if self.flushes.len() != before {
            self.shared.notify();
        }
    }

    /// Tells the application and the handles when the node has stopped or left.
    fn watch_phase(&mut self) {
        match self.node.phase() {
            Phase::Stopped(reason) if !self.told_stop => {
                let reason = reason.clone();
                self.told_stop = true;
                self.linger_until_ms = Some(self.now_ms() + LINGER_MS);
                self.shared.shut();
                self.shared.stop(&reason);
                // An application that was told nothing yet may be told more, in another attempt to join.
                if !self.shared.restarting.load(Ordering::Relaxed) {
                    self.call(|handler| handler.stopped(&reason));
                }
            }
            Phase::Left => self.shared.end(Ok(())),
            _ => {}
        }
    }

    pub(super) fn panicked(&mut self, panic: &(dyn std::any::Any + Send)) -> bool {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned());
        self.node.fail(Error::CallbackPanicked(text));
        true
    }

    /// Whether there is nothing left to drive.
    fn ended(&self) -> bool {
        match self.node.phase() {
            Phase::Left => true,
            Phase::Stopped(_) => self.node.closed() || self.linger_until_ms.is_some_and(|until| self.now_ms() >= until),
            _ => self.shared.is_abandoned(),
        }
    }

    /// Lets the last words of a stopped node reach the others.
    fn linger(&mut self) {
        while !self.ended() {
            if !self.pass() {
                self.sleep(Some(Duration::from_millis(20)));
            }
        }
    }

    /// Sleeps in the kernel until there is something to do, at most `timeout`.
    fn sleep(&mut self, timeout: Option<Duration>) {
        // The last link may have gone down in this very look, which nothing announces any more.
        if !self.arm_and_look() && !self.ended() {
            self.block(timeout);
        }
        self.disarm();
    }

    /// Asks to be woken, then looks once more: true if something came meanwhile.
    fn arm_and_look(&mut self) -> bool {
        self.shared.bell.arm();
        self.node.fabric().arm();
        self.pass()
    }

    /// After a wait on the descriptor, for a loop that goes on with [`Driver::poll`]: until the next
    /// [`Driver::dispatch`] nobody takes the trouble to wake this member.
    pub fn disarm(&mut self) {
        self.shared.disarm();
        self.node.fabric().disarm();
    }

    fn block(&mut self, timeout: Option<Duration>) {
        self.sleeps += 1;
        self.show_stats();
        // Heartbeats go on while nothing else happens.
        let due_ms = self.node.next_pass_ms().min(self.linger_until_ms.unwrap_or(u64::MAX));
        let left_ms = due_ms.saturating_sub(self.now_ms());
        let ms = timeout.map(millis).into_iter().fold(left_ms, u64::min);
        // Rounded up, so that a short wait is not a busy one.
        let timeout = EpollTimeout::try_from(ms.saturating_add(1).min(60_000)).unwrap_or(EpollTimeout::ZERO);
        let mut events = [EpollEvent::empty(); 3];
        // An interrupted wait is a short one.
        let _ = self.epoll.wait(&mut events, timeout);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What was handed to it is on disk then, and another process may open it.
        let log = self.shared.log.as_ref().filter(|_| !self.keeps_log);
        if let Some(Err(error)) = log.map(|log| log.shut()) {
            tracing::error!(%error, "the group's log");
        }
        self.shared.end(Err(Error::Left));
    }
}
