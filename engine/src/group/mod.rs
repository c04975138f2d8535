//! What an application holds: join, send, flush, query, leave.
//!
//! [`Group`] is a handle for any thread. Behind it a [`Driver`] runs the node, either in a thread of the library
//! ([`Group::join`]) or in the application's own event loop ([`Group::join_driven`]).

mod backlog;
mod bell;
mod door;
mod driver;
mod durable;
mod entry;
mod flush;
mod gate;
mod handler;
mod join;
mod linking;
mod newcomer;
mod reception;
mod records;
mod revive;
mod shared;
mod transfer;
mod vault;
mod view;
mod wire;

pub use driver::Driver;
pub use durable::Frontiers;
pub use flush::Flush;
pub use handler::Handler;
pub use view::View;

use crate::config::{Config, MemberId, SubgroupId};
use crate::error::Error;
use crate::multicast::{Claim, Mode, SendRing, Stats};
use shared::{Shared, after};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A member's handle on its group; clones are the same member. When the last one goes without [`Group::leave`], the
/// others see this member fail. A handler that holds a clone keeps the group alive.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
    _engine: Arc<Engine>,
}

/// Ends the engine thread with the last handle.
struct Engine {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.abandon();
        // From inside a callback the thread is the own one: it ends by itself.
        if let Some(thread) = self.thread.get_mut().ok().and_then(Option::take)
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Group {
    /// Meets the other members, and returns when all have met all; callbacks then run in a thread of the library.
    ///
    /// Waits at most `join_timeout_ms`; the error names who is missing or disagrees.
    pub fn join(config: Config, handler: impl Handler + 'static) -> Result<Group, Error> {
        let (shared, driver) = join::join(&config, Box::new(handler))?;
        let thread = std::thread::Builder::new()
            .name(format!("galerna-{}", shared.me))
            .spawn(move || driver.run())
            .map_err(|e| Error::io("cannot start the engine's thread", e))?;
        Ok(Group::new(shared, Some(thread)))
    }

    /// As [`Group::join`], but nothing happens unless the application calls the driver: wait until [`Driver::fd`] is
    /// readable, then call [`Driver::dispatch`]. Callbacks run in there.
    pub fn join_driven(config: Config, handler: impl Handler + 'static) -> Result<(Group, Driver), Error> {
        let (shared, driver) = join::join(&config, Box::new(handler))?;
        Ok((Group::new(shared, None), driver))
    }

    fn new(shared: Arc<Shared>, thread: Option<JoinHandle<()>>) -> Group {
        let engine = Engine { shared: shared.clone(), thread: Mutex::new(thread) };
        Group { shared, _engine: Arc::new(engine) }
    }

    /// The view that the application was told of last.
    pub fn view(&self) -> Arc<View> {
        self.shared.lock().view.clone()
    }

    /// This process's number.
    pub fn member(&self) -> MemberId {
        self.shared.me
    }

    /// What this process last observed of a member that spoke against it: why it suspected it, or who did. For people; other
    /// members may have observed something else.
    pub fn fault(&self, member: MemberId) -> Option<String> {
        self.shared.lock().faults.get(&member).cloned()
    }

    /// Largest message of a subgroup, in bytes.
    pub fn max_message(&self, subgroup: SubgroupId) -> Result<usize, Error> {
        Ok(self.ring(subgroup)?.max_message())
    }

    #[inline]
    fn ring(&self, subgroup: SubgroupId) -> Result<&Arc<SendRing>, Error> {
        self.shared.rings.get(usize::from(subgroup.0)).ok_or(Error::UnknownSubgroup(subgroup))
    }

    /// Sends a copy of `payload`; waits up to `timeout` while the ring is full.
    ///
    /// Returns when the message is accepted, not when it is delivered; see [`Group::flush`].
    pub fn send(&self, subgroup: SubgroupId, mode: Mode, payload: &[u8], timeout: Duration) -> Result<(), Error> {
        let mut reservation = self.reserve(subgroup, payload.len(), timeout)?;
        reservation.copy_from_slice(payload);
        reservation.commit(mode)
    }

    /// Sends a copy of `payload`, or says [`Error::WouldBlock`] when the ring is full.
    pub fn try_send(&self, subgroup: SubgroupId, mode: Mode, payload: &[u8]) -> Result<(), Error> {
        let mut reservation = self.try_reserve(subgroup, payload.len())?;
        reservation.copy_from_slice(payload);
        reservation.commit(mode)
    }

    /// Reserves `len` bytes of the ring, to be filled in place; waits up to `timeout` while it is full.
    ///
    /// The order of one process's messages is that of their reservations: one that stays open holds back the later ones.
    pub fn reserve(&self, subgroup: SubgroupId, len: usize, timeout: Duration) -> Result<Reservation<'_>, Error> {
        let ring = self.ring(subgroup)?;
        match self.claim(ring, len) {
            Err(Error::WouldBlock(_)) if !timeout.is_zero() && !self.shared.in_callback() => {}
            other => return other,
        }
        self.shared.wait_for_space(timeout, || self.claim(ring, len))
    }

