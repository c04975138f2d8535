//! `galerna_callbacks_t`: what the application hears, and what a thread may do while it listens.

use crate::border::{self, Versioned};
use crate::failure::{Failure, code_of};
use crate::message::galerna_message_t;
use crate::result::galerna_result_t;
use engine::{Delivery, Error, Handler};
use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::sync::mpsc::Receiver;

/// What the application wants to hear.
///
/// Callbacks of a group come one at a time: with GALERNA_DRIVE_THREAD in a thread of the library, with
/// GALERNA_DRIVE_DISPATCH inside galerna_dispatch() and inside the calls that wait. They must return, not throw and not
/// longjmp. While they run the group does nothing else.
///
/// Inside a callback, of whichever group, no call waits: galerna_send() and galerna_reserve() act as if their timeout
/// were 0, and galerna_join(), galerna_dispatch(), galerna_flush(), galerna_leave() and galerna_group_free() return
/// GALERNA_ERR_MISUSE. The other calls are as usual.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_callbacks_t {
    /// Set it to sizeof(galerna_callbacks_t).
    pub size: usize,
    /// A message, in the order of the subgroup; `message` is valid until the callback returns. Must not be NULL.
    pub deliver: Option<unsafe extern "C" fn(context: *mut c_void, message: *const galerna_message_t)>,
    /// The group stopped, for the reason that `code` and `text` give; nothing more is delivered. Called at most once, and
    /// not because of this process's own leave. `text` is valid until the callback returns. May be NULL.
    pub stopped: Option<unsafe extern "C" fn(context: *mut c_void, code: galerna_result_t, text: *const c_char)>,
    /// Passed to the callbacks, which may use it in any thread until the group is freed.
    pub context: *mut c_void,
}

// SAFETY: `repr(C)`, the size first; a nullable function pointer, as any C caller fills it, is a valid `Option`.
unsafe impl Versioned for galerna_callbacks_t {
    const NAME: &'static str = "galerna_callbacks_t";
}

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a callback: see `galerna_callbacks_t`.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// For calls that are not allowed inside a callback.
pub(crate) fn not_in_callback() -> Result<(), Failure> {
    match in_callback() {
        true => Err(Error::Misuse("this call cannot be made inside a callback").into()),
        false => Ok(()),
    }
}

/// The engine's handler that calls C.
pub(crate) struct Callbacks {
    deliver: unsafe extern "C" fn(*mut c_void, *const galerna_message_t),
    stopped: Option<unsafe extern "C" fn(*mut c_void, galerna_result_t, *const c_char)>,
    context: *mut c_void,
    /// Closes when `galerna_join` has given the application its handle, which callbacks may use.
    joined: Option<Receiver<()>>,
}

// SAFETY: the documentation asks for a context that may be used in any thread.
unsafe impl Send for Callbacks {}

impl Callbacks {
    /// `joined`: what the first callback waits for the end of.
    pub(crate) fn new(callbacks: galerna_callbacks_t, joined: Receiver<()>) -> Result<Callbacks, Failure> {
        Ok(Callbacks {
            deliver: callbacks.deliver.ok_or(Failure::Argument("callbacks.deliver", "is NULL"))?,
            stopped: callbacks.stopped,
            context: callbacks.context,
            joined: Some(joined),
        })
    }

    fn run(&mut self, callback: impl FnOnce(&Callbacks)) {
        if let Some(joined) = self.joined.take() {
            // Nothing is ever sent: this returns when the other end is gone.
            let _ = joined.recv();
        }
        IN_CALLBACK.set(true);
        callback(self);
        IN_CALLBACK.set(false);
    }
}

impl Handler for Callbacks {
    fn deliver(&mut self, delivery: Delivery<'_>) {
        let message = galerna_message_t::from(delivery);
        // SAFETY: the function and its context are the application's, which said so by the struct.
        self.run(|callbacks| unsafe { (callbacks.deliver)(callbacks.context, &raw const message) });
    }

    fn stopped(&mut self, reason: &Error) {
        let text = border::c_string(reason);
        self.run(|callbacks| {
            if let Some(stopped) = callbacks.stopped {
                // SAFETY: as in `deliver`.
                unsafe { stopped(callbacks.context, code_of(reason), text.as_ptr()) };
            }
        });
    }
}
