//! Members on one host share their rows: a push is the owner's store, and one copy serves all readers.
//!
//! [`ShmFabric::new`] makes the own memory and its [`Offer`]. With that any thread exchanges memory with peers, over one
//! connected unix stream each; [`Fabric::attach`] puts what came of it in service. Then the stream only tells that the
//! peer is alive.
//!
//! * Each member keeps its rows in sealed memory that it alone can write. [`Fabric::write`] therefore moves nothing: it
//!   notes who is to be told. [`Fabric::submit`] tells: one counter per peer in the member's *header page*, and a system
//!   call only for those that sleep.
//! * [`Fabric::poll`] looks at the peers' counters, without a system call. It looks at the descriptors (wake-ups, dead
//!   peers) when it is armed or was, when it is closing, and otherwise once in `LOOK_EVERY` calls, whatever else it
//!   finds: so a member that never sleeps learns of a dead peer too.
//! * A [`Source::Stable`] write is *completed* at once, since nothing is copied; but its source is what the peers read.
//!   When its bytes may be reused is the protocol's business (everyone has delivered them).
//! * [`Fabric::sever`] copies the peer's rows and puts the copies in their place. A link that is down leaves the peer's
//!   memory mapped: a dead process writes nothing, and one that lives on is severed when its view ends, or when another
//!   gets its slot.
//! * [`Fabric::release`] tells the peer what was written for it, then severs it. The peer goes on mapping the own rows,
//!   and may see later stores; it cannot tell them from earlier ones.
//! * [`Fabric::fetch`] moves nothing either: what the owner stored is in the map of its row already. It is done at the
//!   next poll. Of an owner that was severed here there is what the copy holds.
//! * Calling a store of [`Row`] on a peer's row faults: those maps are read-only.

mod exchange;
mod scm;
mod sealed;
mod setup;
#[cfg(test)]
mod tests;
mod wake;

pub use setup::{Offer, Prepared};

use super::peers::Peers;
use super::setup::{Heard, hear};
use super::{Connection, Event, Fabric, FabricStats, Row, SLOTS, Slot, Source, TableId, TableSpec, Ticket, index_of};
use crate::error::Error;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use sealed::Spare;
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use wake::Header;

/// A poll that has no reason to look at the descriptors does so once in so many calls.
const LOOK_EVERY: u32 = 128;
/// What the epoll says of an eventfd; of a stream it says the peer's slot.
const WAKE_TOKEN: u64 = u64::MAX;

/// The fabric of members on one host. See the module's documentation.
pub struct ShmFabric {
    me: Slot,
    specs: Vec<TableSpec>,
    own: Header,
    /// What the peers got.
    offer: Offer,
    links: Peers<Link>,
    /// By slot; none where nobody was attached.
    memory: Vec<Option<Memory>>,
    posted: u64,
    /// Some link is dirty.
    dirty: bool,
    armed: bool,
    /// The next poll looks at the descriptors.
    look: bool,
    closing: bool,
    polls: u32,
    /// Fetches since the last poll, each an [`Event::Fetched`].
    fetched: Vec<(Slot, Event)>,
    epoll: Epoll,
    /// Room for what the epoll reports.
    ready: Vec<EpollEvent>,
    stats: FabricStats,
}

/// A peer's memory, for as long as nobody else has its slot.
struct Memory {
    /// In the order of the tables.
    rows: Vec<Arc<Row>>,
    /// What will take their place when they are severed; empty once that has happened.
    spares: Vec<Spare>,
}

/// A peer that is up.
struct Link {
    stream: UnixStream,
    header: Header,
    /// Registered in the epoll; alive as long as the link.
    wakes_me: EventFd,
    wakes_peer: EventFd,
    /// The generation of the peer's sleep that we ended.
    woken: u64,
    /// The peer's posts to us that a poll has seen.
    seen: u64,
    /// Something was written for it since the last submit.
    dirty: bool,
}

