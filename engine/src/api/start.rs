//! Joins that do not block: a thread of the library does what blocks.
//!
//! With [`Group::join_start`] the thread goes on to drive the group. With [`Group::join_start_driven`] the application
//! drives it, from the beginning of the join, with one descriptor: callbacks run only in its calls of
//! [`Joining::dispatch`], and later of [`Driver::dispatch`].

use super::Group;
use super::remote::{Call, Calls, Remote};
use crate::app::{Handler, text_of};
use crate::bootstrap::join;
use crate::config::Config;
use crate::deadline::Cancel;
use crate::driver::{CANCEL_TIME, Driver};
use crate::error::Error;
use crate::process::Life;
use crate::shared::Shared;
use crate::sync::lock;
use crate::thread;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one [`Joining::dispatch`] makes callbacks.
const DISPATCH_TIME: Duration = Duration::from_millis(20);

/// A join in a thread of the library. Dropping it cancels the join, if that has not ended, and waits for its end.
pub struct Starting {
    canceller: Canceller,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Cancels a join. It can be used in any thread and inside callbacks.
#[derive(Clone)]
pub struct Canceller {
    cancel: Cancel,
    /// True once the process has joined, and the group owns the thread. Held while a cancellation is decided.
    joined: Arc<Mutex<bool>>,
    life: Life,
}

impl Canceller {
    fn new() -> Canceller {
        Canceller { cancel: Cancel::default(), joined: Arc::default(), life: Life::present() }
    }

    /// Cancels the join, which then ends with [`Error::Left`]. A process that is in the group by then leaves it, within
    /// a second. If the join has ended, this has no effect.
    pub fn cancel(&self) {
        self.cancel_within(CANCEL_TIME);
    }

    /// Like [`Canceller::cancel`]; a process that is in the group by then leaves it within `timeout`. After that the
    /// others see it fail.
    pub fn cancel_within(&self, timeout: Duration) {
        if !self.life.is_over() {
            self.cancel_unless_joined(timeout);
        }
    }

    fn cancel_unless_joined(&self, timeout: Duration) -> bool {
        let joined = lock(&self.joined);
        if !*joined {
            self.cancel.set(timeout);
        }
        !*joined
    }

    /// Notes that the process has joined, unless the join was cancelled.
    fn note_joined(&self) -> bool {
        let mut joined = lock(&self.joined);
        *joined = !self.cancel.is_set();
        *joined
    }
}

impl Starting {
    /// Cancels the join: see [`Canceller::cancel`].
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// Returns a value that cancels this join.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.canceller.life.is_over() {
            // The thread belongs to the parent process. This process can neither wait for it nor detach it.
            std::mem::forget(self.thread.clone());
            return;
        }
        if !self.canceller.cancel_unless_joined(CANCEL_TIME) {
            return;
        }
        let thread = lock(&self.thread).take();
        // A thread cannot join itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// A join of a group that the application drives. Dropping it cancels the join.
pub struct Joining {
    calls: Arc<Calls>,
    /// `None` once the group's driver has it.
    handler: Option<Box<dyn Handler>>,
    /// `None` once the group's driver has it.
    epoll: Option<Epoll>,
    starting: Starting,
}

impl Group {
    /// Begins to join, like [`Group::join`], and returns at once.
    ///
    /// A thread of the library joins, calls `done` with the result, and then drives the group: all callbacks run in it.
    /// Keep the returned value until then: dropping it cancels the join.
    pub fn join_start(
        config: Config,
        handler: impl Handler + 'static,
        done: impl FnOnce(Result<Group, Error>) + Send + 'static,
    ) -> Result<Starting, Error> {
        config.check()?;
        let (canceller, slot) = (Canceller::new(), Arc::new(Mutex::new(None)));
        let (own, of_group) = (canceller.clone(), slot.clone());
        let stack_bytes = config.stack_bytes;
        // The group's handle needs the thread's own handle, which exists only after the start.
        let mut started = lock(&slot);
        let thread =
            thread::spawn("galerna-join", "joins the group and runs it", stack_bytes, move || {
                match join::join(&config, Box::new(handler), &own.cancel) {
                    Ok((shared, driver)) => match not_cancelled(&own, driver) {
                        Some(driver) => {
                            done(Ok(Group::in_thread(shared, of_group)));
                            driver.run();
                        }
                        None => done(Err(Error::Left)),
                    },
                    Err(error) => done(Err(error)),
                }
            })?;
        *started = Some(thread);
        drop(started);
        Ok(Starting { canceller, thread: slot })
    }

