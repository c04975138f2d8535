//! The membership's row: the data that a process publishes about itself, its view and the end of its epoch.
//!
//! All columns are words. A record is guarded by a word that is pushed in a later write. Columns about one epoch are
//! valid while [`EPOCH`] names it, both before and after they are read ([`read`]). The next view clears them when it
//! begins. The decision that ends a view stays readable, for members that are late, until the owner has the decision
//! that ends the view after the next ([`decided`]).
//!
//! [`CHANGES`] is pushed last, in a write of its own, after any change except a heartbeat. A peer that has seen its
//! value has seen all earlier changes.

use super::accusations::{self, Counters};
use super::causes::CAUSE_WORDS;
use super::shard::STREAMS_MAX;
use super::view::{VALUE_WORDS, ViewDecision};
use crate::fabric::{SLOTS, Slot, TableId, TableSpec};
use crate::multicast::End;
use crate::sst::{Column, Table};

/// A counter that rises while the owner's engine makes progress.
pub(super) const HEARTBEAT: Column = Column(0);
/// In a group with a log: a time in nanoseconds. Everything that the owner publishes after this has a later time.
///
/// It does not move while an epoch ends. It is pushed together with [`HEARTBEAT`].
pub(super) const CLOCK: Column = Column(8);
/// In a group with a log: the clock of the owner's host, in nanoseconds since 1970.
///
/// It is pushed together with [`HEARTBEAT`].
pub(super) const HOST_CLOCK: Column = Column(16);
/// How often the rest of the row has changed.
pub(super) const CHANGES: Column = Column(24);
/// One above the number of the view that the row's epoch columns are about. 0 while they are being cleared.
pub(super) const EPOCH: Column = Column(32);
/// One above the number of the view that the owner has installed. 0 before the first.
pub(super) const INSTALLED: Column = Column(40);
/// One above the number of the last view that the owner has wedged. Guards [`WEDGE`].
pub(super) const WEDGED: Column = Column(48);
/// One above the number of the last view that the owner knows the decision of. Guards [`DECISION`].
pub(super) const DECIDED: Column = Column(56);
/// 1 once the owner wants to leave.
pub(super) const LEAVING: Column = Column(64);
/// 1 once the owner has the group's state and can be a voter.
pub(super) const READY: Column = Column(72);

/// Per epoch: the highest ballot that the owner has promised. Stored after the acceptance that preceded it.
pub(super) const PROMISE: Column = Column(80);
/// Per epoch: the number of changes of the record in [`ACCEPT`].
///
/// [`PROPOSED`] and [`FLUSHED`] count for [`PROPOSE`] and [`FLUSH`] in the same way. Each record has two slots, chosen
/// by the parity of its counter.
pub(super) const ACCEPTED: Column = Column(88);
pub(super) const PROPOSED: Column = Column(96);
pub(super) const FLUSHED: Column = Column(104);
/// Per epoch, by accuser's rank: its [`Counters`]. They are the owner's own and those that it has read from others.
pub(super) const EDGES: Column = Column(112);
/// By slot: the incarnation of the process that the owner is linked with, or 0.
pub(super) const LINKED: Column = EDGES.at(SLOTS * accusations::WORDS);
/// The owner's own timeouts, in milliseconds. They never change.
pub(super) const FAILURE_TIMEOUT: Column = LINKED.at(SLOTS);
pub(super) const PARTITION_TIMEOUT: Column = FAILURE_TIMEOUT.at(1);
/// The ends of all streams at the owner when it wedged.
pub(super) const WEDGE: Column = PARTITION_TIMEOUT.at(1);
const FLUSH: Column = WEDGE.at(ENDS_WORDS);
const ACCEPT: Column = FLUSH.at(2 * ENDS_WORDS);
const PROPOSE: Column = ACCEPT.at(2 * BALLOT_WORDS);
pub(super) const DECISION: Column = PROPOSE.at(2 * BALLOT_WORDS);
/// By accused rank: why the owner accuses that member in this epoch, as text. Published before the accusation.
pub(super) const CAUSES: Column = DECISION.at(2 * VALUE_WORDS);
const END: Column = CAUSES.at(SLOTS * CAUSE_WORDS);

