//! The `flush(k)` request: the application makes it, and the driver completes it.

use super::driver::Driver;
use super::shared::{Shared, after};
use crate::error::Error;
use crate::node::Node;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Number of flushes to check before the engine checks how long the pass has lasted.
const FLUSHES_PER_LOOK: usize = 64;

/// A flush that has begun.
#[derive(Clone)]
pub struct Flush {
    shared: Arc<Shared>,
    done: Arc<AtomicBool>,
}

/// The driver's part of a flush.
pub(super) struct Pending {
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
    pub(super) fn start(shared: &Arc<Shared>, k: usize, ticket: u32) -> Flush {
        Flush::begin(shared, (k, false), ticket)
    }

    /// Begins a flush that is done when all messages are durable.
    pub(super) fn persist(shared: &Arc<Shared>, ticket: u32) -> Flush {
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
    pub(super) fn check(&mut self, node: &Node) -> bool {
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

impl Driver {
    /// Wakes threads that wait for ring space or a flush.
    pub(super) fn serve_waiters(&mut self) {
        let freed = self.node.multicast().freed();
        if std::mem::replace(&mut self.freed, freed) != freed {
            self.shared.space_freed();
        }
        self.hand_out();
        self.check_flushes();
    }

    /// Checks the pending flushes in turn, for as long as a pass may last.
    pub(super) fn check_flushes(&mut self) {
        let (before, slice) = (self.flushes.len(), self.shared.pulse.begin());
        let (mut checked, mut kept, mut over) = (0, 0, false);
        self.flushes.retain_mut(|flush| {
            if over {
                return true;
            }
            let keep = !flush.check(&self.node);
            (checked, kept) = (checked + 1, kept + usize::from(keep));
            over = checked % FLUSHES_PER_LOOK == 0 && slice.is_over();
            keep
        });
        if over {
            self.flushes.rotate_left(kept);
            self.shared.ask();
        }
        if self.flushes.len() != before {
            self.shared.notify();
        }
    }
}
