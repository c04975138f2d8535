//! Turns connected streams into peers: own memory, queue pairs, and the exchange of their addresses.

use super::super::setup::{PeerFault, SetupError};
use super::super::{Row, SLOTS, SNAPSHOT_MAX, Slot, TableSpec};
use super::hello::{Hello, READY};
use super::link::{Link, Parts, STAGE_AT, post_receives};
use super::port::Port;
use super::reads::Directory;
use super::region::{Access, Region};
use super::sys::{CompletionChannel, CompletionQueue, QueuePair, Remote, VerbsError};
use super::wake::RECEIVES;
use crate::config::Verbs;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::process::Private;
use crate::sync::lock;
use crate::thread;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The memory and device that a process offers its peers. Usable from any thread; clones share it. See
/// [`Offer::exchange`].
#[derive(Clone)]
pub struct Offer(pub(super) Arc<Offered>);

pub(super) struct Offered {
    me: Slot,
    specs: Vec<TableSpec>,
    pub(super) port: Port,
    pub(super) own: Vec<Arc<Region>>,
    pub(super) directory: Arc<Region>,
    /// Receives the wake-ups of all peers.
    pub(super) wakes: Arc<CompletionQueue>,
    /// Becomes readable when a queue that has requested a notification has a completion.
    pub(super) channel: Arc<CompletionChannel>,
    /// The number of links made so far.
    links: AtomicU64,
    /// By slot: the copies of the attached process's rows. A link that is made again uses the same copies.
    attached: Mutex<Vec<Option<Vec<Arc<Region>>>>>,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("me", &self.0.me).field("port", &self.0.port.choice).finish_non_exhaustive()
    }
}

/// A connected peer, as [`super::super::Fabric::attach`] takes it.
pub struct Prepared {
    pub(super) peer: Slot,
    pub(super) link: Link,
    /// The copies of the peer's rows, in the order of the tables.
    pub(super) rows: Vec<Arc<Region>>,
    given: Offer,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Whether the peer was given `offer`.
    pub(super) fn has(&self, offer: &Offer) -> bool {
        Arc::ptr_eq(&self.given.0, &offer.0)
    }
}

/// An error of this process, not of the peer.
fn local(what: &str) -> impl Fn(VerbsError) -> SetupError {
    move |e| SetupError::Local(Error::io(format!("verbs: cannot {what}"), std::io::Error::from(e)))
}

