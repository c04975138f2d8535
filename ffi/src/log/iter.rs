//! `galerna_log_iter_t`: the records of a log, one after another.

use super::entry::{self, galerna_log_entry_t};
use super::version::galerna_version_t;
use super::{galerna_log_t, with};
use crate::border::{self, Out};
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::log::{Iter, Reader, Version};
use std::sync::{Mutex, PoisonError};

/// Goes through a log from one record to the next. Its calls may come from any thread, one after another; the handle is a
/// number, so a freed one is an error and no crash.
pub struct galerna_log_iter_t;

/// What a handle of an iterator stands for.
struct Walk {
    iter: Mutex<Iter>,
    reader: Reader,
}

static ITERS: Table<Walk> = Table::new("log iterator", 13);

/// Begins to go through the records of a log.
///
/// - `from`: the first record is that of this version, or the one after it; NULL is the oldest there is. Not kept.
/// - `out`: takes the iterator, to be freed with galerna_log_iter_free(), or NULL after an error.
///
/// Any thread. Errors: HANDLE, ARGUMENT, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_iterate(
    log: *const galerna_log_t,
    from: *const galerna_version_t,
    out: *mut *mut galerna_log_iter_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out` and `from`.
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

/// The next record, if it is durable.
///
/// - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL at the end of the log, and after an error. At
///   the end, the same call later goes on with what was appended meanwhile; after an error of the log there is nothing more.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
/// IO, LIMIT (the iterator stays where it is).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_iter_next(
    iter: *mut galerna_log_iter_t,
    out: *mut *mut galerna_log_entry_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out`.
        let out = unsafe { Out::new("out", out)? };
        out.set(std::ptr::null_mut());
        ITERS.with(iter, |walk| {
            // Poisoned by a panic inside the log: it is at some record, or at none.
            let mut iter = walk.iter.lock().unwrap_or_else(PoisonError::into_inner);
            entry::give(&out, walk.reader.clone(), |_| iter.next().transpose())
        })
    })
}

/// Frees an iterator; its entries stay. NULL and a second free do nothing.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_iter_free(iter: *mut galerna_log_iter_t) {
    border::call(|| ITERS.remove(iter, |_| {}).map(drop));
}
