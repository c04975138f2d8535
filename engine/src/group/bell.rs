//! How application threads wake a sleeping engine: a flag, and a descriptor that is written only when the flag is up.
//!
//! The engine raises the flag, then looks once more for work; a sender commits its work, then looks at the flag. A fence
//! between the halves on each side makes one of them see the other, so no wake-up is lost (checked with loom). Senders
//! pass theirs with every message and the engine only before it sleeps, so the engine pays for both where the kernel
//! offers that (`membarrier`): its fence runs on every core that runs a thread of this process.

use crate::sync::{AtomicBool, Ordering, fence};
use rustix::thread::{MembarrierCommand, membarrier};

/// The flag.
pub(super) struct Bell {
    asleep: AtomicBool,
    /// The engine's fence covers the senders.
    expedited: bool,
}

impl Bell {
    pub(super) fn new() -> Bell {
        // loom knows real fences only.
        let expedited = !cfg!(loom) && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        Bell { asleep: AtomicBool::new(false), expedited }
    }

    /// The engine is about to sleep; it must look for work once more after this.
    pub(super) fn arm(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.expedited {
            // It cannot fail once the process is registered.
            let _ = membarrier(MembarrierCommand::PrivateExpedited);
        }
    }

    /// The engine is awake.
    pub(super) fn disarm(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Called after work was committed: whether this caller has to write the descriptor.
    pub(super) fn must_ring(&self) -> bool {
        if self.expedited {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
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
