//! Lock-free claims of ring space. Any thread claims, and the engine reads the claims in order.
//!
//! A claim is one compare-and-swap on `head`. It packs the ring position in words (high half) and the ticket of the
//! next frame (low half), both modulo 2^32. Each frame has a ticket, which selects a slot. A commit stores the frame's
//! length and flags in that slot, tagged with the ticket. The engine reads slots in ticket order and stops at the first
//! with an unexpected tag. Slots are private memory. Ring bytes can hold anything and are never used to decide whether
//! a frame is committed.
//!
//! Synchronisation:
//! * Committer to engine: the slot is stored with Release after the payload, and loaded with Acquire before the payload
//!   is read.
//! * Committer and engine, when a leave drops open claims: the committer stores its slot, then reads `drop`. The engine
//!   stores `drop`, then reads the slots. A fence between the two steps on each side makes one side see the other. It
//!   costs committers nothing.
//! * Claimer and engine, when the ring gets new memory: see [`super::memories`]. For this, `head` is sequentially
//!   consistent.
//! * Engine to claimer: `freed` is stored with Release after the last reader is done, and loaded with Acquire before
//!   bytes are reused. It is loaded before `head`, so `head` is never behind it: the engine frees only frames that it
//!   saw committed, which is after the claim.

use super::frame::{self, WORD};
use crate::sync::{AtomicBool, AtomicU64, Fence, Ordering, yield_now};
use crossbeam_utils::CachePadded;

/// Slot flag: the frame is padding.
pub(super) const PADDING: u8 = 4;
/// Slot flag, with [`PADDING`]: the rest of the ring before a wrap. The same claim contains the message after it.
pub(super) const WRAP: u8 = 8;
/// The flags of padding that another thread may still write to: its claim was open when the process left.
pub(super) const DROPPED: u8 = PADDING | 1;

/// Values of `drop`: nothing was dropped; the engine is looking for open claims; it has found them all.
const NO_DROP: u64 = 0;
const DROPS: u64 = 1;
const DROPPED_ALL: u64 = 2;

/// A frame that is claimed and not committed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its ticket modulo 2^32.
    pub ticket: u32,
    /// Its position in the ring, in words modulo 2^32.
    pub word: u32,
    /// Payload bytes, including the stamp.
    pub len: u32,
}

/// A committed frame as read by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) len: usize,
    pub(super) flags: u8,
}

/// See the module.
pub(super) struct Claims {
    head: CachePadded<AtomicU64>,
    freed: CachePadded<AtomicU64>,
    /// A claim was refused since space was last freed.
    starved: AtomicBool,
    /// The state of dropping open claims, and the dropped ones: one bit per slot.
    drop: AtomicU64,
    drop_fence: Fence,
    dropped: Box<[AtomicU64]>,
    /// The first ticket that was not claimed when the open claims were dropped.
    drop_end: AtomicU64,
    slots: Box<[AtomicU64]>,
    ring_words: u32,
}

fn pack(word: u32, ticket: u32) -> u64 {
    u64::from(word) << 32 | u64::from(ticket)
}

fn unpack(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}

/// The slot value of a claimed frame that is not committed: tagged with the ticket.
fn open(claim: Claim) -> u64 {
    u64::from(claim.ticket) << 32 | u64::from(claim.len)
}

/// The slot value of a committed frame: tagged with the ticket plus one; flags and length in the low half.
fn slot(ticket: u32, len: usize, flags: u8) -> u64 {
    u64::from(ticket.wrapping_add(1)) << 32 | u64::from(flags) << 28 | len as u64
}

