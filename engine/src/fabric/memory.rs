//! The memory of one row, as the protocol and the fabrics see it.

use memmap2::{Advice, MmapMut, MmapRaw};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// One member's row of a table: its columns, then its data. Row memory has a stable address, is aligned to a page and is
/// read and written through atomics (columns) and raw pointers (data), because other processes and the kernel share it.
pub struct Row {
    map: MmapRaw,
    columns_len: usize,
}

impl Row {
    /// Zeroed private memory.
    pub fn anonymous(len: usize, columns_len: usize) -> io::Result<Row> {
        Ok(Row::from_map(MmapMut::map_anon(len)?.into(), columns_len))
    }

    /// Memory that the caller mapped; `columns_len` as in [`super::TableSpec`].
    pub fn from_map(map: MmapRaw, columns_len: usize) -> Row {
        assert!(columns_len <= map.len() && columns_len.is_multiple_of(64) && map.len().is_multiple_of(8));
        // A child shares no row with its parent's peers, and the parent's pages, which a device may write, are not copied.
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

    /// The aligned word at `offset`, of the columns or of the data.
    ///
    /// # Panics
    /// If it is out of range or not aligned: an error of this library, never of a peer.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.map.len(), "word at {offset} of a row of {}", self.map.len());
        // SAFETY: in range and aligned by the assertion (the length is a multiple of 8 and the map starts on a page);
        // the map lives as long as `self`; every access to it that can run beside this one is atomic or ordered by a
        // counter.
        unsafe { &*self.map.as_mut_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// Pointer to `range`, for a fabric or for the owner's ring. What may be done with it is the contract's business.
    ///
    /// # Panics
    /// If it is out of range: an error of this library, never of a peer.
    #[inline]
    pub fn ptr(&self, range: Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.map.len(), "{range:?} of a row of {}", self.map.len());
        // SAFETY: in range by the assertion.
        unsafe { self.map.as_mut_ptr().add(range.start) }
    }

    /// Tells the processor that the cache line at `offset` is going to be written, so that it takes the line from whoever
    /// holds it while other work goes on. A hint: out of range, or on another architecture, it does nothing.
    #[inline]
    pub(crate) fn expect_write(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        if offset < self.map.len() {
            // SAFETY: in range; the instruction changes nothing that a program can see and traps on no x86-64 processor.
            unsafe {
                let line = self.map.as_ptr().add(offset);
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    /// Copies whole words into the columns, each store Release, so that a reader who sees a word with Acquire also sees
    /// what was stored before it.
    ///
    /// # Panics
    /// If the range is not made of whole words of the row.
    pub fn store_words(&self, offset: usize, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(8));
        for (i, chunk) in bytes.chunks_exact(8).enumerate() {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(offset + 8 * i).store(u64::from_ne_bytes(word), Ordering::Release);
        }
    }

    /// Copies whole words out of the row, each load Acquire.
    ///
    /// # Panics
    /// If the range is not made of whole words of the row.
    pub fn load_words(&self, offset: usize, bytes: &mut [u8]) {
        assert!(bytes.len().is_multiple_of(8));
        for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&self.word(offset + 8 * i).load(Ordering::Acquire).to_ne_bytes());
        }
    }
}