/// Words of a vector of ends.
const ENDS_WORDS: usize = 3 * STREAMS_MAX;
/// Words of a ballot with its value.
const BALLOT_WORDS: usize = 1 + VALUE_WORDS;

/// The guards of the epoch's records, which a new epoch clears.
pub(super) const GUARDS: std::ops::Range<usize> = PROMISE.0..LINKED.0;
/// The shape of the membership's table.
pub(crate) fn table_spec() -> TableSpec {
    let len = END.0.next_multiple_of(64);
    TableSpec { id: TableId(0), columns_len: len, row_len: len }
}

/// A ballot: an attempt and the rank of the leader that makes it. Ballots are ordered by attempt, then rank. 0 means
/// none.
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

/// The columns that a member publishes about the end of an epoch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Shown {
    pub(super) wedged: Option<Vec<End>>,
    pub(super) flushed: Option<Vec<End>>,
    pub(super) promise: Ballot,
    pub(super) accepted: Option<(Ballot, ViewDecision)>,
    pub(super) proposed: Option<(Ballot, ViewDecision)>,
    /// By accuser's rank.
    pub(super) accusations: Vec<Counters>,
}

/// How many members a view has, and how many streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) members: usize,
    pub(super) streams: usize,
}

/// A peer's record that no correct member writes.
#[derive(Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// Reads the epoch columns of the process in `slot`, for view `view`, which has so many members and streams.
///
/// `None` if the row is about another epoch, or changes too often to be read.
pub(super) fn read(
    table: &Table,
    slot: Slot,
    view: u64,
    Shape { members, streams }: Shape,
) -> Result<Option<Shown>, Malformed> {
    let of_this = || table.load(slot, EPOCH) == view + 1;
    if !of_this() {
        return Ok(None);
    }
    let word = |rank: usize, n: usize| table.load(slot, EDGES.at(rank * accusations::WORDS + n));
    let counters = |rank| Counters::new(std::array::from_fn(|n| word(rank, n)));
    let accusations = (0..members).map(counters).collect();
    // The promise is loaded first: its owner has published earlier acceptances before it.
    let promise = Ballot(table.load(slot, PROMISE));
    let looked = (|| {
        let accepted = ballot(table, slot, ACCEPTED, ACCEPT)?;
        let proposed = ballot(table, slot, PROPOSED, PROPOSE)?;
        let flushed = two_slots(table, slot, FLUSHED, FLUSH, ENDS_WORDS, |_| 3 * streams)?;
        Some((accepted, proposed, flushed))
    })();
    // The record changes at each look. The owner moves `CHANGES` after each change, so the row is read again.
    let Some((accepted, proposed, flushed)) = looked else { return Ok(None) };
    let wedged = (table.load(slot, WEDGED) == view + 1).then(|| words(table, slot, WEDGE, 3 * streams));
    if !of_this() {
        return Ok(None);
    }
    // Decoded only after the last check of `EPOCH`. Words read while the row moves to another epoch can be anything.
    let decode = |record: Option<Vec<u64>>| match record {
        None => Ok(None),
        Some(words) => match ViewDecision::decode(&words[1..]) {
            Some(value) => Ok(Some((Ballot(words[0]), value))),
            None => Err(Malformed("a record of a ballot that holds no value")),
        },
    };
    let ends = |record: Option<Vec<u64>>| match record {
        None => Ok(None),
        Some(words) => ends(&words).map(Some).ok_or(Malformed("a record of ends whose ring positions are too large")),
    };
    Ok(Some(Shown {
        wedged: ends(wedged)?,
        flushed: ends(flushed)?,
        promise,
        accepted: decode(accepted)?,
        proposed: decode(proposed)?,
        accusations,
    }))
}

