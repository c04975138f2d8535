//! What a step on the disk that failed means for the log.

use crate::error::Error;
use std::io;
use std::sync::Arc;

/// Why a step failed, and whether anything can be done after it.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing was changed.
    Refused(Error),
    /// Nobody knows what is on the disk now: the log stops.
    Final(Error),
}

impl Step {
    pub(super) fn new(what: impl Into<String>, error: io::Error) -> Step {
        Step::Final(Error::LogFailed { what: what.into(), source: Arc::new(error) })
    }

    pub(super) fn error(self) -> Error {
        match self {
            Step::Refused(error) | Step::Final(error) => error,
        }
    }
}

impl From<Error> for Step {
    fn from(error: Error) -> Step {
        Step::Refused(error)
    }
}

/// Creating `file` failed: a full disk is no reason to stop.
pub(super) fn full_or_final(error: io::Error, file: &str, bytes: u64) -> Step {
    match is_full(&error) {
        true => Step::Refused(Error::LogFull { file: file.to_owned(), bytes }),
        false => Step::new(format!("making {file}"), error),
    }
}

/// The same where the log goes on without the file.
pub(super) fn not_made(error: io::Error, file: &str, bytes: u64) -> Error {
    match is_full(&error) {
        true => Error::LogFull { file: file.to_owned(), bytes },
        false => Error::io(format!("making {file}"), error),
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
