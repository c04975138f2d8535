//! The node's steps at the end of an epoch.
//!
//! The membership determines the steps, and the data plane has the bytes.

use super::{Node, Phase};
use crate::error::Error;
use crate::fabric::Slot;
use crate::membership::{Cause, Wanted};
use crate::multicast::{Sink, Violation};
use crate::planted::{self, Bug};
use std::ops::Range;

/// Maximum bytes of one fetch, so that no fetch occupies a link for long.
const FETCH_BYTES: usize = 1 << 20;

/// The fetches that are not answered yet.
#[derive(Default)]
pub(super) struct Fetches {
    open: Vec<Fetch>,
    /// The streams that the open fetches complete. It changes with the candidates and their ends.
    plan: Vec<Wanted>,
    /// Fetches of earlier plans. Their answers may still come, and must not come into a row that its owner writes
    /// again.
    stray: Vec<Fetch>,
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
        for fetches in [&mut self.open, &mut self.stray] {
            fetches.retain(|f| !(f.from == from && f.owner == owner && f.range == *range));
        }
    }

    /// Drops the plan, because the link to `from` is down. The next plan is made without it.
    pub(super) fn lost(&mut self, from: Slot) {
        if self.open.iter().any(|fetch| fetch.from == from) {
            self.clear();
        }
        self.stray.retain(|fetch| fetch.from != from);
    }

    /// Drops the plan. The answers to its fetches may still come.
    fn clear(&mut self) {
        self.stray.append(&mut self.open);
        self.plan.clear();
    }

    /// Takes over an earlier fetch of the same bytes, if it is still open. Returns true if there is one.
    fn resumes(&mut self, from: Slot, owner: Slot, range: &Range<usize>) -> bool {
        let found = self.stray.iter().position(|f| f.from == from && f.owner == owner && f.range == *range);
        if let Some(index) = found {
            self.open.push(self.stray.remove(index));
        }
        found.is_some()
    }
}

impl Node {
    /// One step of a wedged member: flushes the streams of the epoch, and takes part in the decision.
    pub(super) fn step_epoch(&mut self) -> Result<bool, Violation> {
        let mut progress = self.flush()?;
        self.run_clock();
        progress |= self.membership.decide(self.now_ms, &mut *self.fabric);
        progress |= self.save_vote();
        if !self.membership.is_decided() {
            if self.membership.is_left_behind() {
                self.stop_removed();
                return Ok(true);
            }
            progress |= self.membership.suspect_the_stuck(self.now_ms, &mut *self.fabric);
            if self.membership.has_no_primary(self.now_ms) {
                let after_ms = self.membership.partition_timeout_ms();
                self.stop(Error::Partitioned { view: self.membership.view().map_or(0, |view| view.number), after_ms });
                return Ok(true);
            }
        }
        Ok(progress)
    }

    /// Obtains the frames that any candidate has and this member lacks.
    fn flush(&mut self) -> Result<bool, Violation> {
        let membership = &self.membership;
        let awaited = self.multicast.follow_all(&mut *self.fabric, &|slot| membership.phase_of(slot));
        let Some(wanted) = self.membership.wanted(self.multicast.flushed()) else { return Ok(false) };
        if wanted.is_empty() {
            if !self.save_tail()? {
                return Ok(false);
            }
            let have = self.multicast.flushed().to_vec();
            return Ok(self.membership.flushed(&have, &mut *self.fabric));
        }
        let here = self.multicast.flushed();
        if wanted.iter().any(|want| awaited >> want.stream & 1 == 1 && want.end.frames > here[want.stream].frames) {
            // The wanted frames lie in new memory of a row, which is not here yet. It will come: its owner published
            // them after this member had shown that it has the memory, or the link is made again.
            return Ok(false);
        }
        for want in &wanted {
            if !self.multicast.is_possible(want.stream, want.end) {
                if self.is_outrun() {
                    return Ok(false);
                }
                let what = format!("it shows that stream {} ends at {:?}, which cannot be", want.stream, want.end);
                return Err(Violation { peer: want.shown_by, what });
            }
        }
        if self.fetches.plan != wanted {
            self.plan(wanted);
        } else if self.fetches.open.is_empty() {
            let plan = std::mem::take(&mut self.fetches.plan);
            for want in plan {
                // The fetched frames are in place. They are not delivered before they are in the decided ends.
                match self.multicast.raise(want.stream, want.end) {
                    Ok(()) => {}
                    Err(_) if self.is_outrun() => return Ok(false),
                    Err(what) => return Err(Violation { peer: want.shown_by, what }),
                }
            }
        } else {
            return Ok(self.suspect_slow_sources());
        }
        Ok(true)
    }