/// Reads the decision of view `view`, if the process in `slot` publishes it.
pub(super) fn decided(table: &Table, slot: Slot, view: u64) -> Result<Option<ViewDecision>, Malformed> {
    // `view` may come from the row itself.
    let Some(last) = view.checked_add(2) else { return Err(Malformed("a decision of a view that cannot be")) };
    // The slot is reused for the decision of view `view + 2`. The owner has installed that view by then.
    let shows = || (view + 1..=last).contains(&table.load(slot, DECIDED)) && table.load(slot, INSTALLED) <= last;
    if !shows() {
        return Ok(None);
    }
    let column = DECISION.at((view % 2) as usize * VALUE_WORDS);
    let len = ViewDecision::words(table.load(slot, column));
    let words = words(table, slot, column, len);
    if !shows() {
        return Ok(None);
    }
    match ViewDecision::decode(&words) {
        Some(value) if value.view.number == view + 1 && value.view.is_whole() => Ok(Some(value)),
        _ => Err(Malformed("a decision that is no value")),
    }
}

fn ballot(table: &Table, slot: Slot, counter: Column, record: Column) -> Option<Option<Vec<u64>>> {
    two_slots(table, slot, counter, record, BALLOT_WORDS, |column| {
        1 + ViewDecision::words(table.load(slot, column.at(1)))
    })
}

/// Reads a record that may change while it is read.
///
/// Loads the counter, copies the slot and loads the counter again. Starts over unless the counter is unchanged. `len`
/// returns the length of the record in a slot. The outer `None` means that the record changed at each of 16 looks.
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

fn ends(words: &[u64]) -> Option<Vec<End>> {
    words.as_chunks().0.iter().map(|end| End::of_words(*end)).collect()
}

/// A record of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Wedge,
    Flush,
    Accept,
    Propose,
    /// The decision of the view with this number.
    Decision(u64),
}

