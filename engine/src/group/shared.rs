//! What the handles of a group and its driver share.

use super::bell::Bell;
use super::door::Visit;
use super::durable::{Asked, Frontiers};
use super::flush::Pending;
use super::pulse::Pulse;
use super::revive::Founders;
use super::view::View;
use super::wire::Place;
use crate::config::MemberId;
use crate::error::Error;
use crate::log::Log;
use crate::multicast::{Mode, Refusal, Reserved, SendRing, Stats};
use crate::process::Life;
use crate::sync::Fence;
use crossbeam_utils::CachePadded;
use nix::sys::eventfd::EventFd;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

thread_local! {
    /// The group whose callbacks this thread is in.
    static IN_CALLBACK: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

/// See the module.
pub(super) struct Shared {
    /// Of the process that joined: in a child, locks may be held by threads that are not there.
    pub(super) life: Life,
    pub(super) me: MemberId,
    /// `stack_bytes` of the configuration.
    pub(super) stack_bytes: usize,
    /// The group's log, if it has one.
    pub(super) log: Option<Arc<Log>>,
    /// All of the group's processes ended: this one waits for the others.
    pub(super) restarting: AtomicBool,
    /// The first view is still to begin: the founding may come to nothing.
    pub(super) founding: AtomicBool,
    /// This one's log has nothing but the first view.
    pub(super) only_founded: AtomicBool,
    founders: Mutex<Founders>,
    pub(super) rings: Vec<Arc<SendRing>>,
    pub(super) bell: Bell,
    /// Read after each message: on a line that is seldom written.
    pub(super) pulse: CachePadded<Pulse>,
    pub(super) event: EventFd,
    /// `event` was written since the driver last read it.
    rung: AtomicBool,
    /// A handle put something for the driver into `State`.
    asked: AtomicBool,
    /// Nothing is accepted any more: the group stopped or this process leaves. `State` says why.
    shut: AtomicBool,
    /// Between a claim and the look at `shut`; between setting `shut` and the look at what was claimed.
    shut_fence: Fence,
    /// The driver is to end at once: the last handle is gone, or a leave took too long.
    abandoned: AtomicBool,
    /// Threads that wait for ring space.
    waiting: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Why nothing was claimed.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoClaim {
    Refused(Refusal),
    /// The group has stopped, this process leaves, or is a forked child: [`Shared::check_open`] says which.
    Closed,
}

/// What changes seldom.
pub(super) struct State {
    /// Why the group stopped.
    pub(super) stopped: Option<Error>,
    /// This process wants to leave.
    pub(super) leaving: bool,
    /// When the driver is to drop the reservations that are open then.
    pub(super) drops_at: Option<Instant>,
    /// The driver has ended: how the leave went.
    pub(super) ended: Option<Result<(), Error>>,
    /// Grows when ring space was freed while a thread waited for it.
    space_epoch: u64,
    /// New flushes, for the driver to take.
    pub(super) flushes: Vec<Pending>,
    pub(super) stats: Vec<Stats>,
    /// How far the log is.
    pub(super) frontiers: Frontiers,
    /// Checkpoints that are asked for, for the driver to take.
    pub(super) checkpoints: Vec<Asked>,
    /// What the door wants, for the driver to take.
    pub(super) visits: Vec<Visit>,
    /// What was observed first of each member that speaks against it, since the present view began or up to its removal.
    pub(super) faults: HashMap<MemberId, String>,
    /// Where the members of the present view are found; before its first view, those that a joiner links with.
    pub(super) places: Arc<Vec<Place>>,
    /// The view that the application was told of last.
    pub(super) view: Arc<View>,
    /// The processes of the present view, by incarnation: only they are given a state or a log.
    pub(super) present: HashSet<u64>,
}

impl State {
    /// A view begins: what was observed of its other members is over, and of one that was removed there is something to say.
    /// What failed in this process, `me`, stays.
    pub(super) fn note_departures(&mut self, view: &View, me: MemberId) {
        for member in view.members.iter().filter(|member| **member != me && !view.failed.contains(member)) {
            self.faults.remove(member);
        }
        for member in view.failed.iter().filter(|member| **member != me) {
            let unseen = match view.joined.contains(member) {
                true => "its former process had ended when this one was started again",
                false => "the other members removed it before this process observed anything",
            };
            self.faults.entry(*member).or_insert_with(|| unseen.to_owned());
        }
    }
}

impl Shared {
    pub(super) fn founders(&self) -> MutexGuard<'_, Founders> {
        self.founders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new(
        (me, stack_bytes): (MemberId, usize),
        rings: Vec<Arc<SendRing>>,
        log: Option<Arc<Log>>,
        (event, pulse): (EventFd, Pulse),
    ) -> Shared {
        let stats = vec![Stats::default(); rings.len()];
        let state = State {
            stopped: None,
            leaving: false,
            drops_at: None,
            ended: None,
            space_epoch: 0,
            flushes: Vec::new(),
            stats,
            frontiers: Frontiers::default(),
            checkpoints: Vec::new(),
            visits: Vec::new(),
            faults: HashMap::new(),
            places: Arc::default(),
            view: Arc::default(),
            present: HashSet::new(),
        };
        Shared {
            life: Life::present(),
            me,
            stack_bytes,
            log,
            restarting: AtomicBool::new(false),
            founding: AtomicBool::new(false),
            only_founded: AtomicBool::new(false),
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
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves nothing half-done: every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something for the engine to do.
    #[inline]
    pub(super) fn work(&self) {
        if self.bell.must_ring() {
            self.ring();
        }
    }

    /// Makes the descriptor readable.
    pub(super) fn ring(&self) {
        // It fails only when the counter is full, and then the descriptor is readable anyway.
        let _ = self.event.write(1);
        // After the write: the driver would otherwise take the flag, find nothing to read, and then be woken for ever.
        self.rung.store(true, Ordering::Release);
    }

    /// What wakes the engine when the disk has done something; it outlives the group harmlessly.
    pub(super) fn waker(self: &Arc<Self>) -> Box<dyn Fn() + Send + Sync> {
        let shared = Arc::downgrade(self);
        Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.work();
            }
        })
    }

    /// Whether the group has what a mode promises.
    #[inline]
    pub(super) fn check_mode(&self, mode: Mode) -> Result<(), Error> {
        if mode == Mode::Durable && self.log.is_none() {
            return Err(Error::Misuse(
                "a durable message in a group without a log: give it a `[log]` section at every member",
            ));
        }
        Ok(())
    }

    /// Whether a process is in the present view, and this one still runs in it.
    pub(super) fn is_present(&self, incarnation: u64) -> bool {
        let state = self.lock();
        state.ended.is_none() && state.present.contains(&incarnation)
    }

    /// Somebody at the door wants something of the driver.
    pub(super) fn visit(&self, visit: Visit) {
        self.lock().visits.push(visit);
        self.ask();
    }

    /// The driver is awake.
    pub(super) fn disarm(&self) {
        self.bell.disarm();
        if self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire) {
            // Would block if another read has drained it.
            let _ = self.event.read();
        }
    }

    /// Something was put into the state for the driver.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether a handle asked for something since the last call.
    pub(super) fn take_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Acquire)
    }

    /// What it answers goes through registers, unlike an [`Error`]: [`Shared::refused`] makes one.
    #[inline(always)]
    pub(super) fn claim<'r>(&self, ring: &'r SendRing, len: usize) -> Result<Reserved<'r>, NoClaim> {
        if self.life.is_over() {
            return Err(NoClaim::Closed);
        }
        let reserved = ring.reserve(len).map_err(NoClaim::Refused)?;
        // A leave that did not see this claim is seen here, so nothing is accepted that will not be sent.
        self.shut_fence.often();
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
    pub(super) fn refused(&self, no: NoClaim, len: usize) -> Error {
        if let Err(reason) = self.check_open() {
            return reason;
        }
        match no {
            NoClaim::Refused(Refusal::Full(first)) => {
                if first {
                    // The engine asks the others for what frees space.
                    self.work();
                }
                Error::WouldBlock("the ring is full until the members have delivered earlier messages")
            }
            NoClaim::Refused(Refusal::TooLarge(limit)) => Error::MessageTooLarge { len, limit },
            NoClaim::Closed => Error::Left,
        }
    }

    /// An error once the group has stopped or this process leaves.
    pub(super) fn check_open(&self) -> Result<(), Error> {
        self.life.check()?;
        let state = self.lock();
        match &state.stopped {
            Some(reason) => Err(reason.clone()),
            None if self.shut.load(Ordering::Relaxed) => Err(Error::Left),
            None => Ok(()),
        }
    }

    /// Tries `claim` until it no longer would block, whenever ring space may have become free.
    pub(super) fn wait_for_space<T>(
        &self,
        timeout: Duration,
        mut claim: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let deadline = after(timeout);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `space_freed`: either it sees this waiter, or the claim below sees the space.
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

    /// The driver has freed ring space.
    pub(super) fn space_freed(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.lock().space_epoch += 1;
            self.changed.notify_all();
        }
    }

    /// Wakes every waiting thread, after something they wait for changed outside the lock.
    pub(super) fn notify(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Waits until `ready` says something about the state.
    pub(super) fn wait_until<T>(
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

    /// Asks the driver to leave, and to drop the reservations that are still open after half of `timeout`. In a group that has
    /// stopped the answer is there already, in `State::ended`.
    pub(super) fn begin_leave(&self, timeout: Duration) -> Result<(), Error> {
        self.life.check()?;
        let mut state = self.lock();
        if state.leaving {
            return Err(Error::Left);
        }
        self.shut();
        state.leaving = true;
        state.drops_at = Some(after(timeout / 2));
        drop(state);
        self.changed.notify_all();
        self.ask();
        Ok(())
    }

    /// Makes the driver end at once.
    pub(super) fn abandon(&self) {
        if self.life.is_over() {
            return;
        }
        self.abandoned.store(true, Ordering::Relaxed);
        self.shut.store(true, Ordering::Relaxed);
        self.ask();
    }

    /// Whether the driver is to end at once.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// The group stops: nothing is accepted any more, and whoever looks at what was claimed sees all of it.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
        self.shut_fence.seldom();
    }

    /// The group stopped, for this reason.
    pub(super) fn stop(&self, reason: &Error) {
        let mut state = self.lock();
        // Whoever waits for one is told by that.
        state.checkpoints.clear();
        state.stopped.get_or_insert_with(|| reason.clone());
        state.ended.get_or_insert_with(|| Err(reason.clone()));
        drop(state);
        self.changed.notify_all();
    }

    /// The driver has ended.
    pub(super) fn end(&self, result: Result<(), Error>) {
        let mut state = self.lock();
        state.checkpoints.clear();
        state.ended.get_or_insert(result);
        self.shut.store(true, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether this thread is in a callback of this group.
    pub(super) fn in_callback(&self) -> bool {
        IN_CALLBACK.get() == std::ptr::from_ref(self)
    }

    /// Runs `f`, during which this thread counts as in a callback.
    pub(super) fn as_callback<T>(&self, f: impl FnOnce() -> T) -> T {
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

/// The moment `timeout` from now, or a century from now if that is earlier.
pub(super) fn after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(100 * 365 * 24 * 3600))
}

/// Whole milliseconds, for error texts.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
