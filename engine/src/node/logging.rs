//! The node's steps with the log: what is asked of the disk, what waits for it, and the clock that stamps messages.

use super::clock::{CLOCK_MAX_NS, HostClocks};
use super::{Node, Phase};
use crate::config::MemberId;
use crate::log::{Journal, Kind, Record, Ticket, Version};
use crate::multicast::{Breach, End, Mode, Sink};
use crate::planted::{self, Bug};

/// The name of the file that holds a member's [`crate::membership::Ledger`].
pub const LEDGER: &str = "ledger";

/// The name of the file that holds, in a word, up to which time a member whose host's clock is behind may have announced: its
/// next life goes on from there.
pub const CLOCK: &str = "clock";
/// Such a member writes the file once in so many nanoseconds, so much ahead.
const LEASE_NS: u64 = 1_000_000_000;

/// A group's log as the node sees it.
pub(super) struct Logging {
    pub(super) journal: Box<dyn Journal>,
    /// The hybrid logical clock, and what the host's clock said last.
    pub(super) clock_ns: u64,
    wall_ns: u64,
    clocks: HostClocks,
    /// What the others were told of the time.
    announced_ns: u64,
    /// Up to here the disk has it that a corrected time may be announced, and up to where it will have it.
    lease_ns: u64,
    leasing: Option<(Ticket, u64)>,
    /// Clocks that are off, and when the next look at them is due.
    warnings: Vec<(MemberId, String)>,
    look_ms: u64,
    /// The time of the last record that a former life left, or what it announced beyond that.
    pub(super) recovered_ns: u64,
    /// The vote that is being saved.
    vote: Option<Ticket>,
    /// What must be on disk before the decision is acted on.
    pub(super) decision: Option<Ticket>,
    /// A time that will be past for good once the disks of all voters have everything below this number.
    passing: Option<(u64, u64)>,
    past_ns: u64,
    /// Of a founder: its first view is on disk, and shown.
    begun: bool,
}

impl Logging {
    pub(super) fn new(journal: Box<dyn Journal>, clock_skew_max_ms: u64) -> Logging {
        Logging {
            journal,
            clock_ns: 0,
            wall_ns: 0,
            clocks: HostClocks::new(clock_skew_max_ms),
            announced_ns: 0,
            lease_ns: 0,
            leasing: None,
            warnings: Vec::new(),
            look_ms: 0,
            recovered_ns: 0,
            vote: None,
            decision: None,
            passing: None,
            past_ns: 0,
            begun: false,
        }
    }

    /// A time later than any that was given out or seen before, at least this one.
    fn tick(&mut self, time_ns: u64) -> u64 {
        self.clock_ns = time_ns.max(self.clock_ns.saturating_add(1));
        self.clock_ns
    }

    /// How much of `time_ns` may be announced. What is announced holds for the next life of this process as well. That one goes
    /// on from its host's clock: what is beyond it, because it is behind the others', is on disk first.
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

/// The record of a decision; nobody sent it.
fn decision(version: Version, time_ns: u64, payload: &[u8]) -> Record<'_> {
    Record { version, time_ns, sender: MemberId(0), mode: Mode::Safe, kind: Kind::Decision, payload }
}

impl Node {
    /// Writes everything into a log, by `journal`. The data plane was made for one, too.
    pub fn with_journal(mut self, journal: Box<dyn Journal>) -> Node {
        self.logging = Some(Logging::new(journal, self.settings.clock_skew_max_ms));
        self
    }

    /// For how long this process has run, in milliseconds, as of the last pass: its own pauses are left out, so that they hold
    /// nothing against anybody, nor against its disk.
    pub fn running_ms(&self) -> u64 {
        self.now_ms
    }

    /// Keeps a small file beside the log.
    pub fn save(&mut self, name: &'static str, bytes: &[u8]) {
        if let Some(logging) = &mut self.logging {
            logging.journal.save(name, bytes);
        }
    }

