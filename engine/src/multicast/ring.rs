//! The byte ring inside a member's row: the senders' side (any thread) and the reading of frames (the engine).

use super::claims::{Claim, Claims, PADDING};
use super::frame::{self, Header, Mode, WORD};
use super::memories::Memories;
use crate::fabric::Row;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where a ring lies in its row, and how positions map to bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Offset of the ring in the row.
    pub(super) base: usize,
    /// Its size in words, a power of two.
    pub(super) words: u32,
}

impl Geometry {
    /// Offset in the row of the word at ring position `word`.
    #[inline]
    pub(super) fn offset(self, word: u32) -> usize {
        self.base + (word & (self.words - 1)) as usize * WORD
    }

    /// Words from `word` to the end of the ring.
    #[inline]
    pub(super) fn room(self, word: u32) -> u32 {
        self.words - (word & (self.words - 1))
    }

    /// The payload's place in the row.
    #[inline]
    pub(super) fn payload(self, word: u32, len: usize) -> Range<usize> {
        let start = self.offset(word) + WORD;
        start..start + len
    }
}

/// How far ahead lines are fetched: farther than the stores of a few messages take.
const AHEAD_BYTES: usize = 1024;
/// Frames longer than this are left to the processor, which sees the stream by itself.
const AHEAD_MOST_WORDS: u32 = 64;

/// The word at a ring position.
#[inline(always)]
pub(super) fn raw_header(row: &Row, geometry: Geometry, word: u32) -> u64 {
    row.word(geometry.offset(word)).load(Ordering::Relaxed)
}

/// The frame header at a ring position, if there can be one: it decodes, and its frame ends inside the ring.
pub(super) fn header(row: &Row, geometry: Geometry, word: u32) -> Option<Header> {
    Header::decode(raw_header(row, geometry, word)).filter(|header| frame::words(header.len) <= geometry.room(word))
}

/// Why there is no [`header`].
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
/// The bytes stay as they are until this member shows them as `delivered`, which it does after the borrow ends: a sender
/// reuses ring bytes only when everybody has delivered them. A process that breaks this rule on shared memory can change
/// what is read while it is read, never where: members of a group trust each other that far.
#[inline]
pub(super) fn payload(row: &Row, range: Range<usize>) -> &[u8] {
    let len = range.len();
    // SAFETY: `ptr` checks the range, the row outlives the borrow, and nobody writes the bytes meanwhile, see above.
    unsafe { std::slice::from_raw_parts(row.ptr(range), len) }
}

/// The senders' side of the own ring: reserve, fill in place, commit, from any thread, without a lock.
pub struct SendRing {
    pub(super) claims: Claims,
    memories: Memories,
    pub(super) geometry: Geometry,
    max_message: usize,
    /// Bytes before each payload that are not the application's: see [`super::scribe`].
    stamp: usize,
}

/// The bytes of an open claim. They start as what earlier messages left there.
pub struct Reserved<'r> {
    claim: Claim,
    start: NonNull<u8>,
    len: usize,
    ring: PhantomData<&'r SendRing>,
}

// SAFETY: the bytes are its own, see `Reserved::bytes_mut`.
unsafe impl Send for Reserved<'_> {}
// SAFETY: as above; shared, they can be read only.
unsafe impl Sync for Reserved<'_> {}

impl Reserved<'_> {
    /// Of which claim.
    #[inline]
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// The payload.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as in `Reserved::bytes_mut`, but for writes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The payload, to be filled.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory checked the range. A claim belongs to one owner, which is this value; the engine and the fabric
        // touch its bytes only after the commit, which is the last that the owner does, and the claim before it was freed by all
        // readers. The memory stays while the claim is open; of one that a leave has dropped, too, which nobody else gets.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Why no space was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The ring is full: backpressure. True for the first to find it so: the engine must be woken.
    Full(bool),
    /// The message is longer than this limit in bytes.
    TooLarge(usize),
}

