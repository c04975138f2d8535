//! The shared-memory fabric: members on one host share rows. The owner's store is the push, and all readers use one
//! copy.
//!
//! [`ShmFabric::new`] allocates the own memory and returns its [`Offer`]. With the offer any thread exchanges memory
//! with peers, over one connected unix stream each. [`Fabric::attach`] puts the result into service. From then on the
//! stream shows that the peer's process exists, and carries its new memory.
//!
//! * Each member keeps its rows in sealed memory that only it can write. So [`Fabric::write`] moves nothing; it records
//!   which peers to notify. [`Fabric::submit`] notifies them: it increments one counter per peer in the own *header
//!   page*, and makes a system call only for peers that sleep.
//! * [`Fabric::poll`] reads the peers' counters without a system call. It checks the descriptors (wake-ups, dead peers)
//!   when it is or was armed, when it is closing, and otherwise as `Turns` decides, even if it finds other work. So a
//!   member that never sleeps also notices a dead peer.
//! * A [`Source::Stable`] write is *completed* at once, since nothing is copied. But peers read its source directly.
//!   The protocol decides when the bytes may be reused (after every member has delivered them).
//! * [`Fabric::sever`] copies the peer's rows and maps the copies in their place. A link that is down leaves the peer's
//!   memory mapped: a dead process writes nothing, and a running one is severed when its view ends, or when another
//!   process gets its slot.
//! * [`Fabric::relink`] leaves the peer's memory mapped. If copies had replaced it, it is mapped again at the same
//!   addresses. Stores that the peer made in between become visible, whether or not it pushed them through a link.
//! * [`Fabric::release`] announces the pending writes to the peer, then severs it. The peer keeps its map of the own
//!   rows and may see later stores, which it cannot distinguish from earlier ones.
//! * [`Fabric::fetch`] moves nothing either: the owner's stores are in the map of its row already. It ends at the next
//!   poll. If the owner was severed here, the bytes are those of the copy.
//! * [`Fabric::renew`] allocates new memory and sends it to the peers over the streams: see `renewal.rs`.
//! * A store through [`Row`] to a peer's row faults: those maps are read-only.

mod exchange;
mod renewal;
mod scm;
mod sealed;
mod setup;
#[cfg(test)]
mod tests;
mod wake;

pub use setup::{Offer, Prepared};

use super::peers::Peers;
use super::turns::Turns;
use super::{
    Connection, Event, Fabric, FabricStats, Renewed, Row, SLOTS, Slot, Source, TableId, TableSpec, Ticket, index_of,
};
use crate::error::Error;
use crate::process::Private;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use renewal::{End, Newer};
use sealed::{Origin, Spare};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use wake::Header;

/// The epoll data of an eventfd. The epoll data of a stream is the peer's slot.
const WAKE_TOKEN: u64 = u64::MAX;

/// The fabric of members on one host. See the module's documentation.
pub struct ShmFabric {
    me: Slot,
    specs: Vec<TableSpec>,
    own: Header,
    rows: Vec<Arc<Row>>,
    /// New memory still to be sent: the peer, and the position of the table.
    owed: Vec<(Slot, usize)>,
    /// Occupies a descriptor that is freed when new memory, own or a peer's, needs one.
    reserve: Option<EventFd>,
    /// The memory that peers get from this process.
    offer: Offer,
    links: Peers<Link>,
    /// By slot; `None` where no process was attached.
    memory: Vec<Option<Memory>>,
    posted: u64,
    /// At least one link is dirty.
    dirty: bool,
    armed: bool,
    /// The next poll must check the descriptors.
    look: bool,
    closing: bool,
    turns: Turns,
    /// Fetches since the last poll, each as its [`Event::Fetched`].
    fetched: Vec<(Slot, Event)>,
    /// Events found between two polls, for the next poll to report.
    unreported: Vec<Event>,
    epoll: Epoll,
    /// The buffer for the events of the epoll.
    ready: Vec<EpollEvent>,
    stats: FabricStats,
}

/// A peer's memory, kept until another process gets its slot.
struct Memory {
    /// In the order of the tables.
    rows: Vec<Arc<Row>>,
    /// The identity of the memory behind each row, in the order of the rows.
    origins: Vec<Origin>,
    /// The address space that replaces each row when it is severed; `None` after that.
    spares: Vec<Option<Spare>>,
    /// New memory that was received but not asked for yet.
    newer: Vec<Newer>,
    /// By table: the epoch of the memory in use. The peer's header page shows the epoch of its present memory, even
    /// without a link.
    epochs: Vec<u64>,
    header: Arc<Header>,
    /// The process id of the peer, or 0 if it has none in this process's pid namespace.
    process: i32,
}

