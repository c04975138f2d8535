//! Descriptors that a forked child gives up.
//!
//! A connection, a port or a lock lives as long as any process has a descriptor of it. A child of `fork` gets a copy of
//! every descriptor, so without further measures the other members would not notice the death of the parent before the
//! child ended too, and the parent's port and log would stay in use. A fork handler therefore replaces the child's
//! copies by descriptors of a file of no use. It does not close them: objects in the child's copy of the memory contain
//! their numbers, which the kernel would give to the child's next files.
//!
//! Not covered are a fork at the very moment in which a connection is accepted or dialled, the memory that members on one
//! host share, the descriptors of libibverbs, and those with numbers from 65,536 on. Their copies end with the child.

use super::Life;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

/// One bit for each private descriptor of this process, by number. Without locks, because the fork handler reads it.
static HELD: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
/// The file of no use, or -1 as long as there is none.
static NO_USE: AtomicI32 = AtomicI32::new(-1);
/// Whether the process that forks is the one that set the bits. A child of a bare `clone` has not.
static ARMED: AtomicBool = AtomicBool::new(false);

/// An object with a descriptor that forked children give up. In a child it is not dropped.
#[derive(Debug)]
pub struct Private<T: AsFd> {
    object: ManuallyDrop<T>,
    life: Life,
}

impl<T: AsFd> Private<T> {
    pub(crate) fn new(object: T) -> Private<T> {
        let life = Life::present();
        make_file_of_no_use();
        mark(object.as_fd(), true);
        Private { object: ManuallyDrop::new(object), life }
    }

    /// Converts the object. The descriptor stays the same, and stays private.
    pub(crate) fn map<U: AsFd>(self, convert: impl FnOnce(T) -> U) -> Private<U> {
        let life = self.life;
        Private { object: ManuallyDrop::new(convert(self.take())), life }
    }

    /// The object. From now on forked children keep its descriptor.
    fn into_inner(self) -> T {
        mark(self.object.as_fd(), false);
        self.take()
    }

    fn take(self) -> T {
        let mut whole = ManuallyDrop::new(self);
        // SAFETY: the destructor of the whole does not run, so the object is used nowhere else.
        unsafe { ManuallyDrop::take(&mut whole.object) }
    }
}

impl<T: AsFd> From<T> for Private<T> {
    fn from(object: T) -> Private<T> {
        Private::new(object)
    }
}

impl From<Private<Socket>> for TcpStream {
    fn from(socket: Private<Socket>) -> TcpStream {
        socket.into_inner().into()
    }
}

impl From<Private<Socket>> for UnixStream {
    fn from(socket: Private<Socket>) -> UnixStream {
        socket.into_inner().into()
    }
}

impl<T: AsFd> Deref for Private<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T: AsFd> DerefMut for Private<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.object
    }
}

impl<T: AsFd> AsFd for Private<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.object.as_fd()
    }
}

impl<T: AsFd> AsRawFd for Private<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.object.as_fd().as_raw_fd()
    }
}

impl<T: AsFd> Drop for Private<T> {
    fn drop(&mut self) {
        if self.life.is_over() {
            return;
        }
        // Before the number is free: afterwards it may be that of a file of the application.
        mark(self.object.as_fd(), false);
        // SAFETY: the value is dropped only here, and nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.object) };
    }
}

fn mark(fd: BorrowedFd<'_>, held: bool) {
    let Ok(number) = usize::try_from(fd.as_raw_fd()) else { return };
    let (Some(word), bit) = (HELD.get(number / 64), 1 << (number % 64)) else { return };
    if held {
        word.fetch_or(bit, Ordering::Relaxed)
    } else {
        word.fetch_and(!bit, Ordering::Relaxed)
    };
}

/// Makes the file that replaces the descriptors. Without it, children keep their copies.
fn make_file_of_no_use() {
    if NO_USE.load(Ordering::Relaxed) >= 0 {
        return;
    }
    match EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK) {
        Ok(event) => {
            let number = OwnedFd::from(event).into_raw_fd();
            if NO_USE.compare_exchange(-1, number, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                close(number);
            }
        }
        Err(error) => tracing::debug!(%error, "forked children will share this process's descriptors"),
    }
}

fn close(number: RawFd) {
    // SAFETY: the caller made the descriptor, and nothing else has its number.
    unsafe { libc::close(number) };
}

/// Before a fork: whether this process is the one that set the bits.
pub(super) fn arm(has_life: bool) {
    ARMED.store(has_life, Ordering::Relaxed);
}

/// In a child, before anything else runs in it: replaces the descriptors. Only makes calls that are allowed there.
pub(super) fn give_up() {
    let no_use = NO_USE.load(Ordering::Relaxed);
    let armed = ARMED.load(Ordering::Relaxed) && no_use >= 0;
    for (n, word) in (0_i32..).zip(&HELD) {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while armed && bits != 0 {
            let number = n * 64 + bits.trailing_zeros() as i32;
            bits &= bits - 1;
            // SAFETY: the descriptor is a copy of one that a value of this module holds. In this process nothing uses
            // it. If it was closed at the same moment in the parent, this one takes an unused number.
            unsafe { libc::dup3(no_use, number, libc::O_CLOEXEC) };
        }
    }
}

/// In a new process: forgets the descriptors of the process from which it was cloned.
pub(super) fn forget() {
    for word in &HELD {
        word.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::fs::File;

    fn is_marked(number: RawFd) -> bool {
        HELD[number as usize / 64].load(Ordering::Relaxed) & (1 << (number % 64)) != 0
    }

    #[test]
    fn a_number_is_marked_as_long_as_the_object_lives() {
        let file = Private::new(File::open("/dev/null").unwrap());
        let number = file.as_raw_fd();
        assert!(is_marked(number));
        mark(file.as_fd(), false);
        assert!(!is_marked(number));
        mark(file.as_fd(), true);
        drop(file);
        // The kernel may have given the number to another test's private object by now, so the bit is not looked at.
        assert!(NO_USE.load(Ordering::Relaxed) >= 0);
    }
}
