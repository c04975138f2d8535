//! `galerna_group_t`: a member of a group, from join to leave.

use crate::border::{self, Out};
use crate::callbacks::{Callbacks, Functions, galerna_callbacks_t, not_in_callback};
use crate::config::{self, galerna_config_t};
use crate::drive::{self, RawDrive, Turn, galerna_drive_t};
use crate::entry::{Entry, Member};
use crate::failure::Failure;
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::{Config, Error, Group, MemberId, SubgroupId};
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A member of a group.
///
/// The handle is a number and is never dereferenced: using a freed handle returns GALERNA_ERR_HANDLE.
///
/// Fork: the member belongs to the process that joined. In a child made by fork(), every call with an inherited handle
/// of a group or a log, or of an object obtained from them, returns GALERNA_ERR_FORKED and has no effect. The calls
/// that free a handle return GALERNA_OK and have no effect. The child must not access the bytes of an open reservation
/// (on shared memory an access raises SIGSEGV). The parent is not affected. The child may join a group as a process of
/// its own, with an inherited or a new configuration.
///
/// A child gives up its copies of the library's connections, ports and locks, so the other members detect the death of
/// the parent as usual. A fork at the moment in which a connection is made, or a bare clone(), can escape this. Such a
/// child keeps copies until it ends or calls exec: if the parent dies during that time, the other members detect it by
/// `failure_timeout_ms`. A child made by vfork() must not call the library.
///
/// dlclose(): the shared library stays in memory, because its threads and fork handlers refer to it. Free all handles
/// before.
pub struct galerna_group_t;

static GROUPS: Table<Entry> = Table::new("group", 3);

/// Runs `body` with the member that a handle stands for.
#[inline]
pub(crate) fn with<R>(
    group: *const galerna_group_t,
    body: impl FnOnce(&Member) -> Result<R, Failure>,
) -> Result<R, Failure> {
    GROUPS.with(group, |entry| body(entry.member()?))
}

/// Runs `body` with what a handle stands for, also while the process joins.
pub(crate) fn with_entry<R>(
    group: *const galerna_group_t,
    body: impl FnOnce(&Entry) -> Result<R, Failure>,
) -> Result<R, Failure> {
    GROUPS.with(group, body)
}

