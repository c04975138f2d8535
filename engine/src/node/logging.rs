//! The node's steps with the log: disk requests, the steps that wait for them, and the clock that stamps messages.

use super::clock::{CLOCK_MAX_NS, HostClocks};
use super::{Node, Phase};
use crate::log::{Journal, Kind, Record, Ticket};
use crate::membership::{Beginning, Closing};
use crate::multicast::{Progress, Sink, Violation};
use crate::planted::{self, Bug};
use crate::types::{MemberId, Mode, SubgroupId};

/// The name of the file that holds a member's [`crate::membership::HardState`].
pub(crate) const HARD_STATE: &str = "hard_state";

/// The name of the file with the highest time that a member may have announced, as one word in nanoseconds.
///
/// Only a member with a host's clock that is behind writes it. Its next incarnation continues from that time.
pub(crate) const CLOCK: &str = "clock";
/// Such a member writes the file once per this many nanoseconds, and this far ahead.
const LEASE_NS: u64 = 1_000_000_000;

/// A group's log as the node sees it.
pub(super) struct Logging {
    pub(super) journal: Box<dyn Journal>,
    /// The hybrid logical clock, and the last time of the host's clock, both in nanoseconds.
    pub(super) clock_ns: u64,
    wall_ns: u64,
    clocks: HostClocks,
    /// The time that was announced to the other members, in nanoseconds.
    announced_ns: u64,
    /// The time of the last record on this member's disk, in nanoseconds.
    persisted_ns: u64,
    /// The time up to which the disk allows announcing corrected times, and the higher limit that is being saved.
    lease_ns: u64,
    leasing: Option<(Ticket, u64)>,
    /// Reports about clocks that are off, and when the next look at the clocks is due.
    warnings: Vec<(MemberId, String)>,
    look_ms: u64,
    /// The time of the last record of an earlier incarnation, or a later time that it announced.
    pub(super) recovered_ns: u64,
    /// The write of the vote that is being saved.
    vote: Option<Ticket>,
    /// The write that must be on disk before the decision takes effect.
    pub(super) decision: Option<Ticket>,
}

/// The closed time of a subgroup.
#[derive(Debug, Default)]
pub(super) struct ClosedTime {
    ns: u64,
    /// A time that becomes the closed time once the disks of all voters have everything below this number.
    passing: Option<(u64, u64)>,
}

impl ClosedTime {
    /// Raises the closed time to a time that the disks of all voters have passed.
    ///
    /// `announced_ns` is the time of [`Node::look_at_clocks`]. It is closed once the log has all that had arrived.
    fn advance(&mut self, announced_ns: Option<u64>, progress: Progress) {
        let announced_ns = announced_ns.filter(|&announced_ns| self.passing.is_none() && announced_ns > self.ns);
        if let Some(passing) = announced_ns.zip(progress.taken_in) {
            self.passing = Some(passing);
        }
        if let Some((closed_ns, number)) = self.passing
            && progress.persisted_by_all >= number
        {
            self.ns = self.ns.max(closed_ns);
            self.passing = None;
        }
        // Every record after the present end of the log has a later time.
        if self.passing.is_none() && progress.logged_ns > self.ns {
            self.passing = Some((progress.logged_ns, progress.logged));
        }
    }
}

impl Logging {
    pub(super) fn new(journal: Box<dyn Journal>, clock_skew_max_ms: u64) -> Logging {
        Logging {
            journal,
            clock_ns: 1,
            wall_ns: 0,
            clocks: HostClocks::new(clock_skew_max_ms),
            announced_ns: 0,
            persisted_ns: 0,
            lease_ns: 0,
            leasing: None,
            warnings: Vec::new(),
            look_ms: 0,
            recovered_ns: 0,
            vote: None,
            decision: None,
        }
    }

    /// Advances the clock to at least `time_ns`, and above any time that it returned or received before.
    fn tick(&mut self, time_ns: u64) -> u64 {
        self.clock_ns = time_ns.max(self.clock_ns.saturating_add(1));
        self.clock_ns
    }

    /// Takes in how far the data plane is: the clock is above the time of every record.
    ///
    /// Call it after every call of the data plane that can add a record.
    pub(super) fn note(&mut self, progress: Option<Progress>) {
        let Some(progress) = progress else { return };
        self.clock_ns = self.clock_ns.max(progress.saved_ns.saturating_add(1));
        self.persisted_ns = self.persisted_ns.max(progress.persisted_ns);
    }

    /// Returns how much of `time_ns` may be announced.
    ///
    /// An announced time also binds the next incarnation of this process, which continues from its host's clock. If
    /// that clock is behind the others', a time beyond it must be on disk first.
    fn announceable(&mut self, time_ns: u64, counted_on: bool) -> u64 {
        if time_ns <= self.wall_ns || !counted_on {
            return time_ns;
        }
        let durable = self.journal.durable();
        if let Some((_, lease_ns)) = self.leasing.take_if(|(ticket, _)| durable >= *ticket) {
            self.lease_ns = lease_ns;
        }
        if self.leasing.is_none() && time_ns.saturating_add(LEASE_NS / 2) > self.lease_ns {
            let lease_ns = time_ns.max(self.announced_ns).saturating_add(LEASE_NS);
            self.leasing = Some((self.journal.save(CLOCK, &lease_ns.to_le_bytes()), lease_ns));
        }
        time_ns.min(self.lease_ns)
    }

