//! Views, and the values on which the decisions of epochs agree.

use super::shard::{SHARDS_MAX, STREAMS_MAX, Shard, ShardId};
use crate::fabric::{Rank, SLOTS, Slot};
use crate::multicast::order::Order;
use crate::multicast::{End, StreamConfig, ViewConfig};
use crate::types::{MemberId, SubgroupId, Version};

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
    /// Its shards, by subgroup. So far each subgroup has one, with all members.
    pub shards: Vec<Shard>,
}

impl View {
    /// The founders' first view, in which all of them are voters. Message indices begin at `base` in each subgroup.
    pub(crate) fn first(founders: &[Peer], subgroups: usize, base: u64) -> View {
        let members = founders.iter().map(|&peer| Member { peer, voter: true }).collect();
        // One sequence number is left for the decision that began the view: see `Shard::next_order`.
        let first = base * founders.len() as u64 + 1;
        let order = Order { senders: founders.len(), base, first };
        let ids = (0..subgroups).map(|subgroup| ShardId::only(SubgroupId(subgroup as u16)));
        let shards = ids.map(|id| Shard { id, members: (0..founders.len()).collect(), order }).collect();
        View { number: 0, members, shards }
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

/// How a shard of the old view ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndedShard {
    pub(super) id: ShardId,
    /// The ends of its streams, by rank in the shard, each with the owner's rank in the old view. The ranks ascend.
    pub(super) ends: Vec<(Rank, End)>,
}

/// The decision of the members of a view at the end of its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ViewDecision {
    /// The next view.
    pub(super) view: View,
    /// The members of the old view by rank.
    pub(super) old: Vec<Peer>,
    /// The shards of the old view.
    pub(super) ended: Vec<EndedShard>,
    /// The ranks of the old view that left on request, one bit per rank.
    pub(super) left: u64,
    /// The time of the decision in a group with a log, in nanoseconds.
    ///
    /// It is above the times of all earlier records, and above every time that members of the old view announced.
    pub(super) time_ns: u64,
}

/// Words of an encoded value before its lists.
const HEAD_WORDS: usize = 5;
/// Words of a member, of a shard of the next view, of a shard of the old view, and of an end.
const MEMBER_WORDS: usize = 2;
const SHARD_WORDS: usize = 4;
const ENDED_WORDS: usize = 2;
const END_WORDS: usize = 3;
/// Maximum words of an encoded value.
pub(super) const VALUE_WORDS: usize =
    HEAD_WORDS + 2 * MEMBER_WORDS * SLOTS + (SHARD_WORDS + ENDED_WORDS) * SHARDS_MAX + END_WORDS * STREAMS_MAX;

/// The lengths of the lists in an encoded value. Its first word has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lengths {
    members: usize,
    old: usize,
    shards: usize,
    ended: usize,
    ends: usize,
}

impl Lengths {
    fn word(self) -> u64 {
        let Lengths { members, old, shards, ended, ends } = self;
        [members, old, shards, ended].iter().rev().fold(ends as u64, |word, &len| word << 8 | len as u64)
    }

    /// `None` if a length is too large.
    fn of_word(word: u64) -> Option<Lengths> {
        let byte = |n: u32| (word >> (8 * n)) as u8 as usize;
        let [members, old, shards, ended] = [0, 1, 2, 3].map(byte);
        let ends = (word >> 32) as usize;
        let fits = members <= SLOTS && old <= SLOTS && shards <= SHARDS_MAX && ended <= SHARDS_MAX;
        (fits && ends <= STREAMS_MAX).then_some(Lengths { members, old, shards, ended, ends })
    }

    fn words(self) -> usize {
        let Lengths { members, old, shards, ended, ends } = self;
        HEAD_WORDS + MEMBER_WORDS * (members + old) + SHARD_WORDS * shards + ENDED_WORDS * ended + END_WORDS * ends
    }
}

/// A set of ranks as one bit per rank.
fn bits(ranks: impl IntoIterator<Item = Rank>) -> u64 {
    ranks.into_iter().fold(0, |bits, rank| bits | 1 << rank)
}

