//! `galerna_group_t`: a member of a group, from join to leave.

use crate::border::{self, Out};
use crate::callbacks::{Callbacks, galerna_callbacks_t, not_in_callback};
use crate::config::{self, galerna_config_t};
use crate::drive::{self, RawDrive, Turn, galerna_drive_t};
use crate::failure::Failure;
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::{Error, Group, MemberId, SubgroupId};
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A member of a group. The handle is a number: using one that was freed is an error and no crash.
///
/// The member is the process's that joined. In a child that fork() makes, each call with a handle from before, of a group, a
/// log, or what was got from them, returns GALERNA_ERR_FORKED and touches nothing; the calls that free return GALERNA_OK and
/// do nothing. The bytes of an open reservation are not the child's either (on shared memory, touching them is a SIGSEGV).
/// The parent goes on undisturbed, and the child may join a group by itself, with a configuration from before or of its own.
/// Until it ends or calls exec, the child shares the parent's descriptors: if the parent dies meanwhile, the others notice it
/// by `failure_timeout_ms` only, and its port and its log stay taken. A child of vfork() may call nothing of the library.
pub struct galerna_group_t;

static GROUPS: Table<Member> = Table::new("group", 3);

/// What a handle of a group stands for.
pub(crate) struct Member {
    // First, to be dropped first: the driver that is left over says so to the group.
    turn: Option<Turn>,
    pub(crate) group: Group,
}

impl Member {
    /// For what only the driver of a group can do.
    pub(crate) fn turn(&self) -> Result<&Turn, Failure> {
        let misuse = Error::Misuse("a thread of the library drives this group: join it with GALERNA_DRIVE_DISPATCH");
        self.turn.as_ref().ok_or(misuse.into())
    }

