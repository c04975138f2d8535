//! Lets application threads wake a sleeping engine: a flag, and a descriptor that is written only if the flag is set.
//!
//! The engine sets the flag, then checks once more for work. A sender commits its work, then checks the flag. Each side
//! has a fence between its two steps, so at least one side sees the other's first step, and no wake-up is lost (checked
//! with loom). Senders run their fence with every message; the engine runs its fence only before it sleeps.

use crate::sync::{AtomicBool, Fence, Ordering};

/// The flag, set while the engine sleeps or is about to sleep.
pub(crate) struct Bell {
    asleep: AtomicBool,
    fence: Fence,
}

impl Bell {
    pub(crate) fn new() -> Bell {
        Bell { asleep: AtomicBool::new(false), fence: Fence::new() }
    }

    /// Sets the flag before the engine sleeps. The engine must check for work once more after this call.
    pub(crate) fn arm(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        self.fence.heavy();
    }

    /// Clears the flag: the engine is awake.
    pub(crate) fn disarm(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Whether this caller must write the descriptor. Call it after committing work.
    #[inline]
    pub(crate) fn must_ring(&self) -> bool {
        self.fence.light();
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn loom_no_wake_up_is_lost() {
        loom::model(|| {
            let shared = Arc::new((Bell::new(), AtomicU64::new(0)));
            let senders: Vec<_> = (0..2)
                .map(|i| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        shared.1.fetch_or(1 << i, Ordering::Release);
                        shared.0.must_ring()
                    })
                })
                .collect();
            shared.0.arm();
            let seen = shared.1.load(Ordering::Acquire);
            let rung = senders.into_iter().map(|t| t.join().unwrap()).fold(false, |a, b| a | b);
            // The engine may sleep with unseen work only if a sender wakes it.
            assert!(seen == 3 || rung);
        });
    }
}
