//! `galerna_reservation_t`: ring bytes that the application fills in place.

use crate::border::{self, Out, Versioned};
use crate::failure::Failure;
use crate::group::{self, galerna_group_t};
use crate::message::{self, RawMode};
use crate::result::galerna_result_t;
use crate::send;
use engine::multicast::Claim;
use engine::{Error, SubgroupId};
use std::ffi::c_void;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// Ring bytes to fill in place: galerna_commit() sends them, galerna_abandon() gives them up; one of the two must follow.
/// Until then it holds back this process's later messages; galerna_leave() waits for it, and drops it in the end.
///
/// It belongs to one thread at a time. What is in it is checked: changing it, or using it twice, is an error.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_reservation_t {
    /// Set it to sizeof(galerna_reservation_t).
    pub size: usize,
    /// Where the message goes; holds what earlier messages left there. NULL once it is committed or abandoned.
    pub data: *mut c_void,
    /// Bytes of the message.
    pub length: usize,
    /// The library's.
    pub private_ticket: u32,
    /// The library's.
    pub private_word: u32,
    /// The library's.
    pub private_place: u64,
    /// The library's.
    pub private_check: u64,
}

// SAFETY: `repr(C)`, the size first, integers and an unchecked pointer.
unsafe impl Versioned for galerna_reservation_t {
    const NAME: &'static str = "galerna_reservation_t";
}

impl galerna_reservation_t {
    /// One that nothing is reserved by.
    const EMPTY: galerna_reservation_t = galerna_reservation_t {
        size: size_of::<galerna_reservation_t>(),
        data: std::ptr::null_mut(),
        length: 0,
        private_ticket: 0,
        private_word: 0,
        private_place: 0,
        private_check: 0,
    };

    /// What `private_check` must be: tells a reservation of this group from anything else by chance or mistake.
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

    /// The claim behind it, if it is as this library filled it.
    fn claim(&self, group: *const galerna_group_t) -> Result<(SubgroupId, Claim), Failure> {
        let broken = Error::Misuse("the reservation is not open: committed, abandoned, changed, or of another group");
        let whole = !self.data.is_null() && self.private_check == self.check(group);
        let len = (self.private_place >> 32) as u32;
        let (Ok(subgroup), true) = (u16::try_from(self.private_place & u64::from(u32::MAX)), whole) else {
            return Err(broken.into());
        };
        let claim = Claim { ticket: self.private_ticket, word: self.private_word, len };
        Ok((SubgroupId(subgroup), claim))
    }
}

/// Reserves `length` bytes of the ring, to be filled in place. The order of one process's messages is that of their
/// reservations.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `length`: bytes of the message.
/// - `timeout_ms`: how long to wait while the ring is full, in milliseconds; 0 does not wait. Inside a callback it counts
///   as 0.
/// - `out`: its `size` must be set; takes the reservation. After an error nothing is reserved, and `data` is NULL unless
///   `out` itself was wrong.
///
/// Any thread. Errors: HANDLE, ARGUMENT, MESSAGE_TOO_LARGE, WOULD_BLOCK (the ring is full, and the timeout 0), TIMED_OUT
/// (it stayed full), UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_reserve(
    group: *mut galerna_group_t,
    subgroup: u16,
    length: usize,
    timeout_ms: u32,
    out: *mut galerna_reservation_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out`.
        let out = unsafe { border::versioned_out("out", out)? };
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
                // The claim is longer than the message in a group with a log, which stamps each with its time.
                private_place: u64::from(claim.len) << 32 | u64::from(subgroup),
                ..galerna_reservation_t::EMPTY
            };
            filled.private_check = filled.check(group);
            out.set(filled);
            Ok(())
        })
    })
}

/// Sends a reserved message, and clears the reservation.
///
/// - `reservation`: filled by galerna_reserve() for this group, and not used up.
/// - `mode`: a galerna_mode_t, when the message may be delivered.
///
/// It never waits. Any thread. Errors: HANDLE, ARGUMENT (the reservation stays open), MISUSE (the reservation is not open; or
/// the message is durable and the group has no log, and then it stays open), LEFT (galerna_leave() dropped it: nothing is
/// sent, and the reservation is cleared), UNKNOWN_SUBGROUP. In a group that has stopped it does nothing, and says so at the next galerna_reserve().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_commit(
    group: *mut galerna_group_t,
    reservation: *mut galerna_reservation_t,
    mode: RawMode,
) -> galerna_result_t {
    border::call(|| {
        let mode = message::mode(mode)?;
        // SAFETY: what the documentation asks of `reservation`.
        let (given, place) = unsafe { open(reservation)? };
        group::with(group, |member| {
            let (subgroup, claim) = given.claim(group)?;
            let committed = member.group.commit_claim(subgroup, claim, mode);
            if matches!(committed, Ok(()) | Err(Error::Left)) {
                place.set(galerna_reservation_t::EMPTY);
            }
            Ok(committed?)
        })
    })
}

/// Gives a reservation up, and clears it; nothing is sent.
///
/// - `reservation`: filled by galerna_reserve() for this group, and not used up.
///
/// It never waits. Any thread. Errors: HANDLE, ARGUMENT, MISUSE (the reservation is not open), UNKNOWN_SUBGROUP. One that
/// galerna_leave() has dropped is no error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_abandon(
    group: *mut galerna_group_t,
    reservation: *mut galerna_reservation_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `reservation`.
        let (given, place) = unsafe { open(reservation)? };
        group::with(group, |member| {
            let (subgroup, claim) = given.claim(group)?;
            member.group.abandon_claim(subgroup, claim)?;
            place.set(galerna_reservation_t::EMPTY);
            Ok(())
        })
    })
}

/// What C gives back, and its place, which is cleared in the end.
///
/// # Safety
/// As [`border::versioned`] and [`border::versioned_out`].
unsafe fn open(
    reservation: *mut galerna_reservation_t,
) -> Result<(galerna_reservation_t, Out<galerna_reservation_t>), Failure> {
    // SAFETY: the caller's promise.
    unsafe { Ok((border::versioned("reservation", reservation)?, border::versioned_out("reservation", reservation)?)) }
}
