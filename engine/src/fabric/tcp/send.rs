//! The sending side of a link: the queue for one peer, in posting order. Small writes are queued as bytes, large stable
//! ones as ranges of the own row, and answers as ranges of the requested rows.

use super::wire::{self, HEADER_LEN, Place};
use crate::fabric::{FabricStats, Row, TableId};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Most bytes sent to one peer in one pass, so that it starves neither the others nor the caller.
const PASS_BYTES: usize = 1 << 20;

/// Most parts of one system call. Small writes share a part, so these suffice for many writes.
const PARTS: usize = 256;

/// Buffered bytes, followed by a range of a source. Only the last segment of the queue may have an empty range.
struct Segment {
    buffered: usize,
    direct: Range<usize>,
    source: Bytes,
}

/// The source of a segment's range.
enum Bytes {
    /// The own row of the table with this index, for the write with this ticket.
    Own { table: usize, ticket: u64 },
    /// Any row: the segment is an answer.
    Row(Arc<Row>),
    /// A copy.
    Copy(Box<[u8]>),
}

/// The sending side of a link.
pub(super) struct Outbox {
    bytes: VecDeque<u8>,
    segments: VecDeque<Segment>,
    /// The last write in the queue, if `bytes` contains all of it.
    last: Option<(TableId, Range<usize>)>,
    /// The number of segments that are answers.
    answers: usize,
}

/// The result of one pass.
pub(super) enum Sent {
    /// The kernel took everything, or the pass reached its limit.
    Ready,
    /// The kernel takes no more until it reports the socket as writable.
    Full,
    /// The connection broke.
    Failed(io::Error),
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        let (bytes, segments) = (VecDeque::with_capacity(4096), VecDeque::with_capacity(64));
        Outbox { bytes, segments, last: None, answers: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.segments.clear();
        self.answers = 0;
    }

    /// The first ticket with a source that the kernel has yet to read.
    pub(super) fn first_direct(&self) -> Option<u64> {
        // The search skips only answers, which are few.
        self.segments.iter().filter(|segment| !segment.direct.is_empty()).find_map(|segment| match segment.source {
            Bytes::Own { ticket, .. } => Some(ticket),
            _ => None,
        })
    }

    /// The number of answers that the kernel has not taken completely.
    pub(super) fn answers(&self) -> usize {
        self.answers
    }

    /// Queues a write of `bytes`, which are copied.
    pub(super) fn push_copy(&mut self, id: TableId, range: Range<usize>, bytes: &[u8]) {
        let wire_len = HEADER_LEN + bytes.len();
        // Nothing was posted after the last write of this range, and nothing of it was sent. So the peer may see only
        // the newer bytes. This bounds the queue of a slow peer to which the same few words are pushed again and again.
        if self.bytes.len() >= wire_len && self.last.as_ref() == Some(&(id, range.clone())) {
            let from = self.bytes.len() - bytes.len();
            self.bytes.range_mut(from..).zip(bytes).for_each(|(old, new)| *old = *new);
            return;
        }
        self.bytes.extend(&wire::write(id, &range));
        self.bytes.extend(bytes);
        self.tail().buffered += wire_len;
        self.last = Some((id, range));
    }

    /// Queues a write that the kernel will read from the own row of the table with index `table`.
    pub(super) fn push_direct(&mut self, id: TableId, table: usize, range: Range<usize>, ticket: u64) {
        let header = wire::write(id, &range);
        self.push_range(header, range, Bytes::Own { table, ticket });
    }

    /// Queues a request.
    pub(super) fn push_request(&mut self, place: &Place) {
        self.bytes.extend(&wire::request(place));
        self.last = None;
        self.tail().buffered += HEADER_LEN;
    }

    /// Queues an answer that the kernel will read from `row`.
    pub(super) fn push_answer(&mut self, place: &Place, row: Arc<Row>) {
        self.answers += 1;
        self.push_range(wire::answer(place), place.range.clone(), Bytes::Row(row));
    }

    fn push_range(&mut self, header: [u8; HEADER_LEN], range: Range<usize>, source: Bytes) {
        self.bytes.extend(&header);
        self.last = None;
        let tail = self.tail();
        tail.buffered += HEADER_LEN;
        tail.direct = range;
        tail.source = source;
    }

