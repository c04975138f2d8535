//! What members of a group with a log show of the time.

use super::{Membership, Peer, row};
use crate::fabric::Slot;

/// No clock and no record is later, in nanoseconds: a word beyond it is garbage, and must not overflow what is computed from it.
pub(super) const TIME_MAX_NS: u64 = u64::MAX / 2;

impl Membership {
    /// The own time, for groups with a log, and what the others are told: no message gets an earlier time from now on.
    pub fn set_clock(&mut self, clock_ns: u64, announced_ns: u64) {
        self.clock_ns = clock_ns;
        self.announced_ns = self.announced_ns.max(announced_ns);
    }

    /// What the host's clock says, in nanoseconds since 1970; the others see it with the next heartbeat.
    pub fn set_host_clock(&mut self, host_ns: u64) {
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

    /// The processes that are linked with this one, and what their hosts' clocks said with the last heartbeat; 0 if that is not
    /// known.
    pub fn host_clocks(&self) -> impl Iterator<Item = (Peer, u64)> {
        let linked = self.audience.iter().filter_map(move |&slot| self.links[slot].map(|link| link.peer));
        linked.map(move |peer| (peer, self.table.load(peer.slot, row::HOST_CLOCK)))
    }

    /// The processes that are the other members of the view now.
    pub fn others(&self) -> impl Iterator<Item = Peer> {
        let members = self.view.iter().flat_map(|view| &view.members).map(|member| self.living(member.peer));
        members.filter(move |&peer| peer != self.me)
    }

    /// No member of the view publishes anything of this time or an earlier one any more, as of the rows' last look.
    pub fn past_ns(&self) -> u64 {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| self.announced_by(member.peer.slot)).min().unwrap_or(0)
    }

    /// The latest time that any member of the view has announced.
    pub fn latest_ns(&self) -> u64 {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| self.announced_by(member.peer.slot)).max().unwrap_or(0)
    }

    fn announced_by(&self, slot: Slot) -> u64 {
        self.table.load(slot, row::CLOCK).min(TIME_MAX_NS)
    }

    /// Above all that any candidate has said of the time, and above the records that this one has written.
    pub(super) fn decision_time(&self, candidates: u64) -> u64 {
        let view = self.view.iter().flat_map(|view| &view.members).enumerate();
        let clocks = view.filter(|(rank, _)| candidates >> rank & 1 == 1).map(|(_, m)| m.peer.slot);
        clocks.map(|slot| self.announced_by(slot)).fold(self.clock_ns, u64::max)
    }
}
