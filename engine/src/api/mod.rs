//! The application's interface to a group: join, send, flush, query, leave.
//!
//! [`Group`] is a handle that any thread can use. Behind it a [`Driver`] runs the node, either in a thread of the
//! library ([`Group::join`]) or in the application's own event loop ([`Group::join_driven`]).

mod durable;
mod remote;
mod reservation;
mod start;

pub use reservation::Reservation;
pub use start::{Canceller, Joining, Starting};

use crate::app::{Handler, View};
use crate::bootstrap::join;
use crate::config::Config;
use crate::deadline::Cancel;
use crate::driver::Driver;
use crate::error::Error;
use crate::multicast::{Claim, RingSpace, SendRing, Stats};
use crate::shared::wait::Wait;
use crate::shared::{Shared, after};
use crate::sync::lock;
use crate::thread;
use crate::types::{Copies, MemberId, Mode, SubgroupId, Ticket, Until};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A member's handle on its group. Clones are handles on the same member.
///
/// If the last handle is dropped without a call of [`Group::leave`], the other members see this member fail. A handler
/// that holds a clone keeps the member in the group.
///
/// The handle belongs to the process that joined. In a child that `fork` makes, every call returns [`Error::Forked`]
/// and has no effect ([`Group::view`] returns an empty view), dropping a handle does nothing, and the parent is not
/// disturbed. The child may join on its own. It gives up its copies of the library's connections, ports and locks, so the
/// death of the parent is noticed as usual. A fork at the moment in which a connection is made, or a bare `clone`, can
/// escape this. Such a child keeps copies until it ends or calls `exec`: if the parent dies in that time, the other
/// members notice after `failure_timeout_ms`. A child of `vfork` must not make any call.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
    _engine: Arc<Engine>,
}

/// Ends the engine thread when the last handle is dropped.
struct Engine {
    shared: Arc<Shared>,
    /// The thread that drives the group, until somebody waits for its end.
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.shared.life.is_over() {
            // The thread belongs to the parent process. This process can neither wait for it nor detach it.
            std::mem::forget(self.thread.clone());
            return;
        }
        self.shared.abandon();
        let thread = lock(&self.thread).take();
        // A thread cannot join itself. If this runs inside a callback, the engine thread ends by itself.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Group {
    /// Founds the group with the other founders, or joins the group if it runs already.
    ///
    /// Returns when this process has a vote in the group's view ([`View::voters`]). The operator can then restart or
    /// stop the next member. After the return, callbacks run in a thread of the library. During the call the handler
    /// already receives the state, views and messages.
    ///
    /// Waits at most `join_timeout_ms`. The error names the members that are missing or have a different configuration.
    pub fn join(config: Config, handler: impl Handler + 'static) -> Result<Group, Error> {
        let (shared, driver) = join::join(&config, Box::new(handler), &Cancel::default())?;
        let name = format!("galerna-{}", shared.me);
        let thread = thread::spawn(name, "runs the engine", config.stack_bytes, move || driver.run())?;
        Ok(Group::new(shared, Some(thread)))
    }

    /// Like [`Group::join`], but the application runs the driver in its own event loop.
    ///
    /// Nothing happens unless the application calls the driver: wait until [`Driver::fd`] is readable, then call
    /// [`Driver::dispatch`]. Callbacks run inside that call. The descriptor is readable when this function returns.
    pub fn join_driven(config: Config, handler: impl Handler + 'static) -> Result<(Group, Driver), Error> {
        let (shared, driver) = join::join(&config, Box::new(handler), &Cancel::default())?;
        // The join leaves the driver awake, so no event would make the descriptor readable before the first dispatch.
        shared.ring();
        Ok((Group::new(shared, None), driver))
    }

    fn new(shared: Arc<Shared>, thread: Option<JoinHandle<()>>) -> Group {
        Group::in_thread(shared, Arc::new(Mutex::new(thread)))
    }

    /// A group that `thread` drives.
    fn in_thread(shared: Arc<Shared>, thread: Arc<Mutex<Option<JoinHandle<()>>>>) -> Group {
        let engine = Engine { shared: shared.clone(), thread };
        Group { shared, _engine: Arc::new(engine) }
    }

    /// The latest view of which the application was notified.
    pub fn view(&self) -> Arc<View> {
        if self.shared.life.is_over() {
            return Arc::default();
        }
        self.shared.lock().view.clone()
    }

    /// The member id of this process.
    pub fn member(&self) -> MemberId {
        self.shared.me
    }

    /// The first fault of a member that this process observed, as text for people.
    ///
    /// The text is the reason why this process suspects the member, or it names the member that does. For a member that
    /// was removed, it is the cause of the removal. For a member of the present view, only faults since the view began
    /// count. Other members may have observed something else. For this process itself, it is an error of its own.
    pub fn fault(&self, member: MemberId) -> Option<String> {
        self.shared.life.check().ok()?;
        self.shared.lock().faults.get(&member).cloned()
    }

