//! What an application is called for.

use super::view::View;
use crate::config::MemberId;
use crate::error::Error;
use crate::multicast::Delivery;
use std::io::Read;

/// What an application wants to hear, and how its state travels to a process that joins. Any closure that takes a
/// [`Delivery`] is one, of an application without state.
///
/// All calls come from one thread at a time, and none may wait for the group: blocking calls answer as their `try_` kin. A
/// call that lasts longer than `failure_timeout_ms` makes this process look dead to the others.
pub trait Handler: Send {
    /// A message, in the order of the subgroup.
    fn deliver(&mut self, message: Delivery<'_>);

    /// A view begins: between the last message of the one before and the first of its own, the same two at every member.
    ///
    /// A process that joins is told its first view after [`Handler::restore`], and the state that it was given there may be
    /// younger than the view: it may hold messages of that view, which do not come again. The views before it are not told.
    fn view(&mut self, _view: &View) {}

    /// This process has something against a member, or has heard that another has; `what` is for people. A view without the
    /// member follows, if enough of the others can go on together: until then it is in the group.
    fn suspected(&mut self, _member: MemberId, _what: &str) {}

    /// An operator should see to something about this member, which may be this process: its host's clock is off. The group
    /// goes on; `what` is for people. It comes again after ten minutes if it lasts.
    fn warned(&mut self, _member: MemberId, _what: &str) {}

    /// Of a group with a log: everything numbered below this is durable now, on the disks of all voters or of as many as are
    /// configured.
    fn durable(&mut self, _below: u64) {}

    /// The group stopped here, for this reason; nothing more is delivered. Called once.
    fn stopped(&mut self, _reason: &Error) {}

    /// The application's state as of now, after everything it was delivered, for a process that joins. It is read in another
    /// thread, while further messages are delivered here, so it must not change with them; and this call must be short: hand
    /// out a copy, or something that shares what does not change.
    ///
    /// An error is final for this member: the process that joins asks another one, and [`crate::Group::fault`] of the own
    /// number says why. An error of kind `WouldBlock` says that it cannot be done now: it is asked for again.
    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::empty()))
    }

    /// This process joins: takes another member's state in place of its own, before anything is delivered. In a group with a log
    /// without a checkpoint it is not called: every message of the log is delivered, so an application that joins again in
    /// the same process begins with an empty state. It is called again, from the start, when the member that sends it dies in the
    /// middle; what an earlier call took is void then. It may take as long as the join (`join_timeout_ms`); what it still reads
    /// after that fails.
    ///
    /// An error that is not of `state` is final: the join fails with [`Error::StateTransfer`] and its text, and the member that
    /// sent the state is told it, too ([`crate::Group::fault`]).
    ///
    /// An application without state need not implement it; one that is sent a state all the same refuses it.
    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        match state.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(std::io::Error::other("the group's application has state, and this one has no `restore`")),
        }
    }
}

impl<F: FnMut(Delivery<'_>) + Send> Handler for F {
    fn deliver(&mut self, message: Delivery<'_>) {
        self(message);
    }
}