impl ShmFabric {
    /// A fabric without peers for the process in slot `me`, its rows in the order of `specs`, and what it offers to peers.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a slot or tables that cannot be, [`Error::Io`] when the system refuses memory or descriptors.
    pub fn new(me: Slot, specs: &[TableSpec]) -> Result<(ShmFabric, Vec<Arc<Row>>, Offer), Error> {
        let (offer, own, rows) = Offer::create(me, specs)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|e| Error::io("shared memory: cannot create an epoll", e))?;
        let fabric = ShmFabric {
            me,
            specs: specs.to_vec(),
            own,
            offer: offer.clone(),
            links: Peers::new(),
            memory: (0..SLOTS).map(|_| None).collect(),
            posted: 0,
            dirty: false,
            armed: false,
            look: false,
            closing: false,
            polls: 0,
            fetched: Vec::new(),
            epoll,
            // A stream and an eventfd per peer.
            ready: vec![EpollEvent::empty(); 2 * SLOTS],
            stats: FabricStats::default(),
        };
        Ok((fabric, rows, offer))
    }

    /// Listens to a link that is to become the one of `peer`.
    fn listen(&self, peer: Slot, link: &Link) -> nix::Result<()> {
        let stream_events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        self.epoll.add(&link.stream, EpollEvent::new(stream_events, peer as u64))?;
        // Edge-triggered: every write of the peer makes the epoll readable once, and nothing need ever be read. So nobody
        // who shares the descriptor can block us in a read.
        let wake_events = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        let listened = self.epoll.add(&link.wakes_me, EpollEvent::new(wake_events, WAKE_TOKEN));
        listened.inspect_err(|_| self.ignore(link))
    }

    /// Takes a link's descriptors out of the epoll.
    fn ignore(&self, link: &Link) {
        // By name, not by closing: a forked child may hold the descriptors too.
        let _ = self.epoll.delete(&link.stream);
        let _ = self.epoll.delete(&link.wakes_me);
    }

    /// Tells the peers that something was stored for them, and wakes those that sleep. True if there was anything.
    fn announce(&mut self) -> bool {
        if !std::mem::take(&mut self.dirty) {
            return false;
        }
        for (peer, _) in self.links.iter().filter(|(_, link)| link.dirty) {
            self.own.post(peer);
        }
        Header::fence_posts();
        for (_, link) in self.links.iter_mut() {
            if !std::mem::take(&mut link.dirty) {
                continue;
            }
            let Some(generation) = link.header.sleeping() else {
                continue;
            };
            if generation != link.woken {
                link.woken = generation;
                self.stats.system_calls += 1;
                // Fails only when the peer was woken 2^64 - 2 times without cause: it is readable then.
                let _ = link.wakes_peer.write(1);
            }
        }
        true
    }

    /// True if a peer has posted since the last call.
    fn collect(&mut self) -> bool {
        let mut found = false;
        for (_, link) in self.links.iter_mut() {
            let posts = link.header.posts(self.me);
            found |= posts != link.seen;
            link.seen = posts;
        }
        found
    }

    /// Takes what the descriptors report.
    fn look(&mut self, events: &mut Vec<Event>) {
        let mut ready = std::mem::take(&mut self.ready);
        // An error can only be an interruption; a later call looks again.
        let n = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        let mut woken = false;
        for event in &ready[..n] {
            match usize::try_from(event.data()) {
                Ok(peer) if peer < SLOTS => self.hear(peer, events),
                _ => woken = true,
            }
        }
        self.ready = ready;
        if woken && self.armed {
            // The wake-up of this generation is used up: ask for another before the posts are looked at, so that a peer
            // that posts after that look wakes us again.
            self.own.sleep();
        }
    }

    /// The peer's stream is readable or has ended: what it stored before is visible already, as we learn it from the
    /// kernel after it stored.
    fn hear(&mut self, peer: Slot, events: &mut Vec<Event>) {
        let Some(link) = self.links.get_mut(peer) else { return };
        let cause = match hear(&link.stream) {
            Heard::Silence => return,
            Heard::End => "the peer closed the link, or its process died".to_owned(),
            Heard::Byte(byte) => {
                self.sever(peer);
                let what = format!("it sent the byte {byte} after the set-up of the shared memory");
                return events.push(Event::Breach { peer, what });
            }
            Heard::Broken(error) => format!("the link broke: {error}"),
        };
        self.drop_link(peer);
        // Who closes has asked for it: no link broke by itself.
        if !self.closing {
            events.push(Event::LinkDown { peer, cause });
        }
    }

    fn drop_link(&mut self, peer: Slot) {
        if let Some(link) = self.links.remove(peer) {
            self.ignore(&link);
            let _ = link.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Fabric for ShmFabric {
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let Connection::Shm(prepared) = connection else {
            return Err(Error::Misuse("shared memory needs a peer's memory"));
        };
        // The exchange has refused the own slot and those out of range.
        if prepared.peer != peer || !prepared.has(&self.offer) {
            return Err(Error::Misuse("shared memory: this was exchanged for another slot, or with another's offer"));
        }
        let Prepared { link, rows, .. } = prepared;
        self.listen(peer, &link).map_err(|e| Error::io("shared memory: cannot listen to a peer", e))?;
        self.sever(peer);
        if self.closing {
            let _ = link.stream.shutdown(Shutdown::Write);
        }
        self.links.insert(peer, link);
        // It may have gone already.
        self.look = true;
        let (rows, spares): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        self.memory[peer] = Some(Memory { rows: rows.clone(), spares });
        Ok(rows)
    }

    fn write(&mut self, peer: Slot, table: TableId, range: Range<usize>, source: Source) -> Ticket {
        let index = index_of(&self.specs, table);
        self.specs[index].check_write(&range, source);
        if let Some(link) = self.links.get_mut(peer) {
            link.dirty = true;
            self.dirty = true;
            self.posted += 1;
            self.stats.writes_posted += 1;
            self.stats.bytes_sent += range.len() as u64;
        }
        Ticket(self.posted)
    }

    fn submit(&mut self) {
        self.announce();
    }

    fn completed(&self) -> Ticket {
        Ticket(self.posted)
    }

    fn has_unsent(&self) -> bool {
        self.dirty && self.links.iter().any(|(_, link)| link.dirty)
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> bool {
        let sent = self.announce();
        let before = events.len();
        self.polls = self.polls.wrapping_add(1);
        if self.armed || self.closing || self.look || self.polls.is_multiple_of(LOOK_EVERY) {
            self.look = false;
            self.look(events);
        }
        if !self.fetched.is_empty() {
            let links = &self.links;
            events.extend(self.fetched.drain(..).filter(|(peer, _)| links.contains(*peer)).map(|(_, event)| event));
        }
        self.collect() || sent || events.len() > before
    }

    fn fetch(&mut self, peer: Slot, table: TableId, owner: Slot, range: Range<usize>) {
        let index = index_of(&self.specs, table);
        self.specs[index].check_fetch(&range);
        assert!(self.memory.get(owner).is_some_and(Option::is_some), "slot {owner} is not attached");
        if self.links.contains(peer) {
            self.fetched.push((peer, Event::Fetched { peer, table, owner, range }));
        }
    }

    fn sever(&mut self, peer: Slot) {
        // Another may get the slot before the next poll.
        self.fetched.retain(|(asked, _)| *asked != peer);
        if let Some(Some(Memory { rows, spares })) = self.memory.get_mut(peer) {
            // The copy is made before the peer can learn of it: one that no longer reckons with us may reuse its data.
            for (row, spare) in rows.iter().zip(spares.drain(..)) {
                if let Err(error) = spare.replace(row) {
                    // Needs a process at the kernel's limit of maps.
                    tracing::error!(peer, %error, "the memory of a severed member could not be replaced");
                }
            }
        }
        self.drop_link(peer);
    }

    fn release(&mut self, peer: Slot) {
        self.announce();
        // A process that died writes nothing more: copying its rings would hold up the next view for nothing.
        if self.links.get_mut(peer).is_some() {
            self.sever(peer);
        }
    }

    fn close(&mut self) {
        self.announce();
        self.closing = true;
        for (_, link) in self.links.iter() {
            let _ = link.stream.shutdown(Shutdown::Write);
        }
    }

    fn closed(&self) -> bool {
        self.links.is_empty()
    }

    fn arm(&mut self) {
        self.armed = true;
        self.own.sleep();
    }

    fn disarm(&mut self) {
        // What woke us is still to be taken from the descriptors.
        self.look |= self.armed;
        self.armed = false;
        self.own.awake();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn stats(&self) -> FabricStats {
        self.stats
    }
}

impl Drop for ShmFabric {
    fn drop(&mut self) {
        while let Some((peer, _)) = self.links.at(0) {
            self.drop_link(peer);
        }
    }
}