impl Offer {
    /// Opens the device and allocates the memory of the process in slot `me`.
    pub(super) fn create(
        me: Slot,
        specs: &[TableSpec],
        settings: &Verbs,
        address: Option<IpAddr>,
    ) -> Result<(Offer, Vec<Arc<Row>>), Error> {
        check(me, specs)?;
        let port = Port::open(settings, address)?;
        let own = Region::rows(&port, specs, Access::Read)?;
        let directory = Region::new(&port, Directory::len(specs.len()), 64, Access::Read)?;
        let io = |what: &'static str| {
            move |e: VerbsError| Error::io(format!("verbs: cannot create {what}"), std::io::Error::from(e))
        };
        let channel = CompletionChannel::new(&port.context).map_err(io("a completion channel"))?;
        // Twice as many as the present links need, since completions of ended links may stay in the queue until they
        // are taken.
        let entries = 2 * SLOTS as u32 * RECEIVES;
        let wakes = CompletionQueue::new(&port.context, entries, Some(&channel)).map_err(io("a completion queue"))?;
        let targets: Vec<_> = own.iter().map(|region| region.target()).collect();
        Directory::show(&directory.row, me, &targets);
        let rows = own.iter().map(|region| region.row.clone()).collect();
        let (links, attached, specs) = (AtomicU64::new(0), Mutex::new(vec![None; SLOTS]), specs.to_vec());
        let offered = Offered { me, specs, port, own, directory, wakes, channel, links, attached };
        Ok((Offer(Arc::new(offered)), rows))
    }

    /// Connects queue pairs with the processes in these slots, all at once, until `deadline`.
    ///
    /// Each stream must be connected to the process in its slot, and the next byte in either direction must belong to
    /// this fabric. The peers may come in any order. Each must run the same exchange at the same time.
    ///
    /// # Errors
    /// [`SetupError::Peer`] for the first peer that sends something wrong; the exchange with all others fails then,
    /// too. [`SetupError::Missing`] when the deadline passes, [`SetupError::Local`] when this process lacks a resource.
    pub fn exchange(
        &self,
        links: Vec<(Slot, impl Into<Private<TcpStream>>)>,
        deadline: impl Into<Deadline>,
    ) -> Result<Vec<(Slot, Prepared)>, SetupError> {
        self.exchange_all(private(links), false, &deadline.into())
    }

    /// The same exchange as [`Offer::exchange`], for [`super::super::Fabric::relink`].
    ///
    /// The processes are attached in these slots already, and each of them must run this exchange, too.
    ///
    /// # Errors
    /// As [`Offer::exchange`]; [`Error::Misuse`] for a slot in which no process is attached.
    pub fn exchange_again(
        &self,
        links: Vec<(Slot, impl Into<Private<TcpStream>>)>,
        deadline: impl Into<Deadline>,
    ) -> Result<Vec<(Slot, Prepared)>, SetupError> {
        self.exchange_all(private(links), true, &deadline.into())
    }

    fn exchange_all(
        &self,
        links: Vec<(Slot, Private<TcpStream>)>,
        again: bool,
        deadline: &Deadline,
    ) -> Result<Vec<(Slot, Prepared)>, SetupError> {
        let me = self.0.me;
        for (i, (peer, _)) in links.iter().enumerate() {
            if *peer >= SLOTS || *peer == me || links[..i].iter().any(|(other, _)| other == peer) {
                return Err(SetupError::Local(Error::Misuse(
                    "verbs: the links must lead to different slots below 64, other than the own slot",
                )));
            }
        }
        let prepared: Vec<_> = std::thread::scope(|scope| {
            let meet = |(peer, stream)| {
                let meet = move || self.meet(peer, stream, again, deadline);
                thread::spawn_scoped(scope, "galerna-verbs", "connects a queue pair", meet)
            };
            let threads: Vec<_> = links.into_iter().map(meet).collect();
            let panicked = |_| Err(SetupError::Local(Error::Internal("the set-up of a link panicked".to_owned())));
            threads
                .into_iter()
                .map(|thread| thread.map_err(SetupError::Local)?.join().unwrap_or_else(panicked))
                .collect()
        });
        let mut missing = Vec::new();
        let mut done = Vec::new();
        for result in prepared {
            match result {
                Ok(prepared) => done.push((prepared.peer, prepared)),
                Err(SetupError::Missing(faults)) => missing.extend(faults),
                Err(error) => return Err(error),
            }
        }
        if missing.is_empty() { Ok(done) } else { Err(SetupError::Missing(missing)) }
    }

    /// Records that the process in `peer` is attached, and that `rows` are the copies of its rows.
    pub(super) fn keep(&self, peer: Slot, rows: &[Arc<Region>]) {
        let mut attached = lock(&self.0.attached);
        if let Some(place) = attached.get_mut(peer) {
            *place = Some(rows.to_vec());
        }
    }

    /// The copies of the rows of the process that is attached in `peer`.
    fn rows_of(&self, peer: Slot) -> Result<Vec<Arc<Region>>, Error> {
        let attached = lock(&self.0.attached);
        let rows = attached.get(peer).cloned().flatten();
        rows.ok_or(Error::Misuse("verbs: only a process that was attached can be linked again"))
    }

    /// Sets up one link.
    fn meet(
        &self,
        peer: Slot,
        mut stream: Private<TcpStream>,
        again: bool,
        deadline: &Deadline,
    ) -> Result<Prepared, SetupError> {
        let Offered { me, ref specs, ref port, ref directory, ref wakes, ref channel, ref links, .. } = *self.0;
        let rows = if again { self.rows_of(peer) } else { Region::rows(port, specs, Access::ReadWrite) };
        let rows = rows.map_err(SetupError::Local)?;
        let depth = port.depth();
        let completions = CompletionQueue::new(&port.context, depth + 1, Some(channel))
            .map_err(local("create a completion queue"))?;
        let queue_pair = QueuePair::new(&port.domain, &completions, wakes, port.capacity());
        let queue_pair = queue_pair.map_err(local("create a queue pair"))?;
        let inline_bytes = queue_pair.capacity().map_err(local("query a queue pair"))?.inline_bytes as usize;
        let stage = if inline_bytes >= SNAPSHOT_MAX { 0 } else { depth as usize * SNAPSHOT_MAX };
        let desk = Region::new(port, STAGE_AT + stage, STAGE_AT, Access::ReadWrite).map_err(SetupError::Local)?;
        let id = links.fetch_add(1, Ordering::Relaxed);
        let psn = (RandomState::new().hash_one(id) & 0xff_ffff) as u32;
        let own = Hello {
            from: me,
            to: peer,
            remote: Remote { qp_number: queue_pair.number(), psn, lid: port.choice.lid, gid: port.gid() },
            mtu: port.mtu(),
            global: port.choice.gid.is_some(),
            reads_served: port.reads_served(),
            again,
            line: desk.target(),
            directory: directory.target(),
            rows: rows.iter().map(|region| region.target()).collect(),
        };
        let first = port.attributes(own.mtu, 1);
        queue_pair.to_init(&first).map_err(local("initialise a queue pair"))?;
        let failed = |what| SetupError::Local(Error::Internal(what));
        post_receives::<{ RECEIVES as usize }>(&queue_pair, id).map_err(failed)?;
        let fault = |what| SetupError::Peer(PeerFault { peer, what });
        let mut talk = Talk { peer, stream: &mut stream, deadline };
        let mut heard = vec![0; Hello::len(specs.len())];
        talk.exchange(&own.encode(specs), &mut heard)?;
        let theirs = Hello::decode(&heard, peer, me, specs).map_err(fault)?;
        if theirs.global != own.global {
            let kind = |global| if global { "GIDs (RoCE, or InfiniBand across subnets)" } else { "LIDs" };
            return Err(fault(format!(
                "it is reached by {}, but this process by {}",
                kind(theirs.global),
                kind(own.global)
            )));
        }
        if theirs.again != again {
            let made = |again| if again { "again" } else { "for the first time" };
            return Err(fault(format!(
                "it makes this link {}, but this process makes it {}",
                made(theirs.again),
                made(again)
            )));
        }
        let attributes = port.attributes(theirs.mtu, theirs.reads_served.max(1));
        // The addresses that the peer sent may be unreachable from here.
        let connected = queue_pair.to_ready_to_receive(&attributes, &theirs.remote);
        let connected = connected.and_then(|()| queue_pair.to_ready_to_send(&attributes, psn));
        connected.map_err(|e| fault(format!("a queue pair cannot be connected with its {:?}: {e}", theirs.remote)))?;
        let mut ready = [0];
        talk.exchange(&[READY], &mut ready)?;
        if ready != [READY] {
            return Err(fault(format!("it sent {:#x} instead of {READY:#x}, which means ready", ready[0])));
        }
        let parts = Parts { id, stream, queue_pair, completions, desk, peer: theirs, inline_bytes, depth };
        Ok(Prepared { peer, link: Link::new(parts), rows, given: self.clone() })
    }
}

