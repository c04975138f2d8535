//! `galerna_reader_t`: another member's state, readable in a `restore` callback.

use crate::border::{self, Out};
use crate::failure::Failure;
use crate::handle::TAG_BITS;
use crate::result::galerna_result_t;
use engine::Error;
use engine::process::Life;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io::{ErrorKind, Read};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The source that a `restore` callback reads the state from.
///
/// It can be used only in the thread of that callback and only until the callback returns. Outside of that, calls
/// return GALERNA_ERR_HANDLE. The handle is a number and is never dereferenced.
pub struct galerna_reader_t;

/// The lowest bits of a reader's handle. No other kind of handle has this tag, see [`crate::handle`].
const TAG: usize = 7;

/// The state that is lent to a callback.
struct Lent<'s> {
    state: &'s mut dyn Read,
    /// The text of the first failed read. The callback may have ignored it.
    failed: Option<String>,
    /// The life of the process that runs the restore.
    life: Life,
}

thread_local! {
    /// The handle and the state it stands for, while this thread is inside a `restore` callback and not inside a read.
    static CURRENT: Cell<Option<(usize, NonNull<Lent<'static>>)>> = const { Cell::new(None) };
}

/// Calls `restore` with a handle for `state`.
pub(crate) fn lend(state: &mut dyn Read, restore: impl FnOnce(*mut galerna_reader_t) -> c_int) -> std::io::Result<()> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.set(None);
        }
    }
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let handle = NEXT.fetch_add(1, Ordering::Relaxed) << TAG_BITS | TAG;
    let mut lent = Lent { state, failed: None, life: Life::present() };
    let place = NonNull::from(&mut lent);
    let reset = Reset;
    CURRENT.set(Some((handle, place.cast())));
    let code = restore(std::ptr::without_provenance_mut(handle));
    drop(reset);
    match (lent.failed, code) {
        (Some(what), _) => Err(std::io::Error::other(what)),
        (None, 0) => Ok(()),
        (None, code) => Err(std::io::Error::other(format!("the application's `restore` callback returned {code}"))),
    }
}

/// Reads the next bytes of a state: `length` of them, or fewer at the end of the state.
///
/// Waits for the member that sends the state.
///
/// - `reader`: the reader that the `restore` callback received.
/// - `buffer`: receives the bytes. May be NULL when `length` is 0.
/// - `got`: receives the number of bytes read. It is less than `length` only at the end of the state, and 0 after an
///   error.
///
/// May be called only in the thread of the `restore` callback, until the callback returns.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_IO (the state is incomplete: the member that sends it
/// died or could not read it; the callback should return an error).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_reader_read(
    reader: *mut galerna_reader_t,
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
        got.set(read(reader, bytes)?);
        Ok(())
    })
}

/// Reads from `reader` until `bytes` is full or the state ends.
fn read(reader: *const galerna_reader_t, bytes: &mut [u8]) -> Result<usize, Failure> {
    // Taken out during the read, so that only one reference exists at a time.
    let current = CURRENT.take();
    let Some((handle, mut place)) = current.filter(|(handle, _)| *handle == reader.addr()) else {
        CURRENT.set(current);
        return Err(Failure::Handle { kind: "reader", null: reader.is_null() });
    };
    // SAFETY: `lend` keeps the state alive as long as the handle is in `CURRENT`, which only this thread accesses.
    let lent = unsafe { place.as_mut() };
    if let Err(forked) = lent.life.check() {
        CURRENT.set(Some((handle, place)));
        return Err(forked.into());
    }
    let result = fill(lent.state, bytes);
    if let Err(error) = &result {
        lent.failed.get_or_insert_with(|| error.to_string());
    }
    CURRENT.set(Some((handle, place)));
    let failed = |error| Error::Io { what: "cannot read the state".to_owned(), source: Arc::new(error) };
    Ok(result.map_err(failed)?)
}

/// Reads from `state` until `bytes` is full or the state ends. Returns the number of bytes read.
pub(crate) fn fill(state: &mut dyn Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match state.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
