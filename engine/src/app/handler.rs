//! The callbacks of an application.

use crate::app::View;
use crate::error::Error;
use crate::multicast::Delivery;
use crate::types::MemberId;
use std::io::Read;

/// The application's callbacks, including the transfer of its state to a joiner.
///
/// A closure that takes a [`Delivery`] is a handler of an application without state.
///
/// Calls never overlap: one thread at a time makes them. A callback cannot wait for the group: blocking functions
/// behave there like their `try_` variants. If a call lasts longer than `failure_timeout_ms`, the other members
/// consider this process dead.
pub trait Handler: Send {
    /// Delivers a message, in the order of the subgroup.
    fn deliver(&mut self, message: Delivery<'_>);

    /// A view begins. Every member is notified between the same two messages: the last of the former view and the first
    /// of the new one.
    ///
    /// A joiner is notified of its first view after [`Handler::restore`]. The restored state may be newer than the
    /// view: it may include messages of that view, which are not delivered again. A joiner is not notified of the views
    /// before its first one.
    fn view(&mut self, _view: &View) {}

    /// This process suspects a member, or another member does and has published it, before the end of the view is
    /// decided.
    ///
    /// The second argument is a text for people. A view without the member follows if enough of the other members can
    /// continue together. Until then it is in the group.
    fn suspected(&mut self, _member: MemberId, _what: &str) {}

    /// The clock of a member's host is wrong, and an operator should correct it.
    ///
    /// The member may be this process. The second argument is a text for people. The group continues. The call is
    /// repeated after ten minutes if the problem lasts.
    fn warned(&mut self, _member: MemberId, _what: &str) {}

    /// In a group with a log: every message numbered below this value is durable now.
    ///
    /// It is on the disks of all voters, or of as many voters as are configured.
    fn durable(&mut self, _below: u64) {}

    /// The group stopped at this process, for this reason; no more messages are delivered. Called once.
    fn stopped(&mut self, _reason: &Error) {}

    /// Returns the application's present state, after all messages delivered so far, for a joiner or a checkpoint.
    ///
    /// Another thread reads the state while further messages are delivered here. The state must not change with them,
    /// and this call must be short: return a copy, or an object that shares immutable parts.
    ///
    /// During a join, an error is final for this member: the joiner asks another member, and [`crate::Group::fault`]
    /// with the own member id returns the reason. An error of kind `WouldBlock` means that the state is not available
    /// now; it is requested again later.
    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::empty()))
    }

    /// Replaces this application's state by the one in `state`, before any message is delivered.
    ///
    /// Called at a joiner, with another member's state, and whenever the application begins with a checkpoint of the
    /// log. In a group with a log but without a checkpoint it is not called, because every message of the log is
    /// delivered. An application that joins again in the same process must therefore begin with an empty state.
    ///
    /// If the source dies during the transfer, this is called again from the start, and the state of the earlier call
    /// is void. The call may take as long as the join (`join_timeout_ms`); reads after that fail.
    ///
    /// An error is final unless reading `state` caused it: the join fails with [`Error::StateTransfer`] and the text of
    /// the error, and the source receives the text, too ([`crate::Group::fault`]).
    ///
    /// An application without state need not implement this. If it receives a state nevertheless, the default returns
    /// an error.
    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        match state.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(std::io::Error::other("the group has state, but this application does not implement `restore`")),
        }
    }
}

impl<F: FnMut(Delivery<'_>) + Send> Handler for F {
    fn deliver(&mut self, message: Delivery<'_>) {
        self(message);
    }
}
