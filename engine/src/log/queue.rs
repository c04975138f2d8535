//! The queue between callers and the writing thread. Callers enqueue requests and later check the progress.

use super::Record;
use super::codec::{self, Stamp};
use super::store::{Store, out_of_order};
use crate::error::Error;
use crate::process::Life;
use crate::sync::lock;
use crate::types::Version;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// A batch is closed at this size in bytes, so that buffers are reused and do not grow.
const BATCH_BYTES: usize = 1 << 20;
/// The most buffers that are kept for the next batches.
const SPARES: usize = 16;

/// A request that needs the store. If the disk is full, it is repeated until there is space.
pub(super) type Work = Box<dyn FnMut(&mut Store) -> Result<(), Error> + Send>;

pub(super) enum Op {
    /// Encoded records.
    Append(Vec<u8>),
    Do(Work),
}

/// An operation, and the last ticket that it completes.
pub(super) struct Asked {
    pub(super) ticket: u64,
    pub(super) op: Op,
}

/// The remaining time of a waiting caller.
///
/// Only time during which this process runs is counted. So a process that was stopped for longer than `timeout` does
/// not time out for that reason.
struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    /// The longest single wait. If more than twice this time passes, the rest was a pause of the process.
    const SLICE: Duration = Duration::from_millis(100);

    fn new(timeout: Duration) -> Patience {
        Patience { left: timeout, looked: Instant::now() }
    }

    /// How long to wait before the next check; `None` once the time is used up.
    fn slice(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.looked).min(2 * Patience::SLICE);
        (self.looked, self.left) = (now, self.left.saturating_sub(elapsed));
        (!self.left.is_zero()).then(|| self.left.min(Patience::SLICE))
    }
}

/// Counters of the data that a log made durable since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// The number of records.
    pub records: u64,
    /// Their bytes on disk, headers included.
    pub bytes: u64,
    /// The number of groups of records that shared one sync. `records / batches` is the average size of a group.
    pub batches: u64,
}

/// A function that is called to notify a waiting party of progress.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
pub(super) struct State {
    pub(super) ops: VecDeque<Asked>,
    asked: u64,
    /// The last record for which an append was requested.
    last: Option<Stamp>,
    /// The ticket of a requested cut after which nothing was appended.
    ///
    /// Until the cut is done, the last record is unknown.
    cut: Option<u64>,
    pub(super) failure: Option<Error>,
    /// The reason why the thread waits: the disk is full.
    pub(super) obstacle: Option<Error>,
    pub(super) closing: bool,
    /// The thread sleeps until a request arrives.
    pub(super) idle: bool,
    spare: Vec<Vec<u8>>,
    pub(super) stats: LogStats,
    wakes: Vec<(u64, Wake)>,
    wakes_given: u64,
}

/// The state that the callers and the thread share.
pub(super) struct Queue {
    /// The process that writes the log. In a forked child no thread serves the queue, and its lock may be held for
    /// ever.
    pub(super) life: Life,
    state: Mutex<State>,
    pub(super) work: Condvar,
    progress: Condvar,
    done: AtomicU64,
    backlog: AtomicUsize,
    backlog_max: usize,
    payload_max: usize,
}

