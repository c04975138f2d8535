//! Row memory that only its owner can write and nobody can shrink.
//!
//! [`create`] allocates it, [`open`] maps a peer's memory, and [`Spare`] replaces a peer's row when it is severed.

use super::super::Row;
use crate::interrupt::{allocate, repeat, within_size_limit};
use memmap2::MmapOptions;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags, mmap_anonymous, mremap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The required seals. If memory shrinks, its readers die of SIGBUS; if others can write it, it has no single owner.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL
}

/// Creates a sealed memfd of `len` zero bytes, and the only writable map of it that can ever exist.
pub(super) fn create(len: usize, columns_len: usize) -> io::Result<(OwnedFd, Row)> {
    let fd = new_memfd()?;
    let size = i64::try_from(len).map_err(|_| io::Error::from(Errno::EFBIG))?;
    repeat(|| within_size_limit(|| ftruncate(&fd, size)))?;
    // Allocate the pages now. Without a page a later store would raise SIGBUS; here it is an error.
    allocate(&fd, FallocateFlags::empty(), 0, len as u64)?;
    let map = MmapOptions::new().len(len).map_raw(fd.as_raw_fd())?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok((fd, Row::from_map(map, columns_len)))
}

fn new_memfd() -> nix::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Hosts that forbid executable memfds refuse one without this flag. Kernels before 6.3 do not know the flag.
    match memfd_create("galerna", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create("galerna", flags),
        other => other,
    }
}

/// The identity of memory on this host, independent of its maps: device number and inode number.
pub(super) type Origin = (u64, u64);

/// Maps a peer's memory for reading, after checking that it is of the kind that [`create`] makes.
///
/// A store through the row raises SIGSEGV: only the owner may store there.
pub(super) fn open(fd: BorrowedFd<'_>, len: usize, columns_len: usize) -> Result<(Row, Origin), String> {
    let found =
        fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|e| format!("it passed a descriptor that is not a memfd: {e}"))?;
    let found = SealFlag::from_bits_retain(found);
    if !found.contains(seals()) {
        return Err(format!("it passed memory that lacks the seals {:?}", seals() - found));
    }
    let stat = fstat(fd).map_err(|e| format!("its memory cannot be examined: {e}"))?;
    if usize::try_from(stat.st_size) != Ok(len) {
        return Err(format!("it passed memory of {} bytes instead of {len}", stat.st_size));
    }
    // Reading a hole allocates a page or raises SIGBUS. The seals forbid to punch a hole after this check.
    if usize::try_from(stat.st_blocks).is_ok_and(|blocks| blocks.saturating_mul(512) < len) {
        return Err(format!("it passed memory of {len} bytes of which only {} exist", stat.st_blocks * 512));
    }
    let map = MmapOptions::new()
        .len(len)
        .map_raw_read_only(fd.as_raw_fd())
        .map_err(|e| format!("its memory of {len} bytes cannot be mapped: {e}"))?;
    Ok((Row::from_map(map, columns_len), (stat.st_dev, stat.st_ino)))
}

/// Moves the memory of `live`, a new map of a peer's memory, to the address of `row`, where a copy had replaced it.
pub(super) fn put_back(live: Arc<Row>, row: &Row) -> io::Result<()> {
    assert_eq!(live.len(), row.len());
    // There is no other holder yet: set-up made it.
    let live = Arc::into_inner(live).ok_or(Errno::EBUSY)?;
    let ends = [live.ptr(0..0), row.ptr(0..0)].map(|at| NonNull::new(at.cast::<c_void>()).ok_or(Errno::EFAULT));
    let [from, to] = ends;
    let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
    // SAFETY: both ranges are whole maps of one length. The target is the row's own map, which stays alive and
    // readable. The kernel swaps the maps under the lock that page faults take, so no reader finds a gap. Row memory is
    // read only through atomics and raw pointers, and its values may change at any time.
    unsafe { mremap(from?, live.len(), live.len(), flags, Some(to?)) }?;
    // Its address space moved into `row`, which unmaps it.
    std::mem::forget(live);
    Ok(())
}

/// Address space to replace a row, reserved at set-up so that severing cannot fail for lack of it.
pub(super) struct Spare {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: owned address space that nothing else refers to.
unsafe impl Send for Spare {}

impl Spare {
    pub(super) fn new(len: usize) -> io::Result<Spare> {
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new map at an address of the kernel's choice touches no existing one.
        let at = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Spare { at, len })
    }

    /// Copies the row, and maps the copy at the row's address.
    ///
    /// The exchange is one step for concurrent readers. Stores that the peer makes afterwards are not visible.
    pub(super) fn replace(self, row: &Row) -> io::Result<()> {
        assert_eq!(self.len, row.len());
        let row_at = NonNull::new(row.ptr(0..0).cast::<c_void>()).ok_or(Errno::EFAULT)?;
        for offset in (0..self.len).step_by(8) {
            // Acquire, front to back. Pairs with the Release store of the counter by the peer, which still runs. The
            // data lies behind its counter, so the copy of the data is at least as new as the copy of the counter.
            let word = row.word(offset).load(Ordering::Acquire);
            // SAFETY: in range (row and spare have one length, a multiple of 8). Nothing else refers to this memory.
            unsafe { self.at.as_ptr().cast::<u8>().add(offset).cast::<u64>().write(word) };
        }
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: both ranges are whole maps of one length. The target is the row's own map, which stays alive and
        // readable with the same bytes. The kernel swaps the maps under the lock that page faults take, so no reader
        // finds a gap. Row memory is read only through atomics and raw pointers, and its values may change at any time.
        unsafe { mremap(self.at, self.len, self.len, flags, Some(row_at)) }?;
        // The address space moved into the row, which unmaps it.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // SAFETY: the map made by `new`, which was not given away.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}
