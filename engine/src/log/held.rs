//! The journal of a process that has joined and does not have yet what came before: what is asked of it waits in memory,
//! and reaches the log once that is complete.

use super::{Journal, Kind, Record, Ticket, Version};
use crate::config::MemberId;
use crate::error::Error;
use crate::multicast::Mode;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that was asked.
enum Asked {
    Append { version: Version, time_ns: u64, sender: MemberId, mode: Mode, kind: Kind, payload: Box<[u8]> },
    Cut(Version),
    Save(&'static str, Box<[u8]>),
}

impl Asked {
    fn of(journal: &mut dyn Journal, asked: &Asked) -> Ticket {
        match asked {
            Asked::Append { version, time_ns, sender, mode, kind, payload } => journal.append(Record {
                version: *version,
                time_ns: *time_ns,
                sender: *sender,
                mode: *mode,
                kind: *kind,
                payload,
            }),
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
    /// The log's tickets of what was asked and may not be durable yet, with the own ones.
    tickets: VecDeque<(Ticket, Ticket)>,
    durable: Ticket,
    /// Everything up to here had been asked when somebody first wanted to know whether all is on disk.
    goal: Option<Ticket>,
}

/// See the module.
pub struct Held(Arc<Mutex<State>>);

/// Lets a [`Held`] journal go.
#[derive(Clone)]
pub struct Release(Arc<Mutex<State>>);

/// A journal that waits for its log, and what lets it go.
pub fn held() -> (Held, Release) {
    let state = Arc::new(Mutex::new(State::default()));
    (Held(state.clone()), Release(state))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic while it is held leaves a list that is too long at worst.
    state.lock().unwrap_or_else(PoisonError::into_inner)
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
                if let Asked::Append { payload, .. } = &asked {
                    self.bytes += payload.len() + size_of::<Asked>();
                }
                self.waiting.push_back(asked);
            }
        }
        ticket
    }
}

impl Release {
    /// The log has everything that comes before what waits: hands that over.
    pub fn release(&self, mut log: Box<dyn Journal>) {
        let mut state = lock(&self.0);
        let waiting = std::mem::take(&mut state.waiting);
        let first = state.asked - waiting.len() as u64;
        for (number, asked) in waiting.iter().enumerate() {
            let theirs = Asked::of(&mut *log, asked);
            state.tickets.push_back((theirs, Ticket(first + number as u64 + 1)));
        }
        (state.log, state.bytes) = (Some(log), 0);
    }

    /// Bytes that wait.
    pub fn held_bytes(&self) -> usize {
        lock(&self.0).bytes
    }

    /// Whether all that had been asked is on disk, when this was first called after the log was let go.
    pub fn is_done(&self) -> bool {
        let mut state = lock(&self.0);
        let Some(durable) = state.log.as_ref().map(|log| log.durable()) else { return false };
        let last = state.tickets.back().map_or(Ticket(0), |(theirs, _)| *theirs);
        *state.goal.get_or_insert(last) <= durable
    }
}

impl Journal for Held {
    fn append(&mut self, record: Record<'_>) -> Ticket {
        let mut state = lock(&self.0);
        let Record { version, time_ns, sender, mode, kind, payload } = record;
        if let Some(log) = &mut state.log {
            let theirs = log.append(record);
            state.asked += 1;
            let ticket = Ticket(state.asked);
            state.tickets.push_back((theirs, ticket));
            return ticket;
        }
        state.ask(Asked::Append { version, time_ns, sender, mode, kind, payload: payload.into() })
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
        // Nobody in the group waits for a process that is new.
        lock(&self.0).log.as_ref().map_or(0, |log| log.backlog_bytes())
    }
}
