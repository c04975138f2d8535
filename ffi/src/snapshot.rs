//! `galerna_snapshot_t`: the application's state in transit to a joining member.

use crate::callbacks::as_callback;
use crate::thrown::Thrown;
use std::ffi::c_void;
use std::io::{Error, Read, Result};

/// The application's state at one moment: functions to read and to free it.
///
/// Both functions run in a thread of the library while further messages are delivered. The two never run at the same
/// time. They count as callbacks: see galerna_callbacks_t.
#[repr(C)]
pub struct galerna_snapshot_t {
    /// Size in bytes of this struct in the library's version. Later versions append fields.
    pub size: usize,
    /// Passed to both functions.
    pub context: *mut c_void,
    /// Reads the next bytes of the state into `buffer`. Must be set.
    ///
    /// Writes at most `length` bytes and returns their number, or 0 at the end of the state. A negative number means
    /// that the state cannot be read: the joining member is then refused.
    pub read: Option<unsafe extern "C-unwind" fn(context: *mut c_void, buffer: *mut c_void, length: usize) -> isize>,
    /// Called once when the state is no longer needed, even if it was not read to its end. May be NULL.
    pub free: Option<unsafe extern "C-unwind" fn(context: *mut c_void)>,
}

impl galerna_snapshot_t {
    /// A snapshot to be filled in by the application.
    pub(crate) const EMPTY: galerna_snapshot_t = galerna_snapshot_t {
        size: size_of::<galerna_snapshot_t>(),
        context: std::ptr::null_mut(),
        read: None,
        free: None,
    };
}

/// A snapshot that C filled in, as the engine reads it.
pub(crate) struct State(galerna_snapshot_t);

// SAFETY: the documentation states that the functions run in another thread.
unsafe impl Send for State {}

impl State {
    pub(crate) fn new(snapshot: galerna_snapshot_t) -> State {
        State(snapshot)
    }
}

impl Read for State {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let State(galerna_snapshot_t { context, read, .. }) = *self;
        let read = read.ok_or_else(|| Error::other("the `read` of the application's snapshot is NULL"))?;
        // SAFETY: the application's function and context; the buffer has as many bytes as `read` is passed.
        let got = as_callback(|| unsafe { read(context, buffer.as_mut_ptr().cast(), buffer.len()) });
        let got = got.map_err(|Thrown| Error::other("the snapshot's `read` threw an exception"))?;
        match usize::try_from(got) {
            Ok(got) if got <= buffer.len() => Ok(got),
            Ok(got) => Err(Error::other(format!("the snapshot's `read` returned {got} for {} bytes", buffer.len()))),
            Err(_) => Err(Error::other(format!("the application cannot read its snapshot: `read` returned {got}"))),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(free) = self.0.free {
            // SAFETY: the application's function and context; the state is not read any more.
            let freed = as_callback(|| unsafe { free(self.0.context) });
            // An exception cannot be reported here, and the state is no longer needed.
            let _ = freed;
        }
    }
}
