//! `galerna_callbacks_t`: the application's callbacks, and the calls that are allowed inside a callback.

use crate::border;
use crate::failure::{Failure, code_of};
use crate::message::galerna_message_t;
use crate::reader::{self, galerna_reader_t};
use crate::result::galerna_result_t;
use crate::snapshot::{State, galerna_snapshot_t};
use crate::thrown::{self, Thrown};
use crate::view::{Lists, galerna_view_t};
use engine::{Delivery, Error, Handler, Kept, MemberId, View};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::io::Read;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::ThreadId;

/// The callbacks of an application. Two of them transfer its state to joining members.
///
/// Threads: the callbacks of a group run one at a time. With GALERNA_DRIVE_THREAD they run in a thread of the library.
/// With GALERNA_DRIVE_DISPATCH they run inside galerna_group_dispatch() and inside calls that wait. With either,
/// `restore` and the first `view` run inside galerna_group_join(). When a member of a group with a log is started
/// again, `deliver` also runs inside galerna_group_join(), before the first view and in a thread of the library: it
/// receives the messages of the log that the checkpoint does not cover.
///
/// Time: the group makes no progress while a callback runs. A callback that lasts longer than `failure_timeout_ms`
/// makes this process look dead to the other members.
///
/// Exceptions: a callback must return. A C++ exception that leaves a callback stops the group with GALERNA_ERR_CALLBACK
/// (on x86-64 and AArch64; on other architectures it ends the process). A callback that is left by longjmp(), by
/// pthread_exit() or by the cancellation of its thread leaves the library in an undefined state. An exception that leaves
/// `joined` or `left` is dropped.
///
/// Signals and stack: the library's threads block all signals except those of a fault (SIGSEGV, SIGBUS, SIGFPE, SIGILL,
/// SIGTRAP, SIGSYS). The size of their stacks is the configuration key `stack_bytes`.
///
/// Calls inside a callback, of any group, never wait. galerna_group_send(), galerna_group_reserve() and
/// galerna_log_append() act as if their timeout were 0. The following return GALERNA_ERR_MISUSE: galerna_group_join(),
/// galerna_group_dispatch(), galerna_group_wait(), galerna_group_flush(), galerna_group_wait_durable(), galerna_group_wait_closed(),
/// galerna_group_persist(), galerna_group_checkpoint(), galerna_group_trim_log(), galerna_group_leave(),
/// galerna_group_free(), and the calls of a log that wait for its disk. All other calls work as usual:
/// galerna_group_leave_start() is the way to leave from a callback.
///
/// State: an application with state sets both `snapshot` and `restore`. An application that sets neither has no state:
/// its joining members begin with the messages that follow. In a group with a log both callbacks also serve
/// checkpoints: galerna_group_checkpoint() stores the state from `snapshot`, and `restore` receives it when the process
/// is started again.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_callbacks_t {
    /// Set it to sizeof(galerna_callbacks_t).
    pub size: usize,
    /// Delivers a message, in the order of the subgroup. `message` is valid until the callback returns. Must not be
    /// NULL.
    pub deliver: Option<unsafe extern "C-unwind" fn(context: *mut c_void, message: *const galerna_message_t)>,
    /// Called when the group has stopped. `code` and `text` give the reason. Nothing more is delivered.
    ///
    /// Called at most once, and not for a leave of this process. `text` is valid until the callback returns. May be
    /// NULL.
    pub stopped: Option<unsafe extern "C-unwind" fn(context: *mut c_void, code: galerna_result_t, text: *const c_char)>,
    /// Passed to the callbacks. They may use it in any thread until the group is freed.
    pub context: *mut c_void,
    /// Called when a view begins: after the last message of the previous view, before the first message of the new one.
    ///
    /// Every member is called between the same two messages. A joining process gets its first view after `restore`. The
    /// restored state may already contain messages of that view; they are not delivered again. `view` is valid until
    /// the callback returns. May be NULL.
    pub view: Option<unsafe extern "C-unwind" fn(context: *mut c_void, view: *const galerna_view_t)>,
    /// Called when a process joins: fill in `snapshot` with functions that read the present state.
    ///
    /// The state must include every message delivered so far. It is read later and in another thread, so it must not
    /// change with the messages that follow. The callback must be short: provide a copy, or something that shares
    /// immutable data.
    ///
    /// Return 0 on success. Return any other number to refuse: then the snapshot's `free` is not called. A refusal is
    /// final for this member. The joining process asks another member, and galerna_group_fault() of this member's own
    /// id reports the reason. NULL if and only if `restore` is NULL.
    pub snapshot: Option<unsafe extern "C-unwind" fn(context: *mut c_void, snapshot: *mut galerna_snapshot_t) -> c_int>,
    /// Called when this process joins: replace the own state by another member's state, using galerna_reader_read().
    ///
    /// It runs before any message is delivered and before galerna_group_join() has a handle. It may take as long as the
    /// join. Return 0 on success. Return any other number on failure: then the join fails, unless a read had failed
    /// before. If the member that sends the state dies during the transfer, the callback is called again from the
    /// start; discard everything that an earlier call read. NULL if and only if `snapshot` is NULL.
    pub restore: Option<unsafe extern "C-unwind" fn(context: *mut c_void, reader: *mut galerna_reader_t) -> c_int>,
    /// Called in a group with a log when all messages with numbers below `below` have become durable.
    ///
    /// Durable means: on the disks of all voters, or of as many as `log.durable_members` specifies. It is called after
    /// the delivery of the messages that became deliverable by this. May be NULL.
    pub durable: Option<unsafe extern "C-unwind" fn(context: *mut c_void, below: u64)>,
    /// Called in a group with a log when an operator should check the clock of member `member`'s host.
    ///
    /// That host's clock differs from the other members' clocks by more than `log.clock_skew_max_ms`. `member` may be
    /// this process. The group continues. `text` describes the problem and the remedy, and is valid until the callback
    /// returns. The warning is repeated after ten minutes if the problem persists. May be NULL.
    pub warned: Option<unsafe extern "C-unwind" fn(context: *mut c_void, member: u32, text: *const c_char)>,
    /// Called once when a join that galerna_group_join_start() has begun is over.
    ///
    /// `result` is GALERNA_OK, or the error that galerna_group_join() would have returned; after a cancellation it is
    /// GALERNA_ERR_LEFT. For an error galerna_last_error() returns the text during the callback. If the handle is freed
    /// before the join is over, the callback runs in galerna_group_free(). May be NULL.
    pub joined: Option<unsafe extern "C-unwind" fn(context: *mut c_void, result: galerna_result_t)>,
    /// Called once when a leave that galerna_group_leave_start() has begun is over.
    ///
    /// `result` is GALERNA_OK, or the error that galerna_group_leave() would have returned. For an error
    /// galerna_last_error() returns the text during the callback. No callback follows. May be NULL.
    pub left: Option<unsafe extern "C-unwind" fn(context: *mut c_void, result: galerna_result_t)>,
}

