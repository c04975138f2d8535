//! A file mapped into memory. This is the only module of the log with `unsafe` code.

use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;

/// A read-only mapping of a whole file. It keeps the file's bytes alive, even after the file was removed.
///
/// No reference to the whole mapping is ever created, because the log appends to mapped files. `bytes` hands out only
/// bytes that never change again.
#[derive(Debug)]
pub struct Map(MmapRaw);

impl Map {
    pub(super) fn new(file: &File) -> io::Result<Map> {
        MmapOptions::new().map_raw_read_only(file).map(Map)
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// The bytes from `offset`; `None` if the mapping does not reach that far.
    ///
    /// Only for bytes below the durable end of a log that this process has locked.
    pub(super) fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        if start.checked_add(len)? > self.0.len() {
            return None;
        }
        // SAFETY: the range lies in the mapping, which is as long-lived as `self`. The mapping is not longer than the
        // file, and the file never shrinks: segments are cleared with zeros instead of being truncated, and index files
        // never change once they are mapped. So no page of it disappears. The bytes do not change while they are
        // borrowed: no file is changed below the durable end. A cut replaces the file by a new one, even if a later
        // process makes the cut.
        Some(unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(start), len) })
    }
}
