//! How application threads wake a sleeping engine: a flag, and a descriptor that is written only when the flag is up.
//!
//! The engine raises the flag, then looks once more for work; a sender commits its work, then looks at the flag. A fence
//! between the halves on each side makes one of them see the other, so no wake-up is lost (checked with loom). Senders
//! pass theirs with every message and the engine only before it sleeps.

use crate::sync::{AtomicBool, Fence, Ordering};

/// The flag.
pub(super) struct Bell {
    asleep: AtomicBool,
    fence: Fence,
}

impl Bell {
    pub(super) fn new() -> Bell {
        Bell { asleep: AtomicBool::new(false), fence: Fence::new() }
    }

    /// The engine is about to sleep; it must look for work once more after this.
    pub(super) fn arm(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        self.fence.seldom();
    }

    /// The engine is awake.
    pub(super) fn disarm(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Called after work was committed: whether this caller has to write the descriptor.
    #[inline]
    pub(super) fn must_ring(&self) -> bool {
        self.fence.often();
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
            // Asleep with work unseen only if somebody rings.
            assert!(seen == 3 || rung);
        });
    }
}