    /// Begins to join, like [`Group::join_driven`], and returns at once.
    pub fn join_start_driven(config: Config, handler: impl Handler + 'static) -> Result<Joining, Error> {
        config.check()?;
        let failed = |e| Error::io("cannot make an epoll descriptor", e);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let calls = Arc::new(Calls::new()?);
        epoll.add(calls.event(), EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(failed)?;
        let (canceller, remote) = (Canceller::new(), calls.clone());
        let cancelled = canceller.cancel.clone();
        let joins = move || {
            let joined = join::join(&config, Box::new(Remote::new(remote.clone())), &cancelled);
            remote.push(Call::Joined(joined.map(|(shared, driver)| (shared, Box::new(driver)))));
        };
        let thread = thread::spawn("galerna-join", "joins the group", thread::OWN_STACK_BYTES, joins)?;
        let starting = Starting { canceller, thread: Arc::new(Mutex::new(Some(thread))) };
        Ok(Joining { calls, handler: Some(Box::new(handler)), epoll: Some(epoll), starting })
    }
}

impl Joining {
    /// The descriptor to wait on. It is readable whenever [`Joining::dispatch`] has work, and becomes that of the
    /// [`Driver`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.0.as_fd())
    }

    /// Makes the pending callbacks, and returns without waiting. Returns the group once the process is in it.
    ///
    /// The other members wait for the callbacks as in a running group. An error is the reason why the join failed, and
    /// is final; [`Error::Left`] after a cancellation.
    ///
    /// Of the callbacks only [`Handler::restore`] can wait: it reads the state as that arrives.
    pub fn dispatch(&mut self) -> Result<Option<(Group, Driver)>, Error> {
        let begin = Instant::now();
        self.calls.disarm();
        while let Some(call) = self.calls.next() {
            match call {
                Call::Joined(joined) => return self.finish(joined).map(Some),
                other => self.call(other)?,
            }
            if begin.elapsed() >= DISPATCH_TIME {
                self.calls.ring();
                break;
            }
        }
        Ok(None)
    }

    fn call(&mut self, call: Call) -> Result<(), Error> {
        let Some(handler) = &mut self.handler else { return Err(Error::Left) };
        catch_unwind(AssertUnwindSafe(|| call.make(&mut **handler))).map_err(|panic| {
            // The thread must not wait for any further callback.
            drop(self.calls.close());
            self.starting.cancel();
            Error::CallbackPanicked(text_of(&*panic))
        })
    }

    fn finish(&mut self, joined: Result<(Arc<Shared>, Box<Driver>), Error>) -> Result<(Group, Driver), Error> {
        let (shared, mut driver) = joined?;
        let (Some(handler), Some(epoll)) = (self.handler.take(), self.epoll.take()) else { return Err(Error::Left) };
        // A descriptor that was added before can always be removed.
        let _ = epoll.delete(self.calls.event());
        driver.replace_handler(handler);
        driver.adopt(epoll)?;
        // The join leaves the driver awake, so no event would make the descriptor readable before the first dispatch.
        shared.ring();
        Ok((Group::new(shared, None), *driver))
    }

    /// Cancels the join: see [`Canceller::cancel`]. [`Joining::dispatch`] then returns [`Error::Left`], once the thread
    /// has ended the join.
    pub fn cancel(&self) {
        self.starting.cancel();
    }

    /// Returns a value that cancels this join, as long as [`Joining::dispatch`] has not returned the group.
    pub fn canceller(&self) -> Canceller {
        self.starting.canceller()
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if self.starting.canceller.life.is_over() {
            return;
        }
        // The thread may wait for a callback, which would never come.
        for call in self.calls.close() {
            if let Call::Joined(Ok((_, driver))) = call {
                // Its callbacks go nowhere any more.
                let _ = driver.leave(CANCEL_TIME);
            }
        }
    }
}

/// Returns the driver of a process that has joined, unless the join was cancelled: then the process leaves.
fn not_cancelled(canceller: &Canceller, driver: Driver) -> Option<Driver> {
    if canceller.note_joined() {
        return Some(driver);
    }
    let _ = driver.leave(canceller.cancel.timeout());
    None
}
