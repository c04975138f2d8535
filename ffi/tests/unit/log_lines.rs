//! A process with a global `tracing` subscriber of its own keeps it: the C log callback is refused.

use crate::log_callback::{galerna_log_level_t, galerna_set_log_callback};
use crate::result::galerna_result_t::*;
use std::ffi::{CStr, c_char, c_void};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The subscriber of a Rust program that links the library statically.
struct Own;

impl Subscriber for Own {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

unsafe extern "C-unwind" fn never(_: *mut c_void, _: galerna_log_level_t, _: *const c_char, _: *const c_char) {
    std::process::abort();
}

#[test]
fn another_subscriber_stays() {
    tracing::subscriber::set_global_default(Own).unwrap();
    let level = galerna_log_level_t::GALERNA_LOG_LEVEL_TRACE as i32;
    for _ in 0..2 {
        // SAFETY: the function ignores its context.
        let set = unsafe { galerna_set_log_callback(level, Some(never), std::ptr::null_mut()) };
        assert_eq!(set, GALERNA_ERR_MISUSE);
        // SAFETY: a string that is valid until the next call.
        let text = unsafe { CStr::from_ptr(crate::result::galerna_last_error()) }.to_str().unwrap().to_owned();
        assert!(text.contains("subscriber"), "{text}");
    }
    // SAFETY: without a function nothing is called.
    assert_eq!(unsafe { galerna_set_log_callback(0, None, std::ptr::null_mut()) }, GALERNA_OK);
}
