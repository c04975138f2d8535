//! Ring bytes that an application fills in place.

use crate::error::Error;
use crate::multicast::{Claim, Reserved, SendRing};
use crate::shared::Shared;
use crate::types::{Mode, Ticket};
use std::ops::{Deref, DerefMut};

/// Ring bytes to fill in place. [`Reservation::commit`] sends them; dropping the reservation sends nothing.
///
/// The bytes initially contain remains of earlier messages, and begin at a multiple of 8. In a forked child the slice is
/// empty.
pub struct Reservation<'g> {
    pub(super) shared: &'g Shared,
    pub(super) ring: &'g SendRing,
    pub(super) reserved: Reserved<'g>,
    pub(super) open: bool,
}

impl Reservation<'_> {
    /// Sends the message, and returns its ticket, with which [`crate::Group::wait`] waits for it.
    ///
    /// # Errors
    /// The message is not sent, and this returns [`Error::Misuse`] if the group does not support the mode
    /// ([`Mode::Durable`] without a log), or [`Error::Left`] if a leave has dropped the reservation (see
    /// [`crate::Group::leave`]).
    #[inline(always)]
    pub fn commit(self, mode: Mode) -> Result<Ticket, Error> {
        self.shared.life.check()?;
        self.shared.check_mode(mode)?;
        let (shared, ring, claim) = (self.shared, self.ring, self.reserved.claim());
        // Taken before the commit: afterwards the message may be delivered at any time.
        let ticket = ring.ticket(claim);
        // The destructor must not abandon the claim that is committed next.
        std::mem::forget(self);
        ring.commit(claim, mode);
        // `work` contains the fence that `is_kept` needs: after it, a drop by a leave before the commit is visible.
        shared.work();
        if ring.is_kept(claim) { Ok(ticket) } else { Err(Error::Left) }
    }

    /// Keeps the reservation open after this value is gone. For the C ABI, see [`Group::commit_claim`].
    #[doc(hidden)]
    pub fn into_claim(mut self) -> Claim {
        self.open = false;
        self.reserved.claim()
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        if self.shared.life.is_over() {
            return &[];
        }
        self.reserved.bytes()
    }
}

impl DerefMut for Reservation<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.shared.life.is_over() {
            return &mut [];
        }
        self.reserved.bytes_mut()
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.open && !self.shared.life.is_over() {
            // Abandoning is harmless if a leave has dropped the reservation already.
            self.ring.abandon(self.reserved.claim());
            self.shared.work();
        }
    }
}
