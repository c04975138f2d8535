//! Handles: numbers that look like pointers to C and are never dereferenced.
//!
//! A handle is the index of a slot and the generation of what is in it, so one that was freed, or never was one, is told
//! from a live one without touching memory that may be gone. Using it costs a load and an uncontended read lock, which
//! is held during the call: what it stands for cannot go meanwhile, and freeing waits for the calls under way.
//!
//! A handle is its process's. In a forked child it answers `GALERNA_ERR_FORKED`, and freeing it leaves what it stands for as
//! it is: threads that the child does not have may be in the middle of it. Configurations alone go over to the child.

use crate::failure::Failure;
use engine::Error;
use engine::process::Life;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

/// How long a lock is waited for that is held for a few words only.
const LOCK_TIME: Duration = Duration::from_secs(10);

/// A lock that is held for a few words only; none in a forked child, if a thread of the parent had it at the fork.
pub(crate) fn lock_briefly<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let deadline = Instant::now() + LOCK_TIME;
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(guard)) => return Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}
/// The most handles of one kind at a time.
const SLOTS: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 10;
/// The lowest bits say what a handle is of; an odd tag is in no pointer that C gets elsewhere.
pub(crate) const TAG_BITS: u32 = 5;

const _: () = assert!(usize::BITS == 64, "a generation needs the bits of a 64-bit pointer");

/// The handles of one kind.
pub(crate) struct Table<T> {
    kind: &'static str,
    tag: usize,
    slots: [Slot<T>; SLOTS],
    free: Mutex<Free>,
    /// A forked child may use what its parent has made.
    inherited: bool,
}

struct Slot<T> {
    /// Odd while the slot is in use; grows by one whenever that changes.
    generation: AtomicU64,
    value: RwLock<Option<Held<T>>>,
}

struct Held<T> {
    value: Box<T>,
    /// Of the process in which it was made.
    life: Life,
}

/// The slots that are not in use.
struct Free {
    returned: Vec<usize>,
    never_used: usize,
}

impl<T> Table<T> {
    /// For handles of a `kind`, with an odd `tag` of its own.
    pub(crate) const fn new(kind: &'static str, tag: usize) -> Table<T> {
        assert!(tag % 2 == 1 && tag < 1 << TAG_BITS);
        Table {
            kind,
            tag,
            slots: [const { Slot { generation: AtomicU64::new(0), value: RwLock::new(None) } }; SLOTS],
            free: Mutex::new(Free { returned: Vec::new(), never_used: 0 }),
            inherited: false,
        }
    }

    /// The same for handles that a forked child may use.
    pub(crate) const fn inherited(kind: &'static str, tag: usize) -> Table<T> {
        let mut table = Table::new(kind, tag);
        table.inherited = true;
        table
    }

    /// A handle for `value`.
    pub(crate) fn insert<H>(&self, value: T) -> Result<*mut H, Failure> {
        Ok(self.vacancy()?.fill(value))
    }

