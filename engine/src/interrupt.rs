//! System calls that a signal may interrupt: they are made again here, and nowhere else. And those that raise a signal: a
//! file that grows beyond RLIMIT_FSIZE sends SIGXFSZ, which ends a program that has no handler for it.

use crate::process;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// An interrupted reservation goes on in pieces, which become no smaller than this.
const PIECE_BYTES_MIN: u64 = 64 << 10;

/// An error of a system call.
pub(crate) trait SystemError {
    /// Whether a signal interrupted the call.
    fn is_interruption(&self) -> bool;
    /// Whether the file would have become too large, which a signal says as well.
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

/// Makes the call until no signal interrupts it.
pub(crate) fn repeat<T, E: SystemError>(mut call: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    loop {
        match call() {
            Err(error) if error.is_interruption() => {}
            done => return done,
        }
    }
}

/// Makes a call that lets a file grow, in a thread of the program's as well: beyond RLIMIT_FSIZE it fails with `EFBIG`, and no
/// SIGXFSZ is left, which would end the program.
///
/// The kernel sends that signal to the thread that makes the call. So it is blocked here meanwhile and taken back afterwards,
/// unless the program has one of its own pending.
pub(crate) fn within_size_limit<T, E: SystemError>(call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let (signal, mut before) = (SigSet::from(Signal::SIGXFSZ), SigSet::empty());
    // With these arguments it cannot fail.
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

/// `fallocate` for the bytes from `from` to `to`.
///
/// Some file systems undo all of an interrupted call, so a large one would never end in a process whose timers fire often: after
/// an interruption it goes on in smaller pieces.
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

/// A file that is locked for this process alone.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Locked {
    /// Locks the whole file, without waiting: `EWOULDBLOCK` if another process has it.
    pub(crate) fn new(file: File) -> io::Result<Locked> {
        repeat(|| flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from))?;
        Ok(Locked(file))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // By name, not by closing: a forked child may hold the descriptor too. It fails for no open file.
        let _ = repeat(|| flock(&self.0, FlockOperation::Unlock).map_err(io::Error::from));
    }
}
