//! The state behind a group's handle: a member, or a join that is under way, and the leave that was asked for.

use crate::border;
use crate::callbacks::Functions;
use crate::drive::{TURN, Turn};
use crate::failure::Failure;
use engine::{Error, Group, Starting};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What a group's handle stands for: a member, or a join that is under way.
pub(crate) struct Entry {
    // Declared first so that it is dropped first: a remaining driver reports the end to the group when it is dropped.
    pub(crate) turn: Option<Arc<Turn>>,
    functions: Functions,
    /// A join in a thread of the library.
    pub(crate) starting: Mutex<Option<Starting>>,
    /// A leave that begins when the process has joined. The join is being cancelled.
    pub(crate) leaves: Mutex<Option<Leave>>,
    /// The process has joined, and the application may hear that the group has stopped.
    pub(crate) runs: Arc<AtomicBool>,
    /// The error with which the join ended.
    pub(crate) failure: OnceLock<Error>,
    /// The join has failed, and the `joined` callback has returned.
    has_failed: AtomicBool,
    pub(crate) member: OnceLock<Member>,
}

impl Entry {
    pub(crate) fn new(turn: Option<Arc<Turn>>, functions: Functions, runs: Arc<AtomicBool>) -> Entry {
        let (failure, member) = (OnceLock::new(), OnceLock::new());
        let (starting, leaves) = (Mutex::default(), Mutex::default());
        Entry { turn, functions, starting, leaves, runs, failure, has_failed: AtomicBool::new(false), member }
    }

    pub(crate) fn joined(member: Member, functions: Functions) -> Entry {
        let entry = Entry::new(member.turn.clone(), functions, Arc::default());
        // The cell is new.
        let _ = entry.member.set(member);
        entry
    }

    /// The member. Fails while the process joins, and with the error of a join that failed.
    #[inline]
    pub(crate) fn member(&self) -> Result<&Member, Failure> {
        self.member.get().ok_or_else(|| self.failure.get().map_or(Failure::Joining, |error| error.clone().into()))
    }

    /// Returns the driver. Fails in a group that a thread of the library drives.
    pub(crate) fn turn(&self) -> Result<&Turn, Failure> {
        let misuse = Error::Misuse("a thread of the library drives this group: join it with GALERNA_DRIVE_DISPATCH");
        self.turn.as_deref().ok_or(misuse.into())
    }

    /// Records the end of the join, and tells the application.
    pub(crate) fn end_join(&self, result: Result<Group, Error>) -> Result<(), Error> {
        match result {
            Ok(group) => {
                let leaves = {
                    // A leave that begins now either sees the member or is seen here.
                    let mut leaves = border::lock(&self.leaves);
                    let _ = self.member.set(Member { turn: self.turn.clone(), group });
                    leaves.take_if(|leave| !leave.is_awaited)
                };
                self.runs.store(true, Ordering::Relaxed);
                // Before the callback: a leave that the callback begins is the second one.
                let failed = match (leaves, self.member.get()) {
                    (Some(leave), Some(member)) => self.leave_member(member, leave).err(),
                    _ => None,
                };
                self.functions.joined(Ok(()));
                if let Some(error) = failed {
                    self.functions.left(Err(&error));
                }
                Ok(())
            }
            Err(error) => {
                let _ = self.failure.set(error.clone());
                self.functions.joined(Err(&error));
                // A leave that waits in another thread sees what the callback has written.
                self.has_failed.store(true, Ordering::Release);
                Err(error)
            }
        }
    }

    fn leave_member(&self, member: &Member, leave: Leave) -> Result<(), Error> {
        let functions = self.functions;
        let left = move |result: Result<(), Error>| {
            if leave.tells {
                functions.left(result.as_ref().copied());
            }
        };
        member.group.leave_start(leave.timeout, left)
    }