border::versioned_struct!(galerna_callbacks_t, min: view, last: left);

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a callback, see `galerna_callbacks_t`.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Fails inside a callback. For calls that are not allowed there.
pub(crate) fn not_in_callback() -> Result<(), Failure> {
    match in_callback() {
        true => Err(Error::Misuse("this call cannot be made inside a callback").into()),
        false => Ok(()),
    }
}

/// Runs a function of the application. During it, this thread counts as being inside a callback.
pub(crate) fn as_callback<R>(function: impl FnOnce() -> R) -> Result<R, Thrown> {
    let before = IN_CALLBACK.replace(true);
    let result = thrown::catch(function);
    IN_CALLBACK.set(before);
    result
}

/// Runs a callback; an exception stops the group. The exception is turned into a panic, which the engine handles.
fn or_stop<R>(name: &str, function: impl FnOnce() -> R) -> R {
    match as_callback(function) {
        Ok(result) => result,
        Err(Thrown) => resume_unwind(Box::new(format!("the `{name}` callback threw an exception"))),
    }
}

/// The application's functions, checked, and the member that they belong to.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    deliver: unsafe extern "C-unwind" fn(*mut c_void, *const galerna_message_t),
    others: galerna_callbacks_t,
    me: MemberId,
}

// SAFETY: the documentation requires a context that may be used in any thread.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

impl Functions {
    pub(crate) fn new(callbacks: galerna_callbacks_t, me: MemberId) -> Result<Functions, Failure> {
        let deliver = callbacks.deliver.ok_or(Failure::Argument("callbacks.deliver", "is NULL"))?;
        // An application with only `restore` would send out an empty state, and the members' states would diverge.
        match (callbacks.snapshot, callbacks.restore) {
            (Some(_), None) => Err(Failure::Argument("callbacks.restore", "is NULL, but `snapshot` is not")),
            (None, Some(_)) => Err(Failure::Argument("callbacks.snapshot", "is NULL, but `restore` is not")),
            _ => Ok(Functions { deliver, others: callbacks, me }),
        }
    }

