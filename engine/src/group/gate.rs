//! Between the thread that takes the state and the application: shut when the attempt to join is over. It also knows where the
//! state can be had: a source that a view leaves out is waited for no longer.

use crate::membership::Peer;
use socket2::Socket;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A member that has the state, and where it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) peer: Peer,
    pub(super) address: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "member {} at {}", self.peer.id, self.address)
    }
}

#[derive(Default)]
struct Sources {
    all: Vec<Source>,
    /// Where the state comes from: what waits for it ends with it.
    now: Option<(Peer, Socket)>,
}

impl Sources {
    fn has(&self, peer: Peer) -> bool {
        self.all.iter().any(|source| source.peer == peer)
    }

    /// Ends the connection with a source that is asked no longer.
    fn cut(&mut self, all: bool) {
        let gone = |peer: Peer| !self.all.iter().any(|source| source.peer == peer);
        if let Some((_, socket)) = self.now.take_if(|(peer, _)| all || gone(*peer)) {
            // One that is closed already has nobody waiting.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Default)]
struct Inner {
    shut: AtomicBool,
    /// Held while the application is called.
    calling: Mutex<()>,
    sources: Mutex<Sources>,
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

    /// The state can be had from these from now on, the best first; one that is not among them is waited for no longer.
    pub(super) fn offer(&self, all: Vec<Source>) {
        let mut sources = lock(&self.0.sources);
        sources.all = all;
        sources.cut(false);
    }

    /// Where the state can be had.
    pub(super) fn sources(&self) -> Vec<Source> {
        lock(&self.0.sources).all.clone()
    }

    /// Whether the state can be had from `peer`, and is still wanted.
    pub(super) fn wants(&self, peer: Peer) -> bool {
        !self.is_shut() && lock(&self.0.sources).has(peer)
    }

    /// The state comes from `peer` now, by this connection.
    pub(super) fn watch(&self, peer: Peer, socket: &Socket) {
        let mut sources = lock(&self.0.sources);
        sources.now = socket.try_clone().ok().map(|socket| (peer, socket));
        sources.cut(self.is_shut());
    }

    /// Shuts it, and waits for the call that is under way.
    pub(super) fn shut(&self) {
        self.0.shut.store(true, Ordering::SeqCst);
        lock(&self.0.sources).cut(true);
        drop(lock(&self.0.calling));
    }
}
