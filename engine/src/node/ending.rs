//! The node's steps at the end of an epoch.
//!
//! The membership determines the steps, and the data plane has the bytes.

use super::lane::Lane;
use super::{Node, Phase};
use crate::error::Error;
use crate::fabric::{Slot, TableId};
use crate::membership::{Cause, Closing, Fact, Show, Wanted};
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
    table: TableId,
    owner: Slot,
    range: Range<usize>,
    since_ms: u64,
}

impl Fetch {
    /// Whether it fetches from `from` these bytes of a table's row.
    fn is(&self, from: Slot, (table, owner, range): (TableId, Slot, &Range<usize>)) -> bool {
        (self.from, self.table, self.owner, &self.range) == (from, table, owner, range)
    }
}

impl Fetches {
    pub(super) fn done(&mut self, from: Slot, bytes: (TableId, Slot, &Range<usize>)) {
        for fetches in [&mut self.open, &mut self.stray] {
            fetches.retain(|fetch| !fetch.is(from, bytes));
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
    fn resumes(&mut self, from: Slot, bytes: (TableId, Slot, &Range<usize>)) -> bool {
        let found = self.stray.iter().position(|fetch| fetch.is(from, bytes));
        if let Some(index) = found {
            self.open.push(self.stray.remove(index));
        }
        found.is_some()
    }
}

impl Node {
    /// Obtains frames that another member has and this member lacks. Returns true if anything moved.
    pub(super) fn obtain(&mut self, wanted: Vec<Wanted>) -> Result<bool, Violation> {
        for want in &wanted {
            let mut lanes = self.lanes.iter();
            let is_possible = |lane: &Lane| Some(lane.multicast.is_possible(lane.owner_of(want.stream)?, want.end));
            if lanes.find_map(is_possible) != Some(true) {
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
                let mut lanes = self.lanes.iter_mut();
                let raise = |lane: &mut Lane| Some(lane.multicast.raise(lane.owner_of(want.stream)?, want.end));
                match lanes.find_map(raise) {
                    Some(Err(_)) if self.is_outrun() => return Ok(false),
                    Some(Err(what)) => return Err(Violation { peer: want.shown_by, what }),
                    _ => {}
                }
            }
        } else {
            return self.suspect_slow_sources();
        }
        Ok(true)
    }

    /// Fetches everything that is missing here.
    fn plan(&mut self, wanted: Vec<Wanted>) {
        self.fetches.clear();
        for want in &wanted {
            let (Some(from), Some(owner)) = (want.from, want.owner) else { continue };
            let lanes = self.lanes.iter();
            let found = lanes.filter_map(|lane| Some((&lane.multicast, lane.owner_of(want.stream)?))).next();
            let Some((multicast, stream)) = found else { continue };
            let table = multicast.table_id();
            for part in multicast.missing(stream, want.end) {
                for start in part.clone().step_by(FETCH_BYTES) {
                    let range = start..part.end.min(start + FETCH_BYTES);
                    if self.fetches.resumes(from, (table, owner, &range)) {
                        continue;
                    }
                    self.fabric.fetch(from, table, owner, range.clone());
                    self.fetches.open.push(Fetch { from, table, owner, range, since_ms: self.now_ms });
                }
            }
        }
        self.fetches.plan = wanted;
    }

    /// Accuses a source that has not answered a fetch within the failure timeout.
    fn suspect_slow_sources(&mut self) -> Result<bool, Violation> {
        let (now_ms, timeout_ms) = (self.now_ms, self.membership.patience_ms());
        let slow = self.fetches.open.iter().find(|fetch| now_ms.saturating_sub(fetch.since_ms) >= timeout_ms);
        let Some(slot) = slow.map(|fetch| fetch.from) else { return Ok(false) };
        self.fetches.clear();
        self.report(Fact::Slow(slot))
    }

    /// Ends the streams at the decided ends, and writes the decision to disk.
    pub(super) fn close_streams(&mut self, closing: &Closing) -> Result<(), Violation> {
        self.fetches.clear();
        for lane in &mut self.lanes {
            let ends = lane.part(&closing.ends);
            lane.multicast.end(ends);
        }
        self.write_decision(closing)
    }

    /// Delivers up to the decided ends, and reports that.
    pub(super) fn deliver_decided(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        let delivered = self.deliver(sink, |_, breach| Err(breach))?;
        if self.awaits_strays()? {
            return Ok(delivered);
        }
        let ended = self.lanes.iter().all(|lane| lane.multicast.has_ended());
        let all = ended && self.may_show(&Show::View)?;
        self.report(Fact::Delivered { all })
    }

    /// Whether the answer to a dropped fetch may still come into the row of a process that stays in the group.
    ///
    /// It would overwrite writes of that process in the next view. A source that does not answer in time is severed.
    fn awaits_strays(&mut self) -> Result<bool, Violation> {
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
            let what = "it did not answer when its memory was asked for";
            self.report(Fact::Lost { slot: from, cause: Cause::LinkDown, what, sever: true })?;
        }
        Ok(waits.iter().any(|(_, late)| !late))
    }

    /// Enters the decided view. The data plane pushes its columns first, then the membership publishes the view.
    pub(super) fn enter(&mut self) -> Result<(), Violation> {
        let Some((configs, change, gone)) = self.membership.enter(&mut *self.fabric) else { return Ok(()) };
        // An earlier incarnation of a restarted process has ended and never had this memory.
        let view = change.view.number;
        let departed = change.departed.iter().map(|(peer, _)| peer.slot);
        let departed: Vec<Slot> = departed.filter(|&slot| change.view.rank_of(slot).is_none()).collect();
        if !self.renew_rings(view, &departed) {
            return Ok(());
        }
        if let Err(breach) = self.enter_streams(&configs) {
            let removed = self.is_outrun().then_some(Error::Removed { view: view + 1 });
            // Otherwise the decision does not match the data here, so this member cannot continue correctly.
            self.stop(removed.unwrap_or(Error::Internal(breach.what)));
            return Ok(());
        }
        self.show(&Show::View)?;
        self.membership.publish_changes(&mut *self.fabric);
        self.membership.forget(&gone, &mut *self.fabric);
        self.changes.push(change);
        Ok(())
    }

    /// Gives this member's rings new memory after a departure, on shared memory.
    ///
    /// Returns false if this process stops because it cannot have any.
    ///
    /// A process that has departed may read the old memory for an unlimited time, also in its application's callback.
    fn renew_rings(&mut self, view: u64, departed: &[Slot]) -> bool {
        if departed.is_empty() || planted::is(Bug::RingKept) {
            return true;
        }
        for lane in &mut self.lanes {
            let renewed = self.fabric.renew(lane.multicast.table_id(), view, departed);
            let renewed = renewed.and_then(|row| match row.is_none_or(|row| lane.multicast.renew(row)) {
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
        }
        true
    }

    /// Whether some member has advanced without this one, on shared memory.
    ///
    /// It may have overwritten the data that was read here. In that case an apparent protocol violation is not one.
    pub(super) fn is_outrun(&self) -> bool {
        self.fabric.shares_rows() && self.membership.is_outrun()
    }

    /// Whether this process has left, as far as the others are concerned: a member knows the view without it. What
    /// remains is to end the links.
    pub(crate) fn has_departed(&self) -> bool {
        match self.phase {
            Phase::Parting | Phase::Closing | Phase::Left => !self.membership.nobody_knows(),
            _ => false,
        }
    }
}