impl Claims {
    /// Creates the claims of a ring of `ring_words`, a power of two. The first frame has `ticket` and lies at `word`.
    pub(super) fn new(ring_words: u32, slots: u32, ticket: u32, word: u32) -> Claims {
        assert!(ring_words.is_power_of_two() && slots.is_power_of_two());
        let dropped = (0..slots.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let slots = (0..slots)
            .map(|i| {
                // A tag that the first frame in this slot never has.
                let first = ticket.wrapping_add(i.wrapping_sub(ticket) & (slots - 1));
                AtomicU64::new(u64::from(first.wrapping_sub(1)) << 32)
            })
            .collect();
        Claims {
            head: CachePadded::new(AtomicU64::new(pack(word, ticket))),
            freed: CachePadded::new(AtomicU64::new(pack(word, ticket))),
            starved: AtomicBool::new(false),
            drop: AtomicU64::new(NO_DROP),
            drop_fence: Fence::new(),
            dropped,
            drop_end: AtomicU64::new(0),
            slots,
            ring_words,
        }
    }

    fn slot_of(&self, ticket: u32) -> &AtomicU64 {
        &self.slots[ticket as usize & (self.slots.len() - 1)]
    }

    /// Claims a contiguous frame for `len` payload bytes.
    ///
    /// The error means that the ring is full. It is true for the first refusal since space was freed: the caller must
    /// wake the engine, which then asks the peers for the deliveries that free space.
    #[inline]
    pub(super) fn claim(&self, len: usize) -> Result<Claim, bool> {
        let need = frame::words(len);
        loop {
            let (freed_word, freed_ticket) = unpack(self.freed.load(Ordering::Acquire));
            let head = self.head.load(Ordering::Acquire);
            let (word, ticket) = unpack(head);
            let room = self.ring_words - (word & (self.ring_words - 1));
            let (pad, tickets) = if need > room { (room, 2) } else { (0, 1) };
            let used = word.wrapping_sub(freed_word);
            let under_way = ticket.wrapping_sub(freed_ticket);
            if u64::from(used) + u64::from(pad) + u64::from(need) > u64::from(self.ring_words)
                || under_way as usize + tickets > self.slots.len()
            {
                return Err(!self.starved.load(Ordering::Relaxed) && !self.starved.swap(true, Ordering::Relaxed));
            }
            let next = pack(word.wrapping_add(pad + need), ticket.wrapping_add(tickets as u32));
            if self.head.compare_exchange_weak(head, next, Ordering::SeqCst, Ordering::Relaxed).is_err() {
                continue;
            }
            if pad > 0 {
                self.commit(Claim { ticket, word, len: (pad - 1) * WORD as u32 }, PADDING | WRAP);
            }
            let claim = Claim {
                ticket: ticket.wrapping_add(tickets as u32 - 1),
                word: word.wrapping_add(pad),
                len: len as u32,
            };
            self.slot_of(claim.ticket).store(open(claim), Ordering::Relaxed);
            return Ok(claim);
        }
    }

    /// Commits a claimed and filled frame to the engine, unless it was dropped.
    #[inline]
    pub(super) fn commit(&self, claim: Claim, flags: u8) {
        self.slot_of(claim.ticket).store(slot(claim.ticket, claim.len as usize, flags), Ordering::Release);
    }

    /// As [`Claims::commit`], for a claim from foreign code. Returns false also if the claim is not open.
    ///
    /// The ticket and length identify a claim, and the slot holds both. Of two commits of one claim only one succeeds.
    pub(super) fn commit_if_open(&self, claim: Claim, flags: u8) -> bool {
        let committed = slot(claim.ticket, claim.len as usize, flags);
        let slot = self.slot_of(claim.ticket);
        let was_open = slot.compare_exchange(open(claim), committed, Ordering::Release, Ordering::Relaxed).is_ok();
        self.drop_fence.light();
        was_open && self.is_kept(claim.ticket)
    }

    /// Whether the claim of `ticket` was committed before it could be dropped.
    ///
    /// With a fence between the commit and this call, either the engine sees the commit, or this call sees the drop.
    #[inline]
    pub(super) fn is_kept(&self, ticket: u32) -> bool {
        !self.has_dropped() || !self.was_dropped(ticket)
    }

    #[cold]
    fn was_dropped(&self, ticket: u32) -> bool {
        while self.drop.load(Ordering::Acquire) == DROPS {
            yield_now();
        }
        self.is_dropped(ticket)
    }

    fn dropped_bit(&self, ticket: u32) -> (&AtomicU64, u64) {
        let place = ticket as usize & (self.slots.len() - 1);
        (&self.dropped[place / 64], 1 << (place % 64))
    }

    /// Whether a leave is dropping claims or has dropped them.
    #[inline]
    pub(super) fn has_dropped(&self) -> bool {
        self.drop.load(Ordering::Relaxed) != NO_DROP
    }

    fn is_dropped(&self, ticket: u32) -> bool {
        let (word, bit) = self.dropped_bit(ticket);
        // Otherwise the slot holds a later frame.
        let is_before = (self.drop_end.load(Ordering::Relaxed) as u32).wrapping_sub(ticket) as i32 > 0;
        is_before && word.load(Ordering::Relaxed) & bit != 0
    }

    /// Turns every open claim into padding and returns their number. Their commits fail from then on. Engine only.
    ///
    /// Nothing may be claimed from this ring afterwards. The owner of a dropped claim may still write to its bytes, so
    /// they are never given to another claim.
    pub(super) fn drop_open(&self) -> usize {
        if self.has_dropped() {
            return 0;
        }
        self.drop.store(DROPS, Ordering::Relaxed);
        self.drop_fence.heavy();
        let (_, freed) = unpack(self.freed.load(Ordering::Acquire));
        let (_, head) = unpack(self.head.load(Ordering::Acquire));
        let tickets = (0..head.wrapping_sub(freed)).map(|n| freed.wrapping_add(n));
        let is_open = |ticket: &u32| self.slot_of(*ticket).load(Ordering::Relaxed) >> 32 == u64::from(*ticket);
        let mut count = 0;
        self.drop_end.store(u64::from(head), Ordering::Relaxed);
        for ticket in tickets.filter(is_open) {
            let (word, bit) = self.dropped_bit(ticket);
            word.store(word.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
            count += 1;
        }
        self.drop.store(DROPPED_ALL, Ordering::Release);
        count
    }

    /// The frame of `ticket`, if it is committed or dropped. Engine only.
    #[inline]
    pub(super) fn committed(&self, ticket: u32) -> Option<Committed> {
        let state = self.slot_of(ticket).load(Ordering::Acquire);
        let len = (state & frame::PAYLOAD_MAX as u64) as usize;
        if self.has_dropped() && self.is_dropped(ticket) {
            return Some(Committed { len, flags: DROPPED });
        }
        (state >> 32 == u64::from(ticket.wrapping_add(1))).then_some(Committed { len, flags: (state >> 28) as u8 & 15 })
    }

    /// Whether a claim was refused since space was last freed. Engine only.
    pub(super) fn starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// Frees everything before (`word`, `ticket`) for new claims. Engine only.
    pub(super) fn free(&self, word: u32, ticket: u32) {
        self.freed.store(pack(word, ticket), Ordering::Release);
        // A claimer that is refused after this wakes the engine again. One refused just before is notified of the freed
        // space.
        self.starved.store(false, Ordering::Relaxed);
    }

    /// The maximum number of frames that are claimed and not freed.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The number of words that no claim occupies.
    pub(super) fn free_words(&self) -> u32 {
        // First the earlier of the two: more may be claimed between the loads, but nothing that is not claimed is freed.
        let (freed, _) = unpack(self.freed.load(Ordering::Acquire));
        let (head, _) = unpack(self.head.load(Ordering::Relaxed));
        self.ring_words - head.wrapping_sub(freed).min(self.ring_words)
    }

    /// The ticket of the next claim. Every claim so far has a lower ticket.
    pub(super) fn next_ticket(&self) -> u32 {
        unpack(self.head.load(Ordering::SeqCst)).1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_straddles_the_end() {
        let claims = Claims::new(16, 16, 0, 0);
        let a = claims.claim(8 * 9).unwrap();
        assert_eq!((a.word, a.ticket), (0, 0));
        claims.free(10, 1);
        let b = claims.claim(8 * 7).unwrap();
        assert_eq!((b.word, b.ticket), (16, 2), "six words of padding come first");
        let padding = claims.committed(1).unwrap();
        assert_eq!((padding.len, padding.flags), (40, PADDING | WRAP));
        assert_eq!(claims.committed(2), None);
        claims.commit(b, 2);
        assert_eq!(claims.committed(2), Some(Committed { len: 56, flags: 2 }));
    }

    #[test]
    fn open_claims_are_dropped_and_cannot_be_committed() {
        let claims = Claims::new(16, 8, u32::MAX - 1, 0);
        let [sent, first, second] = [0, 8, 16].map(|len| claims.claim(len).unwrap());
        claims.commit(sent, 2);
        assert_eq!(claims.drop_open(), 2);
        assert_eq!(claims.drop_open(), 0);
        assert!(!claims.commit_if_open(first, 2) && !claims.commit_if_open(second, 2));
        assert_eq!(claims.committed(sent.ticket), Some(Committed { len: 0, flags: 2 }));
        assert_eq!(claims.committed(first.ticket), Some(Committed { len: 8, flags: DROPPED }));
        assert_eq!(claims.committed(second.ticket), Some(Committed { len: 16, flags: DROPPED }));
    }

    /// A ticket that was not claimed was not dropped, even if its slot belongs to a dropped claim.
    #[test]
    fn a_full_ring_of_open_claims_is_dropped_once() {
        let claims = Claims::new(64, 8, u32::MAX - 2, 0);
        let first = u32::MAX - 2;
        (0..8).for_each(|_| assert!(claims.claim(0).is_ok()));
        assert_eq!(claims.drop_open(), 8);
        let seen = (0..32).filter(|n| claims.committed(first.wrapping_add(*n)).is_some()).count();
        assert_eq!(seen, 8);
    }

    #[test]
    fn full_by_bytes_and_by_slots() {
        let claims = Claims::new(16, 4, 0, 0);
        assert!(claims.claim(8 * 15).is_ok());
        assert_eq!(claims.claim(0), Err(true));
        assert_eq!(claims.claim(0), Err(false), "the engine knows already");
        claims.free(16, 1);
        for _ in 0..4 {
            assert!(claims.claim(0).is_ok());
        }
        assert_eq!(claims.claim(0), Err(true), "no slot is left");
    }

    #[test]
    fn positions_and_tickets_wrap_around() {
        let (mut ticket, mut word) = (u32::MAX - 2, u32::MAX - 15);
        let claims = Claims::new(16, 8, ticket, word);
        for round in 0..40u32 {
            let claim = claims.claim(8 * (round as usize % 5)).unwrap();
            while ticket != claim.ticket {
                let padding = claims.committed(ticket).unwrap();
                assert_eq!(padding.flags, PADDING | WRAP);
                word = word.wrapping_add(frame::words(padding.len));
                ticket = ticket.wrapping_add(1);
            }
            assert_eq!(claim.word, word);
            assert_eq!(claims.committed(ticket), None, "a slot of an earlier lap, or a fresh one, is not committed");
            let forged = Claim { len: claim.len + 1, ..claim };
            assert!(!claims.commit_if_open(forged, 1), "the length is not the claim's");
            assert!(claims.commit_if_open(claim, 1));
            assert!(!claims.commit_if_open(claim, 1), "a second time");
            assert!(
                !claims.commit_if_open(Claim { ticket: claim.ticket.wrapping_add(1), ..claim }, 1),
                "never claimed"
            );
            word = word.wrapping_add(frame::words(claim.len as usize));
            ticket = ticket.wrapping_add(1);
            claims.free(word, ticket);
        }
    }
}

/// Explored by loom: `RUSTFLAGS="--cfg loom" cargo test --release -p galerna --lib loom_`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Ring memory with loom's race detector on every word.
    struct Memory(Vec<loom::cell::UnsafeCell<u64>>);
    // SAFETY: loom reports any access that is not ordered.
    unsafe impl Sync for Memory {}
    // SAFETY: as above.
    unsafe impl Send for Memory {}

    impl Memory {
        fn new(words: usize) -> Memory {
            Memory((0..words).map(|_| loom::cell::UnsafeCell::new(0)).collect())
        }
        fn write(&self, word: u32, value: u64) {
            // SAFETY: the claim owns the word; loom checks it.
            self.0[word as usize % self.0.len()].with_mut(|p| unsafe { *p = value });
        }
        fn read(&self, word: u32) -> u64 {
            // SAFETY: the word is committed and not freed; loom checks it.
            self.0[word as usize % self.0.len()].with(|p| unsafe { *p })
        }
    }

    /// The engine's side: takes `frames` messages, reads their payload and frees each of them.
    fn drain(claims: &Claims, memory: &Memory, frames: usize, ticket: &mut u32, word: &mut u32) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.len() < frames {
            let Some(frame) = claims.committed(*ticket) else {
                thread::yield_now();
                continue;
            };
            if frame.flags & PADDING == 0 {
                seen.push(memory.read(word.wrapping_add(1)));
            }
            *word = word.wrapping_add(frame::words(frame.len));
            *ticket = ticket.wrapping_add(1);
            claims.free(*word, *ticket);
        }
        seen
    }

    fn send(claims: &Claims, memory: &Memory, value: u64) {
        loop {
            if let Ok(claim) = claims.claim(8) {
                memory.write(claim.word.wrapping_add(1), value);
                claims.commit(claim, 0);
                return;
            }
            thread::yield_now();
        }
    }

    /// Explores all schedules with at most three preemptions. More would take hours and find the same errors.
    fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(check);
    }

