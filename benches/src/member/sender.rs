//! Fills and commits messages, as fast as the ring takes them or on a schedule.

use super::tally::Board;
use super::{LONG, MAIN};
use crate::Result;
use crate::measure::{now_ns, sleep_until};
use galerna::{Error, Group, Mode};

/// Fills and commits messages.
pub(super) struct Sender<'g> {
    pub(super) group: &'g Group,
    pub(super) board: &'g Board,
    /// The most own messages that are sent but not yet delivered here.
    pub(super) outstanding: u64,
    pub(super) mode: Mode,
    /// The content of every message. Its timestamps are at the front.
    pub(super) source: Vec<u8>,
    pub(super) sent: u64,
    pub(super) burst: u64,
    /// The interval, in messages, at which a message carries the time of its commit.
    pub(super) sample_every: u64,
    /// The start time, and the time between two messages, in nanoseconds.
    pub(super) schedule: Option<(u64, f64)>,
}

impl Sender<'_> {
    /// The time at which the next message is due.
    pub(super) fn due_ns(&self, from: u64) -> u64 {
        self.schedule.map_or(0, |(start, step)| start + ((self.sent - from) as f64 * step) as u64)
    }

    pub(super) fn put(&mut self, index: usize, value: u64) {
        if let Some(place) = self.source.get_mut(8 * index..8 * index + 8) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes the timestamps of the next message into its content.
    fn stamp(&mut self, due_ns: u64) {
        if self.schedule.is_some() {
            self.put(0, due_ns);
            self.put(1, now_ns());
        } else if self.sent.is_multiple_of(self.sample_every) {
            self.put(0, now_ns());
        } else if self.sent % self.sample_every == 1 {
            self.put(0, 0);
        }
    }

    /// Sends up to message `target`, as far as the schedule and the ring space allow, without waiting.
    ///
    /// Returns true if it sent any message.
    pub(super) fn send_some(&mut self, from: u64, target: u64) -> Result<bool> {
        let before = self.sent;
        let allowed = self.board.own().saturating_add(self.outstanding);
        let target = target.min(before.saturating_add(self.burst)).min(allowed);
        while self.sent < target {
            let due_ns = self.due_ns(from);
            if self.schedule.is_some() && now_ns() < due_ns {
                break;
            }
            match self.group.try_reserve(MAIN, self.source.len()) {
                Ok(mut place) => {
                    self.stamp(due_ns);
                    place.copy_from_slice(&self.source);
                    place.commit(self.mode)?;
                    self.sent += 1;
                }
                Err(Error::WouldBlock(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.sent != before)
    }

    /// Sends until `target` messages are sent, with calls that wait.
    pub(super) fn send_all(&mut self, from: u64, target: u64) -> Result<()> {
        while self.sent < target {
            let due_ns = self.due_ns(from);
            if self.schedule.is_some() {
                sleep_until(due_ns);
            }
            if self.sent >= self.board.own().saturating_add(self.outstanding) {
                self.board.wait_own(self.sent + 1 - self.outstanding)?;
            }
            let mut place = self.group.reserve(MAIN, self.source.len(), LONG)?;
            self.stamp(due_ns);
            place.copy_from_slice(&self.source);
            place.commit(self.mode)?;
            self.sent += 1;
        }
        Ok(())
    }
}
