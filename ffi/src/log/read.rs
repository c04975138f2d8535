//! Finding records by version and by time.

use super::entry::{self, galerna_log_entry_t};
use super::version::galerna_version_t;
use super::{galerna_log_t, with};
use crate::border::{self, Out};
use crate::failure::Failure;
use crate::result::galerna_result_t;
use engine::Error;
use engine::log::{Entry, Reader, Version};
use std::ffi::c_int;

/// The version of the oldest record there is.
///
/// - `version`: takes it; `0.0` if there is no record.
/// - `found`: takes 1, or 0 if there is no record; may be NULL. Only in a group's log `0.0` can be a record's.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`version` is NULL), LOG_DAMAGED, IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_oldest(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
    found: *mut c_int,
) -> galerna_result_t {
    // SAFETY: what the documentation asks.
    border::call(|| unsafe { tell(log, version, found, Reader::oldest) })
}

/// The version of the last record that can be read: the last durable one, or in a log that is open for reading only the last
/// one there was when it was opened. It stays when a trim leaves nothing.
///
/// - `version`: takes it; `0.0` if there was no record.
/// - `found`: takes 1, or 0 if there was no record; may be NULL. Only in a group's log `0.0` can be a record's.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`version` is NULL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_end(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
    found: *mut c_int,
) -> galerna_result_t {
    // SAFETY: what the documentation asks.
    border::call(|| unsafe { tell(log, version, found, |reader| Ok(reader.end())) })
}

/// # Safety
/// `version` and `found` as [`Out::new`] and [`Out::optional`] ask.
unsafe fn tell(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
    found: *mut c_int,
    ask: impl FnOnce(&Reader) -> Result<Option<Version>, Error>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let (out, found) = unsafe { (Out::new("version", version)?, Out::optional("found", found)?) };
    with(log, |open| {
        let version = ask(&open.reader())?;
        out.set(version.unwrap_or_default().into());
        if let Some(found) = found {
            found.set(version.is_some().into());
        }
        Ok(())
    })
}

/// The record of exactly this version, if it is durable.
///
/// - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL if there is none, and after an error.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
/// IO, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_get(
    log: *const galerna_log_t,
    version: galerna_version_t,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    // SAFETY: what the documentation asks of `out`.
    border::call(|| unsafe { find(log, out, |reader| reader.get(version.into())) })
}

/// The first durable record of this version or a greater one.
///
/// - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL if there is none, and after an error.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
/// IO, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_first_at_or_after(
    log: *const galerna_log_t,
    version: galerna_version_t,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    // SAFETY: what the documentation asks of `out`.
    border::call(|| unsafe { find(log, out, |reader| reader.first_at_or_after(version.into())) })
}

/// The last durable record of this time or an earlier one: the state of that moment.
///
/// - `time_ns`: nanoseconds since 1970.
/// - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL if there is none, and after an error.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
/// IO, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_at_time(
    log: *const galerna_log_t,
    time_ns: u64,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    // SAFETY: what the documentation asks of `out`.
    border::call(|| unsafe { find(log, out, |reader| reader.at_time(time_ns)) })
}

/// # Safety
/// `out` as [`Out::new`] asks.
unsafe fn find(
    log: *const galerna_log_t,
    out: *mut *mut galerna_log_entry_t,
    find: impl FnOnce(&Reader) -> Result<Option<Entry>, Error>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let out = unsafe { Out::new("out", out)? };
    out.set(std::ptr::null_mut());
    with(log, |open| entry::give(&out, open.reader(), find))
}