    fn deliver(&self, delivery: Delivery<'_>) {
        let message = galerna_message_t::from(delivery);
        // SAFETY: the function and its context belong to the application, which passed both in the struct.
        or_stop("deliver", || unsafe { (self.deliver)(self.others.context, &raw const message) });
    }

    /// Tells the application that its join is over.
    pub(crate) fn joined(&self, result: Result<(), &Error>) {
        self.tell_result(self.others.joined, result);
    }

    /// Tells the application that its leave is over.
    pub(crate) fn left(&self, result: Result<(), &Error>) {
        self.tell_result(self.others.left, result);
    }

    /// Calls a function with a result. There is nothing left that an exception could stop, so it is dropped.
    fn tell_result(
        &self,
        function: Option<unsafe extern "C-unwind" fn(*mut c_void, galerna_result_t)>,
        result: Result<(), &Error>,
    ) {
        let Some(function) = function else { return };
        let result = border::call(|| result.map_err(|error| error.clone().into()));
        // SAFETY: the function and its context belong to the application, which passed both in the struct.
        let _ = as_callback(|| unsafe { function(self.others.context, result) });
    }

    fn durable(&self, below: u64) {
        if let Some(function) = self.others.durable {
            // SAFETY: as in `deliver`.
            or_stop("durable", || unsafe { function(self.others.context, below) });
        }
    }

    fn warned(&self, member: MemberId, what: &str) {
        if let Some(function) = self.others.warned {
            let text = border::c_string(&what);
            // SAFETY: as in `deliver`.
            or_stop("warned", || unsafe { function(self.others.context, member.0, text.as_ptr()) });
        }
    }

    fn view(&self, view: &View) {
        if let Some(function) = self.others.view {
            let lists = Lists::of(view);
            let view = galerna_view_t::new(view, &lists, self.me);
            // SAFETY: as in `deliver`.
            or_stop("view", || unsafe { function(self.others.context, &raw const view) });
        }
    }
}

/// A callback that the engine made before the application had its handle, kept for later.
enum Early {
    View(View),
    Message(Kept),
    Durable(u64),
    Warned(MemberId, String),
}

/// The end of the callbacks that `galerna_group_join` holds. When it is dropped, the application has its handle, and
/// callbacks that wait for that continue.
pub(crate) struct Joining {
    functions: Functions,
    /// The callbacks that were kept during the join. Dropping `_open` closes the other end's `joined`.
    early: Receiver<Early>,
    _open: Sender<()>,
}

impl Joining {
    /// Makes the callbacks that were kept during the join, from the first view on.
    pub(crate) fn tell(&self) {
        for early in self.early.try_iter() {
            match early {
                Early::View(view) => self.functions.view(&view),
                Early::Message(kept) => self.functions.deliver(kept.delivery()),
                Early::Durable(below) => self.functions.durable(below),
                Early::Warned(member, what) => self.functions.warned(member, &what),
            }
        }
    }
}

/// The engine's handler that calls the C callbacks.
pub(crate) struct Callbacks {
    functions: Functions,
    /// The thread that joins, and the channel that keeps the callbacks during its join.
    joins_in: ThreadId,
    early: Sender<Early>,
    /// Whether a view has begun. Messages that are delivered earlier come from the log of a process that is started
    /// again.
    in_view: bool,
    /// This channel closes when [`Joining`] is dropped.
    joined: Option<Receiver<()>>,
    /// Of a join that has its handle from the beginning: whether the process has joined.
    runs: Option<Arc<AtomicBool>>,
}

// SAFETY: the documentation requires a context that may be used in any thread.
unsafe impl Send for Callbacks {}

impl Callbacks {
    /// Makes both ends for a join of member `me` by this thread.
    pub(crate) fn new(callbacks: galerna_callbacks_t, me: MemberId) -> Result<(Callbacks, Joining), Failure> {
        let functions = Functions::new(callbacks, me)?;
        let (open, joined) = mpsc::channel();
        let (sender, early) = mpsc::channel();
        let joins_in = std::thread::current().id();
        let callbacks =
            Callbacks { functions, joins_in, early: sender, in_view: false, joined: Some(joined), runs: None };
        Ok((callbacks, Joining { functions, early, _open: open }))
    }

