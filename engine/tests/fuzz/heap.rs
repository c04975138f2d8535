//! Counts the memory that a thread holds, so that a test can limit it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// The bytes that this thread has allocated and not freed, and the highest such number so far.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn note(bytes: isize) {
    // While a thread ends, its counter may be gone already.
    let _ = HELD.try_with(|held| {
        let (now, highest) = held.get();
        let now = now.wrapping_add(bytes);
        held.set((now, highest.max(now)));
    });
}

/// The result of `run`, and the most bytes that it held at a time.
pub(super) fn highest<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let (before, _) = HELD.get();
    HELD.set((before, before));
    let result = run();
    (result, HELD.get().1.wrapping_sub(before).unsigned_abs())
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator with the same arguments. The counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[test]
fn memory_is_counted() {
    let (_, none) = highest(|| 7);
    let (_, most) = highest(|| {
        drop(vec![0_u8; 5000]);
        vec![0_u8; 3000]
    });
    assert_eq!((none, most), (0, 5000));
}