    pub(super) fn has(&self, ticket: Ticket) -> bool {
        self.journal.durable() >= ticket
    }
}

/// The record of a decision, which has no sender.
fn decision(next: &Beginning) -> Record<'_> {
    let Beginning { version, time_ns, ref payload, .. } = *next;
    Record { version, time_ns, sender: MemberId(0), mode: Mode::Safe, kind: Kind::Decision, payload }
}

impl Node {
    /// Makes the node write a log through `journal`. The data plane was created for a log too.
    pub(crate) fn with_journal(mut self, journal: Box<dyn Journal>) -> Node {
        self.logging = Some(Logging::new(journal, self.settings.clock_skew_max_ms));
        self
    }

    /// How long this process has run, in milliseconds, as of the last pass.
    ///
    /// Its own pauses are left out, so they do not count against other members or its disk.
    pub(crate) fn running_ms(&self) -> u64 {
        self.now_ms
    }

    /// Saves a small file beside the log.
    pub(crate) fn save(&mut self, name: &'static str, bytes: &[u8]) {
        if let Some(logging) = &mut self.logging {
            logging.journal.save(name, bytes);
        }
    }

    /// Sets the time of the host's clock, in nanoseconds since 1970. It may be wrong, and may go back.
    ///
    /// In a group with a log, call it before each pass and before the first link.
    pub(crate) fn set_wall_clock(&mut self, wall_ns: u64) {
        if let Some(logging) = &mut self.logging {
            // 0 means that a clock is not known.
            logging.wall_ns = wall_ns.clamp(1, CLOCK_MAX_NS);
            self.membership.set_host_clock(logging.wall_ns);
        }
    }

    /// Takes the reports about hosts' clocks that are off, found since the last call: member id and text.
    pub(crate) fn take_warnings(&mut self) -> Vec<(MemberId, String)> {
        self.logging.as_mut().map(|logging| std::mem::take(&mut logging.warnings)).unwrap_or_default()
    }

    /// The closed time of a subgroup, which must exist, in nanoseconds: no later record has this time or an earlier one.
    ///
    /// All records up to it are on the disks of all voters, so the log up to it is the same at every member for good.
    pub(crate) fn closed_ns(&self, subgroup: SubgroupId) -> u64 {
        self.lanes[usize::from(subgroup.0)].closed.ns
    }

    /// Advances the clock. Every later stamp is greater than the announced time.
    pub(super) fn run_clock(&mut self) {
        let Some(logging) = &mut self.logging else { return };
        let floor_ns = logging.announced_ns.max(logging.persisted_ns).max(logging.recovered_ns);
        let latest_ns = floor_ns.max(self.membership.latest_ns());
        let now_ms = self.clock_ms;
        logging.clocks.look(now_ms, self.membership.host_clocks());
        // Without a view there are no members to agree on the time with, and none to announce it to.
        let takes_part = !matches!(self.phase, Phase::Joining | Phase::Restarting);
        let time_ns = logging.clocks.time_ns(now_ms, logging.wall_ns, latest_ns, self.membership.others());
        let told_ns = time_ns.filter(|_| takes_part).unwrap_or(0);
        let announced_ns = logging.announceable(told_ns, self.membership.is_counted_on());
        logging.announced_ns = floor_ns.max(announced_ns);
        // The decision that ends a restart must be later than all times that an earlier incarnation of this process
        // announced. That incarnation's host clock had passed them, or they are on disk. But no record gets the host
        // clock's time before the other members have shown their clocks.
        let restarts = matches!(self.phase, Phase::Restarting);
        let least_ns = if restarts { time_ns.unwrap_or(logging.wall_ns) } else { 0 };
        let clock_ns = logging.tick(if planted::is(Bug::RestartByOwnClock) { told_ns.max(least_ns) } else { told_ns });
        self.membership.set_clock(clock_ns.max(least_ns), logging.announced_ns);
        let stamp_ns = logging.tick(told_ns);
        self.lanes.iter_mut().for_each(|lane| lane.multicast.set_clock(stamp_ns));
        if now_ms >= logging.look_ms {
            let beat_ms = self.membership.beat_ms();
            logging.look_ms = now_ms.saturating_add(beat_ms);
            let me = self.membership.me();
            let members = self.membership.others().chain([me]);
            logging.warnings.extend(logging.clocks.reports((now_ms, beat_ms), (me, logging.wall_ns), members));
        }
    }

