//! How far the subgroup is, for the driver and for calls that wait.

use super::{Multicast, Stats};
use crate::types::Copies;

impl Multicast {
    /// Per stream of this view, a count for a flush. It covers this member's messages with a ticket below `ticket` and
    /// all messages delivered here. `None` until the former are published.
    pub fn flush_target(&self, ticket: u32) -> Option<Vec<u64>> {
        let mut target = self.delivered_counts();
        let mine = target.get_mut(self.me)?;
        *mine = (*mine).max(self.publisher.sent);
        self.publisher.has_published(ticket).then_some(target)
    }

    /// The number below which everything must be durable, so that this member's messages with a ticket below `ticket`
    /// are. `None` until they are published.
    pub fn durable_target(&self, ticket: u32) -> Option<u64> {
        let sent = self.publisher.sent;
        let target = if sent > self.order.base { self.order.sequence(sent - 1, self.me) + 1 } else { self.order.first };
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

    /// The number of this member's frames that have been delivered here.
    pub fn own_delivered(&self) -> u64 {
        self.ring().delivered()
    }

    /// How often ring bytes were freed for this member's senders.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Whether the last pass took in all that the peers had published, so that [`Multicast::horizon`] covers it. It is
    /// false if one of them has wedged.
    pub fn took_all_in(&self) -> bool {
        self.took_all_in
    }

    /// One above the highest number that has arrived.
    pub fn horizon(&self) -> u64 {
        self.order.horizon(self.streams.iter().map(|stream| stream.messages))
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
