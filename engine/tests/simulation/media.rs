//! The disks of a simulated group: each member's journal, what has reached the disk of it, and what a crash leaves.

use super::rng::Rng;
use crate::config::MemberId;
use crate::error::Error;
use crate::log::{Journal, Kind, Record, Ticket, Version};
use crate::membership::Ledger;
use crate::multicast::{Mode, TAIL, Tail};
use crate::node::{LEDGER, Recovery};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A record as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) version: Version,
    pub(crate) time_ns: u64,
    pub(crate) sender: MemberId,
    pub(crate) mode: Mode,
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

impl Written {
    pub(crate) fn record(&self) -> Record<'_> {
        let Written { version, time_ns, sender, mode, kind, ref payload } = *self;
        Record { version, time_ns, sender, mode, kind, payload }
    }
}

enum Asked {
    Append(Written),
    Cut(Version),
    Save(&'static str, Vec<u8>),
}

/// One member's disk.
#[derive(Default)]
pub(crate) struct Media {
    /// What is synced.
    pub(crate) records: Vec<Written>,
    ledger: Option<Vec<u8>>,
    tail: Option<Vec<u8>>,
    asked: VecDeque<(u64, Asked)>,
    next: u64,
    durable: u64,
    bytes: usize,
    failure: Option<Error>,
}

impl Media {
    fn apply(&mut self, asked: Asked) {
        match asked {
            Asked::Append(record) => {
                let last = self.records.last();
                assert!(
                    last.is_none_or(|last| last.version < record.version && last.time_ns < record.time_ns),
                    "{record:?} after {last:?}"
                );
                self.bytes -= record.payload.len();
                self.records.push(record);
            }
            Asked::Cut(from) => self.records.retain(|record| record.version < from),
            Asked::Save(LEDGER, bytes) => self.ledger = Some(bytes),
            Asked::Save(name, bytes) => {
                assert_eq!(name, TAIL);
                self.tail = Some(bytes);
            }
        }
    }

    /// The disk does some of what was asked.
    pub(crate) fn step(&mut self, most: usize) -> bool {
        let before = self.durable;
        for _ in 0..most {
            let Some((ticket, asked)) = self.asked.pop_front() else { break };
            self.apply(asked);
            self.durable = ticket;
        }
        self.durable != before
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// The process dies: some of what was asked has reached the disk, in the order of asking.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let some = rng.below(self.asked.len() + 1);
        self.step(some);
        self.asked.clear();
        self.bytes = 0;
    }

    pub(crate) fn fail(&mut self) {
        self.failure = Some(Error::io("a sync of the simulator", std::io::Error::other("it fails")));
    }

    /// A new process has the disk.
    pub(crate) fn open(&mut self) {
        self.failure = None;
    }

    /// What a process finds when it starts.
    pub(crate) fn recover(&self) -> Option<(Ledger, Recovery)> {
        let ledger = self.ledger.as_ref().filter(|bytes| !bytes.is_empty())?;
        let mut ledger = Ledger::decode(ledger).unwrap();
        let mut recovery = Recovery { tail: self.tail.as_deref().and_then(Tail::decode), ..Recovery::default() };
        for record in &self.records {
            if record.kind == Kind::Decision {
                ledger = ledger.advance(&record.payload);
            }
            (recovery.last, recovery.time_ns) = (record.version, record.time_ns);
        }
        Some((ledger, recovery))
    }

    /// The last record of this time or an earlier one, on disk or on the way there.
    pub(crate) fn last_at(&self, time_ns: u64) -> Option<Version> {
        let coming = self.asked.iter().filter_map(|(_, asked)| match asked {
            Asked::Append(record) => Some(record),
            _ => None,
        });
        let all = self.records.iter().chain(coming);
        all.filter(|record| record.time_ns <= time_ns).map(|record| record.version).max()
    }

    /// A process that joins takes over the history before `below` of another: what it has must be the beginning of it.
    pub(crate) fn take_over(&mut self, from: &[Written], below: Version) {
        let key = |r: &Written| (r.version, r.time_ns, r.sender, r.mode, r.payload.clone());
        let mine = &self.records;
        let shared = mine.iter().zip(from).take_while(|(a, b)| key(a) == key(b)).count();
        assert_eq!(shared, mine.len(), "a removed member's log is no beginning of the group's: {:?}", mine.get(shared));
        self.ledger = Some(Vec::new());
        self.records = from.iter().filter(|record| record.version < below).cloned().collect();
    }
}

/// A handle on a disk.
#[derive(Clone, Default)]
pub(crate) struct SimJournal(pub(crate) Arc<Mutex<Media>>);

impl SimJournal {
    pub(crate) fn media(&self) -> MutexGuard<'_, Media> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, asked: Asked) -> Ticket {
        let mut media = self.media();
        media.next += 1;
        let ticket = media.next;
        media.asked.push_back((ticket, asked));
        Ticket(ticket)
    }
}

impl Journal for SimJournal {
    fn append(&mut self, record: Record<'_>) -> Ticket {
        let Record { version, time_ns, sender, mode, kind, payload } = record;
        self.media().bytes += payload.len();
        self.ask(Asked::Append(Written { version, time_ns, sender, mode, kind, payload: payload.to_vec() }))
    }

    fn cut(&mut self, from: Version) -> Ticket {
        self.ask(Asked::Cut(from))
    }

    fn save(&mut self, name: &'static str, bytes: &[u8]) -> Ticket {
        self.ask(Asked::Save(name, bytes.to_vec()))
    }

    fn durable(&self) -> Ticket {
        Ticket(self.media().durable)
    }

    fn failure(&self) -> Option<Error> {
        self.media().failure.clone()
    }

    fn backlog_bytes(&self) -> usize {
        // A few kilobytes are much here.
        self.media().bytes << 13
    }
}
