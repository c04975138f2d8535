//! The link to a peer that is up: its queue pair, the requests under way, and the queue.

use super::super::{FabricStats, SNAPSHOT_MAX};
use super::hello::{Hello, SEVERED};
use super::outbox::{Bytes, Outbox};
use super::reads::Reads;
use super::region::{Region, Target};
use super::sends::Sends;
use super::sys::{
    CompletionQueue, IBV_SEND_INLINE, IBV_SEND_SIGNALED, IBV_WC_SUCCESS, IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE,
    IBV_WR_RDMA_WRITE_WITH_IMM, QueuePair, ibv_recv_wr, ibv_send_wr, ibv_sge, ibv_wc, ibv_wr, ibv_wr_rdma, wc_status,
};
use super::wake::{Notice, Wake};
use crate::process::Private;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

/// Most completions taken at a time.
const COMPLETIONS: usize = 16;

/// The offset, in a link's *desk*, of the entry that is read from the peer's directory.
///
/// The desk is the link's private memory. First comes the line that the peer writes, then this entry, and then the
/// stage: by number of the request, snapshots that are too long to be inline.
pub(super) const DIRECTORY_AT: usize = 64;
/// The offset of the stage: see [`DIRECTORY_AT`].
pub(super) const STAGE_AT: usize = 4096;

/// The link to a peer.
pub(super) struct Link {
    /// Unique among the links of this process; the `wr_id` of the link's receive requests.
    pub(super) id: u64,
    pub(super) stream: Private<TcpStream>,
    queue_pair: QueuePair,
    completions: Arc<CompletionQueue>,
    pub(super) desk: Arc<Region>,
    pub(super) peer: Hello,
    /// The length of the longest inline write.
    inline_bytes: usize,
    depth: usize,
    pub(super) sends: Sends,
    pub(super) outbox: Outbox,
    pub(super) wake: Wake,
    pub(super) reads: Reads,
    /// No write is posted until the peer reports that it has severed the previous link. Earlier writes could mix with
    /// those of that link.
    pub(super) held: bool,
    /// Why the link cannot be used any more; the first reason counts.
    pub(super) down: Option<String>,
    /// During a close: whether our end, and the peer's end, of the stream was shut.
    pub(super) own_ended: bool,
    pub(super) peer_ended: bool,
    /// Buffers for the list of requests that is posted.
    requests: Vec<ibv_send_wr>,
    pieces: Vec<ibv_sge>,
}

/// The parts of a link that set-up creates.
pub(super) struct Parts {
    pub(super) id: u64,
    pub(super) stream: Private<TcpStream>,
    pub(super) queue_pair: QueuePair,
    pub(super) completions: Arc<CompletionQueue>,
    pub(super) desk: Arc<Region>,
    pub(super) peer: Hello,
    pub(super) inline_bytes: usize,
    pub(super) depth: u32,
}

/// One work request.
struct Request {
    opcode: u32,
    flags: u32,
    /// No piece of memory if its length is 0.
    piece: ibv_sge,
    target: Target,
}

impl Link {
    pub(super) fn new(parts: Parts) -> Link {
        let Parts { id, stream, queue_pair, completions, desk, peer, inline_bytes, depth } = parts;
        let wake = Wake::new(desk.row.clone());
        let sends = Sends::new(depth);
        let (depth, held) = (depth as usize, peer.again);
        Link {
            id,
            stream,
            queue_pair,
            completions,
            desk,
            peer,
            inline_bytes,
            depth,
            sends,
            outbox: Outbox::default(),
            wake,
            reads: Reads::default(),
            held,
            down: None,
            own_ended: false,
            peer_ended: false,
            requests: Vec::with_capacity(depth),
            pieces: Vec::with_capacity(depth),
        }
    }

    /// Whether a stable source of `len` bytes is copied when it is posted.
    pub(super) fn takes_at_once(&self, len: usize) -> bool {
        len <= self.inline_bytes.min(SNAPSHOT_MAX)
    }

    pub(super) fn fail(&mut self, cause: impl FnOnce() -> String) {
        self.down.get_or_insert_with(cause);
    }

    /// The ticket of the first write with a source that must not change yet.
    pub(super) fn first_stable(&self) -> Option<u64> {
        self.sends.first_stable().or_else(|| self.outbox.first_stable())
    }

