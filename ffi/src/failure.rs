//! The reasons for which a call fails, inside the library: errors of the engine and errors of the C ABI.

use crate::result::galerna_result_t::{self, *};
use engine::Error;
use std::fmt;

/// The reason for which a call failed. Its text is made only on request, so `GALERNA_ERR_WOULD_BLOCK` costs no
/// allocation.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the engine.
    Engine(Error),
    /// An invalid argument: its name, and the defect.
    Argument(&'static str, &'static str),
    /// A struct with a `size` that no version of it has.
    Size { name: &'static str, given: usize, min: usize, max: usize },
    /// A struct with a field that this library does not know, and that is not zero.
    NewerHeader { name: &'static str, given: usize, known: usize },
    /// An invalid handle: the expected kind, and whether the handle was NULL.
    Handle { kind: &'static str, null: bool },
    /// Too many handles: the kind, and the limit.
    Limit { kind: &'static str, most: usize },
    /// The process is joining the group still.
    Joining,
    /// The text of a panic.
    Panic(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Engine(error)
    }
}

impl Failure {
    pub(crate) fn code(&self) -> galerna_result_t {
        match self {
            Failure::Engine(error) => code_of(error),
            Failure::Argument(..) | Failure::Size { .. } | Failure::NewerHeader { .. } => GALERNA_ERR_ARGUMENT,
            Failure::Handle { .. } => GALERNA_ERR_HANDLE,
            Failure::Limit { .. } => GALERNA_ERR_LIMIT,
            Failure::Joining => GALERNA_ERR_JOINING,
            Failure::Panic(_) => GALERNA_ERR_INTERNAL,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Engine(error) => error.fmt(f),
            Failure::Joining => f.write_str("this process is joining the group: wait for the `joined` callback"),
            Failure::Argument(name, what) => write!(f, "`{name}` {what}"),
            Failure::Size { name, given, min, max } => write!(
                f,
                "`size` of the {name} is {given}, but it is between {min} and {max} in all versions: set it to sizeof({name})"
            ),
            Failure::NewerHeader { name, given, known } => write!(
                f,
                "the {name} has {given} bytes, of which this library, version {}, knows {known}, and a field beyond them is \
                 set: the program was compiled with the header of a newer version. Install that version of the library, or \
                 leave the field 0",
                env!("CARGO_PKG_VERSION")
            ),
            Failure::Handle { kind, null: true } => write!(f, "the {kind} is NULL"),
            Failure::Handle { kind, null: false } => write!(f, "the handle is not a {kind}, or was freed already"),
            Failure::Limit { kind, most } => write!(f, "there are {most} handles of a {kind} already: free some"),
            Failure::Panic(text) => write!(f, "internal error: {text}"),
        }
    }
}

/// Returns the result code for an error of the engine.
pub(crate) fn code_of(error: &Error) -> galerna_result_t {
    match error {
        Error::Config(_) => GALERNA_ERR_CONFIG,
        Error::MessageTooLarge { .. } => GALERNA_ERR_MESSAGE_TOO_LARGE,
        Error::WouldBlock(_) => GALERNA_ERR_WOULD_BLOCK,
        Error::TimedOut { .. } => GALERNA_ERR_TIMED_OUT,
        Error::Missing { .. } => GALERNA_ERR_MEMBERS_MISSING,
        Error::Disagreement { .. } => GALERNA_ERR_DISAGREEMENT,
        Error::Refused { .. } => GALERNA_ERR_REFUSED,
        Error::Listen { .. } => GALERNA_ERR_LISTEN,
        Error::TwoGroups { .. } => GALERNA_ERR_TWO_GROUPS,
        Error::Contract { .. } => GALERNA_ERR_CONTRACT,
        Error::Partitioned { .. } => GALERNA_ERR_PARTITIONED,
        Error::StateTransfer(_) => GALERNA_ERR_STATE_TRANSFER,
        Error::Rdma(_) => GALERNA_ERR_RDMA,
        Error::Removed { .. } => GALERNA_ERR_REMOVED,
        Error::Left => GALERNA_ERR_LEFT,
        Error::UnknownSubgroup(_) => GALERNA_ERR_UNKNOWN_SUBGROUP,
        Error::Misuse(_) => GALERNA_ERR_MISUSE,
        Error::Io { .. } => GALERNA_ERR_IO,
        Error::LogLocked { .. } => GALERNA_ERR_LOG_LOCKED,
        Error::LogFull { .. } => GALERNA_ERR_LOG_FULL,
        Error::LogDamaged { .. } => GALERNA_ERR_LOG_DAMAGED,
        Error::LogForeign { .. } => GALERNA_ERR_LOG_FOREIGN,
        Error::LogFormat { .. } => GALERNA_ERR_LOG_FORMAT,
        Error::LogTrimmed { .. } => GALERNA_ERR_LOG_TRIMMED,
        Error::LogFailed { .. } => GALERNA_ERR_LOG_FAILED,
        Error::LogRecordTooLarge { .. } => GALERNA_ERR_LOG_RECORD_TOO_LARGE,
        Error::LogOrder { .. } => GALERNA_ERR_LOG_ORDER,
        Error::Forked => GALERNA_ERR_FORKED,
        Error::CallbackPanicked(_) => GALERNA_ERR_CALLBACK,
        // `Internal`, and errors that this layer does not know.
        _ => GALERNA_ERR_INTERNAL,
    }
}
