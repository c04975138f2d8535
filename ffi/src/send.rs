//! Sending a copy of a message, and waiting until sent messages can survive crashes.

use crate::border;
use crate::callbacks::{in_callback, not_in_callback};
use crate::failure::Failure;
use crate::group::{self, Member, galerna_group_t};
use crate::message::{self, RawMode};
use crate::result::galerna_result_t;
use engine::{Error, Reservation, SubgroupId};
use std::ffi::c_void;

/// Sends a copy of `length` bytes as one message.
///
/// Returns when the message is accepted, not when it is delivered. To wait for delivery see galerna_group_flush().
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `mode`: a galerna_mode_t, which determines when the message may be delivered.
/// - `data`: the bytes. May be NULL when `length` is 0. Not kept after the call.
/// - `timeout_ms`: how long to wait while the ring is full, in milliseconds. 0 does not wait. Inside a callback it
///   counts as 0.
///
/// May be called from any thread. Messages of one thread are sent in the order of its calls.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MESSAGE_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the ring
/// is full and the timeout is 0), GALERNA_ERR_TIMED_OUT (the ring stayed full), GALERNA_ERR_UNKNOWN_SUBGROUP,
/// GALERNA_ERR_MISUSE (GALERNA_MODE_DURABLE in a group without a log), GALERNA_ERR_LEFT, and the error that stopped the
/// group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_send(
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
                // SAFETY: `data` has `length` bytes, as the documentation requires, and so has the reservation;
                // `copy_from` allows an overlap.
                unsafe { reservation.as_mut_ptr().copy_from(data.cast(), length) };
            }
            Ok(reservation.commit(mode)?)
        })
    })
}

/// Waits until `k` members have received all messages that this process has sent and all that were delivered here.
///
/// Then a crash of fewer than `k` members cannot lose any of these messages. An open reservation delays the call.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `k`: the number of members, including this one. 0, or more than there are, means all members.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback), GALERNA_ERR_TIMED_OUT,
/// GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_flush(
    group: *mut galerna_group_t,
    subgroup: u16,
    k: usize,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = border::timeout(timeout_ms);
        group::with(group, |member| {
            let flush = member.group.start_flush(SubgroupId(subgroup), k)?;
            let engine = || flush.wait(timeout);
            Ok(member.wait("flush", timeout, engine, || flush.is_done().then_some(Ok(())))?)
        })
    })
}

/// Reserves ring bytes. Waits for them unless the timeout is 0 or the call comes from a callback.
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
    let timeout = border::timeout(timeout_ms);
    let engine = || group.reserve(subgroup, length, timeout);
    member.wait("waiting for ring space", timeout, engine, || match group.try_reserve(subgroup, length) {
        Err(Error::WouldBlock(_)) => None,
        other => Some(other),
    })
}
