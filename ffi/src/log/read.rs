//! Finding records by version and by time.

use super::entry::{self, galerna_log_entry_t};
use super::version::galerna_version_t;
use super::{galerna_log_t, with};
use crate::border::{self, Out};
use crate::failure::Failure;
use crate::result::galerna_result_t;
use engine::Error;
use engine::Version;
use engine::log::{Entry, Reader};
use std::ffi::c_int;

/// Gets the version of the oldest record.
///
/// - `version`: receives the version, or `0.0` if there is no record.
/// - `found`: receives 1, or 0 if there is no record. May be NULL. Only in a group's log can `0.0` be the version of a
///   record.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`version` is NULL), GALERNA_ERR_LOG_DAMAGED, GALERNA_ERR_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_oldest(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
    found: *mut c_int,
) -> galerna_result_t {
    // SAFETY: the C caller guarantees the documented requirements.
    border::call(|| unsafe { tell(log, version, found, Reader::oldest) })
}

/// Gets the version of the last record that can be read.
///
/// This is the last durable record. In a log that is open for reading only, it is the last record at the time of
/// opening. The version remains known when a trim leaves no record.
///
/// - `version`: receives the version, or `0.0` if there never was a record.
/// - `found`: receives 1, or 0 if there never was a record. May be NULL. Only in a group's log can `0.0` be the version
///   of a record.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`version` is NULL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_end(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
    found: *mut c_int,
) -> galerna_result_t {
    // SAFETY: the C caller guarantees the documented requirements.
    border::call(|| unsafe { tell(log, version, found, |reader| Ok(reader.end())) })
}

/// Writes the version that `ask` returns to `version` and `found`.
///
/// # Safety
/// `version` and `found` meet the requirements of [`Out::new`] and [`Out::optional`].
unsafe fn tell(
    log: *const galerna_log_t,
    version: *mut galerna_version_t,
    found: *mut c_int,
    ask: impl FnOnce(&Reader) -> Result<Option<Version>, Error>,
) -> Result<(), Failure> {
    // SAFETY: the caller guarantees it.
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

/// Gets the record of exactly this version, if it is durable.
///
/// - `out`: receives the entry, or NULL if there is none or after an error. Free it with galerna_log_entry_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
/// (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_get(
    log: *const galerna_log_t,
    version: galerna_version_t,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    // SAFETY: the C caller guarantees the documented requirements on `out`.
    border::call(|| unsafe { find(log, out, |reader| reader.get(version.into())) })
}

/// Gets the first durable record of this version or a greater one.
///
/// - `out`: receives the entry, or NULL if there is none or after an error. Free it with galerna_log_entry_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
/// (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_first_at_or_after(
    log: *const galerna_log_t,
    version: galerna_version_t,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    // SAFETY: the C caller guarantees the documented requirements on `out`.
    border::call(|| unsafe { find(log, out, |reader| reader.first_at_or_after(version.into())) })
}

/// Gets the last durable record of this time or an earlier one. It gives the state at that moment.
///
/// - `time_ns`: nanoseconds since 1970.
/// - `out`: receives the entry, or NULL if there is none or after an error. Free it with galerna_log_entry_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
/// (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_at_time(
    log: *const galerna_log_t,
    time_ns: u64,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    // SAFETY: the C caller guarantees the documented requirements on `out`.
    border::call(|| unsafe { find(log, out, |reader| reader.at_time(time_ns)) })
}

/// Writes a handle for the entry that `find` returns to `out`, or NULL.
///
/// # Safety
/// `out` meets the requirements of [`Out::new`].
unsafe fn find(
    log: *const galerna_log_t,
    out: *mut *mut galerna_log_entry_t,
    find: impl FnOnce(&Reader) -> Result<Option<Entry>, Error>,
) -> Result<(), Failure> {
    // SAFETY: the caller guarantees it.
    let out = unsafe { Out::new("out", out)? };
    out.set(std::ptr::null_mut());
    with(log, |open| entry::give(&out, open.reader(), find))
}
