//! Views, and the values on which the decisions of epochs agree.

use crate::fabric::{Rank, SLOTS, Slot};
use crate::multicast::End;
use crate::multicast::order::Order;
use crate::types::{MemberId, Version};

/// A process in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The index of its rows in all tables.
    pub slot: Slot,
    /// Its member id.
    pub id: MemberId,
    /// A random number that identifies this run of the process.
    pub incarnation: u64,
}

impl Peer {
    /// Whether `other` is the same member of a view, in any incarnation.
    pub(crate) fn is_same_member(self, other: Peer) -> bool {
        (self.slot, self.id) == (other.slot, other.id)
    }
}

/// A member of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its process.
    pub peer: Peer,
    /// Whether it counts for majorities. A joiner does once it has the state.
    pub voter: bool,
}

/// A view: the members of the group in rank order, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The number of the view: 0 for the first, and one more for each successor.
    pub number: u64,
    /// The members by rank. The lowest rank is the natural leader for an application that needs one.
    pub members: Vec<Member>,
    /// The order of its messages.
    pub order: Order,
}

impl View {
    /// The founders' first view, in which all of them are voters. Message indices begin at `base`.
    pub(crate) fn first(founders: &[Peer], base: u64) -> View {
        let members = founders.iter().map(|&peer| Member { peer, voter: true }).collect();
        // One sequence number is left for the decision that began the view: see `ViewDecision::order`.
        let first = base * founders.len() as u64 + 1;
        View { number: 0, members, order: Order { senders: founders.len(), base, first } }
    }

    /// The rank of the process in `slot`.
    pub(crate) fn rank_of(&self, slot: Slot) -> Option<Rank> {
        self.members.iter().position(|member| member.peer.slot == slot)
    }

    /// The member ids by rank.
    pub(crate) fn ids(&self) -> Vec<MemberId> {
        self.members.iter().map(|member| member.peer.id).collect()
    }

    /// Whether `ranks`, one bit per rank, contain more than half of the voters. With `lone`, one of two voters is
    /// enough.
    pub(super) fn is_majority(&self, ranks: u64, lone: bool) -> bool {
        let voters = self.members.iter().filter(|member| member.voter).count();
        let votes = self.members.iter().enumerate().filter(|(rank, m)| m.voter && ranks >> rank & 1 == 1).count();
        2 * votes > voters || lone && voters == 2 && votes == 1
    }
}

/// Why a member is not in the next view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It asked to leave.
    Left,
    /// It failed, or the other members could not work with it.
    Failed,
}

/// The decision of the members of a view at the end of its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ViewDecision {
    /// The next view.
    pub(super) view: View,
    /// The members of the old view by rank, each with the end of its stream.
    pub(super) trims: Vec<(Peer, End)>,
    /// The ranks of the old view that left on request, one bit per rank.
    pub(super) left: u64,
    /// The time of the decision in a group with a log, in nanoseconds.
    ///
    /// It is above the times of all earlier records, and above every time that members of the old view announced.
    pub(super) time_ns: u64,
}

/// Words of an encoded value before its lists.
const HEAD_WORDS: usize = 7;
/// Maximum words of an encoded value.
pub(super) const VALUE_WORDS: usize = HEAD_WORDS + 2 * SLOTS + 5 * SLOTS;

impl ViewDecision {
    /// Encodes the value as words of a row.
    pub(super) fn encode(&self) -> Vec<u64> {
        let View { number, members, order } = &self.view;
        let voters = members.iter().enumerate().fold(0, |bits, (rank, m)| bits | u64::from(m.voter) << rank);
        let counts = members.len() as u64 | (self.trims.len() as u64) << 32;
        let mut words = vec![counts, *number, order.base, order.first, voters, self.left, self.time_ns];
        let name = |peer: &Peer| [u64::from(peer.id.0) | (peer.slot as u64) << 32, peer.incarnation];
        for member in members {
            words.extend(name(&member.peer));
        }
        for (peer, end) in &self.trims {
            words.extend(name(peer));
            words.extend(end.words());
        }
        words
    }

    /// The number of words of an encoded value with the first word `first`; at most [`VALUE_WORDS`].
    pub(super) fn words(first: u64) -> usize {
        let (members, trims) = (first as u32 as usize, (first >> 32) as usize);
        (HEAD_WORDS + 2 * members.min(SLOTS) + 5 * trims.min(SLOTS)).min(VALUE_WORDS)
    }

    /// Decodes a value. `None` if the words are not a value.
    pub(super) fn decode(words: &[u64]) -> Option<ViewDecision> {
        let [counts, number, base, first, voters, left, time_ns, ..] = *words else { return None };
        let (count, trimmed) = (counts as u32 as usize, (counts >> 32) as usize);
        if count > SLOTS || trimmed > SLOTS || words.len() != ViewDecision::words(counts) {
            return None;
        }
        let peer = |name: &[u64]| {
            let (slot, id) = ((name[0] >> 32) as usize, MemberId(name[0] as u32));
            (slot < SLOTS).then_some(Peer { slot, id, incarnation: name[1] })
        };
        let (seats, ends) = words[HEAD_WORDS..].split_at(2 * count);
        let members = seats
            .chunks_exact(2)
            .enumerate()
            .map(|(rank, name)| Some(Member { peer: peer(name)?, voter: voters >> rank & 1 == 1 }));
        let members: Vec<Member> = members.collect::<Option<_>>()?;
        let trims = ends.chunks_exact(5).map(|end| Some((peer(end)?, End::of_words([end[2], end[3], end[4]])?)));
        let trims: Vec<_> = trims.collect::<Option<_>>()?;
        let slots = members.iter().fold(0u64, |bits, m| bits | 1 << m.peer.slot);
        if slots.count_ones() as usize != count {
            return None;
        }
        // One number before the first is the decision's own.
        if first == 0 {
            return None;
        }
        let order = Order { senders: count, base, first };
        Some(ViewDecision { view: View { number, members, order }, trims, left, time_ns })
    }

