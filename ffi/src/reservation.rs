//! `galerna_reservation_t`: ring bytes that the application fills in place.

use crate::border::{self, VersionedOut};
use crate::failure::Failure;
use crate::group::{self, galerna_group_t};
use crate::message::{self, RawMode};
use crate::result::galerna_result_t;
use crate::send;
use crate::send::TicketOut;
use engine::multicast::Claim;
use engine::{Error, SubgroupId};
use std::ffi::c_void;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// Ring bytes to be filled in place.
///
/// galerna_group_commit() sends them, galerna_group_abandon() gives them up. Every reservation must end with one of
/// these two calls. An open reservation holds back all later messages of this process. galerna_group_leave() waits for
/// it and finally drops it.
///
/// A reservation belongs to one thread at a time. The library checks its contents: using a reservation twice, or a
/// changed one, fails with GALERNA_ERR_MISUSE.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_reservation_t {
    /// Set it to sizeof(galerna_reservation_t).
    pub size: usize,
    /// Where to write the message: a multiple of 8. It contains bytes of earlier messages at first. NULL after the
    /// commit or the abandon.
    pub data: *mut c_void,
    /// Size of the message in bytes.
    pub length: usize,
    /// Private to the library.
    pub private_ticket: u32,
    /// Private to the library.
    pub private_word: u32,
    /// Private to the library.
    pub private_place: u64,
    /// Private to the library.
    pub private_check: u64,
}

border::versioned_struct!(galerna_reservation_t, last: private_check);

impl galerna_reservation_t {
    /// A reservation that holds nothing.
    const EMPTY: galerna_reservation_t = galerna_reservation_t {
        size: size_of::<galerna_reservation_t>(),
        data: std::ptr::null_mut(),
        length: 0,
        private_ticket: 0,
        private_word: 0,
        private_place: 0,
        private_check: 0,
    };

    /// Computes the right value of `private_check`. It distinguishes a reservation of this group from bytes that look
    /// like one by chance or by mistake.
    fn check(&self, group: *const galerna_group_t) -> u64 {
        static SECRET: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("galerna_reservation_t") | 1);
        let place = u64::from(self.private_ticket) << 32 | u64::from(self.private_word);
        let words = [group.addr() as u64, self.data.addr() as u64, self.length as u64, place, self.private_place];
        // Each step is invertible, so a change of one word always changes the result.
        words.iter().fold(*SECRET, |sum, word| {
            let sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            sum ^ sum >> 29
        })
    }

    /// Returns the claim of this reservation. Fails if its fields are not as this library filled them in.
    fn claim(&self, group: *const galerna_group_t) -> Result<(SubgroupId, Claim), Failure> {
        let broken = Error::Misuse(
            "the reservation is not open: it was committed, abandoned or changed, or belongs to another group",
        );
        let whole = !self.data.is_null() && self.private_check == self.check(group);
        let len = (self.private_place >> 32) as u32;
        let (Ok(subgroup), true) = (u16::try_from(self.private_place & u64::from(u32::MAX)), whole) else {
            return Err(broken.into());
        };
        let claim = Claim { ticket: self.private_ticket, word: self.private_word, len };
        Ok((SubgroupId(subgroup), claim))
    }
}

/// Reserves `length` bytes of the ring, to be filled in place.
///
/// The messages of one process are ordered by their reservations.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `length`: size of the message in bytes.
/// - `timeout_ms`: how long to wait while the ring is full, in milliseconds. 0 does not wait. Inside a callback it
///   counts as 0.
/// - `out`: receives the reservation. Its `size` must be set. After an error nothing is reserved, and `data` is NULL
///   unless `out` itself was invalid.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MESSAGE_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the ring
/// is full and the timeout is 0), GALERNA_ERR_TIMED_OUT (the ring stayed full), GALERNA_ERR_UNKNOWN_SUBGROUP,
/// GALERNA_ERR_LEFT, and the error that stopped the group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_reserve(
    group: *mut galerna_group_t,
    subgroup: u16,
    length: usize,
    timeout_ms: u32,
    out: *mut galerna_reservation_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`.
        let out = unsafe { VersionedOut::new("out", out)? };
        out.set(galerna_reservation_t::EMPTY);
        group::with(group, |member| {
            let mut reservation = send::reserve(member, SubgroupId(subgroup), length, timeout_ms)?;
            let data = reservation.as_mut_ptr().cast();
            let claim = reservation.into_claim();
            let mut filled = galerna_reservation_t {
                data,
                length,
                private_ticket: claim.ticket,
                private_word: claim.word,
                // In a group with a log the claim is longer than the message, because every message carries its time.
                private_place: u64::from(claim.len) << 32 | u64::from(subgroup),
                ..galerna_reservation_t::EMPTY
            };
            filled.private_check = filled.check(group);
            out.set(filled);
            Ok(())
        })
    })
}

/// Sends a reserved message and clears the reservation. Never waits.
///
/// - `reservation`: an open reservation, filled in by galerna_group_reserve() for this group.
/// - `mode`: a galerna_mode_t, which determines when the message may be delivered.
/// - `ticket`: receives the message's ticket, as in galerna_group_send(). May be NULL.
///
/// In a group that has stopped, nothing is sent and the call returns GALERNA_OK. The next galerna_group_reserve()
/// returns the error that stopped the group.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (the reservation stays open), GALERNA_ERR_MISUSE (the reservation
/// is not open; or the mode is GALERNA_MODE_DURABLE and the group has no log, in which case the reservation stays
/// open), GALERNA_ERR_LEFT (galerna_group_leave() dropped the reservation: nothing is sent, and the reservation is
/// cleared), GALERNA_ERR_UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_commit(
    group: *mut galerna_group_t,
    reservation: *mut galerna_reservation_t,
    mode: RawMode,
    ticket: *mut u64,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `ticket`.
        let out = unsafe { TicketOut::new(ticket)? };
        let mode = message::mode(mode)?;
        // SAFETY: the C caller guarantees the documented requirements on `reservation`.
        let (given, place) = unsafe { open(reservation)? };
        group::with(group, |member| {
            let (subgroup, claim) = given.claim(group)?;
            let committed = member.group.commit_claim(subgroup, claim, mode);
            if matches!(committed, Ok(_) | Err(Error::Left)) {
                place.set(galerna_reservation_t::EMPTY);
            }
            out.set(committed?);
            Ok(())
        })
    })
}

/// Abandons a reservation and clears it. Nothing is sent. Never waits.
///
/// - `reservation`: an open reservation, filled in by galerna_group_reserve() for this group.
///
/// Abandoning a reservation that galerna_group_leave() has dropped is not an error. May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MISUSE (the reservation is not open),
/// GALERNA_ERR_UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_abandon(
    group: *mut galerna_group_t,
    reservation: *mut galerna_reservation_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `reservation`.
        let (given, place) = unsafe { open(reservation)? };
        group::with(group, |member| {
            let (subgroup, claim) = given.claim(group)?;
            member.group.abandon_claim(subgroup, claim)?;
            place.set(galerna_reservation_t::EMPTY);
            Ok(())
        })
    })
}

/// Reads the reservation that C passes back. Also returns its place, which is cleared at the end.
///
/// # Safety
/// As for [`border::versioned`] and [`VersionedOut::new`].
unsafe fn open(
    reservation: *mut galerna_reservation_t,
) -> Result<(galerna_reservation_t, VersionedOut<galerna_reservation_t>), Failure> {
    // SAFETY: the caller guarantees it.
    unsafe { Ok((border::versioned("reservation", reservation)?, VersionedOut::new("reservation", reservation)?)) }
}
