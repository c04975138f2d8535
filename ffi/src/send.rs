//! Sending a copy, and waiting until what was sent is safe from crashes.

use crate::border;
use crate::callbacks::{in_callback, not_in_callback};
use crate::failure::Failure;
use crate::group::{self, Member, galerna_group_t};
use crate::message::{self, RawMode};
use crate::result::galerna_result_t;
use engine::{Error, Reservation, SubgroupId};
use std::ffi::c_void;
use std::time::Duration;

/// Sends a copy of `length` bytes. It returns when the message is accepted, not when it is delivered: see
/// galerna_flush().
///
/// - `subgroup`: its number; 0 holds every member.
/// - `mode`: a galerna_mode_t, when it may be delivered.
/// - `data`: the bytes; may be NULL when `length` is 0. Not kept.
/// - `timeout_ms`: how long to wait while the ring is full, in milliseconds; 0 does not wait. Inside a callback it counts
///   as 0.
///
/// Any thread; messages of one thread are sent in the order of its calls. Errors: HANDLE, ARGUMENT, MESSAGE_TOO_LARGE,
/// WOULD_BLOCK (the ring is full, and the timeout 0), TIMED_OUT (it stayed full), UNKNOWN_SUBGROUP, MISUSE (a durable message in
/// a group without a log), LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_send(
    group: *mut galerna_group_t,
    subgroup: u16,
    mode: RawMode,
    data: *const c_void,
    length: usize,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        let mode = message::mode(mode)?;
        if data.is_null() && length > 0 {
            return Err(Failure::Argument("data", "is NULL"));
        }
        group::with(group, |member| {
            let mut reservation = reserve(member, SubgroupId(subgroup), length, timeout_ms)?;
            if length > 0 {
                // SAFETY: `data` has `length` bytes, as the documentation asks, and so has the reservation; `copy` minds
                // no overlap.
                unsafe { reservation.as_mut_ptr().copy_from(data.cast(), length) };
            }
            Ok(reservation.commit(mode)?)
        })
    })
}

/// Waits until everything that this process has sent, and all that was delivered here, is received by `k` members: no
/// crash of fewer can lose it any more.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `k`: how many members, this one included; 0, or more than there are, means all.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// Any thread, but not inside a callback. A reservation that is open holds it up. Errors: HANDLE, MISUSE (inside a
/// callback), TIMED_OUT, UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_flush(
    group: *mut galerna_group_t,
    subgroup: u16,
    k: usize,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = Duration::from_millis(timeout_ms.into());
        group::with(group, |member| {
            let flush = member.group.start_flush(SubgroupId(subgroup), k)?;
            let engine = || flush.wait(timeout);
            Ok(member.wait("flush", timeout, engine, || flush.is_done().then_some(Ok(())))?)
        })
    })
}

/// Reserves ring bytes, and waits for them if it may.
pub(crate) fn reserve(
    member: &Member,
    subgroup: SubgroupId,
    length: usize,
    timeout_ms: u32,
) -> Result<Reservation<'_>, Error> {
    let group = &member.group;
    match group.try_reserve(subgroup, length) {
        Err(Error::WouldBlock(_)) if timeout_ms > 0 && !in_callback() => {}
        other => return other,
    }
    let timeout = Duration::from_millis(timeout_ms.into());
    let engine = || group.reserve(subgroup, length, timeout);
    member.wait("waiting for ring space", timeout, engine, || match group.try_reserve(subgroup, length) {
        Err(Error::WouldBlock(_)) => None,
        other => Some(other),
    })
}
