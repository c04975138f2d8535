//! The TCP fabric: one non-blocking connection per pair of members, for networks without RDMA.
//!
//! [`TcpFabric::attach`](Fabric::attach) takes a connection after its two ends have verified each other. From then on
//! the connection carries writes, requests and answers. Each of them is a header of 16 bytes and the bytes that it
//! announces (see `wire`). The header of a write names no owner: the writes on a connection go to the row of the peer
//! at its other end, so a peer cannot write another's row.
//!
//! TCP keeps the order of the bytes, and one thread receives them. Data goes from the socket straight to its place.
//! Columns are stored as whole words, each after everything that was posted before it.
//!
//! A fetch is a request and its answer. The peer answers in its `poll`, with the row's contents at the time when the
//! kernel takes the bytes. It keeps the row alive until then, even if another process gets the slot. Each end uses the
//! row that was attached when it made or received the request.
//!
//! A released link is served in the background. Its queued writes are copied, so they no longer affect
//! [`Fabric::completed`] and [`Fabric::has_unsent`]. A released peer that takes nothing, because it is stopped or far
//! behind, delays nobody: [`Fabric::closed`] does not wait for it, and it loses the rest when the fabric is dropped.

mod buffers;
mod fetch;
mod link;
mod parting;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod wire;

use super::peers::Peers;
use super::{
    Connection, Event, Fabric, FabricStats, Renewed, Row, SLOTS, SNAPSHOT_MAX, Slot, Source, TableId, TableSpec,
    Ticket, index_of,
};
use crate::error::Error;
use buffers::Buffers;
use link::{End, Link};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use parting::Parting;
use socket2::SockRef;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use wire::Place;

/// Most epoll events that one poll takes; the next poll takes the others.
const EVENTS: usize = 64;

/// Most unsent bytes that the kernel holds for a peer, beyond those on the network.
///
/// The kernel sends these bytes even while this process is stopped, and the peer takes them for a sign of life. The
/// fewer they are, the sooner the peer suspects a stopped process on a slow network.
const UNSENT_BYTES: u32 = 256 << 10;

/// Most released links that are still served. One more ends the oldest.
const PARTING_MAX: usize = SLOTS;

/// The TCP fabric. See the module's documentation.
pub struct TcpFabric {
    me: Slot,
    tables: Tables,
    links: Peers<Link>,
    buffers: Buffers,
    /// Released links, the oldest first.
    parting: Vec<Parting>,
    /// The epoll token of the next released link. Tokens below [`SLOTS`] belong to the links that are up.
    next_token: u64,
    /// Edge-triggered; the data of each event is a token.
    epoll: Epoll,
    ready: Box<[EpollEvent; EVENTS]>,
    /// The number of writes posted so far, which is the last ticket.
    posted: u64,
    /// By slot: the bytes received from it.
    received: [u64; SLOTS],
    closing: bool,
    stats: FabricStats,
}

/// All rows that this process has.
struct Tables {
    specs: Vec<TableSpec>,
    /// The own row of each table.
    own: Vec<Arc<Row>>,
    /// By slot, the own slot included. Empty for a slot in which no process was attached.
    rows: Vec<Vec<Arc<Row>>>,
}

