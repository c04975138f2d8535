//! System calls that a signal may interrupt, or that raise a signal.
//!
//! Only this module repeats interrupted calls. It also prevents SIGXFSZ: the kernel sends that signal when a file grows
//! beyond RLIMIT_FSIZE, and it ends a program that has no handler for it.

use crate::process::{self, Private};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// The smallest piece, in bytes, into which an interrupted reservation of disk space is split.
const PIECE_BYTES_MIN: u64 = 64 << 10;

/// An error of a system call.
pub(crate) trait SystemError {
    /// Whether a signal interrupted the call.
    fn is_interruption(&self) -> bool;
    /// Whether the file would have become too large (`EFBIG`). The kernel may have sent SIGXFSZ as well.
    fn is_too_large(&self) -> bool;
}

impl SystemError for io::Error {
    fn is_interruption(&self) -> bool {
        self.kind() == io::ErrorKind::Interrupted
    }
    fn is_too_large(&self) -> bool {
        self.raw_os_error() == Some(Errno::EFBIG as i32)
    }
}

impl SystemError for Errno {
    fn is_interruption(&self) -> bool {
        *self == Errno::EINTR
    }
    fn is_too_large(&self) -> bool {
        *self == Errno::EFBIG
    }
}

/// Repeats the call until it ends without being interrupted by a signal.
pub(crate) fn repeat<T, E: SystemError>(mut call: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    loop {
        match call() {
            Err(error) if error.is_interruption() => {}
            done => return done,
        }
    }
}

/// Makes a call that may grow a file, without leaving a SIGXFSZ behind that would end the program.
///
/// A file that would exceed RLIMIT_FSIZE then only causes the error `EFBIG`. This may run in a thread of the
/// application: the kernel sends SIGXFSZ to the thread that makes the call. Therefore the signal is blocked during the
/// call. If the call raised it, it is removed afterwards, unless the application already had a SIGXFSZ pending.
pub(crate) fn within_size_limit<T, E: SystemError>(call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let (signal, mut before) = (SigSet::from(Signal::SIGXFSZ), SigSet::empty());
    // The call cannot fail with these arguments.
    let blocked = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signal), Some(&mut before)).is_ok();
    let was_blocked = before.contains(Signal::SIGXFSZ);
    let is_programs = was_blocked && process::is_pending(Signal::SIGXFSZ);
    let done = call();
    if matches!(&done, Err(error) if error.is_too_large()) && !is_programs {
        process::take_pending(&signal);
    }
    if blocked && !was_blocked {
        let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&signal), None);
    }
    done
}

/// Calls `fallocate` for the bytes from `from` to `to`.
///
/// Some file systems undo the whole of an interrupted call. In a process with frequent timer signals a large call would
/// never end. So after an interruption the work continues in smaller pieces.
pub(crate) fn allocate(file: impl AsFd, flags: FallocateFlags, from: u64, to: u64) -> nix::Result<()> {
    let signed = |bytes: u64| i64::try_from(bytes).map_err(|_| Errno::EFBIG);
    let (mut at, mut piece) = (from, to.saturating_sub(from));
    while at < to {
        let len = piece.min(to - at);
        let (offset, bytes) = (signed(at)?, signed(len)?);
        match within_size_limit(|| fallocate(&file, flags, offset, bytes)) {
            Ok(()) => at += len,
            Err(Errno::EINTR) => piece = (piece / 2).max(PIECE_BYTES_MIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A file that is locked exclusively for this process.
#[derive(Debug)]
pub(crate) struct Locked(Private<File>);

impl Locked {
    /// Locks the whole file without waiting. Fails with `EWOULDBLOCK` if another process holds the lock.
    pub(crate) fn new(file: File) -> io::Result<Locked> {
        repeat(|| flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from))?;
        Ok(Locked(Private::new(file)))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Unlocks explicitly: closing is not enough, because a child of a bare `clone` may hold the descriptor too. This
        // cannot fail for an open file.
        let _ = repeat(|| flock(&*self.0, FlockOperation::Unlock).map_err(io::Error::from));
    }
}