    /// Begins to leave. A join that is under way is cancelled.
    pub(crate) fn leave_start(&self, timeout: Duration) -> Result<(), Failure> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone().into());
        }
        let mut leaves = border::lock(&self.leaves);
        let leave = Leave { timeout, tells: true, is_awaited: false };
        if let Some(member) = self.member.get() {
            drop(leaves);
            return Ok(self.leave_member(member, leave)?);
        }
        if leaves.is_some() {
            return Err(Error::Left.into());
        }
        *leaves = Some(leave);
        drop(leaves);
        self.cancel(timeout);
        Ok(())
    }

    /// Cancels a join that is under way. If the process is in the group by then, it leaves within `timeout`.
    pub(crate) fn cancel(&self, timeout: Duration) {
        if let Some(starting) = border::lock(&self.starting).as_ref() {
            starting.canceller().cancel_within(timeout);
        }
        if let Some(turn) = &self.turn {
            turn.cancel_join(timeout);
        }
    }

    /// Cancels a join that is under way, and waits until it has ended and `joined` has returned. Returns false if the
    /// process has joined.
    pub(crate) fn cancel_join(&self, timeout: Duration) -> Result<bool, Error> {
        if self.member.get().is_some() || self.has_failed.load(Ordering::Acquire) {
            return Ok(self.member.get().is_none());
        }
        let leave = Leave { timeout, tells: false, is_awaited: true };
        let is_first = {
            let mut leaves = border::lock(&self.leaves);
            let is_first = leaves.is_none();
            leaves.get_or_insert(leave);
            is_first
        };
        self.cancel(timeout);
        let begin = Instant::now();
        loop {
            if let Some(turn) = &self.turn {
                // Callbacks of the join, and its end. The result is recorded.
                let _ = turn.dispatch(self);
            } else {
                // A thread of the library may not have stored its join yet when it was cancelled above.
                self.cancel(timeout);
            }
            if self.has_failed.load(Ordering::Acquire) {
                return Ok(true);
            }
            let over = begin.elapsed() >= timeout;
            let mut leaves = border::lock(&self.leaves);
            if is_first && (over || self.member.get().is_some()) {
                *leaves = None;
            }
            if self.member.get().is_some() {
                return Ok(false);
            }
            if over {
                // The join ends without this call, and a process that is in the group by then leaves it.
                leaves.get_or_insert(Leave { is_awaited: false, ..leave });
                let after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                return Err(Error::TimedOut { what: "the cancelled join", after_ms });
            }
            drop(leaves);
            std::thread::sleep(TURN);
        }
    }
}

/// A leave that the application has asked for.
#[derive(Clone, Copy)]
pub(crate) struct Leave {
    pub(crate) timeout: Duration,
    /// Whether the `left` callback is called when it is over.
    tells: bool,
    /// A call waits for the end of the join, and then leaves.
    is_awaited: bool,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // A thread that joins ends before the last callback.
        self.turn = None;
        drop(border::lock(&self.starting).take());
        if self.member.get().is_none() && self.failure.get().is_none() {
            self.functions.joined(Err(&Error::Left));
        }
    }
}

/// The member that a group's handle stands for.
pub(crate) struct Member {
    pub(crate) turn: Option<Arc<Turn>>,
    pub(crate) group: Group,
}

impl Member {
    /// Returns the driver, if the application drives the group.
    pub(crate) fn driven(&self) -> Option<&Turn> {
        self.turn.as_deref()
    }

    /// Waits for an event of the group. If a thread of the library drives the group, `engine` waits. Otherwise this
    /// thread dispatches and calls `ready`, which does not wait, between the dispatches.
    pub(crate) fn wait<T>(
        &self,
        what: &'static str,
        timeout: Duration,
        engine: impl FnOnce() -> Result<T, Error>,
        ready: impl FnMut() -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        match &self.turn {
            None => engine(),
            Some(turn) => turn.wait(what, timeout, ready),
        }
    }
}