    /// Callbacks for a join that has its handle from the beginning: nothing waits for it. `runs` becomes true when the
    /// process has joined.
    pub(crate) fn started(functions: Functions, runs: Arc<AtomicBool>) -> Callbacks {
        let (early, _) = mpsc::channel();
        let joins_in = std::thread::current().id();
        Callbacks { functions, joins_in, early, in_view: false, joined: None, runs: Some(runs) }
    }

    pub(crate) fn functions(&self) -> Functions {
        self.functions
    }

    /// Whether the engine calls from inside its join. The application has no handle then, and waiting for it would
    /// deadlock.
    fn in_join(&self) -> bool {
        let open = |joined: &Receiver<()>| joined.try_recv() == Err(TryRecvError::Empty);
        self.joined.as_ref().is_some_and(open) && self.joins_in == std::thread::current().id()
    }

    /// Waits until the application has its handle, because callbacks may use it. Does not wait inside the join, where
    /// the wait would never end.
    fn wait_for_handle(&mut self) {
        if self.joined.is_some()
            && !self.in_join()
            && let Some(joined) = self.joined.take()
        {
            // Nothing is ever sent on this channel: `recv` returns when the other end is dropped.
            let _ = joined.recv();
        }
    }

    /// Calls C once the application has its handle: now, or at the end of the join that is in progress in this thread.
    fn tell(&mut self, now: impl FnOnce(&Functions), later: impl FnOnce() -> Early) {
        if self.in_join() {
            // The other end exists, because the join has not returned.
            let _ = self.early.send(later());
            return;
        }
        self.wait_for_handle();
        now(&self.functions);
    }
}

impl Handler for Callbacks {
    fn deliver(&mut self, delivery: Delivery<'_>) {
        if !self.in_view {
            // The callback cannot be kept for later: the join can end only after it.
            self.functions.deliver(delivery);
            return;
        }
        self.tell(|functions| functions.deliver(delivery), || Early::Message((&delivery).into()));
    }

    fn view(&mut self, view: &View) {
        self.in_view = true;
        self.tell(|functions| functions.view(view), || Early::View(view.clone()));
    }

    fn durable(&mut self, below: u64) {
        self.tell(|functions| functions.durable(below), || Early::Durable(below));
    }

    fn warned(&mut self, member: MemberId, what: &str) {
        self.tell(|functions| functions.warned(member, what), || Early::Warned(member, what.to_owned()));
    }

    fn stopped(&mut self, reason: &Error) {
        // If the join fails, galerna_group_join() itself returns the reason, or `joined` receives it.
        if self.in_join() || self.runs.as_ref().is_some_and(|runs| !runs.load(Ordering::Relaxed)) {
            return;
        }
        self.wait_for_handle();
        let galerna_callbacks_t { stopped, context, .. } = self.functions.others;
        if let Some(stopped) = stopped {
            let text = border::c_string(reason);
            // SAFETY: as in `deliver`.
            or_stop("stopped", || unsafe { stopped(context, code_of(reason), text.as_ptr()) });
        }
    }

    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        let galerna_callbacks_t { snapshot, context, .. } = self.functions.others;
        let Some(snapshot) = snapshot else { return stateless().snapshot() };
        if self.in_join() {
            // The application has not received all callbacks yet, so its state would be incomplete.
            let later = std::io::ErrorKind::WouldBlock;
            return Err(std::io::Error::new(later, "this process has not joined yet"));
        }
        self.wait_for_handle();
        let mut filled = galerna_snapshot_t::EMPTY;
        // SAFETY: as in `deliver`.
        match or_stop("snapshot", || unsafe { snapshot(context, &raw mut filled) }) {
            0 => Ok(Box::new(State::new(filled))),
            code => Err(std::io::Error::other(format!("the application's `snapshot` callback returned {code}"))),
        }
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        let galerna_callbacks_t { restore, context, .. } = self.functions.others;
        let Some(restore) = restore else { return stateless().restore(state) };
        // Cannot be kept for after the join: the join can end only after the restore.
        // SAFETY: as in `deliver`.
        let call = |reader| as_callback(|| unsafe { restore(context, reader) });
        let mut thrown = false;
        let restored = reader::lend(state, |reader| {
            call(reader).unwrap_or_else(|Thrown| {
                thrown = true;
                -1
            })
        });
        match thrown {
            true => Err(std::io::Error::other("the application's `restore` callback threw an exception")),
            false => restored,
        }
    }
}

/// The handler of an application without state.
fn stateless() -> impl Handler {
    |_: Delivery<'_>| {}
}
