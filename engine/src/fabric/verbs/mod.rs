//! The RDMA fabric: members write into each other's memory. Its library is loaded at run time, only where RDMA is used.
//!
//! [`device`] lists the devices of this machine, and reports which one would be used, or why none can be.
//! [`VerbsFabric::new`] opens it, allocates the own memory and returns its [`Offer`]. With the offer any thread
//! connects queue pairs with peers, over one TCP connection each. [`Fabric::attach`] puts the result into service. From
//! then on the TCP connection only shows that the peer's process exists.
//!
//! * There is one reliable-connected (RC) queue pair per peer. [`Fabric::write`] queues a write. [`Fabric::submit`]
//!   posts the queue of a peer as one list with one doorbell, short writes inline. Data is an earlier request of the
//!   same queue pair than the counter that guards it, so the guarantees of RC order the two. Nothing depends on how a
//!   device copies.
//! * Few requests are signalled: the last of a list with a stable source, and one in a quarter of the send queue.
//!   Writes that exceed the send queue wait here (see `sends`).
//! * A landed write notifies no reader; the reader looks at the rows. So [`Fabric::poll`] reports landed writes only
//!   after a wake-up or a completion. A sleeping peer is woken by a write with immediate data (see `wake`).
//! * A fetch reads the memory that the peer's *directory* names (see `reads`), without the peer's processor.
//! * A link ends, by [`Fabric::sever`] or because it breaks, with its queue pair: after that is destroyed, nothing of
//!   the peer lands. The copies of its rows stay registered, for the fetches of others, until the second next process
//!   gets the slot.
//! * [`Fabric::release`] waits until the peer's device has taken the queued writes. That needs no help of the peer's
//!   processor. It takes some round trips, and at most the time given to [`VerbsFabric::new`]. A link served in the
//!   background would also accept writes of the peer, and read sources that may change.
//!
//! Peers are trusted with memory keys: a process that guesses the key of another's row could write it. Only protection
//! domains restrict cheaply which queue pair may use a key. One domain per peer would require registering every ring
//! once per peer.

pub mod device;
mod hello;
mod link;
#[cfg(test)]
mod live;
mod offer;
mod outbox;
mod port;
#[doc(hidden)]
pub mod raw;
mod reads;
mod region;
mod sends;
mod sys;
mod wake;

pub use offer::{Offer, Prepared};
pub use port::usable;

use super::peers::Peers;
use super::setup::{Heard, hear};
use super::turns::Turns;
use super::{
    Connection, Event, Fabric, FabricStats, Renewed, Row, SLOTS, Slot, Source, TableId, TableSpec, Ticket, index_of,
};
use crate::config::Verbs;
use crate::error::Error;
use link::Link;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use reads::{Directory, Read};
use region::Region;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::{IBV_EVENT_CQ_ERR, IBV_EVENT_DEVICE_FATAL, IBV_WC_SUCCESS, event_type, ibv_wc, wc_status};

/// The epoll data of the completion channel and of the device's events. That of a stream is the peer's slot.
const CHANNEL_TOKEN: u64 = u64::MAX;
const DEVICE_TOKEN: u64 = u64::MAX - 1;
/// Most wake-ups taken at a time.
const WAKES: usize = 32;

/// The RDMA fabric. See the module's documentation.
pub struct VerbsFabric {
    specs: Vec<TableSpec>,
    offer: Offer,
    links: Peers<Link>,
    /// By slot; `None` where no process was attached.
    memory: Vec<Option<Memory>>,
    posted: u64,
    armed: bool,
    /// The next poll must check the descriptors.
    look: bool,
    closing: bool,
    /// The time that all releases between two polls may wait for devices, and its end for those since the last poll.
    patience: Duration,
    release_until: Option<Instant>,
    turns: Turns,
    /// Wake-ups of links that are not attached here yet; the peer may have attached its end already.
    early: HashMap<u64, u32>,
    epoll: Epoll,
    ready: Vec<EpollEvent>,
    stats: FabricStats,
}

/// Copies of a peer's rows, in the order of the tables.
struct Memory {
    rows: Vec<Arc<Region>>,
    /// The copies for the previous process in the slot, which may still be read.
    _former: Vec<Arc<Region>>,
}