    /// Takes completions. True if requests have completed.
    pub(super) fn complete(&mut self) -> bool {
        let before = self.sends.done();
        while !self.sends.is_idle() && self.down.is_none() {
            let mut found = [ibv_wc::default(); COMPLETIONS];
            let count = match self.completions.poll(&mut found) {
                Ok(count) => count,
                Err(error) => {
                    self.fail(|| error.to_string());
                    break;
                }
            };
            for completion in &found[..count] {
                let result = match completion.status {
                    IBV_WC_SUCCESS => self.sends.complete(completion.wr_id),
                    status => Err(format!("a request failed: {} (status {status})", wc_status(status))),
                };
                result.unwrap_or_else(|what| self.fail(|| what));
            }
            if count < COMPLETIONS {
                break;
            }
        }
        self.sends.done() != before
    }

    /// Posts the queued writes for which there is room: one list, one doorbell.
    pub(super) fn send(&mut self, own: &[Arc<Region>], stats: &mut FabricStats) {
        let count = self.outbox.iter().take(self.sends.room()).count();
        if count == 0 || self.held || self.down.is_some() {
            return;
        }
        let mut stable = false;
        for (place, write) in self.outbox.iter().take(count).enumerate() {
            let (len, target) = (write.range.len() as u32, self.peer.rows[write.table].at(write.range.start));
            let (mut flags, mut ticket) = (0, None);
            let piece = match write.bytes {
                Bytes::Stable(of) => {
                    stable = true;
                    ticket = of;
                    let region = &own[write.table];
                    ibv_sge { addr: region.address(write.range.start), length: len, lkey: region.local_key() }
                }
                Bytes::Copied(at) => {
                    let bytes = self.outbox.copied(at, write.range.len());
                    flags |= inline(bytes.len(), self.inline_bytes);
                    piece_of(bytes, flags, &self.desk, self.sends.next() as usize % self.depth)
                }
            };
            stats.bytes_sent += u64::from(len);
            if self.sends.post(ticket, stable && place + 1 == count) {
                flags |= IBV_SEND_SIGNALED;
            }
            let number = self.sends.next() - 1;
            let request = Request { opcode: IBV_WR_RDMA_WRITE, flags, piece, target };
            push(&mut self.requests, &mut self.pieces, number, request);
        }
        if self.wake.write()
            && let Some(last) = self.requests.last_mut()
        {
            last.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
        }
        self.ring(stats);
        self.outbox.pop(count);
    }

    /// Posts the list. The bytes of inline requests must still be alive.
    fn ring(&mut self, stats: &mut FabricStats) {
        for (place, request) in self.requests.iter_mut().enumerate() {
            if self.pieces[place].length > 0 {
                request.num_sge = 1;
                request.sg_list = &raw mut self.pieces[place];
            }
        }
        stats.work_requests += self.requests.len() as u64;
        stats.doorbells += 1;
        // SAFETY: every request has one piece, of `pieces`, or none. Inline bytes are in the outbox or in the caller's
        // frame, both alive. Other bytes are in registered memory: in an own row, which does not change until the
        // ticket is complete (the fabric's contract), or in the stage, where a place is not reused before its request
        // is complete, since there are as many places as requests. Reads go to a copy's data, or to the desk, where
        // only `Reads` looks at them, after the completion.
        if let Err(failed) = unsafe { self.queue_pair.post_send(&mut self.requests) } {
            let count = self.requests.len();
            self.fail(|| format!("the device took {} of {count} requests: {}", failed.posted, failed.error));
        }
        self.requests.clear();
        self.pieces.clear();
    }

    /// Sends the peer the wake-up and counters that are due. Without room in the send queue this waits, as everything
    /// does, for the completion that makes room.
    pub(super) fn look(&mut self, stats: &mut FabricStats) {
        if self.sends.room() > 0 {
            let notice = self.wake.look();
            self.notify(notice, stats);
        }
    }

    /// Announces to the peer that this process goes to sleep, and requests a notification for completions that it waits
    /// for.
    pub(super) fn sleep(&mut self, closing: bool, stats: &mut FabricStats) {
        if self.sends.room() > 0 {
            let notice = self.wake.sleep_now();
            self.notify(notice, stats);
        }
        let waits = self.first_stable().is_some() || !self.outbox.is_empty() || !self.reads.is_empty();
        let waits = waits || closing && !self.sends.is_idle();
        if (waits || self.sends.room() == 0)
            && let Err(error) = self.completions.request_notification(false)
        {
            self.fail(|| error.to_string());
        }
    }

    fn notify(&mut self, notice: Notice, stats: &mut FabricStats) {
        if notice == Notice::default() || self.down.is_some() {
            return;
        }
        let bytes = notice.tell.unwrap_or_default().bytes();
        let opcode = if notice.wake { IBV_WR_RDMA_WRITE_WITH_IMM } else { IBV_WR_RDMA_WRITE };
        let mut flags = inline(bytes.len(), self.inline_bytes);
        let mut piece = piece_of(&bytes, flags, &self.desk, self.sends.next() as usize % self.depth);
        if notice.tell.is_none() {
            piece.length = 0;
            flags = 0;
        }
        self.post_one(opcode, flags, piece, self.peer.line, stats);
    }