impl Record {
    /// Returns the column of the record, its guard, and the new value of the guard.
    ///
    /// `guard_now` returns the present value of a guard.
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

/// Encodes ends as words of a record.
pub(super) fn end_words(ends: &[End]) -> Vec<u64> {
    ends.iter().flat_map(|end| end.words()).collect()
}

/// Encodes a ballot and its value as words of a record.
pub(super) fn ballot_words(ballot: Ballot, value: &ViewDecision) -> Vec<u64> {
    std::iter::once(ballot.0).chain(value.encode()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::shard::{Shard, ShardId};
    use super::super::view::{EndedShard, Member, Peer, View};
    use super::*;
    use crate::fabric::Row;
    use crate::fuzz::{Parser, as_it_is, run};
    use crate::multicast::order::Order;
    use crate::types::{MemberId, SubgroupId};
    use std::sync::Arc;

    const VIEW: u64 = 6;

    fn decision() -> ViewDecision {
        let peer = |slot| Peer { slot, id: MemberId(slot as u32), incarnation: 9 };
        let members = [0, 1].map(|slot| Member { peer: peer(slot), voter: true }).to_vec();
        let (id, end) = (ShardId::only(SubgroupId(0)), End { messages: 70, frames: 40, word: 7 });
        let shard = Shard { id, members: vec![0, 1], order: Order { senders: 2, base: 70, first: 141 } };
        let view = View { number: VIEW + 1, members, shards: vec![shard] };
        let ended = vec![EndedShard { id, ends: vec![(0, end), (1, end)] }];
        ViewDecision { view, old: vec![peer(0), peer(1)], ended, left: 0, time_ns: 5 }
    }

    /// Words of a row, each as 10 bytes: where it is, in words, and its value.
    fn encode(words: &[(Column, u64)]) -> Vec<u8> {
        let pair =
            |(column, word): &(Column, u64)| [&((column.0 / 8) as u16).to_le_bytes()[..], &word.to_le_bytes()].concat();
        words.iter().flat_map(pair).collect()
    }

    fn seeds() -> Vec<Vec<u8>> {
        let record =
            |column: Column, words: Vec<u64>| words.into_iter().enumerate().map(move |(n, word)| (column.at(n), word));
        let value = || ballot_words(Ballot::new(3, 1), &decision());
        let ends = || end_words(&[End { messages: 70, frames: 40, word: 7 }; 2]);
        let mut ending = vec![(EPOCH, VIEW + 1), (INSTALLED, VIEW + 1), (WEDGED, VIEW + 1), (PROMISE, 3 << 8 | 1)];
        ending.extend([(ACCEPTED, 1), (PROPOSED, 2), (FLUSHED, 2)]);
        ending.extend(record(ACCEPT.at(BALLOT_WORDS), value()).chain(record(PROPOSE, value())));
        ending.extend(record(FLUSH, ends()).chain(record(WEDGE, ends())));
        let mut decided = vec![(EPOCH, VIEW + 1), (INSTALLED, VIEW + 1), (DECIDED, VIEW + 1)];
        decided.extend(record(DECISION.at((VIEW % 2) as usize * VALUE_WORDS), decision().encode()));
        vec![encode(&ending), encode(&decided)]
    }

    #[test]
    fn fuzz_membership_row() {
        let spec = table_spec();
        let row = || Arc::new(Row::anonymous(spec.row_len, spec.columns_len).unwrap());
        let (mut table, peer) = (Table::new(spec, 0, row()), row());
        table.attach(1, peer.clone());
        let zeros = vec![0; spec.row_len];
        // Four records of at most as many words as a decision has, and their decoded values.
        let heap_max = (1, 12 * 8 * VALUE_WORDS);
        run(&Parser { name: "membership row", seeds: seeds(), repair: &as_it_is, heap_max }, |bytes| {
            peer.store_words(0, &zeros);
            for pair in bytes.as_chunks::<10>().0 {
                let [a, b, word @ ..] = *pair;
                peer.store_words(usize::from(u16::from_le_bytes([a, b])) * 8 % spec.row_len, &word);
            }
            // As a member of the view reads it, and as a joiner does.
            let shown = read(&table, 1, VIEW, Shape { members: 2, streams: 2 });
            let found = decided(&table, 1, VIEW);
            let joins = table.load(1, DECIDED).checked_sub(1).map(|view| decided(&table, 1, view));
            let valid = shown.is_ok() && found.is_ok() && joins.as_ref().is_none_or(Result::is_ok);
            let records = shown.ok().flatten().into_iter().flat_map(|shown| [shown.accepted, shown.proposed]).flatten();
            for value in
                records.map(|(_, value)| value).chain(found.ok().flatten()).chain(joins.and_then(|found| found.ok()?))
            {
                assert_eq!(ViewDecision::decode(&value.encode()).as_ref(), Some(&value));
            }
            valid
        });
    }

    #[test]
    fn a_decision_of_the_last_view_that_a_word_can_name_is_malformed() {
        let spec = table_spec();
        let row = Arc::new(Row::anonymous(spec.row_len, spec.columns_len).unwrap());
        row.store_words(DECIDED.0, &u64::MAX.to_le_bytes());
        let table = Table::new(spec, 1, row);
        assert!(decided(&table, 1, u64::MAX - 1).is_err());
    }

    /// A process would enter a view in which it has no stream.
    #[test]
    fn a_decision_with_a_shard_without_some_member_is_malformed() {
        let spec = table_spec();
        let mut value = decision();
        for (members, valid) in [(vec![0, 1], true), (vec![1], false), (vec![], false)] {
            let row = Arc::new(Row::anonymous(spec.row_len, spec.columns_len).unwrap());
            value.view.shards[0].members = members;
            value.view.shards[0].order.senders = value.view.shards[0].members.len();
            let words = [(DECISION.at((VIEW % 2) as usize * VALUE_WORDS), value.encode()), (DECIDED, vec![VIEW + 1])];
            for (column, words) in words {
                words.iter().enumerate().for_each(|(n, word)| row.store_words(column.at(n).0, &word.to_le_bytes()));
            }
            assert_eq!(decided(&Table::new(spec, 1, row), 1, VIEW).is_ok_and(|found| found.is_some()), valid);
        }
    }
}
