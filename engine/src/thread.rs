//! Starts every thread of the library.
//!
//! A thread starts with all signals blocked, so that the application's own threads receive the application's signals.
//! An application that blocks signals and waits for them with `sigwait` is thus not ended through a thread of the
//! library. The fault signals (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS) stay unblocked: they go to the thread
//! that causes them, and the application's crash handler must receive them. If a thread cannot be started, the error
//! names the limits that may be the cause.

use crate::error::Error;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// The stack size, in bytes, of a thread that never calls the application.
pub(crate) const OWN_STACK_BYTES: usize = 512 << 10;

/// The signals that a thread causes by the instructions it executes.
const FAULTS: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGSYS];

/// Starts a thread. `purpose` ends the sentence "cannot start the thread that ...".
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    purpose: &str,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let builder = Builder::new().name(name.into()).stack_size(stack_bytes);
    started(purpose, || builder.spawn(body))
}

/// Like [`spawn`], for a thread that ends within `scope`.
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Into<String>,
    purpose: &str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Error> {
    let builder = Builder::new().name(name.into()).stack_size(OWN_STACK_BYTES);
    started(purpose, || builder.spawn_scoped(scope, body))
}

/// Runs `start` with all signals except faults blocked. The new thread inherits the mask, so it never runs with signals
/// open.
fn started<T>(purpose: &str, start: impl FnOnce() -> io::Result<T>) -> Result<T, Error> {
    let mut blocked = SigSet::all();
    FAULTS.into_iter().for_each(|signal| blocked.remove(signal));
    let mut before = SigSet::empty();
    let failed = |error: nix::Error| Error::io("cannot block signals for a new thread", error);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut before)).map_err(failed)?;
    let result = start();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(failed)?;
    result.map_err(|error| refused(purpose, error))
}

/// The error for a thread that could not be started. It lists the possible limits, since the system does not report
/// which one it was.
fn refused(purpose: &str, error: io::Error) -> Error {
    let what = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => format!(
            "cannot start the thread that {purpose}, because a limit of processes (RLIMIT_NPROC, here {}; `pids.max` of the control group) or of memory (RLIMIT_AS, here {}) is reached: raise it",
            limit(Resource::RLIMIT_NPROC),
            limit(Resource::RLIMIT_AS),
        ),
        _ => format!("cannot start the thread that {purpose}"),
    };
    Error::io(what, error)
}

fn limit(resource: Resource) -> String {
    match getrlimit(resource) {
        Ok((RLIM_INFINITY, _)) => "unlimited".to_owned(),
        Ok((soft, _)) => soft.to_string(),
        Err(error) => error.desc().to_owned(),
    }
}
