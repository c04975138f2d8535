//! Plain writes between two processes, without a protocol, to measure a device. Not part of the interface.
//!
//! Each process opens a device ([`Raw::open`]) and has one *source*. [`Raw::connect`] makes a queue pair with a peer.
//! Each write of the peer copies a range of its source to the same range of the link's [`RawLink::inbox`].

use super::super::{Row, TableId, TableSpec};
use super::hello::{Hello, READY};
use super::port::Port;
use super::region::{Access, Region};
use super::sends::Sends;
use super::sys::{
    CompletionChannel, CompletionQueue, IBV_SEND_INLINE, IBV_SEND_SIGNALED, IBV_WC_SUCCESS, IBV_WR_RDMA_WRITE,
    QueuePair, Remote, VerbsError, ibv_send_wr, ibv_sge, ibv_wc, ibv_wr, ibv_wr_rdma, wc_status,
};
use crate::config::Verbs;
use crate::error::Error;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Most completions taken at a time.
const COMPLETIONS: usize = 16;

/// An open device, and the memory from which its links write.
pub struct Raw {
    port: Port,
    /// Becomes readable when a link that has requested a notification has completions.
    channel: Arc<CompletionChannel>,
    source: Arc<Region>,
    len: usize,
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw").field("port", &self.port.choice).field("len", &self.len).finish_non_exhaustive()
    }
}

fn failed(what: &str) -> impl Fn(VerbsError) -> Error {
    move |e| Error::io(format!("verbs: cannot {what}"), io::Error::from(e))
}

impl Raw {
    /// Opens the device that a group with these settings would use, for a source and inboxes of `len` bytes.
    ///
    /// # Errors
    /// [`Error::Rdma`] if there is no such device; [`Error::Io`] when the system refuses the memory.
    pub fn open(settings: &Verbs, address: Option<IpAddr>, len: usize) -> Result<Raw, Error> {
        let port = Port::open(settings, address)?;
        let channel = CompletionChannel::new(&port.context).map_err(failed("create a completion channel"))?;
        let len = len.next_multiple_of(64);
        let source = Region::new(&port, len, 64, Access::Read)?;
        Ok(Raw { port, channel, source, len })
    }

    /// The source of all links' writes. A change during a write may or may not be included in it.
    pub fn source(&self) -> &Row {
        &self.source.row
    }

    /// Sleeps until a link that has requested it ([`RawLink::tell`]) has completions, or the timeout has passed.
    ///
    /// # Errors
    /// [`Error::Io`] if a system call fails.
    pub fn sleep(&self, timeout: Duration) -> Result<(), Error> {
        let mut fds = [PollFd::new(self.channel.fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // An interrupted sleep counts as a short one.
        let _ = poll(&mut fds, timeout);
        self.channel.drain().map(drop).map_err(failed("take the notifications of a completion channel"))
    }

    /// Connects with a process that makes the same call with the other end of `stream`. The stream can be used again
    /// afterwards.
    ///
    /// # Errors
    /// [`Error::Io`] if the stream or a call fails, if the peer does not send this set-up, or if it has another `len`.
    pub fn connect(&self, stream: &mut TcpStream, timeout: Duration) -> Result<RawLink, Error> {
        let port = &self.port;
        let inbox = Region::new(port, self.len, 64, Access::ReadWrite)?;
        let completions = CompletionQueue::new(&port.context, port.depth() + 1, Some(&self.channel))
            .map_err(failed("create a completion queue"))?;
        let queue_pair = QueuePair::new(&port.domain, &completions, &completions, port.capacity())
            .map_err(failed("create a queue pair"))?;
        let granted = queue_pair.capacity().map_err(failed("query a queue pair"))?;
        let specs = [TableSpec { id: TableId(0), columns_len: 64, row_len: self.len }];
        let psn = (RandomState::new().hash_one(queue_pair.number()) & 0xff_ffff) as u32;
        let own = Hello {
            from: 0,
            to: 0,
            remote: Remote { qp_number: queue_pair.number(), psn, lid: port.choice.lid, gid: port.gid() },
            mtu: port.mtu(),
            global: port.choice.gid.is_some(),
            reads_served: port.reads_served(),
            again: false,
            line: inbox.target(),
            directory: inbox.target(),
            rows: vec![inbox.target()],
        };
        let broke = |e| Error::io("verbs: the stream of a raw link", e);
        stream.set_read_timeout(Some(timeout)).map_err(broke)?;
        let mut heard = vec![0; Hello::len(specs.len())];
        exchange(stream, &own.encode(&specs), &mut heard).map_err(broke)?;
        let odd = |what: String| Error::io("verbs: the peer of a raw link", io::Error::other(what));
        let peer = Hello::decode(&heard, 0, 0, &specs).map_err(odd)?;
        if peer.global != own.global {
            return Err(odd("one end is reached by a GID, the other by a LID".to_owned()));
        }
        let attributes = port.attributes(peer.mtu, peer.reads_served.max(1));
        let connecting = failed("connect a queue pair");
        queue_pair.to_init(&attributes).map_err(&connecting)?;
        queue_pair.to_ready_to_receive(&attributes, &peer.remote).map_err(&connecting)?;
        queue_pair.to_ready_to_send(&attributes, psn).map_err(&connecting)?;
        exchange(stream, &[READY], &mut [0]).map_err(broke)?;
        stream.set_read_timeout(None).map_err(broke)?;
        Ok(RawLink {
            queue_pair,
            completions,
            source: self.source.clone(),
            inbox,
            len: self.len,
            inline_bytes: granted.inline_bytes as usize,
            peer,
            sends: Sends::new(port.depth()),
            requests: Vec::new(),
            pieces: Vec::new(),
            work_requests: 0,
            doorbells: 0,
        })
    }
}

/// Sends `own` and receives `theirs`. Both messages fit into a socket, so neither end waits for the other to read.
fn exchange(stream: &mut TcpStream, own: &[u8], theirs: &mut [u8]) -> io::Result<()> {
    stream.write_all(own)?;
    stream.read_exact(theirs)
}

/// A connected queue pair. [`RawLink::write`] adds to a list, and [`RawLink::ring`] posts the list.
pub struct RawLink {
    queue_pair: QueuePair,
    completions: Arc<CompletionQueue>,
    source: Arc<Region>,
    inbox: Arc<Region>,
    len: usize,
    inline_bytes: usize,
    peer: Hello,
    sends: Sends,
    requests: Vec<ibv_send_wr>,
    pieces: Vec<ibv_sge>,
    work_requests: u64,
    doorbells: u64,
}

impl fmt::Debug for RawLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawLink").field("peer", &self.peer.remote).finish_non_exhaustive()
    }
}