    /// The order of the next view, with `members` members, after a view of order `order` with the ends `trims`.
    ///
    /// The first sequence number is one higher than necessary: the number before it is the decision's own position in
    /// the log.
    pub(super) fn order(order: Order, trims: &[End], members: usize) -> Order {
        let messages = || trims.iter().map(|end| end.messages);
        let base = messages().fold(order.base, u64::max);
        Order { senders: members, base, first: order.horizon(messages()) + 1 }
    }

    /// The ends of the old view's streams, by rank.
    pub(super) fn ends(&self) -> Vec<End> {
        self.trims.iter().map(|&(_, end)| end).collect()
    }

    /// The decision's position in the log: before all messages of the view that it begins.
    pub(super) fn version(&self) -> Version {
        Version { view: self.view.number, sequence: self.view.order.first - 1 }
    }

    /// The members of the next view that were not in the old one.
    pub(super) fn joined(&self) -> impl Iterator<Item = Peer> {
        let old = |peer: &Peer| self.trims.iter().any(|(before, _)| before == peer);
        self.view.members.iter().map(|member| member.peer).filter(move |peer| !old(peer))
    }

    /// The members of the old view that are not in the next one, each with the reason.
    pub(super) fn departed(&self) -> impl Iterator<Item = (Peer, Departure)> {
        let stays = |peer: &Peer| self.view.members.iter().any(|member| member.peer == *peer);
        self.trims.iter().enumerate().filter(move |(_, (peer, _))| !stays(peer)).map(|(rank, &(peer, _))| {
            (peer, if self.left >> rank & 1 == 1 { Departure::Left } else { Departure::Failed })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Parser, as_it_is, run};
    use crate::words::{words, words_of};
    use proptest::prelude::*;

    fn peer(slot: usize) -> Peer {
        Peer { slot, id: MemberId(slot as u32 + 100), incarnation: 7 * slot as u64 }
    }

    proptest! {
        #[test]
        fn values_survive_and_nothing_else_does(count in 0..=SLOTS, trimmed in 1..=SLOTS, voters: u64, left: u64, cut: usize) {
            let members = (0..count).map(|s| Member { peer: peer(s), voter: voters >> s & 1 == 1 }).collect();
            let order = Order { senders: count, base: voters, first: left.max(1) };
            let view = View { number: 9, members, order };
            let trims = (0..trimmed).map(|s| (peer(s), End { messages: left, frames: voters, word: s as u32 })).collect();
            let value = ViewDecision { view, trims, left, time_ns: voters };
            let words = value.encode();
            prop_assert_eq!(words.len(), ViewDecision::words(words[0]));
            prop_assert_eq!(ViewDecision::decode(&words), Some(value));
            prop_assert_eq!(ViewDecision::decode(&words[..cut % words.len()]), None);
        }
    }

    #[test]
    fn fuzz_view_decision() {
        let value = |members: usize, trims: usize| {
            let seat = |slot| Member { peer: peer(slot), voter: slot % 2 == 0 };
            let order = Order { senders: members, base: 70, first: 211 };
            let view = View { number: 9, members: (0..members).map(seat).collect(), order };
            let end = End { messages: 70, frames: 40, word: 7 };
            ViewDecision { view, trims: (0..trims).map(|slot| (peer(slot), end)).collect(), left: 4, time_ns: 1 << 60 }
        };
        let encoded = |(members, trims)| words(value(members, trims).encode());
        let seeds = [(1, 1), (3, 4), (64, 3)].map(encoded).to_vec();
        // The words, 40 bytes for each member and 48 for each end.
        let parser = Parser { name: "view decision", seeds, repair: &as_it_is, heap_max: (16, 4 << 10) };
        run(&parser, |bytes| {
            let Some(value) = ViewDecision::decode(&words_of(bytes)) else { return false };
            assert_eq!(ViewDecision::decode(&value.encode()).as_ref(), Some(&value));
            assert!(value.joined().count() <= value.view.members.len());
            assert!(value.departed().count() <= value.trims.len() && value.ends().len() == value.trims.len());
            assert!(value.version() < Version { view: value.view.number, sequence: value.view.order.first });
            let _ = value.view.is_majority(value.left, true);
            true
        });
    }

    #[test]
    fn a_decision_needs_a_number_before_the_first_message() {
        let order = Order { senders: 1, base: 0, first: 1 };
        let view = View { number: 1, members: vec![Member { peer: peer(0), voter: true }], order };
        let mut value = ViewDecision { view, trims: Vec::new(), left: 0, time_ns: 0 };
        assert_eq!(ViewDecision::decode(&value.encode()).map(|value| value.version().sequence), Some(0));
        value.view.order.first = 0;
        assert_eq!(ViewDecision::decode(&value.encode()), None);
    }
}
