//! The lanes of a node: for each subgroup the data plane of this member's shard of it.
//!
//! A list of ends has one part for each lane, in the order of the lanes. The data plane of a lane knows its members by
//! their ranks in the shard, the membership by their ranks in the view.

use super::logging::ClosedTime;
use crate::fabric::Rank;
use crate::membership::View;
use crate::multicast::{End, Multicast, Violation};
use crate::planted::{self, Bug};
use std::ops::Range;

/// See the module.
pub(super) struct Lane {
    pub(super) multicast: Multicast,
    /// Its part of a list of ends of the present view.
    streams: Range<usize>,
    /// The members of its shard, by rank in the shard: their ranks in the view.
    members: Vec<Rank>,
    /// The closed time, in a group with a log.
    pub(super) closed: ClosedTime,
}

impl Lane {
    pub(super) fn new(multicast: Multicast) -> Lane {
        Lane { multicast, streams: 0..0, members: Vec::new(), closed: ClosedTime::default() }
    }

    /// Its part of `ends`. Empty if the list is shorter.
    pub(super) fn part<'a>(&self, ends: &'a [End]) -> &'a [End] {
        ends.get(self.streams.clone()).unwrap_or_default()
    }

    /// The rank in the shard of a stream's owner, if the stream is one of this lane.
    pub(super) fn owner_of(&self, stream: usize) -> Option<Rank> {
        self.streams.contains(&stream).then(|| stream - self.streams.start)
    }

    /// The streams of these members, given as one bit per rank in the shard.
    pub(super) fn streams_of(&self, ranks: u64) -> impl Iterator<Item = usize> {
        self.streams.clone().enumerate().filter(move |(rank, _)| ranks >> rank & 1 == 1).map(|(_, stream)| stream)
    }

    /// A violation that the data plane has found, with the peer's rank in the view.
    pub(super) fn blame(&self, breach: Violation) -> Violation {
        let Violation { peer, what } = breach;
        Violation { peer: self.members.get(peer).copied().unwrap_or(Rank::MAX), what }
    }
}

/// Gives each lane its place in `view`, which begins.
pub(super) fn place(lanes: &mut [Lane], view: &View) {
    let mut start = 0;
    for (lane, shard) in lanes.iter_mut().zip(&view.shards) {
        let end = start + shard.members.len();
        (lane.streams, lane.members) = (start..end, shard.members.clone());
        start = end;
    }
    if let [first, second, ..] = lanes
        && planted::is(Bug::EndsMixedUp)
    {
        std::mem::swap(&mut first.streams, &mut second.streams);
    }
}