impl TcpFabric {
    /// Makes a fabric without peers for the process in slot `me`, and its rows in the order of `specs`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for an invalid slot or invalid tables, [`Error::Io`] when the system refuses memory or
    /// descriptors.
    pub fn new(me: Slot, specs: &[TableSpec]) -> Result<(TcpFabric, Vec<Arc<Row>>), Error> {
        check(me, specs)?;
        let own = make_rows(specs)?;
        let mut rows = vec![Vec::new(); SLOTS];
        rows[me].clone_from(&own);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| Error::io("cannot create an epoll", e))?;
        let fabric = TcpFabric {
            me,
            tables: Tables { specs: specs.to_vec(), own: own.clone(), rows },
            links: Peers::new(),
            buffers: Buffers::new(),
            parting: Vec::new(),
            next_token: SLOTS as u64,
            epoll,
            ready: Box::new([EpollEvent::empty(); EVENTS]),
            posted: 0,
            received: [0; SLOTS],
            closing: false,
            stats: FabricStats::default(),
        };
        Ok((fabric, own))
    }

    /// Asks the kernel which links have changed.
    fn note_ready(&mut self) {
        match self.epoll.wait(&mut self.ready[..], EpollTimeout::ZERO) {
            Ok(count) => {
                for event in &self.ready[..count] {
                    let (token, flags) = (event.data(), event.events());
                    if token < SLOTS as u64 {
                        self.links.get_mut(token as Slot).into_iter().for_each(|link| link.note(flags));
                    } else {
                        self.parting.iter_mut().filter(|link| link.token == token).for_each(|link| link.note(flags));
                    }
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            // Not known to happen. Without the events every link has to be tried.
            Err(_) => {
                self.links.iter_mut().for_each(|(_, link)| link.note(EpollFlags::all()));
                self.parting.iter_mut().for_each(|link| link.note(EpollFlags::all()));
            }
        }
    }

    /// Puts `connection` into service as the link to `peer`, after dropping the former one. Writes received on it go to
    /// `rows`.
    fn connect(&mut self, peer: Slot, connection: Connection, rows: Vec<Arc<Row>>) -> Result<(), Error> {
        let Connection::Tcp(stream) = connection else {
            return Err(Error::Misuse("a TCP fabric needs a TCP connection"));
        };
        let fail = |e| Error::io(format!("cannot prepare the connection to slot {peer}"), e);
        stream.set_nonblocking(true).map_err(fail)?;
        stream.set_nodelay(true).map_err(fail)?;
        SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES).map_err(fail)?;
        self.epoll.add(&stream, EpollEvent::new(interest(), peer as u64)).map_err(|e| fail(e.into()))?;
        self.drop_link(peer);
        self.links.insert(peer, Link::new(stream, rows));
        let streams: Vec<_> = self.links.iter().map(|(slot, link)| (slot, &*link.stream)).collect();
        self.buffers.bound(&streams, peer);
        Ok(())
    }

    /// Drops the connection to `peer` and everything queued for it.
    fn drop_link(&mut self, peer: Slot) {
        if let Some(link) = self.links.remove(peer) {
            self.end(&link.stream);
        }
    }

    fn end(&self, stream: &TcpStream) {
        // Closing alone does not suffice if another process holds a duplicate of the descriptor.
        let _ = self.epoll.delete(stream);
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Serves the released links.
    fn serve_parting(&mut self) {
        let mut place = 0;
        while let Some(link) = self.parting.get_mut(place) {
            if link.serve(&self.tables.own, &mut self.stats) {
                let link = self.parting.remove(place);
                self.end(&link.stream);
            } else {
                place += 1;
            }
        }
    }
}

impl Fabric for TcpFabric {
    fn attach(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        if peer >= SLOTS || peer == self.me {
            return Err(Error::Misuse("a peer's slot must be below 64 and not the own slot"));
        }
        let rows = make_rows(&self.tables.specs)?;
        self.connect(peer, connection, rows.clone())?;
        self.tables.rows[peer].clone_from(&rows);
        Ok(rows)
    }

    fn relink(&mut self, peer: Slot, connection: Connection) -> Result<Vec<Arc<Row>>, Error> {
        let rows = self.tables.rows.get(peer).filter(|rows| peer != self.me && !rows.is_empty()).cloned();
        let Some(rows) = rows else {
            return Err(Error::Misuse("only a process that was attached can be linked again"));
        };
        // Drop the old link first, even if the new one fails: the bytes that it still holds must never land.
        self.drop_link(peer);
        self.connect(peer, connection, rows.clone())?;
        Ok(rows)
    }

    fn write(&mut self, peer: Slot, table: TableId, range: Range<usize>, source: Source) -> Ticket {
        let index = index_of(&self.tables.specs, table);
        self.tables.specs[index].check_write(&range, source);
        let start = range.start;
        let link = match self.links.get_mut(peer) {
            Some(link) if link.takes_writes() && !self.closing && !range.is_empty() => link,
            _ => return Ticket(self.posted),
        };
        self.posted += 1;
        self.stats.writes_posted += 1;
        if range.len() <= SNAPSHOT_MAX {
            // A stable source may be copied at any time, and for a small one a copy now is cheapest.
            let mut bytes = [0; SNAPSHOT_MAX];
            let bytes = &mut bytes[..range.len()];
            self.tables.own[index].load_words(start, bytes);
            link.outbox.push_copy(table, range, bytes);
        } else {
            link.outbox.push_direct(table, index, range, self.posted);
        }
        Ticket(self.posted)
    }

    fn submit(&mut self) {
        for (_, link) in self.links.iter_mut() {
            link.send(&self.tables.own, self.closing, &mut self.stats);
        }
    }

    fn completed(&self) -> Ticket {
        let first_direct = self.links.iter().filter_map(|(_, link)| link.outbox.first_direct()).min();
        Ticket(first_direct.map_or(self.posted, |ticket| ticket - 1))
    }

    fn has_unsent(&self) -> bool {
        self.links.iter().any(|(_, link)| !link.outbox.is_empty())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> bool {
        self.note_ready();
        let moved = |stats: &FabricStats| (stats.bytes_received, stats.bytes_sent);
        let before = moved(&self.stats);
        let (mut more, mut place) = (false, 0);
        while let Some((peer, link)) = self.links.at(place) {
            let received = self.stats.bytes_received;
            let end = link.serve(peer, &self.tables, self.closing, events, &mut self.stats);
            self.received[peer] += self.stats.bytes_received - received;
            let Some(end) = end else {
                more |= link.has_work();
                place += 1;
                continue;
            };
            self.drop_link(peer);
            more = true;
            match end {
                End::Closed => {}
                End::Down(cause) => events.push(Event::LinkDown { peer, cause }),
                End::Violation(what) => events.push(Event::Violation { peer, what }),
            }
        }
        if !self.parting.is_empty() {
            self.serve_parting();
            more |= self.parting.iter().any(Parting::is_sending);
        }
        more || moved(&self.stats) != before
    }

    fn fetch(&mut self, peer: Slot, table: TableId, owner: Slot, range: Range<usize>) {
        let index = index_of(&self.tables.specs, table);
        self.tables.specs[index].check_fetch(&range);
        let row = self.tables.rows.get(owner).filter(|_| owner != self.me).and_then(|rows| rows.get(index)).cloned();
        assert!(row.is_some(), "slot {owner} is not attached");
        let place = Place { table: index, id: table, owner, range };
        if let (Some(link), Some(row), false) = (self.links.get_mut(peer), row, self.closing)
            && link.takes_writes()
        {
            link.ask(place, row);
        }
    }

    fn sever(&mut self, peer: Slot) {
        self.drop_link(peer);
    }

    fn release(&mut self, peer: Slot) {
        let Some(link) = self.links.remove(peer) else { return };
        let mut event = EpollEvent::new(interest(), self.next_token);
        let over = self.epoll.modify(&link.stream, &mut event).is_err();
        let mut link = Parting::new(link, self.next_token, &self.tables.own);
        self.next_token += 1;
        if over || link.serve(&self.tables.own, &mut self.stats) {
            return self.end(&link.stream);
        }
        if self.parting.len() == PARTING_MAX {
            let oldest = self.parting.remove(0);
            self.end(&oldest.stream);
        }
        self.parting.push(link);
    }

    fn close(&mut self) {
        self.closing = true;
        self.submit();
    }

    fn closed(&self) -> bool {
        self.links.is_empty() && !self.parting.iter().any(Parting::is_sending)
    }

    // Nothing to do here or in `disarm`: the epoll becomes readable whenever a socket has news, asleep or not.
    fn arm(&mut self) {}

    fn disarm(&mut self) {}

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

    fn received_from(&self, peer: Slot) -> u64 {
        self.received.get(peer).copied().unwrap_or(0)
    }

    fn stats(&self) -> FabricStats {
        self.stats
    }
}

impl Drop for TcpFabric {
    fn drop(&mut self) {
        for link in &mut self.parting {
            // Closing a socket with unread bytes resets the connection, and the peer would lose the bytes that the
            // kernel still holds.
            let _ = link.discard(&mut self.stats);
        }
    }
}

/// The epoll flags of every socket.
fn interest() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

/// Allocates one row per table.
fn make_rows(specs: &[TableSpec]) -> Result<Vec<Arc<Row>>, Error> {
    let row = |spec: &TableSpec| {
        Row::anonymous(spec.row_len, spec.columns_len)
            .map(Arc::new)
            .map_err(|e| Error::io(format!("cannot map a row of {} bytes", spec.row_len), e))
    };
    specs.iter().map(row).collect()
}

/// Refuses an invalid slot or invalid tables.
fn check(me: Slot, specs: &[TableSpec]) -> Result<(), Error> {
    if me >= SLOTS {
        return Err(Error::Misuse("a slot must be below 64"));
    }
    for (i, spec) in specs.iter().enumerate() {
        if specs[..i].iter().any(|other| other.id == spec.id) {
            return Err(Error::Misuse("two tables have the same number"));
        }
        if spec.row_len == 0 || spec.row_len > wire::ROW_LEN_MAX || spec.columns_len > spec.row_len {
            return Err(Error::Misuse("a row must have 64 to 2^32 - 64 bytes, including its columns"));
        }
        if !spec.row_len.is_multiple_of(64) || !spec.columns_len.is_multiple_of(64) {
            return Err(Error::Misuse("the lengths of rows and columns must be multiples of 64"));
        }
    }
    Ok(())
}
