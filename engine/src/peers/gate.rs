//! Stands between the thread that takes the state and the application; it is shut when the attempt to join is over.
//!
//! It also holds the list of sources. A source that is not in the new view is not waited for any longer.

use crate::membership::Peer;
use crate::sync::lock;
use socket2::Socket;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A member that has the state, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) peer: Peer,
    pub(crate) address: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "member {} at {}", self.peer.id, self.address)
    }
}

#[derive(Default)]
struct Sources {
    all: Vec<Source>,
    /// The present source and its connection. Closing the connection ends every wait for that source.
    now: Option<(Peer, Socket)>,
}

impl Sources {
    fn has(&self, peer: Peer) -> bool {
        self.all.iter().any(|source| source.peer == peer)
    }

    /// Ends the connection to the present source if it is not in the list any more, or if `all` is true.
    fn cut(&mut self, all: bool) {
        let gone = |peer: Peer| !self.all.iter().any(|source| source.peer == peer);
        if let Some((_, socket)) = self.now.take_if(|(peer, _)| all || gone(*peer)) {
            // If the connection is closed already, no thread waits for it.
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

/// A gate between the thread that takes the state and the application.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Inner>);

impl Gate {
    /// Whether the gate is shut, so that it makes no more calls.
    pub(crate) fn is_shut(&self) -> bool {
        self.0.shut.load(Ordering::SeqCst)
    }

    /// Calls the application, unless the gate is shut.
    pub(crate) fn pass<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        let _calling = lock(&self.0.calling);
        (!self.is_shut()).then(call)
    }

    /// Replaces the list of sources, the best first; ends the transfer from a source that is not in the new list.
    pub(crate) fn offer(&self, all: Vec<Source>) {
        let mut sources = lock(&self.0.sources);
        sources.all = all;
        sources.cut(false);
    }

    /// The members from which the state is available.
    pub(crate) fn sources(&self) -> Vec<Source> {
        lock(&self.0.sources).all.clone()
    }

    /// Whether `peer` is one of the sources, and the state is still wanted.
    pub(crate) fn wants(&self, peer: Peer) -> bool {
        !self.is_shut() && lock(&self.0.sources).has(peer)
    }

    /// Sets the present source and its connection.
    pub(crate) fn watch(&self, peer: Peer, socket: &Socket) {
        let mut sources = lock(&self.0.sources);
        sources.now = socket.try_clone().ok().map(|socket| (peer, socket));
        sources.cut(self.is_shut());
    }

    /// Shuts the gate, and waits until a call that is under way has returned.
    pub(crate) fn shut(&self) {
        self.0.shut.store(true, Ordering::SeqCst);
        lock(&self.0.sources).cut(true);
        drop(lock(&self.0.calling));
    }
}
