//! The journal of a joining process that does not have the earlier records yet.
//!
//! Requests wait in memory. They reach the log once it has all earlier records.

use super::{Journal, OwnedRecord, Record, Ticket};
use crate::error::Error;
use crate::sync::lock;
use crate::types::Version;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// A request to the journal.
enum Asked {
    Append(OwnedRecord),
    Cut(Version),
    Save(&'static str, Box<[u8]>),
}

impl Asked {
    fn of(journal: &mut dyn Journal, asked: &Asked) -> Ticket {
        match asked {
            Asked::Append(record) => journal.append(record.record()),
            Asked::Cut(from) => journal.cut(*from),
            Asked::Save(name, bytes) => journal.save(name, bytes),
        }
    }
}

#[derive(Default)]
struct State {
    log: Option<Box<dyn Journal>>,
    waiting: VecDeque<Asked>,
    bytes: usize,
    asked: u64,
    /// Pairs of a ticket of the log and this journal's own ticket, for requests that may not be durable yet.
    tickets: VecDeque<(Ticket, Ticket)>,
    durable: Ticket,
    /// The log's last ticket at the first call of [`Release::is_done`] after the release.
    goal: Option<Ticket>,
}

/// A journal that keeps requests in memory until [`Release::release`] is called.
pub(crate) struct DeferredJournal(Arc<Mutex<State>>);

/// Connects a [`DeferredJournal`] journal to its log.
#[derive(Clone)]
pub(crate) struct Release(Arc<Mutex<State>>);

/// Creates a journal that waits for its log, and the handle that releases it.
pub(crate) fn deferred() -> (DeferredJournal, Release) {
    let state = Arc::new(Mutex::new(State::default()));
    (DeferredJournal(state.clone()), Release(state))
}

impl State {
    fn ask(&mut self, asked: Asked) -> Ticket {
        self.asked += 1;
        let ticket = Ticket(self.asked);
        match &mut self.log {
            Some(log) => {
                let theirs = Asked::of(&mut **log, &asked);
                self.tickets.push_back((theirs, ticket));
            }
            None => {
                if let Asked::Append(record) = &asked {
                    self.bytes += record.payload.len() + size_of::<Asked>();
                }
                self.waiting.push_back(asked);
            }
        }
        ticket
    }
}

impl Release {
    /// Passes all waiting requests to the log, which must have every earlier record by now.
    pub(crate) fn release(&self, mut log: Box<dyn Journal>) {
        let mut state = lock(&self.0);
        let waiting = std::mem::take(&mut state.waiting);
        let first = state.asked - waiting.len() as u64;
        for (number, asked) in waiting.iter().enumerate() {
            let theirs = Asked::of(&mut *log, asked);
            state.tickets.push_back((theirs, Ticket(first + number as u64 + 1)));
        }
        (state.log, state.bytes) = (Some(log), 0);
    }

    /// The bytes that wait in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        lock(&self.0).bytes
    }

    /// Whether all requests up to a fixed point are on disk.
    ///
    /// The point is the last request at the first call of this function after the release.
    pub(crate) fn is_done(&self) -> bool {
        let mut state = lock(&self.0);
        let Some(durable) = state.log.as_ref().map(|log| log.durable()) else { return false };
        let last = state.tickets.back().map_or(Ticket(0), |(theirs, _)| *theirs);
        *state.goal.get_or_insert(last) <= durable
    }
}

impl Journal for DeferredJournal {
    fn append(&mut self, record: Record<'_>) -> Ticket {
        let mut state = lock(&self.0);
        if let Some(log) = &mut state.log {
            let theirs = log.append(record);
            state.asked += 1;
            let ticket = Ticket(state.asked);
            state.tickets.push_back((theirs, ticket));
            return ticket;
        }
        state.ask(Asked::Append(record.into()))
    }

    fn cut(&mut self, from: Version) -> Ticket {
        lock(&self.0).ask(Asked::Cut(from))
    }

    fn save(&mut self, name: &'static str, bytes: &[u8]) -> Ticket {
        lock(&self.0).ask(Asked::Save(name, bytes.into()))
    }

    fn durable(&self) -> Ticket {
        let mut state = lock(&self.0);
        let durable = state.log.as_ref().map_or(Ticket(0), |log| log.durable());
        while let Some(&(_, own)) = state.tickets.front().filter(|(theirs, _)| *theirs <= durable) {
            state.durable = own;
            state.tickets.pop_front();
        }
        state.durable
    }

    fn failure(&self) -> Option<Error> {
        lock(&self.0).log.as_ref().and_then(|log| log.failure())
    }

    fn backlog_bytes(&self) -> usize {
        // No member of the group waits for a process that is still joining.
        lock(&self.0).log.as_ref().map_or(0, |log| log.backlog_bytes())
    }
}
