//! The shards of a view, and the streams in them.
//!
//! A shard is a part of a subgroup: the members that deliver the same messages in one order. Each of its members has one
//! stream in it. A list of ends contains one end for each stream of the view: those of the first shard, by rank in that
//! shard, then those of the second, and so on.

use super::row::Shape;
use super::view::View;
use crate::fabric::Rank;
use crate::multicast::End;
use crate::multicast::order::Order;
use crate::types::{SubgroupId, Version};

/// Maximum number of shards of all subgroups in a view.
pub(super) const SHARDS_MAX: usize = 64;
/// Maximum number of streams of all shards in a view.
pub(super) const STREAMS_MAX: usize = 256;

/// The name of a shard: its subgroup, and its number in the subgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShardId {
    pub subgroup: SubgroupId,
    pub number: u32,
}

impl ShardId {
    /// The shard of a subgroup that has one.
    pub(crate) fn only(subgroup: SubgroupId) -> ShardId {
        ShardId { subgroup, number: 0 }
    }

    /// Encodes the name as a word of a row.
    pub(super) fn word(self) -> u64 {
        u64::from(self.subgroup.0) | u64::from(self.number) << 32
    }

    /// Decodes a name. `None` if the word is not one.
    pub(super) fn of_word(word: u64) -> Option<ShardId> {
        let subgroup = SubgroupId(u16::try_from(word as u32).ok()?);
        Some(ShardId { subgroup, number: (word >> 32) as u32 })
    }
}

/// A shard in a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    pub id: ShardId,
    /// Its members, by rank in the shard: their ranks in the view, in ascending order.
    pub members: Vec<Rank>,
    /// The order of its messages.
    pub order: Order,
}

impl Shard {
    /// The order of the next view for `members` members, after this shard's streams have ended at `ends`.
    ///
    /// The first sequence number is one higher than necessary: the number before it is the decision's own position in
    /// the log.
    pub(super) fn next_order(&self, ends: &[End], members: usize) -> Order {
        let messages = || ends.iter().map(|end| end.messages);
        let base = messages().fold(self.order.base, u64::max);
        Order { senders: members, base, first: self.order.horizon(messages()) + 1 }
    }

    /// How far a log of this shard with the last record `last` goes in view `view`, as indices of messages: for each
    /// stream one above the highest. `None` if `last` is of another view.
    pub(super) fn counts(&self, view: u64, last: Version) -> Option<Vec<u64>> {
        let (Order { base, first, .. }, count) = (self.order, self.members.len() as u64);
        let messages = |rank| base + last.next().sequence.saturating_sub(first + rank).div_ceil(count);
        (last.view == view).then(|| (0..count).map(messages).collect())
    }

    /// The place of the message with this sequence number: the rank in the shard of its sender, and its index. `None`
    /// if the shard has no members.
    pub(crate) fn place_of(&self, sequence: u64) -> Option<(Rank, u64)> {
        let (at, count) = (sequence.saturating_sub(self.order.first), self.members.len() as u64);
        Some((at.checked_rem(count)? as usize, self.order.base.saturating_add(at / count)))
    }
}

impl View {
    /// The streams of the view, in the order of a list of ends: each with its shard and its owner's rank in the view.
    pub(super) fn streams(&self) -> impl Iterator<Item = (&Shard, Rank)> {
        self.shards.iter().flat_map(|shard| shard.members.iter().map(move |&rank| (shard, rank)))
    }

    /// Whether it has the shards that a group has so far: one for each subgroup, with all members.
    pub(super) fn is_whole(&self) -> bool {
        let all = |shard: &Shard| shard.members.iter().copied().eq(0..self.members.len());
        let named = |(n, shard): (usize, &Shard)| shard.id.number == 0 && usize::from(shard.id.subgroup.0) == n;
        !self.shards.is_empty() && self.shards.iter().enumerate().all(named) && self.shards.iter().all(all)
    }

    /// The shards of the next view, which has `members` members, after the streams of this one have ended at `ends`.
    pub(super) fn next_shards(&self, ends: &[End], members: usize) -> Vec<Shard> {
        let next = |(shard, ends): (&Shard, &[End])| Shard {
            id: shard.id,
            members: (0..members).collect(),
            order: shard.next_order(ends, members),
        };
        self.by_shard(ends).map(next).collect()
    }

    pub(super) fn shape(&self) -> Shape {
        Shape { members: self.members.len(), streams: self.streams().count() }
    }

    /// The shards, each with its part of `ends`.
    pub(super) fn by_shard<'a>(&'a self, ends: &'a [End]) -> impl Iterator<Item = (&'a Shard, &'a [End])> {
        let mut rest = ends;
        self.shards.iter().map(move |shard| {
            let (own, others) = rest.split_at_checked(shard.members.len()).unwrap_or((rest, &[]));
            rest = others;
            (shard, own)
        })
    }
}