/// Founds a group together with the other members, or joins it if it already runs.
///
/// Returns when this process is a voter of the group's view (see galerna_view_t) and the `view` callback has been
/// called for that view. From then on the next member can be restarted or stopped. Waits for at most the
/// configuration's `join_timeout_ms`.
///
/// - `config`: the configuration, with the own member set. It can be freed afterwards.
/// - `callbacks`: the callbacks. The struct is copied. The context must outlive the group's handle.
/// - `drive`: a galerna_drive_t, which selects the thread that drives the group.
/// - `out`: receives the handle, or NULL after an error. Free it with galerna_group_free(). It is written before the
///   first callback runs, with two exceptions: `restore`, and the `deliver` calls for the messages of the log when a
///   process is started again.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors:
/// - GALERNA_ERR_ARGUMENT, GALERNA_ERR_HANDLE (`config`), GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (inside a callback).
/// - GALERNA_ERR_CONFIG, GALERNA_ERR_LISTEN, GALERNA_ERR_RDMA, GALERNA_ERR_IO.
/// - GALERNA_ERR_MEMBERS_MISSING, GALERNA_ERR_DISAGREEMENT, GALERNA_ERR_REFUSED, GALERNA_ERR_TWO_GROUPS,
///   GALERNA_ERR_CONTRACT, GALERNA_ERR_STATE_TRANSFER.
/// - GALERNA_ERR_CALLBACK: `view` or `deliver` threw an exception during the join. The process has left the group.
/// - Errors of the group's log: GALERNA_ERR_LOG_LOCKED, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_DAMAGED,
///   GALERNA_ERR_LOG_FOREIGN, GALERNA_ERR_LOG_FORMAT, GALERNA_ERR_LOG_FAILED.
/// - Any other error that stops a group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_join(
    config: *const galerna_config_t,
    callbacks: *const galerna_callbacks_t,
    drive: RawDrive,
    out: *mut *mut galerna_group_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`.
        let out = unsafe { Out::new("out", out)? };
        out.set(std::ptr::null_mut());
        not_in_callback()?;
        // SAFETY: the C caller guarantees the documented requirements on `callbacks`.
        let callbacks = unsafe { border::versioned("callbacks", callbacks)? };
        let drive = drive::drive(drive)?;
        let config = config::get(config)?;
        // If the member is not set, the join fails with an error for the missing key `member`.
        let me = config.member.unwrap_or(MemberId(u32::MAX));
        let (callbacks, joining) = Callbacks::new(callbacks, me)?;
        // Reserved first, so that no step can fail after the group is joined.
        let vacancy = GROUPS.vacancy()?;
        let functions = callbacks.functions();
        let member = match drive {
            galerna_drive_t::GALERNA_DRIVE_THREAD => Member { turn: None, group: Group::join(config, callbacks)? },
            galerna_drive_t::GALERNA_DRIVE_DISPATCH => {
                let (group, driver) = Group::join_driven(config, callbacks)?;
                let turn = Some(Arc::new(Turn::new(driver)));
                Member { turn, group }
            }
        };
        let handle: *mut galerna_group_t = vacancy.fill(Entry::joined(member, functions));
        out.set(handle);
        // The callbacks run while the handle is in use, so a thread that frees the handle waits for them. The handle
        // may already be freed.
        let mut told = Ok(());
        let _ = with(handle, |member| {
            told = catch_unwind(AssertUnwindSafe(|| joining.tell()));
            if told.is_err() {
                member.group.abandon();
            }
            Ok(())
        });
        // From here on the other callbacks may run: they find the handle in `out`.
        drop(joining);
        let Err(panic) = told else { return Ok(()) };
        // The panic happened outside the engine, so nothing else ends the group.
        out.set(std::ptr::null_mut());
        GROUPS.remove(handle, hasten)?;
        Err(Error::CallbackPanicked(border::panic_text(&*panic)).into())
    })
}

/// Begins to join a group, and returns at once with its handle.
///
/// Like galerna_group_join(), except that nothing waits. A thread of the library does what blocks. The `joined` callback
/// tells when the join is over, and with which result. Until then calls with the handle return GALERNA_ERR_JOINING,
/// except galerna_group_fd(), galerna_group_dispatch(), galerna_group_leave(), galerna_group_leave_start() and
/// galerna_group_free(). After a join that failed they return its error; free the handle then.
///
/// With GALERNA_DRIVE_DISPATCH the descriptor of galerna_group_fd() is valid from the beginning and stays the same. All
/// callbacks, `restore` and `joined` included, run in galerna_group_dispatch(). Of these only `restore` can wait, for the
/// state that it reads. With GALERNA_DRIVE_THREAD they run in a thread of the library.
///
/// galerna_group_leave(), galerna_group_leave_start() and galerna_group_free() cancel the join. A process that is in the
/// group by then leaves it. If the members are just beginning the view that names it, they may list it in `failed`
/// instead of `left`: it has ended before it could ask to leave.
///
/// The parameters are those of galerna_group_join(). `out` is written before the first callback runs.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_ARGUMENT, GALERNA_ERR_HANDLE (`config`), GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (inside a
/// callback), GALERNA_ERR_CONFIG, GALERNA_ERR_IO. All other errors come with the `joined` callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_join_start(
    config: *const galerna_config_t,
    callbacks: *const galerna_callbacks_t,
    drive: RawDrive,
    out: *mut *mut galerna_group_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`.
        let out = unsafe { Out::new("out", out)? };
        out.set(std::ptr::null_mut());
        not_in_callback()?;
        // SAFETY: the C caller guarantees the documented requirements on `callbacks`.
        let callbacks = unsafe { border::versioned("callbacks", callbacks)? };
        let drive = drive::drive(drive)?;
        let config = config::get(config)?;
        let me = config.member.unwrap_or(MemberId(u32::MAX));
        let functions = Functions::new(callbacks, me)?;
        let vacancy = GROUPS.vacancy()?;
        match drive {
            galerna_drive_t::GALERNA_DRIVE_DISPATCH => {
                let runs = Arc::<AtomicBool>::default();
                let joining = Group::join_start_driven(config, Callbacks::started(functions, runs.clone()))?;
                let turn = Turn::joining(joining)?;
                out.set(vacancy.fill(Entry::new(Some(Arc::new(turn)), functions, runs)));
                Ok(())
            }
            galerna_drive_t::GALERNA_DRIVE_THREAD => {
                let handle: *mut galerna_group_t = vacancy.fill(Entry::new(None, functions, Arc::default()));
                out.set(handle);
                start_in_thread(config, functions, handle).inspect_err(|_| {
                    out.set(std::ptr::null_mut());
                    // This call returns the error, so `joined` is not called.
                    let _ = with_entry(handle, |entry| {
                        let _ = entry.failure.set(Error::Left);
                        Ok(())
                    });
                    // Nothing uses the handle yet.
                    let _ = GROUPS.remove(handle, hasten);
                })
            }
        }
    })
}