fn private(links: Vec<(Slot, impl Into<Private<TcpStream>>)>) -> Vec<(Slot, Private<TcpStream>)> {
    links.into_iter().map(|(slot, stream)| (slot, stream.into())).collect()
}

/// Exchanges messages with a peer until the deadline.
struct Talk<'t> {
    peer: Slot,
    stream: &'t mut TcpStream,
    deadline: &'t Deadline,
}

impl Talk<'_> {
    /// Sends `own`, and receives until `theirs` is full. Neither end waits for the other to read: each message fits
    /// into a socket.
    fn exchange(&mut self, own: &[u8], theirs: &mut [u8]) -> Result<(), SetupError> {
        let left = self.deadline.left().max(Duration::from_millis(1));
        let prepared = self.stream.set_nonblocking(false).and_then(|()| self.stream.set_nodelay(true));
        let timed = prepared.and_then(|()| self.stream.set_write_timeout(Some(left)));
        timed.map_err(|e| SetupError::Local(Error::io("verbs: cannot prepare a stream", e)))?;
        self.stream.write_all(own).map_err(|e| self.failed(&e))?;
        let mut heard = 0;
        while heard < theirs.len() {
            let left = self.deadline.slice();
            let missing = |what| SetupError::Missing(vec![PeerFault { peer: self.peer, what }]);
            if left.is_zero() {
                return Err(missing(format!("it sent {heard} of {} bytes of the RDMA set-up", theirs.len())));
            }
            let timed = self.stream.set_read_timeout(Some(left));
            timed.map_err(|e| SetupError::Local(Error::io("verbs: cannot prepare a stream", e)))?;
            match self.stream.read(&mut theirs[heard..]) {
                Ok(0) => {
                    let what = "it closed the link during set-up".to_owned();
                    return Err(SetupError::Peer(PeerFault { peer: self.peer, what }));
                }
                Ok(count) => heard += count,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(e) => return Err(self.failed(&e)),
            }
        }
        Ok(())
    }

    fn failed(&self, error: &std::io::Error) -> SetupError {
        SetupError::Peer(PeerFault { peer: self.peer, what: format!("the link broke during set-up: {error}") })
    }
}

fn check(me: Slot, specs: &[TableSpec]) -> Result<(), Error> {
    if me >= SLOTS {
        return Err(Error::Misuse("verbs: a slot must be below 64"));
    }
    if !specs.iter().all(TableSpec::fits) {
        return Err(Error::Misuse("verbs: a table's lengths are not multiples of 64, or its columns exceed its row"));
    }
    Ok(())
}
