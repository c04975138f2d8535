//! Looks up host names in a few threads, so that a slow name service delays nothing else.

use crate::config::address;
use crate::error::Error;
use crate::sync::lock;
use crate::thread::{self, OWN_STACK_BYTES};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};

/// Most threads at a time. There are several, so that one name without an answer does not block all others.
const WORKERS_MAX: usize = 4;

/// Receives the addresses of a name.
pub(crate) type Answer = Receiver<io::Result<Vec<SocketAddr>>>;

/// The look-ups of one meeting or search. Clones share the threads, which end when no look-up is left.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    workers: usize,
}

struct Job {
    address: String,
    answer: SyncSender<io::Result<Vec<SocketAddr>>>,
}

impl Names {
    /// Starts to look up an address, `HOST:PORT`. Fails only if no thread could be started and none runs.
    pub(crate) fn look_up(&self, address: &str) -> Result<Answer, Error> {
        let (answer, receiver) = sync_channel(1);
        let mut queue = self.lock();
        queue.jobs.push_back(Job { address: address.to_owned(), answer });
        if queue.workers < WORKERS_MAX {
            let names = self.clone();
            let spawned = thread::spawn("galerna-lookup", "looks up host names", OWN_STACK_BYTES, move || names.work());
            match spawned {
                Ok(_) => queue.workers += 1,
                Err(error) if queue.workers == 0 => {
                    queue.jobs.clear();
                    return Err(error);
                }
                // The running threads look it up later.
                Err(_) => {}
            }
        }
        Ok(receiver)
    }

    /// Names with look-ups that are never answered, as by a name service that hangs.
    #[cfg(test)]
    pub(super) fn unanswered() -> Names {
        let names = Names::default();
        // As many look-ups as there may be threads are under way, so no thread takes another one.
        names.lock().workers = WORKERS_MAX;
        names
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let Some(job) = queue.jobs.pop_front() else {
                queue.workers -= 1;
                return;
            };
            drop(queue);
            // Sending fails after the meeting is over, when nobody receives.
            let _ = job.answer.send(address::resolve(&job.address));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_looked_up_by_few_threads() {
        let names = Names::default();
        let answers: Vec<_> =
            (1..=40).map(|port| (port, names.look_up(&format!("localhost:{port}")).unwrap())).collect();
        assert!(names.lock().workers <= WORKERS_MAX);
        for (port, answer) in answers {
            let found = answer.recv().unwrap().unwrap();
            assert!(!found.is_empty() && found.iter().all(|address| address.port() == port), "{found:?}");
        }
        while names.lock().workers > 0 {
            std::thread::yield_now();
        }
        let none = names.look_up("no such host:1").unwrap().recv().unwrap();
        assert!(none.is_err(), "{none:?}");
    }
}
