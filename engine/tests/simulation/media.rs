//! The disks of a simulated group: each member's journal, the part of it that is on disk, and the effect of a crash.
//!
//! Some runs use the real log, on a disk that loses, tears and reorders unsynced writes. Most runs use a model of the
//! log's guarantees, which is much faster.

use super::disk::SimDisk;
use super::rng::Rng;
use crate::error::Error;
use crate::log::store::Store;
use crate::log::{Identity, Journal, Kind, Record, Ticket};
use crate::membership::HardState;
use crate::multicast::{TAIL, Tail};
use crate::node::{CLOCK, HARD_STATE, Recovery};
use crate::types::{MemberId, Mode, Version};
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

/// The real log, and its disk.
struct Real {
    disk: SimDisk,
    store: Store,
}

/// The smallest segments that hold all messages of the simulation.
const SEGMENT_BYTES: u64 = 16384;

impl Real {
    fn open(disk: SimDisk) -> Real {
        let store = Store::open(Arc::new(disk.clone()), Identity::default(), SEGMENT_BYTES).unwrap();
        Real { disk, store }
    }

    /// Carries out the operations, with one sync for consecutive appends.
    fn run(&mut self, asked: &[(u64, Asked)]) -> Result<(), Error> {
        let mut batch: Vec<Record<'_>> = Vec::new();
        for (_, asked) in asked {
            if let Asked::Append(record) = asked {
                batch.push(record.record());
                continue;
            }
            self.write(&mut batch)?;
            match asked {
                Asked::Append(_) => {}
                Asked::Cut(from) => self.store.cut(*from)?,
                Asked::Save(name, bytes) => self.store.save(name, bytes)?,
            }
        }
        self.write(&mut batch)
    }

    fn write(&mut self, batch: &mut Vec<Record<'_>>) -> Result<(), Error> {
        if !batch.is_empty() {
            self.store.append(batch)?;
            self.store.sync()?;
            batch.clear();
        }
        Ok(())
    }

    fn records(&self) -> Vec<Written> {
        let entries = self.store.reader().iter(..);
        let written = entries.map(|entry| {
            let entry = entry.unwrap();
            let Record { version, time_ns, sender, mode, kind, payload } = entry.record();
            Written { version, time_ns, sender, mode, kind, payload: payload.to_vec() }
        });
        written.collect()
    }
}

