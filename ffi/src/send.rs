//! Sending copies of messages, and waiting until sent messages are delivered, durable, or can survive crashes.

use crate::border::{self, Out};
use crate::callbacks::{in_callback, not_in_callback};
use crate::entry::Member;
use crate::failure::Failure;
use crate::group::{self, galerna_group_t};
use crate::message::{self, RawMode};
use crate::result::galerna_result_t;
use engine::{Copies, Error, Mode, Reservation, SubgroupId, Ticket, Until};
use std::ffi::c_void;

/// All members, as the `copies` of galerna_group_flush().
pub const GALERNA_COPIES_ALL: u32 = u32::MAX;

/// The event that galerna_group_wait() waits for.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum galerna_until_t {
    /// The message has been delivered here, and the `deliver` callback has returned.
    GALERNA_UNTIL_DELIVERED = 0,
    /// The message, and all messages before it in the order, are durable. Only in a group with a log.
    GALERNA_UNTIL_DURABLE = 1,
}

/// A `galerna_until_t` as C passes it: any number.
pub type RawUntil = i32;

/// A part of a message.
#[repr(C)]
pub struct galerna_part_t {
    /// The bytes. May be NULL when `length` is 0.
    pub data: *const c_void,
    /// Number of bytes.
    pub length: usize,
}

/// Sends a copy of `length` bytes as one message.
///
/// Returns when the message is accepted, not when it is delivered. To wait for that, see galerna_group_wait().
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `mode`: a galerna_mode_t, which determines when the message may be delivered.
/// - `data`: the bytes. May be NULL when `length` is 0. Not kept after the call.
/// - `timeout_ms`: how long to wait while the ring is full, in milliseconds. 0 does not wait. Inside a callback it
///   counts as 0.
/// - `ticket`: receives the message's ticket, for galerna_group_wait(); the delivery of the message here carries it, too.
///   At least 1; 0 after an error. May be NULL.
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
    ticket: *mut u64,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `ticket`.
        let out = unsafe { TicketOut::new(ticket)? };
        let parts = [galerna_part_t { data, length }];
        // SAFETY: `data` has `length` bytes, as the documentation requires.
        unsafe { send(group, subgroup, mode, &parts, timeout_ms, out) }
    })
}

/// Sends a copy of several parts, one after another, as one message.
///
/// Like galerna_group_send(), except for the data:
///
/// - `parts`: the parts. May be NULL when `part_count` is 0. Not kept after the call.
/// - `part_count`: number of parts.
///
/// May be called from any thread.
///
/// Errors: those of galerna_group_send().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_sendv(
    group: *mut galerna_group_t,
    subgroup: u16,
    mode: RawMode,
    parts: *const galerna_part_t,
    part_count: usize,
    timeout_ms: u32,
    ticket: *mut u64,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `ticket`.
        let out = unsafe { TicketOut::new(ticket)? };
        // SAFETY: the C caller guarantees `part_count` parts.
        let parts = unsafe { border::array("parts", parts, part_count)? };
        // SAFETY: each part has the bytes that it names, as the documentation requires.
        unsafe { send(group, subgroup, mode, parts, timeout_ms, out) }
    })
}

/// Where the ticket of a message goes, if the caller wants it.
pub(crate) struct TicketOut(Option<Out<u64>>);

impl TicketOut {
    /// # Safety
    /// `ticket` is NULL, or may be written until the call ends.
    pub(crate) unsafe fn new(ticket: *mut u64) -> Result<TicketOut, Failure> {
        // SAFETY: the caller guarantees it.
        let out = unsafe { Out::optional("ticket", ticket)? };
        if let Some(out) = &out {
            out.set(0);
        }
        Ok(TicketOut(out))
    }

    pub(crate) fn set(&self, ticket: Ticket) {
        if let Some(out) = &self.0 {
            out.set(ticket.get());
        }
    }
}

/// # Safety
/// Each part has the bytes that it names.
unsafe fn send(
    group: *mut galerna_group_t,
    subgroup: u16,
    mode: RawMode,
    parts: &[galerna_part_t],
    timeout_ms: u32,
    ticket: TicketOut,
) -> Result<(), Failure> {
    let mode: Mode = message::mode(mode)?;
    if parts.iter().any(|part| part.data.is_null() && part.length > 0) {
        return Err(Failure::Argument("data", "is NULL"));
    }
    // More than fits into the address space is certainly too large.
    let length = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.length));
    group::with(group, |member| {
        let mut reservation = reserve(member, SubgroupId(subgroup), length, timeout_ms)?;
        let mut rest = &mut reservation[..];
        for part in parts.iter().filter(|part| part.length > 0) {
            let (here, others) = std::mem::take(&mut rest).split_at_mut(part.length);
            // SAFETY: `data` has `length` bytes, as the caller guarantees, and so has `here`; `copy_from` allows an
            // overlap.
            unsafe { here.as_mut_ptr().copy_from(part.data.cast(), part.length) };
            rest = others;
        }
        ticket.set(reservation.commit(mode)?);
        Ok(())
    })
}

/// Waits until a message of this process has been delivered here, or is durable.
///
/// With it a server can answer its client.
///
/// - `subgroup`: the subgroup of the message.
/// - `ticket`: from galerna_group_send(), galerna_group_sendv() or galerna_group_commit().
/// - `until`: a galerna_until_t.
/// - `timeout_ms`: how long to wait, in milliseconds. 0 only asks: GALERNA_ERR_TIMED_OUT means not yet.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (no galerna_until_t, or a ticket of 0), GALERNA_ERR_MISUSE (inside a
/// callback; a ticket that no message has had so far; or GALERNA_UNTIL_DURABLE in a group without a log),
/// GALERNA_ERR_TIMED_OUT, GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group. After
/// the last two, other members may have been delivered the message.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_wait(
    group: *mut galerna_group_t,
    subgroup: u16,
    ticket: u64,
    until: RawUntil,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let until = match until {
            _ if until == galerna_until_t::GALERNA_UNTIL_DELIVERED as RawUntil => Until::Delivered,
            _ if until == galerna_until_t::GALERNA_UNTIL_DURABLE as RawUntil => Until::Durable,
            _ => return Err(Failure::Argument("until", "is not a galerna_until_t")),
        };
        let ticket = Ticket::new(ticket).ok_or(Failure::Argument("ticket", "is 0"))?;
        let (subgroup, timeout) = (SubgroupId(subgroup), border::timeout(timeout_ms));
        group::with(group, |member| {
            let wait = member.group.start_wait(subgroup, ticket, until)?;
            let engine = || wait.wait(timeout);
            Ok(member.wait("a wait for a message", timeout, engine, || wait.is_done().then_some(Ok(())))?)
        })
    })
}

/// Waits until enough members have received all messages that this process has sent and all that were delivered here.
///
/// Then a crash of fewer than `copies` members cannot lose any of these messages. An open reservation delays the call.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `copies`: the number of members, including this one. GALERNA_COPIES_ALL, or more than there are, means all members.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`copies` is 0), GALERNA_ERR_MISUSE (inside a callback),
/// GALERNA_ERR_TIMED_OUT, GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_flush(
    group: *mut galerna_group_t,
    subgroup: u16,
    copies: u32,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = border::timeout(timeout_ms);
        let copies = match copies {
            0 => return Err(Failure::Argument("copies", "is 0")),
            GALERNA_COPIES_ALL => Copies::All,
            _ => Copies::AtLeast(usize::try_from(copies).unwrap_or(usize::MAX)),
        };
        group::with(group, |member| {
            let flush = member.group.start_flush(SubgroupId(subgroup), copies)?;
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
