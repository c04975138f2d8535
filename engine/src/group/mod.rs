//! What an application holds: join, send, flush, query, leave.
//!
//! [`Group`] is a handle for any thread. Behind it a [`Driver`] runs the node, either in a thread of the library
//! ([`Group::join`]) or in the application's own event loop ([`Group::join_driven`]).

mod ask;
mod backlog;
mod bell;
mod contacts;
mod dispatch;
mod door;
mod driver;
mod durable;
mod entry;
mod flush;
mod founding;
mod gate;
mod handler;
mod idle;
mod join;
mod linking;
mod newcomer;
mod patience;
mod pulse;
mod reception;
mod records;
mod recover;
mod relink;
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
pub use recover::{RecoverError, Recovered, recover};
pub use view::View;

use crate::config::{Config, MemberId, SubgroupId};
use crate::error::Error;
use crate::multicast::{Claim, Mode, Reserved, SendRing, Stats};
use crate::thread;
use shared::{Shared, after};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A member's handle on its group; clones are the same member. When the last one goes without [`Group::leave`], the
/// others see this member fail. A handler that holds a clone keeps the group alive.
///
/// The member is the process's that joined. In a child that `fork` makes, every call gives [`Error::Forked`] and touches
/// nothing ([`Group::view`] is empty then), dropping does nothing, and the parent goes on undisturbed; the child may join by
/// itself. Until it ends or calls `exec` it shares the parent's descriptors: if the parent dies meanwhile, the others notice
/// by `failure_timeout_ms` only, and its port and its log stay taken. A child of `vfork` may call nothing.
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
        let thread = self.thread.get_mut().ok().and_then(Option::take);
        if self.shared.life.is_over() {
            // The thread is the parent's: there is nothing here to wait for or to detach.
            std::mem::forget(thread);
            return;
        }
        self.shared.abandon();
        // From inside a callback the thread is the own one: it ends by itself.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Group {
    /// Founds the group with the other members, or joins it if it runs; returns when this process votes in the group's view
    /// ([`View::voters`]), so that the next member can be restarted or stopped. Callbacks then run in a thread of the library;
    /// before that, in this call, the handler is already told the state, views and messages.
    ///
    /// Waits at most `join_timeout_ms`; the error names the members that are missing or disagree.
    pub fn join(config: Config, handler: impl Handler + 'static) -> Result<Group, Error> {
        let (shared, driver) = join::join(&config, Box::new(handler))?;
        let name = format!("galerna-{}", shared.me);
        let thread = thread::spawn(name, "runs the engine", config.stack_bytes, move || driver.run())?;
        Ok(Group::new(shared, Some(thread)))
    }

    /// As [`Group::join`], but nothing happens unless the application calls the driver: wait until [`Driver::fd`] is
    /// readable, then call [`Driver::dispatch`]. Callbacks run in there. The descriptor is readable when this returns.
    pub fn join_driven(config: Config, handler: impl Handler + 'static) -> Result<(Group, Driver), Error> {
        let (shared, driver) = join::join(&config, Box::new(handler))?;
        // The join has left the driver awake: nothing would make the descriptor readable before the first dispatch.
        shared.ring();
        Ok((Group::new(shared, None), driver))
    }

    fn new(shared: Arc<Shared>, thread: Option<JoinHandle<()>>) -> Group {
        let engine = Engine { shared: shared.clone(), thread: Mutex::new(thread) };
        Group { shared, _engine: Arc::new(engine) }
    }

    /// The view that the application was told of last.
    pub fn view(&self) -> Arc<View> {
        if self.shared.life.is_over() {
            return Arc::default();
        }
        self.shared.lock().view.clone()
    }

    /// This process's number.
    pub fn member(&self) -> MemberId {
        self.shared.me
    }

    /// What this process observed first that speaks against a member: why it suspects it, or which other member does. Of a
    /// member that was removed, what led to that; of one that is in the view, what was observed since the view began. For
    /// people; other members may have observed something else.
    pub fn fault(&self, member: MemberId) -> Option<String> {
        self.shared.life.check().ok()?;
        self.shared.lock().faults.get(&member).cloned()
    }

    /// Largest message of a subgroup, in bytes.
    pub fn max_message(&self, subgroup: SubgroupId) -> Result<usize, Error> {
        Ok(self.ring(subgroup)?.max_message())
    }

    #[inline]
    fn ring(&self, subgroup: SubgroupId) -> Result<&Arc<SendRing>, Error> {
        self.shared.life.check()?;
        self.ring_of(subgroup)
    }

    /// As [`Group::ring`], for callers that check by themselves that this is no forked child.
    #[inline]
    fn ring_of(&self, subgroup: SubgroupId) -> Result<&Arc<SendRing>, Error> {
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
        let ring = self.ring_of(subgroup)?;
        match self.claim(ring, len) {
            Err(Error::WouldBlock(_)) if !timeout.is_zero() && !self.shared.in_callback() => {}
            other => return other,
        }
        self.shared.wait_for_space(timeout, || self.claim(ring, len))
    }

    /// Reserves `len` bytes of the ring, or says [`Error::WouldBlock`] when it is full.
    #[inline(always)]
    pub fn try_reserve(&self, subgroup: SubgroupId, len: usize) -> Result<Reservation<'_>, Error> {
        self.claim(self.ring_of(subgroup)?, len)
    }

    #[inline(always)]
    fn claim<'g>(&'g self, ring: &'g SendRing, len: usize) -> Result<Reservation<'g>, Error> {
        match self.shared.claim(ring, len) {
            Ok(reserved) => Ok(Reservation { shared: &self.shared, ring, reserved, open: true }),
            Err(no) => Err(self.shared.refused(no, len)),
        }
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
        if let Err(forked) = self.shared.life.check() {
            return Some(forked);
        }
        self.shared.lock().stopped.clone()
    }

    /// Accepts nothing more, sends what was accepted, and asks the others to go on without this process: they do so in a
    /// next view, and have been delivered all that this one has sent. Afterwards every call answers [`Error::Left`].
    ///
    /// An open [`Reservation`] holds back the messages after it. The leave waits half of `timeout` for its commit, then drops
    /// it: nothing of it is sent, and its commit answers [`Error::Left`].
    ///
    /// If `timeout` passes first, the process leaves all the same, and the others see it fail. With
    /// [`Group::join_driven`], use [`Driver::leave`].
    pub fn leave(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave(timeout)?;
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("the leave has begun; it ends after the callback"));
        }
        let left = self.shared.wait_until(after(timeout), "leave", timeout, |state| state.ended.clone());
        if matches!(left, Err(Error::TimedOut { .. })) {
            self.shared.abandon();
        }
        left.and_then(|ended| ended)
    }

    /// Begins a leave, which the thread that dispatches goes on with: for the C ABI.
    #[doc(hidden)]
    pub fn begin_leave(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave(timeout)
    }

    /// How the leave ended, once it has: for the C ABI.
    #[doc(hidden)]
    pub fn left(&self) -> Option<Result<(), Error>> {
        self.shared.lock().ended.clone()
    }

    /// Whether nobody is to drive the group any more: for the C ABI.
    #[doc(hidden)]
    pub fn is_over(&self) -> bool {
        self.shared.is_abandoned() || self.left().is_some()
    }

    /// Ends as if the last handle had gone, so that calls that wait in other threads return: for the C ABI, which frees.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.shared.abandon();
    }

    /// [`Reservation::commit`] of a claim from [`Reservation::into_claim`]: for the C ABI. A claim that is not open is an
    /// error; [`Error::Left`] if the leave may have dropped it.
    #[doc(hidden)]
    pub fn commit_claim(&self, subgroup: SubgroupId, claim: Claim, mode: Mode) -> Result<(), Error> {
        self.shared.check_mode(mode)?;
        let open = self.ring(subgroup)?.commit_if_open(claim, mode);
        self.shared.work();
        if open { Ok(()) } else { Err(self.not_open()) }
    }

    /// Drops a claim from [`Reservation::into_claim`]: for the C ABI. One that the leave may have dropped is no error.
    #[doc(hidden)]
    pub fn abandon_claim(&self, subgroup: SubgroupId, claim: Claim) -> Result<(), Error> {
        let open = self.ring(subgroup)?.abandon_if_open(claim);
        self.shared.work();
        match self.not_open() {
            Error::Misuse(what) if !open => Err(Error::Misuse(what)),
            _ => Ok(()),
        }
    }

    fn not_open(&self) -> Error {
        let misuse = "the reservation is not open: committed already, or not one of this group";
        self.shared.check_open().err().unwrap_or(Error::Misuse(misuse))
    }
}

