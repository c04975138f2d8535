//! The one error type of the engine. Texts say what was wrong, the value, and what to do.

use crate::config::{MemberId, SubgroupId};
use crate::log::Version;
use crate::shortage;
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
    /// There are two groups of this name, which know nothing of each other: each accepts messages of its own (split brain).
    #[error(
        "two groups are named `{group}`: {ours}, and {theirs}; stop the members of one of them, or give it another name, and let its processes join the other without what they kept of it"
    )]
    TwoGroups {
        /// The name.
        group: String,
        /// The one group, by its id, and how this process knows of it.
        ours: String,
        /// The other group.
        theirs: String,
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
        "this process is cut off: for {after_ms} ms (`partition_timeout_ms`) it could not reach more than half of the members of view {view}, and stopped; the others may go on without it: start it again to join them"
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
        "this process was removed: it stood still, or the other members could not reach it, and they went on to view {view} without it; start it again to join them"
    )]
    Removed {
        /// The view that it is not in.
        view: u64,
    },
    /// The engine contradicts itself: please report it.
    #[error("internal error, please report it: {0}")]
    Internal(String),
    /// This process left the group before the call.
    #[error("this process has left the group; what it had reserved and not committed by then is dropped, and not sent")]
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
    /// Another writer has the log open, in this process or in another.
    #[error(
        "the log in {directory} is open for writing already, by another process (perhaps this member, which still runs, or a child that it forked) or elsewhere in this one: stop that process or close the log there, or open it for reading only"
    )]
    LogLocked {
        /// The log's directory.
        directory: String,
    },
    /// There is no space, no memory or no file descriptor for what is to be written, or a limit forbids a file of that size.
    /// Nothing that was durable is lost, and the log goes on when there is.
    #[error("the log needs {bytes} bytes for {file}, and {shortage}")]
    LogFull {
        /// The file that was to be made, with its directory.
        file: String,
        /// Its size in bytes.
        bytes: u64,
        /// What is missing, and what to do.
        shortage: &'static str,
    },
    /// A file of the log is not as it was written: what it held was durable, and is lost here.
    #[error(
        "the log is damaged: {file}, offset {offset}: {what}; put the file back from a backup of this very member, or remove the whole directory: the member then takes the log from the others"
    )]
    LogDamaged {
        /// The file, with its directory.
        file: String,
        /// The byte in that file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file belongs to another group's, subgroup's or member's log.
    #[error("{file} belongs to another log, of {key} {theirs} and not {ours}: give every log a directory of its own")]
    LogForeign {
        /// The file, with its directory.
        file: String,
        /// What differs: group, subgroup or member.
        key: &'static str,
        /// Our value.
        ours: String,
        /// The file's.
        theirs: String,
    },
    /// A file was written by a later version of Galerna.
    #[error("{file} has format {found}, and this version reads formats up to {known}: use a later version")]
    LogFormat {
        /// The file, with its directory.
        file: String,
        /// The file's format.
        found: u32,
        /// The latest format that is known here.
        known: u32,
    },
    /// What was asked for was trimmed away.
    #[error("the log does not go back to {wanted}: it was trimmed, and its oldest record is {oldest}")]
    LogTrimmed {
        /// What was asked for.
        wanted: String,
        /// The version of the oldest record there is, or that there is none.
        oldest: String,
    },
    /// The disk refused a write or a sync. That is final: what is not durable by now may be lost, and nobody knows which part.
    #[error(
        "the log has stopped, as {what} failed: {}; what was durable before is safe: open the log again",
        shortage::explained(source)
    )]
    LogFailed {
        /// What was being done, to which file, and in which directory.
        what: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// A record does not fit a segment.
    #[error(
        "a record of {len} bytes exceeds the log's limit of {limit} bytes: make the log with larger `segment_bytes`"
    )]
    LogRecordTooLarge {
        /// Bytes of the payload.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A record does not come after the last one, by its version or by its time.
    #[error(
        "a record of version {given} at {given_ns} ns cannot follow version {last} at {last_ns} ns: both must grow"
    )]
    LogOrder {
        /// The version given.
        given: Version,
        /// The time given, in nanoseconds.
        given_ns: u64,
        /// The version of the record before.
        last: Version,
        /// The time of the record before, in nanoseconds.
        last_ns: u64,
    },
    /// The operating system refused something.
    #[error("{what}: {}", shortage::explained(source))]
    Io {
        /// What was being done.
        what: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// A child of `fork` used what its parent has made: a group, a log, or what was got from them. Nothing was touched.
    #[error(
        "this process was forked after the call's group or log was made, which is the parent's: use it there, or join or open another one here"
    )]
    Forked,
    /// An application callback panicked; the group has stopped.
    #[error("a callback of the application panicked, so this process stopped: {0}")]
    CallbackPanicked(String),
}

impl Error {
    /// An I/O error with the sentence that says what was being done.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Error::Io { what: what.into(), source: Arc::new(source.into()) }
    }
}