    /// What the host's clock says, in nanoseconds since 1970: in a group with a log, before each pass, and before the first
    /// link. It may be wrong, and may go back.
    pub fn tell_time(&mut self, wall_ns: u64) {
        if let Some(logging) = &mut self.logging {
            // 0 stands for a clock that is not known.
            logging.wall_ns = wall_ns.clamp(1, CLOCK_MAX_NS);
            self.membership.set_host_clock(logging.wall_ns);
        }
    }

    /// Members whose hosts' clocks are off, found since the last call, with a text for an operator.
    pub fn take_warnings(&mut self) -> Vec<(MemberId, String)> {
        self.logging.as_mut().map(|logging| std::mem::take(&mut logging.warnings)).unwrap_or_default()
    }

    /// No record that is still to come will bear this time or an earlier one, in nanoseconds, and what bears one is on the
    /// disks of all voters: the log up to there is the same at every member, for good.
    pub fn past_ns(&self) -> u64 {
        self.logging.as_ref().map_or(0, |logging| logging.past_ns)
    }

    /// The clock goes on: what is announced is below what is stamped from now on.
    pub(super) fn run_clock(&mut self) {
        let Some(logging) = &mut self.logging else { return };
        logging.clock_ns = logging.clock_ns.max(self.multicast.log_time_ns().saturating_add(1));
        let floor_ns = logging.announced_ns.max(self.multicast.persisted_ns()).max(logging.recovered_ns);
        let latest_ns = floor_ns.max(self.membership.latest_ns());
        let now_ms = self.clock_ms;
        logging.clocks.look(now_ms, self.membership.host_clocks());
        // Before there is a view there is nobody to agree with on the time, and nobody to tell it.
        let takes_part = !matches!(self.phase, Phase::Joining | Phase::Restarting);
        let time_ns = logging.clocks.time_ns(now_ms, logging.wall_ns, latest_ns, self.membership.others());
        let told_ns = time_ns.filter(|_| takes_part).unwrap_or(0);
        let announced_ns = logging.announceable(told_ns, self.membership.is_counted_on());
        logging.announced_ns = floor_ns.max(announced_ns);
        // The decision that ends a restart is later than all that a former life of this process announced: its host's clock had
        // passed that, or the disk has it. No record is dated by that clock before the others have shown theirs.
        let restarts = matches!(self.phase, Phase::Restarting);
        let least_ns = if restarts { time_ns.unwrap_or(logging.wall_ns) } else { 0 };
        let clock_ns = logging.tick(if planted::is(Bug::RestartByOwnClock) { told_ns.max(least_ns) } else { told_ns });
        self.membership.set_clock(clock_ns.max(least_ns), logging.announced_ns);
        self.multicast.set_clock(logging.tick(told_ns));
        if now_ms >= logging.look_ms {
            let beat_ms = self.membership.beat_ms();
            logging.look_ms = now_ms.saturating_add(beat_ms);
            let me = self.membership.me();
            let members = self.membership.others().chain([me]);
            logging.warnings.extend(logging.clocks.reports((now_ms, beat_ms), (me, logging.wall_ns), members));
        }
    }

    /// The disk has failed: this member can promise nothing any more.
    pub(super) fn check_disk(&mut self) -> bool {
        let failure = self.logging.as_ref().and_then(|logging| logging.journal.failure());
        failure.map(|error| self.stop(error)).is_some()
    }

    /// Before the peers' counters are taken in: what they announce of the time holds for all that is taken in.
    pub(super) fn look_at_clocks(&mut self) -> Option<u64> {
        let logging = self.logging.as_ref()?;
        let past_ns = self.membership.past_ns();
        (logging.passing.is_none() && past_ns > logging.past_ns).then_some(past_ns)
    }

    /// After it: the log has to get as far as what has arrived.
    pub(super) fn note_past(&mut self, past_ns: Option<u64>) {
        let horizon = self.multicast.horizon();
        let past_ns = past_ns.filter(|_| self.multicast.took_all_in());
        if let (Some(logging), Some(past_ns)) = (&mut self.logging, past_ns) {
            logging.passing = Some((past_ns, horizon));
        }
    }

