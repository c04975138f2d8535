//! `galerna_log_options_t`: options of a log.

use crate::border;
use crate::failure::Failure;
use engine::log::LogOptions;

/// Options of a log. A field that is 0 selects its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_log_options_t {
    /// Set it to sizeof(galerna_log_options_t).
    pub size: usize,
    /// Size of a segment in bytes: a multiple of 4096, from 8 KiB to 2 GiB. The default is 64 MiB.
    ///
    /// A record does not span segments, and galerna_log_trim() removes whole segments. An existing log keeps the size
    /// with which it was made.
    pub segment_bytes: u64,
    /// Number of appended bytes that may be not yet durable; beyond it an append waits. The default is 64 MiB.
    pub backlog_max_bytes: usize,
}

border::versioned_struct!(galerna_log_options_t, min: backlog_max_bytes, last: backlog_max_bytes);

/// Reads the options that C passed.
///
/// # Safety
/// As for [`border::versioned`]. NULL selects the defaults.
pub(super) unsafe fn read(options: *const galerna_log_options_t) -> Result<LogOptions, Failure> {
    let defaults = LogOptions::default();
    if options.is_null() {
        return Ok(defaults);
    }
    // SAFETY: the caller guarantees it.
    let galerna_log_options_t { segment_bytes, backlog_max_bytes, .. } =
        unsafe { border::versioned("options", options)? };
    Ok(LogOptions {
        segment_bytes: if segment_bytes == 0 { defaults.segment_bytes } else { segment_bytes },
        backlog_max_bytes: if backlog_max_bytes == 0 { defaults.backlog_max_bytes } else { backlog_max_bytes },
        ..defaults
    })
}
