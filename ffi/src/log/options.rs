//! `galerna_log_options_t`: how a log is made and used.

use crate::border::{self, Versioned};
use crate::failure::Failure;
use engine::log::LogOptions;

/// How a log is made and used. A field that is 0 means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_log_options_t {
    /// Set it to sizeof(galerna_log_options_t).
    pub size: usize,
    /// The size of a segment in bytes: a multiple of 4096, from 8 KiB to 2 GiB, 64 MiB by default. A record does not span
    /// segments, and galerna_log_trim() removes whole ones. A log that is there already keeps the size it was made with.
    pub segment_bytes: u64,
    /// So many bytes may be appended and not durable yet; then appending waits. 64 MiB by default.
    pub backlog_max_bytes: usize,
}

// SAFETY: `repr(C)`, the size first, integers.
unsafe impl Versioned for galerna_log_options_t {
    const NAME: &'static str = "galerna_log_options_t";
}

/// The options that C passed.
///
/// # Safety
/// As [`border::versioned`]; NULL means the defaults.
pub(super) unsafe fn read(options: *const galerna_log_options_t) -> Result<LogOptions, Failure> {
    let defaults = LogOptions::default();
    if options.is_null() {
        return Ok(defaults);
    }
    // SAFETY: the caller's promise.
    let galerna_log_options_t { segment_bytes, backlog_max_bytes, .. } =
        unsafe { border::versioned("options", options)? };
    Ok(LogOptions {
        segment_bytes: if segment_bytes == 0 { defaults.segment_bytes } else { segment_bytes },
        backlog_max_bytes: if backlog_max_bytes == 0 { defaults.backlog_max_bytes } else { backlog_max_bytes },
        ..defaults
    })
}
