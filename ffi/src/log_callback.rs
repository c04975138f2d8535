//! `galerna_set_log_callback`: passes the engine's diagnostics, which are `tracing` events, to a function of the
//! application.
//!
//! The engine may emit an event while it holds a lock. So the function must not call the library: [`not_inside`] makes
//! every call fail there. A mutex is held only to take a reference to the function, never while the function runs.

use crate::border;
use crate::callbacks::{as_callback, not_in_callback};
use crate::failure::Failure;
use crate::handle::lock_briefly;
use crate::result::galerna_result_t;
use engine::Error;
use engine::process::Life;
use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};

/// The level of a log line. A lower number is more important.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_log_level_t {
    /// Something failed, and an operator should act.
    GALERNA_LOG_LEVEL_ERROR = 1,
    /// Something is wrong or unusual, and the library continues.
    GALERNA_LOG_LEVEL_WARN = 2,
    /// A rare event of normal operation.
    GALERNA_LOG_LEVEL_INFO = 3,
    /// A detail that helps to find a problem.
    GALERNA_LOG_LEVEL_DEBUG = 4,
    /// Every detail.
    GALERNA_LOG_LEVEL_TRACE = 5,
}

/// A `galerna_log_level_t` as C passes it: any number.
pub type RawLogLevel = i32;

/// A function that receives the library's log lines. See galerna_set_log_callback().
///
/// - `context`: the pointer that was given to galerna_set_log_callback().
/// - `level`: the level of the line.
/// - `target`: the part of the library that wrote the line, for example "galerna::driver". Valid during the call.
/// - `text`: one line without a newline at its end: a sentence, followed by ` name=value` for each field. Valid during
///   the call.
pub type galerna_log_callback_t = Option<
    unsafe extern "C-unwind" fn(
        context: *mut c_void,
        level: galerna_log_level_t,
        target: *const c_char,
        text: *const c_char,
    ),
>;

/// Sets the function that receives the library's log lines. Without it the library logs nothing.
///
/// - `level`: a galerna_log_level_t. Only lines of this level and of the more important ones are passed on.
/// - `function`: the function, or NULL to remove the present one. `level` and `context` are ignored then.
/// - `context`: passed to the function. It must be usable in any thread until the function is replaced or removed.
///
/// The setting is one for the whole process. When the call returns, the function that was set before is not running and
/// will not be called again. A child made by fork() inherits the setting.
///
/// The function may be called in any thread of the library and in any thread that calls the library, also in several
/// threads at once, and while the library holds locks. It must return soon, because a group makes no progress
/// meanwhile. Inside it only galerna_last_error(), galerna_strerror(), galerna_result_name(), galerna_mode_name() and
/// galerna_version() may be called. Every other call returns GALERNA_ERR_MISUSE, and the calls without a result have no
/// effect. If the function throws a C++ exception, the exception is dropped (on x86-64 and AArch64; on other
/// architectures it ends the process).
///
/// May be called from any thread, but not inside a callback, and not while holding a lock that the function waits for.
///
/// Errors: GALERNA_ERR_ARGUMENT (`level` is no galerna_log_level_t), GALERNA_ERR_MISUSE (inside a callback, or the
/// process has set a global `tracing` subscriber of its own, as a Rust program can that links the library statically).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_set_log_callback(
    level: RawLogLevel,
    function: galerna_log_callback_t,
    context: *mut c_void,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        match function {
            Some(function) => {
                if !(1..=5).contains(&level) {
                    return Err(Failure::Argument("level", "is not a galerna_log_level_t"));
                }
                replace(Some(Sink { function, context, level, life: Life::present() }))
            }
            None => replace(None),
        }
    })
}

thread_local! {
    /// Whether this thread is inside the log callback.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Fails inside the log callback.
pub(crate) fn not_inside() -> Result<(), Failure> {
    // The destructors of an ending thread may call the library. They are not in a callback.
    match INSIDE.try_with(Cell::get).unwrap_or(false) {
        true => Err(Error::Misuse("this call cannot be made inside the log callback").into()),
        false => Ok(()),
    }
}

/// The application's function.
struct Sink {
    function: unsafe extern "C-unwind" fn(*mut c_void, galerna_log_level_t, *const c_char, *const c_char),
    context: *mut c_void,
    level: i32,
    /// The life of the process that set it.
    life: Life,
}

// SAFETY: the documentation requires a function and a context that may be used in any thread, also in several at once.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

struct Present {
    sink: Option<Arc<Sink>>,
    /// Whether [`Lines`] is the process's `tracing` subscriber.
    subscribed: bool,
}

static PRESENT: Mutex<Present> = Mutex::new(Present { sink: None, subscribed: false });

/// The level of the present sink, or 0 without one. A copy, so that other lines are dropped without a lock.
static LEVEL: AtomicI32 = AtomicI32::new(0);

/// How long to sleep between two looks at whether the former function still runs.
const PAUSE: Duration = Duration::from_millis(1);

fn replace(sink: Option<Sink>) -> Result<(), Failure> {
    let mut present = lock_briefly(&PRESENT).ok_or(Error::Forked)?;
    if sink.is_some() && !present.subscribed {
        set_global_default(Lines).map_err(|_| {
            Error::Misuse("this process has a global `tracing` subscriber: it receives the library's events already")
        })?;
        present.subscribed = true;
    }
    LEVEL.store(sink.as_ref().map_or(0, |sink| sink.level), Ordering::Relaxed);
    let former = std::mem::replace(&mut present.sink, sink.map(Arc::new));
    drop(present);
    // In a forked child, references of the parent's threads are never dropped, and their calls do not run here.
    if let Some(former) = former.filter(|former| !former.life.is_over()) {
        while Arc::strong_count(&former) > 1 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// The `tracing` subscriber of a process with a log callback.
struct Lines;

impl Subscriber for Lines {
    /// The level can change, so `tracing` must not remember the answer of [`Subscriber::enabled`].
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(metadata.level()) as i32 <= LEVEL.load(Ordering::Relaxed)
    }

    /// The engine has no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if not_inside().is_err() {
            return;
        }
        let level = number(event.metadata().level());
        let sink = lock_briefly(&PRESENT).and_then(|present| present.sink.clone());
        let Some(sink) = sink.filter(|sink| level as i32 <= sink.level) else { return };
        let mut line = Line::default();
        event.record(&mut line);
        let target = border::c_string(&event.metadata().target());
        let text = border::c_string(&line.finish());
        // In the destructors of an ending thread nothing can mark the thread as being inside.
        if INSIDE.try_with(|inside| inside.set(true)).is_err() {
            return;
        }
        // SAFETY: the function and its context belong to the application. The strings live until it returns. An
        // exception is dropped: nothing depends on a log line.
        let _ = as_callback(|| unsafe { (sink.function)(sink.context, level, target.as_ptr(), text.as_ptr()) });
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn number(level: &Level) -> galerna_log_level_t {
    match *level {
        Level::ERROR => galerna_log_level_t::GALERNA_LOG_LEVEL_ERROR,
        Level::WARN => galerna_log_level_t::GALERNA_LOG_LEVEL_WARN,
        Level::INFO => galerna_log_level_t::GALERNA_LOG_LEVEL_INFO,
        Level::DEBUG => galerna_log_level_t::GALERNA_LOG_LEVEL_DEBUG,
        Level::TRACE => galerna_log_level_t::GALERNA_LOG_LEVEL_TRACE,
    }
}

/// The text of an event: its message and its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    /// Returns one line. A line break inside a value becomes a space.
    fn finish(self) -> String {
        let line = self.message + &self.fields;
        line.trim().replace(['\n', '\r'], " ")
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