impl Queue {
    pub(super) fn new(last: Option<Stamp>, backlog_max: usize, payload_max: usize) -> Arc<Queue> {
        Arc::new(Queue {
            life: Life::present(),
            state: Mutex::new(State { last, ..State::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            done: AtomicU64::new(0),
            backlog: AtomicUsize::new(0),
            backlog_max,
            payload_max,
        })
    }

    /// A poisoned lock is usable: the state is consistent at every point that can panic.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Every request up to this ticket is durable. Acquire pairs with the Release store in [`Queue::complete`].
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    pub(super) fn payload_max(&self) -> usize {
        self.payload_max
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Waits a short time for progress. Returns false once the caller's time is used up.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, patience: &mut Patience) -> (MutexGuard<'a, State>, bool) {
        let Some(slice) = patience.slice() else { return (state, false) };
        let (state, _) = self.progress.wait_timeout(state, slice).unwrap_or_else(PoisonError::into_inner);
        (state, true)
    }

    fn check_size(&self, payload: &[u8]) -> Result<(), Error> {
        let (len, limit) = (payload.len(), self.payload_max);
        if len > limit { Err(Error::LogRecordTooLarge { len, limit }) } else { Ok(()) }
    }

    /// Appends the record that `place` makes from the last record's stamp.
    ///
    /// Waits for space for at most `timeout`. Without a timeout it does not wait.
    pub(super) fn append<'a>(
        &self,
        payload: &'a [u8],
        timeout: Option<Duration>,
        place: impl FnOnce(Option<Stamp>) -> Record<'a>,
    ) -> Result<Version, Error> {
        self.check_size(payload)?;
        // Computed outside of the lock, because the checksum takes longest.
        let checksum = crc32c::crc32c(payload);
        let mut state = self.room(codec::record_bytes(payload.len()), timeout)?;
        let record = place(state.last);
        let stamp = Stamp { version: record.version, time_ns: record.time_ns };
        if !stamp.follows(state.last) {
            return Err(out_of_order(stamp, state.last));
        }
        self.put(&mut state, &record, checksum);
        self.rouse(state);
        Ok(record.version)
    }

    /// Like [`Queue::append`], for several records without another one between them. The thread sees all of them or
    /// none.
    pub(super) fn append_batch(
        &self,
        payloads: &[&[u8]],
        timeout: Duration,
        place: impl for<'a> Fn(Option<Stamp>, &'a [u8]) -> Record<'a>,
    ) -> Result<Option<Version>, Error> {
        payloads.iter().try_for_each(|payload| self.check_size(payload))?;
        let checksums: Vec<u32> = payloads.iter().map(|payload| crc32c::crc32c(payload)).collect();
        let bytes = payloads.iter().map(|payload| codec::record_bytes(payload.len())).sum();
        let mut state = self.room(bytes, Some(timeout))?;
        for (payload, checksum) in payloads.iter().zip(checksums) {
            let record = place(state.last, payload);
            self.put(&mut state, &record, checksum);
        }
        let last = state.last.filter(|_| !payloads.is_empty());
        self.rouse(state);
        Ok(last.map(|last| last.version))
    }

