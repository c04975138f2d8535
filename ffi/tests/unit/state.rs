//! Tests of snapshot, restore and the other callbacks from the engine's side, with callback functions as a C program
//! would write them.

use crate::callbacks::{Callbacks, galerna_callbacks_t, in_callback};
use crate::message::galerna_message_t;
use crate::reader::{galerna_reader_read, galerna_reader_t};
use crate::result::galerna_result_t::*;
use crate::snapshot::galerna_snapshot_t;
use crate::view::galerna_view_t;
use engine::{Delivery, Error, Handler, MemberId, Mode, SubgroupId, View};
use std::ffi::{c_char, c_int, c_void};
use std::io::{Cursor, Read};

/// The settings of the functions below, and a record of the calls that they received.
#[derive(Default)]
struct App {
    state: Vec<u8>,
    position: usize,
    snapshot_code: c_int,
    /// Returned by `read` instead of a length.
    read_code: Option<isize>,
    no_read: bool,
    freed: usize,
    restore_code: c_int,
    restored: Vec<u8>,
    reader: Option<*mut galerna_reader_t>,
    read_error: bool,
    views: Vec<(u64, Vec<u32>)>,
    stopped: bool,
    /// The received calls in order: the sequence number of a message, the limit of `durable`, the number of a view, or
    /// the member of a warning.
    heard: Vec<(&'static str, u64)>,
}

/// Safety: the context of these tests is an `App`, and one call runs at a time.
unsafe fn app<'a>(context: *mut c_void) -> &'a mut App {
    assert!(in_callback());
    // SAFETY: the caller guarantees it.
    unsafe { &mut *context.cast() }
}

unsafe extern "C-unwind" fn deliver(context: *mut c_void, message: *const galerna_message_t) {
    // SAFETY: the engine passes the context and a valid message.
    unsafe { app(context).heard.push(("message", (*message).sequence)) };
}

unsafe extern "C-unwind" fn durable(context: *mut c_void, below: u64) {
    // SAFETY: the engine passes the context.
    unsafe { app(context).heard.push(("durable", below)) };
}

unsafe extern "C-unwind" fn warned(context: *mut c_void, member: u32, text: *const c_char) {
    // SAFETY: the engine passes the context and a string.
    unsafe {
        assert_eq!(std::ffi::CStr::from_ptr(text), c"its clock is wrong");
        app(context).heard.push(("warned", u64::from(member)));
    }
}

unsafe extern "C-unwind" fn view(context: *mut c_void, view: *const galerna_view_t) {
    // SAFETY: the engine passes the context and a valid view.
    unsafe {
        let members = std::slice::from_raw_parts((*view).members, (*view).member_count);
        app(context).views.push(((*view).number, members.to_vec()));
        app(context).heard.push(("view", (*view).number));
    }
}

unsafe extern "C-unwind" fn stopped(context: *mut c_void, _: crate::result::galerna_result_t, _: *const c_char) {
    // SAFETY: the engine passes the context.
    unsafe { app(context).stopped = true };
}

unsafe extern "C-unwind" fn snapshot(context: *mut c_void, out: *mut galerna_snapshot_t) -> c_int {
    // SAFETY: the engine passes the context and a snapshot to fill in.
    let (app, out) = unsafe { (app(context), &mut *out) };
    assert_eq!(out.size, size_of::<galerna_snapshot_t>());
    out.context = context;
    out.free = Some(free);
    if !app.no_read {
        out.read = Some(read);
    }
    app.snapshot_code
}

unsafe extern "C-unwind" fn read(context: *mut c_void, buffer: *mut c_void, length: usize) -> isize {
    // SAFETY: the engine passes the snapshot's context.
    let app = unsafe { app(context) };
    if let Some(code) = app.read_code {
        return code;
    }
    let rest = &app.state[app.position..];
    // A short read does not mean the end of the state.
    let some = rest.len().min(length).min(7);
    // SAFETY: `buffer` has `length` bytes.
    unsafe { buffer.cast::<u8>().copy_from(rest.as_ptr(), some) };
    app.position += some;
    some as isize
}

unsafe extern "C-unwind" fn free(context: *mut c_void) {
    // SAFETY: the engine passes the snapshot's context.
    unsafe { app(context).freed += 1 };
}

unsafe extern "C-unwind" fn restore(context: *mut c_void, reader: *mut galerna_reader_t) -> c_int {
    // SAFETY: the engine passes the context.
    let app = unsafe { app(context) };
    app.restored.clear();
    app.reader = Some(reader);
    let (mut bytes, mut got) = ([0u8; 10], 0);
    loop {
        // SAFETY: both places are variables of this function.
        let result = unsafe { galerna_reader_read(reader, bytes.as_mut_ptr().cast(), bytes.len(), &raw mut got) };
        if result != GALERNA_OK {
            assert_eq!((result, got), (GALERNA_ERR_IO, 0));
            app.read_error = true;
            break;
        }
        app.restored.extend(&bytes[..got]);
        if got < bytes.len() {
            break;
        }
    }
    app.restore_code
}

fn functions(app: &mut App) -> galerna_callbacks_t {
    galerna_callbacks_t {
        size: size_of::<galerna_callbacks_t>(),
        deliver: Some(deliver),
        stopped: Some(stopped),
        context: (&raw mut *app).cast(),
        view: Some(view),
        snapshot: Some(snapshot),
        restore: Some(restore),
        durable: Some(durable),
        warned: Some(warned),
        joined: None,
        left: None,
    }
}

/// Makes a handler after the end of its join.
fn handler(app: &mut App) -> Callbacks {
    Callbacks::new(functions(app), MemberId(1)).unwrap().0
}

/// Returns the state that the engine would send to a joining member.
fn sent(app: &mut App) -> std::io::Result<Vec<u8>> {
    let mut state = handler(app).snapshot()?;
    // Read in another thread, as the engine does.
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes).map(|_| bytes)
    });
    reading.join().unwrap()
}