impl VerbsFabric {
    /// Makes a fabric without peers for the process in slot `me`. Returns it with its rows, in the order of `specs`,
    /// and its offer. A port with `address`, where the peers reach this process, is preferred. A release waits for a
    /// peer's device up to `patience`, for which the engine may stand still.
    ///
    /// # Errors
    /// [`Error::Rdma`] without a usable library, device or port; [`Error::Misuse`] for an invalid slot or invalid
    /// tables; [`Error::Io`] when the system refuses memory or descriptors.
    pub fn new(
        me: Slot,
        specs: &[TableSpec],
        settings: &Verbs,
        address: Option<IpAddr>,
        patience: Duration,
    ) -> Result<(VerbsFabric, Vec<Arc<Row>>, Offer), Error> {
        let (offer, rows) = Offer::create(me, specs, settings, address)?;
        let io = |e: nix::errno::Errno| Error::io("verbs: cannot create an epoll", e);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io)?;
        for (fd, token) in [(offer.0.channel.fd(), CHANNEL_TOKEN), (offer.0.port.context.events_fd(), DEVICE_TOKEN)] {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).map_err(io)?;
        }
        let fabric = VerbsFabric {
            specs: specs.to_vec(),
            offer: offer.clone(),
            links: Peers::new(),
            memory: (0..SLOTS).map(|_| None).collect(),
            posted: 0,
            armed: false,
            look: false,
            closing: false,
            patience,
            turns: Turns::new(),
            early: HashMap::new(),
            release_until: None,
            epoll,
            ready: vec![EpollEvent::empty(); SLOTS + 2],
            stats: FabricStats::default(),
        };
        Ok((fabric, rows, offer))
    }

    /// Checks that `connection` leads to `peer`, uses this process's offer, and was made `again` or not. The exchange
    /// has already refused the own slot and slots out of range.
    fn check(&self, peer: Slot, connection: Connection, again: bool) -> Result<Prepared, Error> {
        match connection {
            Connection::Verbs(prepared)
                if prepared.peer == peer && prepared.has(&self.offer) && prepared.link.held == again =>
            {
                Ok(*prepared)
            }
            Connection::Verbs(_) => {
                Err(Error::Misuse("verbs: the connection was made for another slot or purpose, or with another offer"))
            }
            _ => Err(Error::Misuse("verbs: the connection does not contain a queue pair")),
        }
    }

    /// Makes `link` the link of `peer`, after severing the former one.
    fn put_in_service(&mut self, peer: Slot, mut link: Link) -> Result<(), Error> {
        let fail = |e: io::Error| Error::io(format!("verbs: cannot watch the link to the process in slot {peer}"), e);
        link.stream.set_nonblocking(true).map_err(fail)?;
        self.drop_link(peer);
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        self.epoll.add(&link.stream, EpollEvent::new(interest, peer as u64)).map_err(|e| fail(e.into()))?;
        for _ in 0..self.early.remove(&link.id).unwrap_or(0) {
            link.take_wake();
        }
        // Links are attached about in the order in which they were made, so much older ones have ended.
        self.early.retain(|id, _| *id + SLOTS as u64 > link.id);
        self.links.insert(peer, link);
        // The peer may be gone already, so the next poll checks the descriptors.
        self.look = true;
        Ok(())
    }

    fn drop_link(&mut self, peer: Slot) {
        if let Some(link) = self.links.remove(peer) {
            let _ = self.epoll.delete(&link.stream);
            link.end();
        }
    }

    /// Handles everything that the descriptors report. True if a completion channel woke this process.
    fn look(&mut self, events: &mut Vec<Event>) -> bool {
        let mut ready = std::mem::take(&mut self.ready);
        // The only possible error is an interruption; a later call checks again.
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        let mut woken = false;
        for event in &ready[..count] {
            match event.data() {
                CHANNEL_TOKEN => woken = true,
                DEVICE_TOKEN => self.hear_device(),
                peer => self.hear(peer as Slot, events),
            }
        }
        self.ready = ready;
        if woken && let Err(error) = self.offer.0.channel.drain() {
            self.fail_all(&error.to_string());
        }
        woken
    }

    /// Handles the device's events. An event of one queue pair also shows in the queue pair's completions.
    fn hear_device(&mut self) {
        loop {
            match self.offer.0.port.context.next_event() {
                Ok(Some(event)) => {
                    let what = event_type(event.event_type);
                    tracing::warn!(device = self.offer.0.port.choice.device, ?event, what, "the device reports");
                    if matches!(event.event_type, IBV_EVENT_DEVICE_FATAL | IBV_EVENT_CQ_ERR) {
                        self.fail_all(what);
                    }
                }
                Ok(None) => return,
                Err(error) => return self.fail_all(&error.to_string()),
            }
        }
    }

    fn fail_all(&mut self, what: &str) {
        self.links.iter_mut().for_each(|(_, link)| link.fail(|| what.to_owned()));
    }

    /// Handles a stream that is readable or has ended.
    fn hear(&mut self, peer: Slot, events: &mut Vec<Event>) {
        let closing = self.closing;
        let Some(link) = self.links.get_mut(peer) else { return };
        match hear(&link.stream) {
            Heard::Silence => {}
            Heard::Byte(hello::SEVERED) if link.held => link.held = false,
            Heard::End if closing => link.peer_ended = true,
            Heard::End => link.fail(|| "the peer closed the link, or its process died".to_owned()),
            Heard::Byte(byte) => {
                self.drop_link(peer);
                let what = format!("it sent the byte {byte} after the set-up of the link");
                events.push(Event::Violation { peer, what });
            }
            Heard::Broken(error) => link.fail(|| format!("the link broke: {error}")),
        }
    }

    /// Takes wake-ups. True if there were any.
    fn take_wakes(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut found = [ibv_wc::default(); WAKES];
            let count = match self.offer.0.wakes.poll(&mut found) {
                Ok(count) => count,
                Err(error) => {
                    self.fail_all(&error.to_string());
                    return true;
                }
            };
            for completion in &found[..count] {
                let (id, success) = (completion.wr_id, completion.status == IBV_WC_SUCCESS);
                let Some(link) = self.links.iter_mut().map(|(_, link)| link).find(|link| link.id == id) else {
                    // A failed one belongs to a link that has ended. A successful one may belong to a link that is not
                    // attached yet.
                    if success {
                        *self.early.entry(id).or_default() += 1;
                    }
                    continue;
                };
                any = true;
                if success {
                    link.take_wake();
                } else {
                    // The completions of its own requests give a better reason.
                    link.complete();
                    link.fail(|| format!("the queue pair is in error: {}", wc_status(completion.status)));
                }
            }
            if count < WAKES {
                return any;
            }
        }
    }

    /// Prepares to sleep after the next poll that finds nothing.
    fn sleep(&mut self) {
        // Before the queues are read, so that everything that arrives after that read makes the channel readable.
        if let Err(error) = self.offer.0.wakes.request_notification(false) {
            self.fail_all(&error.to_string());
        }
        for (_, link) in self.links.iter_mut() {
            link.sleep(self.closing, &mut self.stats);
        }
    }

    /// Serves each link once. True if anything moved.
    fn serve(&mut self, events: &mut Vec<Event>) -> bool {
        let (mut moved, mut place) = (false, 0);
        while let Some((peer, link)) = self.links.at(place) {
            moved |= link.complete();
            let posted = link.sends.next();
            link.send(&self.offer.0.own, &mut self.stats);
            moved |= link.sends.next() != posted;
            if !link.reads.is_empty() {
                moved |= link.fetch(peer, events, &mut self.stats);
            }
            link.look(&mut self.stats);
            if self.closing && link.drain(&mut self.stats) && !link.own_ended {
                link.own_ended = true;
                // Fails only on a connection that broke.
                let _ = link.stream.shutdown(Shutdown::Write);
                moved = true;
            }
            let over = link.own_ended && link.peer_ended;
            if !over && link.down.is_none() {
                place += 1;
                continue;
            }
            let cause = link.down.take();
            self.drop_link(peer);
            moved = true;
            // We close, so the link did not break by itself.
            if let (Some(cause), false) = (cause, self.closing) {
                events.push(Event::LinkDown { peer, cause });
            }
        }
        moved
    }
}

