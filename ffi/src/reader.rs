//! `galerna_reader_t`: another member's state, in a `restore` callback.

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

/// What a `restore` callback reads from, in its thread and until it returns. The handle is a number: later, or elsewhere,
/// it is an error and no crash.
pub struct galerna_reader_t;

/// The lowest bits of readers' handles: a tag that no other kind has, see [`crate::handle`].
const TAG: usize = 7;

/// What is lent to a callback.
struct Lent<'s> {
    state: &'s mut dyn Read,
    /// What went wrong: the callback may have overlooked it.
    failed: Option<String>,
    /// Of the process that restores.
    life: Life,
}

thread_local! {
    /// The handle and what it stands for, while this thread is in a `restore`, and not in a read.
    static CURRENT: Cell<Option<(usize, NonNull<Lent<'static>>)>> = const { Cell::new(None) };
}

/// Runs a `restore` with a handle for `state`.
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

/// Reads the next bytes of a state: `length` of them, or fewer at its end.
///
/// - `reader`: what the `restore` callback was given.
/// - `buffer`: takes the bytes; may be NULL when `length` is 0.
/// - `got`: takes their number; less than `length` only at the end of the state, and 0 after an error.
///
/// It waits for the sender. Only in the thread of the callback, until that returns. Errors: HANDLE, ARGUMENT, IO (the state
/// ends here unfinished: its sender died, or could not read it; let the callback return an error).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_reader_read(
    reader: *mut galerna_reader_t,
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
        got.set(read(reader, bytes)?);
        Ok(())
    })
}

/// Fills `bytes` from what `reader` stands for, as far as that goes.
fn read(reader: *const galerna_reader_t, bytes: &mut [u8]) -> Result<usize, Failure> {
    // Taken during the read, so that there is one reference at a time.
    let current = CURRENT.take();
    let Some((handle, mut place)) = current.filter(|(handle, _)| *handle == reader.addr()) else {
        CURRENT.set(current);
        return Err(Failure::Handle { kind: "reader", null: reader.is_null() });
    };
    // SAFETY: `lend` keeps it alive as long as the handle is known, in this thread only.
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

/// Fills `bytes` from `state`, as far as that goes.
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