/// The ranks in a set, which must be below `count`. `None` if one is not.
fn ranks(bits: u64, count: usize) -> Option<Vec<Rank>> {
    let ranks: Vec<Rank> = (0..64).filter(|rank| bits >> rank & 1 == 1).collect();
    ranks.iter().all(|&rank| rank < count).then_some(ranks)
}

impl ViewDecision {
    fn lengths(&self) -> Lengths {
        let ends = self.ended.iter().map(|shard| shard.ends.len()).sum();
        let (members, shards) = (self.view.members.len(), self.view.shards.len());
        Lengths { members, old: self.old.len(), shards, ended: self.ended.len(), ends }
    }

    /// Encodes the value as words of a row.
    pub(super) fn encode(&self) -> Vec<u64> {
        let View { number, members, shards } = &self.view;
        let voters = bits(members.iter().enumerate().filter(|(_, member)| member.voter).map(|(rank, _)| rank));
        let mut words = vec![self.lengths().word(), *number, voters, self.left, self.time_ns];
        for peer in members.iter().map(|member| &member.peer).chain(&self.old) {
            words.extend([u64::from(peer.id.0) | (peer.slot as u64) << 32, peer.incarnation]);
        }
        for Shard { id, members, order } in shards {
            words.extend([id.word(), bits(members.iter().copied()), order.base, order.first]);
        }
        for EndedShard { id, ends } in &self.ended {
            words.extend([id.word(), bits(ends.iter().map(|(rank, _)| *rank))]);
        }
        for (_, end) in self.ended.iter().flat_map(|shard| &shard.ends) {
            words.extend(end.words());
        }
        words
    }

    /// The number of words of an encoded value with the first word `first`; at most [`VALUE_WORDS`].
    pub(super) fn words(first: u64) -> usize {
        Lengths::of_word(first).map_or(HEAD_WORDS, Lengths::words)
    }

    /// Decodes a value. `None` if the words are not a value.
    pub(super) fn decode(words: &[u64]) -> Option<ViewDecision> {
        let ([first, number, voters, left, time_ns], lists) = words.split_first_chunk::<HEAD_WORDS>()?;
        let (number, voters, left, time_ns) = (*number, *voters, *left, *time_ns);
        let lengths =
            Lengths::of_word(*first).filter(|lengths| lengths.words() == words.len() && lengths.shards > 0)?;
        let (members, lists) = lists.split_at(MEMBER_WORDS * lengths.members);
        let (old, lists) = lists.split_at(MEMBER_WORDS * lengths.old);
        let (shards, lists) = lists.split_at(SHARD_WORDS * lengths.shards);
        let (ended, ends) = lists.split_at(ENDED_WORDS * lengths.ended);
        let peer = |name: &[u64; MEMBER_WORDS]| {
            let (slot, id) = ((name[0] >> 32) as usize, MemberId(name[0] as u32));
            (slot < SLOTS).then_some(Peer { slot, id, incarnation: name[1] })
        };
        let old: Vec<Peer> = old.as_chunks().0.iter().map(peer).collect::<Option<_>>()?;
        let member = |(rank, name)| Some(Member { peer: peer(name)?, voter: voters >> rank & 1 == 1 });
        let members: Vec<Member> = members.as_chunks().0.iter().enumerate().map(member).collect::<Option<_>>()?;
        if bits(members.iter().map(|member| member.peer.slot)).count_ones() as usize != lengths.members {
            return None;
        }
        let shards = shards.as_chunks::<SHARD_WORDS>().0.iter().map(|&[id, set, base, first]| {
            let members = ranks(set, lengths.members)?;
            let order = Order { senders: members.len(), base, first };
            // One number before the first is the decision's own.
            (first > 0).then_some(Shard { id: ShardId::of_word(id)?, members, order })
        });
        let shards: Vec<Shard> = shards.collect::<Option<_>>()?;
        let mut ends = ends.as_chunks::<END_WORDS>().0.iter();
        let ended = ended.as_chunks::<ENDED_WORDS>().0.iter().map(|&[id, set]| {
            let owners = ranks(set, lengths.old)?.into_iter();
            let ends = owners.map(|rank| Some((rank, End::of_words(*ends.next()?)?))).collect::<Option<_>>()?;
            Some(EndedShard { id: ShardId::of_word(id)?, ends })
        });
        let ended: Vec<EndedShard> = ended.collect::<Option<_>>()?;
        let value = ViewDecision { view: View { number, members, shards }, old, ended, left, time_ns };
        let sorted = value.view.shards.is_sorted_by(|a, b| a.id < b.id) && value.ended.is_sorted_by(|a, b| a.id < b.id);
        (sorted && value.lengths() == lengths).then_some(value)
    }