impl Fabric for VerbsFabric {
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let Prepared { link, rows, .. } = self.check(peer, connection, false)?;
        self.put_in_service(peer, link)?;
        self.offer.keep(peer, &rows);
        let targets: Vec<_> = rows.iter().map(|region| region.target()).collect();
        Directory::show(&self.offer.0.directory.row, peer, &targets);
        let result = rows.iter().map(|region| region.row.clone()).collect();
        let former = self.memory[peer].take().map_or_else(Vec::new, |memory| memory.rows);
        self.memory[peer] = Some(Memory { rows, _former: former });
        Ok(result)
    }

    fn relink(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        self.drop_link(peer);
        let Prepared { link, rows, .. } = self.check(peer, connection, true)?;
        let known = self.memory[peer].as_ref().map_or(&[][..], |memory| &memory.rows);
        if known.len() != rows.len() || !known.iter().zip(&rows).all(|(known, row)| Arc::ptr_eq(known, row)) {
            return Err(Error::Misuse("verbs: another process has taken the slot since the connection was made"));
        }
        self.put_in_service(peer, link)?;
        if let Some(link) = self.links.get_mut(peer) {
            link.say_severed();
        }
        Ok(rows.iter().map(|region| region.row.clone()).collect())
    }

    fn write(&mut self, peer: Slot, table: TableId, range: Range<usize>, source: Source) -> Ticket {
        let index = index_of(&self.specs, table);
        self.specs[index].check_write(&range, source);
        if let Some(link) = self.links.get_mut(peer)
            && link.down.is_none()
            && !self.closing
            && !range.is_empty()
        {
            self.posted += 1;
            self.stats.writes_posted += 1;
            if source == Source::Snapshot || link.takes_at_once(range.len()) {
                link.outbox.push_copy(index, range, &self.offer.0.own[index].row);
            } else {
                link.outbox.push_stable(index, range, self.posted);
            }
        }
        Ticket(self.posted)
    }

    fn submit(&mut self) {
        for (_, link) in self.links.iter_mut() {
            link.send(&self.offer.0.own, &mut self.stats);
            if self.armed {
                // The last poll before the sleep may be over.
                link.sleep(self.closing, &mut self.stats);
            }
        }
    }

    fn completed(&self) -> Ticket {
        let first = self.links.iter().filter_map(|(_, link)| link.first_stable()).min();
        Ticket(first.map_or(self.posted, |ticket| ticket - 1))
    }

    fn has_unsent(&self) -> bool {
        self.links.iter().any(|(_, link)| !link.outbox.is_empty() || link.sends.is_awaited())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> bool {
        let before = events.len();
        self.release_until = None;
        let due = self.turns.is_due();
        let mut woken = false;
        if self.armed || self.closing || self.look || due {
            self.look = false;
            woken = self.look(events);
        }
        if woken && self.armed {
            // Request the next notification before the queues are read.
            self.sleep();
        }
        let found = self.take_wakes();
        if found && self.armed {
            self.sleep();
        }
        self.serve(events) | found | (events.len() > before)
    }

    fn fetch(&mut self, peer: Slot, table: TableId, owner: Slot, range: Range<usize>) {
        let index = index_of(&self.specs, table);
        self.specs[index].check_fetch(&range);
        let rows = self.memory.get(owner).and_then(|memory| memory.as_ref());
        let copy = rows.and_then(|memory| memory.rows.get(index)).cloned();
        assert!(copy.is_some(), "slot {owner} is not attached");
        if let (Some(link), Some(copy)) = (self.links.get_mut(peer), copy) {
            link.reads.push(Read { id: table, table: index, owner, range, copy });
        }
    }

    fn sever(&mut self, peer: Slot) {
        self.drop_link(peer);
    }

    fn release(&mut self, peer: Slot) {
        let Some(link) = self.links.get_mut(peer) else { return };
        let until = *self.release_until.get_or_insert_with(|| Instant::now() + self.patience);
        loop {
            link.send(&self.offer.0.own, &mut self.stats);
            if link.drain(&mut self.stats) || link.held || link.down.is_some() || Instant::now() >= until {
                break;
            }
            if !link.complete() {
                std::thread::yield_now();
            }
        }
        self.drop_link(peer);
    }

    fn close(&mut self) {
        self.submit();
        self.closing = true;
    }

    fn closed(&self) -> bool {
        self.links.is_empty()
    }

    fn arm(&mut self) {
        self.armed = true;
        self.sleep();
    }

    fn disarm(&mut self) {
        // The wake-up that ended the sleep has yet to be taken from the descriptors.
        self.look |= self.armed;
        self.armed = false;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn shares_rows(&self) -> bool {
        false
    }

    fn renew(&mut self, _: TableId, _: u64, _: &[Slot]) -> Result<Option<Arc<Row>>, Error> {
        Ok(None)
    }

    fn renewed(&mut self, _: Slot, _: TableId, _: u64) -> Renewed {
        Renewed::Same
    }

    fn received_from(&self, _: Slot) -> u64 {
        0
    }

    fn stats(&self) -> FabricStats {
        self.stats
    }
}

impl Drop for VerbsFabric {
    fn drop(&mut self) {
        while let Some((peer, _)) = self.links.at(0) {
            self.drop_link(peer);
        }
    }
}
