//! What arrives from one peer: data goes from the socket straight to its place in the row, headers and columns by way of
//! a small staging buffer.

use super::fetch::{Asked, Dealings};
use super::send::Outbox;
use super::wire::{self, HEADER_LEN, Header, Place, Target};
use crate::fabric::{FabricStats, Row};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Most bytes taken from one peer in one pass, so that no peer starves the others.
const PASS_BYTES: usize = 1 << 20;

/// Staging for a stream of small writes: many of them for one system call.
const STAGING_BYTES: usize = 32 << 10;

/// From this many bytes of data on, what follows them is probably as large: take no more than its headers and columns
/// into staging, so that its data too can go straight to its place.
const LARGE_BYTES: usize = 8 << 10;

/// Staging behind large data.
const STAGING_BEHIND_LARGE_BYTES: usize = 512;

/// How a pass over one peer's bytes ended.
pub(super) enum Received {
    /// The socket holds nothing more for now.
    Drained,
    /// The pass was full; the socket may hold more.
    More,
    /// The peer's orderly end.
    End,
    /// The connection broke.
    Failed(io::Error),
    /// The peer broke the contract.
    Breach(String),
}

/// The receiving side of a link.
pub(super) struct Inbox {
    /// The peer's row of each table: nothing else can be written through this link, but for answers.
    rows: Vec<Arc<Row>>,
    staging: Box<[u8]>,
    /// Bytes at the front of `staging` that are not parsed: less than a header, or than a word.
    staged: usize,
    /// The write or answer whose bytes come next; none before a header.
    target: Option<Target>,
    asked: Asked,
}

impl Inbox {
    pub(super) fn new(rows: Vec<Arc<Row>>) -> Inbox {
        Inbox {
            rows,
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            staged: 0,
            target: None,
            asked: Asked::default(),
        }
    }

    /// Asks the peer for `place`, whose data go to `row`.
    pub(super) fn ask(&mut self, place: Place, row: Arc<Row>, outbox: &mut Outbox) {
        self.asked.push(place, row, outbox);
    }

    /// True between the first and the last byte of a write.
    pub(super) fn inside_write(&self) -> bool {
        self.staged > 0 || self.target.is_some()
    }

    /// One pass: takes what the socket holds and lets it land. With `to_the_end` the end of the stream is known to be
    /// in the socket, and looked for.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        to_the_end: bool,
        dealings: &mut Dealings<'_>,
        stats: &mut FabricStats,
    ) -> Received {
        let mut left = PASS_BYTES;
        while left > 0 {
            let (asked, result) = self.read(socket, left);
            stats.system_calls += 1;
            match result {
                Ok(0) => return Received::End,
                Ok(taken) => {
                    stats.bytes_received += taken as u64;
                    left = left.saturating_sub(taken);
                    if let Err(what) = self.land(taken, dealings) {
                        return Received::Breach(what);
                    }
                    if taken < asked && !to_the_end {
                        return Received::Drained;
                    }
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return Received::Drained,
                    io::ErrorKind::Interrupted => {}
                    _ => return Received::Failed(e),
                },
            }
        }
        Received::More
    }

    /// One system call: the rest of the current data, then as much staging as is wise. Returns the bytes it asked for.
    fn read(&mut self, socket: BorrowedFd<'_>, left: usize) -> (usize, io::Result<usize>) {
        let mut direct = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut room = self.staging.len();
        if let Some(Target { table, range, columns: false, answer }) = &self.target {
            let len = range.len().min(left);
            let place = row(&self.rows, &self.asked, *table, *answer).ptr(range.start..range.start + len);
            direct = libc::iovec { iov_base: place.cast(), iov_len: len };
            // Staging holds what follows the data, so it has no place behind a part of them.
            room = match range.len() {
                rest if rest > len => self.staged,
                rest if rest >= LARGE_BYTES => STAGING_BEHIND_LARGE_BYTES,
                _ => room,
            };
        }
        let staging = &mut self.staging[self.staged..room];
        let parts = [direct, libc::iovec { iov_base: staging.as_mut_ptr().cast(), iov_len: staging.len() }];
        let parts = if direct.iov_len == 0 { &parts[1..] } else { &parts[..] };
        // SAFETY: the first part is a range of a row, which `Row::ptr` checked and which `self.rows` or
        // `self.asked` keeps mapped; the contract lets its data change under a reader. The second is borrowed mutably for the call.
        let taken = unsafe { libc::readv(socket.as_raw_fd(), parts.as_ptr(), parts.len() as i32) };
        let asked = direct.iov_len + staging.len();
        (asked, usize::try_from(taken).map_err(|_| io::Error::last_os_error()))
    }

    /// Takes account of `taken` bytes that [`Inbox::read`] put in place, and parses what is staged.
    fn land(&mut self, taken: usize, dealings: &mut Dealings<'_>) -> Result<(), String> {
        let mut direct = 0;
        if let Some(target) = self.target.as_mut().filter(|target| !target.columns) {
            direct = taken.min(target.range.len());
            target.range.start += direct;
            if target.range.is_empty() {
                self.finish(dealings);
            }
        }
        let staged = self.staged + taken - direct;
        let parsed = self.parse(staged, dealings)?;
        self.staging.copy_within(parsed..staged, 0);
        self.staged = staged - parsed;
        Ok(())
    }

    /// Applies the first `staged` bytes of staging, in order. Returns how many it could use.
    fn parse(&mut self, staged: usize, dealings: &mut Dealings<'_>) -> Result<usize, String> {
        let mut at = 0;
        loop {
            let bytes = &self.staging[at..staged];
            let Some(target) = &mut self.target else {
                let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
                    return Ok(at);
                };
                self.target = match wire::decode(header, &dealings.tables.specs)? {
                    Header::Write(target) => Some(target),
                    Header::Request(place) => dealings.answer(&place).map(|()| None)?,
                    Header::Answer(place) => Some(self.expected(&place)?),
                };
                at += HEADER_LEN;
                continue;
            };
            let row = row(&self.rows, &self.asked, target.table, target.answer);
            let mut len = target.range.len().min(bytes.len());
            if target.columns {
                // Whole words only, so that no reader sees a torn one.
                len &= !7;
                row.store_words(target.range.start, &bytes[..len]);
            } else {
                let place = row.ptr(target.range.start..target.range.start + len);
                // SAFETY: `place` has `len` bytes, which `Row::ptr` checked; staging is private, so they do not overlap;
                // the contract lets data change under a reader until the counter that guards them is stored.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, len) };
            }
            at += len;
            target.range.start += len;
            if !target.range.is_empty() {
                return Ok(at);
            }
            self.finish(dealings);
        }
    }

    /// Refuses an answer that was not asked for.
    fn expected(&self, place: &Place) -> Result<Target, String> {
        let Place { table, id, owner, ref range } = *place;
        if !self.asked.expects(place) {
            return Err(format!("an answer of {range:?} of table {}, slot {owner}, which was not asked for", id.0));
        }
        Ok(Target { table, range: range.clone(), columns: false, answer: true })
    }

    /// The write or answer has landed.
    fn finish(&mut self, dealings: &mut Dealings<'_>) {
        if self.target.take().is_some_and(|target| target.answer) {
            dealings.fetched(&mut self.asked);
        }
    }
}

/// Where a write or an answer goes.
#[inline]
fn row<'a>(rows: &'a [Arc<Row>], asked: &'a Asked, table: usize, answer: bool) -> &'a Row {
    if answer && let Some(row) = asked.row() { row } else { &rows[table] }
}
