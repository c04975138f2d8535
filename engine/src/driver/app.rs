//! Calls the application: callbacks, one at a time, with the guard that catches a panic of the application.

use super::newcomer::Newcomer;
use crate::app::{Handler, View, text_of};
use crate::error::Error;
use crate::multicast::Delivery;
use crate::node::Node;
use crate::shared::Shared;
use crate::shared::pulse::Timed;
use crate::shared::snapshot::{Covered, Snapshot};
use crate::types::MemberId;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The application, as its driver calls it.
pub(super) struct App {
    pub(super) shared: Arc<Shared>,
    /// `None` while another thread uses the handler to take the group's state.
    handler: Option<Box<dyn Handler>>,
    /// Faults of members of which the application has not been notified yet.
    unreported_faults: VecDeque<(MemberId, String)>,
}

impl App {
    pub(super) fn new(shared: Arc<Shared>, handler: Box<dyn Handler>) -> App {
        App { shared, handler: Some(handler), unreported_faults: VecDeque::new() }
    }

    /// Gives the handler away. Until [`App::give_back`], the application is not called.
    pub(super) fn take_handler(&mut self) -> Option<Box<dyn Handler>> {
        self.handler.take()
    }

    pub(super) fn give_back(&mut self, handler: Box<dyn Handler>) {
        self.handler = Some(handler);
    }

    /// Calls the application, unless another thread uses the handler. A panic of the application stops the node.
    pub(super) fn call(&mut self, node: &mut Node, f: impl FnOnce(&mut dyn Handler)) {
        let App { shared, handler, .. } = self;
        let Some(handler) = handler else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.as_callback(|| f(&mut **handler)))) {
            node.fail(Error::CallbackPanicked(text_of(&*panic)));
        }
    }

    /// Runs one pass of the node. Its messages go to the application, or to the backlog of a newcomer. Returns true if
    /// anything changed.
    pub(super) fn poll(&mut self, node: &mut Node, newcomer: &mut Newcomer, now_ms: u64) -> bool {
        let App { shared, handler, .. } = self;
        let slice = shared.pulse.begin();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            shared.as_callback(|| match handler.as_mut().filter(|_| !newcomer.is_new()) {
                Some(handler) => {
                    let tell = |delivery: Delivery<'_>| handler.deliver(delivery);
                    node.poll(now_ms, &mut Timed { tell, slice })
                }
                None => newcomer.poll(node, now_ms, slice),
            })
        }));
        polled.unwrap_or_else(|panic| {
            node.fail(Error::CallbackPanicked(text_of(&*panic)));
            true
        })
    }

    /// Notifies the application of a new view, which the handles show from then on.
    pub(super) fn begin_view(&mut self, node: &mut Node, view: &Arc<View>) {
        self.shared.lock().view = view.clone();
        self.call(node, |handler| handler.view(view));
    }

    /// Records a fault, of which the application is notified by [`App::report_faults`].
    pub(super) fn note_fault(&mut self, member: MemberId, what: String) {
        self.unreported_faults.push_back((member, what));
    }

    pub(super) fn has_unreported_faults(&self) -> bool {
        !self.unreported_faults.is_empty()
    }

    /// Notifies the application of faults: of all of them, or for as long as a pass may last.
    pub(super) fn report_faults(&mut self, node: &mut Node, all: bool) {
        if self.unreported_faults.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        let slice = shared.pulse.begin();
        while let Some((member, what)) = self.unreported_faults.pop_front() {
            self.call(node, |handler| handler.suspected(member, &what));
            if !all && slice.is_over() {
                break;
            }
        }
    }

    /// The application's present state, and the messages that it covers.
    pub(super) fn snapshot(&mut self, node: &mut Node) -> io::Result<Snapshot> {
        let covered = Covered::of(node);
        let mut given = None;
        self.call(node, |handler| given = Some(handler.snapshot()));
        let state = given.unwrap_or_else(|| Err(io::Error::other("it panicked")))?;
        Ok(Snapshot { covered, state })
    }

    /// Notifies the application of hosts with a wrong clock, and logs a warning for the operator.
    pub(super) fn report_warnings(&mut self, node: &mut Node) {
        for (member, what) in node.take_warnings() {
            tracing::warn!(member = member.0, what, "a member's clock is wrong");
            self.call(node, |handler| handler.warned(member, &what));
        }
    }
}
