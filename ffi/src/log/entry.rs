//! `galerna_log_entry_t`: a record that was found, and `galerna_log_record_t`: its contents.

use super::version::galerna_version_t;
use crate::border::{self, Out, VersionedOut};
use crate::failure::Failure;
use crate::handle::Table;
use crate::message::galerna_mode_t;
use crate::result::galerna_result_t;
use engine::Error;
use engine::log::{Entry, Kind, Reader, Record};
use std::ffi::c_void;

/// A record that was found in a log, together with the memory that holds it.
///
/// Its calls may be made from any thread. The handle is a number and is never dereferenced: using a freed handle
/// returns GALERNA_ERR_HANDLE. A process can hold up to 1024 entries at a time.
pub struct galerna_log_entry_t;

/// The kind of a record in a log.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_log_kind_t {
    /// A message of the application.
    GALERNA_LOG_KIND_MESSAGE = 0,
    /// Only in a group's log: the end of a view, in the library's own encoding.
    GALERNA_LOG_KIND_DECISION = 1,
}

/// The contents of a record.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_log_record_t {
    /// Set it to sizeof(galerna_log_record_t).
    pub size: usize,
    /// The payload, `length` bytes. Never NULL. Valid until the entry is freed.
    ///
    /// If this process writes the log, the payload is in the mapping of the log's file.
    pub payload: *const c_void,
    /// Size of the payload in bytes.
    pub length: usize,
    /// The record's position in the log.
    pub version: galerna_version_t,
    /// Time of the append, in nanoseconds since 1970. It is greater than that of the record before.
    pub time_ns: u64,
    /// The `id` of the member that sent the message. 0 in a log without a group.
    pub sender: u32,
    /// The mode with which the message was sent. GALERNA_MODE_ORDERED in a log without a group.
    pub mode: galerna_mode_t,
    /// The kind of the record.
    pub kind: galerna_log_kind_t,
    /// Always 0.
    pub reserved: u32,
}

border::versioned_struct!(galerna_log_record_t, min: version, last: reserved);

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
            reserved: 0,
        }
    }
}

/// The value that an entry's handle stands for.
struct Found {
    entry: Entry,
    /// Keeps the log's segments marked as in use while C reads one.
    _reader: Reader,
}

static ENTRIES: Table<Found> = Table::new("log entry", 11);

/// Writes a handle for the entry that `find` returns to `out`, or leaves `out` as it is if there is none.
pub(super) fn give(
    out: &Out<*mut galerna_log_entry_t>,
    reader: Reader,
    find: impl FnOnce(&Reader) -> Result<Option<Entry>, Error>,
) -> Result<(), Failure> {
    // Reserved first, so that an iterator does not advance past a record that gets no handle.
    let vacancy = ENTRIES.vacancy()?;
    if let Some(entry) = find(&reader)? {
        out.set(vacancy.fill(Found { entry, _reader: reader }));
    }
    Ok(())
}

/// Gets the contents of a record.
///
/// - `record`: receives the contents. Its `size` must be set. The payload is valid until the entry is freed.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_log_entry_record(
    entry: *const galerna_log_entry_t,
    record: *mut galerna_log_record_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `record`.
        let out = unsafe { VersionedOut::new("record", record)? };
        ENTRIES.with(entry, |found| {
            // The payload's address does not change until the entry is freed: the entry holds the mapping or the box
            // that contains it.
            out.set(found.entry.record().into());
            Ok(())
        })
    })
}

/// Frees an entry together with its payload.
///
/// NULL and a handle that was already freed are ignored. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_log_entry_free(entry: *mut galerna_log_entry_t) {
    border::call(|| ENTRIES.remove(entry, |_| {}).map(drop));
}
