//! The contract over one non-blocking TCP connection per pair of members, for networks without RDMA.
//!
//! Whoever has connected the members hands the connections to [`TcpFabric::new`]; from then on they carry writes and
//! nothing else, each a header of 16 bytes, `{kind u8 = 1, reserved u8 = 0, table u16, len u32, offset u64}` little
//! endian, and its bytes. A header names no row: a connection carries the row of the peer at its other end, so no peer
//! can write another's.
//!
//! TCP keeps the order, and one thread takes the bytes in: data go from the socket straight to their place, columns as
//! whole words, each after everything that was posted before it.

mod link;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod wire;

use super::{Event, Fabric, FabricStats, Rank, Row, SNAPSHOT_MAX, Source, TableId, TableRows, TableSpec, Ticket};
use crate::error::Error;
use link::{End, Link};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Most links that one poll hears of; the next one hears of the others.
const EVENTS: usize = 64;

/// The TCP fabric. See the module's documentation.
pub struct TcpFabric {
    specs: Vec<TableSpec>,
    /// The own row of each table.
    own: Vec<Arc<Row>>,
    /// By rank; none for this member and where the link is down.
    links: Vec<Option<Link>>,
    /// Edge-triggered, with the rank as its data.
    epoll: Epoll,
    ready: Box<[EpollEvent; EVENTS]>,
    /// Writes posted so far: the last ticket.
    posted: u64,
    closing: bool,
    stats: FabricStats,
}

