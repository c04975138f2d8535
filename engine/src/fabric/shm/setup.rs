//! From connected streams to a fabric: own memory, the exchange, and the check of what the peers gave.

use super::super::{Rank, Row, TableRows, TableSpec};
use super::exchange::{FDS_BEFORE_TABLES, Met, exchange};
use super::sealed::{self, Spare};
use super::wake::{HEADER_LEN, Header};
use super::{Link, Peer, ShmFabric, scm};
use crate::config::MEMBERS_MAX;
use crate::error::Error;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::stat::fstat;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Why the fabric could not be set up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SetupError {
    /// A peer did something that it must not do, or its link broke.
    #[error("{0}")]
    Peer(PeerFault),
    /// The deadline passed; these peers had not finished.
    #[error("at the deadline: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Missing(Vec<PeerFault>),
    /// This process could not get what it needs.
    #[error(transparent)]
    Local(Error),
}

/// What was observed of one peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the member of rank {peer}: {what}")]
pub struct PeerFault {
    /// The peer.
    pub peer: Rank,
    /// What it did, or failed to do.
    pub what: String,
}

impl SetupError {
    pub(super) fn local(what: &str, e: impl Into<std::io::Error>) -> SetupError {
        SetupError::Local(Error::io(format!("shared memory: {what}"), e))
    }
}

pub(super) fn set_up(
    me: Rank,
    links: Vec<Option<UnixStream>>,
    specs: &[TableSpec],
    deadline: Instant,
) -> Result<(ShmFabric, Vec<TableRows>), SetupError> {
    check_arguments(me, &links, specs)?;
    let members = links.len();
    let create = |len, columns_len| {
        sealed::create(len, columns_len)
            .map_err(|e| SetupError::local(&format!("cannot create a row of {len} bytes"), e))
    };
    let (header_fd, header) = create(HEADER_LEN, HEADER_LEN)?;
    let mut own_fds = vec![header_fd];
    let mut own_rows = Vec::new();
    for spec in specs {
        let (fd, row) = create(spec.row_len, spec.columns_len)?;
        own_fds.push(fd);
        own_rows.push(Arc::new(row));
    }
    let own: Vec<_> = own_fds.iter().map(AsFd::as_fd).collect();
    let epoll =
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| SetupError::local("cannot create an epoll", e))?;
    let mut peers: Vec<Peer> = (0..members).map(|_| Peer::default()).collect();
    for met in exchange(me, links, specs, &own, deadline)? {
        let rank = met.peer;
        peers[rank] = connect(met, specs, &epoll)?;
    }
    let mut tables = Vec::new();
    for (i, (spec, own_row)) in specs.iter().zip(&own_rows).enumerate() {
        // A peer's rows are in the order of the tables, and only this member has none.
        let row = |peer: &Peer| peer.rows.get(i).map_or_else(|| own_row.clone(), |(row, _)| row.clone());
        tables.push(TableRows { spec: *spec, rows: peers.iter().map(row).collect() });
    }
    Ok((ShmFabric::from_parts(me, specs.to_vec(), Header(header), peers, epoll), tables))
}

fn check_arguments(me: Rank, links: &[Option<UnixStream>], specs: &[TableSpec]) -> Result<(), SetupError> {
    let misuse = |what| Err(SetupError::Local(Error::Misuse(what)));
    if links.len() > MEMBERS_MAX {
        return misuse("shared memory: more members than a group can have");
    }
    if me >= links.len() || links.iter().enumerate().any(|(rank, link)| link.is_none() != (rank == me)) {
        return misuse("shared memory: every member but this one needs a link");
    }
    if specs.len() > scm::FDS_MAX - FDS_BEFORE_TABLES {
        return misuse("shared memory: more tables than descriptors fit in one message");
    }
    let fits = |s: &TableSpec| {
        s.row_len > 0 && s.row_len.is_multiple_of(64) && s.columns_len.is_multiple_of(64) && s.columns_len <= s.row_len
    };
    if !specs.iter().all(fits) {
        return misuse("shared memory: a table's lengths are not multiples of 64, or its columns exceed its row");
    }
    Ok(())
}

/// Checks and maps what the peer gave, and listens to its link.
fn connect(met: Met, specs: &[TableSpec], epoll: &Epoll) -> Result<Peer, SetupError> {
    let Met { peer, stream, wakes_me, fds } = met;
    let fault = |what| SetupError::Peer(PeerFault { peer, what });
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| fault("it passed too few descriptors".to_owned()));
    let open = |fd: OwnedFd, len, columns_len| -> Result<Row, SetupError> {
        sealed::open(fd.as_fd(), len, columns_len).map_err(fault)
    };
    let header = Header(open(next()?, HEADER_LEN, HEADER_LEN)?);
    let wakes_peer = next()?;
    let mut rows = Vec::new();
    for spec in specs {
        let row = open(next()?, spec.row_len, spec.columns_len)?;
        let spare = Spare::new(spec.row_len).map_err(|e| SetupError::local("cannot reserve address space", e))?;
        rows.push((Arc::new(row), spare));
    }
    let listen = |e| SetupError::local("cannot listen to a peer", e);
    let stream_events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
    epoll.add(&stream, EpollEvent::new(stream_events, peer as u64)).map_err(listen)?;
    // Edge-triggered: every write of the peer makes the epoll readable once, and nothing need ever be read. So nobody
    // who shares the descriptor can block us in a read.
    let wake_events = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll.add(&wakes_me, EpollEvent::new(wake_events, super::WAKE_TOKEN)).map_err(listen)?;
    let link = Link { stream, header, wakes_me, wakes_peer: wake_handle(wakes_peer, fault)?, woken: 0, seen: 0 };
    Ok(Peer { link: Some(link), rows, dirty: false })
}

/// The peer's eventfd, whose write must neither block us nor raise SIGPIPE.
fn wake_handle(fd: OwnedFd, fault: impl Fn(String) -> SetupError) -> Result<EventFd, SetupError> {
    let examined = |e| fault(format!("its eventfd cannot be examined: {e}"));
    // Eventfds have no file type; pipes and sockets have.
    if fstat(&fd).map_err(examined)?.st_mode & libc::S_IFMT != 0 {
        return Err(fault("it passed a descriptor that is no eventfd".to_owned()));
    }
    let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(examined)?;
    if !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK) {
        return Err(fault("it passed an eventfd that blocks".to_owned()));
    }
    // SAFETY: if it is no eventfd after all, our writes to it are errors that we ignore.
    Ok(unsafe { EventFd::from_owned_fd(fd) })
}
