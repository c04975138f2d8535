//! `galerna_drive_t`: who makes a group advance, and how calls wait for it.

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

/// Who makes a group advance.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_drive_t {
    /// A thread of the library, which galerna_join() starts; callbacks run in it.
    GALERNA_DRIVE_THREAD = 0,
    /// The application: it waits until the descriptor of galerna_fd() is readable and calls galerna_dispatch(), in which
    /// the callbacks run. Calls that wait dispatch by themselves meanwhile, so callbacks run in these too.
    GALERNA_DRIVE_DISPATCH = 1,
}

/// `galerna_drive_t` as C passes it: any number.
pub type RawDrive = i32;

/// The descriptor of a group that was joined with GALERNA_DRIVE_DISPATCH. It is readable when galerna_join() returns, and
/// then whenever there is something to dispatch, the heartbeats included that are due as time passes. Wait for it with
/// poll, select or epoll, without a timeout if nothing else is to be done; use it for nothing else. It is the library's,
/// and is closed when the group is left or freed.
///
/// - `fd`: takes the descriptor.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`fd` is NULL), MISUSE (the library drives this group), LEFT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_fd(group: *const galerna_group_t, fd: *mut c_int) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `fd`.
        let fd = unsafe { Out::new("fd", fd)? };
        group::with(group, |member| {
            fd.set(member.turn()?.fd()?);
            Ok(())
        })
    })
}

/// Does what there is to do in a group that was joined with GALERNA_DRIVE_DISPATCH, callbacks included, and returns
/// without waiting. In a busy group it returns before all is done; the descriptor is readable then.
///
/// Any thread, one at a time. Errors: HANDLE, MISUSE (the library drives this group, or inside a callback), WOULD_BLOCK
/// (another thread dispatches at this moment, and does what was to do), LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_dispatch(group: *mut galerna_group_t) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        group::with(group, |member| {
            let mut driver = member.turn()?.lock().ok_or(Error::WouldBlock("another thread dispatches"))?;
            let dispatched = driver.as_mut().ok_or(Error::Left)?.dispatch();
            if member.group.is_over() {
                // It has left, by this or because its time is up: the others see the driver go.
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

/// How long a waiting call keeps the driver before it lets others have it.
const SLICE: Duration = Duration::from_millis(20);
/// How long a waiting call sleeps while another thread has the driver.
const TURN: Duration = Duration::from_millis(1);

/// The driver of a group that the application drives, for whoever's turn it is; gone after the leave.
pub(crate) struct Turn {
    driver: Mutex<Option<Driver>>,
    fd: RawFd,
    /// The group is being freed: waiting calls return.
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

    fn fd(&self) -> Result<RawFd, Error> {
        match self.lock() {
            Some(driver) if driver.is_none() => Err(Error::Left),
            _ => Ok(self.fd),
        }
    }

    /// The driver, unless another thread has it.
    fn lock(&self) -> Option<MutexGuard<'_, Option<Driver>>> {
        match self.driver.try_lock() {
            Ok(driver) => Some(driver),
            Err(TryLockError::Poisoned(driver)) => Some(driver.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Dispatches until `ready` has something, for at most `timeout`. Not inside a callback.
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

    /// Leaves, with the driver where no other thread has it, and by the dispatches of that thread otherwise. The driver is gone
    /// then, at the latest by the next dispatch.
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
                group.abandon();
                return Err(timed_out("leave", timeout));
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
