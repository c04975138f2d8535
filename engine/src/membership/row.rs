//! The membership's row: what a process tells of itself, of its view, and of how its epoch ends.
//!
//! All columns are words; records are guarded by a word that is pushed in a later write. What belongs to one epoch is
//! valid while [`EPOCH`] names it, before and after the look ([`read`]); it is cleared when the next view begins. The
//! decision of a view stays until the one after the next is taken, for whoever is late ([`decided`]).
//!
//! [`CHANGES`] is pushed last, in a write of its own, after anything but a heartbeat: a peer that has seen its value has
//! seen everything.

use super::accusations::{self, Counters};
use super::causes::CAUSE_WORDS;
use super::view::{VALUE_WORDS, Value};
use crate::fabric::{SLOTS, Slot, TableId, TableSpec};
use crate::multicast::End;
use crate::sst::{Column, Table};

/// Grows while the owner's engine makes progress.
pub(super) const HEARTBEAT: Column = Column(0);
/// In a group with a log: everything that the owner publishes after this bears a later time, in nanoseconds. It stands still
/// while an epoch ends. Pushed together with [`HEARTBEAT`].
pub(super) const CLOCK: Column = Column(8);
/// In a group with a log: what the clock of the owner's host says, in nanoseconds since 1970. Pushed together with
/// [`HEARTBEAT`].
pub(super) const HOST_CLOCK: Column = Column(16);
/// How often the rest of the row changed.
pub(super) const CHANGES: Column = Column(24);
/// One above the number of the view whose epoch the row's columns are about; 0 while they are being cleared.
pub(super) const EPOCH: Column = Column(32);
/// One above the number of the view that the owner has installed; 0 before the first.
pub(super) const INSTALLED: Column = Column(40);
/// One above the number of the last view that the owner has wedged, guarding [`WEDGE`].
pub(super) const WEDGED: Column = Column(48);
/// One above the number of the last view whose decision the owner knows, guarding [`DECISION`].
pub(super) const DECIDED: Column = Column(56);
/// 1 once the owner wants to leave.
pub(super) const LEAVING: Column = Column(64);
/// 1 once the owner has the group's state, so that it can be a voter.
pub(super) const READY: Column = Column(72);

/// Of the epoch: the highest ballot the owner has promised; stored after the accepted record it follows from.
pub(super) const PROMISE: Column = Column(80);
/// Of the epoch: how often it has changed the record in [`ACCEPT`], [`PROPOSE`], [`FLUSH`], each in two slots by parity.
pub(super) const ACCEPTED: Column = Column(88);
pub(super) const PROPOSED: Column = Column(96);
pub(super) const FLUSHED: Column = Column(104);
/// Of the epoch: by accuser's rank, its [`Counters`]; the owner's own, and what it has read of others.
pub(super) const EDGES: Column = Column(112);
/// By slot: the incarnation of the process that the owner is linked with, 0 for none.
pub(super) const LINKED: Column = EDGES.at(SLOTS * accusations::WORDS);
/// The owner's own timeouts, in milliseconds; they never change.
pub(super) const FAILURE_TIMEOUT: Column = LINKED.at(SLOTS);
pub(super) const PARTITION_TIMEOUT: Column = FAILURE_TIMEOUT.at(1);
/// The owner's ends of all streams by rank, as it wedged.
pub(super) const WEDGE: Column = PARTITION_TIMEOUT.at(1);
const FLUSH: Column = WEDGE.at(ENDS_WORDS);
const ACCEPT: Column = FLUSH.at(2 * ENDS_WORDS);
const PROPOSE: Column = ACCEPT.at(2 * BALLOT_WORDS);
pub(super) const DECISION: Column = PROPOSE.at(2 * BALLOT_WORDS);
/// By accused rank: why the owner accuses that member in this epoch, for people; shown before the accusation.
pub(super) const CAUSES: Column = DECISION.at(2 * VALUE_WORDS);
const END: Column = CAUSES.at(SLOTS * CAUSE_WORDS);

/// Words of a vector of ends.
const ENDS_WORDS: usize = 3 * SLOTS;
/// Words of a ballot with its value.
const BALLOT_WORDS: usize = 1 + VALUE_WORDS;

/// The guards of the epoch: what a new one clears.
pub(super) const GUARDS: std::ops::Range<usize> = PROMISE.0..LINKED.0;
/// The membership's table.
pub fn table_spec() -> TableSpec {
    let len = END.0.next_multiple_of(64);
    TableSpec { id: TableId(0), columns_len: len, row_len: len }
}

/// A ballot: an attempt and the rank of the leader that makes it, ordered. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Ballot(pub(super) u64);

impl Ballot {
    pub(super) fn new(attempt: u64, rank: usize) -> Ballot {
        Ballot(attempt << 8 | rank as u64)
    }

    pub(super) fn attempt(self) -> u64 {
        self.0 >> 8
    }

    pub(super) fn rank(self) -> usize {
        (self.0 & 0xff) as usize
    }
}

/// What a peer shows of the end of an epoch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Shown {
    pub(super) wedged: Option<Vec<End>>,
    pub(super) flushed: Option<Vec<End>>,
    pub(super) promise: Ballot,
    pub(super) accepted: Option<(Ballot, Value)>,
    pub(super) proposed: Option<(Ballot, Value)>,
    /// By accuser's rank.
    pub(super) accusations: Vec<Counters>,
}

