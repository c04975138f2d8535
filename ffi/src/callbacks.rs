//! `galerna_callbacks_t`: what the application hears, and what a thread may do while it listens.

use crate::border::{self, Versioned};
use crate::failure::{Failure, code_of};
use crate::message::galerna_message_t;
use crate::reader::{self, galerna_reader_t};
use crate::result::galerna_result_t;
use crate::snapshot::{State, galerna_snapshot_t};
use crate::thrown::{self, Thrown};
use crate::view::{Ids, galerna_view_t};
use engine::{Delivery, Error, Handler, MemberId, Mode, SubgroupId, View};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::io::Read;
use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::ThreadId;

/// What the application wants to hear, and how its state travels to a process that joins.
///
/// Callbacks of a group come one at a time: with GALERNA_DRIVE_THREAD in a thread of the library, with
/// GALERNA_DRIVE_DISPATCH inside galerna_dispatch() and inside the calls that wait; `restore` and the first `view` come
/// inside galerna_join(), with either. In a group with a log so does `deliver`, before the first view and in a thread of the
/// library: a process that is started again is told what the log holds and its checkpoint does not. While they run the
/// group does nothing else, and after `failure_timeout_ms` of it this process looks dead to the others.
///
/// Callbacks must return. A C++ exception that leaves one stops the group with GALERNA_ERR_CALLBACK (on x86-64 and AArch64;
/// elsewhere it ends the process). One that leaves by longjmp() or pthread_exit(), or by the cancellation of its thread,
/// leaves the library in an unknown state. The library's threads block all signals but those of a fault (SIGSEGV, SIGBUS,
/// SIGFPE, SIGILL, SIGTRAP, SIGSYS), and have a stack of `stack_bytes`, a key of the configuration.
///
/// Inside a callback, of whichever group, no call waits: galerna_send(), galerna_reserve() and galerna_log_append() act as
/// if their timeout were 0, and galerna_join(), galerna_dispatch(), galerna_flush(), galerna_wait_durable(),
/// galerna_wait_past(), galerna_persist(), galerna_checkpoint(), galerna_trim_log(), galerna_leave(), galerna_group_free()
/// and those of a log that wait for its disk return GALERNA_ERR_MISUSE. The other calls are as usual.
///
/// An application with state that is to take in joining members sets `snapshot` and `restore`. One that sets neither has
/// no state: its joining members begin with the messages that follow. In a group with a log both serve checkpoints as well:
/// `snapshot` is what galerna_checkpoint() keeps, and `restore` is given it when the process is started again.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_callbacks_t {
    /// Set it to sizeof(galerna_callbacks_t).
    pub size: usize,
    /// A message, in the order of the subgroup; `message` is valid until the callback returns. Must not be NULL.
    pub deliver: Option<unsafe extern "C-unwind" fn(context: *mut c_void, message: *const galerna_message_t)>,
    /// The group stopped, for the reason that `code` and `text` give; nothing more is delivered. Called at most once, and
    /// not because of this process's own leave. `text` is valid until the callback returns. May be NULL.
    pub stopped: Option<unsafe extern "C-unwind" fn(context: *mut c_void, code: galerna_result_t, text: *const c_char)>,
    /// Passed to the callbacks, which may use it in any thread until the group is freed.
    pub context: *mut c_void,
    /// A view begins: between the last message of the one before and the first of its own, the same two at every member.
    /// A process that joins is told its first view after `restore`: the state may hold messages of that view already, which do
    /// not come again. `view` is valid until the callback returns. May be NULL.
    pub view: Option<unsafe extern "C-unwind" fn(context: *mut c_void, view: *const galerna_view_t)>,
    /// A process joins: fill in how to read the state as of now, after everything that was delivered. It is read later, in
    /// another thread, so it must not change with the messages that follow; and this call must be short: hand out a copy,
    /// or something that shares what does not change. Return 0, or a number of the application's own to refuse, and then
    /// nothing is freed: that is final for this member, the process asks another one, and galerna_group_fault() of the own
    /// number says why. NULL together with `restore`.
    pub snapshot: Option<unsafe extern "C-unwind" fn(context: *mut c_void, snapshot: *mut galerna_snapshot_t) -> c_int>,
    /// This process joins: take another member's state in place of the own one, with galerna_reader_read(), before
    /// anything is delivered and before galerna_join() has a handle. Return 0, or a number of the application's own if
    /// it cannot: then the join fails, unless the reader had failed before. Called again, from the start, when the member that
    /// sends the state dies in the middle: what an earlier call took is void then. It may take as long as the join. NULL
    /// together with `snapshot`.
    pub restore: Option<unsafe extern "C-unwind" fn(context: *mut c_void, reader: *mut galerna_reader_t) -> c_int>,
    /// Only in a group with a log: everything numbered below `below` is durable now, on the disks of all voters or of as
    /// many as are configured. It comes after the messages that this lets through. May be NULL.
    pub durable: Option<unsafe extern "C-unwind" fn(context: *mut c_void, below: u64)>,
    /// An operator should see to something about member `member`, which may be this process: its host's clock is further from
    /// the others' than `log.clock_skew_max_ms`. The group goes on. `text` says what is wrong and what to do; it is valid until
    /// the callback returns. It comes again after ten minutes if that lasts. Only in a group with a log. May be NULL.
    pub warned: Option<unsafe extern "C-unwind" fn(context: *mut c_void, member: u32, text: *const c_char)>,
}