#[test]
fn a_state_goes_out_and_comes_in() {
    for length in [0, 1, 9, 10, 11, 20, 1000] {
        let mut giver = App { state: (0..length).map(|i| i as u8).collect(), ..App::default() };
        let bytes = sent(&mut giver).unwrap();
        assert_eq!((&bytes, giver.freed), (&giver.state, 1));
        let mut taker = App::default();
        handler(&mut taker).restore(&mut Cursor::new(bytes)).unwrap();
        assert_eq!(taker.restored, giver.state);
    }
}

#[test]
fn a_snapshot_that_is_refused_is_not_freed() {
    let mut app = App { snapshot_code: 42, ..App::default() };
    let error = sent(&mut app).unwrap_err().to_string();
    assert!(error.contains("42"), "{error}");
    assert_eq!(app.freed, 0);
}

#[test]
fn a_snapshot_that_cannot_be_read_is_an_error_and_freed() {
    for (code, text) in [(-3, "-3"), (1 << 40, "1099511627776"), (isize::MIN, "-9223372036854775808")] {
        let mut app = App { read_code: Some(code), ..App::default() };
        let error = sent(&mut app).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert_eq!(app.freed, 1);
    }
    let mut app = App { no_read: true, ..App::default() };
    assert!(sent(&mut app).unwrap_err().to_string().contains("`read` of the application's snapshot is NULL"));
    assert_eq!(app.freed, 1);
}

#[test]
fn a_snapshot_that_nobody_reads_is_freed() {
    let mut app = App { state: vec![1; 100], ..App::default() };
    drop(handler(&mut app).snapshot().unwrap());
    assert_eq!(app.freed, 1);
}

#[test]
fn a_state_that_is_refused_is_an_error() {
    let mut app = App { restore_code: 7, ..App::default() };
    let error = handler(&mut app).restore(&mut std::io::empty()).unwrap_err().to_string();
    assert!(error.contains("7"), "{error}");
}

