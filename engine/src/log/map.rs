//! A file in memory. The one place of the log with `unsafe` code.

use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;

/// A mapping of a whole file, for reading. It keeps the file's bytes alive, also after the file was removed.
///
/// Nothing reads it by a reference to all of it: the log appends to a file that is mapped, and only bytes that will never
/// change again are handed out, by `bytes`.
#[derive(Debug)]
pub struct Map(MmapRaw);

impl Map {
    pub(super) fn new(file: &File) -> io::Result<Map> {
        MmapOptions::new().map_raw_read_only(file).map(Map)
    }

    /// The bytes from `offset`; `None` if the mapping does not reach so far. Only for bytes below the durable end of a log
    /// that this process has locked.
    pub(super) fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        if start.checked_add(len)? > self.0.len() {
            return None;
        }
        // SAFETY: the range lies in the mapping, which lives as long as `self`. The mapping reaches no further than the file,
        // which never shrinks: segments are cleared by zeros and not by truncation, and index files are not changed once
        // they are mapped, so no page of it goes away. The bytes do not change while they are borrowed: below the durable end
        // no file is changed: a cut puts another file in its place, also if it is a later process that cuts.
        Some(unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(start), len) })
    }
}