    /// Reserves `len` bytes of the ring, or says [`Error::WouldBlock`] when it is full.
    #[inline]
    pub fn try_reserve(&self, subgroup: SubgroupId, len: usize) -> Result<Reservation<'_>, Error> {
        self.claim(self.ring(subgroup)?, len)
    }

    #[inline]
    fn claim<'g>(&'g self, ring: &'g SendRing, len: usize) -> Result<Reservation<'g>, Error> {
        let claim = self.shared.claim(ring, len)?;
        Ok(Reservation { shared: &self.shared, ring, claim, open: true })
    }

    /// Returns when everything that this process has sent or been delivered is received by `k` members (0, or more than
    /// there are, means all): no crash of fewer than `k` can lose it any more. From inside a callback it says
    /// [`Error::WouldBlock`] instead of waiting.
    pub fn flush(&self, subgroup: SubgroupId, k: usize, timeout: Duration) -> Result<(), Error> {
        self.start_flush(subgroup, k)?.wait(timeout)
    }

    /// Begins a flush that can be asked later whether it is done.
    pub fn start_flush(&self, subgroup: SubgroupId, k: usize) -> Result<Flush, Error> {
        let ring = self.ring(subgroup)?;
        self.shared.check_open()?;
        Ok(Flush::start(&self.shared, k, ring.next_ticket()))
    }

    /// Counters of a subgroup; in a busy group they may be some passes old.
    pub fn stats(&self, subgroup: SubgroupId) -> Result<Stats, Error> {
        self.ring(subgroup)?;
        Ok(self.shared.lock().stats[usize::from(subgroup.0)])
    }

    /// Why the group stopped, if it did.
    pub fn stopped(&self) -> Option<Error> {
        self.shared.lock().stopped.clone()
    }

    /// Accepts nothing more, sends what was accepted, and asks the others to go on without this process: they do so in a
    /// next view, and have been delivered all that this one has sent. Afterwards every call answers [`Error::Left`].
    ///
    /// If `timeout` passes first, the process leaves all the same, and the others see it fail. With
    /// [`Group::join_driven`], use [`Driver::leave`].
    pub fn leave(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave()?;
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("the leave has begun; it ends after the callback"));
        }
        let left = self.shared.wait_until(after(timeout), "leave", timeout, |state| state.ended.clone());
        if matches!(left, Err(Error::TimedOut { .. })) {
            self.shared.abandon();
        }
        left.and_then(|ended| ended)
    }

    /// Ends as if the last handle had gone, so that calls that wait in other threads return: for the C ABI, which frees.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.shared.abandon();
    }

    /// [`Reservation::commit`] of a claim from [`Reservation::into_claim`]: for the C ABI. A claim that is not open is an
    /// error.
    #[doc(hidden)]
    pub fn commit_claim(&self, subgroup: SubgroupId, claim: Claim, mode: Mode) -> Result<(), Error> {
        self.shared.check_mode(mode)?;
        let open = self.ring(subgroup)?.commit_if_open(claim, mode);
        self.was_open(open)
    }

    /// Drops a claim from [`Reservation::into_claim`]: for the C ABI.
    #[doc(hidden)]
    pub fn abandon_claim(&self, subgroup: SubgroupId, claim: Claim) -> Result<(), Error> {
        let open = self.ring(subgroup)?.abandon_if_open(claim);
        self.was_open(open)
    }

    fn was_open(&self, open: bool) -> Result<(), Error> {
        self.shared.work();
        match open {
            true => Ok(()),
            false => Err(Error::Misuse("the reservation is not open: committed already, or not one of this group")),
        }
    }
}

/// Ring bytes to fill in place: [`Reservation::commit`] sends them, dropping them sends nothing.
///
/// The bytes hold what earlier messages left there.
pub struct Reservation<'g> {
    shared: &'g Shared,
    ring: &'g SendRing,
    claim: Claim,
    open: bool,
}

impl Reservation<'_> {
    /// Sends the message. Only a mode that the group does not have is an error: [`Mode::Durable`] without a log; then nothing
    /// is sent.
    #[inline]
    pub fn commit(mut self, mode: Mode) -> Result<(), Error> {
        self.shared.check_mode(mode)?;
        self.open = false;
        self.ring.commit(self.claim, mode);
        self.shared.work();
        Ok(())
    }

    /// Keeps the reservation open beyond this value: for the C ABI, see [`Group::commit_claim`].
    #[doc(hidden)]
    pub fn into_claim(mut self) -> Claim {
        self.open = false;
        self.claim
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.ring.bytes(self.claim)
    }
}

impl DerefMut for Reservation<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.ring.bytes_mut(&mut self.claim)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.open {
            self.ring.abandon(self.claim);
            self.shared.work();
        }
    }
}
