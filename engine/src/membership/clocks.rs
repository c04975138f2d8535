//! The times that members of a group with a log publish.

use super::{Membership, Peer, row};
use crate::fabric::Slot;

/// The upper limit of a valid time, in nanoseconds. A larger word is garbage and could overflow a computation.
pub(super) const TIME_MAX_NS: u64 = u64::MAX / 2;

impl Membership {
    /// Sets this member's own time and the time to announce to peers, in groups with a log.
    ///
    /// Every message that is published from now on has a later time than the announced one.
    pub(crate) fn set_clock(&mut self, clock_ns: u64, announced_ns: u64) {
        self.clock_ns = clock_ns;
        self.announced_ns = self.announced_ns.max(announced_ns);
    }

    /// Sets the time of the host's clock, in nanoseconds since 1970. The next heartbeat publishes it.
    pub(crate) fn set_host_clock(&mut self, host_ns: u64) {
        self.host_ns = host_ns;
    }

    pub(super) fn show_clock(&mut self) {
        if self.settings.logs {
            self.table.store(row::HOST_CLOCK, self.host_ns);
            if self.epoch.wedged_ms.is_none() {
                self.table.store(row::CLOCK, self.announced_ns);
            }
        }
    }

    /// The linked processes, each with its host's clock as of its last heartbeat; 0 if that is not known.
    pub(crate) fn host_clocks(&self) -> impl Iterator<Item = (Peer, u64)> {
        let linked = self.audience.iter().filter_map(move |&slot| self.links[slot].map(|link| link.peer));
        linked.map(move |peer| (peer, self.table.load(peer.slot, row::HOST_CLOCK)))
    }

    /// The processes that currently are the other members of the view.
    pub(crate) fn others(&self) -> impl Iterator<Item = Peer> {
        let members = self.view.iter().flat_map(|view| &view.members).map(|member| self.living(member.peer));
        members.filter(move |&peer| peer != self.me)
    }

    /// The closed time of the view, in nanoseconds: no member publishes a message of this time or earlier any more.
    pub(crate) fn closed_ns(&self) -> u64 {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| self.announced_by(member.peer.slot)).min().unwrap_or(0)
    }

    /// The latest time that any member of the view has announced, in nanoseconds.
    pub(crate) fn latest_ns(&self) -> u64 {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| self.announced_by(member.peer.slot)).max().unwrap_or(0)
    }

    fn announced_by(&self, slot: Slot) -> u64 {
        self.table.load(slot, row::CLOCK).min(TIME_MAX_NS)
    }

    /// Returns the time of the decision, in nanoseconds.
    ///
    /// It is not below any time that a candidate has announced, and above all records that this member has written.
    pub(super) fn decision_time(&self, candidates: u64) -> u64 {
        let view = self.view.iter().flat_map(|view| &view.members).enumerate();
        let clocks = view.filter(|(rank, _)| candidates >> rank & 1 == 1).map(|(_, m)| m.peer.slot);
        clocks.map(|slot| self.announced_by(slot)).fold(self.clock_ns, u64::max)
    }
}
