//! Looks up host names in a few threads: a slow name service must not hold up what else is to be done.

use super::address;
use crate::error::Error;
use crate::thread::{self, OWN_STACK_BYTES};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Threads at a time: more than one, so that a name without an answer does not keep all others waiting.
const WORKERS_MAX: usize = 4;

/// What a name was resolved to.
pub(crate) type Answer = Receiver<io::Result<Vec<SocketAddr>>>;

/// The names that one meeting or search wants to know. Clones share their threads, which end when nothing is left to look up.
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
    /// Begins to look up an address, `HOST:PORT`. An error means that no thread could be started.
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
                // The threads that run look it up, later.
                Err(_) => {}
            }
        }
        Ok(receiver)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let Some(job) = queue.jobs.pop_front() else {
                queue.workers -= 1;
                return;
            };
            drop(queue);
            // Nobody listens any more once the meeting is over.
            let _ = job.answer.send(address::resolve(&job.address));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
