//! Appending to a log, and waiting until it is durable.

use super::version::galerna_version_t;
use super::{galerna_log_t, wait_with, with};
use crate::border::{self, Out};
use crate::callbacks::in_callback;
use crate::failure::Failure;
use crate::result::galerna_result_t;
use engine::log::Version;
use std::ffi::c_void;
use std::time::Duration;

/// Appends a record with a copy of `length` bytes, the next version and the time of now. It is durable after
/// galerna_log_sync() or galerna_log_wait_durable(); only then it can be read.
///
/// - `data`: the bytes; may be NULL when `length` is 0. Not kept.
/// - `timeout_ms`: how long to wait while `backlog_max_bytes` are not durable yet, in milliseconds; 0 does not wait. Inside a
///   callback it counts as 0.
/// - `version`: takes the record's version; may be NULL.
///
/// Any thread; records of one thread are in the order of its calls. Errors: HANDLE, ARGUMENT, LOG_RECORD_TOO_LARGE,
/// WOULD_BLOCK (the disk is behind, and the timeout 0), TIMED_OUT (it stayed behind), LOG_FULL (there is no space, and what
/// was appended before waits for it), LOG_FAILED, MISUSE (the log is open for reading only).
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
        let timeout = wait.then_some(Duration::from_millis(timeout_ms.into()));
        // SAFETY: what the documentation asks.
        unsafe { append(log, data, length, timeout, version) }
    })
}

/// The same as galerna_log_append() with a timeout of 0: it never waits.
///
/// Any thread. Errors: HANDLE, ARGUMENT, LOG_RECORD_TOO_LARGE, WOULD_BLOCK (the disk is behind), LOG_FULL, LOG_FAILED,
/// MISUSE (the log is open for reading only).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_try_append(
    log: *mut galerna_log_t,
    data: *const c_void,
    length: usize,
    version: *mut galerna_version_t,
) -> galerna_result_t {
    // SAFETY: what the documentation asks.
    border::call(|| unsafe { append(log, data, length, None, version) })
}

/// # Safety
/// `data` and `version` as [`border::bytes`] and [`Out::optional`] ask.
unsafe fn append(
    log: *const galerna_log_t,
    data: *const c_void,
    length: usize,
    timeout: Option<Duration>,
    version: *mut galerna_version_t,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
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

/// Waits until everything that was appended before the call is durable.
///
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// Any thread, but not inside a callback. Errors: HANDLE, TIMED_OUT, LOG_FULL, LOG_FAILED, MISUSE (inside a callback, or
/// the log is open for reading only).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_sync(log: *mut galerna_log_t, timeout_ms: u32) -> galerna_result_t {
    border::call(|| wait_with(log, timeout_ms, |log, timeout| log.sync(timeout)))
}

/// Waits until the record of this version, and all before it, are durable.
///
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// Any thread, but not inside a callback. Errors: HANDLE, TIMED_OUT, LOG_FULL, LOG_FAILED, MISUSE (inside a callback, or
/// the log is open for reading only).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_wait_durable(
    log: *mut galerna_log_t,
    version: galerna_version_t,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| wait_with(log, timeout_ms, |log, timeout| log.wait_durable(version.into(), timeout)))
}

/// The version of the last durable record; `0.0` if there was none yet. It never waits.
///
/// - `version`: takes it.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`version` is NULL), MISUSE (the log is open for reading only, and what another
/// process has not synced is in it too: see galerna_log_end()).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_durable(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `version`.
        let out = unsafe { Out::new("version", version)? };
        with(log, |open| {
            out.set(open.writing()?.durable().unwrap_or_default().into());
            Ok(())
        })
    })
}

/// Removes whole segments of records before a version, durably. What is left begins at galerna_log_oldest(), which may be
/// before that version.
///
/// - `before`: the first record that is still needed.
/// - `timeout_ms`: how long to wait, in milliseconds. When it passes, the log trims all the same.
///
/// Any thread, but not inside a callback. Errors: HANDLE, TIMED_OUT, LOG_FAILED, IO, MISUSE (inside a callback, or the log
/// is open for reading only).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_trim(
    log: *mut galerna_log_t,
    before: galerna_version_t,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| wait_with(log, timeout_ms, |log, timeout| log.trim(Version::from(before), timeout)))
}
