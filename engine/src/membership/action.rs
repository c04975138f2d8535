//! The facts that the node reports to [`super::Membership::step`], and the actions that follow from them.

use super::restart::LogNeed;
use super::{Cause, Departure, HardState, Peer, ViewChange, Wanted};
use crate::error::Error;
use crate::fabric::Slot;
use crate::multicast::{End, Violation};
use crate::types::Version;
use std::collections::VecDeque;

/// The node's part in the group, as far as the steps depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A founder that waits until every member runs view 0.
    Founds,
    /// A joiner that waits to be named in a view.
    Joins,
    /// After a total failure: the last record of its log, and whether the known decision is written to its log.
    Restarts { last: Version, written: bool },
    /// It sends and delivers.
    Runs {
        /// It has been asked to leave.
        leaves: bool,
        /// It leaves, and has published all messages that it accepted.
        is_silent: bool,
        /// The streams end at the decided ends already.
        ending: bool,
    },
    /// It has left the group, and stays until the other members know that.
    Parts,
    /// It waits for its links to go down, or has ended.
    Ended,
}

/// What holds during a whole step: the time by this process's clock, and the node's phase with its time limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub now_ms: u64,
    pub until_ms: u64,
    pub role: Role,
}

/// What the node has observed: an event of the fabric, or the result of an action.
pub(crate) enum Fact<'a> {
    /// A pass begins.
    Pass,
    /// The link to this process is down. `sever` is true if this process has to take it down.
    Lost { slot: Slot, cause: Cause, what: &'a str, sever: bool },
    /// This process has answered a fetch.
    Answered(Slot),
    /// Result of [`Action::DeliverRest`]: these frames of a member are invalid.
    Torn(Violation),
    /// A member violated the protocol.
    Breach(Violation),
    /// By the answer of `peer`, the group has continued without this process, which had wedged view `view`.
    GoneOn { peer: Peer, view: u64, departure: Departure },
    /// Result of [`Action::Wedge`]: where each stream ends here.
    Wedged(Vec<End>),
    /// Result of [`Action::Flush`]: how far each stream is here, and the streams without a row here yet.
    Here { have: Vec<End>, awaited: Vec<usize> },
    /// A process owes the answer to a fetch for too long.
    Slow(Slot),
    /// Result of [`Action::Vote`]: the clock has been read.
    Clock,
    /// Result of [`Action::Show`] of a vote, whether it was published or not.
    AfterVote,
    /// Result of [`Action::Show`] of a view, whether it was published or not.
    AfterView,
    /// Result of [`Action::Deliver`]: whether everything is delivered, and the decision is on disk.
    Delivered { all: bool },
    /// Result of [`Action::Settle`]: the decision of a restart is on disk. `linked` has one bit for each slot with a
    /// process that was ever linked.
    Settled { linked: u64 },
}

/// What to publish once everything that it promises is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Show {
    /// The vote of the last [`Action::Save`].
    Vote,
    /// That everything up to these ends is here.
    Flush(Vec<End>),
    /// That this member runs its view.
    View,
}

/// The decision that begins a view, as the log and the hard state hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// The version of the log record.
    pub version: Version,
    /// The time of the log record, in nanoseconds.
    pub time_ns: u64,
    /// The payload of the log record.
    pub payload: Vec<u8>,
    /// The hard state of the view, without a vote.
    pub hard_state: Vec<u8>,
}

/// The decision that ends a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closing {
    /// Where each stream of the view ends.
    pub ends: Vec<End>,
    /// In a group with a log: the beginning of the next view, unless this process saves it later.
    pub next: Option<Beginning>,
}

/// What the node has to do next.
#[derive(Debug)]
pub(crate) enum Action {
    /// The link to this process is down: fetches nothing more from it.
    Lost(Slot),
    /// Runs the data plane: streams flow.
    Run,
    /// Stops the streams, and reports where they end here ([`Fact::Wedged`]).
    Wedge,
    /// Delivers what is deliverable of the wedged streams, without waiting for the decision.
    DeliverRest,
    /// Takes in the rows of the wedged streams, and reports how far they are here ([`Fact::Here`]).
    Flush,
    /// Fetches the missing frames of these streams from other members.
    Obtain(Vec<Wanted>),
    /// Fetches records of the log from another member; `None` if nothing is missing any more.
    FetchLog(Option<LogNeed>),
    /// Reads the clock, and reports it ([`Fact::Clock`]): the vote depends on the time.
    Vote,
    /// Saves this hard state.
    Save(Vec<u8>),
    /// Publishes this, if everything that it promises is on disk.
    Show(Show),
    /// Ends the streams at the decided ends, and writes them and the decision to disk.
    Close(Box<Closing>),
    /// Delivers up to the decided ends, and reports that ([`Fact::Delivered`]).
    Deliver,
    /// After a restart: brings the log to the decided ends, and writes the decision to disk.
    CloseLog(Box<Closing>),
    /// After a restart: reports when the decision is on disk ([`Fact::Settled`]).
    Settle,
    /// After a restart: continues from this hard state of the next view, which ended as well.
    Resume(Box<HardState>),
    /// Writes the beginning of a view to disk: the first view of a joiner, or the view without this process.
    SaveBeginning(Box<Beginning>),
    /// Begins to run. Founders notify the application of their first view.
    Start(Option<Box<ViewChange>>),
    /// Enters the decided view, and publishes that.
    Install,
    /// Limits the present phase to this time, in milliseconds.
    Limit(u64),
    /// Has left. Stays until this time, in milliseconds, or until the others know.
    Part(u64),
    /// Ends the links, since no member waits for this leaver any more. Waits until this time, in milliseconds.
    Quit(u64),
    /// Stops for this reason.
    Stop(Error),
}

/// The actions that the node has to carry out, in order. The same memory serves all passes.
pub(crate) type Actions = VecDeque<Action>;
