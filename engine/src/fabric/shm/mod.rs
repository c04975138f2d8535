//! Members on one host share their rows: a push is the owner's store, and one copy serves all readers.
//!
//! [`ShmFabric::new`] makes the own memory and its [`Offer`]. With that any thread exchanges memory with peers, over one
//! connected unix stream each; [`Fabric::attach`] puts what came of it in service. Then the stream tells that the peer is
//! alive, and brings its new memory.
//!
//! * Each member keeps its rows in sealed memory that it alone can write. [`Fabric::write`] therefore moves nothing: it
//!   notes who is to be told. [`Fabric::submit`] tells: one counter per peer in the member's *header page*, and a system
//!   call only for those that sleep.
//! * [`Fabric::poll`] looks at the peers' counters, without a system call. It looks at the descriptors (wake-ups, dead
//!   peers) when it is armed or was, when it is closing, and otherwise as [`Turns`] says, whatever else it finds: so
//!   a member that never sleeps learns of a dead peer too.
//! * A [`Source::Stable`] write is *completed* at once, since nothing is copied; but its source is what the peers read.
//!   When its bytes may be reused is the protocol's business (everyone has delivered them).
//! * [`Fabric::sever`] copies the peer's rows and puts the copies in their place. A link that is down leaves the peer's
//!   memory mapped: a dead process writes nothing, and one that lives on is severed when its view ends, or when another
//!   gets its slot.
//! * [`Fabric::relink`] leaves the peer's memory mapped as it is, or maps it anew at the same addresses if copies had been put
//!   there. What the peer stored meanwhile is seen, whether or not it was written through a link.
//! * [`Fabric::release`] tells the peer what was written for it, then severs it. The peer goes on mapping the own rows,
//!   and may see later stores; it cannot tell them from earlier ones.
//! * [`Fabric::fetch`] moves nothing either: what the owner stored is in the map of its row already. It is done at the
//!   next poll. Of an owner that was severed here there is what the copy holds.
//! * [`Fabric::renew`] makes new memory and hands it to the peers, over the streams: see `renewal.rs`.
//! * Calling a store of [`Row`] on a peer's row faults: those maps are read-only.

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

/// What the epoll says of an eventfd; of a stream it says the peer's slot.
const WAKE_TOKEN: u64 = u64::MAX;

/// The fabric of members on one host. See the module's documentation.
pub struct ShmFabric {
    me: Slot,
    specs: Vec<TableSpec>,
    own: Header,
    rows: Vec<Arc<Row>>,
    /// New memory that is still to be given to a peer, of the table at this position.
    owed: Vec<(Slot, usize)>,
    /// Held for the descriptor of new memory, the own or a peer's.
    reserve: Option<EventFd>,
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
    turns: Turns,
    /// Fetches since the last poll, each an [`Event::Fetched`].
    fetched: Vec<(Slot, Event)>,
    /// What was found between two polls.
    untold: Vec<Event>,
    epoll: Epoll,
    /// Room for what the epoll reports.
    ready: Vec<EpollEvent>,
    stats: FabricStats,
}

/// A peer's memory, for as long as nobody else has its slot.
struct Memory {
    /// In the order of the tables.
    rows: Vec<Arc<Row>>,
    /// Which memory of the host the rows are, in their order.
    origins: Vec<Origin>,
    /// What will take their place when they are severed; none once that has happened.
    spares: Vec<Option<Spare>>,
    /// What was not asked for yet.
    newer: Vec<Newer>,
    /// By table: the epoch of the memory in use; the peer's header page shows that of its present one, also without a link.
    epochs: Vec<u64>,
    header: Arc<Header>,
    /// The peer's process, as far as this one can name it; 0 if not.
    process: i32,
}

/// A peer that is up.
struct Link {
    stream: UnixStream,
    header: Arc<Header>,
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
            untold: Vec::new(),
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

    /// Whether `connection` is one to `peer`, for this process. The exchange has refused the own slot and those out of range.
    fn check(&self, peer: Slot, connection: Connection) -> Result<Prepared, Error> {
        match connection {
            Connection::Shm(prepared) if prepared.peer == peer && prepared.has(&self.offer) => Ok(prepared),
            Connection::Shm(_) => {
                Err(Error::Misuse("shared memory: this was exchanged for another slot, or with another's offer"))
            }
            _ => Err(Error::Misuse("shared memory needs a peer's memory")),
        }
    }

    /// Makes `link`, which is listened to, the one of `peer`.
    fn put_in_service(&mut self, peer: Slot, link: Link) {
        if self.closing {
            let _ = link.stream.shutdown(Shutdown::Write);
        }
        self.links.insert(peer, link);
        // It may have gone already.
        self.look = true;
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
        let Some(end) = self.take_renewals(peer) else { return };
        let event = match end {
            End::Breach(what) => {
                self.sever(peer);
                Event::Breach { peer, what }
            }
            End::Down(cause) => {
                self.drop_link(peer);
                // Who closes has asked for it: no link broke by itself.
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

    /// The rows of a peer that was severed are in their places again, and `connection` is its link.
    fn come_back(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let Prepared { link, rows: offered, .. } = self.check(peer, connection)?;
        let Some(memory) = self.memory[peer].as_mut() else {
            return Err(Error::Misuse("shared memory: a link is made again to a process that was attached"));
        };
        // A row that has new memory meanwhile is announced once more.
        let same = |(known, (_, offered, _)): (&Origin, &(Arc<Row>, Origin, Spare))| known == offered;
        if !memory.origins.iter().zip(&offered).any(same) {
            return Err(Error::Misuse("shared memory: a link is made again to the process that was attached"));
        }
        // Copies were put in the rows' places: the peer's memory comes back there, so that all holders of a row see it.
        let places = memory.rows.iter().zip(&memory.origins).zip(&mut memory.spares).zip(offered);
        let back = places.filter(|(((_, known), place), (_, origin, _))| place.is_none() && *known == origin);
        for (((row, _), place), (live, _, spare)) in back {
            let back = sealed::put_back(live, row);
            back.map_err(|e| Error::io("shared memory: cannot map a peer's memory again", e))?;
            *place = Some(spare);
        }
        let rows = memory.rows.clone();
        self.listen(peer, &link).map_err(|e| Error::io("shared memory: cannot listen to a peer", e))?;
        self.put_in_service(peer, link);
        self.send_renewals(peer);
        Ok(rows)
    }
}

impl Fabric for ShmFabric {
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let Prepared { link, rows, .. } = self.check(peer, connection)?;
        let process = renewal::process(&link.stream);
        self.listen(peer, &link).map_err(|e| Error::io("shared memory: cannot listen to a peer", e))?;
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
            // Rows that did come back are of no link: nothing of them is to be seen.
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
        events.append(&mut self.untold);
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
        // What it has given counts, whatever else it did.
        let _ = self.take_renewals(peer);
        if let Some(Some(Memory { rows, spares, newer, .. })) = self.memory.get_mut(peer) {
            let newer = newer.iter_mut().map(|newer| (&newer.row, &mut newer.spare));
            // The copy is made before the peer can learn of it: one that no longer reckons with us may reuse its data.
            for (row, spare) in rows.iter().zip(spares).chain(newer) {
                if let Some(Err(error)) = spare.take().map(|spare| spare.replace(row)) {
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
