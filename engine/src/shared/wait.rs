//! Waits: the application begins them, and the driver completes them.

use crate::error::Error;
use crate::multicast::SendRing;
use crate::node::Node;
use crate::shared::Shared;
use crate::types::{Copies, EVERYBODY, Ticket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A wait that has begun: for a flush, or for one message. The caller can check later whether it is over.
#[derive(Clone)]
pub struct Wait {
    shared: Arc<Shared>,
    what: &'static str,
    until: Event,
}

/// The event that ends a wait.
#[derive(Clone)]
enum Event {
    /// The driver sets the flag.
    Flag(Arc<AtomicBool>),
    /// The message of the ticket has been delivered here.
    Delivered(Arc<SendRing>, Ticket),
    /// The message of the ticket is durable.
    Durable(Arc<SendRing>, Ticket),
}

/// What the driver checks for a wait.
#[derive(Clone, Copy)]
enum Goal {
    /// Enough members have received the messages sent and delivered before.
    Received(Copies),
    /// The messages sent and delivered before are durable.
    Persisted,
}

/// The driver's part of a wait.
pub(crate) struct Pending {
    goal: Goal,
    /// All messages that this process sent before the wait have tickets below this.
    ticket: u32,
    /// Set once all these messages are published: the view, and for each stream the message count that covers them.
    target: Option<(u64, Vec<u64>)>,
    done: Arc<AtomicBool>,
}

impl Wait {
    pub(crate) fn received(shared: &Arc<Shared>, copies: Copies, ticket: u32) -> Wait {
        Wait::begin(shared, Goal::Received(copies), ticket)
    }

    /// Begins a wait until all messages sent and delivered before are durable.
    pub(crate) fn persisted(shared: &Arc<Shared>, ticket: u32) -> Wait {
        Wait::begin(shared, Goal::Persisted, ticket)
    }

    /// Begins a wait until the message of `ticket` is durable.
    pub(crate) fn durable(shared: &Arc<Shared>, ring: &Arc<SendRing>, ticket: Ticket) -> Wait {
        let until = Event::Durable(ring.clone(), ticket);
        Wait { shared: shared.clone(), what: "waiting until a message is durable", until }
    }

    /// Begins a wait until the message of `ticket` has been delivered here.
    pub(crate) fn delivered(shared: &Arc<Shared>, ring: &Arc<SendRing>, ticket: Ticket) -> Wait {
        Wait { shared: shared.clone(), what: "waiting for a delivery", until: Event::Delivered(ring.clone(), ticket) }
    }

    fn begin(shared: &Arc<Shared>, goal: Goal, ticket: u32) -> Wait {
        let done = Arc::new(AtomicBool::new(false));
        shared.lock().flushes.push(Pending { goal, ticket, target: None, done: done.clone() });
        shared.ask();
        Wait { shared: shared.clone(), what: "flush", until: Event::Flag(done) }
    }

    /// Whether the wait is over, because what it waits for has happened.
    pub fn is_done(&self) -> bool {
        match &self.until {
            Event::Flag(done) => done.load(Ordering::Acquire),
            Event::Delivered(ring, ticket) => ring.has_delivered(*ticket),
            Event::Durable(ring, ticket) => ring.is_durable(*ticket),
        }
    }

    /// Waits until it is over, the group ends, or `timeout` has passed. Inside a callback it returns
    /// [`Error::WouldBlock`] instead of waiting.
    pub fn wait(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.life.check()?;
        if self.is_done() {
            return Ok(());
        }
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("a callback cannot wait for a message or a flush"));
        }
        match self.until {
            Event::Flag(_) => self.shared.wait_until_ended(self.what, timeout, |_| self.is_done()),
            _ => self.shared.wait_for_progress(self.what, timeout, |_| self.is_done()),
        }
    }
}

impl Pending {
    /// Checks the wait against the node's progress; returns true once it is done, or nobody waits any more.
    pub(crate) fn check(&mut self, node: &Node) -> bool {
        if Arc::strong_count(&self.done) == 1 {
            return true;
        }
        let (multicast, Some(view)) = (node.subgroup(EVERYBODY), node.view().map(|view| view.number)) else {
            return false;
        };
        if self.target.is_none() {
            self.target = multicast.flush_target(self.ticket).map(|target| (view, target));
        }
        // Every member of the next view has received the messages of a view that has ended, and has them on disk.
        let is_done = self.target.as_ref().is_some_and(|(published_in, target)| {
            *published_in < view
                || match self.goal {
                    Goal::Received(copies) => multicast.received_by(copies, target),
                    Goal::Persisted => multicast.is_durable(target),
                }
        });
        if is_done {
            self.done.store(true, Ordering::Release);
        }
        is_done
    }
}
