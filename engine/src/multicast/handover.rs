//! The handover of a ring's new memory, on shared memory.
//!
//! A ring gets new memory when a process departs ([`crate::fabric::Fabric::renew`]). Its owner may fail before each peer
//! has received that memory. If one peer had received frames in it and another one could not read it, the flush would
//! wait for ever. So the owner publishes frames in a view only when all members of the view have shown that they have
//! its memory ([`column::HAS_MEMORY`]). Nulls need no memory, and are published at once.
//!
//! An owner that never had new memory does not wait: its peers got its memory when the link was made.

use super::{Multicast, column};
use crate::fabric::{Fabric, Rank, Source};
use crate::planted::{self, Bug};

/// Members are bits, by rank.
#[derive(Default)]
pub(super) struct Handover {
    /// This member's ring has had new memory.
    pub(super) renews: bool,
    /// The peers with their memory mapped here.
    here: u64,
    /// `here` as the peers know it.
    shown: u64,
    /// The peers that have shown that they have this member's memory.
    holders: u64,
}

impl Handover {
    /// Notes that the memory of `peer` is here.
    pub(super) fn is_here(&mut self, peer: Rank) {
        self.here |= 1 << peer;
    }

    /// Whether a peer's [`column::HAS_MEMORY`] is of interest.
    pub(super) fn awaits(&self, peer: Rank) -> bool {
        self.renews && self.holders >> peer & 1 == 0
    }

    /// Takes in a peer's [`column::HAS_MEMORY`]. Returns true if the peer has this member's memory.
    pub(super) fn take_in(&mut self, peer: Rank, has_memory: u64, me: Rank) -> bool {
        let holds = has_memory >> me & 1;
        self.holders |= holds << peer;
        holds == 1
    }
}

impl Multicast {
    /// Begins a view. It is called before the row shows the view, so no peer takes the former bits for those of this
    /// view.
    pub(super) fn begin_handover(&mut self) {
        self.handover = Handover { renews: self.handover.renews, ..Handover::default() };
        self.table.store(column::HAS_MEMORY, 0);
    }

    /// Shows which peers have their memory mapped here, if that has changed.
    ///
    /// The peers are woken once all memories are here. A sender waits for all members, and those wait for each other.
    pub(super) fn show_handover(&mut self, fabric: &mut dyn Fabric) {
        if self.handover.here == self.handover.shown {
            return;
        }
        self.handover.shown = self.handover.here;
        if !fabric.shares_rows() {
            return;
        }
        self.table.store(column::HAS_MEMORY, self.handover.here);
        if self.handover.here.count_ones() as usize + 1 == self.senders() {
            let range = column::HAS_MEMORY.0..column::HAS_MEMORY.0 + 8;
            self.table.push(fabric, &self.peers, range, Source::Snapshot);
        }
    }

    /// Whether frames must wait for a peer that does not have this member's memory yet.
    pub(super) fn holds_frames(&self) -> bool {
        let everybody_holds = self.handover.holders.count_ones() as usize + 1 == self.senders();
        self.handover.renews && !everybody_holds && !planted::is(Bug::MemoryUnawaited)
    }
}
