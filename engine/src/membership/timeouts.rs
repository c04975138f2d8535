//! The timeouts in force: the largest that any member of the present view advertises in its row.
//!
//! Timeouts may differ between members while an operator changes them by restarting one member after the other. Each
//! member sends heartbeats by its own timeout, which never exceeds the one in force. So a member that has not seen a
//! change yet still receives enough heartbeats.

use super::{Membership, row};
use crate::config::{FAILURE_TIMEOUT_MAX_MS, PARTITION_TIMEOUT_MAX_MS};
use crate::fabric::Slot;
use crate::sst::Column;

impl Membership {
    /// Stores this member's timeouts in its own row. Called before any peer is attached.
    pub(super) fn advertise_timeouts(&self) {
        self.table.store(row::FAILURE_TIMEOUT, self.settings.failure_timeout_ms);
        self.table.store(row::PARTITION_TIMEOUT, self.settings.partition_timeout_ms);
    }

    /// The time after which a silent member of the present view is suspected, in milliseconds.
    pub(crate) fn failure_timeout_ms(&self) -> u64 {
        self.largest(row::FAILURE_TIMEOUT, self.settings.failure_timeout_ms, FAILURE_TIMEOUT_MAX_MS)
    }

    /// How long a member waits for the decision that ends an epoch, in milliseconds.
    pub(crate) fn partition_timeout_ms(&self) -> u64 {
        self.largest(row::PARTITION_TIMEOUT, self.settings.partition_timeout_ms, PARTITION_TIMEOUT_MAX_MS)
    }

    /// The largest timeout of the present view. Values above `most_ms` are garbage that would disable the detector, and
    /// are ignored.
    fn largest(&self, column: Column, own_ms: u64, most_ms: u64) -> u64 {
        let members = self.view.iter().flat_map(|view| &view.members);
        let shown = members.map(|member| self.table.load(member.peer.slot, column));
        shown.filter(|&ms| ms <= most_ms).fold(own_ms, u64::max)
    }

    /// Whether the process in `slot` advertises timeouts that a configuration can have.
    pub(super) fn has_possible_timeouts(&self, slot: Slot) -> bool {
        self.table.load(slot, row::FAILURE_TIMEOUT) <= FAILURE_TIMEOUT_MAX_MS
            && self.table.load(slot, row::PARTITION_TIMEOUT) <= PARTITION_TIMEOUT_MAX_MS
    }
}