    /// Room for one more handle, before there is what it stands for.
    pub(crate) fn vacancy(&self) -> Result<Vacancy<'_, T>, Failure> {
        Ok(Vacancy { table: self, index: self.take_slot()? })
    }

    /// Runs `body` with what `handle` stands for.
    #[inline]
    pub(crate) fn with<H, R>(
        &self,
        handle: *const H,
        body: impl FnOnce(&T) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let (slot, generation) = self.find(handle)?;
        let value = match slot.value.try_read() {
            Ok(value) => value,
            Err(TryLockError::Poisoned(value)) => value.into_inner(),
            // Somebody frees it at this moment. Waiting here could be for a call that waits for this very thread.
            Err(TryLockError::WouldBlock) => return Err(self.invalid(handle)),
        };
        // Again under the lock, for the slot may have been freed and used anew since.
        match value.as_ref() {
            Some(held) if slot.generation.load(Ordering::Acquire) == generation => {
                if !self.inherited {
                    held.life.check()?;
                }
                body(&held.value)
            }
            _ => Err(self.invalid(handle)),
        }
    }

    /// Makes `handle` invalid, lets `hasten` end the calls that are under way, waits for them, and gives back what it
    /// stood for. `None` if it is NULL or was freed before; a number that never was a handle is an error.
    pub(crate) fn remove<H>(&self, handle: *const H, hasten: impl FnOnce(&T)) -> Result<Option<Box<T>>, Failure> {
        if handle.is_null() {
            return Ok(None);
        }
        let (index, generation) = self.parts(handle).ok_or_else(|| self.invalid(handle))?;
        let slot = &self.slots[index];
        let next = generation + 1;
        if let Err(found) = slot.generation.compare_exchange(generation, next, Ordering::AcqRel, Ordering::Acquire) {
            return if found > generation { Ok(None) } else { Err(self.invalid(handle)) };
        }
        // Not waited for: in a forked child the thread that has the lock may not be there.
        let forked = match slot.value.try_read() {
            Ok(held) => held.as_ref().is_none_or(|held| held.life.is_over()),
            Err(TryLockError::Poisoned(held)) => held.into_inner().as_ref().is_none_or(|held| held.life.is_over()),
            Err(TryLockError::WouldBlock) => false,
        };
        if forked {
            return Ok(None);
        }
        if let Some(held) = slot.value.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            hasten(&held.value);
        }
        let held = slot.value.write().unwrap_or_else(PoisonError::into_inner).take();
        self.return_slot(index);
        Ok(held.map(|held| held.value))
    }

    fn return_slot(&self, index: usize) {
        if let Some(mut free) = lock_briefly(&self.free) {
            free.returned.push(index);
        }
    }

    fn take_slot(&self) -> Result<usize, Failure> {
        let mut free = lock_briefly(&self.free).ok_or(Error::Forked)?;
        if let Some(index) = free.returned.pop() {
            return Ok(index);
        }
        if free.never_used == SLOTS {
            return Err(Failure::Limit { kind: self.kind, most: SLOTS });
        }
        free.never_used += 1;
        Ok(free.never_used - 1)
    }

    #[inline]
    fn find<H>(&self, handle: *const H) -> Result<(&Slot<T>, u64), Failure> {
        let (index, generation) = self.parts(handle).ok_or_else(|| self.invalid(handle))?;
        let slot = &self.slots[index];
        match slot.generation.load(Ordering::Acquire) == generation {
            true => Ok((slot, generation)),
            false => Err(self.invalid(handle)),
        }
    }

    /// The index and the generation, if this can be one of this table's handles.
    #[inline]
    fn parts<H>(&self, handle: *const H) -> Option<(usize, u64)> {
        let number = handle.addr();
        let generation = (number >> (INDEX_BITS + TAG_BITS)) as u64;
        let possible = number & ((1 << TAG_BITS) - 1) == self.tag && generation % 2 == 1;
        possible.then_some((number >> TAG_BITS & (SLOTS - 1), generation))
    }

    #[cold]
    fn invalid<H>(&self, handle: *const H) -> Failure {
        Failure::Handle { kind: self.kind, null: handle.is_null() }
    }
}

/// A slot that is taken and empty.
pub(crate) struct Vacancy<'t, T> {
    table: &'t Table<T>,
    index: usize,
}

impl<T> Vacancy<'_, T> {
    /// The handle for `value`.
    pub(crate) fn fill<H>(self, value: T) -> *mut H {
        let Vacancy { table, index } = self;
        std::mem::forget(self);
        let slot = &table.slots[index];
        // Nobody holds the lock but a call with an old handle, for a moment.
        *slot.value.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Held { value: Box::new(value), life: Life::present() });
        // Release: whoever sees the odd generation finds the value.
        let generation = slot.generation.fetch_add(1, Ordering::Release) + 1;
        let number = (generation as usize) << (INDEX_BITS + TAG_BITS) | index << TAG_BITS | table.tag;
        std::ptr::without_provenance_mut(number)
    }
}

impl<T> Drop for Vacancy<'_, T> {
    fn drop(&mut self) {
        self.table.return_slot(self.index);
    }
}