/// The state breaks off, as when the member that sends it dies during the transfer. Then it is sent again from the
/// start.
#[test]
fn a_state_that_breaks_off_is_an_error_whatever_the_application_says() {
    struct BreaksOff;
    impl Read for BreaksOff {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("its sender is gone"))
        }
    }
    let mut app = App::default();
    let mut handler = handler(&mut app);
    let error = handler.restore(&mut Cursor::new(vec![5; 25]).chain(BreaksOff)).unwrap_err().to_string();
    assert!(error.contains("its sender is gone"), "{error}");
    handler.restore(&mut Cursor::new(vec![6; 25])).unwrap();
    drop(handler);
    assert!(app.read_error);
    assert_eq!(app.restored, [6; 25]);
}

#[test]
fn a_reader_is_none_after_its_callback() {
    let mut app = App::default();
    handler(&mut app).restore(&mut std::io::empty()).unwrap();
    let (mut byte, mut got) = (0u8, 9);
    // SAFETY: both places are variables of this function.
    let result = unsafe { galerna_reader_read(app.reader.unwrap(), (&raw mut byte).cast(), 1, &raw mut got) };
    assert_eq!((result, got), (GALERNA_ERR_HANDLE, 0));
}

#[test]
fn without_functions_there_is_no_state() {
    let mut app = App::default();
    let callbacks = galerna_callbacks_t { snapshot: None, restore: None, ..functions(&mut app) };
    let (mut handler, _joining) = Callbacks::new(callbacks, MemberId(1)).unwrap();
    let mut bytes = Vec::new();
    handler.snapshot().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, []);
    handler.restore(&mut std::io::empty()).unwrap();
    assert!(handler.restore(&mut Cursor::new([1])).is_err());
}

/// The engine reports views before the join has returned. The application is notified of them once it has its handle. A
/// failed join is reported by the join's result and not by `stopped`.
#[test]
fn what_comes_inside_the_join_waits_or_is_left_out() {
    let mut app = App::default();
    let (mut handler, joining) = Callbacks::new(functions(&mut app), MemberId(1)).unwrap();
    let told =
        |number, ids: &[u32]| View { number, members: ids.iter().map(|&id| MemberId(id)).collect(), ..View::default() };
    handler.stopped(&Error::Left);
    handler.view(&told(0, &[1, 2, 3]));
    handler.view(&told(1, &[1, 3]));
    assert!(app.views.is_empty());
    joining.tell();
    assert_eq!(app.views, [(0, vec![1, 2, 3]), (1, vec![1, 3])]);
    // A callback from another thread waits until the join is over.
    let waiting = std::thread::spawn(move || {
        handler.view(&told(2, &[1]));
        handler
    });
    drop(joining);
    let mut handler = waiting.join().unwrap();
    assert_eq!(app.views.len(), 3);
    assert!(!app.stopped);
    handler.stopped(&Error::Left);
    assert!(app.stopped);
}

/// Messages from the log are delivered at once and from another thread, because the join cannot end before. Callbacks
/// of the first view wait until the join ends.
#[test]
fn what_the_log_holds_comes_before_the_first_view() {
    let mut app = App::default();
    let (mut handler, joining) = Callbacks::new(functions(&mut app), MemberId(1)).unwrap();
    let message = |sequence, view| Delivery {
        subgroup: SubgroupId(0),
        view,
        sender: MemberId(1),
        sequence,
        mode: Mode::Durable,
        ticket: None,
        time_ns: 9,
        payload: &[1],
    };
    let replay = std::thread::spawn(move || {
        handler.deliver(message(4, 0));
        handler.deliver(message(5, 0));
        handler
    });
    let mut handler = replay.join().unwrap();
    assert_eq!(app.heard, [("message", 4), ("message", 5)]);
    handler.view(&View { number: 1, members: vec![MemberId(1)], ..View::default() });
    handler.deliver(message(6, 1));
    handler.durable(7);
    handler.warned(MemberId(3), "its clock is wrong");
    assert!(handler.snapshot().is_err());
    assert_eq!(app.heard.len(), 2);
    joining.tell();
    drop(joining);
    assert_eq!(app.heard[2..], [("view", 1), ("message", 6), ("durable", 7), ("warned", 3)]);
    handler.deliver(message(8, 1));
    assert_eq!(app.heard.last(), Some(&("message", 8)));
}
