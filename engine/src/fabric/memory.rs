//! The memory of one row, as the protocol and the fabrics use it.

use memmap2::{Advice, MmapMut, MmapRaw};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// One member's row of a table: first its columns, then its data.
///
/// Its address is stable and page-aligned. Other processes and the kernel share the memory, so it is accessed only
/// through atomics (columns) and raw pointers (data).
pub struct Row {
    map: MmapRaw,
    columns_len: usize,
}

impl Row {
    /// Allocates zeroed private memory.
    pub fn anonymous(len: usize, columns_len: usize) -> io::Result<Row> {
        Ok(Row::from_map(MmapMut::map_anon(len)?.into(), columns_len))
    }

    /// Uses memory that the caller mapped; `columns_len` as in [`super::TableSpec`].
    pub fn from_map(map: MmapRaw, columns_len: usize) -> Row {
        assert!(columns_len <= map.len() && columns_len.is_multiple_of(64) && map.len().is_multiple_of(8));
        // The parent's peers do not share rows with a forked child. Excluding the map from the fork also avoids copies
        // of the parent's pages, which a device may write.
        if let Err(error) = map.advise(Advice::DontFork) {
            tracing::debug!(%error, "a row that a forked child inherits");
        }
        Row { map, columns_len }
    }

    /// Bytes of the row.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes of its columns.
    pub fn columns_len(&self) -> usize {
        self.columns_len
    }

    /// The aligned word at `offset`, in the columns or in the data.
    ///
    /// # Panics
    /// If the offset is out of range or not aligned: a bug in this library, which a peer cannot cause.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.map.len(), "word at {offset} of a row of {}", self.map.len());
        // SAFETY: in range and aligned by the assertion (the length is a multiple of 8 and the map starts on a page).
        // `self` keeps the map. Every access that can run concurrently is atomic or ordered by a counter.
        unsafe { &*self.map.as_mut_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// A pointer to `range`, for a fabric or for the owner's ring. The contract in [`super`] defines the permitted
    /// accesses.
    ///
    /// # Panics
    /// If the range is out of the row: a bug in this library, which a peer cannot cause.
    #[inline]
    pub fn ptr(&self, range: Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.map.len(), "{range:?} of a row of {}", self.map.len());
        // SAFETY: in range by the assertion.
        unsafe { self.map.as_mut_ptr().add(range.start) }
    }

    /// Hints to the processor that the cache line at `offset` is about to be written.
    ///
    /// The processor can then fetch the line from its present holder while other work continues. Does nothing if the
    /// offset is out of range, or on an architecture other than x86-64.
    #[inline]
    pub(crate) fn expect_write(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        if offset < self.map.len() {
            // SAFETY: in range. The instruction has no effect that a program can observe, and traps on no x86-64
            // processor.
            unsafe {
                let line = self.map.as_ptr().add(offset);
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    /// Copies whole words into the row, each with a Release store.
    ///
    /// A reader that sees one of the words with Acquire also sees everything that was stored before it.
    ///
    /// # Panics
    /// If the range does not consist of whole words of the row.
    pub fn store_words(&self, offset: usize, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(8));
        for (i, chunk) in bytes.chunks_exact(8).enumerate() {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(offset + 8 * i).store(u64::from_ne_bytes(word), Ordering::Release);
        }
    }

    /// Copies whole words out of the row, each with an Acquire load.
    ///
    /// # Panics
    /// If the range does not consist of whole words of the row.
    pub fn load_words(&self, offset: usize, bytes: &mut [u8]) {
        assert!(bytes.len().is_multiple_of(8));
        for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&self.word(offset + 8 * i).load(Ordering::Acquire).to_ne_bytes());
        }
    }
}
