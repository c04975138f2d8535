//! The `flush(k)` request: the application makes it, and the driver completes it.

use crate::error::Error;
use crate::node::Node;
use crate::shared::{Shared, after};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A flush that has begun.
#[derive(Clone)]
pub struct Flush {
    shared: Arc<Shared>,
    done: Arc<AtomicBool>,
}

/// The driver's part of a flush.
pub(crate) struct Pending {
    k: usize,
    /// Wait until the messages are durable, not only received.
    persist: bool,
    /// All messages that this process sent before the flush have tickets below this.
    ticket: u32,
    /// Set once all these messages are published: the view, and for each stream the message count that covers them.
    target: Option<(u64, Vec<u64>)>,
    done: Arc<AtomicBool>,
}

impl Flush {
    pub(crate) fn start(shared: &Arc<Shared>, k: usize, ticket: u32) -> Flush {
        Flush::begin(shared, (k, false), ticket)
    }

    /// Begins a flush that is done when all messages are durable.
    pub(crate) fn persist(shared: &Arc<Shared>, ticket: u32) -> Flush {
        Flush::begin(shared, (0, true), ticket)
    }

    fn begin(shared: &Arc<Shared>, (k, persist): (usize, bool), ticket: u32) -> Flush {
        let done = Arc::new(AtomicBool::new(false));
        shared.lock().flushes.push(Pending { k, persist, ticket, target: None, done: done.clone() });
        shared.ask();
        Flush { shared: shared.clone(), done }
    }

    /// Whether the messages of this flush have been received, or are durable, as requested.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until the flush is done, the group stops, or `timeout` has passed. Inside a callback it returns
    /// [`Error::WouldBlock`] instead of waiting.
    pub fn wait(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.life.check()?;
        if self.is_done() {
            return Ok(());
        }
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("a flush cannot be waited for in a callback"));
        }
        self.shared.wait_until(after(timeout), "flush", timeout, |state| {
            if self.is_done() {
                return Some(Ok(()));
            }
            if let Some(reason) = &state.stopped {
                return Some(Err(reason.clone()));
            }
            state.ended.as_ref().map(|_| Err(Error::Left))
        })?
    }
}

impl Pending {
    /// Checks the flush against the node's progress; returns true once it is done.
    pub(crate) fn check(&mut self, node: &Node) -> bool {
        let (multicast, Some(view)) = (node.multicast(), node.view().map(|view| view.number)) else { return false };
        if self.target.is_none() {
            self.target = multicast.flush_target(self.ticket).map(|target| (view, target));
        }
        // Every member of the next view has received the messages of a view that has ended.
        let done = self.target.as_ref().is_some_and(|(published_in, target)| match self.persist {
            // They were on disk before the next view began.
            true => *published_in < view || multicast.is_durable(target),
            false => *published_in < view || multicast.received_by(self.k, target),
        });
        if done {
            self.done.store(true, Ordering::Release);
        }
        done
    }
}