/// Ring bytes to fill in place: [`Reservation::commit`] sends them, dropping them sends nothing.
///
/// The bytes hold what earlier messages left there. In a forked child there are none.
pub struct Reservation<'g> {
    shared: &'g Shared,
    ring: &'g SendRing,
    reserved: Reserved<'g>,
    open: bool,
}

impl Reservation<'_> {
    /// Sends the message. Nothing is sent if the group does not have the mode ([`Mode::Durable`] without a log,
    /// [`Error::Misuse`]), or if a leave has dropped the reservation ([`Error::Left`], see [`Group::leave`]).
    #[inline(always)]
    pub fn commit(self, mode: Mode) -> Result<(), Error> {
        self.shared.life.check()?;
        self.shared.check_mode(mode)?;
        let (shared, ring, claim) = (self.shared, self.ring, self.reserved.claim());
        // It is not given up any more.
        std::mem::forget(self);
        ring.commit(claim, mode);
        // There is a fence in this, after which it is known whether it was dropped before.
        shared.work();
        if ring.is_kept(claim) { Ok(()) } else { Err(Error::Left) }
    }

    /// Keeps the reservation open beyond this value: for the C ABI, see [`Group::commit_claim`].
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
            // A leave may have dropped it.
            self.ring.abandon(self.reserved.claim());
            self.shared.work();
        }
    }
}