    /// Fetches everything that is missing here.
    fn plan(&mut self, wanted: Vec<Wanted>) {
        self.fetches.clear();
        for want in &wanted {
            let (Some(from), Some(owner)) = (want.from, self.membership.slot_of(want.stream)) else { continue };
            for part in self.multicast.missing(want.stream, want.end) {
                for start in part.clone().step_by(FETCH_BYTES) {
                    let range = start..part.end.min(start + FETCH_BYTES);
                    if self.fetches.resumes(from, owner, &range) {
                        continue;
                    }
                    self.fabric.fetch(from, self.multicast.table_id(), owner, range.clone());
                    self.fetches.open.push(Fetch { from, owner, range, since_ms: self.now_ms });
                }
            }
        }
        self.fetches.plan = wanted;
    }

    /// Accuses a source that has not answered a fetch within the failure timeout.
    fn suspect_slow_sources(&mut self) -> bool {
        let (now_ms, timeout_ms) = (self.now_ms, self.membership.patience_ms());
        let slow = self.fetches.open.iter().find(|fetch| now_ms.saturating_sub(fetch.since_ms) >= timeout_ms);
        let Some(slot) = slow.map(|fetch| fetch.from) else { return false };
        self.fetches.clear();
        let rank = self.membership.view().and_then(|view| view.rank_of(slot));
        let what = "it did not answer when its memory was asked for";
        rank.is_some_and(|rank| self.membership.suspect(rank, Cause::Fetch, what, &mut *self.fabric))
    }

    /// One step after the decision: delivers up to it, then enters the next view or leaves the group.
    pub(super) fn end_epoch(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        let Some(trim) = self.membership.trim() else {
            match self.membership.everybody_left() && !self.membership.votes() {
                true => self.stop(Error::StateTransfer(
                    "every member that had the state of the group has left: start them again first".to_owned(),
                )),
                false => self.stop_removed(),
            }
            return Ok(true);
        };
        if !self.multicast.is_ending() {
            self.fetches.clear();
            self.multicast.end(&trim);
            self.write_decision(&trim)?;
        }
        let delivered = self.multicast.deliver(sink)?;
        if self.awaits_strays() {
            return Ok(delivered);
        }
        if self.is_outrun() && self.membership.is_in_next() {
            self.stop_removed();
        } else if self.multicast.has_ended() && self.decision_is_saved() {
            if self.membership.is_in_next() && !self.membership.falls_asleep() {
                self.enter()?;
            } else {
                self.until_ms = self.now_ms.saturating_add(self.membership.failure_timeout_ms());
                self.phase = Phase::Parting;
            }
        }
        Ok(true)
    }

    /// Whether the answer to a dropped fetch may still come into the row of a process that stays in the group.
    ///
    /// It would overwrite writes of that process in the next view. A source that does not answer in time is severed.
    fn awaits_strays(&mut self) -> bool {
        let (now_ms, patience_ms) = (self.now_ms, self.membership.patience_ms());
        let goes_on = |fetch: &Fetch| self.membership.goes_on(fetch.owner);
        let waits: Vec<(Slot, bool)> = self
            .fetches
            .stray
            .iter()
            .filter(|fetch| goes_on(fetch))
            .map(|fetch| (fetch.from, now_ms.saturating_sub(fetch.since_ms) >= patience_ms))
            .collect();
        for &(from, _) in waits.iter().filter(|(_, late)| *late) {
            self.fabric.sever(from);
            self.lost(from, Cause::LinkDown, "it did not answer when its memory was asked for");
        }
        waits.iter().any(|(_, late)| !late)
    }

