//! The byte ring inside a member's row: the senders' side (any thread) and the reading of frames (the engine).

use super::claims::{Claim, Claims, PADDING};
use super::frame::{self, Header, WORD};
use super::memories::Memories;
use crate::fabric::Row;
use crate::types::{Mode, Ticket};
use crossbeam_utils::CachePadded;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The location of a ring in its row, and the mapping from ring positions to bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Offset of the ring in the row, in bytes.
    pub(super) base: usize,
    /// Size in words, a power of two.
    pub(super) words: u32,
}

impl Geometry {
    /// Offset in the row of the word at ring position `word`, in bytes.
    #[inline]
    pub(super) fn offset(self, word: u32) -> usize {
        self.base + (word & (self.words - 1)) as usize * WORD
    }

    /// Words from `word` to the end of the ring.
    #[inline]
    pub(super) fn room(self, word: u32) -> u32 {
        self.words - (word & (self.words - 1))
    }

    /// The byte range of the payload in the row.
    #[inline]
    pub(super) fn payload(self, word: u32, len: usize) -> Range<usize> {
        let start = self.offset(word) + WORD;
        start..start + len
    }
}

/// How far ahead cache lines are fetched: farther than the stores of a few messages reach.
const AHEAD_BYTES: usize = 1024;
/// Longer frames are left to the processor's own prefetcher, which detects the sequential access.
const AHEAD_MOST_WORDS: u32 = 64;

/// The word at a ring position.
#[inline(always)]
pub(super) fn raw_header(row: &Row, geometry: Geometry, word: u32) -> u64 {
    row.word(geometry.offset(word)).load(Ordering::Relaxed)
}

/// The frame header at a ring position. `None` if the word is not a header or the frame would pass the end of the ring.
pub(super) fn header(row: &Row, geometry: Geometry, word: u32) -> Option<Header> {
    Header::decode(raw_header(row, geometry, word)).filter(|header| frame::words(header.len) <= geometry.room(word))
}

/// Describes why [`header`] returns `None`.
#[cold]
pub(super) fn no_header(row: &Row, geometry: Geometry, word: u32) -> String {
    let raw = row.word(geometry.offset(word)).load(Ordering::Relaxed);
    match Header::decode(raw) {
        Some(header) => format!("a frame of {} bytes at ring word {word} passes the ring's end", header.len),
        None => format!("the word {raw:#018x} at ring word {word} is no frame header"),
    }
}

/// The payload of a frame that has arrived.
///
/// The bytes do not change until this member publishes them as `delivered`, which it does after the borrow ends: a
/// sender reuses ring bytes only when all members have delivered them. On shared memory, a process that breaks this
/// rule can change the contents during the read, but never the address or length. Members of a group trust each other
/// that far.
#[inline]
pub(super) fn payload(row: &Row, range: Range<usize>) -> &[u8] {
    let len = range.len();
    // SAFETY: `ptr` checks the range, the row outlives the borrow, and no process writes the bytes during it, see
    // above.
    unsafe { std::slice::from_raw_parts(row.ptr(range), len) }
}

/// The senders' side of this member's ring: reserve, fill in place, commit. Any thread may use it, and it has no lock.
pub struct SendRing {
    pub(super) claims: Claims,
    memories: Memories,
    pub(super) geometry: Geometry,
    max_message: usize,
    /// Bytes of the stamp before each payload: see [`super::feeder`].
    stamp: usize,
    /// The number of this member's frames that have been delivered here. Its low half is a ticket of a claim.
    delivered: CachePadded<AtomicU64>,
    /// The number of this member's frames that are durable, in a group with a log.
    durable: AtomicU64,
}

/// The bytes of an open claim. At first they contain data of earlier messages.
pub struct Reserved<'r> {
    claim: Claim,
    start: NonNull<u8>,
    len: usize,
    ring: PhantomData<&'r SendRing>,
}

// SAFETY: the value owns the bytes, see `Reserved::bytes_mut`.
unsafe impl Send for Reserved<'_> {}
// SAFETY: as above; through a shared reference they can only be read.
unsafe impl Sync for Reserved<'_> {}