    /// Hands what is stable to the log, until the pass has lasted long enough.
    pub(super) fn write_log(&mut self, sink: &mut impl Sink) -> Result<bool, Breach> {
        let Some(logging) = &mut self.logging else { return Ok(false) };
        // Nobody waits for one that has no vote yet.
        let waits = self.membership.votes();
        let moved = self.multicast.write(waits, &mut *logging.journal, &mut || sink.is_over())?;
        if let Some((past_ns, number)) = logging.passing
            && self.multicast.persisted_by_all() >= number
        {
            logging.past_ns = logging.past_ns.max(past_ns);
            logging.passing = None;
        }
        // What is in the log has a successor of a later time only.
        let (next, time_ns) = self.multicast.log_end();
        if logging.passing.is_none() && time_ns > logging.past_ns {
            logging.passing = Some((time_ns, next));
        }
        Ok(moved)
    }

    /// Whether the disk has what the flush brought; asks for it first.
    pub(super) fn save_tail(&mut self) -> Result<bool, Breach> {
        match &mut self.logging {
            Some(logging) => Ok(self.multicast.save_tail(&mut *logging.journal)? || !self.membership.is_counted_on()),
            None => Ok(true),
        }
    }

    /// Saves the own vote before it is shown. True if anything moved.
    pub(super) fn save_vote(&mut self) -> bool {
        let Some(logging) = &mut self.logging else { return false };
        if let Some(ledger) = self.membership.ledger_to_save() {
            logging.vote = Some(logging.journal.save(LEDGER, &ledger));
        }
        let (durable, learner) = (logging.journal.durable(), !self.membership.is_counted_on());
        let Some(_) = logging.vote.take_if(|ticket| durable >= *ticket || learner) else { return false };
        self.membership.voted(&mut *self.fabric);
        true
    }

    /// Writes down what was decided: the rest of the view up to `trim`, the decision, and the ledger of the next view.
    pub(super) fn write_decision(&mut self, trim: &[End]) -> Result<(), Breach> {
        let Some(logging) = &mut self.logging else { return Ok(()) };
        let Some((version, time_ns, payload)) = self.membership.decision_bytes() else { return Ok(()) };
        let decision = decision(version, time_ns, &payload);
        logging.vote = None;
        let written = self.multicast.write_end(trim, decision, &mut *logging.journal)?;
        logging.clock_ns = logging.clock_ns.max(time_ns);
        // That of one that leaves names a view without it: it comes back as somebody new.
        let ledger = self.membership.next_ledger();
        logging.decision = ledger.map(|ledger| logging.journal.save(LEDGER, &ledger)).or(written);
        Ok(())
    }

    /// Writes down the first view of this process, with the record that begins it.
    pub(super) fn write_first(&mut self) {
        let (Some(logging), Some(ledger)) = (&mut self.logging, self.membership.next_ledger()) else { return };
        if let Some((version, time_ns, payload)) = self.membership.decision_bytes() {
            logging.journal.append(decision(version, time_ns, &payload));
            logging.clock_ns = logging.clock_ns.max(time_ns);
        }
        logging.decision = Some(logging.journal.save(LEDGER, &ledger));
    }

    /// Whether the first view of a founder is on its disk, where there is one, and shown.
    pub(super) fn first_is_shown(&mut self) -> bool {
        let shows = self.logging.as_ref().is_some_and(|logging| !logging.begun);
        if shows && self.decision_is_saved() {
            self.membership.installed(&mut *self.fabric);
            if let Some(logging) = &mut self.logging {
                logging.begun = true;
            }
        }
        self.logging.as_ref().is_none_or(|logging| logging.begun)
    }

    /// Whether the disk has what must be there before this member goes on.
    pub(super) fn decision_is_saved(&mut self) -> bool {
        let Some(logging) = &mut self.logging else { return true };
        // A learner's log is no use to anybody yet: nobody waits for it.
        let saved = logging.decision.is_none_or(|ticket| logging.has(ticket)) || !self.membership.votes_next();
        if saved {
            logging.decision = None;
        }
        saved
    }
}