/// The disk of one member.
#[derive(Default)]
pub(crate) struct Media {
    real: Option<Real>,
    /// The synced records.
    pub(crate) records: Vec<Written>,
    hard_state: Option<Vec<u8>>,
    tail: Option<Vec<u8>>,
    clock: Option<Vec<u8>>,
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
                    "a record that does not follow the last one: {record:?} after {last:?}"
                );
                self.bytes -= record.payload.len();
                self.records.push(record);
            }
            Asked::Cut(from) => self.records.retain(|record| record.version < from),
            Asked::Save(HARD_STATE, bytes) => self.hard_state = Some(bytes),
            Asked::Save(CLOCK, bytes) => self.clock = Some(bytes),
            Asked::Save(name, bytes) => {
                assert_eq!(name, TAIL);
                self.tail = Some(bytes);
            }
        }
    }

    /// The disk carries out up to `most` of the requested operations.
    pub(crate) fn step(&mut self, most: usize) -> bool {
        let some: Vec<_> = self.asked.drain(..most.min(self.asked.len())).collect();
        if let Some(real) = &mut self.real {
            real.run(&some).unwrap();
        }
        let moved = !some.is_empty();
        for (ticket, asked) in some {
            self.apply(asked);
            self.durable = ticket;
        }
        moved
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// The process dies: a prefix of the requested operations has reached the disk.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let some = rng.below(self.asked.len() + 1);
        self.step(some);
        self.crash_really(rng);
        self.asked.clear();
        self.bytes = 0;
    }

    /// The power fails in the middle of the requested operations.
    fn crash_really(&mut self, rng: &mut Rng) {
        let Some(Real { disk, store }) = self.real.take() else { return };
        let mut real = Real { disk: disk.clone(), store };
        disk.power_off_after(rng.below(30) as u64);
        let some: Vec<_> = self.asked.drain(..rng.below(self.asked.len() + 1)).collect();
        let _ = real.run(&some);
        drop(real);
        disk.crash();
        let real = Real::open(disk);
        let found = real.records();
        let cuts = some.iter().any(|(_, asked)| matches!(asked, Asked::Cut(_)));
        let new =
            some.iter().filter_map(|(_, asked)| if let Asked::Append(record) = asked { Some(record) } else { None });
        let all: Vec<&Written> = self.records.iter().chain(new).collect();
        assert!(cuts || found.len() >= self.records.len(), "what was synced is lost (guarantee 4)");
        assert!(
            cuts || found.iter().zip(all).all(|(a, b)| a == b),
            "the disk has something else than was written (guarantee 4)"
        );
        self.records = found;
        let was_asked = |name: &str, now: &Option<Vec<u8>>| {
            some.iter().any(|(_, a)| matches!(a, Asked::Save(n, bytes) if *n == name && now.as_ref() == Some(bytes)))
        };
        for (name, slot) in [(HARD_STATE, &mut self.hard_state), (TAIL, &mut self.tail), (CLOCK, &mut self.clock)] {
            let now = real.store.load(name).unwrap();
            let known = now == *slot || was_asked(name, &now);
            assert!(known, "{name} is none of those that were saved");
            *slot = now;
        }
        self.real = Some(real);
    }

    pub(crate) fn fail(&mut self) {
        self.failure = Some(Error::io("a sync of the simulator", std::io::Error::other("it fails")));
    }

    /// A new process opens the disk.
    pub(crate) fn open(&mut self) {
        self.failure = None;
    }

    /// The state that a process finds at its start.
    pub(crate) fn recover(&self) -> Option<(HardState, Recovery)> {
        let hard_state = self.hard_state.as_ref().filter(|bytes| !bytes.is_empty())?;
        let mut hard_state = HardState::decode(hard_state).unwrap();
        let mut recovery = Recovery { tail: self.tail.as_deref().and_then(Tail::decode), ..Recovery::default() };
        if let Some(clock) = &self.clock {
            recovery.announced_ns = u64::from_le_bytes(clock[..].try_into().unwrap());
        }
        for record in &self.records {
            if record.kind == Kind::Decision {
                hard_state = hard_state.advance(&record.payload);
            }
            (recovery.last, recovery.time_ns) = (record.version, record.time_ns);
        }
        Some((hard_state, recovery))
    }

    /// The last record with this time or an earlier one, on disk or on the way there.
    pub(crate) fn last_at(&self, time_ns: u64) -> Option<Version> {
        let coming = self.asked.iter().filter_map(|(_, asked)| match asked {
            Asked::Append(record) => Some(record),
            _ => None,
        });
        let all = self.records.iter().chain(coming);
        all.filter(|record| record.time_ns <= time_ns).map(|record| record.version).max()
    }

    /// A joiner takes over another member's history before `below`. Its own records must be a prefix of that history.
    pub(crate) fn take_over(&mut self, from: &[Written], below: Version) {
        let key = |r: &Written| (r.version, r.time_ns, r.sender, r.mode, r.payload.clone());
        let mine = &self.records;
        let shared = mine.iter().zip(from).take_while(|(a, b)| key(a) == key(b)).count();
        // A restart of the others may have ended this log's last view before the end of this log.
        if let (Some(last), Some(next)) = (mine.last(), from.get(shared))
            && next.kind == Kind::Decision
            && next.version.view > last.version.view
            && next.version.sequence <= last.version.sequence
        {
            let cut = Version { view: last.version.view, sequence: next.version.sequence };
            self.records.retain(|record| record.version < cut);
            if let Some(real) = &mut self.real {
                real.store.cut(cut).unwrap();
            }
        }
        let mine = &self.records;
        assert_eq!(
            shared,
            mine.len(),
            "a removed member's log is no beginning of the group's (guarantee 1): {:?}",
            mine.get(shared)
        );
        self.hard_state = Some(Vec::new());
        let new: Vec<Record<'_>> =
            from.iter().skip(shared).filter(|r| r.version < below).map(Written::record).collect();
        if let Some(real) = &mut self.real {
            real.store.save(HARD_STATE, &[]).unwrap();
            real.write(&mut new.clone()).unwrap();
        }
        self.records = from.iter().filter(|record| record.version < below).cloned().collect();
    }
}

/// A handle to a disk.
#[derive(Clone, Default)]
pub(crate) struct SimJournal(pub(crate) Arc<Mutex<Media>>);

impl SimJournal {
    pub(crate) fn media(&self) -> MutexGuard<'_, Media> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a journal of the real log, on a disk of its own.
    pub(crate) fn real(seed: u64) -> SimJournal {
        let media = Media { real: Some(Real::open(SimDisk::new(seed))), ..Media::default() };
        SimJournal(Arc::new(Mutex::new(media)))
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
        // Scaled up, since a few kilobytes are a large backlog in the simulation.
        self.media().bytes << 13
    }
}
