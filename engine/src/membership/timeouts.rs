//! The timeouts in force. They may differ from member to member, as they do while an operator changes them by restarting one
//! member after the other: every member advertises its own in its row, and uses the largest of the present view.
//!
//! Heartbeats go by the own timeout, which is never larger than the one in force: a member that has not seen a change yet
//! still hears enough of them.

use super::{Membership, row};
use crate::config::{FAILURE_TIMEOUT_MAX_MS, PARTITION_TIMEOUT_MAX_MS};
use crate::fabric::Slot;
use crate::sst::Column;

impl Membership {
    /// Stores the own timeouts in the own row, before anybody is attached.
    pub(super) fn advertise_timeouts(&self) {
        self.table.store(row::FAILURE_TIMEOUT, self.settings.failure_timeout_ms);
        self.table.store(row::PARTITION_TIMEOUT, self.settings.partition_timeout_ms);
    }

    /// After how long a member of the present view that stands still is suspected.
    pub fn failure_timeout_ms(&self) -> u64 {
        self.largest(row::FAILURE_TIMEOUT, self.settings.failure_timeout_ms, FAILURE_TIMEOUT_MAX_MS)
    }

    /// For how long a member waits for the decision that ends an epoch.
    pub fn partition_timeout_ms(&self) -> u64 {
        self.largest(row::PARTITION_TIMEOUT, self.settings.partition_timeout_ms, PARTITION_TIMEOUT_MAX_MS)
    }

    /// A word above `most_ms` is garbage: it would switch the detector off.
    fn largest(&self, column: Column, own_ms: u64, most_ms: u64) -> u64 {
        let members = self.view.iter().flat_map(|view| &view.members);
        let shown = members.map(|member| self.table.load(member.peer.slot, column));
        shown.filter(|&ms| ms <= most_ms).fold(own_ms, u64::max)
    }

    /// Whether the process in `slot` shows timeouts that a configuration can have.
    pub(super) fn has_possible_timeouts(&self, slot: Slot) -> bool {
        self.table.load(slot, row::FAILURE_TIMEOUT) <= FAILURE_TIMEOUT_MAX_MS
            && self.table.load(slot, row::PARTITION_TIMEOUT) <= PARTITION_TIMEOUT_MAX_MS
    }
}
