//! `galerna_group_t`: a member of a group, from join to leave.

use crate::border::{self, Out};
use crate::callbacks::{Callbacks, galerna_callbacks_t, not_in_callback};
use crate::config::{self, galerna_config_t};
use crate::drive::{self, RawDrive, Turn, galerna_drive_t};
use crate::failure::Failure;
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::{Error, Group, SubgroupId};
use std::sync::mpsc;
use std::time::Duration;

/// A member of a group. The handle is a number: using one that was freed is an error and no crash.
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

/// Joins a group: meets the other members, and returns when all have met all.
///
/// - `config`: the configuration, with the own member set; it can be freed afterwards.
/// - `callbacks`: what to call; copied. The context must outlive the group's handle.
/// - `drive`: a galerna_drive_t, who makes the group advance.
/// - `out`: takes the handle, to be freed with galerna_group_free(), or NULL after an error. It is written before the
///   first callback runs.
///
/// Waits for at most the configuration's `join_timeout_ms`. Any thread, but not inside a callback.
/// Errors: ARGUMENT, HANDLE (of the configuration), CONFIG, MEMBERS_MISSING, DISAGREEMENT, REFUSED, LISTEN, IO, LIMIT,
/// MISUSE (inside a callback), and the reasons for which a group stops.
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
        let (joining, joined) = mpsc::channel();
        let callbacks = Callbacks::new(callbacks, joined)?;
        let member = match drive {
            galerna_drive_t::GALERNA_DRIVE_THREAD => Member { turn: None, group: Group::join(config, callbacks)? },
            galerna_drive_t::GALERNA_DRIVE_DISPATCH => {
                let (group, driver) = Group::join_driven(config, callbacks)?;
                let turn = Some(Turn::new(driver));
                Member { turn, group }
            }
        };
        out.set(GROUPS.insert(member)?);
        // Now callbacks may run: they find the handle in `out`.
        drop(joining);
        Ok(())
    })
}

/// Leaves the group: accepts nothing more, sends what was accepted, waits until every member has received it and all that
/// was delivered here, and says goodbye. Callbacks go on meanwhile. Afterwards the calls that need the group return
/// GALERNA_ERR_LEFT; the handle is still to be freed.
///
/// - `timeout_ms`: how long to wait, in milliseconds. When it passes, the process has left all the same, and the others
///   see it fail.
///
/// In a group that has stopped it returns the reason, but GALERNA_OK if that is another member's leave and nothing is
/// lost by it. Any thread, but not inside a callback. Errors: HANDLE, MISUSE (inside a callback), TIMED_OUT, LEFT, and the
/// reasons for which a group stops.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_leave(group: *mut galerna_group_t, timeout_ms: u32) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = Duration::from_millis(timeout_ms.into());
        with(group, |member| {
            let left = match &member.turn {
                None => member.group.leave(timeout),
                Some(turn) => turn.leave(timeout, || member.group.abandon()),
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
        let hasten = |member: &Member| {
            member.group.abandon();
            if let Some(turn) = &member.turn {
                turn.close();
            }
        };
        GROUPS.remove(group, hasten).map(drop)
    })
}

/// The members' ids, in the order of their ranks, which is that of the configuration.
///
/// - `ids`: takes the first `capacity` ids; may be NULL when `capacity` is 0.
/// - `count`: takes the number of members, also when `capacity` is less.
///
/// Any thread. Errors: HANDLE, ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_members(
    group: *const galerna_group_t,
    ids: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `count`.
        let count = unsafe { Out::new("count", count)? };
        if ids.is_null() && capacity > 0 {
            return Err(Failure::Argument("ids", "is NULL"));
        }
        with(group, |member| {
            let members = member.group.members();
            for (index, id) in members.iter().take(capacity).enumerate() {
                // SAFETY: `index` is below `capacity`, for which the documentation asks for room.
                unsafe { Out::new("ids", ids.wrapping_add(index))?.set(id.0) };
            }
            count.set(members.len());
            Ok(())
        })
    })
}

/// The rank of this process among the members; the lowest is 0.
///
/// - `rank`: takes the rank.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`rank` is NULL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_rank(group: *const galerna_group_t, rank: *mut usize) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `rank`.
        let rank = unsafe { Out::new("rank", rank)? };
        with(group, |member| {
            rank.set(member.group.rank());
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
