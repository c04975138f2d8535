//! Why a call failed, inside the library: the engine's errors, and those of the border itself.

use crate::result::galerna_result_t::{self, *};
use engine::Error;
use std::fmt;

/// See the module. Its text is made only when somebody asks for it: `GALERNA_ERR_WOULD_BLOCK` costs no allocation.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the engine said.
    Engine(Error),
    /// An argument, and what is wrong with it.
    Argument(&'static str, &'static str),
    /// A struct whose `size` is not that of this version: its name, the size given, the size expected.
    Size(&'static str, usize, usize),
    /// What the handle should have been, and whether it was NULL.
    Handle { kind: &'static str, null: bool },
    /// The most handles of a kind.
    Limit { kind: &'static str, most: usize },
    /// What a panic said.
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
            Failure::Argument(..) | Failure::Size(..) => GALERNA_ERR_ARGUMENT,
            Failure::Handle { .. } => GALERNA_ERR_HANDLE,
            Failure::Limit { .. } => GALERNA_ERR_LIMIT,
            Failure::Panic(_) => GALERNA_ERR_INTERNAL,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Engine(error) => error.fmt(f),
            Failure::Argument(name, what) => write!(f, "`{name}` {what}"),
            Failure::Size(name, given, expected) => write!(
                f,
                "`size` of the {name} is {given}, but this version of the library expects {expected}: set it to sizeof({name})"
            ),
            Failure::Handle { kind, null: true } => write!(f, "the {kind} is NULL"),
            Failure::Handle { kind, null: false } => write!(f, "the handle is no {kind}, or one that was freed"),
            Failure::Limit { kind, most } => write!(f, "there are {most} handles of a {kind} already: free some"),
            Failure::Panic(text) => write!(f, "internal error: {text}"),
        }
    }
}

/// The number that C sees for an error of the engine.
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
        // `Internal` and what this border does not know.
        _ => GALERNA_ERR_INTERNAL,
    }
}
