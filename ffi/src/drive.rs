//! `galerna_drive_t`: which thread drives a group, and how calls wait for the group.

use crate::border::{self, Out};
use crate::callbacks::{in_callback, not_in_callback};
use crate::failure::Failure;
use crate::group::{self, galerna_group_t};
use crate::result::galerna_result_t;
use engine::{Driver, Error, Group};
use std::ffi::c_int;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// The thread that drives a group.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_drive_t {
    /// A thread of the library, which galerna_group_join() starts. Callbacks run in that thread.
    GALERNA_DRIVE_THREAD = 0,
    /// The application's own loop. It waits until the descriptor of galerna_group_fd() is readable and then calls
    /// galerna_group_dispatch(), which runs the callbacks. A call that waits dispatches until it is done, so callbacks
    /// also run inside such calls.
    GALERNA_DRIVE_DISPATCH = 1,
}

/// A `galerna_drive_t` as C passes it: any number.
pub type RawDrive = i32;

/// Gets the file descriptor of a group that was joined with GALERNA_DRIVE_DISPATCH.
///
/// The descriptor is readable when galerna_group_join() returns, and later whenever there is work to dispatch,
/// including heartbeats that become due. Wait for it with poll, select or epoll; no timeout is needed. Do not use it
/// for anything else. The library owns it and closes it when the group is left or freed.
///
/// - `fd`: receives the descriptor.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`fd` is NULL), GALERNA_ERR_MISUSE (a thread of the library drives
/// this group), GALERNA_ERR_LEFT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_fd(group: *const galerna_group_t, fd: *mut c_int) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `fd`.
        let fd = unsafe { Out::new("fd", fd)? };
        group::with(group, |member| {
            fd.set(member.turn()?.fd()?);
            Ok(())
        })
    })
}

/// Does the pending work of a group that was joined with GALERNA_DRIVE_DISPATCH. Never waits.
///
/// The work includes the callbacks. In a busy group the function returns before all work is done; the descriptor is
/// readable then.
///
/// May be called from any thread, but only from one at a time.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (a thread of the library drives this group, or the call was made
/// inside a callback), GALERNA_ERR_WOULD_BLOCK (another thread is dispatching and does the work), GALERNA_ERR_LEFT, and
/// the error that stopped the group.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_dispatch(group: *mut galerna_group_t) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        group::with(group, |member| {
            let mut driver = member.turn()?.lock().ok_or(Error::WouldBlock("another thread dispatches"))?;
            let dispatched = driver.as_mut().ok_or(Error::Left)?.dispatch();
            if member.group.is_over() {
                // The leave has ended, in this dispatch or because its timeout has passed. Dropping the driver closes
                // the links, so that the other members notice.
                drop(driver.take());
            }
            Ok(dispatched?)
        })
    })
}

pub(crate) fn drive(raw: RawDrive) -> Result<galerna_drive_t, Failure> {
    match raw {
        0 => Ok(galerna_drive_t::GALERNA_DRIVE_THREAD),
        1 => Ok(galerna_drive_t::GALERNA_DRIVE_DISPATCH),
        _ => Err(Failure::Argument("drive", "is no galerna_drive_t")),
    }
}

/// How long a waiting call holds the driver before other calls get a chance to take it.
const SLICE: Duration = Duration::from_millis(20);
/// How long a waiting call sleeps while another thread holds the driver.
pub(crate) const TURN: Duration = Duration::from_millis(1);

/// The driver of a group that the application drives, shared by the threads that dispatch. `None` after the leave.
pub(crate) struct Turn {
    driver: Mutex<Option<Driver>>,
    fd: RawFd,
    /// Whether the group is being freed. Waiting calls then return.
    closed: AtomicBool,
}

impl Turn {
    pub(crate) fn new(driver: Driver) -> Turn {
        let fd = driver.fd().as_raw_fd();
        Turn { driver: Mutex::new(Some(driver)), fd, closed: AtomicBool::new(false) }
    }

    /// Makes the calls that wait in other threads return.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Ends the group if it is being freed. No dispatch does so then, and threads may wait for its end.
    pub(crate) fn end_if_closed(&self) {
        if self.closed.load(Ordering::Relaxed)
            && let Some(mut driver) = self.lock()
        {
            drop(driver.take());
        }
    }

    fn fd(&self) -> Result<RawFd, Error> {
        match self.lock() {
            Some(driver) if driver.is_none() => Err(Error::Left),
            _ => Ok(self.fd),
        }
    }

    /// Locks the driver. Returns `None` if another thread holds it.
    fn lock(&self) -> Option<MutexGuard<'_, Option<Driver>>> {
        match self.driver.try_lock() {
            Ok(driver) => Some(driver),
            Err(TryLockError::Poisoned(driver)) => Some(driver.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Dispatches until `ready` returns a value, for at most `timeout`. Must not be called inside a callback.
    pub(crate) fn wait<T>(
        &self,
        what: &'static str,
        timeout: Duration,
        mut ready: impl FnMut() -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        debug_assert!(!in_callback());
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(value) = ready() {
                return value;
            }
            if self.closed.load(Ordering::Relaxed) {
                return Err(Error::Left);
            }
            let left = remaining(deadline).ok_or_else(|| timed_out(what, timeout))?;
            let Some(mut driver) = self.lock() else {
                std::thread::sleep(TURN.min(left));
                continue;
            };
            let mut value = None;
            let waited = driver.as_mut().ok_or(Error::Left)?.wait(SLICE.min(left), || {
                value = ready();
                value.is_some()
            });
            if let Some(value) = value {
                return value;
            }
            waited?;
        }
    }

    /// Leaves the group. If no other thread holds the driver, this thread finishes the leave; otherwise the dispatches
    /// of the other thread do. The driver is dropped then, at the latest by the next dispatch.
    pub(crate) fn leave(&self, group: &Group, timeout: Duration) -> Result<(), Error> {
        group.begin_leave(timeout)?;
        let deadline = Instant::now() + timeout;
        loop {
            let left = remaining(deadline);
            if let Some(mut driver) = self.lock() {
                return match driver.take() {
                    Some(driver) => driver.finish_leave(left.unwrap_or_default(), timeout),
                    None => group.left().unwrap_or(Err(Error::Left)),
                };
            }
            if let Some(ended) = group.left() {
                return ended;
            }
            let Some(left) = left else {
                let departed = group.has_departed();
                group.abandon();
                return if departed { Ok(()) } else { Err(timed_out("leave", timeout)) };
            };
            std::thread::sleep(TURN.min(left));
        }
    }
}

fn remaining(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

fn timed_out(what: &'static str, timeout: Duration) -> Error {
    Error::TimedOut { what, after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) }
}