impl TcpFabric {
    /// A fabric over established connections, and the tables it fills. `links[r]` leads to the member of rank `r`, and
    /// is none for `me`; another that is none counts as down. The next byte of each, in both directions, is the fabric's.
    ///
    /// # Errors
    /// [`Error::Misuse`] for ranks or tables that cannot be, [`Error::Io`] when the system refuses memory or descriptors.
    pub fn new(
        me: Rank,
        links: Vec<Option<TcpStream>>,
        specs: &[TableSpec],
    ) -> Result<(TcpFabric, Vec<TableRows>), Error> {
        check(me, &links, specs)?;
        let mut tables = Vec::with_capacity(specs.len());
        for &spec in specs {
            let row = || Row::anonymous(spec.row_len, spec.columns_len).map(Arc::new);
            let rows = (0..links.len()).map(|_| row()).collect::<Result<_, _>>();
            let rows = rows.map_err(|e| Error::io(format!("cannot map rows of {} bytes", spec.row_len), e))?;
            tables.push(TableRows { spec, rows });
        }
        let rows_of = |rank: Rank| tables.iter().map(|table| table.rows[rank].clone()).collect::<Vec<_>>();

        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| Error::io("cannot create an epoll", e))?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let mut ready_links = Vec::with_capacity(links.len());
        for (rank, stream) in links.into_iter().enumerate() {
            ready_links.push(match stream {
                None => None,
                Some(stream) => {
                    let fail = |e| Error::io(format!("cannot prepare the connection to rank {rank}"), e);
                    stream.set_nonblocking(true).map_err(fail)?;
                    stream.set_nodelay(true).map_err(fail)?;
                    epoll.add(&stream, EpollEvent::new(interest, rank as u64)).map_err(|e| fail(e.into()))?;
                    Some(Link::new(stream, rows_of(rank)))
                }
            });
        }
        let fabric = TcpFabric {
            specs: specs.to_vec(),
            own: rows_of(me),
            links: ready_links,
            epoll,
            ready: Box::new([EpollEvent::empty(); EVENTS]),
            posted: 0,
            closing: false,
            stats: FabricStats::default(),
        };
        Ok((fabric, tables))
    }

    /// Asks the kernel which links changed.
    fn note_ready(&mut self) {
        match self.epoll.wait(&mut self.ready[..], EpollTimeout::ZERO) {
            Ok(count) => {
                for event in &self.ready[..count] {
                    if let Some(Some(link)) = self.links.get_mut(event.data() as usize) {
                        link.note(event.events());
                    }
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            // Not known to happen; without it every link has to be tried.
            Err(_) => self.links.iter_mut().flatten().for_each(|link| link.note(EpollFlags::all())),
        }
    }

    /// Drops the connection to `peer` with all that is queued for it.
    fn drop_link(&mut self, peer: Rank) {
        if let Some(link) = self.links.get_mut(peer).and_then(Option::take) {
            // Closing alone would not do it if someone else holds a duplicate of the descriptor.
            let _ = self.epoll.delete(&link.stream);
            let _ = link.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Fabric for TcpFabric {
    fn write(&mut self, peer: Rank, table: TableId, range: Range<usize>, source: Source) -> Ticket {
        let index = self.specs.iter().position(|spec| spec.id == table).unwrap_or(usize::MAX);
        assert!(index < self.specs.len(), "there is no {table:?}");
        self.specs[index].check_write(&range, source);
        let start = range.start;
        let link = match self.links.get_mut(peer) {
            Some(Some(link)) if link.takes_writes() && !self.closing && !range.is_empty() => link,
            _ => return Ticket(self.posted),
        };
        self.posted += 1;
        self.stats.writes_posted += 1;
        if range.len() <= SNAPSHOT_MAX {
            // A stable source may be taken at any time: at once is cheapest when it is small.
            let mut bytes = [0; SNAPSHOT_MAX];
            let bytes = &mut bytes[..range.len()];
            self.own[index].load_words(start, bytes);
            link.outbox.push_copy(table, range, bytes);
        } else {
            link.outbox.push_direct(table, index, range, self.posted);
        }
        Ticket(self.posted)
    }

    fn submit(&mut self) {
        for link in self.links.iter_mut().flatten() {
            link.send(&self.own, self.closing, &mut self.stats);
        }
    }

    fn completed(&self) -> Ticket {
        let first_direct = self.links.iter().flatten().filter_map(|link| link.outbox.first_direct()).min();
        Ticket(first_direct.map_or(self.posted, |ticket| ticket - 1))
    }

    fn has_unsent(&self) -> bool {
        self.links.iter().flatten().any(|link| !link.outbox.is_empty())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> bool {
        self.note_ready();
        let moved = |stats: &FabricStats| (stats.bytes_received, stats.bytes_sent);
        let before = moved(&self.stats);
        let mut more = false;
        for peer in 0..self.links.len() {
            let Some(link) = &mut self.links[peer] else { continue };
            let Some(end) = link.serve(&self.own, &self.specs, self.closing, &mut self.stats) else {
                more |= link.has_work();
                continue;
            };
            self.drop_link(peer);
            more = true;
            match end {
                End::Closed => {}
                End::Down(cause) => events.push(Event::LinkDown { peer, cause }),
                End::Breach(what) => events.push(Event::Breach { peer, what }),
            }
        }
        more || moved(&self.stats) != before
    }

    fn sever(&mut self, peer: Rank) {
        self.drop_link(peer);
    }

    fn close(&mut self) {
        self.closing = true;
        self.submit();
    }

    fn closed(&self) -> bool {
        self.links.iter().all(Option::is_none)
    }

    // The epoll is readable whenever a socket has something new, whether somebody sleeps on it or not.
    fn arm(&mut self) {}

    fn disarm(&mut self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn stats(&self) -> FabricStats {
        self.stats
    }
}

/// Refuses what cannot be a group or a table.
fn check(me: Rank, links: &[Option<TcpStream>], specs: &[TableSpec]) -> Result<(), Error> {
    if !links.get(me).is_some_and(Option::is_none) {
        return Err(Error::Misuse("a TCP fabric needs one link per rank, and none to its own"));
    }
    for (i, spec) in specs.iter().enumerate() {
        if specs[..i].iter().any(|other| other.id == spec.id) {
            return Err(Error::Misuse("two tables have the same number"));
        }
        if spec.row_len == 0 || spec.row_len > wire::ROW_LEN_MAX || spec.columns_len > spec.row_len {
            return Err(Error::Misuse("a row must have 64 to 2^32 - 64 bytes, its columns among them"));
        }
        if !spec.row_len.is_multiple_of(64) || !spec.columns_len.is_multiple_of(64) {
            return Err(Error::Misuse("the lengths of rows and columns must be multiples of 64"));
        }
    }
    Ok(())
}
