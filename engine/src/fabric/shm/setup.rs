//! Turns connected streams into peers: allocates the own memory, exchanges it, and checks the memory of the peers.

use super::super::setup::{PeerFault, SetupError};
use super::super::{Row, SLOTS, Slot, TableSpec};
use super::exchange::{FDS_BEFORE_TABLES, Met, exchange};
use super::sealed::{self, Origin, Spare};
use super::wake::{HEADER_LEN, Header, TABLES_MAX};
use super::{Link, scm};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::interrupt::SystemError;
use crate::process::Private;
use crate::sync::lock;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::EventFd;
use nix::sys::stat::fstat;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};

/// An error of this process, not of a peer.
pub(super) fn local(what: &str, e: impl Into<std::io::Error>) -> SetupError {
    SetupError::Local(Error::io(format!("shared memory: {what}"), e))
}

/// The memory that a process offers its peers. Usable from any thread; clones share it. See [`Offer::exchange`].
#[derive(Debug, Clone)]
pub struct Offer(Arc<Offered>);

#[derive(Debug)]
struct Offered {
    me: Slot,
    specs: Vec<TableSpec>,
    /// The header page, then the present memfd of each table.
    fds: Mutex<Vec<Arc<OwnedFd>>>,
}

/// A peer's memory, checked and mapped, as [`super::super::Fabric::attach`] takes it.
pub struct Prepared {
    pub(super) peer: Slot,
    pub(super) link: Link,
    /// The peer's rows, in the order of the tables. Each comes with the identity of its memory, and with the address
    /// space that replaces it when it is severed.
    pub(super) rows: Vec<(Arc<Row>, Origin, Spare)>,
    /// The offer that the peer got in return.
    given: Offer,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Whether the peer maps the memory of `offer`.
    pub(super) fn has(&self, offer: &Offer) -> bool {
        Arc::ptr_eq(&self.given.0, &offer.0)
    }
}

impl Offer {
    /// Allocates the memory of the process in slot `me`: its offer for peers, its header page and its rows.
    pub(super) fn create(me: Slot, specs: &[TableSpec]) -> Result<(Offer, Header, Vec<Arc<Row>>), Error> {
        check_arguments(me, specs)?;
        let (header_fd, header) = create(HEADER_LEN, HEADER_LEN)?;
        let mut fds = vec![Arc::new(header_fd)];
        let mut rows = Vec::new();
        for spec in specs {
            let (fd, row) = create(spec.row_len, spec.columns_len)?;
            fds.push(Arc::new(fd));
            rows.push(Arc::new(row));
        }
        let fds = Mutex::new(fds);
        Ok((Offer(Arc::new(Offered { me, specs: specs.to_vec(), fds })), Header(header), rows))
    }