/// A peer's record is none that a correct member writes.
#[derive(Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// What the process in `slot` shows of the epoch of view `view` with `members` members; `None` if its row is about another
/// one.
pub(super) fn read(table: &Table, slot: Slot, view: u64, members: usize) -> Result<Option<Shown>, Malformed> {
    let of_this = || table.load(slot, EPOCH) == view + 1;
    if !of_this() {
        return Ok(None);
    }
    let word = |rank: usize, n: usize| table.load(slot, EDGES.at(rank * accusations::WORDS + n));
    let counters = |rank| Counters::new(std::array::from_fn(|n| word(rank, n)));
    let accusations = (0..members).map(counters).collect();
    // The promise first: whoever shows it has shown what it had accepted before.
    let promise = Ballot(table.load(slot, PROMISE));
    let looked = (|| {
        let accepted = ballot(table, slot, ACCEPTED, ACCEPT)?;
        let proposed = ballot(table, slot, PROPOSED, PROPOSE)?;
        let flushed = two_slots(table, slot, FLUSHED, FLUSH, ENDS_WORDS, |_| 3 * members)?;
        Some((accepted, proposed, flushed))
    })();
    // One that changes all the time is looked at again: it announces each change.
    let Some((accepted, proposed, flushed)) = looked else { return Ok(None) };
    let wedged = (table.load(slot, WEDGED) == view + 1).then(|| words(table, slot, WEDGE, 3 * members));
    if !of_this() {
        return Ok(None);
    }
    // Only now: what was read while the row went on to another epoch may be anything.
    let decode = |record: Option<Vec<u64>>| match record {
        None => Ok(None),
        Some(words) => match Value::decode(&words[1..]) {
            Some(value) => Ok(Some((Ballot(words[0]), value))),
            None => Err(Malformed("a record of a ballot that holds no value")),
        },
    };
    Ok(Some(Shown {
        wedged: wedged.as_deref().map(ends),
        flushed: flushed.as_deref().map(ends),
        promise,
        accepted: decode(accepted)?,
        proposed: decode(proposed)?,
        accusations,
    }))
}

/// The decision of view `view`, if the process in `slot` shows it.
pub(super) fn decided(table: &Table, slot: Slot, view: u64) -> Result<Option<Value>, Malformed> {
    // The slot is used again for the decision after the next, by an owner that runs that view.
    let shows =
        || (view + 1..=view + 2).contains(&table.load(slot, DECIDED)) && table.load(slot, INSTALLED) <= view + 2;
    if !shows() {
        return Ok(None);
    }
    let column = DECISION.at((view % 2) as usize * VALUE_WORDS);
    let len = Value::words(table.load(slot, column));
    let words = words(table, slot, column, len);
    if !shows() {
        return Ok(None);
    }
    match Value::decode(&words) {
        Some(value) if value.view.number == view + 1 => Ok(Some(value)),
        _ => Err(Malformed("a decision that is no value")),
    }
}

fn ballot(table: &Table, slot: Slot, counter: Column, record: Column) -> Option<Option<Vec<u64>>> {
    two_slots(table, slot, counter, record, BALLOT_WORDS, |column| 1 + Value::words(table.load(slot, column.at(1))))
}

/// Reads a record that changes: loads its counter, copies the slot, loads the counter again, and starts over unless it is
/// unchanged. `len` says how long the record in a slot is. The outer `None`: it changed at each of many looks.
fn two_slots(
    table: &Table,
    slot: Slot,
    counter: Column,
    record: Column,
    stride: usize,
    len: impl Fn(Column) -> usize,
) -> Option<Option<Vec<u64>>> {
    for _ in 0..16 {
        let count = table.load(slot, counter);
        if count == 0 {
            return Some(None);
        }
        let column = record.at((count % 2) as usize * stride);
        let words = words(table, slot, column, len(column));
        if table.load(slot, counter) == count {
            return Some(Some(words));
        }
    }
    None
}

fn words(table: &Table, slot: Slot, column: Column, len: usize) -> Vec<u64> {
    (0..len).map(|n| table.load(slot, column.at(n))).collect()
}

fn ends(words: &[u64]) -> Vec<End> {
    // A position is modulo 2^32.
    words.chunks_exact(3).map(|w| End { messages: w[0], frames: w[1], word: w[2] as u32 }).collect()
}

/// Which record to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Wedge,
    Flush,
    Accept,
    Propose,
    /// Of the view with this number.
    Decision(u64),
}

impl Record {
    /// Where its words go, and the guard with its value, given what the guard is now.
    pub(super) fn place(self, view: u64, guard_now: impl Fn(Column) -> u64) -> (Column, Column, u64) {
        let next = |counter: Column, record: Column, stride: usize| {
            let count = guard_now(counter) + 1;
            (record.at((count % 2) as usize * stride), counter, count)
        };
        match self {
            Record::Wedge => (WEDGE, WEDGED, view + 1),
            Record::Flush => next(FLUSHED, FLUSH, ENDS_WORDS),
            Record::Accept => next(ACCEPTED, ACCEPT, BALLOT_WORDS),
            Record::Propose => next(PROPOSED, PROPOSE, BALLOT_WORDS),
            Record::Decision(of) => (DECISION.at((of % 2) as usize * VALUE_WORDS), DECIDED, of + 1),
        }
    }
}

/// Ends as words of a record.
pub(super) fn end_words(ends: &[End]) -> Vec<u64> {
    ends.iter().flat_map(|end| [end.messages, end.frames, u64::from(end.word)]).collect()
}

/// A ballot and its value as words of a record.
pub(super) fn ballot_words(ballot: Ballot, value: &Value) -> Vec<u64> {
    std::iter::once(ballot.0).chain(value.encode()).collect()
}