    /// Copies the bytes that the kernel has yet to take from the own rows. Their writes are complete then.
    pub(super) fn copy_own(&mut self, rows: &[Arc<Row>]) {
        for Segment { direct, source, .. } in &mut self.segments {
            let Bytes::Own { table, .. } = *source else { continue };
            let from = rows[table].ptr(direct.clone());
            // SAFETY: `Row::ptr` checked the range, and the row is mapped. The source of a stable write does not
            // change.
            let bytes = unsafe { std::slice::from_raw_parts(from, direct.len()) };
            *source = Bytes::Copy(bytes.into());
            *direct = 0..bytes.len();
        }
    }

    /// The segment to which buffered bytes are appended.
    fn tail(&mut self) -> &mut Segment {
        if self.segments.back().is_none_or(|segment| !segment.direct.is_empty()) {
            self.segments.push_back(Segment { buffered: 0, direct: 0..0, source: Bytes::Own { table: 0, ticket: 0 } });
        }
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// Sends one pass: gives the kernel as much as it takes. `rows` holds the own row of each table.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, rows: &[Arc<Row>], stats: &mut FabricStats) -> Sent {
        let mut left = PASS_BYTES;
        while left > 0 && !self.is_empty() {
            let (asked, result) = self.send_once(socket, rows, left);
            stats.system_calls += 1;
            match result {
                Ok(taken) => {
                    stats.bytes_sent += taken as u64;
                    left -= taken;
                    self.consume(taken);
                    if taken < asked {
                        return Sent::Full;
                    }
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => return Sent::Full,
                    Some(libc::EINTR) => {}
                    // The kernel is short of memory, and does not report when that is over.
                    Some(libc::ENOBUFS | libc::ENOMEM) => return Sent::Ready,
                    _ => return Sent::Failed(e),
                },
            }
        }
        Sent::Ready
    }

    /// Makes one system call for at most `left` bytes. Returns the number of bytes offered.
    fn send_once(&self, socket: BorrowedFd<'_>, rows: &[Arc<Row>], left: usize) -> (usize, io::Result<usize>) {
        let mut parts =
            Parts { list: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS], used: 0, left };
        let (front, back) = self.bytes.as_slices();
        let mut at = 0;
        for segment in &self.segments {
            let range = at..at + segment.buffered;
            at = range.end;
            parts.push(&raw const front[range.start.min(front.len())..range.end.min(front.len())]);
            parts.push(
                &raw const back[range.start.max(front.len()) - front.len()..range.end.max(front.len()) - front.len()],
            );
            if !segment.direct.is_empty() {
                let range = segment.direct.clone();
                let start = match &segment.source {
                    Bytes::Own { table, .. } => rows[*table].ptr(range),
                    Bytes::Row(row) => row.ptr(range),
                    Bytes::Copy(bytes) => bytes[range].as_ptr(),
                };
                parts.push(std::ptr::slice_from_raw_parts(start, segment.direct.len()));
            }
            if parts.left == 0 || parts.used + 3 > PARTS {
                break;
            }
        }
        // SAFETY: all-zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.list.as_mut_ptr();
        message.msg_iovlen = parts.used as _;
        // SAFETY: every part lies in `self` or in a mapped row, both of which outlive the call. The kernel only reads
        // them, and the source of a stable write does not change before it completes.
        let taken = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
        (left - parts.left, usize::try_from(taken).map_err(|_| io::Error::last_os_error()))
    }

    /// Drops the first `taken` bytes of the queue.
    fn consume(&mut self, mut taken: usize) {
        let mut buffered = 0;
        while let Some(segment) = self.segments.front_mut() {
            let part = taken.min(segment.buffered);
            segment.buffered -= part;
            buffered += part;
            taken -= part;
            let part = taken.min(segment.direct.len());
            segment.direct.start += part;
            taken -= part;
            if segment.buffered > 0 || !segment.direct.is_empty() {
                break;
            }
            let gone = self.segments.pop_front();
            self.answers -= usize::from(gone.is_some_and(|segment| matches!(segment.source, Bytes::Row(_))));
        }
        self.bytes.drain(..buffered);
    }
}

/// The parts of one system call.
struct Parts {
    list: [libc::iovec; PARTS],
    used: usize,
    /// The number of bytes that may still be added.
    left: usize,
}

impl Parts {
    fn push(&mut self, bytes: *const [u8]) {
        let len = bytes.len().min(self.left);
        if len > 0 {
            self.list[self.used] = libc::iovec { iov_base: bytes.cast_mut().cast(), iov_len: len };
            self.used += 1;
            self.left -= len;
        }
    }
}
