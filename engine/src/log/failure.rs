//! Classifies failed disk steps: the log can continue after some of them, and must stop after the others.

use super::disk::Disk;
use crate::error::Error;
use crate::shortage;
use nix::errno::Errno;
use std::io;
use std::sync::Arc;

/// A failed step. The variant states whether the store can continue.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing was changed: the store can continue.
    Refused(Error),
    /// The content of the disk is unknown now: the log stops.
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

/// The result of a failed step that needed space, memory or a descriptor for `file`, and failed before any change.
///
/// If one of these resources was missing, the log can continue.
pub(super) fn full_or_final(doing: &str, error: io::Error, file: &str, bytes: u64) -> Step {
    match full(&error, file, bytes) {
        Some(full) => Step::Refused(full),
        None => Step::new(format!("{doing} {file}"), error),
    }
}

/// Like [`full_or_final`], where the log can continue without the file.
pub(super) fn not_made(doing: &str, error: io::Error, file: &str, bytes: u64) -> Error {
    full(&error, file, bytes).unwrap_or_else(|| Error::io(format!("{doing} {file}"), error))
}

/// Adds the path of the disk's directory to the error, since the steps only know file names.
pub(super) fn in_directory(error: Error, disk: &dyn Disk) -> Error {
    let Some(path) = disk.path() else { return error };
    let whole = |file: String| if file.contains('/') { file } else { path.join(file).display().to_string() };
    let directory = path.display().to_string();
    let inside = |what: String| if what.contains(&directory) { what } else { format!("{what} in {directory}") };
    match error {
        Error::LogDamaged { file, offset, what } => Error::LogDamaged { file: whole(file), offset, what },
        Error::LogFull { file, bytes, shortage } => Error::LogFull { file: whole(file), bytes, shortage },
        Error::LogForeign { file, key, ours, theirs } => Error::LogForeign { file: whole(file), key, ours, theirs },
        Error::LogFormat { file, found, known } => Error::LogFormat { file: whole(file), found, known },
        Error::LogFailed { what, source } => Error::LogFailed { what: inside(what), source },
        Error::Io { what, source } => Error::Io { what: inside(what), source },
        other => other,
    }
}

fn full(error: &io::Error, file: &str, bytes: u64) -> Option<Error> {
    shortage(error).map(|shortage| Error::LogFull { file: file.to_owned(), bytes, shortage })
}

/// Whether a retry may succeed later, because only space, memory or a descriptor was missing.
pub(super) fn is_shortage(error: &Error) -> bool {
    match error {
        Error::LogFull { .. } => true,
        Error::Io { source, .. } => is_lack(source),
        _ => false,
    }
}

/// Whether only space, memory or a descriptor was missing.
pub(super) fn is_lack(error: &io::Error) -> bool {
    shortage(error).is_some()
}

pub(super) fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// The missing resource and the remedy, for an error that goes away once more of the resource is available.
fn shortage(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull => return Some("the disk is full: free some space, or trim the log"),
        io::ErrorKind::QuotaExceeded => return Some("the disk quota is used up: raise it, or trim the log"),
        _ => {}
    }
    match error.raw_os_error().map(Errno::from_raw)? {
        Errno::EFBIG => Some(
            "RLIMIT_FSIZE (`ulimit -f`) or the file system forbids a file of that size: raise the limit, or use smaller segments (`log.segment_bytes`)",
        ),
        _ => shortage::advice(error),
    }
}
