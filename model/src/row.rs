//! A member's row of the membership table, and the updates that are pushed.

use std::hash::{Hash, Hasher};

/// Members of the old view, all of them voters.
pub const N: usize = 3;
/// More than half of them.
pub(crate) const MAJORITY: u32 = 2;

/// A set of members, one bit each.
pub type Members = u8;

/// A ballot, ordered by attempt, then by rank. The default is below every ballot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot(u8);

impl Ballot {
    /// The ballot of an attempt, counted from one.
    pub fn new(attempt: u8, rank: usize) -> Self {
        Self(attempt << 2 | rank as u8)
    }

    /// The number of the attempt.
    pub fn attempt(self) -> u8 {
        self.0 >> 2
    }

    /// The rank of the leader.
    pub fn rank(self) -> usize {
        usize::from(self.0 & 3)
    }
}

/// The decision of an epoch: the members of the next view, and the trim of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Value {
    /// Never empty: the default means that there is no decision.
    pub members: Members,
    /// Messages of the old view that the next view has delivered.
    pub trim: u8,
}

/// One of the two records of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The value that the owner accepted last.
    Accepted,
    /// The value that the owner proposed last.
    Proposed,
}

/// A record that can change: two slots used in turn by the parity of the counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Register {
    /// The number of writes so far.
    pub counter: u8,
    slots: [(Ballot, Value); 2],
}

impl Register {
    fn packed(&self, more: u8) -> u64 {
        let [(a, v), (b, w)] = self.slots;
        u64::from_le_bytes([self.counter, a.0, v.members, v.trim, b.0, w.members, w.trim, more])
    }

    /// The slot that a reader reads if it relies on the counter.
    pub fn get(&self) -> (Ballot, Value) {
        self.slots[usize::from(self.counter & 1)]
    }
}

/// One member's row. Every field is written by [`Row::apply`] only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The counter that changes most often: messages below it have reached the owner.
    pub received: u8,
    /// Edges, from the owner's accusations and from those that it has read: one bit per pair of members.
    pub edges: u8,
    /// `received` at the wedge. Undefined before `wedged` is set.
    pub wedge_vector: u8,
    /// Guards `wedge_vector`.
    pub wedged: bool,
    /// One more than the count up to which the owner fetched; zero before the first flush.
    pub flushed: u8,
    /// The highest ballot for which the owner asks for promises.
    pub prepared: Ballot,
    /// The highest ballot the owner promised.
    pub promised: Ballot,
    /// The value that the owner accepted last.
    pub accepted: Register,
    /// The value that the owner proposed last.
    pub proposed: Register,
    /// Undefined before `decided` is set.
    pub decision: Value,
    /// Guards `decision`.
    pub decided: bool,
}

/// One push, which becomes visible as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// See [`Row::received`].
    Received(u8),
    /// The new set of edges, which contains the former ones.
    Edges(u8),
    /// The exact count at the wedge.
    WedgeVector(u8),
    /// The guard of the wedge vector.
    Wedged,
    /// See [`Row::flushed`].
    Flushed(u8),
    /// A leader asks for promises.
    Prepared(Ballot),
    /// A promise.
    Promised(Ballot),
    /// The ballot in the slot of the record with this counter.
    Ballot(Record, u8, Ballot),
    /// The value in that slot.
    Value(Record, u8, Value),
    /// The guard of both.
    Counter(Record, u8),
    /// The decision.
    Decision(Value),
    /// The guard of the decision.
    Decided,
}

impl Update {
    /// Whether no reader may use it before a later update.
    pub fn is_guarded(self) -> bool {
        matches!(self, Self::WedgeVector(_) | Self::Ballot(..) | Self::Value(..) | Self::Decision(_))
    }
}

// The checker spends most of its time on hashing, so a row is hashed as three words, and an update as one.
impl Hash for Row {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let words = [self.received, self.edges, self.wedge_vector, u8::from(self.wedged), self.flushed];
        let [a, b, c, d, e] = words;
        let flags = [a, b, c, d, e, self.prepared.0, self.promised.0, u8::from(self.decided)];
        hasher.write_u64(u64::from_le_bytes(flags));
        hasher.write_u64(self.accepted.packed(self.decision.members));
        hasher.write_u64(self.proposed.packed(self.decision.trim));
    }
}

