//! The driver's part of a leave: its limits in time, and the word to the application when it is over.

use super::Driver;
use crate::error::Error;
use crate::node::Phase;
use crate::shared::state::LeaveTimes;
use crate::shared::{after, millis};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The limits of a leave that has begun, in milliseconds of the driver's clock.
#[derive(Default)]
pub(super) struct Leaving {
    /// When reservations that are still open are dropped.
    drops_at_ms: Option<u64>,
    /// When this process goes, whether or not the others have gone on without it.
    ends_at_ms: Option<u64>,
    timeout_ms: u64,
    /// The time limit has passed. The driver makes no pass any more.
    pub(super) over: bool,
}

impl Leaving {
    /// Notes a leave, for a driver that started at `started`.
    pub(super) fn begin(&mut self, times: LeaveTimes, started: Instant) {
        let at_ms = |at: Instant| Some(millis(at.saturating_duration_since(started)));
        self.drops_at_ms = at_ms(times.drops_at);
        self.ends_at_ms = at_ms(times.ends_at);
        self.timeout_ms = millis(times.timeout);
    }

    /// When a pass is due for the leave.
    pub(super) fn next_pass_ms(&self) -> Option<u64> {
        self.drops_at_ms.into_iter().chain(self.ends_at_ms).min()
    }
}

impl Driver {
    /// Keeps the limits of a leave. Returns true if anything changed.
    pub(super) fn keep_leave_limits(&mut self, now_ms: u64) -> bool {
        let drops = self.leaving.drops_at_ms.take_if(|at_ms| now_ms >= *at_ms).is_some();
        let dropped = drops && self.drop_reservations();
        let ends = self.leaving.ends_at_ms.take_if(|at_ms| now_ms >= *at_ms).is_some();
        if ends && !matches!(self.node.phase(), Phase::Left | Phase::Stopped(_)) {
            // Links that do not end in time, such as those to a process that stands still, end with the driver.
            let late = Error::TimedOut { what: "leave", after_ms: self.leaving.timeout_ms };
            self.shared.end(if self.node.has_departed() { Ok(()) } else { Err(late) });
            self.shared.abandon();
            self.leaving.over = true;
            self.tell_left();
        }
        dropped || ends
    }

    /// Drops the reservations that delay the leave.
    fn drop_reservations(&self) -> bool {
        let dropped: usize = self.shared.rings.iter().map(|ring| ring.drop_open()).sum();
        if dropped > 0 {
            tracing::warn!(dropped, "dropped the reservations that were still open when this process left");
        }
        dropped > 0
    }

    /// Tells the application the result of a leave that it began with [`crate::Group::leave_start`], once there is one.
    pub(super) fn tell_left(&self) {
        let mut state = self.shared.lock();
        let (Some(result), Some(left)) = (state.ended.clone(), state.left.take()) else { return };
        drop(state);
        if catch_unwind(AssertUnwindSafe(|| left(result))).is_err() {
            tracing::error!("the application's function for the end of the leave panicked");
        }
    }

    /// One step of the leave of a cancelled join, which must be over by `until`: `timeout` after the first step. Returns
    /// true once it is.
    pub(super) fn leave_cancelled(&mut self, timeout: Duration, until: &mut Option<Instant>) -> bool {
        match self.node.phase() {
            // The others have not taken this process in, and see it fail.
            Phase::Founding | Phase::Joining | Phase::Restarting | Phase::Left => return true,
            Phase::Stopped(_) => return false,
            _ => {}
        }
        let until = *until.get_or_insert_with(|| {
            self.node.leave();
            after(timeout)
        });
        Instant::now() >= until
    }

    /// Leaves the group like [`crate::Group::leave`], for a group that the application drives.
    pub fn leave(self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave(timeout, None)?;
        self.finish_leave()
    }

    /// Completes a leave that has begun. For the C ABI.
    #[doc(hidden)]
    pub fn finish_leave(mut self) -> Result<(), Error> {
        while !self.ended() {
            if !self.pass() {
                self.sleep(None);
            }
        }
        self.shared.lock().ended.clone().unwrap_or(Ok(()))
    }
}