impl RawLink {
    /// The memory that the peer writes.
    pub fn inbox(&self) -> &Row {
        &self.inbox.row
    }

    /// The number of writes for which there is still room.
    pub fn room(&self) -> usize {
        self.sends.room()
    }

    /// True if no write is under way.
    pub fn is_idle(&self) -> bool {
        self.sends.is_idle()
    }

    /// The number of work requests posted, and the number of calls that posted them (doorbells).
    pub fn posted(&self) -> (u64, u64) {
        (self.work_requests, self.doorbells)
    }

    /// Lists a write of a range of the source to the same range of the peer's inbox, inline if it is short enough.
    ///
    /// One request in a quarter of the send queue is signalled, and so is this one if `signalled` is true. The last one
    /// must be.
    ///
    /// # Panics
    /// If the range is not in the source, or there is no room: errors of the caller.
    pub fn write(&mut self, range: Range<usize>, signalled: bool) {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} bytes", self.len);
        let mut flags = if range.len() <= self.inline_bytes { IBV_SEND_INLINE } else { 0 };
        let wr_id = self.sends.next();
        if self.sends.post(None, signalled) {
            flags |= IBV_SEND_SIGNALED;
        }
        let (target, length) = (self.peer.rows[0].at(range.start), range.len() as u32);
        self.pieces.push(ibv_sge { addr: self.source.address(range.start), length, lkey: self.source.local_key() });
        self.requests.push(ibv_send_wr {
            wr_id,
            opcode: IBV_WR_RDMA_WRITE,
            send_flags: flags,
            wr: ibv_wr { rdma: ibv_wr_rdma { remote_addr: target.address, rkey: target.key } },
            ..ibv_send_wr::default()
        });
    }

    /// Posts the list with one doorbell. Does nothing if the list is empty.
    ///
    /// # Errors
    /// [`Error::Io`] if the device does not take all requests.
    pub fn ring(&mut self) -> Result<(), Error> {
        if self.requests.is_empty() {
            return Ok(());
        }
        for (request, piece) in self.requests.iter_mut().zip(&mut self.pieces) {
            request.num_sge = 1;
            request.sg_list = &raw mut *piece;
        }
        self.work_requests += self.requests.len() as u64;
        self.doorbells += 1;
        // SAFETY: every request has one piece, of `pieces`, which is alive. The piece is in the source, which stays
        // mapped and registered while this link holds it. Inline bytes are copied by the call, and nothing depends on
        // when the others are read.
        let result = unsafe { self.queue_pair.post_send(&mut self.requests) };
        self.requests.clear();
        self.pieces.clear();
        result.map_err(|failed| Error::io("verbs: cannot post", io::Error::from(failed.error)))
    }

    /// Requests that the link's next completion ends [`Raw::sleep`]. A completion that is there already does not, so
    /// poll before sleeping.
    ///
    /// # Errors
    /// [`Error::Io`] if the call fails.
    pub fn tell(&self) -> Result<(), Error> {
        self.completions.request_notification(false).map_err(failed("ask for a notification"))
    }

    /// Takes completions. True if there were any.
    ///
    /// # Errors
    /// [`Error::Io`] if a write failed; its text gives the reason.
    pub fn poll(&mut self) -> Result<bool, Error> {
        let before = self.sends.done();
        while !self.sends.is_idle() {
            let mut found = [ibv_wc::default(); COMPLETIONS];
            let count = self.completions.poll(&mut found).map_err(failed("poll a completion queue"))?;
            for completion in &found[..count] {
                let result = match completion.status {
                    IBV_WC_SUCCESS => self.sends.complete(completion.wr_id),
                    status => Err(format!("a write failed: {} (status {status})", wc_status(completion.status))),
                };
                result.map_err(|what| Error::io("verbs: a raw link", io::Error::other(what)))?;
            }
            if count < COMPLETIONS {
                break;
            }
        }
        Ok(self.sends.done() != before)
    }
}
