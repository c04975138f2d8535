//! `galerna_log_t`: a log in a directory, from open to close.

// In the order of the header, see `lib.rs`.
mod options;
mod version;

mod append;

mod read;

mod iter;

mod entry;

mod checkpoint_writer;

mod checkpoint;

use crate::border::{self, Out};
use crate::callbacks::not_in_callback;
use crate::failure::Failure;
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::Error;
use engine::log::{Log, ReadOnlyLog, Reader, Snapshot};
use options::galerna_log_options_t;
use std::ffi::c_char;
use std::time::Duration;
pub(crate) use version::galerna_version_t;

/// An append-only log on disk. Its records can be found by version and by time.
///
/// Its calls may be made from any number of threads. The handle is a number and is never dereferenced: using a freed
/// handle returns GALERNA_ERR_HANDLE.
///
/// The directory stays locked until the log is closed. Entries, iterators and checkpoint writers remain usable after
/// that, with the records that were durable by then, even while another writer has the log open. Those of a group's log
/// must be freed before this process joins again.
pub struct galerna_log_t;

static LOGS: Table<Open> = Table::new("log", 9);

/// The value that a log's handle stands for.
enum Open {
    Writing(Log),
    Reading(ReadOnlyLog),
    /// A group's log, which only the group writes.
    Group(Reader),
}

impl Open {
    fn writing(&self) -> Result<&Log, Failure> {
        match self {
            Open::Writing(log) => Ok(log),
            Open::Reading(_) => {
                Err(Error::Misuse("the log is open for reading only: open it with galerna_log_open to write").into())
            }
            Open::Group(_) => Err(Error::Misuse(
                "the log belongs to a group, and only the group writes it: this handle is for reading",
            )
            .into()),
        }
    }

    fn reader(&self) -> Reader {
        match self {
            Open::Writing(log) => log.reader(),
            Open::Reading(log) => log.reader(),
            Open::Group(reader) => reader.clone(),
        }
    }

    fn load_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        match self {
            Open::Writing(log) => log.load_snapshot(),
            Open::Reading(log) => log.load_snapshot(),
            Open::Group(_) => Err(Error::Misuse("the checkpoints of a group are passed to its `restore` callback")),
        }
    }

    fn close(self) -> Result<(), Error> {
        match self {
            Open::Writing(log) => log.close(),
            Open::Reading(_) | Open::Group(_) => Ok(()),
        }
    }
}

/// Runs `body` with the log that a handle stands for.
fn with<R>(log: *const galerna_log_t, body: impl FnOnce(&Open) -> Result<R, Failure>) -> Result<R, Failure> {
    LOGS.with(log, body)
}

/// As [`with`], for calls that wait for the disk.
fn wait_with<R>(
    log: *const galerna_log_t,
    timeout_ms: u32,
    body: impl FnOnce(&Log, Duration) -> Result<R, Error>,
) -> Result<R, Failure> {
    not_in_callback()?;
    let timeout = border::timeout(timeout_ms);
    with(log, |open| Ok(body(open.writing()?, timeout)?))
}

/// Opens the log in a directory for writing, or makes a new one. Repairs the effects of a crash.
///
/// - `directory`: the path of the directory, a UTF-8 string that ends with a zero byte. The directory is made if it
///   does not exist. Not kept after the call.
/// - `options`: the options. NULL selects the defaults. Not kept after the call.
/// - `out`: receives the log, or NULL after an error. Free it with galerna_log_close().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_ARGUMENT, GALERNA_ERR_CONFIG (an option is out of its range), GALERNA_ERR_LOG_LOCKED (the log is
/// already open for writing), GALERNA_ERR_LOG_DAMAGED (durable data is lost), GALERNA_ERR_LOG_FOREIGN,
/// GALERNA_ERR_LOG_FORMAT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_open(
    directory: *const c_char,
    options: *const galerna_log_options_t,
    out: *mut *mut galerna_log_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`, `directory` and `options`.
        let (out, directory, options) =
            unsafe { (Out::new("out", out)?, border::text("directory", directory), options::read(options)) };
        open(&out, || Ok(Open::Writing(Log::open(directory?, options?)?)))
    })
}

/// Opens a log for reading its present records. Changes nothing.
///
/// The log may be open for writing at the same time, in this process or in another one. It may be a group's log.
///
/// - `directory`: the path of the directory, a UTF-8 string that ends with a zero byte. Not kept after the call.
/// - `out`: receives the log, or NULL after an error. Free it with galerna_log_close().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_ARGUMENT, GALERNA_ERR_IO (there is no log), GALERNA_ERR_LOG_DAMAGED, GALERNA_ERR_LOG_FORMAT,
/// GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_open_read_only(
    directory: *const c_char,
    out: *mut *mut galerna_log_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out` and `directory`.
        let (out, directory) = unsafe { (Out::new("out", out)?, border::text("directory", directory)) };
        open(&out, || Ok(Open::Reading(Log::open_read_only(directory?)?)))
    })
}

/// Makes all appended records durable and frees the log.
///
/// The log is freed even if that fails. The call waits for the disk and for running calls in other threads. NULL and a
/// log that was already closed are ignored and return GALERNA_OK.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE (`log` never was a log's handle), GALERNA_ERR_MISUSE (inside a callback; the log stays
/// open), GALERNA_ERR_LOG_FULL or GALERNA_ERR_LOG_FAILED (not all appended records are durable).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_close(log: *mut galerna_log_t) -> galerna_result_t {
    border::call(|| remove(log)?.map_or(Ok(()), |open| Ok(open.close()?)))
}

/// Closes a log as galerna_log_close() does, but does not report whether all records are durable.
///
/// NULL and a log that was already closed are ignored and return GALERNA_OK.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE (`log` never was a log's handle), GALERNA_ERR_MISUSE (inside a callback; the log stays
/// open).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_free(log: *mut galerna_log_t) -> galerna_result_t {
    border::call(|| remove(log).map(drop))
}

fn open(out: &Out<*mut galerna_log_t>, log: impl FnOnce() -> Result<Open, Failure>) -> Result<(), Failure> {
    out.set(std::ptr::null_mut());
    // Reserved first, so that no log is opened if there is no handle for it.
    let vacancy = LOGS.vacancy()?;
    out.set(vacancy.fill(log()?));
    Ok(())
}

/// Makes a handle for a group's log.
pub(crate) fn open_group(
    out: &Out<*mut galerna_log_t>,
    reader: impl FnOnce() -> Result<Reader, Failure>,
) -> Result<(), Failure> {
    open(out, || Ok(Open::Group(reader()?)))
}

fn remove(log: *const galerna_log_t) -> Result<Option<Box<Open>>, Failure> {
    if log.is_null() {
        return Ok(None);
    }
    not_in_callback()?;
    LOGS.remove(log, |_| {})
}
