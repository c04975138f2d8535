//! A peer that is up: its queue pair, what is under way on it, and what waits.

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
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

/// Completions taken at a time.
const COMPLETIONS: usize = 16;

/// Of a link's *desk*, the memory that is its own: the line that the peer writes, what is read of the peer's directory, and
/// then, by number of the request, snapshots that are too long to be inline.
pub(super) const DIRECTORY_AT: usize = 64;
/// See [`DIRECTORY_AT`].
pub(super) const STAGE_AT: usize = 4096;

/// See the module.
pub(super) struct Link {
    /// No other link of this process has it; it is the `wr_id` of receive requests.
    pub(super) id: u64,
    pub(super) stream: TcpStream,
    queue_pair: QueuePair,
    completions: Arc<CompletionQueue>,
    pub(super) desk: Arc<Region>,
    pub(super) peer: Hello,
    /// The longest inline write.
    inline_bytes: usize,
    depth: usize,
    pub(super) sends: Sends,
    pub(super) outbox: Outbox,
    pub(super) wake: Wake,
    pub(super) reads: Reads,
    /// Nothing is written: the peer has not said yet that it has severed the link before this one, by which it would mix.
    pub(super) held: bool,
    /// Why it is no use any more; the first reason counts.
    pub(super) down: Option<String>,
    /// While it closes: our end was shut, and the peer's.
    pub(super) own_ended: bool,
    pub(super) peer_ended: bool,
    /// Room for the list that is posted.
    requests: Vec<ibv_send_wr>,
    pieces: Vec<ibv_sge>,
}

/// What set-up made of it.
pub(super) struct Parts {
    pub(super) id: u64,
    pub(super) stream: TcpStream,
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

    /// Whether a stable source of so many bytes is taken when it is posted.
    pub(super) fn takes_at_once(&self, len: usize) -> bool {
        len <= self.inline_bytes.min(SNAPSHOT_MAX)
    }

    pub(super) fn fail(&mut self, cause: impl FnOnce() -> String) {
        self.down.get_or_insert_with(cause);
    }

    /// The ticket of the first write whose source must not change.
    pub(super) fn first_stable(&self) -> Option<u64> {
        self.sends.first_stable().or_else(|| self.outbox.first_stable())
    }

    /// Takes completions. True if there were any.
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

    /// Posts what waits, as far as there is room: one list, one doorbell.
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

    /// Posts the list. The bytes of inline requests must still be there.
    fn ring(&mut self, stats: &mut FabricStats) {
        for (place, request) in self.requests.iter_mut().enumerate() {
            if self.pieces[place].length > 0 {
                request.num_sge = 1;
                request.sg_list = &raw mut self.pieces[place];
            }
        }
        stats.work_requests += self.requests.len() as u64;
        stats.doorbells += 1;
        // SAFETY: every request has one piece, of `pieces`, or none. Inline bytes are of the outbox or of the caller's frame,
        // both alive; others are of registered memory: of an own row, which stays as it is until the ticket is complete
        // (the fabric's contract), of the stage, whose place nobody uses before the request is complete, as there are as many
        // places as requests; and what is read goes to a copy's data, or to the desk, which only `Reads` looks at, after it.
        if let Err(failed) = unsafe { self.queue_pair.post_send(&mut self.requests) } {
            let count = self.requests.len();
            self.fail(|| format!("the device took {} of {count} requests: {}", failed.posted, failed.error));
        }
        self.requests.clear();
        self.pieces.clear();
    }

    /// Sees whether the peer is to be woken or told something. Without room that waits, as everything does, for the
    /// completion that makes some.
    pub(super) fn look(&mut self, stats: &mut FabricStats) {
        if self.sends.room() > 0 {
            let notice = self.wake.look();
            self.notify(notice, stats);
        }
    }

    /// This process goes to sleep: the peer is to know, and this process is to know of completions that it waits for.
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

    /// Reads `len` bytes from `source` to `offset` of `region`. The number of the request, if there is room.
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

    /// Sees to it that the completion of everything is told. True once it is.
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

    /// The peer has sent a wake-up: a receive request comes in the place of the one that it took.
    pub(super) fn take_wake(&mut self) {
        self.wake.take();
        let result = post_receives::<1>(&self.queue_pair, self.id);
        result.unwrap_or_else(|what| self.fail(|| what));
    }

    /// Of a link that was made again: the one before it is severed at this end, and the peer may write.
    pub(super) fn say_severed(&mut self) {
        // The first byte of a stream that is idle fits into it; if it broke, the link is down.
        if let Err(error) = (&self.stream).write_all(&[SEVERED]) {
            self.fail(|| format!("the link broke: {error}"));
        }
    }

    /// Out of service: from here on nothing of the peer lands, and nothing is read for it.
    pub(super) fn end(self) {
        // The queue pair is destroyed in any case, which is an end as well.
        let _ = self.queue_pair.to_error();
        drop(self.queue_pair);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Posts `COUNT` receive requests, without memory: wake-ups carry none.
pub(super) fn post_receives<const COUNT: usize>(queue_pair: &QueuePair, id: u64) -> Result<(), String> {
    let request = ibv_recv_wr { wr_id: id, next: std::ptr::null_mut(), sg_list: std::ptr::null_mut(), num_sge: 0 };
    let mut requests = [request; COUNT];
    // SAFETY: no request has memory.
    unsafe { queue_pair.post_receive(&mut requests) }.map_err(|failed| failed.error.to_string())
}

fn inline(len: usize, inline_bytes: usize) -> u32 {
    if len <= inline_bytes { IBV_SEND_INLINE } else { 0 }
}

/// Bytes as a piece: where they are, if they go inline; otherwise in the stage, at `place`.
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
