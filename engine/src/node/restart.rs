//! The node's steps after a total failure: see [`crate::membership`]'s `restart`.
//!
//! The driver fetches missing records from another member's log: it asks [`Node::log_need`], and passes records to
//! [`Node::take_record`].

use super::{Node, Phase};
use crate::error::Error;
use crate::log::{Kind, Record, Ticket};
use crate::membership::{Cause, HardState, Outcome, Peer};
use crate::multicast::{End, Tail, TailRecord, Violation, record_time};
use crate::types::{MemberId, Version, named};

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

/// The records that a restarted process lacks: those after one version and below another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogNeed {
    /// The process that has them.
    pub from: Peer,
    /// The last record that is here.
    pub after: Version,
    /// One above the last record that is wanted.
    pub below: Version,
}

/// The state of a restart.
pub(super) struct Restart {
    recovery: Recovery,
    /// The write of the last fetched record.
    fetched: Option<Ticket>,
    need: Option<LogNeed>,
    /// Since when enough members are linked to continue without the rest, and how often the rest came back after that.
    enough_ms: Option<u64>,
    gatherings: u32,
    /// Since when the decision is on disk.
    decided_ms: Option<u64>,
    written: bool,
}

/// After all members have been linked again this often, the wait for absent ones does not start over any more.
const GATHERINGS_MAX: u32 = 3;

impl Node {
    /// Continues from the hard state and log of an earlier incarnation, together with the other restarted processes.
    pub(crate) fn restart(&mut self, hard_state: HardState, recovery: Recovery) {
        self.phase = Phase::Restarting;
        self.until_ms = self.now_ms.saturating_add(self.settings.join_timeout_ms);
        self.resume(hard_state, recovery);
        self.membership.publish_changes(&mut *self.fabric);
        self.fabric.submit();
    }

    fn resume(&mut self, hard_state: HardState, recovery: Recovery) {
        if let Some(logging) = &mut self.logging {
            logging.recovered_ns = recovery.time_ns.max(recovery.announced_ns);
            logging.clock_ns = logging.clock_ns.max(logging.recovered_ns.saturating_add(2));
        }
        self.run_clock();
        self.membership.resume(hard_state, &mut *self.fabric);
        let ends = self.membership.ends_of(recovery.last);
        self.membership.wedge(ends, self.now_ms, &mut *self.fabric);
        self.restart = Some(Restart {
            recovery,
            fetched: None,
            need: None,
            enough_ms: None,
            gatherings: 0,
            decided_ms: None,
            written: false,
        });
    }

    /// One pass of a process that is being restarted.
    pub(super) fn restart_pass(&mut self) -> Result<bool, Violation> {
        let mut progress = self.membership.observe(self.now_ms, &mut *self.fabric)?;
        progress |= self.drop_mute_links();
        if self.membership.is_decided() {
            return Ok(progress | self.follow_decision());
        }
        if self.membership.is_left_behind() {
            self.stop_removed();
            return Ok(true);
        }
        progress |= self.give_up_absent();
        progress |= self.complete_log();
        self.run_clock();
        progress |= self.membership.decide(self.now_ms, &mut *self.fabric);
        progress |= self.save_vote();
        if self.now_ms >= self.until_ms {
            self.stop(self.missing());
        }
        Ok(progress)
    }

    /// The error that names the members that the restart still waits for.
    fn missing(&self) -> Error {
        let view = self.membership.view().map_or(0, |view| view.number);
        let (absent, enough) = self.membership.absent();
        let members = named(&absent.iter().map(|(_, peer)| peer.id).collect::<Vec<_>>());
        let missing = match absent.len() {
            0 => format!("a decision of the members of view {view}, all of which are here"),
            _ if enough => {
                format!("{members} of view {view}; more than half are here, but have not come to a decision")
            }
            _ => {
                let (here, voters) = self.membership.returned();
                let more = (voters / 2 + 1).saturating_sub(here);
                format!(
                    "{members} of view {view}: {more} more of its {voters} voters must come back with their logs ({here} are here); \
                     if their logs are lost for good, `galerna-log recover` begins a new group with one log"
                )
            }
        };
        Error::Missing { missing, after_ms: self.settings.join_timeout_ms }
    }

    /// Accuses the members that have not come back, some time after enough have.
    fn give_up_absent(&mut self) -> bool {
        let (absent, enough) = self.membership.absent();
        let Some(restart) = &mut self.restart else { return false };
        if absent.is_empty() || !enough {
            // A member with a link that goes up and down must not delay the others for ever.
            let is_again = restart.enough_ms.is_some() && absent.is_empty();
            if !is_again || restart.gatherings < GATHERINGS_MAX {
                restart.enough_ms = None;
                restart.gatherings += u32::from(is_again);
            }
            return false;
        }
        let since_ms = *restart.enough_ms.get_or_insert(self.now_ms);
        if self.now_ms.saturating_sub(since_ms) < self.settings.restart_wait_ms {
            return false;
        }
        let mut news = false;
        for (rank, _) in absent {
            let what = "it has not come back with the others";
            news |= self.membership.suspect(rank, Cause::Absent, what, &mut *self.fabric);
        }
        news
    }

