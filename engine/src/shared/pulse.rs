//! Limits the length of an engine pass.
//!
//! Heartbeats are sent between passes, so callbacks and copies must leave time for them, however many there are.
//!
//! Reading the clock after each message would cost more than many messages do. So the thread that listens for
//! connections counts ticks while the engine is busy, and sleeps otherwise. The engine reads the count.

use crate::multicast::{Delivery, Sink};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Ticks per failure timeout. A pass ends after two ticks, well within the interval of two heartbeats.
const TICKS_PER_TIMEOUT: u64 = 20;

/// The tick count, shared by the engine and the counting thread.
pub(crate) struct Pulse {
    period: Duration,
    ticks: AtomicU64,
    /// The engine has read the count since the last tick.
    watched: AtomicBool,
    /// Wakes the thread that counts.
    wake: EventFd,
}

/// The time allowed for a pass, from its beginning.
pub(crate) struct Slice<'p> {
    pulse: &'p Pulse,
    from: u64,
    /// The count at the latest check. While it is unchanged, the thread is counting and no further check is needed.
    seen: Cell<u64>,
}

impl Pulse {
    pub(crate) fn new(failure_timeout_ms: u64) -> nix::Result<Pulse> {
        let period = Duration::from_millis((failure_timeout_ms / TICKS_PER_TIMEOUT).max(1));
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Pulse { period, ticks: AtomicU64::new(0), watched: AtomicBool::new(false), wake })
    }

    /// Begins a pass.
    pub(crate) fn begin(&self) -> Slice<'_> {
        let from = self.ticks.load(Ordering::Relaxed);
        // This value differs from the count, so the first check takes the slow path.
        Slice { pulse: self, from, seen: Cell::new(from.wrapping_sub(1)) }
    }

    /// The time between two ticks.
    pub(crate) fn period(&self) -> Duration {
        self.period
    }

    #[cold]
    fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
        // The write fails only if the counter is full, and then the descriptor is readable already.
        let _ = self.wake.write(1);
    }
}

impl Slice<'_> {
    /// Whether the pass has lasted long enough.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        // This runs after each message, so the common case is a single load.
        self.pulse.ticks.load(Ordering::Relaxed) != self.seen.get() && self.look()
    }

    #[cold]
    fn look(&self) -> bool {
        // Pairs with the Release in `Ticker::turn`. An engine that sees a tick also sees that `watched` was cleared, so
        // it asks the thread to continue.
        let ticks = self.pulse.ticks.load(Ordering::Acquire);
        if !self.pulse.watched.load(Ordering::Relaxed) {
            self.pulse.watch();
        }
        // The first tick may come right after the pass began.
        let is_over = ticks.wrapping_sub(self.from) >= 2;
        if !is_over {
            self.seen.set(ticks);
        }
        is_over
    }
}

/// Passes messages to `tell` for as long as a pass may last.
pub(crate) struct Timed<'p, F> {
    pub(crate) tell: F,
    pub(crate) slice: Slice<'p>,
}

impl<F: FnMut(Delivery<'_>)> Sink for Timed<'_, F> {
    #[inline]
    fn deliver(&mut self, delivery: Delivery<'_>) -> bool {
        (self.tell)(delivery);
        !self.slice.is_over()
    }

    #[inline]
    fn is_over(&mut self) -> bool {
        self.slice.is_over()
    }
}

/// The counting thread's part.
pub(crate) struct Ticker<'p> {
    pulse: &'p Pulse,
    due: Option<Instant>,
}

impl<'p> Ticker<'p> {
    pub(crate) fn new(pulse: &'p Pulse) -> Ticker<'p> {
        Ticker { pulse, due: None }
    }

    /// The descriptor is readable when the engine has begun to read the count.
    pub(crate) fn fd(&self) -> BorrowedFd<'p> {
        self.pulse.wake.as_fd()
    }

    /// The time that the thread may sleep; `None` means without limit.
    pub(crate) fn rest(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Counts a tick if it is due. `called`: the descriptor is readable.
    pub(crate) fn turn(&mut self, called: bool) {
        let now = Instant::now();
        if called {
            // The read would block if the counter was drained already.
            let _ = self.pulse.wake.read();
            self.due.get_or_insert(now + self.pulse.period);
        }
        if self.due.is_some_and(|due| now >= due) {
            // If the engine does not read the count any more, counting stops. The engine wakes this thread when it
            // begins again.
            let watched = self.pulse.watched.swap(false, Ordering::Relaxed);
            self.pulse.ticks.fetch_add(1, Ordering::Release);
            self.due = watched.then(|| now + self.pulse.period);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_ends_after_two_ticks_and_ticks_end_when_nobody_looks() {
        let pulse = Pulse::new(20).unwrap();
        let mut ticker = Ticker::new(&pulse);
        assert_eq!(ticker.rest(), None);
        let slice = pulse.begin();
        assert!(!slice.is_over());
        assert_eq!(pulse.wake.read(), Ok(1), "the thread is woken");
        let mut called = true;
        let begin = Instant::now();
        while !slice.is_over() {
            std::thread::sleep(ticker.rest().unwrap_or_default());
            ticker.turn(std::mem::take(&mut called));
        }
        assert!(begin.elapsed() >= pulse.period());
        assert!(!pulse.begin().is_over(), "the next pass");
        for _ in 0..2 {
            std::thread::sleep(ticker.rest().unwrap_or_default());
            ticker.turn(false);
        }
        assert_eq!(ticker.rest(), None, "it sleeps");
    }
}