// SAFETY: `repr(C)`, the size first; a nullable function pointer, as any C caller fills it, is a valid `Option`.
unsafe impl Versioned for galerna_callbacks_t {
    const NAME: &'static str = "galerna_callbacks_t";
    const FORMER: &'static [usize] =
        &[std::mem::offset_of!(galerna_callbacks_t, durable), std::mem::offset_of!(galerna_callbacks_t, warned)];
}

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a callback: see `galerna_callbacks_t`.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// For calls that are not allowed inside a callback.
pub(crate) fn not_in_callback() -> Result<(), Failure> {
    match in_callback() {
        true => Err(Error::Misuse("this call cannot be made inside a callback").into()),
        false => Ok(()),
    }
}

/// Runs a function of the application, during which this thread counts as in a callback.
pub(crate) fn as_callback<R>(function: impl FnOnce() -> R) -> Result<R, Thrown> {
    let before = IN_CALLBACK.replace(true);
    let result = thrown::catch(function);
    IN_CALLBACK.set(before);
    result
}

/// The same, where an exception stops the group: the engine takes it for a panic.
fn or_stop<R>(name: &str, function: impl FnOnce() -> R) -> R {
    match as_callback(function) {
        Ok(result) => result,
        Err(Thrown) => resume_unwind(Box::new(format!("the `{name}` callback threw an exception"))),
    }
}

/// The application's functions, checked, and whose they are.
#[derive(Clone, Copy)]
struct Functions {
    deliver: unsafe extern "C-unwind" fn(*mut c_void, *const galerna_message_t),
    others: galerna_callbacks_t,
    me: MemberId,
}

impl Functions {
    fn new(callbacks: galerna_callbacks_t, me: MemberId) -> Result<Functions, Failure> {
        let deliver = callbacks.deliver.ok_or(Failure::Argument("callbacks.deliver", "is NULL"))?;
        // A state that only comes in would go out empty, and the members would differ from then on.
        match (callbacks.snapshot, callbacks.restore) {
            (Some(_), None) => Err(Failure::Argument("callbacks.restore", "is NULL, but `snapshot` is not")),
            (None, Some(_)) => Err(Failure::Argument("callbacks.snapshot", "is NULL, but `restore` is not")),
            _ => Ok(Functions { deliver, others: callbacks, me }),
        }
    }

    fn deliver(&self, delivery: Delivery<'_>) {
        let message = galerna_message_t::from(delivery);
        // SAFETY: the function and its context are the application's, which said so by the struct.
        or_stop("deliver", || unsafe { (self.deliver)(self.others.context, &raw const message) });
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
            let ids = Ids::of(view);
            let view = galerna_view_t::new(view, &ids, self.me);
            // SAFETY: the function and its context are the application's, which said so by the struct.
            or_stop("view", || unsafe { function(self.others.context, &raw const view) });
        }
    }
}

