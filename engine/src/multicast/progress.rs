//! How far the subgroup is, for the driver and for calls that wait.

use super::{Multicast, Stats};
use crate::types::Copies;

/// How far the data plane of a group with a log is, as of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// One above the highest number that has arrived, if the last pass took in all that the peers had published. `None`
    /// if it did not, for instance because one of them has wedged.
    pub taken_in: Option<u64>,
    /// The number below which everything has been handed to the log.
    pub logged: u64,
    /// The time of the last record before that number, in nanoseconds.
    pub logged_ns: u64,
    /// The time of the last record that was handed to the log or saved beside it, in nanoseconds.
    pub saved_ns: u64,
    /// The time of the last record on this member's disk, in nanoseconds.
    pub persisted_ns: u64,
    /// The number below which everything is on the disks of all voters.
    pub persisted_by_all: u64,
}

impl Multicast {
    /// Publishes how many frames of this member are durable, in a group with a log.
    pub(super) fn note_durable(&mut self) {
        if self.feeder.is_some() {
            let durable = self.durable();
            if let Some(frames) = self.publisher.durable_frames(durable) {
                self.ring().note_durable(frames.wrapping_add(self.ticket_offset));
            }
        }
    }

    /// Per stream of this view, a count for a flush. It covers this member's messages with a ticket below `ticket` and
    /// all messages delivered here. `None` until the former are published.
    pub fn flush_target(&self, ticket: u32) -> Option<Vec<u64>> {
        let mut target = self.delivered_counts();
        let mine = target.get_mut(self.me)?;
        *mine = (*mine).max(self.publisher.sent);
        self.publisher.has_published(ticket).then_some(target)
    }

    /// Per stream, how many messages have been delivered to the application, including those ahead of the order.
    pub fn delivered_counts(&self) -> Vec<u64> {
        self.streams.iter().map(|stream| stream.passed).collect()
    }

    /// Whether enough members have received what `target` covers.
    pub fn received_by(&self, copies: Copies, target: &[u64]) -> bool {
        self.stability.received_by(copies, target)
    }

    /// How many frames of this member have been delivered here, and how many are durable.
    pub fn own_progress(&self) -> (u64, u64) {
        self.ring().progress()
    }

    /// How often ring bytes were freed for this member's senders.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// How far the data plane of a group with a log is. `None` in a group without one.
    pub fn progress(&self) -> Option<Progress> {
        let feeder = self.feeder.as_ref()?;
        let horizon = || self.order.horizon(self.streams.iter().map(|stream| stream.messages));
        Some(Progress {
            taken_in: self.took_all_in.then(horizon),
            persisted_by_all: self.persisted_by_all(),
            ..feeder.progress()
        })
    }

    /// Whether everything claimed so far is published.
    pub fn has_published_all(&self) -> bool {
        self.publisher.has_published(self.ring().next_ticket())
    }

    /// The counters so far, except those of the engine and the fabric.
    pub fn stats(&self) -> Stats {
        let published = self.publisher.published;
        Stats {
            messages_sent: published.messages,
            bytes_sent: published.bytes,
            nulls_sent: published.nulls,
            batches_sent: published.batches,
            ..self.stats
        }
    }
}
