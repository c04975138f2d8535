//! The handler of a measured member: it counts and times the deliveries, and detects the last one.

use crate::Result;
use crate::measure::{Cpu, Latencies, now_ns};
use galerna::{Delivery, Error, Handler, MemberId};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The state that the handler shares with the member's main loop.
#[derive(Default)]
pub(super) struct Board {
    pub(super) delivered: AtomicU64,
    /// This member's own messages among them.
    own: AtomicU64,
    /// Whether a thread waits for own messages.
    waits: AtomicBool,
    /// Set when the warm-up or all messages are delivered, or the group has stopped.
    ///
    /// The details are in `marks`, under the lock.
    changed: AtomicBool,
    marks: Mutex<Marks>,
    bell: Condvar,
}

#[derive(Default)]
pub(super) struct Marks {
    pub(super) warm: bool,
    pub(super) finish: Option<Finish>,
    stopped: Option<Error>,
}

pub(super) struct Finish {
    pub(super) at_ns: u64,
    pub(super) cpu: Cpu,
    pub(super) latencies: Vec<(u64, u64)>,
    pub(super) from_commit: Vec<(u64, u64)>,
}

impl Board {
    pub(super) fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark(&self, change: impl FnOnce(&mut Marks)) {
        change(&mut self.marks());
        self.changed.store(true, Ordering::Release);
        self.bell.notify_all();
    }

    /// Whether `reached` holds. Returns an error once the group has stopped. Cheap while nothing has changed.
    pub(super) fn look(&self, reached: fn(&Marks) -> bool) -> Result<bool> {
        if !self.changed.load(Ordering::Acquire) {
            return Ok(false);
        }
        let marks = self.marks();
        match &marks.stopped {
            Some(error) => Err(error.clone().into()),
            None => {
                // The next change is made under the same lock and sets the flag again.
                self.changed.store(false, Ordering::Relaxed);
                Ok(reached(&marks))
            }
        }
    }

    /// The number of own messages delivered.
    pub(super) fn own(&self) -> u64 {
        self.own.load(Ordering::Acquire)
    }

    /// Waits until `count` own messages are delivered. Returns an error once the group has stopped.
    pub(super) fn wait_own(&self, count: u64) -> Result<()> {
        let marks = self.marks();
        // SeqCst here and in `delivered_own`: at least one of the two threads sees the value that the other one stored.
        self.waits.store(true, Ordering::SeqCst);
        let less = |m: &mut Marks| self.own.load(Ordering::SeqCst) < count && m.stopped.is_none();
        let marks = self.bell.wait_while(marks, less).unwrap_or_else(PoisonError::into_inner);
        self.waits.store(false, Ordering::Relaxed);
        match &marks.stopped {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }

    fn delivered_own(&self, count: u64) {
        self.own.store(count, Ordering::SeqCst);
        if self.waits.load(Ordering::SeqCst) {
            // Notify under the lock, so that a waiter cannot miss it between its check and its wait.
            let _marks = self.marks();
            self.bell.notify_all();
        }
    }

    pub(super) fn wait(&self, reached: fn(&Marks) -> bool) -> Result<()> {
        let marks = self.bell.wait_while(self.marks(), |m| !reached(m) && m.stopped.is_none());
        match &marks.unwrap_or_else(PoisonError::into_inner).stopped {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }
}

/// The deliveries that are timed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Probe {
    None,
    /// The own messages that carry the time of their commit.
    Sampled,
    /// All messages, or all own ones. Each carries its scheduled time and the time of its commit.
    Scheduled {
        all: bool,
    },
}

/// Counts and times deliveries.
pub(super) struct Tally {
    pub(super) board: Arc<Board>,
    pub(super) delivered: u64,
    pub(super) warm: u64,
    pub(super) total: u64,
    pub(super) next_mark: u64,
    pub(super) me: MemberId,
    /// Whether the sender waits for own messages.
    pub(super) counts_own: bool,
    /// The number of own messages delivered.
    pub(super) own: u64,
    pub(super) probe: Probe,
    pub(super) latencies: Latencies,
    pub(super) from_commit: Latencies,
}

fn stamp(payload: &[u8], index: usize) -> u64 {
    let bytes = payload.get(8 * index..8 * index + 8);
    bytes.map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
}

impl Tally {
    fn time(&mut self, message: &Delivery<'_>) {
        if self.delivered < self.warm {
            return;
        }
        match self.probe {
            Probe::Scheduled { all } if all || message.sender == self.me => {
                let now = now_ns();
                self.latencies.record(now.saturating_sub(stamp(message.payload, 0)));
                self.from_commit.record(now.saturating_sub(stamp(message.payload, 1)));
            }
            Probe::Sampled if message.sender == self.me => match stamp(message.payload, 0) {
                0 => {}
                committed => self.latencies.record(now_ns().saturating_sub(committed)),
            },
            _ => {}
        }
    }

    #[cold]
    fn mark(&mut self) {
        if self.delivered == self.warm {
            self.next_mark = self.total;
            return self.board.mark(|marks| marks.warm = true);
        }
        let finish = Finish {
            at_ns: now_ns(),
            cpu: Cpu::now(),
            latencies: self.latencies.counts(),
            from_commit: self.from_commit.counts(),
        };
        self.board.mark(|marks| marks.finish = Some(finish));
    }
}

impl Handler for Tally {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.time(&message);
        self.delivered += 1;
        self.board.delivered.store(self.delivered, Ordering::Relaxed);
        if self.counts_own && message.sender == self.me {
            self.own += 1;
            self.board.delivered_own(self.own);
        }
        if self.delivered == self.next_mark {
            self.mark();
        }
    }

    fn stopped(&mut self, reason: &Error) {
        let reason = reason.clone();
        self.board.mark(|marks| marks.stopped = Some(reason));
    }
}
