//! The atomics of everything that loom checks, which under `--cfg loom` are loom's, and an asymmetric fence.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

use rustix::thread::{MembarrierCommand, membarrier};

/// A pair of SeqCst fences of which one side, [`Fence::often`], costs nothing: the other, [`Fence::seldom`], runs on every
/// core that runs a thread of this process (`membarrier`). Where the kernel does not offer that, both are plain fences.
pub(crate) struct Fence {
    expedited: bool,
}

impl Fence {
    pub(crate) fn new() -> Fence {
        // loom knows real fences only.
        Fence { expedited: !cfg!(loom) && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() }
    }

    #[inline]
    pub(crate) fn often(&self) {
        if self.expedited {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn seldom(&self) {
        fence(Ordering::SeqCst);
        if self.expedited {
            // It cannot fail once the process is registered.
            let _ = membarrier(MembarrierCommand::PrivateExpedited);
        }
    }
}
