//! The error type of the engine. A text states the problem, the offending value and the remedy.

use crate::shortage;
use crate::types::{MemberId, SubgroupId, Version};
use std::sync::Arc;

/// All errors of the engine. Cheap to clone: the reason why a group stopped is returned to every caller.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is not usable. The text names the key and the value.
    #[error("configuration: {0}")]
    Config(String),
    /// A message exceeds `max_message_bytes` of its subgroup.
    #[error(
        "a message of {len} bytes exceeds the limit of {limit} bytes: raise `max_message_bytes` (and `ring_bytes`) on every member, or send it in parts"
    )]
    MessageTooLarge {
        /// The size of the message in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The call would have to wait, but must not: it is a `try` call, or it was made inside a callback.
    #[error("the call would have to wait: {0}")]
    WouldBlock(&'static str),
    /// A deadline passed.
    #[error("{what} did not finish within {after_ms} ms")]
    TimedOut {
        /// The operation that did not finish.
        what: &'static str,
        /// The timeout that was given, in milliseconds.
        after_ms: u64,
    },
    /// Some members did not appear before the join deadline.
    #[error("join: after {after_ms} ms still missing: {missing}; start them, or check their addresses")]
    Missing {
        /// The missing members, each with its address and the last obstacle.
        missing: String,
        /// The join timeout, in milliseconds.
        after_ms: u64,
    },
    /// Another member's configuration differs.
    #[error("join: member {member} disagrees on `{key}`: {ours} here, {theirs} there; give every member the same file")]
    Disagreement {
        /// The other member.
        member: MemberId,
        /// The key that differs.
        key: String,
        /// The value of this process.
        ours: String,
        /// The other member's value.
        theirs: String,
    },
    /// A member refused this process, or could not continue the join.
    #[error("join: member {member} refused: {reason}")]
    Refused {
        /// The member that refused.
        member: MemberId,
        /// The member's reason.
        reason: String,
    },
    /// A process that was to found the group found that the group already runs.
    ///
    /// [`crate::Group::join`] then joins the running group instead. Only code that sets up the connections itself,
    /// without [`crate::Group::join`], sees this error.
    #[error("the group runs already: member {member} is in it")]
    AlreadyRuns {
        /// The member that reported it.
        member: MemberId,
    },
    /// Two groups of this name exist that do not know of each other. Each accepts its own messages (split brain).
    #[error(
        "two groups are named `{group}`: {ours}, and {theirs}; stop the members of one of them; then give that group another name, or remove its logs and start its members again, which join the other group"
    )]
    TwoGroups {
        /// The name.
        group: String,
        /// This process's group: its id, and how this process knows of it.
        ours: String,
        /// The other group.
        theirs: String,
    },
    /// This process joined, but could not receive the group's state.
    #[error("join: the group's state could not be received: {0}")]
    StateTransfer(String),
    /// This process cannot listen on its own address.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address of this member in the configuration.
        address: String,
        /// The system's error, and the remedy.
        reason: String,
    },
    /// A member violated the protocol while the group was being set up.
    #[error("member {member} broke the protocol and was severed: {what}")]
    Contract {
        /// The member that was severed.
        member: MemberId,
        /// The violation.
        what: String,
    },
    /// This process cannot reach a majority, so it stopped: the others would not agree to anything it does.
    #[error(
        "this process is cut off: for {after_ms} ms (`partition_timeout_ms`) it could not reach more than half of the members of view {view}, and stopped; the others may go on without it, and messages that it delivered last as `fifo` or `ordered` may be unknown to them: start it again to join them"
    )]
    Partitioned {
        /// The last view.
        view: u64,
        /// The value of `partition_timeout_ms`.
        after_ms: u64,
    },
    /// The others continued without this process: they could not reach it for a while, or it stood still.
    ///
    /// Messages that it delivered last as `ordered` or `fifo` may be unknown to every other member.
    #[error(
        "this process was removed: it stood still, or the other members could not reach it, and they went on to view {view} without it; messages that it delivered last as `fifo` or `ordered` may be unknown to them; start it again to join them"
    )]
    Removed {
        /// The view that does not contain this process.
        view: u64,
    },
    /// An internal inconsistency of the engine: please report it.
    #[error("internal error, please report it: {0}")]
    Internal(String),
    /// This process left the group before the call.
    #[error("this process has left the group")]
    Left,
    /// There is no such subgroup.
    #[error("there is no subgroup {0}")]
    UnknownSubgroup(SubgroupId),
    /// The call is not allowed in this state or from this thread.
    #[error("{0}")]
    Misuse(&'static str),
    /// The configuration demands RDMA, but this machine has no usable RDMA device.
    #[error("RDMA cannot be used: {0}; or set `fabric` to \"auto\" or \"tcp\" at every member")]
    Rdma(String),
    /// Another writer has the log open, in this process or in another one.
    #[error(
        "the log in {directory} is open for writing already, by another process (perhaps this member, which still runs, or a child that it forked) or elsewhere in this one: stop that process or close the log there, or open it for reading only"
    )]
    LogLocked {
        /// The log's directory.
        directory: String,
    },
    /// Space, memory or a file descriptor for a write is missing, or a limit forbids a file of that size.
    ///
    /// No durable data is lost. The log continues when the resource is available again.
    #[error("the log needs {bytes} bytes for {file}, and {shortage}")]
    LogFull {
        /// The file that was to be created, with its directory.
        file: String,
        /// The size of the file in bytes.
        bytes: u64,
        /// The missing resource, and the remedy.
        shortage: &'static str,
    },
    /// A file of the log differs from its written content: durable data is lost on this disk.
    #[error(
        "the log is damaged: {file}, offset {offset}: {what}; put back the latest bytes of the file from a copy of this very log, if there is one, or remove the whole directory: a member of a group then receives the log from the others"
    )]
    LogDamaged {
        /// The file, with its directory.
        file: String,
        /// The offset in that file, in bytes.
        offset: u64,
        /// The defect at that offset.
        what: String,
    },
    /// A file belongs to the log of another group, subgroup or member.
    #[error("{file} belongs to another log, of {key} {theirs} and not {ours}: give every log a directory of its own")]
    LogForeign {
        /// The file, with its directory.
        file: String,
        /// The property that differs: group, subgroup or member.
        key: &'static str,
        /// The value of this process.
        ours: String,
        /// The value in the file.
        theirs: String,
    },
    /// A file was written by a later version of Galerna.
    #[error("{file} has format {found}, and this version reads formats up to {known}: use a later version")]
    LogFormat {
        /// The file, with its directory.
        file: String,
        /// The format of the file.
        found: u32,
        /// The latest format that this version reads.
        known: u32,
    },
    /// The requested records were trimmed.
    #[error("the log does not go back to {wanted}: it was trimmed; its oldest record: {oldest}")]
    LogTrimmed {
        /// The requested record.
        wanted: String,
        /// The version of the oldest record, or a note that there is none.
        oldest: String,
    },
    /// The disk failed a write or a sync. This is final for the open log.
    ///
    /// Data that is not durable by now may be lost, and it is unknown which part.
    #[error(
        "the log has stopped, because {what} failed: {}; everything that was durable before is safe: check the disk, and open the log again",
        shortage::explained(source)
    )]
    LogFailed {
        /// The failed operation, its file and its directory.
        what: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// A record does not fit a segment.
    #[error(
        "a record of {len} bytes exceeds the log's limit of {limit} bytes: create the log with larger `segment_bytes`"
    )]
    LogRecordTooLarge {
        /// The size of the payload in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The version or the time of a record is not greater than that of the last record.
    #[error(
        "a record of version {given} at {given_ns} ns cannot follow version {last} at {last_ns} ns: both must increase"
    )]
    LogOrder {
        /// The version of the refused record.
        given: Version,
        /// The time of the refused record, in nanoseconds.
        given_ns: u64,
        /// The version of the record before.
        last: Version,
        /// The time of the record before, in nanoseconds.
        last_ns: u64,
    },
    /// The operating system refused an operation.
    #[error("{what}: {}", shortage::explained(source))]
    Io {
        /// The operation that failed.
        what: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// A child of `fork` used an object of its parent: a group, a log, or an object obtained from one of these.
    ///
    /// The call had no effect.
    #[error(
        "this process is a forked child, and the group or log belongs to its parent: use it in the parent, or join or open another one in the child"
    )]
    Forked,
    /// An application callback panicked, and the group has stopped.
    #[error("a callback of the application failed, so this process stopped: {0}")]
    CallbackPanicked(String),
}

impl Error {
    /// An I/O error. `what` names the operation that failed.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Error::Io { what: what.into(), source: Arc::new(source.into()) }
    }
}