/// What the engine told of the group before the application had its handle.
enum Early {
    View(View),
    Message { subgroup: SubgroupId, view: u64, sender: MemberId, sequence: u64, mode: Mode, payload: Vec<u8> },
    Durable(u64),
    Warned(MemberId, String),
}

impl From<Delivery<'_>> for Early {
    fn from(delivery: Delivery<'_>) -> Early {
        let Delivery { subgroup, view, sender, sequence, mode, payload } = delivery;
        Early::Message { subgroup, view, sender, sequence, mode, payload: payload.to_vec() }
    }
}

/// `galerna_join`'s end of the callbacks: they wait until it is gone, when the application has its handle.
pub(crate) struct Joining {
    functions: Functions,
    /// What the engine told before it returned; also closes the other end's `joined`.
    early: Receiver<Early>,
    _open: Sender<()>,
}

impl Joining {
    /// Tells what came during the join, from the first view on.
    pub(crate) fn tell(&self) {
        for early in self.early.try_iter() {
            match early {
                Early::View(view) => self.functions.view(&view),
                Early::Message { subgroup, view, sender, sequence, mode, payload } => {
                    let payload = &payload;
                    self.functions.deliver(Delivery { subgroup, view, sender, sequence, mode, payload });
                }
                Early::Durable(below) => self.functions.durable(below),
                Early::Warned(member, what) => self.functions.warned(member, &what),
            }
        }
    }
}

/// The engine's handler that calls C.
pub(crate) struct Callbacks {
    functions: Functions,
    /// The thread that joins, and where it takes from what comes meanwhile.
    joins_in: ThreadId,
    early: Sender<Early>,
    /// A view has begun. What is delivered before is the log's, on its way into a process that is started again.
    in_view: bool,
    /// Closes when [`Joining`] goes.
    joined: Option<Receiver<()>>,
}

// SAFETY: the documentation asks for a context that may be used in any thread.
unsafe impl Send for Callbacks {}

impl Callbacks {
    /// For a join by this thread of member `me`.
    pub(crate) fn new(callbacks: galerna_callbacks_t, me: MemberId) -> Result<(Callbacks, Joining), Failure> {
        let functions = Functions::new(callbacks, me)?;
        let (open, joined) = mpsc::channel();
        let (sender, early) = mpsc::channel();
        let joins_in = std::thread::current().id();
        let callbacks = Callbacks { functions, joins_in, early: sender, in_view: false, joined: Some(joined) };
        Ok((callbacks, Joining { functions, early, _open: open }))
    }

    /// Whether the engine calls from inside its join: the application has no handle yet, and must not be waited for.
    fn in_join(&self) -> bool {
        let open = |joined: &Receiver<()>| joined.try_recv() == Err(TryRecvError::Empty);
        self.joined.as_ref().is_some_and(open) && self.joins_in == std::thread::current().id()
    }

    /// Waits until the application has its handle, which callbacks may use. Not inside the join, where it would be for ever.
    fn wait_for_handle(&mut self) {
        if self.joined.is_some()
            && !self.in_join()
            && let Some(joined) = self.joined.take()
        {
            // Nothing is ever sent: this returns when the other end is gone.
            let _ = joined.recv();
        }
    }

    /// Calls C as soon as the application has its handle: at once, or at the end of the join that this is inside of.
    fn tell(&mut self, now: impl FnOnce(&Functions), later: impl FnOnce() -> Early) {
        if self.in_join() {
            // The other end is there: the join has not returned.
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
            // It is needed before the join can end.
            self.functions.deliver(delivery);
            return;
        }
        self.tell(|functions| functions.deliver(delivery), || delivery.into());
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
        // A join that fails returns the reason.
        if self.in_join() {
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
            // The application has not heard yet what its state would have to include.
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
        // Not after the join: it may not end before this does.
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

/// What the engine takes an application without state for.
fn stateless() -> impl Handler {
    |_: Delivery<'_>| {}
}
