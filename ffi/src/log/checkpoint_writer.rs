//! `galerna_log_checkpoint_writer_t`: an application's checkpoint that is being written.

use super::version::galerna_version_t;
use super::{galerna_log_t, wait_with, with};
use crate::border::{self, Out};
use crate::callbacks::not_in_callback;
use crate::failure::Failure;
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::log::SnapshotWriter;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// A checkpoint that is being written; it counts when it is committed, as a whole. Its calls may come from any thread, one
/// after another; the handle is a number, so a freed one is an error and no crash.
pub struct galerna_log_checkpoint_writer_t;

/// What a handle of a writer stands for.
struct Writing {
    snapshot: Mutex<SnapshotWriter>,
    /// The handle of the log, as a number: it may be freed meanwhile.
    log: usize,
}

static WRITERS: Table<Writing> = Table::new("checkpoint writer", 15);

/// Begins a checkpoint of the application's state, to be written with galerna_log_checkpoint_write() and committed with
/// galerna_log_checkpoint_commit(); galerna_log_trim() may then remove the records that it covers.
///
/// - `version`: the last version that it covers. One checkpoint of each version at a time.
/// - `time_ns`: kept with it: nanoseconds since 1970.
/// - `out`: takes the writer, to be freed with galerna_log_checkpoint_abandon() or by the commit; NULL after an error.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_FULL, IO, LIMIT, MISUSE (the log is open for reading only).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_begin(
    log: *mut galerna_log_t,
    version: galerna_version_t,
    time_ns: u64,
    out: *mut *mut galerna_log_checkpoint_writer_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out`.
        let out = unsafe { Out::new("out", out)? };
        out.set(std::ptr::null_mut());
        with(log, |open| {
            let vacancy = WRITERS.vacancy()?;
            let snapshot = Mutex::new(open.writing()?.snapshot(version.into(), time_ns)?);
            out.set(vacancy.fill(Writing { snapshot, log: log.addr() }));
            Ok(())
        })
    })
}

/// Appends `length` bytes to a checkpoint.
///
/// - `data`: the bytes; may be NULL when `length` is 0. Not kept.
///
/// Any thread. Errors: HANDLE, ARGUMENT; LOG_FULL and IO, after which it is to be abandoned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_write(
    writer: *mut galerna_log_checkpoint_writer_t,
    data: *const c_void,
    length: usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `data`.
        let bytes = unsafe { border::bytes("data", data, length)? };
        WRITERS.with(writer, |writing| {
            let mut snapshot = writing.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(snapshot.write(bytes)?)
        })
    })
}

/// Makes a checkpoint durable, in place of the older ones, and frees the writer, also when that fails.
///
/// - `timeout_ms`: how long to wait for the log, in milliseconds. When it passes, the log may commit it all the same.
///
/// Any thread, but not inside a callback. Errors: HANDLE (of the writer; or its log was closed), TIMED_OUT, LOG_FULL,
/// LOG_FAILED, IO, MISUSE (inside a callback; the writer stays).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_checkpoint_commit(
    writer: *mut galerna_log_checkpoint_writer_t,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        // In a forked child nothing would be there to be taken.
        WRITERS.with(writer, |_| Ok(()))?;
        let freed = || Failure::Handle { kind: "checkpoint writer", null: writer.is_null() };
        let Writing { snapshot, log } = *WRITERS.remove(writer, |_| {})?.ok_or_else(freed)?;
        let snapshot = snapshot.into_inner().unwrap_or_else(PoisonError::into_inner);
        let log: *const galerna_log_t = std::ptr::without_provenance(log);
        wait_with(log, timeout_ms, |log, timeout| log.install(snapshot, timeout))
    })
}

/// Gives a checkpoint up, and frees the writer: nothing of it stays. NULL, a second time, and after a commit it does
/// nothing.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_checkpoint_abandon(writer: *mut galerna_log_checkpoint_writer_t) {
    border::call(|| WRITERS.remove(writer, |_| {}).map(drop));
}