    /// Waits until `bytes` more may be appended.
    ///
    /// If nothing else is pending, one append of any size is admitted.
    fn room(&self, bytes: usize, timeout: Option<Duration>) -> Result<MutexGuard<'_, State>, Error> {
        self.life.check()?;
        let mut waits = timeout.map(|timeout| (Patience::new(timeout), timeout));
        let mut state = self.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let backlog = self.backlog_bytes();
            if state.cut.is_none() && (backlog == 0 || backlog + bytes <= self.backlog_max) {
                return Ok(state);
            }
            if let Some(obstacle) = &state.obstacle {
                return Err(obstacle.clone());
            }
            let Some((patience, timeout)) = &mut waits else {
                return Err(Error::WouldBlock("the disk has not written earlier records yet"));
            };
            let (next, in_time) = self.wait(state, patience);
            state = next;
            if !in_time {
                return Err(Error::TimedOut { what: "the append to the log", after_ms: timeout.as_millis() as u64 });
            }
        }
    }

    /// Appends without waiting. The order is not checked here but by the store.
    pub(super) fn append_at_once(&self, record: &Record<'_>) -> u64 {
        let checksum = crc32c::crc32c(record.payload);
        if let Err(error) = self.check_size(record.payload) {
            self.fail(error);
        }
        let mut state = self.lock();
        if state.failure.is_some() {
            state.asked += 1;
            return state.asked;
        }
        let ticket = self.put(&mut state, record, checksum);
        self.rouse(state);
        ticket
    }

    /// Copies the record, once, into the batch that the thread will write next.
    fn put(&self, state: &mut State, record: &Record<'_>, checksum: u32) -> u64 {
        state.asked += 1;
        let ticket = state.asked;
        state.last = Some(Stamp { version: record.version, time_ns: record.time_ns });
        state.cut = None;
        let bytes = codec::record_bytes(record.payload.len());
        let open = match state.ops.back() {
            Some(Asked { op: Op::Append(batch), .. }) => batch.len() + bytes <= BATCH_BYTES,
            _ => false,
        };
        if !open {
            let batch = state.spare.pop().unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES.max(bytes)));
            state.ops.push_back(Asked { ticket, op: Op::Append(batch) });
        }
        if let Some(Asked { ticket: last, op: Op::Append(batch) }) = state.ops.back_mut() {
            codec::encode(batch, record, checksum);
            *last = ticket;
        }
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
        ticket
    }

    fn rouse(&self, mut state: MutexGuard<'_, State>) {
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.work.notify_one();
        }
    }

    /// Enqueues any other request. `cuts`: it may remove the last record.
    pub(super) fn ask(&self, work: Work, cuts: bool) -> u64 {
        let mut state = self.lock();
        state.asked += 1;
        let ticket = state.asked;
        if state.failure.is_some() {
            return ticket;
        }
        if cuts {
            state.cut = Some(ticket);
        }
        state.ops.push_back(Asked { ticket, op: Op::Do(work) });
        self.rouse(state);
        ticket
    }

    /// Enqueues a request and waits for its result.
    pub(super) fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        timeout: Duration,
        cuts: bool,
        work: impl FnOnce(&mut Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.life.check()?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let mut work = Some(work);
        let work = move |store: &mut Store| {
            if let Some(work) = work.take() {
                // The caller may have stopped waiting.
                let _ = sender.try_send(work(store));
            }
            Ok(())
        };
        self.ask(Box::new(work), cuts);
        let mut patience = Patience::new(timeout);
        loop {
            let slice = patience.slice();
            match receiver.recv_timeout(slice.unwrap_or_default()) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Timeout) if slice.is_some() => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(Error::TimedOut { what, after_ms: timeout.as_millis() as u64 });
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let failure = self.lock().failure.clone();
                    return Err(failure.unwrap_or(Error::Misuse("the log was closed")));
                }
            }
        }
    }

    /// The ticket of the last request so far.
    pub(super) fn asked(&self) -> Result<u64, Error> {
        self.life.check()?;
        let state = self.lock();
        state.failure.clone().map_or(Ok(state.asked), Err)
    }

    /// Waits until `reached` returns true.
    pub(super) fn wait_for(
        &self,
        what: &'static str,
        timeout: Duration,
        reached: impl Fn(&Queue) -> bool,
    ) -> Result<(), Error> {
        self.life.check()?;
        let mut patience = Patience::new(timeout);
        let mut state = self.lock();
        loop {
            if reached(self) {
                return Ok(());
            }
            if let Some(error) = state.failure.as_ref().or(state.obstacle.as_ref()) {
                return Err(error.clone());
            }
            let (next, in_time) = self.wait(state, &mut patience);
            state = next;
            if !in_time && !reached(self) {
                return Err(Error::TimedOut { what, after_ms: timeout.as_millis() as u64 });
            }
        }
    }

    /// Marks everything up to `ticket` as done. `last` is the store's last record.
    pub(super) fn complete(&self, ticket: u64, last: Option<Stamp>, written: Vec<Vec<u8>>) {
        let mut state = self.lock();
        state.obstacle = None;
        if state.cut == Some(ticket) {
            (state.cut, state.last) = (None, last);
        }
        let bytes = written.iter().map(Vec::len).sum();
        if !written.is_empty() {
            // Between two completions of appends, all requests were for records.
            state.stats.records += ticket - self.done();
            state.stats.bytes += bytes as u64;
            state.stats.batches += 1;
        }
        self.backlog.fetch_sub(bytes, Ordering::Relaxed);
        for mut batch in written {
            batch.clear();
            if state.spare.len() < SPARES && batch.capacity() <= 2 * BATCH_BYTES {
                state.spare.push(batch);
            }
        }
        self.done.store(ticket, Ordering::Release);
        self.tell(state);
    }

    /// Wakes all waiting callers and calls all wake functions.
    pub(super) fn tell(&self, state: MutexGuard<'_, State>) {
        let wakes: Vec<Wake> = state.wakes.iter().map(|(_, wake)| wake.clone()).collect();
        drop(state);
        self.progress.notify_all();
        for wake in wakes {
            // A panic in a wake function must not stop the log.
            if catch_unwind(AssertUnwindSafe(|| wake())).is_err() {
                tracing::error!("the function to call when the log has written something panicked");
            }
        }
    }

    /// Stops the log for ever.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        // A caller that waits for one of these operations notices that its channel is closed.
        state.ops.clear();
        self.tell(state);
    }

    pub(super) fn add_wake(&self, wake: Wake) -> u64 {
        let mut state = self.lock();
        state.wakes_given += 1;
        let id = state.wakes_given;
        state.wakes.push((id, wake));
        id
    }

    pub(super) fn remove_wake(&self, id: u64) {
        self.lock().wakes.retain(|(of, _)| *of != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_no_time_that_was_waited() {
        let minute = Duration::from_secs(60);
        let mut patience = Patience::new(minute);
        assert_eq!(patience.slice(), Some(Patience::SLICE));
        for _ in 0..10 {
            // Simulates a process that was stopped for an hour.
            patience.looked -= Duration::from_secs(3600);
            assert!(patience.slice().is_some());
        }
        assert!(patience.left >= minute - 30 * Patience::SLICE, "{:?}", patience.left);
        assert_eq!(Patience::new(Duration::ZERO).slice(), None);
    }
}