    /// The ends of all streams of the old view.
    pub(super) fn ends(&self) -> Vec<End> {
        self.ended.iter().flat_map(|shard| &shard.ends).map(|&(_, end)| end).collect()
    }

    /// Where the stream of `peer` in shard `id` ended in the old view; the default if there was none.
    pub(super) fn end_of(&self, id: ShardId, peer: Peer) -> End {
        let shard = self.ended.iter().find(|shard| shard.id == id);
        let mut ends = shard.iter().flat_map(|shard| &shard.ends);
        ends.find(|(rank, _)| self.old.get(*rank) == Some(&peer)).map_or(End::default(), |&(_, end)| end)
    }

    /// The data that the data plane of a member of shard `id` needs to begin the view. `None` if the view has no such
    /// shard.
    pub(super) fn view_config(&self, id: ShardId) -> Option<ViewConfig> {
        let shard = self.view.shards.iter().find(|shard| shard.id == id)?;
        let members = shard.members.iter().filter_map(|&rank| self.view.members.get(rank));
        let seats = members.map(|&Member { peer, voter }| StreamConfig {
            slot: peer.slot,
            id: peer.id,
            voter,
            start: self.end_of(id, peer),
        });
        Some(ViewConfig { view: self.view.number, seats: seats.collect(), order: shard.order, time_ns: self.time_ns })
    }

    /// How the shards of `view` ended, by a list of `ends`.
    pub(super) fn ended_at(view: &View, ends: &[End]) -> Vec<EndedShard> {
        let ended = view.by_shard(ends).map(|(shard, ends)| EndedShard {
            id: shard.id,
            ends: shard.members.iter().copied().zip(ends.iter().copied()).collect(),
        });
        ended.collect()
    }

    /// The decision's position in the log of the first shard: before all messages of the view that it begins.
    pub(super) fn version(&self) -> Version {
        let first = self.view.shards.first().map_or(1, |shard| shard.order.first);
        Version { view: self.view.number, sequence: first - 1 }
    }

    /// The members of the next view that were not in the old one.
    pub(super) fn joined(&self) -> impl Iterator<Item = Peer> {
        self.view.members.iter().map(|member| member.peer).filter(|peer| !self.old.contains(peer))
    }

