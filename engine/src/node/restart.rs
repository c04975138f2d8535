//! The node's steps after a total failure: see [`crate::membership`]'s `restart`.
//!
//! The driver fetches missing records from another member's log: it asks [`Node::log_need`], and passes records to
//! [`Node::take_record`].

use super::{Node, Phase};
use crate::error::Error;
use crate::log::{Kind, Record, Ticket};
use crate::membership::{Closing, HardState, LogNeed};
use crate::multicast::{End, Tail, TailRecord, record_time};
use crate::types::{MemberId, Version};

/// The contents of a restarted process's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Recovery {
    /// The version and the time of the last record; zero if there is none.
    pub last: Version,
    /// See `last`.
    pub time_ns: u64,
    /// The highest time that an earlier incarnation may have announced, in nanoseconds.
    ///
    /// It is set only if that incarnation had to correct its clock: see [`super::CLOCK`].
    pub announced_ns: u64,
    /// The messages that the flush of an epoch saved beside the log.
    pub tail: Option<Tail>,
}

/// The state of a restart.
pub(super) struct Restart {
    pub(super) recovery: Recovery,
    /// The write of the last fetched record.
    pub(super) fetched: Option<Ticket>,
    need: Option<LogNeed>,
    /// The known decision is written to the log, though not on disk perhaps.
    pub(super) written: bool,
}

impl Node {
    /// Continues from the hard state and log of an earlier incarnation, together with the other restarted processes.
    pub(crate) fn restart(&mut self, hard_state: HardState, recovery: Recovery) {
        let (theirs, ours) = (hard_state.view().shards.len(), self.settings.subgroups);
        if theirs != ours {
            let what = format!("the log is of a group with {theirs} subgroups, and the configuration has {ours}");
            return self.stop(Error::Config(what));
        }
        self.phase = Phase::Restarting;
        self.until_ms = self.now_ms.saturating_add(self.settings.join_timeout_ms);
        self.resume(hard_state, recovery);
        self.submit();
    }

    /// Continues in the last view of an earlier incarnation, or in the view that its decision began.
    pub(super) fn resume(&mut self, hard_state: HardState, recovery: Recovery) {
        if let Some(logging) = &mut self.logging {
            logging.recovered_ns = recovery.time_ns.max(recovery.announced_ns);
            logging.clock_ns = logging.clock_ns.max(logging.recovered_ns.saturating_add(2));
        }
        self.run_clock();
        self.membership.resume(hard_state, recovery.last, self.now_ms, &mut *self.fabric);
        self.restart = Some(Restart { recovery, fetched: None, need: None, written: false });
    }

    /// Lets the driver fetch the records that this member's log lacks. Returns true if they have changed.
    pub(super) fn fetch_log(&mut self, need: Option<LogNeed>) -> bool {
        let Some(restart) = &mut self.restart else { return false };
        std::mem::replace(&mut restart.need, need) != need && need.is_some()
    }

    /// Whether this process has only the first view, without any record or a vote to end it.
    ///
    /// No process can have read anything in such a log.
    pub(crate) fn has_only_founded(&self) -> bool {
        let has_no_record = |restart: &Restart| restart.recovery.last.sequence == 0 && restart.recovery.tail.is_none();
        self.membership.has_only_founded() && self.restart.as_ref().is_some_and(has_no_record)
    }

    /// Whether the link to some process of member `id` is up.
    pub(crate) fn is_linked_with(&self, id: MemberId) -> bool {
        self.linked_with().any(|linked| linked == id)
    }

    /// The members of which some process is linked.
    pub(crate) fn linked_with(&self) -> impl Iterator<Item = MemberId> {
        self.membership.linked_with()
    }

    /// The records that the driver must fetch from another member's log.
    pub(crate) fn log_need(&self) -> Option<LogNeed> {
        self.restart.as_ref().filter(|_| matches!(self.phase, Phase::Restarting)).and_then(|restart| restart.need)
    }

    /// Takes a fetched record. A record that is not the next one is ignored.
    pub(crate) fn take_record(&mut self, record: Record<'_>) {
        let (Some(restart), Some(logging)) = (&mut self.restart, &mut self.logging) else { return };
        let recovery = &mut restart.recovery;
        let wanted = restart.need.is_some_and(|need| record.version < need.below);
        let follows = record.version > recovery.last && record.time_ns > recovery.time_ns;
        if !matches!(self.phase, Phase::Restarting) || !wanted || !follows || record.time_ns > u64::MAX / 2 {
            return;
        }
        restart.fetched = Some(logging.journal.append(record));
        (recovery.last, recovery.time_ns) = (record.version, record.time_ns);
        // The decision must have a later time.
        logging.clock_ns = logging.clock_ns.max(record.time_ns + 2);
    }

    /// Brings the log to the decided ends, and writes the decision to disk.
    pub(super) fn close_log(&mut self, closing: &Closing) -> Result<(), String> {
        let (Some(restart), Some(logging), Some(next)) = (&mut self.restart, &mut self.logging, &closing.next) else {
            return Ok(());
        };
        let (Some(view), ends) = (self.membership.view(), &closing.ends) else { return Ok(()) };
        let Some(shard) = view.shards.first() else { return Ok(()) };
        let (recovery, order, number) = (&mut restart.recovery, shard.order, view.number);
        let mut tail = recovery.tail.take().filter(|tail| tail.view == number).unwrap_or_default();
        let have = self.membership.ends_of(recovery.last);
        let covers = |has: &[End]| has.iter().zip(ends).all(|(has, end)| has.messages >= end.messages);
        if covers(&have) {
            // An earlier restart of other members may have decided lower ends. Messages that those members lacked were
            // never durable.
            tail.records.clear();
            let sequence = order.horizon(ends.iter().map(|end| end.messages.max(order.base)));
            if recovery.last.view == number && sequence <= recovery.last.sequence {
                logging.journal.cut(Version { view: number, sequence });
                recovery.last = Version { view: number, sequence: sequence - 1 };
            }
        } else if tail.ends.len() != ends.len() || !covers(&tail.ends) {
            return Err(format!("the log ends at {}, before what was decided: {ends:?}", recovery.last));
        }
        for TailRecord { sequence, sender, mode, raw } in tail.records {
            let version = Version { view: number, sequence };
            let Some(((rank, index), (stamp, payload))) = shard.place_of(sequence).zip(raw.split_first_chunk()) else {
                continue;
            };
            // Fetched records are already in the log, and messages beyond the decided ends must not be in it.
            if ends.get(rank).is_some_and(|end| index < end.messages) && version > recovery.last {
                let time_ns = record_time(u64::from_le_bytes(*stamp), recovery.time_ns);
                logging.journal.append(Record { version, time_ns, sender, mode, kind: Kind::Message, payload });
                (recovery.last, recovery.time_ns) = (version, time_ns);
            }
        }
        (recovery.last, recovery.time_ns) = (next.version, next.time_ns);
        restart.written = true;
        self.write_beginning(next);
        Ok(())
    }
}
