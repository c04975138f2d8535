//! `galerna_log_entry_t`: a record that was found, and `galerna_log_record_t`, what is in it.

use super::version::galerna_version_t;
use crate::border::{self, Out, Versioned};
use crate::failure::Failure;
use crate::handle::Table;
use crate::message::galerna_mode_t;
use crate::result::galerna_result_t;
use engine::Error;
use engine::log::{Entry, Kind, Reader, Record};
use std::ffi::c_void;

/// A record that was found in a log, with the memory that holds it. Its calls may come from any thread; the handle is a
/// number, so a freed one is an error and no crash. A process can hold 1024 of them.
pub struct galerna_log_entry_t;

/// What a record of a log is.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_log_kind_t {
    /// A message of the application.
    GALERNA_LOG_KIND_MESSAGE = 0,
    /// Only in a group's log: the end of a view, in the library's own encoding.
    GALERNA_LOG_KIND_DECISION = 1,
}

/// What is in a record of a log.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_log_record_t {
    /// Set it to sizeof(galerna_log_record_t).
    pub size: usize,
    /// The record's bytes, `length` of them, where the log's file is mapped if this process writes the log. Never NULL;
    /// valid until the entry is freed.
    pub payload: *const c_void,
    /// Bytes of the payload.
    pub length: usize,
    /// Its place in the log.
    pub version: galerna_version_t,
    /// When it was appended, in nanoseconds since 1970: greater than that of the record before.
    pub time_ns: u64,
    /// The `id` of the member that sent it; 0 in a log without a group.
    pub sender: u32,
    /// The mode it was sent with; GALERNA_MODE_ORDERED in a log without a group.
    pub mode: galerna_mode_t,
    /// What it is.
    pub kind: galerna_log_kind_t,
}

// SAFETY: `repr(C)`, the size first; it is only written by the library, never read beyond the size.
unsafe impl Versioned for galerna_log_record_t {
    const NAME: &'static str = "galerna_log_record_t";
}

impl From<Record<'_>> for galerna_log_record_t {
    fn from(record: Record<'_>) -> galerna_log_record_t {
        galerna_log_record_t {
            size: size_of::<galerna_log_record_t>(),
            payload: record.payload.as_ptr().cast(),
            length: record.payload.len(),
            version: record.version.into(),
            time_ns: record.time_ns,
            sender: record.sender.0,
            mode: record.mode.into(),
            kind: match record.kind {
                Kind::Message => galerna_log_kind_t::GALERNA_LOG_KIND_MESSAGE,
                Kind::Decision => galerna_log_kind_t::GALERNA_LOG_KIND_DECISION,
            },
        }
    }
}

/// What a handle of an entry stands for.
struct Found {
    entry: Entry,
    /// Keeps the log's segments known as in use while C reads one.
    _reader: Reader,
}

static ENTRIES: Table<Found> = Table::new("log entry", 11);

/// Puts what `find` finds into `out`, or NULL.
pub(super) fn give(
    out: &Out<*mut galerna_log_entry_t>,
    reader: Reader,
    find: impl FnOnce(&Reader) -> Result<Option<Entry>, Error>,
) -> Result<(), Failure> {
    // Taken first, so that an iterator does not lose a record that there is no handle for.
    let vacancy = ENTRIES.vacancy()?;
    if let Some(entry) = find(&reader)? {
        out.set(vacancy.fill(Found { entry, _reader: reader }));
    }
    Ok(())
}

/// What is in a record.
///
/// - `record`: its `size` must be set; takes the record, whose payload is valid until the entry is freed.
///
/// Any thread. Errors: HANDLE, ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_entry_record(
    entry: *const galerna_log_entry_t,
    record: *mut galerna_log_record_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `record`.
        let out = unsafe { border::versioned_out("record", record)? };
        ENTRIES.with(entry, |found| {
            // The payload stays where it is until the entry goes: it is in a mapping or in a box, which the entry holds.
            out.set(found.entry.record().into());
            Ok(())
        })
    })
}

/// Frees an entry, and with it its payload. NULL and a second free do nothing.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_entry_free(entry: *mut galerna_log_entry_t) {
    border::call(|| ENTRIES.remove(entry, |_| {}).map(drop));
}