    /// Reads `len` bytes from `source` to `offset` of `region`. Returns the number of the request if there was room.
    pub(super) fn read(
        &mut self,
        source: Target,
        region: &Region,
        offset: usize,
        len: usize,
        stats: &mut FabricStats,
    ) -> Option<u64> {
        if self.sends.room() == 0 || self.down.is_some() {
            return None;
        }
        let piece = ibv_sge { addr: region.address(offset), length: len as u32, lkey: region.local_key() };
        self.post_one(IBV_WR_RDMA_READ, IBV_SEND_SIGNALED, piece, source, stats);
        Some(self.sends.next() - 1)
    }

    /// Makes sure that a completion reports the end of all requests. True once nothing is queued or under way.
    pub(super) fn drain(&mut self, stats: &mut FabricStats) -> bool {
        if self.sends.needs_signal() && self.sends.room() > 0 && self.down.is_none() {
            let nothing = ibv_sge { addr: 0, length: 0, lkey: 0 };
            self.post_one(IBV_WR_RDMA_WRITE, IBV_SEND_SIGNALED, nothing, self.peer.line, stats);
        }
        self.outbox.is_empty() && self.sends.is_idle()
    }

    fn post_one(&mut self, opcode: u32, flags: u32, piece: ibv_sge, target: Target, stats: &mut FabricStats) {
        let wanted = flags & IBV_SEND_SIGNALED != 0;
        let flags = if self.sends.post(None, wanted) { flags | IBV_SEND_SIGNALED } else { flags };
        let number = self.sends.next() - 1;
        push(&mut self.requests, &mut self.pieces, number, Request { opcode, flags, piece, target });
        self.ring(stats);
    }

    /// Accounts for a wake-up from the peer, and replaces the receive request that it used.
    pub(super) fn take_wake(&mut self) {
        self.wake.take();
        let result = post_receives::<1>(&self.queue_pair, self.id);
        result.unwrap_or_else(|what| self.fail(|| what));
    }

    /// On a link that was made again: reports that the previous link is severed at this end, so that the peer may
    /// write.
    pub(super) fn say_severed(&mut self) {
        // The stream is idle, so one byte fits into it. If the write fails, the link is down.
        if let Err(error) = (&*self.stream).write_all(&[SEVERED]) {
            self.fail(|| format!("the link broke: {error}"));
        }
    }

    /// Takes the link out of service. Afterwards nothing of the peer lands, and nothing is read for it.
    pub(super) fn end(self) {
        // Errors do not matter, since destroying the queue pair also takes it out of service.
        let _ = self.queue_pair.to_error();
        drop(self.queue_pair);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Posts `COUNT` receive requests without memory, since wake-ups carry no bytes.
pub(super) fn post_receives<const COUNT: usize>(queue_pair: &QueuePair, id: u64) -> Result<(), String> {
    let request = ibv_recv_wr { wr_id: id, next: std::ptr::null_mut(), sg_list: std::ptr::null_mut(), num_sge: 0 };
    let mut requests = [request; COUNT];
    // SAFETY: no request has memory.
    unsafe { queue_pair.post_receive(&mut requests) }.map_err(|failed| failed.error.to_string())
}

fn inline(len: usize, inline_bytes: usize) -> u32 {
    if len <= inline_bytes { IBV_SEND_INLINE } else { 0 }
}

/// Makes a piece of `bytes`: in place if they go inline, otherwise copied to `place` of the stage.
fn piece_of(bytes: &[u8], flags: u32, desk: &Region, place: usize) -> ibv_sge {
    let length = bytes.len() as u32;
    if flags & IBV_SEND_INLINE != 0 {
        return ibv_sge { addr: bytes.as_ptr() as u64, length, lkey: 0 };
    }
    let offset = STAGE_AT + place * SNAPSHOT_MAX;
    desk.row.store_words(offset, bytes);
    ibv_sge { addr: desk.address(offset), length, lkey: desk.local_key() }
}

fn push(requests: &mut Vec<ibv_send_wr>, pieces: &mut Vec<ibv_sge>, number: u64, request: Request) {
    let Request { opcode, flags, piece, target } = request;
    pieces.push(piece);
    requests.push(ibv_send_wr {
        wr_id: number,
        opcode,
        send_flags: flags,
        wr: ibv_wr { rdma: ibv_wr_rdma { remote_addr: target.address, rkey: target.key } },
        ..ibv_send_wr::default()
    });
}