impl Reserved<'_> {
    /// The claim that the bytes belong to.
    #[inline]
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// The payload.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as in `Reserved::bytes_mut`, for reads only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The payload, to be filled.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory checked the range. A claim has one owner, which is this value. The engine and the fabric
        // touch its bytes only after the commit, which is the owner's last access. All readers have freed the bytes
        // before the claim. The memory stays while the claim is open. That includes a claim that a leave has dropped,
        // since its bytes are never given to another claim.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// The space of a member's ring. With its fill a sender can control its own rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpace {
    /// The size of the ring, in bytes.
    pub ring_bytes: u64,
    /// Bytes that no message occupies. A message takes its payload rounded up to 8 bytes and a header of 8 bytes, in a
    /// group with a log 16.
    pub free_bytes: u64,
    /// A message was refused, or had to wait, since space was last freed.
    pub short: bool,
}

/// Why no space was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The ring is full, which is backpressure. True for the first such refusal: the caller must wake the engine.
    Full(bool),
    /// The message is longer than this limit in bytes.
    TooLarge(usize),
}

impl SendRing {
    /// Creates the ring at `geometry` in this member's `row`.
    pub(super) fn new(
        row: Arc<Row>,
        geometry: Geometry,
        max_message: usize,
        stamp: usize,
        origin: (u32, u32),
    ) -> SendRing {
        // One slot per 64 ring bytes: a ring full of smaller messages runs out of slots first.
        let slots = (geometry.words / 8).max(8);
        let claims = Claims::new(geometry.words, slots, origin.0, origin.1);
        let delivered = CachePadded::new(AtomicU64::new(u64::from(origin.0)));
        let durable = AtomicU64::new(u64::from(origin.0));
        SendRing {
            claims,
            memories: Memories::new(row, slots as usize),
            geometry,
            max_message,
            stamp,
            delivered,
            durable,
        }
    }

    /// Prefetches the cache lines that the next frames will be written to.
    ///
    /// On shared memory, readers on other cores hold these lines. The next claim's compare-and-swap waits until all
    /// earlier stores, including those of this payload, own their lines.
    #[inline]
    fn look_ahead(&self, row: &Row, claim: Claim) {
        let words = frame::words(claim.len as usize);
        if words <= AHEAD_MOST_WORDS {
            let start = self.geometry.offset(claim.word) + AHEAD_BYTES;
            for offset in (start..start + words as usize * WORD).step_by(64) {
                row.expect_write(offset);
            }
        }
    }