/// A peer that is up.
struct Link {
    stream: Private<UnixStream>,
    header: Arc<Header>,
    /// Registered in the epoll; alive as long as the link.
    wakes_me: EventFd,
    wakes_peer: EventFd,
    /// The generation of the peer's sleep that we ended last.
    woken: u64,
    /// The number of the peer's posts to us that a poll has seen.
    seen: u64,
    /// Something was written for the peer since the last submit.
    dirty: bool,
}

impl ShmFabric {
    /// Makes a fabric without peers for the process in slot `me`.
    ///
    /// Returns it with the own rows, in the order of `specs`, and the [`Offer`] for its peers.
    ///
    /// # Errors
    /// [`Error::Misuse`] for an invalid slot or invalid tables, [`Error::Io`] when the system refuses memory or
    /// descriptors.
    pub fn new(me: Slot, specs: &[TableSpec]) -> Result<(ShmFabric, Vec<Arc<Row>>, Offer), Error> {
        let (offer, own, rows) = Offer::create(me, specs)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|e| Error::io("shared memory: cannot create an epoll", e))?;
        let fabric = ShmFabric {
            me,
            specs: specs.to_vec(),
            own,
            rows: rows.clone(),
            owed: Vec::new(),
            reserve: renewal::reserve(),
            offer: offer.clone(),
            links: Peers::new(),
            memory: (0..SLOTS).map(|_| None).collect(),
            posted: 0,
            dirty: false,
            armed: false,
            look: false,
            closing: false,
            turns: Turns::new(),
            fetched: Vec::new(),
            unreported: Vec::new(),
            epoll,
            // One stream and one eventfd per peer.
            ready: vec![EpollEvent::empty(); 2 * SLOTS],
            stats: FabricStats::default(),
        };
        Ok((fabric, rows, offer))
    }

    /// Registers the descriptors of a link that is about to become the link of `peer`.
    fn listen(&self, peer: Slot, link: &Link) -> nix::Result<()> {
        let stream_events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        self.epoll.add(&link.stream, EpollEvent::new(stream_events, peer as u64))?;
        // Edge-triggered: every write of the peer makes the epoll readable once, and the eventfd need not be read. So
        // no process that shares the descriptor can make us block in a read.
        let wake_events = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        let listened = self.epoll.add(&link.wakes_me, EpollEvent::new(wake_events, WAKE_TOKEN));
        listened.inspect_err(|_| self.ignore(link))
    }

    /// Checks that `connection` leads to `peer` and was made with this process's offer. The exchange has already
    /// refused the own slot and slots that are out of range.
    fn check(&self, peer: Slot, connection: Connection) -> Result<Prepared, Error> {
        match connection {
            Connection::Shm(prepared) if prepared.peer == peer && prepared.has(&self.offer) => Ok(prepared),
            Connection::Shm(_) => {
                Err(Error::Misuse("shared memory: the connection was made for another slot, or with another offer"))
            }
            _ => Err(Error::Misuse("shared memory: the connection does not contain a peer's memory")),
        }
    }

    /// Makes `link`, which is registered in the epoll, the link of `peer`.
    fn put_in_service(&mut self, peer: Slot, link: Link) {
        if self.closing {
            let _ = link.stream.shutdown(Shutdown::Write);
        }
        self.links.insert(peer, link);
        // The peer may be gone already, so the next poll checks the descriptors.
        self.look = true;
    }

    /// Removes a link's descriptors from the epoll.
    fn ignore(&self, link: &Link) {
        // Explicitly, since closing may not remove them: a forked child may hold the descriptors, too.
        let _ = self.epoll.delete(&link.stream);
        let _ = self.epoll.delete(&link.wakes_me);
    }

    /// Announces stores to the peers for which there are any, and wakes those that sleep. True if there were any.
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
                // Fails only if the peer was woken 2^64 - 2 times without need. Its eventfd is readable then anyway.
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

    /// Handles everything that the descriptors report.
    fn look(&mut self, events: &mut Vec<Event>) {
        let mut ready = std::mem::take(&mut self.ready);
        // The only possible error is an interruption; a later call checks again.
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
            // The wake-up of this generation is used up. Ask for another one before the posts are read, so that a peer
            // that posts after that read wakes us again.
            self.own.sleep();
        }
    }

    /// Handles a stream that is readable or has ended.
    ///
    /// The peer's earlier stores are visible already, because the kernel reports the event after the peer stored.
    fn hear(&mut self, peer: Slot, events: &mut Vec<Event>) {
        let Some(end) = self.take_renewals(peer) else { return };
        let event = match end {
            End::Violation(what) => {
                self.sever(peer);
                Event::Violation { peer, what }
            }
            End::Down(cause) => {
                self.drop_link(peer);
                // We close, so the link did not break by itself.
                if self.closing {
                    return;
                }
                Event::LinkDown { peer, cause }
            }
        };
        events.push(event);
    }

    fn drop_link(&mut self, peer: Slot) {
        self.owed.retain(|(to, _)| *to != peer);
        if let Some(link) = self.links.remove(peer) {
            self.ignore(&link);
            let _ = link.stream.shutdown(Shutdown::Both);
        }
    }

    /// Puts a severed peer's memory back in the place of its copies, and makes `connection` its link.
    fn come_back(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let Prepared { link, rows: offered, .. } = self.check(peer, connection)?;
        let Some(memory) = self.memory[peer].as_mut() else {
            return Err(Error::Misuse("shared memory: only a process that was attached can be linked again"));
        };
        // Only one row has to match: a row that got new memory since is sent once more after the link is made.
        let same = |(known, (_, offered, _)): (&Origin, &(Arc<Row>, Origin, Spare))| known == offered;
        if !memory.origins.iter().zip(&offered).any(same) {
            return Err(Error::Misuse("shared memory: the process to link again is not the one that was attached"));
        }
        // Where copies replaced rows, the peer's memory is mapped at the same address again, so that all holders of a
        // row see it.
        let places = memory.rows.iter().zip(&memory.origins).zip(&mut memory.spares).zip(offered);
        let back = places.filter(|(((_, known), place), (_, origin, _))| place.is_none() && *known == origin);
        for (((row, _), place), (live, _, spare)) in back {
            let back = sealed::put_back(live, row);
            back.map_err(|e| Error::io("shared memory: cannot map a peer's memory again", e))?;
            *place = Some(spare);
        }
        let rows = memory.rows.clone();
        self.listen(peer, &link).map_err(|e| Error::io("shared memory: cannot watch the link to a peer", e))?;
        self.put_in_service(peer, link);
        self.send_renewals(peer);
        Ok(rows)
    }
}

