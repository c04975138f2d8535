//! The deadline of a join, which a cancellation moves into the past.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Cancels a join. Clones cancel the same join.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Cancels the join.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the join was cancelled.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The time by which a join must have succeeded.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    begun: Instant,
    at: Instant,
    cancel: Cancel,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration, cancel: &Cancel) -> Deadline {
        let begun = Instant::now();
        Deadline { begun, at: begun + timeout, cancel: cancel.clone() }
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

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Deadline {
        Deadline { begun: Instant::now(), at, cancel: Cancel::default() }
    }
}
