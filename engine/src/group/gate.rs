//! Between the thread that takes the state and the application: shut when the attempt to join is over.

use socket2::Socket;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Inner {
    shut: AtomicBool,
    /// Held while the application is called.
    calling: Mutex<()>,
    /// Where the state comes from: what waits for it ends with it.
    source: Mutex<Option<Socket>>,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// Whether nothing passes any more.
    pub(super) fn is_shut(&self) -> bool {
        self.0.shut.load(Ordering::SeqCst)
    }

    /// Calls the application, unless the gate is shut.
    pub(super) fn pass<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        let _calling = lock(&self.0.calling);
        (!self.is_shut()).then(call)
    }

    /// The state comes from here now.
    pub(super) fn watch(&self, source: &Socket) {
        *lock(&self.0.source) = source.try_clone().ok();
        if self.is_shut() {
            self.shut();
        }
    }

    /// Shuts it, and waits for the call that is under way.
    pub(super) fn shut(&self) {
        self.0.shut.store(true, Ordering::SeqCst);
        if let Some(source) = lock(&self.0.source).take() {
            // One that is closed already has nobody waiting.
            let _ = source.shutdown(Shutdown::Both);
        }
        drop(lock(&self.0.calling));
    }
}
