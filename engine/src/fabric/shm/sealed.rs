//! Row memory that its owner alone can write and nobody can shrink.
//!
//! [`create`] makes it, [`open`] maps what a peer made, [`Spare`] takes the place of a peer's row when it is severed.

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

/// A reader of memory that shrinks dies of SIGBUS; one that can be written by others has no owner.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL
}

/// A sealed memfd of `len` zero bytes, and the only writable map of it there will ever be.
pub(super) fn create(len: usize, columns_len: usize) -> io::Result<(OwnedFd, Row)> {
    let fd = new_memfd()?;
    let size = i64::try_from(len).map_err(|_| io::Error::from(Errno::EFBIG))?;
    repeat(|| within_size_limit(|| ftruncate(&fd, size)))?;
    // Take the pages now: a store into a page that cannot be had later would be a SIGBUS, here it is an error.
    allocate(&fd, FallocateFlags::empty(), 0, len as u64)?;
    let map = MmapOptions::new().len(len).map_raw(fd.as_raw_fd())?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok((fd, Row::from_map(map, columns_len)))
}

fn new_memfd() -> nix::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Hosts that forbid executable memfds refuse one that does not say so; kernels before 6.3 do not know the flag.
    match memfd_create("galerna", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create("galerna", flags),
        other => other,
    }
}

/// Which memory of the host something is, whoever maps it: the device and the number of its inode.
pub(super) type Origin = (u64, u64);

/// Maps a peer's memory for reading, if it is what [`create`] makes. Stores through the row are SIGSEGV: only its owner
/// has anything to store there.
pub(super) fn open(fd: BorrowedFd<'_>, len: usize, columns_len: usize) -> Result<(Row, Origin), String> {
    let found =
        fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|e| format!("it passed a descriptor that is no memfd: {e}"))?;
    let found = SealFlag::from_bits_retain(found);
    if !found.contains(seals()) {
        return Err(format!("it passed memory that lacks the seals {:?}", seals() - found));
    }
    let stat = fstat(fd).map_err(|e| format!("its memory cannot be examined: {e}"))?;
    if usize::try_from(stat.st_size) != Ok(len) {
        return Err(format!("it passed memory of {} bytes instead of {len}", stat.st_size));
    }
    // Reading a hole takes a page, or SIGBUS. The seals forbid to punch one after this look.
    if usize::try_from(stat.st_blocks).is_ok_and(|blocks| blocks.saturating_mul(512) < len) {
        return Err(format!("it passed memory of {len} bytes of which only {} exist", stat.st_blocks * 512));
    }
    let map = MmapOptions::new()
        .len(len)
        .map_raw_read_only(fd.as_raw_fd())
        .map_err(|e| format!("its memory of {len} bytes cannot be mapped: {e}"))?;
    Ok((Row::from_map(map, columns_len), (stat.st_dev, stat.st_ino)))
}

/// Puts the memory of `live`, a peer's that was mapped anew, at the address of `row`, where a copy had taken its place.
pub(super) fn put_back(live: Arc<Row>, row: &Row) -> io::Result<()> {
    assert_eq!(live.len(), row.len());
    // Nobody else has seen it yet: set-up made it.
    let live = Arc::into_inner(live).ok_or(Errno::EBUSY)?;
    let ends = [live.ptr(0..0), row.ptr(0..0)].map(|at| NonNull::new(at.cast::<c_void>()).ok_or(Errno::EFAULT));
    let [from, to] = ends;
    let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
    // SAFETY: both ranges are whole maps, of one length; the target is the row's own map, which stays alive and readable.
    // The kernel swaps it under the lock that page faults take, so that no reader finds a gap. Row memory is read through
    // atomics and raw pointers only, whose values may change at any time.
    unsafe { mremap(from?, live.len(), live.len(), flags, Some(to?)) }?;
    // Its address space moved into the row, which unmaps it.
    std::mem::forget(live);
    Ok(())
}

/// Address space that waits to take a row's place, reserved at set-up so that severing cannot fail for lack of it.
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

    /// Copies the row and puts the copy at the row's address, in one step for whoever reads there at the moment. What
    /// the peer stores from then on is not seen.
    pub(super) fn replace(self, row: &Row) -> io::Result<()> {
        assert_eq!(self.len, row.len());
        let row_at = NonNull::new(row.ptr(0..0).cast::<c_void>()).ok_or(Errno::EFAULT)?;
        for offset in (0..self.len).step_by(8) {
            // Acquire, front to back: pairs with the Release store of the counter by the peer that still runs, so that
            // the data, which lies behind its counter, is copied as new as the counter.
            let word = row.word(offset).load(Ordering::Acquire);
            // SAFETY: in range (row and spare have one length, a multiple of 8); nobody else knows this memory.
            unsafe { self.at.as_ptr().cast::<u8>().add(offset).cast::<u64>().write(word) };
        }
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: both ranges are whole maps, of one length; the target is the row's own map, which stays alive and
        // readable with the same bytes. The kernel swaps it under the lock that page faults take, so that no reader
        // finds a gap. Row memory is read through atomics and raw pointers only, whose values may change at any time.
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
