//! Appending to a log, and waiting until records are durable.

use super::version::galerna_version_t;
use super::{galerna_log_t, wait_with, with};
use crate::border::{self, Out};
use crate::callbacks::in_callback;
use crate::failure::Failure;
use crate::result::galerna_result_t;
use engine::Version;
use std::ffi::c_void;
use std::time::Duration;

/// Appends a record with a copy of `length` bytes, the next version and the present time.
///
/// The record is durable after galerna_log_sync() or galerna_log_wait_durable(). It can be read only when it is
/// durable.
///
/// - `data`: the bytes. May be NULL when `length` is 0. Not kept after the call.
/// - `timeout_ms`: how long to wait while `backlog_max_bytes` are not durable yet, in milliseconds. 0 does not wait.
///   Inside a callback it counts as 0.
/// - `version`: receives the record's version. May be NULL.
///
/// May be called from any thread. Records of one thread are in the order of its calls.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LOG_RECORD_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the
/// disk is behind and the timeout is 0), GALERNA_ERR_TIMED_OUT (the disk stayed behind), GALERNA_ERR_LOG_FULL (there is
/// no space, and earlier records wait for it), GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE (the log is open for reading
/// only).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_append(
    log: *mut galerna_log_t,
    data: *const c_void,
    length: usize,
    timeout_ms: u32,
    version: *mut galerna_version_t,
) -> galerna_result_t {
    border::call(|| {
        let wait = timeout_ms > 0 && !in_callback();
        let timeout = wait.then_some(border::timeout(timeout_ms));
        // SAFETY: the C caller guarantees the documented requirements.
        unsafe { append(log, data, length, timeout, version) }
    })
}

/// Appends a record as galerna_log_append() does with a timeout of 0. Never waits.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LOG_RECORD_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the
/// disk is behind), GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE (the log is open for reading
/// only).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_try_append(
    log: *mut galerna_log_t,
    data: *const c_void,
    length: usize,
    version: *mut galerna_version_t,
) -> galerna_result_t {
    // SAFETY: the C caller guarantees the documented requirements.
    border::call(|| unsafe { append(log, data, length, None, version) })
}

/// # Safety
/// `data` and `version` meet the requirements of [`border::bytes`] and [`Out::optional`].
unsafe fn append(
    log: *const galerna_log_t,
    data: *const c_void,
    length: usize,
    timeout: Option<Duration>,
    version: *mut galerna_version_t,
) -> Result<(), Failure> {
    // SAFETY: the caller guarantees it.
    let (out, payload) = unsafe { (Out::optional("version", version)?, border::bytes("data", data, length)?) };
    with(log, |open| {
        let log = open.writing()?;
        let version = match timeout {
            Some(timeout) => log.append(payload, timeout)?,
            None => log.try_append(payload)?,
        };
        if let Some(out) = out {
            out.set(version.into());
        }
        Ok(())
    })
}

/// Waits until all records that were appended before the call are durable.
///
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE
/// (inside a callback, or the log is open for reading only).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_sync(log: *mut galerna_log_t, timeout_ms: u32) -> galerna_result_t {
    border::call(|| wait_with(log, timeout_ms, |log, timeout| log.sync(timeout)))
}

/// Waits until the record of this version and all records before it are durable.
///
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE
/// (inside a callback, or the log is open for reading only).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_wait_durable(
    log: *mut galerna_log_t,
    version: galerna_version_t,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| wait_with(log, timeout_ms, |log, timeout| log.wait_durable(version.into(), timeout)))
}

/// Gets the version of the last durable record, or `0.0` if there is none yet. Never waits.
///
/// - `version`: receives the version.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`version` is NULL), GALERNA_ERR_MISUSE (the log is open for
/// reading only. Such a log also contains records that another process has not synced yet, see galerna_log_end()).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_durable(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `version`.
        let out = unsafe { Out::new("version", version)? };
        with(log, |open| {
            out.set(open.writing()?.durable().unwrap_or_default().into());
            Ok(())
        })
    })
}

/// Removes the records before a version, in whole segments and durably.
///
/// The rest begins at galerna_log_oldest(), which may be before that version.
///
/// - `before`: the first record that is still needed.
/// - `timeout_ms`: how long to wait, in milliseconds. If the timeout passes, the log is trimmed anyway.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO, GALERNA_ERR_MISUSE
/// (inside a callback, or the log is open for reading only).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_trim(
    log: *mut galerna_log_t,
    before: galerna_version_t,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| wait_with(log, timeout_ms, |log, timeout| log.trim(Version::from(before), timeout)))
}
