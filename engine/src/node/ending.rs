//! How an epoch ends: the node's steps between the membership, which knows what is to be done, and the data plane, which
//! has the bytes.

use super::{Node, Phase};
use crate::error::Error;
use crate::fabric::Slot;
use crate::membership::Wanted;
use crate::multicast::{Breach, Delivery};
use std::ops::Range;

/// Bytes asked for with one fetch, at most, so that none holds up a link for long.
const FETCH_BYTES: usize = 1 << 20;

/// What was asked of other members' memory and has not come yet.
#[derive(Default)]
pub(super) struct Fetches {
    open: Vec<Fetch>,
    /// What the open ones are for; it changes when a candidate or a vector does.
    plan: Vec<Wanted>,
}

#[derive(Debug, PartialEq, Eq)]
struct Fetch {
    from: Slot,
    owner: Slot,
    range: Range<usize>,
    since_ms: u64,
}

impl Fetches {
    pub(super) fn done(&mut self, from: Slot, owner: Slot, range: &Range<usize>) {
        let found = self.open.iter().position(|f| f.from == from && f.owner == owner && f.range == *range);
        if let Some(index) = found {
            self.open.remove(index);
        }
    }

    /// The link to `from` is down: the plan is made anew, without it.
    pub(super) fn lost(&mut self, from: Slot) {
        if self.open.iter().any(|fetch| fetch.from == from) {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.open.clear();
        self.plan.clear();
    }
}

impl Node {
    /// One step of a wedged member: flushes what the candidates have, and takes part in the decision.
    pub(super) fn step_epoch(&mut self) -> Result<bool, Breach> {
        let mut progress = self.flush()?;
        self.run_clock();
        progress |= self.membership.decide(self.now_ms, &mut *self.fabric);
        progress |= self.save_vote();
        if !self.membership.is_decided() {
            if self.membership.is_left_behind() {
                self.stop_removed();
                return Ok(true);
            }
            if self.membership.has_no_primary(self.now_ms) {
                let after_ms = self.settings.partition_timeout_ms;
                self.stop(Error::Partitioned { view: self.membership.view().map_or(0, |view| view.number), after_ms });
                return Ok(true);
            }
        }
        Ok(progress)
    }

    /// Takes care that this member has what any candidate has.
    fn flush(&mut self) -> Result<bool, Breach> {
        let Some(wanted) = self.membership.wanted(self.multicast.flushed()) else { return Ok(false) };
        if wanted.is_empty() {
            if !self.save_tail()? {
                return Ok(false);
            }
            let have = self.multicast.flushed().to_vec();
            return Ok(self.membership.flushed(&have, &mut *self.fabric));
        }
        for want in &wanted {
            if !self.multicast.is_possible(want.stream, want.end) {
                let what = format!("it shows that stream {} ends at {:?}, which cannot be", want.stream, want.end);
                return Err(Breach { peer: want.shown_by, what });
            }
        }
        if self.fetches.plan != wanted {
            self.plan(wanted);
        } else if self.fetches.open.is_empty() {
            let plan = std::mem::take(&mut self.fetches.plan);
            for want in plan {
                // What was fetched is in its place; it is not delivered before the decision says so.
                let raised = self.multicast.raise(want.stream, want.end);
                raised.map_err(|what| Breach { peer: want.shown_by, what })?;
            }
        } else {
            return Ok(self.suspect_slow_sources());
        }
        Ok(true)
    }

    /// Asks for everything that is not here.
    fn plan(&mut self, wanted: Vec<Wanted>) {
        self.fetches.clear();
        for want in &wanted {
            let (Some(from), Some(owner)) = (want.from, self.membership.slot_of(want.stream)) else { continue };
            for part in self.multicast.missing(want.stream, want.end) {
                for start in part.clone().step_by(FETCH_BYTES) {
                    let range = start..part.end.min(start + FETCH_BYTES);
                    self.fabric.fetch(from, self.multicast.table_id(), owner, range.clone());
                    self.fetches.open.push(Fetch { from, owner, range, since_ms: self.now_ms });
                }
            }
        }
        self.fetches.plan = wanted;
    }

    /// A fetch that is not answered within the failure timeout is a suspicion.
    fn suspect_slow_sources(&mut self) -> bool {
        let (now_ms, timeout_ms) = (self.now_ms, self.settings.failure_timeout_ms);
        let slow = self.fetches.open.iter().find(|fetch| now_ms.saturating_sub(fetch.since_ms) >= timeout_ms);
        let Some(slot) = slow.map(|fetch| fetch.from) else { return false };
        self.fetches.clear();
        let rank = self.membership.view().and_then(|view| view.rank_of(slot));
        let what = "it did not answer when its memory was asked for";
        rank.is_some_and(|rank| self.membership.suspect(rank, what, &mut *self.fabric))
    }

    /// One step once the decision is known: delivers up to it, then goes on to the next view, or out of the group.
    pub(super) fn end_epoch(&mut self, sink: &mut dyn FnMut(Delivery<'_>)) -> Result<bool, Breach> {
        let Some(trim) = self.membership.trim() else {
            self.stop_removed();
            return Ok(true);
        };
        if !self.multicast.is_ending() {
            self.fetches.clear();
            self.multicast.end(&trim);
            self.write_decision(&trim)?;
        }
        self.deliver(sink)?;
        let outrun = self.fabric.shares_rows() && self.membership.is_outrun();
        if outrun && self.membership.is_in_next() {
            self.stop_removed();
        } else if (outrun || self.multicast.has_ended()) && self.decision_is_saved() {
            if self.membership.is_in_next() && !self.membership.falls_asleep() {
                self.enter()?;
            } else {
                // On shared memory the others do not wait until one that leaves has read all of their last messages.
                self.until_ms = self.now_ms.saturating_add(self.settings.failure_timeout_ms);
                self.phase = Phase::Parting;
            }
        }
        Ok(true)
    }

    /// Begins the view that was decided. The data plane shows it first, the membership then says that it is shown.
    pub(super) fn enter(&mut self) -> Result<(), Breach> {
        let Some((layout, change, gone)) = self.membership.enter(&mut *self.fabric) else { return Ok(()) };
        if let Err(breach) = self.multicast.enter(&layout, self.sentinels(), &mut *self.fabric) {
            // What was decided does not fit what is here: nothing that this member does from now on would be right.
            self.stop(Error::Internal(breach.what));
            return Ok(());
        }
        self.membership.installed(&mut *self.fabric);
        self.membership.tell(&mut *self.fabric);
        // They have been told of the decision; nothing of theirs lands any more.
        gone.iter().for_each(|&slot| self.fabric.release(slot));
        self.membership.forget(&gone, &mut *self.fabric);
        self.changes.push(change);
        Ok(())
    }

    /// A process that has left stays until all others know that it may go.
    pub(super) fn part(&mut self) -> Result<bool, Breach> {
        if self.membership.all_know() || self.now_ms >= self.until_ms {
            self.fabric.close();
            self.until_ms = self.now_ms.saturating_add(self.settings.failure_timeout_ms);
            self.phase = Phase::Closing;
            return Ok(true);
        }
        Ok(false)
    }

    pub(super) fn stop_removed(&mut self) {
        let view = self.membership.view().map_or(0, |view| view.number + 1);
        self.stop(Error::Removed { view });
    }
}