    /// Reserves `len` payload bytes.
    ///
    /// The claim must be given back by [`SendRing::commit`] or [`SendRing::abandon`]. An open claim delays all later
    /// messages of this process.
    #[inline(always)]
    pub fn reserve(&self, len: usize) -> Result<Reserved<'_>, Refusal> {
        if len > self.max_message {
            return Err(Refusal::TooLarge(self.max_message));
        }
        let claim = self.claims.claim(self.stamp + len).map_err(Refusal::Full)?;
        // Must come after the claim: see `Memories`.
        let memory = self.memories.assign(claim.ticket);
        self.look_ahead(memory.row(), claim);
        let range = self.geometry.payload(claim.word, claim.len as usize);
        Ok(Reserved { claim, start: memory.ptr(range.start + self.stamp..range.end), len, ring: PhantomData })
    }

    /// As [`SendRing::reserve`], for tests, which fill the bytes later or not at all.
    #[cfg(test)]
    pub(crate) fn claim(&self, len: usize) -> Result<Claim, Refusal> {
        self.reserve(len).map(|reserved| reserved.claim)
    }

    /// The payload of an open claim, to be filled. The exclusive borrow of the claim represents that of the bytes.
    #[cfg(test)]
    #[allow(clippy::mut_from_ref, reason = "claims are disjoint, and each is borrowed mutably")]
    pub(crate) fn bytes_mut<'a>(&'a self, claim: &'a mut Claim) -> &'a mut [u8] {
        let range = self.geometry.payload(claim.word, claim.len as usize);
        let range = range.start + self.stamp..range.end;
        let len = range.len();
        // SAFETY: as in `Reserved::bytes_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.memories.of(claim.ticket).ptr(range).as_ptr(), len) }
    }

    /// Commits a claimed message, unless a leave has dropped it: see [`SendRing::is_kept`].
    #[inline]
    pub fn commit(&self, claim: Claim, mode: Mode) {
        self.claims.commit(claim, mode as u8);
    }

    /// Whether a claim was committed before it could be dropped.
    ///
    /// Call it after the commit and a fence. One side of a `Fence` is enough.
    #[inline]
    pub fn is_kept(&self, claim: Claim) -> bool {
        self.claims.is_kept(claim.ticket)
    }

    /// Abandons a claim. Its bytes become padding.
    pub fn abandon(&self, claim: Claim) {
        self.claims.commit(claim, PADDING);
    }

    /// As [`SendRing::commit`], for a claim from foreign code. Returns false also if the claim is not open.
    pub fn commit_if_open(&self, claim: Claim, mode: Mode) -> bool {
        self.is_claim(claim) && self.claims.commit_if_open(claim, mode as u8)
    }

    /// As [`SendRing::abandon`], for a claim from foreign code. Returns false if the claim is not open.
    pub fn abandon_if_open(&self, claim: Claim) -> bool {
        self.is_claim(claim) && self.claims.commit_if_open(claim, PADDING)
    }

    /// Abandons all open claims on behalf of their owners; see `Claims::drop_open`.
    pub fn drop_open(&self) -> usize {
        self.claims.drop_open()
    }

    /// Makes `row` this member's row. Earlier claims stay where they are. Engine only.
    ///
    /// Returns false if too many former memories still have open claims.
    pub(super) fn renew(&self, row: Arc<Row>) -> bool {
        self.memories.renew(row, || self.claims.next_ticket())
    }

    /// Frees former memories that have only claims below ticket `published`. Engine only.
    pub(super) fn retire(&self, published: u32) {
        // The owner of a dropped claim may still have its address.
        if !self.claims.has_dropped() {
            self.memories.retire(published);
        }
    }

    /// The memory in which the frame of `ticket` was filled, if it is a former one. Engine only.
    pub(super) fn former(&self, ticket: u32) -> Option<&Row> {
        self.memories.former(ticket)
    }

    fn is_claim(&self, claim: Claim) -> bool {
        (self.stamp..=self.stamp + self.max_message).contains(&(claim.len as usize))
    }

    /// The ticket of the next claim.
    pub fn next_ticket(&self) -> u32 {
        self.claims.next_ticket()
    }

    /// The ticket of a message that was committed with `claim`.
    #[inline]
    pub fn ticket(&self, claim: Claim) -> Ticket {
        // Fewer than 2^31 frames are claimed and not delivered, and the count may only be too low.
        let delivered = self.delivered.load(Ordering::Relaxed);
        Ticket::of_frame(delivered + u64::from(claim.ticket.wrapping_sub(delivered as u32)))
    }

    /// Whether the message of a ticket has been delivered here and its callback has returned.
    pub fn has_delivered(&self, ticket: Ticket) -> bool {
        // Pairs with `SendRing::note_delivered`: the effects of the callback are visible to a thread that was told.
        self.delivered.load(Ordering::Acquire) > ticket.frame()
    }

    /// Whether the message of a ticket, and everything before it in the order, is durable.
    pub fn is_durable(&self, ticket: Ticket) -> bool {
        self.durable.load(Ordering::Acquire) > ticket.frame()
    }

    /// How many frames of this member have been delivered here, and how many are durable.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.delivered.load(Ordering::Relaxed), self.durable.load(Ordering::Relaxed))
    }

    /// Whether no message has had this ticket so far.
    pub fn is_future(&self, ticket: Ticket) -> bool {
        let delivered = self.delivered.load(Ordering::Relaxed);
        let claimed = delivered + u64::from(self.claims.next_ticket().wrapping_sub(delivered as u32));
        ticket.frame() >= claimed
    }

    /// The present space of the ring.
    pub fn space(&self) -> RingSpace {
        let word_bytes = WORD as u64;
        RingSpace {
            ring_bytes: u64::from(self.geometry.words) * word_bytes,
            free_bytes: u64::from(self.claims.free_words()) * word_bytes,
            short: self.claims.starved(),
        }
    }

    /// Publishes how many of this member's frames have been delivered here. Engine only.
    pub(super) fn note_delivered(&self, frames: u64) {
        // Senders read the cache line, so it is written only when the count has changed.
        if self.delivered.load(Ordering::Relaxed) != frames {
            self.delivered.store(frames, Ordering::Release);
        }
    }

    /// Publishes how many of this member's frames are durable. Engine only.
    pub(super) fn note_durable(&self, frames: u64) {
        self.durable.store(frames, Ordering::Release);
    }

    /// Whether a claim was refused since space was last freed.
    pub(super) fn starved(&self) -> bool {
        self.claims.starved()
    }

    /// The maximum number of frames that are claimed and not freed.
    pub(super) fn slots(&self) -> usize {
        self.claims.slots()
    }

    /// Bytes of the stamp before each payload.
    pub(super) fn stamp(&self) -> usize {
        self.stamp
    }

    /// Maximum message size in bytes.
    pub fn max_message(&self) -> usize {
        self.max_message
    }
}
