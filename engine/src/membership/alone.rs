//! The end of a view by the decision of one member alone, when too many voters are lost for a majority.
//!
//! That decision begins another group. A decision that the lost members may have made does not hold in it.

use super::hard_state::HardState;
use super::view::{View, ViewDecision};
use super::{Member, Shard};
use crate::multicast::{End, Tail, record_time};
use crate::types::{MemberId, Version};
use crate::words::words;

/// How the log of such a member continues; see [`HardState::alone`].
pub(crate) struct Alone {
    /// Messages of the tail to append to the log: version, time in nanoseconds, and index of the record in the tail.
    pub messages: Vec<(Version, u64, usize)>,
    /// The decision's record: version, time in nanoseconds, and payload.
    pub decision: (Version, u64, Vec<u8>),
    /// The hard state of the view in which the member is alone.
    pub hard_state: Vec<u8>,
}

impl HardState {
    /// The voters of the view.
    pub(crate) fn voters(&self) -> Vec<MemberId> {
        let voters = self.view().members.iter().filter(|member| member.voter);
        voters.map(|member| member.peer.id).collect()
    }

    /// Whether the view can end by a majority decision without the members `lost`.
    pub(crate) fn can_do_without(&self, lost: &[MemberId]) -> bool {
        let ranks = self.view().members.iter().enumerate().filter(|(_, member)| !lost.contains(&member.peer.id));
        self.view().is_majority(ranks.fold(0, |bits, (rank, _)| bits | 1 << rank), false)
    }

    /// How the log continues for a member that decides alone.
    ///
    /// The last record of the log is `last`, with the time `time_ns`. The log continues with the messages of `tail`
    /// that follow it: the messages that the flush obtained. The tail is not used if it is of another view or ends
    /// before the log. The next view has this member alone. It begins at `now_ns`, or just after the last record if
    /// that is later.
    pub(crate) fn alone(&self, last: Version, time_ns: u64, tail: Option<&Tail>, now_ns: u64) -> Alone {
        let View { number, members, shards } = self.view();
        let number = *number;
        let counts =
            |shard: &Shard| shard.counts(number, last).unwrap_or_else(|| vec![shard.order.base; shard.members.len()]);
        let have: Vec<u64> = shards.iter().flat_map(counts).collect();
        let covers = |(tail, shard): &(&Tail, &Shard)| {
            let longer = |(end, have): (&End, &u64)| end.messages >= *have && end.messages >= shard.order.base;
            tail.view == number && tail.ends.len() == have.len() && tail.ends.iter().zip(&have).all(longer)
        };
        let (mut last, mut time_ns, mut messages, mut counts) = (last, time_ns, Vec::new(), have.clone());
        if let Some((tail, shard)) = tail.zip(shards.first()).filter(covers) {
            counts = tail.ends.iter().map(|end| end.messages).collect();
            for (n, record) in tail.records.iter().enumerate() {
                let version = Version { view: number, sequence: record.sequence };
                let Some((rank, index)) = shard.place_of(record.sequence) else { continue };
                let Some(stamp) = record.raw.first_chunk().map(|stamp| u64::from_le_bytes(*stamp)) else { continue };
                if index < counts[rank] && version > last {
                    (last, time_ns) = (version, record_time(stamp, time_ns));
                    messages.push((version, time_ns, n));
                }
            }
        }
        let ends: Vec<End> = counts.iter().map(|&messages| End { messages, frames: 0, word: 0 }).collect();
        let view = View {
            number: number + 1,
            members: vec![Member { peer: self.me, voter: true }],
            shards: self.view().next_shards(&ends, 1),
        };
        let value = ViewDecision {
            view,
            old: members.iter().map(|member| member.peer).collect(),
            ended: ViewDecision::ended_at(self.view(), &ends),
            left: 0,
            time_ns: now_ns.max(time_ns.saturating_add(1)),
        };
        let decision = (value.version(), value.time_ns, words(value.encode()));
        Alone { messages, decision, hard_state: HardState::new(self.me, value).encode() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Peer;
    use crate::membership::shard::ShardId;
    use crate::multicast::{TailRecord, order::Order};
    use crate::types::{Mode, SubgroupId};

    fn hard_state() -> HardState {
        let peer = |slot: usize| Peer { slot, id: MemberId(slot as u32 + 1), incarnation: 7 };
        let members = (0..3).map(|slot| Member { peer: peer(slot), voter: slot < 3 }).collect();
        let order = Order { senders: 3, base: 10, first: 101 };
        let shard = Shard { id: ShardId::only(SubgroupId(0)), members: vec![0, 1, 2], order };
        let view = View { number: 4, members, shards: vec![shard] };
        HardState::new(peer(1), ViewDecision { view, old: Vec::new(), ended: Vec::new(), left: 0, time_ns: 50 })
    }

    #[test]
    fn a_majority_is_no_reason_to_be_alone() {
        let ids = |ids: &[u32]| ids.iter().map(|&id| MemberId(id)).collect::<Vec<_>>();
        assert_eq!(hard_state().voters(), ids(&[1, 2, 3]));
        assert!(hard_state().can_do_without(&ids(&[])) && hard_state().can_do_without(&ids(&[3])));
        assert!(!hard_state().can_do_without(&ids(&[1, 3])));
    }

    #[test]
    fn the_next_view_begins_behind_the_log() {
        for sequence in 100..120 {
            let alone = hard_state().alone(Version { view: 4, sequence }, 60, None, 55);
            assert_eq!(alone.decision.0, Version { view: 5, sequence: sequence + 1 });
            assert_eq!(alone.decision.1, 61);
            let next = HardState::decode(&alone.hard_state).unwrap();
            assert!(next.is_member() && next.voters() == [MemberId(2)]);
            assert_eq!(next.view().shards[0].order.first, sequence + 2);
            // The record contains the same decision.
            assert_eq!(hard_state().advance(&alone.decision.2), next);
        }
        assert_eq!(hard_state().alone(Version { view: 4, sequence: 104 }, 60, None, 99).decision.1, 99);
    }

    #[test]
    fn the_tail_comes_behind_the_log() {
        let raw = [70u64.to_le_bytes().to_vec(), b"text".to_vec()].concat();
        let record = |sequence| TailRecord { sequence, sender: MemberId(1), mode: Mode::Safe, raw: raw.clone() };
        let end = |messages| End { messages, frames: messages, word: 0 };
        let records = vec![record(102), record(104), record(107)];
        let tail = Tail { view: 4, ends: vec![end(13), end(11), end(11)], records };
        // Sequence number 107 is message 12 of rank 0, and 104 is message 11.
        let alone = hard_state().alone(Version { view: 4, sequence: 103 }, 60, Some(&tail), 0);
        let versions: Vec<_> =
            alone.messages.iter().map(|(version, time_ns, _)| (version.sequence, *time_ns)).collect();
        assert_eq!(versions, [(104, 70), (107, 71)]);
        assert_eq!(alone.decision.0, Version { view: 5, sequence: 108 });
        let older = Tail { view: 3, ..tail };
        assert!(hard_state().alone(Version { view: 4, sequence: 103 }, 60, Some(&older), 0).messages.is_empty());
    }
}
