//! Reads and copies large files through a small buffer, so that no file's size decides how much memory is needed.

use super::disk::File;
use std::io;

/// The size of the buffer, in bytes.
const WINDOW_BYTES: usize = 256 << 10;

/// `len` zero bytes. Missing memory is an error, not the end of the process.
pub(super) fn zeroed(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| {
        let what = format!("there is no memory for {len} bytes");
        io::Error::new(io::ErrorKind::OutOfMemory, what)
    })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// The first `len` bytes of a file, read piece by piece.
pub(super) struct Window<'f> {
    file: &'f dyn File,
    len: u64,
    /// The offset of the buffer in the file.
    start: u64,
    bytes: Vec<u8>,
}

impl<'f> Window<'f> {
    pub(super) fn new(file: &'f dyn File, len: u64) -> Window<'f> {
        Window { file, len, start: 0, bytes: Vec::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Up to `most` bytes from `offset`; fewer at the end. `most` is at most the size of the buffer.
    pub(super) fn at(&mut self, offset: u64, most: usize) -> io::Result<&[u8]> {
        let most = (most.min(WINDOW_BYTES) as u64).min(self.len.saturating_sub(offset)) as usize;
        let held = self.start..self.start + self.bytes.len() as u64;
        if offset < held.start || offset + most as u64 > held.end {
            let size = (WINDOW_BYTES as u64).min(self.len.saturating_sub(offset)) as usize;
            self.bytes.resize(size, 0);
            // If the read fails, the buffer holds nothing.
            self.start = self.len;
            self.file.read_at(offset, &mut self.bytes)?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + most])
    }

    /// Calls `each` for the bytes from `offset`, piece by piece; `len` bytes in all, or fewer at the end.
    pub(super) fn pieces(
        &mut self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.len);
        let mut at = offset;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(WINDOW_BYTES);
            let piece = self.at(at, most)?;
            each(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// Writes `len` zeros from `offset`.
pub(super) fn write_zeros(file: &dyn File, offset: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; (WINDOW_BYTES as u64).min(len) as usize];
    let mut at = offset;
    while at < offset + len {
        let piece = &zeros[..(zeros.len() as u64).min(offset + len - at) as usize];
        file.write_at(at, piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}