    /// The size of the largest message of a subgroup, in bytes.
    pub fn max_message(&self, subgroup: SubgroupId) -> Result<usize, Error> {
        Ok(self.ring(subgroup)?.max_message())
    }

    #[inline]
    fn ring(&self, subgroup: SubgroupId) -> Result<&Arc<SendRing>, Error> {
        self.shared.life.check()?;
        self.ring_of(subgroup)
    }

    /// Like [`Group::ring`], for callers that check for a forked child themselves.
    #[inline]
    fn ring_of(&self, subgroup: SubgroupId) -> Result<&Arc<SendRing>, Error> {
        self.shared.rings.get(usize::from(subgroup.0)).ok_or(Error::UnknownSubgroup(subgroup))
    }

    /// Sends a copy of `payload`; waits up to `timeout` while the ring is full.
    ///
    /// Returns when the message is accepted, not when it is delivered; see [`Group::wait`] and [`Group::flush`].
    pub fn send(&self, subgroup: SubgroupId, mode: Mode, payload: &[u8], timeout: Duration) -> Result<Ticket, Error> {
        let mut reservation = self.reserve(subgroup, payload.len(), timeout)?;
        reservation.copy_from_slice(payload);
        reservation.commit(mode)
    }

    /// Sends a copy of `payload`, or returns [`Error::WouldBlock`] if the ring is full.
    pub fn try_send(&self, subgroup: SubgroupId, mode: Mode, payload: &[u8]) -> Result<Ticket, Error> {
        let mut reservation = self.try_reserve(subgroup, payload.len())?;
        reservation.copy_from_slice(payload);
        reservation.commit(mode)
    }