fn start_in_thread(config: Config, functions: Functions, handle: *mut galerna_group_t) -> Result<(), Failure> {
    let number = handle.addr();
    let done = move |result| {
        let handle: *const galerna_group_t = std::ptr::without_provenance(number);
        // If the handle was freed, nobody is told, and a group is left without a word.
        let _ = with_entry(handle, |entry| Ok(entry.end_join(result)?));
    };
    let runs = with_entry(handle, |entry| Ok(entry.runs.clone()))?;
    let starting = Group::join_start(config, Callbacks::started(functions, runs), done)?;
    // If the handle was freed, this ends the join.
    with_entry(handle, |entry| {
        *border::lock(&entry.starting) = Some(starting);
        // A leave that was begun before could not cancel the join.
        let leaves = *border::lock(&entry.leaves);
        if let Some(leave) = leaves {
            entry.cancel(leave.timeout);
        }
        Ok(())
    })
    .or(Ok(()))
}

/// Ends the calls that wait in other threads.
fn hasten(entry: &Entry) {
    if let Some(member) = entry.member.get() {
        member.group.abandon();
    }
    if let Some(starting) = border::lock(&entry.starting).as_ref() {
        starting.cancel();
    }
    if let Some(turn) = &entry.turn {
        turn.close();
    }
}

/// Removes a group's handle, and waits for the running calls. NULL and a removed handle are ignored.
pub(crate) fn remove(group: *const galerna_group_t) -> Result<(), Failure> {
    GROUPS.remove(group, hasten).map(drop)
}

/// Gets this process's member id: its `id` in the configuration.
///
/// - `member`: receives the id.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`member` is NULL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_member(group: *const galerna_group_t, member: *mut u32) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `member`.
        let out = unsafe { Out::new("member", member)? };
        with(group, |member| {
            out.set(member.group.member().0);
            Ok(())
        })
    })
}

/// Gets the first fault that this process observed of a member.
///
/// The fault is the reason for which this process suspects the member, or the id of another member that suspects it.
/// For a member that was removed, it is the observation that led to the removal. For a member of the view, it is the
/// first observation since the view began. Other members may have observed something else. The text is for people, not
/// for programs.
///
/// - `member`: the member's id. If nothing is known against this member, or there is no such member, the text is empty.
/// - `text`: receives at most `capacity` bytes of the text, including the zero byte at the end. May be NULL when
///   `capacity` is 0.
/// - `length`: receives the length of the whole text in bytes, without the zero byte. May be NULL.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_fault(
    group: *const galerna_group_t,
    member: u32,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `length`.
        let out = unsafe { Out::optional("length", length)? };
        with(group, |handle| {
            let fault = border::c_string(&handle.group.fault(MemberId(member)).unwrap_or_default());
            // SAFETY: the C caller guarantees the documented requirements on `text`.
            unsafe { border::copy_text("text", text, capacity, &fault)? };
            if let Some(out) = out {
                out.set(fault.count_bytes());
            }
            Ok(())
        })
    })
}

/// Gets the size limit of a message in a subgroup, in bytes.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `bytes`: receives the limit.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`bytes` is NULL), GALERNA_ERR_UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_max_message(
    group: *const galerna_group_t,
    subgroup: u16,
    bytes: *mut usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `bytes`.
        let bytes = unsafe { Out::new("bytes", bytes)? };
        with(group, |member| {
            bytes.set(member.group.max_message(SubgroupId(subgroup))?);
            Ok(())
        })
    })
}
