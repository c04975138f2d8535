//! The one error type of the engine. Texts say what was wrong, the value, and what to do.

use crate::config::{MemberId, SubgroupId};
use std::sync::Arc;

/// Everything the engine can refuse or fail at. Cheap to clone: the reason a group stopped is handed to every caller.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is not usable; the text names the key and the value.
    #[error("configuration: {0}")]
    Config(String),
    /// A message exceeds `max_message_bytes` of its subgroup.
    #[error(
        "a message of {len} bytes exceeds the limit of {limit} bytes: raise `max_message_bytes` (and `ring_bytes`) on every member, or send it in parts"
    )]
    MessageTooLarge {
        /// Bytes asked for.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The call would have to wait and must not: a `try` call, or any call from inside a callback.
    #[error("the call would have to wait: {0}")]
    WouldBlock(&'static str),
    /// A deadline passed.
    #[error("{what} did not finish within {after_ms} ms")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// The deadline that was given, in milliseconds.
        after_ms: u64,
    },
    /// Some members did not appear before the join deadline.
    #[error("join: after {after_ms} ms still missing: {missing}; start them, or check their addresses")]
    Missing {
        /// The missing members, with the address and the last obstacle of each.
        missing: String,
        /// The deadline, in milliseconds.
        after_ms: u64,
    },
    /// A member has another configuration.
    #[error("join: member {member} disagrees on `{key}`: {ours} here, {theirs} there; give every member the same file")]
    Disagreement {
        /// The other member.
        member: MemberId,
        /// The key that differs.
        key: String,
        /// Our value.
        ours: String,
        /// Its value.
        theirs: String,
    },
    /// A member refused us, or could not go on with the join.
    #[error("join: member {member} refused: {reason}")]
    Refused {
        /// The member that refused.
        member: MemberId,
        /// Its reason.
        reason: String,
    },
    /// A process that was to found the group found that it runs already. [`crate::Group::join`] then joins it instead; only
    /// who meets by hand sees this.
    #[error("the group runs already: member {member} is in it")]
    AlreadyRuns {
        /// Who said so.
        member: MemberId,
    },
    /// This process joined, but could not take the group's state.
    #[error("join: the group's state could not be taken: {0}")]
    StateTransfer(String),
    /// The member's own address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address of this member in the configuration.
        address: String,
        /// What the system said, and what to do.
        reason: String,
    },
    /// A member broke the protocol's contract while the group was being set up.
    #[error("member {member} broke the protocol and was severed: {what}")]
    Contract {
        /// The member that was severed.
        member: MemberId,
        /// What it did.
        what: String,
    },
    /// This process is not among the members that can decide: what it would do now, the others would not do.
    #[error(
        "the group stopped here: this process is cut off from more than half of view {view}, and knows of no decision that it is still in the group (it waits for one for at most {after_ms} ms); start it again to join anew"
    )]
    Partitioned {
        /// The last view.
        view: u64,
        /// `partition_timeout_ms`.
        after_ms: u64,
    },
    /// The others went on without this process: they could not reach it for a while, or it stood still. What it was
    /// delivered as `ordered` or `fifo` at the end may be known to nobody else.
    #[error(
        "this process was removed from the group, which went on to view {view} without it; start it again to join anew"
    )]
    Removed {
        /// The view that it is not in.
        view: u64,
    },
    /// The engine contradicts itself: please report it.
    #[error("internal error, please report it: {0}")]
    Internal(String),
    /// This process left the group before the call.
    #[error("this process has left the group")]
    Left,
    /// There is no such subgroup.
    #[error("there is no subgroup {0}")]
    UnknownSubgroup(SubgroupId),
    /// A call that cannot be made in this state or from this thread.
    #[error("{0}")]
    Misuse(&'static str),
    /// The configuration demands RDMA, and this machine has none that can be used.
    #[error("RDMA cannot be used: {0}; or set `fabric` to \"auto\" or \"tcp\" at every member")]
    Rdma(String),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// An application callback panicked; the group has stopped.
    #[error("the group stopped: a callback of the application panicked: {0}")]
    CallbackPanicked(String),
}

impl Error {
    /// An I/O error with the sentence that says what was being done.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Error::Io { what: what.into(), source: Arc::new(source.into()) }
    }
}