    #[test]
    fn loom_two_senders_and_the_engine() {
        model(|| {
            // Near the wrap of both halves of `head`, so that the model covers it.
            let claims = Arc::new(Claims::new(4, 4, u32::MAX, u32::MAX - 3));
            let memory = Arc::new(Memory::new(4));
            let threads: Vec<_> = (1..=2u64)
                .map(|value| {
                    let (claims, memory) = (claims.clone(), memory.clone());
                    thread::spawn(move || send(&claims, &memory, value))
                })
                .collect();
            let (mut ticket, mut word) = (u32::MAX, u32::MAX - 3);
            let mut seen = drain(&claims, &memory, 2, &mut ticket, &mut word);
            seen.sort_unstable();
            assert_eq!(seen, [1, 2]);
            for t in threads {
                t.join().unwrap();
            }
        });
    }

    /// The engine sees a commit if and only if it succeeds.
    #[test]
    fn loom_a_claim_is_committed_or_dropped() {
        for outside in [false, true] {
            model(move || {
                let claims = Arc::new(Claims::new(4, 4, 0, 0));
                let claim = claims.claim(8).unwrap();
                let owner = {
                    let claims = claims.clone();
                    thread::spawn(move || match outside {
                        true => claims.commit_if_open(claim, 2),
                        false => {
                            claims.commit(claim, 2);
                            claims.drop_fence.light();
                            claims.is_kept(claim.ticket)
                        }
                    })
                };
                let dropped = claims.drop_open();
                let seen = claims.committed(0);
                let committed = owner.join().unwrap();
                assert_eq!(committed, dropped == 0);
                let flags = if committed { 2 } else { DROPPED };
                assert!(seen.is_none_or(|seen| seen.flags == flags) && (committed || seen.is_some()));
                assert_eq!(claims.committed(0), Some(Committed { len: 8, flags }));
            });
        }
    }

    #[test]
    fn loom_ring_bytes_are_reused_only_when_freed() {
        model(|| {
            let claims = Arc::new(Claims::new(2, 2, 0, 0));
            let memory = Arc::new(Memory::new(2));
            let sender = {
                let (claims, memory) = (claims.clone(), memory.clone());
                thread::spawn(move || (1..=3u64).for_each(|value| send(&claims, &memory, value)))
            };
            let (mut ticket, mut word) = (0, 0);
            assert_eq!(drain(&claims, &memory, 3, &mut ticket, &mut word), [1, 2, 3]);
            sender.join().unwrap();
        });
    }
}
