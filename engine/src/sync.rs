//! The atomics of all code that loom checks, which are loom's under `--cfg loom`, an asymmetric fence, and a lock.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::thread::{MembarrierCommand, membarrier};

/// Locks `mutex`, also after a panic of a thread that held it.
///
/// The data is whole then: no code that can panic runs between two changes that belong together.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
