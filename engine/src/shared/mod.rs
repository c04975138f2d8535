//! The data that the handles of a group share with its driver.

pub(crate) mod bell;
pub(crate) mod founders;
pub(crate) mod pulse;
pub(crate) mod requests;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod wait;

use crate::error::Error;
use crate::log::Log;
use crate::multicast::{Refusal, Reserved, SendRing};
use crate::process::Life;
use crate::shared::bell::Bell;
use crate::shared::founders::Founders;
use crate::shared::pulse::Pulse;
use crate::shared::requests::PeerRequest;
use crate::sync::Fence;
use crate::sync::lock;
use crate::types::{MemberId, Mode};
use crossbeam_utils::CachePadded;
use nix::sys::eventfd::EventFd;
use state::{LeaveTimes, LeftFn, State};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

thread_local! {
    /// The group that is calling the application in this thread; null outside of callbacks.
    static IN_CALLBACK: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

/// The data that the handles of a group share with its driver.
pub(crate) struct Shared {
    /// Identifies the process that joined. In a forked child, threads that do not exist there may hold the locks.
    pub(crate) life: Life,
    pub(crate) me: MemberId,
    /// `stack_bytes` of the configuration.
    pub(crate) stack_bytes: usize,
    /// The group's log, if it has one.
    pub(crate) log: Option<Arc<Log>>,
    /// All processes of the group have ended, and this one waits for the others to come back.
    pub(crate) restarting: AtomicBool,
    /// The first view has not begun yet. The founding may still fail.
    pub(crate) founding: AtomicBool,
    /// The log of this process contains nothing but the first view.
    pub(crate) only_founded: AtomicBool,
    /// While this process restarts: the last view that it has read from its disk. A decision that it writes may be ahead.
    pub(crate) view_on_disk: AtomicU64,
    founders: Mutex<Founders>,
    pub(crate) rings: Vec<Arc<SendRing>>,
    pub(crate) bell: Bell,
    /// The engine reads this after each message, so it has a cache line that is seldom written.
    pub(crate) pulse: CachePadded<Pulse>,
    pub(crate) event: EventFd,
    /// `event` has been written since the driver last read it.
    rung: AtomicBool,
    /// A handle has put a request for the driver into `State`.
    asked: AtomicBool,
    /// No message is accepted any more: the group has stopped, or this process leaves. `State` contains the reason.
    shut: AtomicBool,
    /// One side runs between a claim and the check of `shut`. The other side runs between setting `shut` and the check
    /// for claims.
    shut_fence: Fence,
    /// The driver must end at once: the last handle was dropped, or a leave took too long.
    abandoned: AtomicBool,
    /// The number of threads that wait for ring space.
    waiting: AtomicUsize,
    /// The number of threads that wait until a message of this process is delivered or durable.
    awaiting: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

/// The reason why no ring space was claimed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NoClaim {
    Refused(Refusal),
    /// The group has stopped, this process leaves, or it is a forked child. [`Shared::check_open`] returns which.
    Closed,
}

impl Shared {
    /// Whether the group has a log.
    pub(crate) fn logs(&self) -> bool {
        self.log.is_some()
    }

    pub(crate) fn founders(&self) -> MutexGuard<'_, Founders> {
        lock(&self.founders)
    }

    pub(crate) fn new(
        me: MemberId,
        stack_bytes: usize,
        rings: Vec<Arc<SendRing>>,
        log: Option<Arc<Log>>,
        event: EventFd,
        pulse: Pulse,
    ) -> Shared {
        let state = State::new(rings.len());
        Shared {
            life: Life::present(),
            me,
            stack_bytes,
            log,
            restarting: AtomicBool::new(false),
            founding: AtomicBool::new(false),
            only_founded: AtomicBool::new(false),
            view_on_disk: AtomicU64::new(0),
            founders: Mutex::default(),
            rings,
            bell: Bell::new(),
            pulse: CachePadded::new(pulse),
            event,
            rung: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            shut_fence: Fence::new(),
            abandoned: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            awaiting: AtomicUsize::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves the state consistent, because each change is a single assignment.
        lock(&self.state)
    }

    /// Wakes the engine, if it sleeps, because there is work for it.
    #[inline]
    pub(crate) fn work(&self) {
        if self.bell.must_ring() {
            self.ring();
        }
    }

    /// Makes the descriptor readable.
    pub(crate) fn ring(&self) {
        // The write fails only if the counter is full, and then the descriptor is readable already.
        let _ = self.event.write(1);
        // The flag is set after the write. In the other order the driver could clear the flag before the write, find
        // nothing to read, and leave the descriptor readable for ever.
        self.rung.store(true, Ordering::Release);
    }

    /// Returns a function that wakes the engine when the disk has completed something. Once the group is gone, it does
    /// nothing.
    pub(crate) fn waker(self: &Arc<Self>) -> Box<dyn Fn() + Send + Sync> {
        let shared = Arc::downgrade(self);
        Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.work();
            }
        })
    }

    /// Checks that the group supports a mode: [`Mode::Durable`] needs a log.
    #[inline]
    pub(crate) fn check_mode(&self, mode: Mode) -> Result<(), Error> {
        if mode == Mode::Durable && self.log.is_none() {
            return Err(Error::Misuse(
                "a durable message in a group without a log: give it a `[log]` section at every member",
            ));
        }
        Ok(())
    }

    /// Whether a process is in the present view and the driver of this process has not ended.
    pub(crate) fn is_present(&self, incarnation: u64) -> bool {
        let state = self.lock();
        state.ended.is_none() && state.present.contains(&incarnation)
    }

    /// Passes a request of another process to the driver.
    pub(crate) fn request(&self, request: PeerRequest) {
        self.lock().requests.push(request);
        self.ask();
    }

    /// Notes that the driver is awake.
    pub(crate) fn disarm(&self) {
        self.bell.disarm();
        if self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire) {
            // The read would block if another one has drained the counter; then there is nothing to do.
            let _ = self.event.read();
        }
    }

    /// Wakes the driver, because a request was put into the state.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether a handle has made a request since the last call.
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Acquire)
    }

    /// Claims ring space. The result fits into registers, unlike an [`Error`], which [`Shared::refused`] makes from it.
    #[inline(always)]
    pub(crate) fn claim<'r>(&self, ring: &'r SendRing, len: usize) -> Result<Reserved<'r>, NoClaim> {
        if self.life.is_over() {
            return Err(NoClaim::Closed);
        }
        let reserved = ring.reserve(len).map_err(NoClaim::Refused)?;
        // If a leave did not see this claim, the claim sees `shut` here. So no message is accepted that is not sent.
        self.shut_fence.light();
        if self.shut.load(Ordering::Relaxed) {
            self.give_up(ring, &reserved);
            return Err(NoClaim::Closed);
        }
        Ok(reserved)
    }

    #[cold]
    fn give_up(&self, ring: &SendRing, reserved: &Reserved<'_>) {
        ring.abandon(reserved.claim());
        self.work();
    }

    #[cold]
    pub(crate) fn refused(&self, no: NoClaim, len: usize) -> Error {
        if let Err(reason) = self.check_open() {
            return reason;
        }
        match no {
            NoClaim::Refused(Refusal::Full(first)) => {
                if first {
                    // The engine then asks the other members for the acknowledgements that free space.
                    self.work();
                }
                Error::WouldBlock("the ring is full until the members have delivered earlier messages")
            }
            NoClaim::Refused(Refusal::TooLarge(limit)) => Error::MessageTooLarge { len, limit },
            NoClaim::Closed => Error::Left,
        }
    }

    /// Returns an error if the group has stopped, this process leaves, or it is a forked child.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.life.check()?;
        let state = self.lock();
        match &state.stopped {
            Some(reason) => Err(reason.clone()),
            None if self.shut.load(Ordering::Relaxed) => Err(Error::Left),
            None => Ok(()),
        }
    }

    /// Repeats `claim` whenever ring space may have become free.
    ///
    /// Returns when it succeeds, fails with an error other than [`Error::WouldBlock`], or `timeout` has passed.
    pub(crate) fn wait_for_space<T>(
        &self,
        timeout: Duration,
        mut claim: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let deadline = after(timeout);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `space_freed`: either the driver sees this waiter, or the claim below sees the space.
        fence(Ordering::SeqCst);
        let result = loop {
            let seen = self.lock().space_epoch;
            match claim() {
                Err(Error::WouldBlock(_)) => {}
                other => break other,
            }
            let freed = |state: &State| (state.space_epoch != seen || self.shut.load(Ordering::Relaxed)).then_some(());
            if let Err(error) = self.wait_until(
                deadline,
                "waiting for room in the ring, which is full until every member has delivered earlier messages,",
                timeout,
                freed,
            ) {
                break Err(error);
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Waits until `is_done` returns true, the group ends, or `timeout` has passed. The driver's [`Shared::notify`]
    /// causes the checks.
    pub(crate) fn wait_until_ended(
        &self,
        what: &'static str,
        timeout: Duration,
        is_done: impl Fn(&State) -> bool,
    ) -> Result<(), Error> {
        self.wait_until(after(timeout), what, timeout, |state| {
            if is_done(state) {
                return Some(Ok(()));
            }
            let stopped = state.stopped.clone().map(Err);
            stopped.or_else(|| state.ended.as_ref().map(|_| Err(Error::Left)))
        })?
    }

    /// As [`Shared::wait_until_ended`], for progress of this process's messages: [`Shared::note_progress`] causes the
    /// checks.
    pub(crate) fn wait_for_progress(
        &self,
        what: &'static str,
        timeout: Duration,
        is_done: impl Fn(&State) -> bool,
    ) -> Result<(), Error> {
        self.awaiting.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `note_progress`: either the driver sees this waiter, or the first check sees the
        // progress.
        fence(Ordering::SeqCst);
        let result = self.wait_until_ended(what, timeout, is_done);
        self.awaiting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Wakes the threads that wait for ring space, because the driver has freed some.
    pub(crate) fn space_freed(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.lock().space_epoch += 1;
            self.changed.notify_all();
        }
    }

    /// Wakes the threads that wait until a message is delivered or durable, because there was progress.
    pub(crate) fn note_progress(&self) {
        fence(Ordering::SeqCst);
        if self.awaiting.load(Ordering::Relaxed) > 0 {
            self.notify();
        }
    }

    /// Wakes every waiting thread, after a change outside the lock.
    pub(crate) fn notify(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Waits until `ready` returns a value, and returns that value.
    pub(crate) fn wait_until<T>(
        &self,
        deadline: Instant,
        what: &'static str,
        timeout: Duration,
        mut ready: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, Error> {
        self.life.check()?;
        let mut state = self.lock();
        loop {
            if let Some(value) = ready(&state) {
                return Ok(value);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Error::TimedOut { what, after_ms: millis(timeout) });
            }
            let waited = self.changed.wait_timeout(state, deadline - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks the driver to leave within `timeout`, to drop reservations that are still open after half of it, and to call
    /// `left` with the result.
    ///
    /// If the group has ended, the result is already in `State::ended`. That is an error if there is a function to call.
    pub(crate) fn begin_leave(&self, timeout: Duration, left: Option<LeftFn>) -> Result<(), Error> {
        self.life.check()?;
        let mut state = self.lock();
        if state.leaving {
            return Err(Error::Left);
        }
        if let (Some(_), Some(ended)) = (&left, &state.ended) {
            return Err(ended.clone().err().unwrap_or(Error::Left));
        }
        self.shut();
        state.leaving = true;
        state.leave_times = Some(LeaveTimes { drops_at: after(timeout / 2), ends_at: after(timeout), timeout });
        state.left = left;
        drop(state);
        self.changed.notify_all();
        self.ask();
        Ok(())
    }

    /// Makes the driver end at once.
    pub(crate) fn abandon(&self) {
        if self.life.is_over() {
            return;
        }
        self.abandoned.store(true, Ordering::Relaxed);
        self.shut.store(true, Ordering::Relaxed);
        self.ask();
    }

    /// Whether the driver must end at once.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Stops accepting messages. After this call, every claim that was accepted is visible to the calling thread.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
        self.shut_fence.heavy();
    }

    /// Records the reason why the group stopped, and wakes all waiting threads.
    pub(crate) fn stop(&self, reason: &Error) {
        let mut state = self.lock();
        // Dropping the requests closes their channels, so threads that wait for a checkpoint return.
        state.checkpoints.clear();
        state.stopped.get_or_insert_with(|| reason.clone());
        state.ended.get_or_insert_with(|| Err(reason.clone()));
        drop(state);
        self.changed.notify_all();
    }

    /// Records that the driver has ended, and wakes all waiting threads.
    pub(crate) fn end(&self, result: Result<(), Error>) {
        let mut state = self.lock();
        state.checkpoints.clear();
        state.ended.get_or_insert(result);
        self.shut.store(true, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether this thread is inside a callback of this group.
    pub(crate) fn in_callback(&self) -> bool {
        IN_CALLBACK.get() == std::ptr::from_ref(self)
    }

    /// Runs `f`; in that time this thread counts as inside a callback.
    pub(crate) fn as_callback<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Restore(*const Shared);
        impl Drop for Restore {
            fn drop(&mut self) {
                IN_CALLBACK.set(self.0);
            }
        }
        let _restore = Restore(IN_CALLBACK.replace(std::ptr::from_ref(self)));
        f()
    }
}

/// The time `timeout` from now, or a century from now if that is earlier.
pub(crate) fn after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(100 * 365 * 24 * 3600))
}

/// The duration in whole milliseconds, for error texts.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