    /// Stops this member if its disk has failed, since it can promise nothing any more.
    pub(super) fn check_disk(&mut self) -> bool {
        let failure = self.logging.as_ref().and_then(|logging| logging.journal.failure());
        failure.map(|error| self.stop(error)).is_some()
    }

    /// Reads the announced times. Must come before the peers' counters are taken in.
    ///
    /// A message with such a time or an earlier one was published before the announcement, so the counters cover it.
    pub(super) fn look_at_clocks(&mut self) -> Option<u64> {
        self.logging.as_ref().map(|_| self.membership.closed_ns())
    }

    /// Hands stable messages to the log, until the pass has lasted long enough.
    ///
    /// `announced_ns` is the time of [`Node::look_at_clocks`]. The peers' counters have been taken in since.
    pub(super) fn write_log(&mut self, announced_ns: Option<u64>, sink: &mut impl Sink) -> Result<bool, Violation> {
        let Some(logging) = &mut self.logging else { return Ok(false) };
        // The log of a member without a vote does not matter to the others yet, so it never waits for its disk.
        let waits = self.membership.votes();
        let mut any = false;
        let (before, from) = self.lanes.split_at_mut(self.turn);
        for (n, lane) in from.iter_mut().chain(before).enumerate() {
            if n > 0 && sink.is_over() {
                return Ok(true);
            }
            let moved = lane.multicast.write(waits, &mut *logging.journal, &mut || sink.is_over());
            let progress = lane.multicast.progress();
            // A walk that found an invalid frame may have written the records before it.
            logging.note(progress);
            any |= moved.map_err(|breach| lane.blame(breach))?;
            if let Some(progress) = progress {
                lane.closed.advance(announced_ns, progress);
            }
        }
        Ok(any)
    }

    /// Saves the messages that the flush obtained. Returns true once they are on disk.
    pub(super) fn save_tail(&mut self) -> Result<bool, Violation> {
        let Some(logging) = &mut self.logging else { return Ok(true) };
        let mut all = true;
        for lane in &mut self.lanes {
            all &= lane.multicast.save_tail(&mut *logging.journal).map_err(|breach| lane.blame(breach))?;
            logging.note(lane.multicast.progress());
        }
        Ok(all)
    }

    /// Saves this member's vote. [`Node::vote_is_saved`] returns true once it is on disk.
    pub(super) fn save_vote(&mut self, hard_state: &[u8]) {
        if let Some(logging) = &mut self.logging {
            logging.vote = Some(logging.journal.save(HARD_STATE, hard_state));
        }
    }

    /// Whether the vote that was saved last is on disk, or no other member counts on this one's log. True once for each
    /// vote.
    pub(super) fn vote_is_saved(&mut self, relied_on: bool) -> bool {
        let Some(logging) = &mut self.logging else { return false };
        let durable = logging.journal.durable();
        logging.vote.take_if(|ticket| durable >= *ticket || !relied_on).is_some()
    }

    /// Writes the end of the view to disk: the rest of the view up to its ends, and, unless this process saves them later,
    /// the decision's record and the next view's hard state.
    pub(super) fn write_decision(&mut self, closing: &Closing) -> Result<(), Violation> {
        let Some(logging) = &mut self.logging else { return Ok(()) };
        logging.vote = None;
        logging.decision = None;
        for lane in &mut self.lanes {
            let (ends, record) = (lane.part(&closing.ends), closing.next.as_ref().map(decision));
            let written = lane.multicast.write_end(ends, record, &mut *logging.journal);
            logging.note(lane.multicast.progress());
            logging.decision = written.map_err(|breach| lane.blame(breach))?.max(logging.decision);
        }
        if let Some(next) = &closing.next {
            logging.clock_ns = logging.clock_ns.max(next.time_ns);
            logging.decision = Some(logging.journal.save(HARD_STATE, &next.hard_state));
        }
        Ok(())
    }

    /// Writes the decision that begins a view to disk, then the view's hard state: the first view of this process, or the
    /// view without it. A leaver's hard state names a view without it. If it comes back, it is a new member.
    pub(super) fn write_beginning(&mut self, next: &Beginning) {
        let Some(logging) = &mut self.logging else { return };
        logging.journal.append(decision(next));
        logging.clock_ns = logging.clock_ns.max(next.time_ns);
        logging.decision = Some(logging.journal.save(HARD_STATE, &next.hard_state));
    }

    /// Whether the last decision that this process wrote is on disk.
    pub(super) fn has_saved(&self) -> bool {
        let Some(logging) = &self.logging else { return true };
        logging.decision.is_none_or(|ticket| logging.has(ticket))
    }

    /// Whether everything is on disk that must be there before this member continues.
    pub(super) fn decision_is_saved(&mut self, relied_on: bool) -> bool {
        let Some(logging) = &mut self.logging else { return true };
        let saved = logging.decision.is_none_or(|ticket| logging.has(ticket)) || !relied_on;
        if saved {
            logging.decision = None;
        }
        saved
    }
}
