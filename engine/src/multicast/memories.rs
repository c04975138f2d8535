//! The memories of this member's ring on shared memory: the present one, and former ones with open claims.
//!
//! When a member departs, the ring continues in new memory. So the bytes that the departed member may still read never
//! change ([`crate::fabric::Fabric::renew`]). Frames that were claimed before and are not published lie in the former
//! memory. Their owners hold its address. The publisher copies each of them when it publishes it. Each claim records
//! the memory that it was assigned.
//!
//! Synchronisation: a claimer makes its claim, then loads the present memory. The engine stores another present memory,
//! then loads the next ticket. All four accesses are sequentially consistent. So a claimer of that ticket or a later
//! one is assigned the new memory. The former memory has no users once everything before that ticket is published: a
//! claim is published after its commit, and its owner does not touch the bytes after the commit.

use crate::fabric::Row;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};

/// Maximum number of memories: the present one and the former ones. A place fits in one byte.
const MEMORIES: usize = 256;

/// One memory of the ring.
pub(super) struct Memory {
    /// The address and length of `row`.
    base: *mut u8,
    len: usize,
    /// Its place among the memories.
    place: u8,
    row: Arc<Row>,
}

// SAFETY: `base` is that of the row, which may be sent and shared.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn leak(row: Arc<Row>, place: usize) -> *mut Memory {
        let (base, len) = (row.ptr(0..0), row.len());
        Box::into_raw(Box::new(Memory { base, len, place: place as u8, row }))
    }

    /// The row.
    pub(super) fn row(&self) -> &Row {
        &self.row
    }

    /// As [`Row::ptr`], with one load less.
    #[inline]
    pub(super) fn ptr(&self, range: Range<usize>) -> NonNull<u8> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a row of {}", self.len);
        // SAFETY: the range is checked by the assertion, and the memory is mapped as long as the row exists.
        unsafe { NonNull::new_unchecked(self.base.add(range.start)) }
    }
}

pub(super) struct Memories {
    /// The present memory, which is one of `all`.
    present: AtomicPtr<Memory>,
    /// All memories. Each is made by [`Memory::leak`], or null.
    all: [AtomicPtr<Memory>; MEMORIES],
    /// By former memory: the first ticket that was not claimed when it became a former one. Engine only.
    ends: [AtomicU32; MEMORIES],
    /// Whether there are former memories. Engine only.
    has_former: AtomicBool,
    /// By slot of a frame: the memory that its claim was assigned.
    assigned: Box<[AtomicU8]>,
}

