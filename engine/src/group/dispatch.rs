//! A driver in the application's own event loop: the descriptor, and the calls that make passes.

use super::driver::Driver;
use super::shared::{after, millis};
use crate::error::Error;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Passes of one [`Driver::dispatch`], at most: it does not stay for ever in a busy group.
const PASSES_PER_DISPATCH: usize = 64;

impl Driver {
    /// Readable when the join returns, and then whenever there is something to [`Driver::dispatch`], heartbeats included.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Does what there is to do, callbacks included, and returns without waiting. In a busy group it returns before all is
    /// done; the descriptor is readable then. An error is the reason why the group stopped.
    pub fn dispatch(&mut self) -> Result<(), Error> {
        self.shared.life.check()?;
        self.disarm();
        // Readable again when it is set again.
        let _ = self.timer.unset();
        let (begin, period) = (Instant::now(), self.shared.pulse.period());
        let lasts = |n: &usize| *n == 0 || begin.elapsed() < period;
        let idle = (0..PASSES_PER_DISPATCH).take_while(lasts).any(|_| !self.pass());
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
        let due_ms = self.next_pass_ms().saturating_sub(self.now_ms()).clamp(1, 60_000);
        let expiration = Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(due_ms)));
        if let Err(error) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            tracing::error!(%error, "cannot set a timer: heartbeats depend on the application's calls");
        }
    }

    /// One pass, for applications that call again at once and never wait on the descriptor. True if anything moved.
    pub fn poll(&mut self) -> bool {
        !self.shared.life.is_over() && self.pass()
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

    /// [`crate::Group::leave`] of a group that the application drives.
    pub fn leave(self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave(timeout)?;
        self.finish_leave(timeout, timeout)
    }

    /// The rest of a leave of `timeout` that has begun, of which so much is left: for the C ABI.
    #[doc(hidden)]
    pub fn finish_leave(mut self, left: Duration, timeout: Duration) -> Result<(), Error> {
        let deadline = after(left);
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
}
