//! The deadline of a join, which a cancellation moves into the past.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most time that a wait may last before the next look at the deadline.
const LOOK_TIME: Duration = Duration::from_millis(50);

/// Cancels a join. Clones cancel the same join.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel {
    /// 0 as long as the join is not cancelled. Afterwards one more than the milliseconds that a leave may last.
    leaves_within_ms: Arc<AtomicU64>,
}

impl Cancel {
    /// Cancels the join. If this process is in the group by then, it leaves within `timeout`.
    pub(crate) fn set(&self, timeout: Duration) {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        // The first call counts.
        let _ = self.leaves_within_ms.compare_exchange(0, ms, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the join was cancelled.
    pub(crate) fn is_set(&self) -> bool {
        self.leaves_within_ms.load(Ordering::Relaxed) > 0
    }

    /// The time limit of the leave of a cancelled join.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.leaves_within_ms.load(Ordering::Relaxed).saturating_sub(1))
    }
}

/// The time by which a join must have succeeded.
#[derive(Debug, Clone)]
pub struct Deadline {
    begun: Instant,
    at: Instant,
    cancel: Cancel,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration, cancel: &Cancel) -> Deadline {
        let begun = Instant::now();
        Deadline { begun, at: begun + timeout, cancel: cancel.clone() }
    }

    /// This deadline, but not later than `at`.
    pub(crate) fn or(&self, at: Instant) -> Deadline {
        Deadline { at: self.at.min(at), ..self.clone() }
    }

    /// The present value. Read it anew in each turn of a loop: after a cancellation it lies in the past.
    pub(crate) fn at(&self) -> Instant {
        if self.cancel.is_set() { self.begun } else { self.at }
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.at()
    }

    pub(crate) fn left(&self) -> Duration {
        self.at().saturating_duration_since(Instant::now())
    }

    /// How long a wait may last until the next look at the deadline. 0 once the deadline has passed.
    pub(crate) fn slice(&self) -> Duration {
        self.left().min(LOOK_TIME)
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Deadline {
        Deadline { begun: Instant::now(), at, cancel: Cancel::default() }
    }
}