impl SendRing {
    /// The ring at `geometry` of the own `row`.
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
        SendRing { claims, memories: Memories::new(row, slots as usize), geometry, max_message, stamp }
    }

    /// Fetches the cache lines that the next frames will be written to. On shared memory readers on other cores hold them,
    /// and the next claim's compare-and-swap waits until all stores before it, this payload's among them, have theirs.
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

    /// Reserves `len` payload bytes. The claim must be given back by [`SendRing::commit`] or [`SendRing::abandon`]:
    /// one that stays open holds back this process's later messages.
    #[inline(always)]
    pub fn reserve(&self, len: usize) -> Result<Reserved<'_>, Refusal> {
        if len > self.max_message {
            return Err(Refusal::TooLarge(self.max_message));
        }
        let claim = self.claims.claim(self.stamp + len).map_err(Refusal::Full)?;
        // After the claim: see `Memories`.
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

    /// The payload of an open claim, to be filled; the exclusive borrow of the claim stands for that of the bytes.
    #[cfg(test)]
    #[allow(clippy::mut_from_ref, reason = "claims are disjoint, and each is borrowed mutably")]
    pub(crate) fn bytes_mut<'a>(&'a self, claim: &'a mut Claim) -> &'a mut [u8] {
        let range = self.geometry.payload(claim.word, claim.len as usize);
        let range = range.start + self.stamp..range.end;
        let len = range.len();
        // SAFETY: as in `Reserved::bytes_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.memories.of(claim.ticket).ptr(range).as_ptr(), len) }
    }

    /// Sends a claimed message, unless a leave has dropped it: see [`SendRing::is_kept`].
    #[inline]
    pub fn commit(&self, claim: Claim, mode: Mode) {
        self.claims.commit(claim, mode as u8);
    }

    /// Whether a claim was not dropped before its owner committed it. To be asked after the commit and a fence (one side of a
    /// `Fence` will do).
    #[inline]
    pub fn is_kept(&self, claim: Claim) -> bool {
        self.claims.is_kept(claim.ticket)
    }

    /// Gives a claim up; its bytes become padding.
    pub fn abandon(&self, claim: Claim) {
        self.claims.commit(claim, PADDING);
    }

    /// As [`SendRing::commit`] for a claim that comes from outside this language; false as well if it is not open.
    pub fn commit_if_open(&self, claim: Claim, mode: Mode) -> bool {
        self.is_claim(claim) && self.claims.commit_if_open(claim, mode as u8)
    }

    /// As [`SendRing::abandon`] for a claim that comes from outside this language; false unless it is open.
    pub fn abandon_if_open(&self, claim: Claim) -> bool {
        self.is_claim(claim) && self.claims.commit_if_open(claim, PADDING)
    }

    /// Gives all open claims up, for their owners; see `Claims::drop_open`.
    pub fn drop_open(&self) -> usize {
        self.claims.drop_open()
    }

    /// The own row is `row` from now on; claims that were made before stay where they are. False if there is no room for one
    /// more memory, since claims of many former ones are still open. Engine only.
    pub(super) fn renew(&self, row: Arc<Row>) -> bool {
        self.memories.renew(row, || self.claims.next_ticket())
    }

    /// Lets go of former memories that have no claim at or above `published`. Engine only.
    pub(super) fn retire(&self, published: u32) {
        // The owner of a dropped claim may still have its address.
        if !self.claims.has_dropped() {
            self.memories.retire(published);
        }
    }

    /// The memory that the frame of `ticket` was filled in, if that is a former one. Engine only.
    pub(super) fn former(&self, ticket: u32) -> Option<&Row> {
        self.memories.former(ticket)
    }

    fn is_claim(&self, claim: Claim) -> bool {
        (self.stamp..=self.stamp + self.max_message).contains(&(claim.len as usize))
    }

    /// The ticket after the last claim so far.
    pub fn next_ticket(&self) -> u32 {
        self.claims.next_ticket()
    }

    /// Whether a claim was refused since space was last freed.
    pub(super) fn starved(&self) -> bool {
        self.claims.starved()
    }

    /// The most frames that can be open or on their way.
    pub(super) fn slots(&self) -> usize {
        self.claims.slots()
    }

    /// Bytes before each payload that are not the application's.
    pub(super) fn stamp(&self) -> usize {
        self.stamp
    }

    /// Largest message in bytes.
    pub fn max_message(&self) -> usize {
        self.max_message
    }
}
