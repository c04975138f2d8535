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
pub(super) fn full_or(error: io::Error, file: &str, bytes: u64, doing: &str) -> Step {
    if is_full(&error) {
        return Step::Refused(Error::LogFull { file: file.to_owned(), bytes });
    }
    Step::new(format!("{doing} {file}"), error)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
