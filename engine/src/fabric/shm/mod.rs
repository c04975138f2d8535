//! Members on one host share their rows: a push is the owner's store, and one copy serves all readers.
//!
//! [`ShmFabric::new`] takes one connected unix stream per peer and exchanges memory over it; then the streams only tell
//! that the peer is alive.
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
//!   memory mapped: a dead process writes nothing, and one that lives on is severed when its view ends.
//! * Calling a store of [`Row`] on a peer's row faults: those maps are read-only.

mod exchange;
mod scm;
mod sealed;
mod setup;
#[cfg(test)]
mod tests;
mod wake;

pub use setup::{PeerFault, SetupError};

use super::{Event, Fabric, FabricStats, Rank, Row, Source, TableId, TableRows, TableSpec, Ticket};
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use nix::sys::eventfd::EventFd;
use sealed::Spare;
use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;
use wake::Header;

/// A poll that has no reason to look at the descriptors does so once in so many calls.
const LOOK_EVERY: u32 = 128;
/// What the epoll says of an eventfd; of a stream it says the peer's rank.
const WAKE_TOKEN: u64 = u64::MAX;

/// The fabric of members on one host. See the module's documentation.
pub struct ShmFabric {
    me: Rank,
    specs: Vec<TableSpec>,
    own: Header,
    peers: Vec<Peer>,
    posted: u64,
    /// Some peer is dirty.
    dirty: bool,
    armed: bool,
    /// The next poll looks at the descriptors.
    look: bool,
    closing: bool,
    polls: u32,
    epoll: Epoll,
    /// Room for what the epoll reports.
    ready: Vec<EpollEvent>,
    stats: FabricStats,
}

#[derive(Default)]
struct Peer {
    /// `None` once it is down or severed, and for this member.
    link: Option<Link>,
    /// Its rows in the order of the tables, until they are severed, each with what will take its place then.
    rows: Vec<(Arc<Row>, Spare)>,
    /// Something was written for it since the last submit.
    dirty: bool,
}

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
}

impl ShmFabric {
    /// Exchanges memory and wake-up descriptors with every peer until `deadline`.
    ///
    /// `links[r]` is a connected unix stream to the member of rank r (`None` for `me`); the next byte on it, in either
    /// direction, is this fabric's. Members may be made in any order; every peer must be making its own meanwhile.
    pub fn new(
        me: Rank,
        links: Vec<Option<UnixStream>>,
        specs: &[TableSpec],
        deadline: Instant,
    ) -> Result<(ShmFabric, Vec<TableRows>), SetupError> {
        setup::set_up(me, links, specs, deadline)
    }

    fn from_parts(me: Rank, specs: Vec<TableSpec>, own: Header, peers: Vec<Peer>, epoll: Epoll) -> ShmFabric {
        // A stream and an eventfd per peer.
        let ready = vec![EpollEvent::empty(); (2 * peers.len()).max(1)];
        ShmFabric {
            me,
            specs,
            own,
            peers,
            posted: 0,
            dirty: false,
            armed: false,
            look: false,
            closing: false,
            polls: 0,
            epoll,
            ready,
            stats: FabricStats::default(),
        }
    }

    /// Tells the peers that something was stored for them, and wakes those that sleep. True if there was anything.
    fn announce(&mut self) -> bool {
        if !std::mem::take(&mut self.dirty) {
            return false;
        }
        for (rank, _) in self.peers.iter().enumerate().filter(|(_, peer)| peer.dirty) {
            self.own.post(rank);
        }
        Header::fence_posts();
        for peer in &mut self.peers {
            if !std::mem::take(&mut peer.dirty) {
                continue;
            }
            let Some(link) = &mut peer.link else { continue };
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
        for link in self.peers.iter_mut().filter_map(|peer| peer.link.as_mut()) {
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
                Ok(rank) if rank < self.peers.len() => self.hear(rank, events),
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
    fn hear(&mut self, peer: Rank, events: &mut Vec<Event>) {
        let Some(link) = &self.peers[peer].link else { return };
        let mut byte = [0_u8];
        // SAFETY: receives into one byte that is alive.
        let n = unsafe { libc::recv(link.stream.as_raw_fd(), byte.as_mut_ptr().cast(), 1, libc::MSG_DONTWAIT) };
        let cause = match n {
            0 => "the peer closed the link, or its process died".to_owned(),
            1.. => {
                self.sever(peer);
                let what = format!("it sent the byte {} after the set-up of the shared memory", byte[0]);
                return events.push(Event::Breach { peer, what });
            }
            _ => {
                let error = io::Error::last_os_error();
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    return;
                }
                format!("the link broke: {error}")
            }
        };
        self.drop_link(peer);
        // Who closes has asked for it: no link broke by itself.
        if !self.closing {
            events.push(Event::LinkDown { peer, cause });
        }
    }

    fn drop_link(&mut self, peer: Rank) {
        let Some(link) = self.peers[peer].link.take() else {
            return;
        };
        // By name, not by closing: a forked child may hold the descriptors too.
        let _ = self.epoll.delete(&link.stream);
        let _ = self.epoll.delete(&link.wakes_me);
        let _ = link.stream.shutdown(Shutdown::Both);
    }
}

impl Fabric for ShmFabric {
    fn write(&mut self, peer: Rank, table: TableId, range: Range<usize>, source: Source) -> Ticket {
        let index = self.specs.iter().position(|spec| spec.id == table).unwrap_or(usize::MAX);
        assert!(index < self.specs.len(), "there is no {table:?}");
        self.specs[index].check_write(&range, source);
        let target = &mut self.peers[peer];
        if target.link.is_some() {
            target.dirty = true;
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
        self.dirty && self.peers.iter().any(|peer| peer.dirty && peer.link.is_some())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> bool {
        let sent = self.announce();
        let before = events.len();
        self.polls = self.polls.wrapping_add(1);
        if self.armed || self.closing || self.look || self.polls.is_multiple_of(LOOK_EVERY) {
            self.look = false;
            self.look(events);
        }
        self.collect() || sent || events.len() > before
    }

    fn sever(&mut self, peer: Rank) {
        // The copy is made before the peer can learn of it: one that no longer reckons with us may reuse its data.
        for (row, spare) in self.peers[peer].rows.drain(..) {
            if let Err(error) = spare.replace(&row) {
                // Needs a process at the kernel's limit of maps.
                tracing::error!(peer, %error, "the memory of a severed member could not be replaced");
            }
        }
        self.drop_link(peer);
    }

    fn close(&mut self) {
        self.announce();
        self.closing = true;
        for link in self.peers.iter().filter_map(|peer| peer.link.as_ref()) {
            let _ = link.stream.shutdown(Shutdown::Write);
        }
    }

    fn closed(&self) -> bool {
        self.peers.iter().all(|peer| peer.link.is_none())
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
        for peer in 0..self.peers.len() {
            self.drop_link(peer);
        }
    }
}