impl Hash for Update {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let plain = |kind, what| [kind, what, 0, 0, 0, 0, 0, 0];
        hasher.write_u64(u64::from_le_bytes(match *self {
            Self::Received(count) => plain(0, count),
            Self::Edges(edges) => plain(1, edges),
            Self::WedgeVector(count) => plain(2, count),
            Self::Wedged => plain(3, 0),
            Self::Flushed(flushed) => plain(4, flushed),
            Self::Prepared(ballot) => plain(5, ballot.0),
            Self::Promised(ballot) => plain(6, ballot.0),
            Self::Ballot(record, counter, ballot) => [7, record as u8, counter, ballot.0, 0, 0, 0, 0],
            Self::Value(record, counter, value) => [8, record as u8, counter, value.members, value.trim, 0, 0, 0],
            Self::Counter(record, counter) => [9, record as u8, counter, 0, 0, 0, 0, 0],
            Self::Decision(value) => [10, value.members, value.trim, 0, 0, 0, 0, 0],
            Self::Decided => plain(11, 0),
        }));
    }
}

impl Row {
    /// Applies one update.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Received(count) => self.received = count,
            Update::Edges(edges) => self.edges = edges,
            Update::WedgeVector(count) => self.wedge_vector = count,
            Update::Wedged => self.wedged = true,
            Update::Flushed(flushed) => self.flushed = flushed,
            Update::Prepared(ballot) => self.prepared = ballot,
            Update::Promised(ballot) => self.promised = ballot,
            Update::Ballot(record, counter, ballot) => self.slot(record, counter).0 = ballot,
            Update::Value(record, counter, value) => self.slot(record, counter).1 = value,
            Update::Counter(record, counter) => self.register(record).counter = counter,
            Update::Decision(value) => self.decision = value,
            Update::Decided => self.decided = true,
        }
    }

    fn register(&mut self, record: Record) -> &mut Register {
        match record {
            Record::Accepted => &mut self.accepted,
            Record::Proposed => &mut self.proposed,
        }
    }

    fn slot(&mut self, record: Record, counter: u8) -> &mut (Ballot, Value) {
        &mut self.register(record).slots[usize::from(counter & 1)]
    }

    /// Messages that the owner has, fetched ones included.
    pub fn has(&self) -> u8 {
        self.received.max(self.flushed.saturating_sub(1))
    }

    /// The number of messages that the owner has according to its wedge and flush. Only for a wedged row.
    pub fn claims(&self) -> u8 {
        self.wedge_vector.max(self.flushed.saturating_sub(1))
    }
}

/// The bit of an edge between two members.
pub(crate) fn edge(a: usize, b: usize) -> u8 {
    1 << (a + b - 1)
}

/// The largest set of members without an edge between them. Of sets of equal size, the one with the lowest ranks,
/// compared in ascending order.
pub(crate) fn candidates(edges: u8) -> Members {
    let independent = |set: Members| {
        (0..N).all(|a| (0..a).all(|b| !(contains(set, a) && contains(set, b) && edges & edge(a, b) != 0)))
    };
    let mut best = 0;
    for set in (1..1 << N).filter(|&set| independent(set)) {
        let (size, best_size) = (Members::count_ones(set), Members::count_ones(best));
        // The set with the lowest rank that is in only one of the two comes first.
        let first = set & (1 << (set ^ best).trailing_zeros()) != 0;
        if size > best_size || (size == best_size && first) {
            best = set;
        }
    }
    best
}

/// Whether a set has a member.
pub(crate) fn contains(set: Members, member: usize) -> bool {
    set & (1 << member) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_follow_the_edges() {
        let (ab, ac, bc) = (edge(0, 1), edge(0, 2), edge(1, 2));
        assert_eq!([ab, ac, bc], [1, 2, 4]);
        let expected = [(0, 0b111), (ab, 0b101), (ac, 0b011), (bc, 0b011), (ab | ac, 0b110), (ab | bc, 0b101)];
        for (edges, members) in expected {
            assert_eq!(candidates(edges), members, "edges {edges:03b}");
        }
        assert_eq!(candidates(ac | bc), 0b011);
        assert_eq!(candidates(ab | ac | bc), 0b001);
    }

    #[test]
    fn a_slot_shows_with_its_counter() {
        let (mut row, value) = (Row::default(), Value { members: 7, trim: 1 });
        row.apply(Update::Ballot(Record::Accepted, 1, Ballot::new(1, 0)));
        row.apply(Update::Value(Record::Accepted, 1, value));
        assert_eq!(row.accepted.get(), (Ballot::default(), Value::default()));
        row.apply(Update::Counter(Record::Accepted, 1));
        assert_eq!(row.accepted.get(), (Ballot::new(1, 0), value));
    }
}