impl Fabric for ShmFabric {
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let Prepared { link, rows, .. } = self.check(peer, connection)?;
        let process = renewal::process(&link.stream);
        self.listen(peer, &link).map_err(|e| Error::io("shared memory: cannot watch the link to a peer", e))?;
        self.sever(peer);
        let (epochs, header) = (vec![0; rows.len()], link.header.clone());
        self.put_in_service(peer, link);
        let (own, origins, spares) = (Vec::new(), Vec::new(), Vec::new());
        let mut memory = Memory { rows: own, origins, spares, newer: Vec::new(), epochs, header, process };
        for (row, origin, spare) in rows {
            memory.rows.push(row);
            memory.origins.push(origin);
            memory.spares.push(Some(spare));
        }
        let rows = memory.rows.clone();
        self.memory[peer] = Some(memory);
        self.send_renewals(peer);
        Ok(rows)
    }

    fn relink(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        self.fetched.retain(|(asked, _)| *asked != peer);
        self.drop_link(peer);
        let again = self.come_back(peer, connection);
        if again.is_err() {
            // The rows that did come back have no link, so their later stores must not be visible.
            self.sever(peer);
        }
        again
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
        let due = self.turns.is_due();
        if self.armed || self.closing || self.look || due {
            self.look = false;
            self.look(events);
        }
        self.give_what_is_owed();
        events.append(&mut self.unreported);
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
        // Another process may get the slot before the next poll.
        self.fetched.retain(|(asked, _)| *asked != peer);
        // New memory that the peer sent before is still valid, even if the stream reports an error.
        let _ = self.take_renewals(peer);
        if let Some(Some(Memory { rows, spares, newer, .. })) = self.memory.get_mut(peer) {
            let newer = newer.iter_mut().map(|newer| (&newer.row, &mut newer.spare));
            // The copy is made before the peer can notice that it is severed: a peer that no longer waits for us may
            // reuse its data.
            for (row, spare) in rows.iter().zip(spares).chain(newer) {
                if let Some(Err(error)) = spare.take().map(|spare| spare.replace(row)) {
                    // Happens only in a process at the kernel's limit of maps.
                    tracing::error!(peer, %error, "cannot replace the memory of a severed member by a copy");
                }
            }
        }
        self.drop_link(peer);
    }

    fn release(&mut self, peer: Slot) {
        self.announce();
        // A dead process writes nothing more, and copying its rings would delay the next view for nothing.
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
        // The wake-up that ended the sleep has yet to be taken from the descriptors.
        self.look |= self.armed;
        self.armed = false;
        self.own.awake();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn shares_rows(&self) -> bool {
        true
    }

    fn renew(&mut self, table: TableId, epoch: u64, departed: &[Slot]) -> Result<Option<Arc<Row>>, Error> {
        if departed.iter().all(|&slot| self.is_dead(slot)) {
            return Ok(None);
        }
        self.give_new_memory(index_of(&self.specs, table), epoch, departed).map(Some)
    }

    fn renewed(&mut self, peer: Slot, table: TableId, epoch: u64) -> Renewed {
        self.take_new_memory(peer, index_of(&self.specs, table), epoch)
    }

    fn received_from(&self, _: Slot) -> u64 {
        0
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
