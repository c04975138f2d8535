//! `galerna_log_checkpoint_writer_t`: writes a checkpoint of an application.

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

/// A checkpoint that is being written. It becomes valid, as a whole, when it is committed.
///
/// Its calls may be made from any thread, one at a time. The handle is a number and is never dereferenced: using a
/// freed handle returns GALERNA_ERR_HANDLE.
pub struct galerna_log_checkpoint_writer_t;

/// The value that a writer's handle stands for.
struct Writing {
    snapshot: Mutex<SnapshotWriter>,
    /// The log's handle, as a number, because the log may be freed before the commit.
    log: usize,
}

static WRITERS: Table<Writing> = Table::new("checkpoint writer", 15);

/// Begins a checkpoint of the application's state.
///
/// Write it with galerna_log_checkpoint_write() and commit it with galerna_log_checkpoint_commit(). Then
/// galerna_log_trim() may remove the records that it covers.
///
/// - `version`: the last version that the checkpoint covers. Only one checkpoint of each version can be written at a
///   time.
/// - `time_ns`: a time that is stored with the checkpoint, in nanoseconds since 1970.
/// - `out`: receives the writer, or NULL after an error. It is freed by galerna_log_checkpoint_commit() or
///   galerna_log_checkpoint_abandon().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_FULL, GALERNA_ERR_IO,
/// GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (the log is open for reading only).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_begin(
    log: *mut galerna_log_t,
    version: galerna_version_t,
    time_ns: u64,
    out: *mut *mut galerna_log_checkpoint_writer_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`.
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
/// - `data`: the bytes. May be NULL when `length` is 0. Not kept after the call.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_IO. After GALERNA_ERR_LOG_FULL
/// or GALERNA_ERR_IO the checkpoint must be abandoned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_write(
    writer: *mut galerna_log_checkpoint_writer_t,
    data: *const c_void,
    length: usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `data`.
        let bytes = unsafe { border::bytes("data", data, length)? };
        WRITERS.with(writer, |writing| {
            let mut snapshot = border::lock(&writing.snapshot);
            Ok(snapshot.write(bytes)?)
        })
    })
}

/// Makes a checkpoint durable, replaces the older ones, and frees the writer.
///
/// The writer is freed even if the commit fails.
///
/// - `timeout_ms`: how long to wait for the log, in milliseconds. If the timeout passes, the log may still commit the
///   checkpoint later.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE (the writer is invalid, or its log was closed), GALERNA_ERR_TIMED_OUT,
/// GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO, GALERNA_ERR_MISUSE (inside a callback; the writer
/// remains valid).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_checkpoint_commit(
    writer: *mut galerna_log_checkpoint_writer_t,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        // Checked first, because in a forked child `remove` returns no value.
        WRITERS.with(writer, |_| Ok(()))?;
        let freed = || Failure::Handle { kind: "checkpoint writer", null: writer.is_null() };
        let Writing { snapshot, log } = *WRITERS.remove(writer, |_| {})?.ok_or_else(freed)?;
        let snapshot = snapshot.into_inner().unwrap_or_else(PoisonError::into_inner);
        let log: *const galerna_log_t = std::ptr::without_provenance(log);
        wait_with(log, timeout_ms, |log, timeout| log.install(snapshot, timeout))
    })
}

/// Abandons a checkpoint, deletes its data, and frees the writer.
///
/// NULL and a writer that was already freed, also by a commit, are ignored. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_checkpoint_abandon(writer: *mut galerna_log_checkpoint_writer_t) {
    border::call(|| WRITERS.remove(writer, |_| {}).map(drop));
}
