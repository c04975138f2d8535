//! The atomics of all code that loom checks, which are loom's under `--cfg loom`, and an asymmetric fence.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

use rustix::thread::{MembarrierCommand, membarrier};

/// A pair of SeqCst fences, of which one side, [`Fence::light`], costs nothing.
///
/// The other side, [`Fence::heavy`], runs a fence on every core that runs a thread of this process (`membarrier`). If
/// the kernel does not support that, both sides are plain fences.
pub(crate) struct Fence {
    expedited: bool,
}

impl Fence {
    pub(crate) fn new() -> Fence {
        // loom knows only real fences.
        Fence { expedited: !cfg!(loom) && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() }
    }

    #[inline]
    pub(crate) fn light(&self) {
        if self.expedited {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn heavy(&self) {
        fence(Ordering::SeqCst);
        if self.expedited {
            // This cannot fail once the process is registered.
            let _ = membarrier(MembarrierCommand::PrivateExpedited);
        }
    }
}
