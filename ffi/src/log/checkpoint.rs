//! `galerna_log_checkpoint_t`: reads an existing checkpoint of an application.

use super::version::galerna_version_t;
use super::{galerna_log_t, with};
use crate::border::{self, Out, VersionedOut};
use crate::handle::Table;
use crate::reader;
use crate::result::galerna_result_t;
use engine::Error;
use engine::log::Snapshot;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// A checkpoint of the application, stored beside a log: its state up to a version.
///
/// Its calls may be made from any thread, one at a time. The handle is a number and is never dereferenced: using a
/// freed handle returns GALERNA_ERR_HANDLE.
pub struct galerna_log_checkpoint_t;

/// Information about a checkpoint.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_log_checkpoint_info_t {
    /// Set it to sizeof(galerna_log_checkpoint_info_t).
    pub size: usize,
    /// The last version that the checkpoint covers. Apply the records after it to the checkpoint.
    pub version: galerna_version_t,
    /// The time given to galerna_log_checkpoint_begin(), in nanoseconds since 1970.
    pub time_ns: u64,
    /// Size of the checkpoint in bytes.
    pub length: u64,
}

border::versioned_struct!(galerna_log_checkpoint_info_t, min: time_ns, last: length);

static CHECKPOINTS: Table<Mutex<Snapshot>> = Table::new("checkpoint", 17);

/// Opens the newest checkpoint and verifies all of it.
///
/// - `out`: receives the checkpoint, or NULL if there is none or after an error. Free it with
///   galerna_log_checkpoint_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_DAMAGED (the checkpoint has
/// changed since it was written; the text names the file and the offset), GALERNA_ERR_LOG_FOREIGN,
/// GALERNA_ERR_LOG_FORMAT, GALERNA_ERR_IO, GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (the log is from galerna_group_log()).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_load(
    log: *const galerna_log_t,
    out: *mut *mut galerna_log_checkpoint_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`.
        let out = unsafe { Out::new("out", out)? };
        out.set(std::ptr::null_mut());
        with(log, |open| {
            if let Some(snapshot) = open.load_snapshot()? {
                out.set(CHECKPOINTS.insert(Mutex::new(snapshot))?);
            }
            Ok(())
        })
    })
}

/// Gets information about a checkpoint.
///
/// - `info`: receives the information. Its `size` must be set.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_info(
    checkpoint: *const galerna_log_checkpoint_t,
    info: *mut galerna_log_checkpoint_info_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `info`.
        let out = unsafe { VersionedOut::new("info", info)? };
        CHECKPOINTS.with(checkpoint, |snapshot| {
            let snapshot = border::lock(snapshot);
            out.set(galerna_log_checkpoint_info_t {
                size: size_of::<galerna_log_checkpoint_info_t>(),
                version: snapshot.version.into(),
                time_ns: snapshot.time_ns,
                length: snapshot.len,
            });
            Ok(())
        })
    })
}

/// Reads the next bytes of a checkpoint: `length` of them, or fewer at its end.
///
/// - `buffer`: receives the bytes. May be NULL when `length` is 0.
/// - `got`: receives the number of bytes read. It is less than `length` only at the end of the checkpoint, and 0 after
///   an error.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_read(
    checkpoint: *mut galerna_log_checkpoint_t,
    buffer: *mut c_void,
    length: usize,
    got: *mut usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `got`.
        let got = unsafe { Out::new("got", got)? };
        got.set(0);
        // SAFETY: the C caller guarantees the documented requirements on `buffer`.
        let bytes = unsafe { border::bytes_out("buffer", buffer, length)? };
        CHECKPOINTS.with(checkpoint, |snapshot| {
            let mut snapshot = border::lock(snapshot);
            let failed = |error| Error::Io { what: "reading a checkpoint".to_owned(), source: Arc::new(error) };
            got.set(reader::fill(&mut *snapshot, bytes).map_err(failed)?);
            Ok(())
        })
    })
}

/// Frees a checkpoint's handle. The checkpoint itself remains on disk.
///
/// NULL and a handle that was already freed are ignored. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_checkpoint_free(checkpoint: *mut galerna_log_checkpoint_t) {
    border::call(|| CHECKPOINTS.remove(checkpoint, |_| {}).map(drop));
}
