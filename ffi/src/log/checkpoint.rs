//! `galerna_log_checkpoint_t`: an application's checkpoint that is there, to be read.

use super::version::galerna_version_t;
use super::{galerna_log_t, with};
use crate::border::{self, Out, Versioned};
use crate::handle::Table;
use crate::reader;
use crate::result::galerna_result_t;
use engine::Error;
use engine::log::Snapshot;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

/// A checkpoint of the application beside a log: its state up to a version. Its calls may come from any thread, one after
/// another; the handle is a number, so a freed one is an error and no crash.
pub struct galerna_log_checkpoint_t;

/// What is known of a checkpoint.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_log_checkpoint_info_t {
    /// Set it to sizeof(galerna_log_checkpoint_info_t).
    pub size: usize,
    /// The last version that it covers: the records after it are to be applied to it.
    pub version: galerna_version_t,
    /// The time it was given, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Its length in bytes.
    pub length: u64,
}

// SAFETY: `repr(C)`, the size first, integers.
unsafe impl Versioned for galerna_log_checkpoint_info_t {
    const NAME: &'static str = "galerna_log_checkpoint_info_t";
}

static CHECKPOINTS: Table<Mutex<Snapshot>> = Table::new("checkpoint", 17);

/// Opens the newest checkpoint, verified as a whole.
///
/// - `out`: takes the checkpoint, to be freed with galerna_log_checkpoint_free(), or NULL if there is none, and after an
///   error.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_DAMAGED (it is not as it was written; the text names the file
/// and the offset), LOG_FOREIGN, LOG_FORMAT, IO, LIMIT, MISUSE (the log is from galerna_group_log()).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_load(
    log: *const galerna_log_t,
    out: *mut *mut galerna_log_checkpoint_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out`.
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

/// What is known of a checkpoint.
///
/// - `info`: its `size` must be set; takes it.
///
/// Any thread. Errors: HANDLE, ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_info(
    checkpoint: *const galerna_log_checkpoint_t,
    info: *mut galerna_log_checkpoint_info_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `info`.
        let out = unsafe { border::versioned_out("info", info)? };
        CHECKPOINTS.with(checkpoint, |snapshot| {
            let snapshot = snapshot.lock().unwrap_or_else(PoisonError::into_inner);
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
/// - `buffer`: takes the bytes; may be NULL when `length` is 0.
/// - `got`: takes their number; less than `length` only at the end of the checkpoint, and 0 after an error.
///
/// Any thread. Errors: HANDLE, ARGUMENT, IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_checkpoint_read(
    checkpoint: *mut galerna_log_checkpoint_t,
    buffer: *mut c_void,
    length: usize,
    got: *mut usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `got`.
        let got = unsafe { Out::new("got", got)? };
        got.set(0);
        // SAFETY: what the documentation asks of `buffer`.
        let bytes = unsafe { border::bytes_out("buffer", buffer, length)? };
        CHECKPOINTS.with(checkpoint, |snapshot| {
            let mut snapshot = snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            let failed = |error| Error::Io { what: "reading a checkpoint".to_owned(), source: Arc::new(error) };
            got.set(reader::fill(&mut *snapshot, bytes).map_err(failed)?);
            Ok(())
        })
    })
}

/// Frees a checkpoint's handle; the checkpoint stays. NULL and a second free do nothing.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_checkpoint_free(checkpoint: *mut galerna_log_checkpoint_t) {
    border::call(|| CHECKPOINTS.remove(checkpoint, |_| {}).map(drop));
}