    /// Reserves `len` bytes of the ring, to be filled in place; waits up to `timeout` while the ring is full.
    ///
    /// The messages of one process are ordered by their reservations. An open reservation holds back all later ones.
    pub fn reserve(&self, subgroup: SubgroupId, len: usize, timeout: Duration) -> Result<Reservation<'_>, Error> {
        let ring = self.ring_of(subgroup)?;
        match self.claim(ring, len) {
            Err(Error::WouldBlock(_)) if !timeout.is_zero() && !self.shared.in_callback() => {}
            other => return other,
        }
        self.shared.wait_for_space(timeout, || self.claim(ring, len))
    }

    /// Reserves `len` bytes of the ring, or returns [`Error::WouldBlock`] if the ring is full.
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

    /// Waits until the message of `ticket` has been delivered here, or is durable, as `until` says.
    ///
    /// A server can answer its client when this returns. A zero `timeout` only asks: [`Error::TimedOut`] means not yet.
    /// Inside a callback it returns [`Error::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// The reason why the group stopped, or [`Error::Left`], if it ended before; the message may have been delivered at
    /// other members. [`Error::Misuse`] if no message has had this ticket so far.
    pub fn wait(&self, subgroup: SubgroupId, ticket: Ticket, until: Until, timeout: Duration) -> Result<(), Error> {
        self.start_wait(subgroup, ticket, until)?.wait(timeout)
    }

    /// Begins a wait for a message; the caller can check later whether it is over. Errors are those of [`Group::wait`].
    pub fn start_wait(&self, subgroup: SubgroupId, ticket: Ticket, until: Until) -> Result<Wait, Error> {
        let ring = self.ring(subgroup)?;
        if ring.is_future(ticket) {
            return Err(Error::Misuse("this process has sent no message with this ticket yet"));
        }
        match until {
            Until::Delivered => Ok(Wait::delivered(&self.shared, ring, ticket)),
            Until::Durable => {
                self.log(subgroup)?;
                Ok(Wait::durable(&self.shared, ring, ticket))
            }
        }
    }

    /// Waits until enough members have received every message that this process has sent or been delivered.
    ///
    /// After this, no crash of fewer than that many members can lose those messages. Inside a callback it returns
    /// [`Error::WouldBlock`] instead of waiting.
    pub fn flush(&self, subgroup: SubgroupId, copies: Copies, timeout: Duration) -> Result<(), Error> {
        self.start_flush(subgroup, copies)?.wait(timeout)
    }

    /// Begins a flush; the caller can check later whether it is done.
    ///
    /// # Errors
    /// [`Error::Misuse`] for [`Copies::AtLeast`] 0.
    pub fn start_flush(&self, subgroup: SubgroupId, copies: Copies) -> Result<Wait, Error> {
        let ring = self.ring(subgroup)?;
        self.shared.check_open()?;
        if copies == Copies::AtLeast(0) {
            return Err(Error::Misuse(
                "a flush to at least 0 members waits for nothing: ask for 1 or more, or for all",
            ));
        }
        Ok(Wait::received(&self.shared, copies, ring.next_ticket()))
    }

    /// The present state of this member's ring.
    pub fn ring_space(&self, subgroup: SubgroupId) -> Result<RingSpace, Error> {
        Ok(self.ring(subgroup)?.space())
    }

    /// Counters of a subgroup. In a busy group they may be some passes old.
    pub fn stats(&self, subgroup: SubgroupId) -> Result<Stats, Error> {
        self.ring(subgroup)?;
        Ok(self.shared.lock().stats[usize::from(subgroup.0)])
    }

    /// The reason why the group stopped, or `None` if it has not stopped.
    pub fn stopped(&self) -> Option<Error> {
        if let Err(forked) = self.shared.life.check() {
            return Some(forked);
        }
        self.shared.lock().stopped.clone()
    }

    /// Leaves the group: accepts no new messages, sends the accepted ones, and asks the others to continue without it.
    ///
    /// The other members continue in the next view, and every message that this process sent is delivered to them
    /// before. Afterwards every call returns [`Error::Left`].
    ///
    /// An open [`Reservation`] holds back the messages after it. The leave waits half of `timeout` for its commit, then
    /// drops it: its message is not sent, and its commit returns [`Error::Left`].
    ///
    /// If `timeout` passes first, the process leaves nevertheless, and the other members see it fail. With
    /// [`Group::join_driven`], use [`Driver::leave`].
    pub fn leave(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave(timeout, None)?;
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("the leave has begun; it ends after the callback"));
        }
        let left = self.shared.wait_until(after(timeout), "leave", timeout, |state| state.ended.clone());
        if matches!(left, Err(Error::TimedOut { .. })) {
            // Links that do not end in time, such as those to a process that stands still, end with this process.
            let departed = self.shared.lock().departed;
            self.shared.abandon();
            if departed {
                return Ok(());
            }
        }
        left.and_then(|ended| ended)
    }

    /// Begins to leave, like [`Group::leave`], and returns at once. May be called inside a callback.
    ///
    /// `done` is called once, with the result, in the thread that drives the group. If the application drives it, that is
    /// inside [`Driver::dispatch`], which returns [`Error::Left`] afterwards. If the application drops the driver before
    /// the leave is over, or the last handle is dropped, the leave ends at once, and `done` is called with
    /// [`Error::Left`].
    ///
    /// # Errors
    /// [`Error::Left`] if a leave has begun before, and the reason why the group stopped if it has stopped. `done` is not
    /// called then.
    pub fn leave_start(
        &self,
        timeout: Duration,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.shared.begin_leave(timeout, Some(Box::new(done)))
    }

    /// Begins a leave, which the dispatching thread completes. For the C ABI.
    #[doc(hidden)]
    pub fn begin_leave(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.begin_leave(timeout, None)
    }

    /// The result of the leave, once it has ended. For the C ABI.
    #[doc(hidden)]
    pub fn left(&self) -> Option<Result<(), Error>> {
        self.shared.lock().ended.clone()
    }

    /// Whether the others have gone on without this process, which leaves. For the C ABI.
    #[doc(hidden)]
    pub fn has_departed(&self) -> bool {
        self.shared.lock().departed
    }

    /// Whether the group needs no driver any more. For the C ABI.
    #[doc(hidden)]
    pub fn is_over(&self) -> bool {
        self.shared.is_abandoned() || self.left().is_some()
    }

    /// Ends the group as if the last handle had been dropped, so that calls waiting in other threads return. For the C
    /// ABI, which calls this before it frees the group.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.shared.abandon();
    }

    /// Commits a claim from [`Reservation::into_claim`], like [`Reservation::commit`]. For the C ABI.
    ///
    /// A claim that is not open is an error: [`Error::Left`] if the leave may have dropped it, otherwise
    /// [`Error::Misuse`].
    #[doc(hidden)]
    pub fn commit_claim(&self, subgroup: SubgroupId, claim: Claim, mode: Mode) -> Result<Ticket, Error> {
        self.shared.check_mode(mode)?;
        let ring = self.ring(subgroup)?;
        let (ticket, open) = (ring.ticket(claim), ring.commit_if_open(claim, mode));
        self.shared.work();
        if open { Ok(ticket) } else { Err(self.not_open()) }
    }

    /// Drops a claim from [`Reservation::into_claim`]. For the C ABI. A claim that the leave may have dropped is no
    /// error.
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
        let misuse = "the reservation is not open: it was committed or abandoned already, or belongs to another group";
        self.shared.check_open().err().unwrap_or(Error::Misuse(misuse))
    }
}