    /// Waits for something of a group: `engine` does in the group that a thread of the library drives, and `ready`, which
    /// looks without waiting, is asked between dispatches in the other.
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

/// Runs `body` with the member that a handle stands for.
#[inline]
pub(crate) fn with<R>(
    group: *const galerna_group_t,
    body: impl FnOnce(&Member) -> Result<R, Failure>,
) -> Result<R, Failure> {
    GROUPS.with(group, body)
}

/// Founds a group with the other members, or joins it if it runs; returns when this process votes in the group's view (see
/// galerna_view_t), so that the next member can be restarted or stopped, and the `view` callback was told so.
///
/// - `config`: the configuration, with the own member set; it can be freed afterwards.
/// - `callbacks`: what to call; copied. The context must outlive the group's handle.
/// - `drive`: a galerna_drive_t, who makes the group advance.
/// - `out`: takes the handle, to be freed with galerna_group_free(), or NULL after an error. It is written before the
///   first callback runs, but for `restore` and for the messages of its log that a process is told which is started again.
///
/// Waits for at most the configuration's `join_timeout_ms`. Any thread, but not inside a callback.
/// Errors: ARGUMENT, HANDLE (of the configuration), CONFIG, MEMBERS_MISSING, DISAGREEMENT, REFUSED, TWO_GROUPS, LISTEN,
/// IO, LIMIT,
/// CALLBACK (`view` or `deliver` threw an exception during the join; the group is left),
/// LOG_LOCKED, LOG_FULL,
/// LOG_DAMAGED, LOG_FOREIGN, LOG_FORMAT, LOG_FAILED (of the group's log), MISUSE (inside a callback), and the reasons for which
/// a group stops.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_join(
    config: *const galerna_config_t,
    callbacks: *const galerna_callbacks_t,
    drive: RawDrive,
    out: *mut *mut galerna_group_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out`.
        let out = unsafe { Out::new("out", out)? };
        out.set(std::ptr::null_mut());
        not_in_callback()?;
        // SAFETY: what the documentation asks of `callbacks`.
        let callbacks = unsafe { border::versioned("callbacks", callbacks)? };
        let drive = drive::drive(drive)?;
        let config = config::get(config)?;
        // Without a member the join fails, and says so.
        let me = config.member.unwrap_or(MemberId(u32::MAX));
        let (callbacks, joining) = Callbacks::new(callbacks, me)?;
        // Taken first, so that nothing can fail once the group is joined.
        let vacancy = GROUPS.vacancy()?;
        let member = match drive {
            galerna_drive_t::GALERNA_DRIVE_THREAD => Member { turn: None, group: Group::join(config, callbacks)? },
            galerna_drive_t::GALERNA_DRIVE_DISPATCH => {
                let (group, driver) = Group::join_driven(config, callbacks)?;
                let turn = Some(Turn::new(driver));
                Member { turn, group }
            }
        };
        let handle: *mut galerna_group_t = vacancy.fill(member);
        out.set(handle);
        // With the handle in use, so that whoever frees it waits for the callback. It may be freed already.
        let mut told = Ok(());
        let _ = with(handle, |member| {
            told = catch_unwind(AssertUnwindSafe(|| joining.tell()));
            if told.is_err() {
                member.group.abandon();
            }
            Ok(())
        });
        // Now the other callbacks may run: they find the handle in `out`.
        drop(joining);
        let Err(panic) = told else { return Ok(()) };
        // It was not the engine that saw it, so nobody else has the group's end in hand.
        out.set(std::ptr::null_mut());
        GROUPS.remove(handle, hasten)?;
        Err(Error::CallbackPanicked(border::panic_text(&*panic)).into())
    })
}

/// Ends the calls that wait in other threads.
fn hasten(member: &Member) {
    member.group.abandon();
    if let Some(turn) = &member.turn {
        turn.close();
    }
}

/// Leaves the group: accepts nothing more, sends what was accepted, and asks the others to go on without this process. They
/// do so in a next view, whose `left` names it, and have been delivered all that it has sent. Callbacks go on meanwhile.
/// Afterwards the calls that need the group return GALERNA_ERR_LEFT; the handle is still to be freed.
///
/// An open reservation holds back the messages after it. The leave waits half of its timeout for the galerna_commit() or
/// galerna_abandon(), then drops the reservation: nothing of it is sent, its galerna_commit() returns GALERNA_ERR_LEFT, and
/// its bytes may be written until then or until galerna_group_free().
///
/// - `timeout_ms`: how long to wait, in milliseconds. When it passes, the process has left all the same, and the others
///   see it fail.
///
/// Any thread, also while another one is in galerna_dispatch(), but not inside a callback. Errors: HANDLE, MISUSE (inside a
/// callback), TIMED_OUT, LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_leave(group: *mut galerna_group_t, timeout_ms: u32) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = Duration::from_millis(timeout_ms.into());
        with(group, |member| {
            let left = match &member.turn {
                None => member.group.leave(timeout),
                Some(turn) => turn.leave(&member.group, timeout),
            };
            Ok(left?)
        })
    })
}

/// Frees a group's handle; without a galerna_leave() before, the others see this member fail. Calls that wait in other
/// threads return GALERNA_ERR_LEFT. When it returns, no callback runs and none will. Open reservations are gone.
///
/// NULL and a second free do nothing and return GALERNA_OK. Any thread, but not inside a callback, and not while holding
/// a lock that a callback waits for. Errors: HANDLE (it never was one), MISUSE (inside a callback; the group goes on).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_free(group: *mut galerna_group_t) -> galerna_result_t {
    border::call(|| {
        if group.is_null() {
            return Ok(());
        }
        not_in_callback()?;
        GROUPS.remove(group, hasten).map(drop)
    })
}

/// This process's number: the `id` that it has in the configuration.
///
/// - `member`: takes the number.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`member` is NULL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_member(group: *const galerna_group_t, member: *mut u32) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `member`.
        let out = unsafe { Out::new("member", member)? };
        with(group, |member| {
            out.set(member.group.member().0);
            Ok(())
        })
    })
}

/// What this process observed first that speaks against a member: why it suspects it, or which other member does. Of a member
/// that was removed, what led to that; of one that is in the view, what was observed since the view began. For people: other
/// members may have observed something else.
///
/// - `member`: its number; of one that nothing is known against, or that is none, the text is empty.
/// - `text`: takes at most `capacity` bytes of the text, the zero byte at the end included; may be NULL when `capacity` is
///   0.
/// - `length`: takes the bytes of the whole text, without the zero byte; may be NULL.
///
/// Any thread. Errors: HANDLE, ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_fault(
    group: *const galerna_group_t,
    member: u32,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `length`.
        let out = unsafe { Out::optional("length", length)? };
        with(group, |handle| {
            let fault = border::c_string(&handle.group.fault(MemberId(member)).unwrap_or_default());
            // SAFETY: what the documentation asks of `text`.
            unsafe { border::copy_text("text", text, capacity, &fault)? };
            if let Some(out) = out {
                out.set(fault.count_bytes());
            }
            Ok(())
        })
    })
}

/// The largest message of a subgroup, in bytes.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `bytes`: takes the limit.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`bytes` is NULL), UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_max_message(
    group: *const galerna_group_t,
    subgroup: u16,
    bytes: *mut usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `bytes`.
        let bytes = unsafe { Out::new("bytes", bytes)? };
        with(group, |member| {
            bytes.set(member.group.max_message(SubgroupId(subgroup))?);
            Ok(())
        })
    })
}
