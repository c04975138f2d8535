//! Which process this is: what a forked child has of its parent's groups and logs is not its own.
//!
//! A child has a copy of the memory, without the threads that use it, and shares descriptors and mapped files: a message
//! that it sent would be nobody's on tcp, and would overwrite the parent's on shared memory. So everything remembers the
//! [`Life`] in which it was made, and refuses in another ([`Error::Forked`]).
//!
//! The number of the present life stands in a page that the kernel clears in the child (`MADV_WIPEONFORK`), however it was
//! forked; where the kernel cannot do that, a handler of `pthread_atfork` clears it, which a bare `clone` system call passes
//! by. A child of `vfork` shares the parent's memory and is not noticed: it may do nothing but `exec`.

use crate::error::Error;
use nix::sys::signal::{SigSet, Signal};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Cleared as a whole in the child, so nothing else may be in it.
#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);
/// The greatest number that this process or one that it was forked from has given.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// A process between two forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life(u64);

impl Default for Life {
    fn default() -> Life {
        Life::present()
    }
}

impl Life {
    /// The present one.
    pub fn present() -> Life {
        prepare();
        let word = &PAGE.0[0];
        let present = word.load(Ordering::Relaxed);
        if present != 0 {
            return Life(present);
        }
        let next = GIVEN.fetch_add(1, Ordering::Relaxed) + 1;
        match word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Life(next),
            // Another thread was quicker.
            Err(present) => Life(present),
        }
    }

    /// Whether this is a child of the process in which it was made.
    #[inline]
    pub fn is_over(self) -> bool {
        PAGE.0[0].load(Ordering::Relaxed) != self.0
    }

    /// An error in a child.
    #[inline]
    pub fn check(self) -> Result<(), Error> {
        if self.is_over() { Err(Error::Forked) } else { Ok(()) }
    }
}

/// Sees to it that the page is cleared in every child. A thread that comes meanwhile does not wait: a lock here could be held
/// for ever in a child.
fn prepare() {
    static PREPARED: AtomicBool = AtomicBool::new(false);
    extern "C" fn clear() {
        PAGE.0[0].store(0, Ordering::Relaxed);
    }
    if PREPARED.swap(true, Ordering::Relaxed) {
        return;
    }
    let page = (&raw const PAGE).cast_mut().cast();
    // SAFETY: a whole page of this library's own, private and not of a file. What the kernel does to it in a child is a
    // store of zeros, which are valid there. Where it refuses, the handler is left, which does no more than that store.
    unsafe {
        libc::madvise(page, size_of::<Page>(), libc::MADV_WIPEONFORK);
        if libc::pthread_atfork(None, None, Some(clear)) != 0 {
            tracing::warn!("no memory to watch for forks with");
        }
    }
}

/// Whether this signal waits for this thread, or for any of the process's, until it is no longer blocked.
pub(crate) fn is_pending(signal: Signal) -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call fills the set, and it is read after it has done so only.
    unsafe { libc::sigpending(pending.as_mut_ptr()) == 0 && libc::sigismember(pending.as_ptr(), signal as i32) == 1 }
}

/// Takes one pending signal of these away, which the caller has blocked; that of the thread comes before that of the process.
/// Does not wait for one.
pub(crate) fn take_pending(signals: &SigSet) {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both arguments live beyond the call, and it may be told that nobody wants to know about the signal.
    unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &at_once) };
}

/// A value whose destructor reaches what a child must leave alone: locks, sockets, threads, files. There it does not run.
pub(crate) struct Own<T> {
    value: ManuallyDrop<T>,
    life: Life,
}

impl<T> Own<T> {
    pub(crate) fn new(value: T) -> Own<T> {
        Own { value: ManuallyDrop::new(value), life: Life::present() }
    }
}

impl<T> Deref for Own<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Own<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if !self.life.is_over() {
            // SAFETY: here only, and nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
