//! `galerna_drive_t`: which thread drives a group, and how calls wait for the group.

use crate::border::{self, Out};
use crate::callbacks::{in_callback, not_in_callback};
use crate::entry::Entry;
use crate::failure::Failure;
use crate::group::{self, galerna_group_t};
use crate::result::galerna_result_t;
use engine::{Canceller, Driver, Error, Group, Joining};
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
        group::with_entry(group, |entry| {
            fd.set(entry.turn()?.fd()?);
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
        group::with_entry(group, |entry| entry.turn()?.dispatch(entry))
    })
}

pub(crate) fn drive(raw: RawDrive) -> Result<galerna_drive_t, Failure> {
    match raw {
        0 => Ok(galerna_drive_t::GALERNA_DRIVE_THREAD),
        1 => Ok(galerna_drive_t::GALERNA_DRIVE_DISPATCH),
        _ => Err(Failure::Argument("drive", "is not a galerna_drive_t")),
    }
}

/// How long a waiting call holds the driver before other calls get a chance to take it.
const SLICE: Duration = Duration::from_millis(20);
/// How long a waiting call sleeps while another thread holds the driver.
pub(crate) const TURN: Duration = Duration::from_millis(1);

/// What the threads of an application that drives a group dispatch.
enum Stage {
    Joining(Box<Joining>),
    Driving(Box<Driver>),
    /// After the leave, or a join that failed.
    Over,
}

impl Stage {
    fn driver(&mut self) -> Option<&mut Driver> {
        if let Stage::Driving(driver) = self { Some(driver) } else { None }
    }

    fn take(&mut self) -> Option<Driver> {
        match std::mem::replace(self, Stage::Over) {
            Stage::Driving(driver) => Some(*driver),
            Stage::Joining(_) | Stage::Over => None,
        }
    }
}

/// The driver of a group that the application drives, or its join, shared by the threads that dispatch.
pub(crate) struct Turn {
    stage: Mutex<Stage>,
    fd: RawFd,
    /// Cancels the join. Outside of the lock, because the thread that dispatches may be inside a callback.
    canceller: Option<Canceller>,
    /// Whether the group is being freed. Waiting calls then return.
    closed: AtomicBool,
}

impl Turn {
    pub(crate) fn new(driver: Driver) -> Turn {
        let fd = driver.fd().as_raw_fd();
        let stage = Mutex::new(Stage::Driving(Box::new(driver)));
        Turn { stage, fd, canceller: None, closed: AtomicBool::new(false) }
    }

    /// A group that is being joined.
    pub(crate) fn joining(joining: Joining) -> Result<Turn, Error> {
        let fd = joining.fd().ok_or(Error::Left)?.as_raw_fd();
        let canceller = Some(joining.canceller());
        let stage = Mutex::new(Stage::Joining(Box::new(joining)));
        Ok(Turn { stage, fd, canceller, closed: AtomicBool::new(false) })
    }

    /// Cancels the join, if it is under way. If the process is in the group by then, it leaves within `timeout`.
    pub(crate) fn cancel_join(&self, timeout: Duration) {
        if let Some(canceller) = &self.canceller {
            canceller.cancel_within(timeout);
        }
    }

    /// Does the pending work, callbacks included.
    pub(crate) fn dispatch(&self, entry: &Entry) -> Result<(), Failure> {
        let mut stage =
            self.lock().ok_or(Error::WouldBlock("another thread is in a call that dispatches this group"))?;
        let dispatched = match &mut *stage {
            Stage::Joining(joining) => {
                let joined = match joining.dispatch() {
                    Ok(None) => return Ok(()),
                    Ok(Some((group, driver))) => {
                        *stage = Stage::Driving(Box::new(driver));
                        Ok(group)
                    }
                    Err(error) => {
                        *stage = Stage::Over;
                        Err(error)
                    }
                };
                return Ok(entry.end_join(joined)?);
            }
            Stage::Driving(driver) => driver.dispatch(),
            Stage::Over => return Err(entry.member().err().unwrap_or(Error::Left.into())),
        };
        if entry.member().is_ok_and(|member| member.group.is_over()) {
            // The leave has ended, in this dispatch or because its timeout has passed. Dropping the driver closes the
            // links, so that the other members notice.
            drop(stage.take());
        }
        Ok(dispatched?)
    }

    /// Makes the calls that wait in other threads return.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Ends the group if it is being freed. No dispatch does so then, and threads may wait for its end.
    pub(crate) fn end_if_closed(&self) {
        if self.closed.load(Ordering::Relaxed)
            && let Some(mut stage) = self.lock()
        {
            drop(stage.take());
        }
    }

    fn fd(&self) -> Result<RawFd, Error> {
        match self.lock() {
            Some(stage) if matches!(*stage, Stage::Over) => Err(Error::Left),
            _ => Ok(self.fd),
        }
    }

    /// Locks the stage. Returns `None` if another thread holds it.
    fn lock(&self) -> Option<MutexGuard<'_, Stage>> {
        match self.stage.try_lock() {
            Ok(stage) => Some(stage),
            Err(TryLockError::Poisoned(stage)) => Some(stage.into_inner()),
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
            let Some(mut stage) = self.lock() else {
                std::thread::sleep(TURN.min(left));
                continue;
            };
            let mut value = None;
            let waited = stage.driver().ok_or(Error::Left)?.wait(SLICE.min(left), || {
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
            if let Some(mut stage) = self.lock() {
                return match stage.take() {
                    Some(driver) => driver.finish_leave(),
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