    /// The members of the old view that are not in the next one, each with the reason.
    pub(super) fn departed(&self) -> impl Iterator<Item = (Peer, Departure)> {
        let stays = |peer: &Peer| self.view.members.iter().any(|member| member.peer == *peer);
        self.old
            .iter()
            .enumerate()
            .filter(move |(_, peer)| !stays(peer))
            .map(|(rank, &peer)| (peer, if self.left >> rank & 1 == 1 { Departure::Left } else { Departure::Failed }))
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

    fn end(n: u64) -> End {
        End { messages: 70 + n, frames: 40 + n, word: 7 + n as u32 }
    }

    /// A value with so many members and old members, and one shard for each set of ranks.
    fn value(members: usize, old: usize, shards: &[u64], ended: &[u64]) -> ViewDecision {
        let id = |n| ShardId { subgroup: SubgroupId(n as u16 / 2), number: n as u32 };
        let set = |bits: u64, count| (0..count).filter(move |rank| bits >> rank & 1 == 1);
        let shard = |(n, &bits)| {
            let members: Vec<Rank> = set(bits, members).collect();
            let order = Order { senders: members.len(), base: bits, first: n as u64 + 1 };
            Shard { id: id(n), members, order }
        };
        let shards = shards.iter().enumerate().map(shard).collect();
        let ended = ended.iter().enumerate().map(|(n, &bits)| EndedShard {
            id: id(n),
            ends: set(bits, old).map(|rank| (rank, end(rank as u64))).collect(),
        });
        let seats = (0..members).map(|slot| Member { peer: peer(slot), voter: slot % 2 == 0 }).collect();
        let view = View { number: 9, members: seats, shards };
        ViewDecision { view, old: (0..old).map(peer).collect(), ended: ended.collect(), left: 4, time_ns: 1 << 60 }
    }

    proptest! {
        #[test]
        fn values_survive_and_nothing_else_does(
            (members, old) in (0..=SLOTS, 0..=SLOTS),
            shards in prop::collection::vec(any::<u64>(), 1..5),
            ended in prop::collection::vec(any::<u64>(), 0..5),
            cut: usize,
        ) {
            let value = value(members, old, &shards, &ended);
            let words = value.encode();
            prop_assert_eq!(words.len(), ViewDecision::words(words[0]));
            prop_assert!(words.len() <= VALUE_WORDS);
            prop_assert_eq!(ViewDecision::decode(&words), Some(value));
            prop_assert_eq!(ViewDecision::decode(&words[..cut % words.len()]), None);
        }
    }

    #[test]
    fn fuzz_view_decision() {
        let all = u64::MAX;
        let values =
            [value(1, 1, &[all], &[all]), value(3, 4, &[all], &[all]), value(64, 3, &[3, 5, 1 << 40], &[1, 6])];
        let seeds = values.map(|value| words(value.encode())).to_vec();
        // The words, 40 bytes for each member, 24 for each old one, 72 for each shard, 40 for each end.
        let parser = Parser { name: "view decision", seeds, repair: &as_it_is, heap_max: (16, 4 << 10) };
        run(&parser, |bytes| {
            let Some(value) = ViewDecision::decode(&words_of(bytes)) else { return false };
            assert_eq!(ViewDecision::decode(&value.encode()).as_ref(), Some(&value));
            assert!(value.joined().count() <= value.view.members.len());
            assert!(value.departed().count() <= value.old.len());
            assert_eq!(value.ends().len(), value.ended.iter().map(|shard| shard.ends.len()).sum::<usize>());
            for shard in &value.view.shards {
                let config = value.view_config(shard.id).unwrap();
                assert_eq!(config.seats.len(), config.order.senders);
            }
            let _ = (value.version(), value.view.is_majority(value.left, true));
            true
        });
    }

    #[test]
    fn a_stream_goes_on_where_it_ended_in_the_same_shard() {
        let value = value(3, 4, &[0b011, 0b110], &[0b1100, 0b0110]);
        let starts = |n: usize| {
            let seats = value.view_config(value.view.shards[n].id).unwrap().seats.into_iter();
            seats.map(|seat| (seat.slot, seat.start)).collect::<Vec<_>>()
        };
        assert_eq!(starts(0), [(0, End::default()), (1, End::default())], "they were in the other shard");
        assert_eq!(starts(1), [(1, end(1)), (2, end(2))]);
    }

    #[test]
    fn a_decision_needs_a_number_before_the_first_message_and_a_shard() {
        let mut value = value(1, 0, &[1], &[]);
        assert_eq!(ViewDecision::decode(&value.encode()).map(|value| value.version().sequence), Some(0));
        value.view.shards[0].order.first = 0;
        assert_eq!(ViewDecision::decode(&value.encode()), None);
        value.view.shards.clear();
        assert_eq!(ViewDecision::decode(&value.encode()), None);
    }

    #[test]
    fn a_shard_twice_and_members_that_are_none_are_no_value() {
        let mut twice = value(2, 2, &[1, 2], &[1, 2]);
        twice.view.shards[1].id = twice.view.shards[0].id;
        assert_eq!(ViewDecision::decode(&twice.encode()), None);
        let mut stranger = value(2, 2, &[1], &[1]);
        stranger.view.shards[0].members = vec![2];
        assert_eq!(ViewDecision::decode(&stranger.encode()), None);
    }
}