    /// Completes this member's log to the longest log of a candidate, and publishes that once it is on disk.
    fn complete_log(&mut self) -> bool {
        let Some((target, from)) = self.membership.log_target() else { return false };
        let (Some(restart), Some(logging), Some(view)) = (&mut self.restart, &self.logging, self.membership.view())
        else {
            return false;
        };
        let have = self.membership.ends_of(restart.recovery.last);
        if have == target || crate::planted::is(crate::planted::Bug::RestartFromShortest) {
            restart.need = None;
            let saved = restart.fetched.is_none_or(|ticket| logging.has(ticket));
            return saved && self.membership.flushed(&target, &mut *self.fabric);
        }
        let below = view.order.horizon(target.iter().map(|end| end.messages.max(view.order.base)));
        let need =
            LogNeed { from, after: restart.recovery.last, below: Version { view: view.number, sequence: below } };
        restart.need.replace(need) != Some(need)
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
        self.membership.is_linked_with(id)
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

    /// Writes the known decision to disk, then continues as it requires.
    fn follow_decision(&mut self) -> bool {
        let Some(outcome) = self.membership.outcome() else { return false };
        let written = self.restart.as_ref().is_some_and(|restart| restart.written);
        if let Outcome::Removed = outcome {
            self.stop_removed();
            return true;
        }
        if !written {
            if let Err(what) = self.write_restart() {
                self.stop(Error::Internal(what));
            }
            return true;
        }
        if !self.decision_is_saved() || matches!(outcome, Outcome::Runs) && self.is_alone_to_know() {
            return false;
        }
        if matches!(outcome, Outcome::Runs) && self.lacks_rows() {
            // It cannot read the streams of a member that it was never linked with. The others end the view without one
            // of the two. This process joins anew.
            let late = self.decided_for_ms() >= self.membership.failure_timeout_ms();
            if late {
                self.stop_removed();
            }
            return late;
        }
        let recovery = self.restart.take().map(|restart| restart.recovery).unwrap_or_default();
        match outcome {
            Outcome::GoesOn(hard_state) => self.resume(*hard_state, recovery),
            _ => {
                self.membership.restarted();
                self.phase = Phase::Running;
                if let Err(breach) = self.enter() {
                    self.breach(breach);
                }
            }
        }
        true
    }

    /// The time since the decision was known and saved, in milliseconds.
    fn decided_for_ms(&mut self) -> u64 {
        let now_ms = self.now_ms;
        self.restart.as_mut().map_or(0, |restart| now_ms.saturating_sub(*restart.decided_ms.get_or_insert(now_ms)))
    }

    /// Whether this process was never linked with some member of the decided view.
    fn lacks_rows(&self) -> bool {
        self.membership.next_slots().any(|slot| !self.multicast.is_attached(slot))
    }

    /// Whether this process must stay in the restart for now: no other member of the decided view knows the decision.
    ///
    /// During the restart a broken link can be made anew, and brings the decision. After the partition timeout the
    /// process continues.
    fn is_alone_to_know(&mut self) -> bool {
        let wait_ms = self.membership.partition_timeout_ms();
        let decided_for_ms = self.decided_for_ms();
        self.membership.nobody_knows() && decided_for_ms < wait_ms
    }

    /// Brings the log to the decided ends, and writes the decision to disk.
    fn write_restart(&mut self) -> Result<(), String> {
        let (Some(restart), Some(logging)) = (&mut self.restart, &mut self.logging) else { return Ok(()) };
        let (Some(ends), Some(view)) = (self.membership.decided_ends(), self.membership.view()) else { return Ok(()) };
        let (recovery, order, number) = (&mut restart.recovery, view.order, view.number);
        let mut tail = recovery.tail.take().filter(|tail| tail.view == number).unwrap_or_default();
        let have = self.membership.ends_of(recovery.last);
        let covers = |has: &[End]| has.iter().zip(&ends).all(|(has, end)| has.messages >= end.messages);
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
            let at = sequence.saturating_sub(order.first);
            let (rank, index) = ((at % ends.len() as u64) as usize, order.base + at / ends.len() as u64);
            let (version, Some((stamp, payload))) = (Version { view: number, sequence }, raw.split_first_chunk())
            else {
                continue;
            };
            // Fetched records are already in the log, and messages beyond the decided ends must not be in it.
            if index < ends[rank].messages && version > recovery.last {
                let time_ns = record_time(u64::from_le_bytes(*stamp), recovery.time_ns);
                logging.journal.append(Record { version, time_ns, sender, mode, kind: Kind::Message, payload });
                (recovery.last, recovery.time_ns) = (version, time_ns);
            }
        }
        self.write_first();
        if let (Some(restart), Some((version, time_ns, _))) = (&mut self.restart, self.membership.decision_bytes()) {
            (restart.recovery.last, restart.recovery.time_ns, restart.written) = (version, time_ns, true);
        }
        Ok(())
    }
}
