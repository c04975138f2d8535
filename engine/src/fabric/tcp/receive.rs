//! The receiving side of a link. Data goes from the socket straight to its place in the row; headers and columns pass
//! through a small staging buffer.

use super::fetch::{Asked, Dealings};
use super::send::Outbox;
use super::wire::{self, HEADER_LEN, Header, Place, Target};
use crate::fabric::{FabricStats, Row};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Most bytes taken from one peer in one pass, so that no peer starves the others.
const PASS_BYTES: usize = 1 << 20;

/// Size of the staging buffer. A stream of small writes then needs one system call for many of them.
const STAGING_BYTES: usize = 32 << 10;

/// Data of at least this length is probably followed by data as large. So only the headers and columns that follow it
/// are read into staging, and the next data can go straight to its place.
const LARGE_BYTES: usize = 8 << 10;

/// Bytes of staging offered behind large data.
const STAGING_BEHIND_LARGE_BYTES: usize = 512;

/// The result of one pass over a peer's bytes.
pub(super) enum Received {
    /// The socket holds nothing more for now.
    Drained,
    /// The pass reached its limit; the socket may hold more.
    More,
    /// The peer ended the stream in order.
    End,
    /// The connection broke.
    Failed(io::Error),
    /// The peer violated the protocol.
    Violation(String),
}

/// The receiving side of a link.
pub(super) struct Inbox {
    /// The peer's row of each table. All writes of this link go here; only answers go elsewhere.
    rows: Vec<Arc<Row>>,
    staging: Box<[u8]>,
    /// Bytes at the front of `staging` that are not parsed yet: less than a header, or less than a word.
    staged: usize,
    /// The write or answer to which the next bytes belong; `None` when a header comes next.
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

    /// Requests `place` from the peer; the data will go to `row`.
    pub(super) fn ask(&mut self, place: Place, row: Arc<Row>, outbox: &mut Outbox) {
        self.asked.push(place, row, outbox);
    }

    /// True between the first and the last byte of a message.
    pub(super) fn inside_write(&self) -> bool {
        self.staged > 0 || self.target.is_some()
    }

    /// Receives one pass: takes bytes from the socket and stores them in place.
    ///
    /// `to_the_end` means that the kernel has reported the end of the stream. A short read then does not end the pass,
    /// so that the end is found.
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
                        return Received::Violation(what);
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

    /// Makes one system call, for the rest of the current data and a suitable part of staging. Returns the number of
    /// bytes requested.
    fn read(&mut self, socket: BorrowedFd<'_>, left: usize) -> (usize, io::Result<usize>) {
        let mut direct = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut room = self.staging.len();
        if let Some(Target { table, range, columns: false, answer }) = &self.target {
            let len = range.len().min(left);
            let place = row(&self.rows, &self.asked, *table, *answer).ptr(range.start..range.start + len);
            direct = libc::iovec { iov_base: place.cast(), iov_len: len };
            // Staging receives the bytes behind the data. While only a part of the data is requested, nothing may go
            // there.
            room = match range.len() {
                rest if rest > len => self.staged,
                rest if rest >= LARGE_BYTES => STAGING_BEHIND_LARGE_BYTES,
                _ => room,
            };
        }
        let staging = &mut self.staging[self.staged..room];
        let parts = [direct, libc::iovec { iov_base: staging.as_mut_ptr().cast(), iov_len: staging.len() }];
        let parts = if direct.iov_len == 0 { &parts[1..] } else { &parts[..] };
        // SAFETY: the first part is a range of a row, which `Row::ptr` checked and which `self.rows` or `self.asked`
        // keeps mapped. The contract allows its data to change under a reader. The second part is borrowed mutably for
        // the call.
        let taken = unsafe { libc::readv(socket.as_raw_fd(), parts.as_ptr(), parts.len() as i32) };
        let asked = direct.iov_len + staging.len();
        (asked, usize::try_from(taken).map_err(|_| io::Error::last_os_error()))
    }

    /// Accounts for `taken` bytes that [`Inbox::read`] put in place, and parses the staged ones.
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

    /// Applies the first `staged` bytes of staging, in order. Returns how many of them it used.
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
                // Whole words only, so that no reader sees a torn word.
                len &= !7;
                row.store_words(target.range.start, &bytes[..len]);
            } else {
                let place = row.ptr(target.range.start..target.range.start + len);
                // SAFETY: `place` has `len` bytes, which `Row::ptr` checked. Staging is private memory, so they do not
                // overlap. The contract allows data to change under a reader until the counter that guards it is
                // stored.
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

    /// Refuses an answer that was not requested.
    fn expected(&self, place: &Place) -> Result<Target, String> {
        let Place { table, id, owner, ref range } = *place;
        if !self.asked.expects(place) {
            return Err(format!("an answer of {range:?} of table {}, slot {owner}, which was not requested", id.0));
        }
        Ok(Target { table, range: range.clone(), columns: false, answer: true })
    }

    /// Completes the current write or answer: its last byte has landed.
    fn finish(&mut self, dealings: &mut Dealings<'_>) {
        if self.target.take().is_some_and(|target| target.answer) {
            dealings.fetched(&mut self.asked);
        }
    }
}

/// The row to which a write or an answer goes.
#[inline]
fn row<'a>(rows: &'a [Arc<Row>], asked: &'a Asked, table: usize, answer: bool) -> &'a Row {
    if answer && let Some(row) = asked.row() { row } else { &rows[table] }
}