impl Memories {
    /// Starts with `row` as the only memory. `slots` is a power of two.
    pub(super) fn new(row: Arc<Row>, slots: usize) -> Memories {
        let all = [const { AtomicPtr::new(std::ptr::null_mut::<Memory>()) }; MEMORIES];
        let first = Memory::leak(row, 0);
        all[0].store(first, Ordering::Release);
        Memories {
            present: AtomicPtr::new(first),
            all,
            ends: [const { AtomicU32::new(0) }; MEMORIES],
            has_former: AtomicBool::new(false),
            assigned: (0..slots).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    fn slot_of(&self, ticket: u32) -> &AtomicU8 {
        &self.assigned[ticket as usize & (self.assigned.len() - 1)]
    }

    /// Assigns the present memory to the claim of `ticket`, which was just made.
    #[inline]
    pub(super) fn assign(&self, ticket: u32) -> &Memory {
        let present = self.present.load(Ordering::SeqCst);
        // SAFETY: never null, and not freed while the claim is open; see the module.
        let present = unsafe { &*present };
        self.slot_of(ticket).store(present.place, Ordering::Relaxed);
        present
    }

    /// The memory of the claim of `ticket`, which is open, or committed and not published.
    pub(super) fn of(&self, ticket: u32) -> &Memory {
        let place = usize::from(self.slot_of(ticket).load(Ordering::Relaxed));
        let memory = self.all[place & (MEMORIES - 1)].load(Ordering::Acquire);
        // SAFETY: not null, and `retire` does not free it before the claim is published; see the module.
        unsafe { &*memory }
    }

    /// The memory of the committed message of `ticket`, if it is a former one. Engine only.
    #[inline]
    pub(super) fn former(&self, ticket: u32) -> Option<&Row> {
        if !self.has_former.load(Ordering::Relaxed) {
            return None;
        }
        // The claimer's store came before its commit, which the engine has seen.
        let assigned = self.of(ticket);
        (!std::ptr::eq(assigned, self.present.load(Ordering::Relaxed))).then_some(&*assigned.row)
    }

    /// Makes `row` the present memory. Returns false if there are too many former ones. Engine only.
    pub(super) fn renew(&self, row: Arc<Row>, next_ticket: impl Fn() -> u32) -> bool {
        let former = self.place();
        let next = (former + 1) % MEMORIES;
        if !self.all[next].load(Ordering::Relaxed).is_null() {
            return false;
        }
        let memory = Memory::leak(row, next);
        self.all[next].store(memory, Ordering::Release);
        self.present.store(memory, Ordering::SeqCst);
        self.ends[former].store(next_ticket(), Ordering::Relaxed);
        self.has_former.store(true, Ordering::Relaxed);
        true
    }

    /// The place of the present memory. Engine only.
    fn place(&self) -> usize {
        // SAFETY: never null, and only the engine frees it.
        usize::from(unsafe { &*self.present.load(Ordering::Relaxed) }.place)
    }

    /// Frees the former memories with no claim left: every claim below ticket `published` is published. Engine only.
    pub(super) fn retire(&self, published: u32) {
        if !self.has_former.load(Ordering::Relaxed) {
            return;
        }
        let present = self.place();
        let mut left = false;
        for n in (0..MEMORIES).filter(|&n| n != present) {
            let memory = self.all[n].load(Ordering::Relaxed);
            let is_done = published.wrapping_sub(self.ends[n].load(Ordering::Relaxed)) as i32 >= 0;
            if memory.is_null() {
                continue;
            }
            if is_done {
                self.all[n].store(std::ptr::null_mut(), Ordering::Relaxed);
                // SAFETY: made by `Memory::leak` and freed once; no claim refers to it, see the module.
                drop(unsafe { Box::from_raw(memory) });
            }
            left |= !is_done;
        }
        self.has_former.store(left, Ordering::Relaxed);
    }
}

impl Drop for Memories {
    fn drop(&mut self) {
        for memory in self.all.iter_mut().map(|place| *place.get_mut()).filter(|memory| !memory.is_null()) {
            // SAFETY: as in `retire`; no other reference to `self` exists.
            drop(unsafe { Box::from_raw(memory) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Arc<Row> {
        Arc::new(Row::anonymous(4096, 64).unwrap())
    }

    #[test]
    fn a_claim_stays_in_the_memory_that_it_was_assigned() {
        let (first, second) = (row(), row());
        let memories = Memories::new(first.clone(), 8);
        assert!(std::ptr::eq(memories.assign(7).row(), &*first));
        assert!(memories.former(7).is_none());
        assert!(memories.renew(second.clone(), || 8));
        assert!(std::ptr::eq(memories.of(7).row(), &*first));
        assert!(memories.former(7).is_some_and(|row| std::ptr::eq(row, &*first)));
        assert!(std::ptr::eq(memories.assign(8).row(), &*second) && memories.former(8).is_none());
        memories.retire(7);
        assert_eq!(Arc::strong_count(&first), 2, "its claim is not published");
        memories.retire(8);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
        drop(memories);
        assert_eq!(Arc::strong_count(&second), 1);
    }

    #[test]
    fn there_is_room_for_few_while_their_claims_are_open() {
        let memories = Memories::new(row(), 8);
        memories.assign(u32::MAX);
        let renewed = (0..2 * MEMORIES).take_while(|_| memories.renew(row(), || 0)).count();
        assert_eq!(renewed, MEMORIES - 1);
        memories.retire(u32::MAX);
        assert!(!memories.renew(row(), || 0));
        memories.retire(0);
        assert!(memories.renew(row(), || 0));
    }
}
