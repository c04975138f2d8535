//! Handles: numbers that look like pointers to C and are never dereferenced.
//!
//! A handle consists of the index of a slot and the slot's generation. So a freed handle, or a number that never was a
//! handle, is recognised without an access to memory that may be gone. Using a handle costs one load and an uncontended
//! read lock. The lock is held during the call, so the value cannot be freed in that time, and freeing waits for
//! running calls.
//!
//! A handle belongs to the process that made it. In a forked child every use returns `GALERNA_ERR_FORKED`, and freeing
//! the handle leaves the value unchanged, because threads that the child does not have may have been using it. Only
//! configurations pass over to the child.

use crate::failure::Failure;
use engine::Error;
use engine::process::Life;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

/// How long to wait for a lock that is only held briefly.
const LOCK_TIME: Duration = Duration::from_secs(10);

/// Locks a mutex that is only held briefly. Returns `None` in a forked child if a thread of the parent held the lock at
/// the fork.
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
/// The maximum number of handles of one kind.
const SLOTS: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 10;
/// Number of low bits that identify the kind of handle. This tag is odd, so a handle never equals an aligned pointer
/// from elsewhere.
pub(crate) const TAG_BITS: u32 = 5;

const _: () = assert!(usize::BITS == 64, "a generation needs the bits of a 64-bit pointer");

/// The handles of one kind.
pub(crate) struct Table<T> {
    kind: &'static str,
    tag: usize,
    slots: [Slot<T>; SLOTS],
    free: Mutex<Free>,
    /// Whether a forked child may use the handles of its parent.
    inherited: bool,
}

struct Slot<T> {
    /// Odd while the slot is in use. Raised by one whenever the slot is taken or freed.
    generation: AtomicU64,
    value: RwLock<Option<Held<T>>>,
}

struct Held<T> {
    value: Box<T>,
    /// The life of the process that made the value.
    life: Life,
}

/// The slots that are not in use.
struct Free {
    returned: Vec<usize>,
    never_used: usize,
}

impl<T> Table<T> {
    /// Makes a table for handles of a `kind`, with an odd `tag` of its own.
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

    /// As [`Table::new`], for handles that a forked child may use.
    pub(crate) const fn inherited(kind: &'static str, tag: usize) -> Table<T> {
        let mut table = Table::new(kind, tag);
        table.inherited = true;
        table
    }

    /// Makes a handle for `value`.
    pub(crate) fn insert<H>(&self, value: T) -> Result<*mut H, Failure> {
        Ok(self.vacancy()?.fill(value))
    }

    /// Takes a slot for a handle before its value exists.
    pub(crate) fn vacancy(&self) -> Result<Vacancy<'_, T>, Failure> {
        Ok(Vacancy { table: self, index: self.take_slot()? })
    }

    /// Runs `body` with the value that `handle` stands for.
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
            // Another thread is freeing it. Waiting could deadlock: that thread may wait for a call that waits for this
            // thread.
            Err(TryLockError::WouldBlock) => return Err(self.invalid(handle)),
        };
        // Checked again under the lock, because the slot may have been freed and reused since.
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

    /// Makes `handle` invalid, calls `hasten` to end the running calls, waits for them, and returns the value. Returns
    /// `None` if the handle is NULL or was freed before. A number that never was a handle is an error.
    pub(crate) fn remove<H>(&self, handle: *const H, hasten: impl FnOnce(&T)) -> Result<Option<Box<T>>, Failure> {
        if handle.is_null() {
            return Ok(None);
        }
        let (index, generation) = self.parts(handle).ok_or_else(|| self.invalid(handle))?;
        let slot = &self.slots[index];
        // In a forked child the handle stays as it is: the parent's value is not touched, and later calls with the
        // handle still learn that it is the parent's. Does not wait: the thread that held the lock may not exist here.
        let forked = match slot.value.try_read() {
            Ok(held) => held.as_ref().is_some_and(|held| held.life.is_over()),
            Err(TryLockError::Poisoned(held)) => held.into_inner().as_ref().is_some_and(|held| held.life.is_over()),
            Err(TryLockError::WouldBlock) => false,
        };
        if forked && slot.generation.load(Ordering::Acquire) == generation {
            return Ok(None);
        }
        let next = generation + 1;
        if let Err(found) = slot.generation.compare_exchange(generation, next, Ordering::AcqRel, Ordering::Acquire) {
            return if found > generation { Ok(None) } else { Err(self.invalid(handle)) };
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

    /// Returns the index and the generation, if the number can be a handle of this table.
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

/// A slot that is taken and still empty.
pub(crate) struct Vacancy<'t, T> {
    table: &'t Table<T>,
    index: usize,
}

impl<T> Vacancy<'_, T> {
    /// Puts `value` into the slot and returns its handle.
    pub(crate) fn fill<H>(self, value: T) -> *mut H {
        let Vacancy { table, index } = self;
        std::mem::forget(self);
        let slot = &table.slots[index];
        // Only a call with an old handle can hold this lock, and only for a moment.
        *slot.value.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Held { value: Box::new(value), life: Life::present() });
        // Release: pairs with the Acquire loads of `generation`. A thread that reads the odd generation finds the
        // value.
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
