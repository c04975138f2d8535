//! The single writing thread: it takes the queued requests, writes them, syncs once, and reports the progress.

use super::codec::Stamp;
use super::failure;
use super::queue::{Asked, Op, Queue};
use super::store::Store;
use crate::error::Error;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long the thread waits before it retries on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// The approximate number of bytes that share one sync.
///
/// With more, a caller that waits for space in the backlog would wait for the whole group, and the disk would then idle
/// until that caller continues.
const GROUP_BYTES: usize = 8 << 20;

/// Serves the queue until it is closed and empty, or the store has failed.
pub(super) fn serve(queue: Arc<Queue>, mut store: Store) {
    let _guard = LastWord(queue.clone());
    while let Some(first) = next(&queue) {
        let result = match first.op {
            Op::Append(batch) => append(&queue, &mut store, first.ticket, batch),
            Op::Do(mut work) => match work(&mut store) {
                Ok(()) => {
                    complete(&queue, &store, first.ticket, Vec::new());
                    store.go_on()
                }
                Err(error) => refused(&queue, error, vec![Asked { ticket: first.ticket, op: Op::Do(work) }]),
            },
        };
        if let Err(error) = result {
            return queue.fail(error);
        }
    }
}

/// Fails the queue when the thread ends for any reason, so that no caller waits for it any more.
struct LastWord(Arc<Queue>);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.fail(match std::thread::panicking() {
            true => Error::Internal("the thread that writes the log panicked".to_owned()),
            false => Error::Misuse("the log was closed"),
        });
    }
}

fn next(queue: &Queue) -> Option<Asked> {
    let mut state = queue.lock();
    loop {
        if let Some(asked) = state.ops.pop_front() {
            return Some(asked);
        }
        if state.closing {
            return None;
        }
        state.idle = true;
        state = queue.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Takes the batches that are queued behind this one.
fn gather(queue: &Queue, ticket: u64, batch: Vec<u8>) -> Vec<(u64, Vec<u8>)> {
    let mut bytes = batch.len();
    let mut group = vec![(ticket, batch)];
    let mut state = queue.lock();
    while bytes < GROUP_BYTES {
        match state.ops.pop_front() {
            Some(Asked { ticket, op: Op::Append(batch) }) => {
                bytes += batch.len();
                group.push((ticket, batch));
            }
            Some(other) => {
                state.ops.push_front(other);
                break;
            }
            None => break,
        }
    }
    group
}

/// Appends this batch and those behind it, with one sync.
fn append(queue: &Queue, store: &mut Store, ticket: u64, batch: Vec<u8>) -> Result<(), Error> {
    let (mut written, mut reached, mut obstacle) = (Vec::new(), None, None);
    let mut todo = gather(queue, ticket, batch).into_iter();
    let mut left = Vec::new();
    for (ticket, mut batch) in todo.by_ref() {
        if let Err(error) = store.append_encoded(&mut batch) {
            obstacle = Some(error);
            left.push(Asked { ticket, op: Op::Append(batch) });
            break;
        }
        reached = Some(ticket);
        written.push(batch);
    }
    left.extend(todo.map(|(ticket, batch)| Asked { ticket, op: Op::Append(batch) }));
    if let Some(ticket) = reached {
        store.sync()?;
        complete(queue, store, ticket, written);
    }
    obstacle.map_or(Ok(()), |error| refused(queue, error, left))
}

/// Handles a refused request. If space, memory or a descriptor is missing, the thread publishes the obstacle to the
/// callers and retries later.
///
/// Any other error is final.
fn refused(queue: &Queue, error: Error, left: Vec<Asked>) -> Result<(), Error> {
    let mut state = queue.lock();
    if !failure::is_shortage(&error) || state.closing {
        return Err(error);
    }
    if state.obstacle.is_none() {
        tracing::error!("{error}");
    }
    left.into_iter().rev().for_each(|asked| state.ops.push_front(asked));
    state.obstacle = Some(error);
    queue.tell(state);
    let state = queue.lock();
    drop(queue.work.wait_timeout_while(state, FULL_PAUSE, |state| !state.closing));
    Ok(())
}

fn complete(queue: &Queue, store: &Store, ticket: u64, written: Vec<Vec<u8>>) {
    let last = store.last().map(|(version, time_ns)| Stamp { version, time_ns });
    queue.complete(ticket, last, written);
}
