//! `galerna_log_iter_t`: iterates over the records of a log.

use super::entry::{self, galerna_log_entry_t};
use super::version::galerna_version_t;
use super::{galerna_log_t, with};
use crate::border::{self, Out};
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::Version;
use engine::log::{Iter, Reader};
use std::sync::Mutex;

/// An iterator over the records of a log.
///
/// Its calls may be made from any thread, one at a time. The handle is a number and is never dereferenced: using a
/// freed handle returns GALERNA_ERR_HANDLE.
pub struct galerna_log_iter_t;

/// The value that an iterator's handle stands for.
struct Walk {
    iter: Mutex<Iter>,
    reader: Reader,
}

static ITERS: Table<Walk> = Table::new("log iterator", 13);

/// Makes an iterator over the records of a log.
///
/// - `from`: the iteration begins with the record of this version, or with the next one after it. NULL begins with the
///   oldest record. Not kept after the call.
/// - `out`: receives the iterator, or NULL after an error. Free it with galerna_log_iter_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_iterate(
    log: *const galerna_log_t,
    from: *const galerna_version_t,
    out: *mut *mut galerna_log_iter_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out` and `from`.
        let (out, from) = unsafe { (Out::new("out", out)?, border::copy("from", from)) };
        out.set(std::ptr::null_mut());
        let from = from?.map(Version::from);
        with(log, |open| {
            let reader = open.reader();
            let iter = Mutex::new(match from {
                Some(version) => reader.iter(version..),
                None => reader.iter(..),
            });
            out.set(ITERS.insert(Walk { iter, reader })?);
            Ok(())
        })
    })
}

/// Gets the next record, if it is durable.
///
/// - `out`: receives the entry, or NULL at the end of the log and after an error. Free it with
///   galerna_log_entry_free().
///
/// At the end of the log, a later call continues with records that have been appended since. After an error of the log,
/// the iterator returns no more records.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
/// (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT (the iterator does not advance).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_iter_next(
    iter: *mut galerna_log_iter_t,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`.
        let out = unsafe { Out::new("out", out)? };
        out.set(std::ptr::null_mut());
        ITERS.with(iter, |walk| {
            // A panic inside the log may have poisoned the lock. The iterator is still valid then: it is at a record or
            // at the end.
            let mut iter = border::lock(&walk.iter);
            entry::give(&out, walk.reader.clone(), |_| iter.next().transpose())
        })
    })
}

/// Frees an iterator. The entries that it returned remain valid.
///
/// NULL and a handle that was already freed are ignored. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_iter_free(iter: *mut galerna_log_iter_t) {
    border::call(|| ITERS.remove(iter, |_| {}).map(drop));
}
