//! The node's steps with the log: what is asked of the disk, what waits for it, and the clock that stamps messages.

use super::Node;
use crate::config::MemberId;
use crate::log::{Journal, Kind, Record, Ticket, Version};
use crate::multicast::{Breach, End, Mode};

/// The name of the file that holds a member's [`crate::membership::Ledger`].
pub const LEDGER: &str = "ledger";

/// A group's log as the node sees it.
pub(super) struct Logging {
    pub(super) journal: Box<dyn Journal>,
    /// The hybrid logical clock, and what the host's clock said last.
    pub(super) clock_ns: u64,
    wall_ns: u64,
    /// The time of the last record that a former life left.
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
    pub(super) fn new(journal: Box<dyn Journal>) -> Logging {
        Logging {
            journal,
            clock_ns: 0,
            wall_ns: 0,
            recovered_ns: 0,
            vote: None,
            decision: None,
            passing: None,
            past_ns: 0,
            begun: false,
        }
    }

    /// A time later than any that was given out or seen before.
    fn tick(&mut self) -> u64 {
        self.clock_ns = self.wall_ns.max(self.clock_ns + 1);
        self.clock_ns
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
        self.logging = Some(Logging::new(journal));
        self
    }

    /// Keeps a small file beside the log.
    pub fn save(&mut self, name: &'static str, bytes: &[u8]) {
        if let Some(logging) = &mut self.logging {
            logging.journal.save(name, bytes);
        }
    }

    /// What the host's clock says, in nanoseconds since 1970: in a group with a log, before each pass. It may go back.
    pub fn tell_time(&mut self, wall_ns: u64) {
        if let Some(logging) = &mut self.logging {
            logging.wall_ns = wall_ns;
        }
    }

    /// No record that is still to come will bear this time or an earlier one, in nanoseconds, and what bears one is on the
    /// disks of all voters: the log up to there is the same at every member, for good.
    pub fn past_ns(&self) -> u64 {
        self.logging.as_ref().map_or(0, |logging| logging.past_ns)
    }

    /// The clock goes on: what is announced is below what is stamped from now on.
    pub(super) fn run_clock(&mut self) {
        let seen_ns = self.multicast.log_time_ns();
        if let Some(logging) = &mut self.logging {
            logging.clock_ns = logging.clock_ns.max(seen_ns + 1);
            // What is announced holds for the next life of this process as well: it goes on from its host's clock and its log.
            let announced_ns = logging.wall_ns.max(self.multicast.persisted_ns()).max(logging.recovered_ns);
            self.membership.set_clock(logging.tick(), announced_ns);
            self.multicast.set_clock(logging.tick());
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
        if let (Some(logging), Some(past_ns)) = (&mut self.logging, past_ns) {
            logging.passing = Some((past_ns, horizon));
        }
    }

    /// Hands what is stable to the log.
    pub(super) fn write_log(&mut self) -> Result<bool, Breach> {
        let gone_on = self.membership.gone_on_above();
        let Some(logging) = &mut self.logging else { return Ok(false) };
        // Nobody waits for one that has no vote yet.
        let waits = self.membership.votes();
        let moved = self.multicast.write(gone_on, waits, &mut *logging.journal)?;
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
        let gone_on = self.membership.gone_on_above();
        match &mut self.logging {
            Some(logging) => {
                Ok(self.multicast.save_tail(gone_on, &mut *logging.journal)? || !self.membership.is_counted_on())
            }
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
        let gone_on = self.membership.gone_on_above();
        let Some(logging) = &mut self.logging else { return Ok(()) };
        let Some((version, time_ns, payload)) = self.membership.decision_bytes() else { return Ok(()) };
        let decision = decision(version, time_ns, &payload);
        logging.vote = None;
        let written = self.multicast.write_end(gone_on, trim, decision, &mut *logging.journal)?;
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