    fn fds(&self) -> MutexGuard<'_, Vec<Arc<OwnedFd>>> {
        lock(&self.0.fds)
    }

    /// The present memory of the table at this position.
    pub(super) fn memory(&self, table: usize) -> Option<Arc<OwnedFd>> {
        self.fds().get(1 + table).cloned()
    }

    /// Allocates new memory for the table at this position, with the columns of `former`. Later exchanges give it to
    /// peers.
    pub(super) fn renew(&self, table: usize, former: &Row) -> Result<Arc<Row>, Error> {
        let (fd, row) = create(former.len(), former.columns_len())?;
        let mut columns = vec![0; former.columns_len()];
        former.load_words(0, &mut columns);
        row.store_words(0, &columns);
        if let Some(place) = self.fds().get_mut(1 + table) {
            *place = Arc::new(fd);
        }
        Ok(Arc::new(row))
    }

    /// Exchanges memory and wake-up descriptors with the processes in these slots, all at once, until `deadline`.
    ///
    /// Each stream must be connected to the process in its slot, and the next byte in either direction must belong to
    /// this fabric. The peers may come in any order. Each must run the same exchange at the same time.
    ///
    /// # Errors
    /// [`SetupError::Peer`] for the first peer that sends something wrong; the exchange with all others fails then,
    /// too. [`SetupError::Missing`] when the deadline passes, [`SetupError::Local`] when this process lacks a resource.
    pub fn exchange(
        &self,
        links: Vec<(Slot, impl Into<Private<UnixStream>>)>,
        deadline: impl Into<Deadline>,
    ) -> Result<Vec<(Slot, Prepared)>, SetupError> {
        let Offered { me, ref specs, .. } = *self.0;
        for (i, (peer, _)) in links.iter().enumerate() {
            if *peer >= SLOTS || *peer == me || links[..i].iter().any(|(other, _)| other == peer) {
                return Err(SetupError::Local(Error::Misuse(
                    "shared memory: the links must lead to different slots below 64, other than the own slot",
                )));
            }
        }
        let fds = self.fds().clone();
        let own: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let met = exchange(me, links, specs, &own, &deadline.into())?;
        met.into_iter().map(|met| Ok((met.peer, self.prepare(met)?))).collect()
    }

    /// Checks and maps the memory that the peer sent.
    fn prepare(&self, met: Met) -> Result<Prepared, SetupError> {
        let Met { peer, stream, wakes_me, fds } = met;
        let fault = |what| SetupError::Peer(PeerFault { peer, what });
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| fault("it passed too few descriptors".to_owned()));
        let open = |fd: OwnedFd, len, columns_len| -> Result<(Row, Origin), SetupError> {
            sealed::open(fd.as_fd(), len, columns_len).map_err(fault)
        };
        let header = Arc::new(Header(open(next()?, HEADER_LEN, HEADER_LEN)?.0));
        let wakes_peer = next()?;
        let mut rows = Vec::new();
        for spec in &self.0.specs {
            let (row, origin) = open(next()?, spec.row_len, spec.columns_len)?;
            let spare = Spare::new(spec.row_len).map_err(|e| local("cannot reserve address space", e))?;
            rows.push((Arc::new(row), origin, spare));
        }
        let wakes_peer = wake_handle(wakes_peer, fault)?;
        let link = Link { stream, header, wakes_me, wakes_peer, woken: 0, seen: 0, dirty: false };
        Ok(Prepared { peer, link, rows, given: self.clone() })
    }
}

fn create(len: usize, columns_len: usize) -> Result<(OwnedFd, Row), Error> {
    sealed::create(len, columns_len).map_err(|error| {
        // The limit of file sizes applies to shared memory, too.
        let advice = match error.is_too_large() {
            true => ", because RLIMIT_FSIZE forbids a file of that size: raise it (`ulimit -f`), or lower `ring_bytes`",
            false => "",
        };
        Error::io(format!("shared memory: cannot create a row of {len} bytes{advice}"), error)
    })
}

fn check_arguments(me: Slot, specs: &[TableSpec]) -> Result<(), Error> {
    if me >= SLOTS {
        return Err(Error::Misuse("shared memory: a slot must be below 64"));
    }
    if specs.len() > (scm::FDS_MAX - FDS_BEFORE_TABLES).min(TABLES_MAX) {
        return Err(Error::Misuse("shared memory: one message cannot carry the descriptors of so many tables"));
    }
    if !specs.iter().all(TableSpec::fits) {
        return Err(Error::Misuse(
            "shared memory: a table's lengths are not multiples of 64, or its columns exceed its row",
        ));
    }
    Ok(())
}

/// Checks the peer's eventfd: a write to it must neither block us nor raise SIGPIPE.
fn wake_handle(fd: OwnedFd, fault: impl Fn(String) -> SetupError) -> Result<EventFd, SetupError> {
    let examined = |e| fault(format!("its eventfd cannot be examined: {e}"));
    // An eventfd has no file type; a pipe or a socket has one.
    if fstat(&fd).map_err(examined)?.st_mode & libc::S_IFMT != 0 {
        return Err(fault("it passed a descriptor that is not an eventfd".to_owned()));
    }
    let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(examined)?;
    if !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK) {
        return Err(fault("it passed an eventfd that blocks".to_owned()));
    }
    // SAFETY: if it is no eventfd after all, our writes to it fail with errors that we ignore.
    Ok(unsafe { EventFd::from_owned_fd(fd) })
}
