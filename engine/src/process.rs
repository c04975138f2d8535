//! Detects forked children: a child must not use the groups and logs of its parent.
//!
//! A child has a copy of the memory, but not the threads that use it, and it shares descriptors and mapped files. A
//! message sent by the child would reach no member on tcp, and would overwrite a message of the parent on shared
//! memory. So every object records the [`Life`] in which it was created, and every call in another one fails with
//! [`Error::Forked`].
//!
//! The number of the present life is stored in a page that the kernel clears in every child (`MADV_WIPEONFORK`),
//! however the child was forked. Where the kernel does not support this, a `pthread_atfork` handler clears the page; a
//! bare `clone` system call bypasses that handler. A child of `vfork` shares the parent's memory and is not detected:
//! it may only call `exec`.

mod private;

pub use private::Private;

use crate::error::Error;
use nix::sys::signal::{SigSet, Signal};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The page that is cleared as a whole in the child, so nothing else may be stored in it.
#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);
/// The greatest life number assigned so far by this process or by a process from which it was forked.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// The lifetime of a process between two forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life(u64);

impl Default for Life {
    fn default() -> Life {
        Life::present()
    }
}

impl Life {
    /// The present life.
    pub fn present() -> Life {
        prepare();
        let word = &PAGE.0[0];
        let present = word.load(Ordering::Relaxed);
        if present != 0 {
            return Life(present);
        }
        let next = GIVEN.fetch_add(1, Ordering::Relaxed) + 1;
        match word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                // After a bare `clone`, which runs no handler, the descriptors are those of the parent.
                private::forget();
                Life(next)
            }
            // Another thread assigned the number first.
            Err(present) => Life(present),
        }
    }

    /// Whether the present process is a child of the process in which this value was created.
    #[inline]
    pub fn is_over(self) -> bool {
        PAGE.0[0].load(Ordering::Relaxed) != self.0
    }

    /// Returns [`Error::Forked`] in a child.
    #[inline]
    pub fn check(self) -> Result<(), Error> {
        if self.is_over() { Err(Error::Forked) } else { Ok(()) }
    }
}

/// Ensures that the page is cleared in every child, and that a child of `fork` gives up the private descriptors.
///
/// A concurrent caller does not wait for the first one: in a child a lock here could be held for ever.
fn prepare() {
    static PREPARED: AtomicBool = AtomicBool::new(false);
    extern "C" fn before() {
        private::arm(PAGE.0[0].load(Ordering::Relaxed) != 0);
    }
    extern "C" fn clear() {
        PAGE.0[0].store(0, Ordering::Relaxed);
        private::give_up();
    }
    if PREPARED.swap(true, Ordering::Relaxed) {
        return;
    }
    let page = (&raw const PAGE).cast_mut().cast();
    // SAFETY: the page is a whole page owned by this library, private and not backed by a file. In a child the kernel
    // writes zeros to it, which are valid values. If the kernel refuses, the handler remains, which performs the same
    // store. The handlers make no call that is forbidden after a fork.
    unsafe {
        libc::madvise(page, size_of::<Page>(), libc::MADV_WIPEONFORK);
        if libc::pthread_atfork(Some(before), None, Some(clear)) != 0 {
            tracing::warn!("cannot register the functions that detect a fork: no memory is left");
        }
    }
}

/// Whether this blocked signal is pending for this thread or for the process.
pub(crate) fn is_pending(signal: Signal) -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call fills the set, which is read only after the call succeeded.
    unsafe { libc::sigpending(pending.as_mut_ptr()) == 0 && libc::sigismember(pending.as_ptr(), signal as i32) == 1 }
}

/// Removes one pending signal out of `signals`, which the caller has blocked. Does not wait for one.
///
/// A signal pending for the thread is taken before one pending for the process.
pub(crate) fn take_pending(signals: &SigSet) {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both arguments outlive the call, and a null pointer is allowed for the signal information.
    unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &at_once) };
}

/// A value that is not dropped in a forked child, so that its destructor does not run there.
///
/// For destructors that touch resources of the parent: locks, sockets, threads and files.
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
            // SAFETY: the value is dropped only here, and nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
