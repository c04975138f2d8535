//! `galerna_log_t`: a log in a directory, from open to close.

mod append;
mod checkpoint;
mod checkpoint_writer;
mod entry;
mod iter;
mod options;
mod read;
mod version;

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

/// An append-only log on disk, whose records are found again by version and by time. Its calls may come from any number of
/// threads; the handle is a number, so a freed one is an error and no crash.
///
/// The directory stays locked until the log is closed. Its entries, iterators and checkpoint writers go on then, with what was
/// durable, also while somebody else writes the log; of a group's log, free them before this process joins again.
pub struct galerna_log_t;

static LOGS: Table<Open> = Table::new("log", 9);

/// What a handle of a log stands for.
enum Open {
    Writing(Log),
    Reading(ReadOnlyLog),
    /// A group's, which the group writes.
    Group(Reader),
}

impl Open {
    fn writing(&self) -> Result<&Log, Failure> {
        match self {
            Open::Writing(log) => Ok(log),
            Open::Reading(_) => {
                Err(Error::Misuse("the log is open for reading only: open it by galerna_log_open").into())
            }
            Open::Group(_) => {
                Err(Error::Misuse("the log is a group's, which alone writes it: this is for reading").into())
            }
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
            Open::Group(_) => Err(Error::Misuse("a group's checkpoints come by the `restore` callback")),
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

/// The same for what waits for the disk.
fn wait_with<R>(
    log: *const galerna_log_t,
    timeout_ms: u32,
    body: impl FnOnce(&Log, Duration) -> Result<R, Error>,
) -> Result<R, Failure> {
    not_in_callback()?;
    let timeout = Duration::from_millis(timeout_ms.into());
    with(log, |open| Ok(body(open.writing()?, timeout)?))
}

/// Opens the log in a directory for writing, or makes one. What a crash left is put in order.
///
/// - `directory`: its path, UTF-8, a string that ends with a zero byte; made if there is none. Not kept.
/// - `options`: may be NULL, for the defaults; not kept.
/// - `out`: takes the log, to be freed with galerna_log_close(), or NULL after an error.
///
/// Any thread. Errors: ARGUMENT, CONFIG (an option is out of its range), LOG_LOCKED (somebody has it open for writing),
/// LOG_DAMAGED (something that was durable is lost), LOG_FOREIGN, LOG_FORMAT, LOG_FULL, LOG_FAILED, IO, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_open(
    directory: *const c_char,
    options: *const galerna_log_options_t,
    out: *mut *mut galerna_log_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out`, `directory` and `options`.
        let (out, directory, options) =
            unsafe { (Out::new("out", out)?, border::text("directory", directory), options::read(options)) };
        open(&out, || Ok(Open::Writing(Log::open(directory?, options?)?)))
    })
}

/// Opens a log for reading what is in it now, also while another process, or this one, writes it. Changes nothing. It may be
/// a group's log too.
///
/// - `directory`: its path, UTF-8, a string that ends with a zero byte; not kept.
/// - `out`: takes the log, to be freed with galerna_log_close(), or NULL after an error.
///
/// Any thread. Errors: ARGUMENT, IO (there is no log), LOG_DAMAGED, LOG_FORMAT, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_open_read_only(
    directory: *const c_char,
    out: *mut *mut galerna_log_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out` and `directory`.
        let (out, directory) = unsafe { (Out::new("out", out)?, border::text("directory", directory)) };
        open(&out, || Ok(Open::Reading(Log::open_read_only(directory?)?)))
    })
}

/// Makes durable what was appended, and frees the log, also when that fails. It waits for the disk, and for the calls that
/// are under way in other threads.
///
/// NULL and a second close do nothing and return GALERNA_OK. Any thread, but not inside a callback. Errors: HANDLE (it never
/// was one), MISUSE (inside a callback; the log stays open); and why not all that was appended is durable: LOG_FULL,
/// LOG_FAILED.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_close(log: *mut galerna_log_t) -> galerna_result_t {
    border::call(|| remove(log)?.map_or(Ok(()), |open| Ok(open.close()?)))
}

/// The same as galerna_log_close(), for who does not ask whether all is durable.
///
/// NULL and a second free do nothing and return GALERNA_OK. Any thread, but not inside a callback. Errors: HANDLE (it never
/// was one), MISUSE (inside a callback; the log stays open).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_free(log: *mut galerna_log_t) -> galerna_result_t {
    border::call(|| remove(log).map(drop))
}

fn open(out: &Out<*mut galerna_log_t>, log: impl FnOnce() -> Result<Open, Failure>) -> Result<(), Failure> {
    out.set(std::ptr::null_mut());
    // Taken first, so that nothing is opened in vain.
    let vacancy = LOGS.vacancy()?;
    out.set(vacancy.fill(log()?));
    Ok(())
}

/// A handle for a group's log.
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
