//! A driver in the application's own event loop: the descriptor, and the calls that make passes.

use super::Driver;
use crate::error::Error;
use crate::node::Phase;
use crate::shared::after;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Maximum number of passes in one [`Driver::dispatch`], so that it returns even in a busy group.
const PASSES_PER_DISPATCH: usize = 64;

impl Driver {
    /// The descriptor to wait on. It is readable when the join returns, and then whenever [`Driver::dispatch`] has
    /// work, heartbeats included.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.outer.as_ref().unwrap_or(&self.epoll).0.as_fd()
    }

    /// Does all pending work, callbacks included, and returns without waiting.
    ///
    /// In a busy group it returns before all work is done, and the descriptor is readable then.
    ///
    /// # Errors
    /// The reason why the group stopped. [`Error::Left`] once a leave is over: drop the driver, which ends its links.
    pub fn dispatch(&mut self) -> Result<(), Error> {
        self.shared.life.check()?;
        if !self.has_left() {
            self.dispatch_passes();
        }
        match self.shared.lock().stopped.clone() {
            Some(reason) => Err(reason),
            None if self.has_left() => Err(Error::Left),
            None => Ok(()),
        }
    }

    /// Whether a leave is over, or the last handle was dropped.
    fn has_left(&self) -> bool {
        matches!(self.node.phase(), Phase::Left) || self.shared.is_abandoned()
    }

    fn dispatch_passes(&mut self) {
        self.disarm();
        // This makes the timer's descriptor unreadable until the timer is set and expires again.
        let _ = self.timer.unset();
        let (begin, period) = (Instant::now(), self.shared.pulse.period());
        let lasts = |n: &usize| *n == 0 || begin.elapsed() < period;
        let idle = (0..PASSES_PER_DISPATCH).take_while(lasts).any(|_| !self.pass());
        // After arming, the node looks once more. It finds all earlier work now; later work makes the descriptor
        // readable.
        if !idle || self.arm_and_look() {
            self.shared.ring();
        } else {
            self.set_timer();
        }
    }

    /// Sets the timer for the next pass, so that heartbeats continue while the application waits on the descriptor.
    fn set_timer(&self) {
        let due_ms = self.next_pass_ms().saturating_sub(self.now_ms()).clamp(1, 60_000);
        let expiration = Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(due_ms)));
        if let Err(error) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            tracing::error!(%error, "cannot set the timer: heartbeats now depend on the application's calls of `dispatch`");
        }
    }

    /// Runs one pass; returns true if anything changed. For applications that call it in a loop and never wait on the
    /// descriptor.
    pub fn poll(&mut self) -> bool {
        !self.shared.life.is_over() && self.pass()
    }

    /// Dispatches and sleeps in turn until `done` returns true (result true) or `timeout` has passed (result false).
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
}