    /// Enters the decided view. The data plane pushes its columns first, then the membership publishes the view.
    pub(super) fn enter(&mut self) -> Result<(), Violation> {
        let Some((layout, change, gone)) = self.membership.enter(&mut *self.fabric) else { return Ok(()) };
        // An earlier incarnation of a restarted process has ended and never had this memory.
        let is_given = |slot: &Slot| layout.seats.iter().any(|seat| seat.slot == *slot);
        let departed = change.departed.iter().map(|(peer, _)| peer.slot).filter(|slot| !is_given(slot));
        let departed: Vec<Slot> = departed.collect();
        if !self.renew_ring(layout.view, &departed) {
            return Ok(());
        }
        if let Err(breach) = self.enter_streams(&layout) {
            if self.is_outrun() {
                self.stop_removed();
                return Ok(());
            }
            // The decision does not match the data here, so this member cannot continue correctly.
            self.stop(Error::Internal(breach.what));
            return Ok(());
        }
        self.membership.installed(&mut *self.fabric);
        self.membership.publish_changes(&mut *self.fabric);
        // The decision is already queued for them. After this, nothing that they write lands here.
        gone.iter().for_each(|&slot| self.fabric.release(slot));
        self.membership.forget(&gone, &mut *self.fabric);
        self.changes.push(change);
        Ok(())
    }

    /// Gives this member's ring new memory after a departure, on shared memory.
    ///
    /// Returns false if this process stops because it cannot have any.
    ///
    /// A process that has departed may read the old memory for an unlimited time, also in its application's callback.
    fn renew_ring(&mut self, view: u64, departed: &[Slot]) -> bool {
        if departed.is_empty() || planted::is(Bug::RingKept) {
            return true;
        }
        let renewed = self.fabric.renew(self.multicast.table_id(), view, departed);
        let renewed = renewed.and_then(|row| match row.is_none_or(|row| self.multicast.renew(row)) {
            true => Ok(()),
            false => {
                let what = "a reservation has been open since 255 members departed one after another: its ring has no other memory any more";
                Err(Error::Misuse(what))
            }
        });
        if let Err(error) = renewed {
            self.stop(error);
            return false;
        }
        true
    }

    /// Whether some member has advanced without this one, on shared memory.
    ///
    /// It may have overwritten the data that was read here. In that case an apparent protocol violation is not one.
    pub(super) fn is_outrun(&self) -> bool {
        self.fabric.shares_rows() && self.membership.is_outrun()
    }

    /// One pass of a leaver: it stays until all other members know the decision.
    ///
    /// A member that has stopped responding does not delay it for long. But while no member knows the decision, the
    /// leaver waits longer, because a broken link may be relinked. Without that link the group would end.
    pub(super) fn part(&mut self) -> Result<bool, Violation> {
        if self.membership.all_know() || self.now_ms >= self.parts_until_ms() {
            self.close();
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether this process has left, as far as the others are concerned: a member knows the view without it. What
    /// remains is to end the links.
    pub(crate) fn has_departed(&self) -> bool {
        match self.phase {
            Phase::Parting | Phase::Closing | Phase::Left => !self.membership.nobody_knows(),
            _ => false,
        }
    }

    /// Ends the links, because no member waits for this leaver any more.
    pub(super) fn close(&mut self) {
        self.fabric.close();
        self.until_ms = self.now_ms.saturating_add(self.membership.failure_timeout_ms());
        self.phase = Phase::Closing;
    }

    /// The latest time until which a leaver stays, in milliseconds.
    pub(super) fn parts_until_ms(&self) -> u64 {
        let more_ms = if self.membership.nobody_knows() { self.membership.partition_timeout_ms() } else { 0 };
        self.until_ms.saturating_add(more_ms)
    }

    pub(super) fn stop_removed(&mut self) {
        let view = self.membership.view().map_or(0, |view| view.number + 1);
        self.stop(Error::Removed { view });
    }
}
