//! Who is in the group: views, and the epochs between them.
//!
//! A view lasts until a member suspects another, leaves, or the leader has somebody to take in. Then its members *wedge*:
//! each stops its streams and shows where they end for it. The members that none of the others accuses, the *candidates*,
//! fetch from each other what one of them has and another lacks, and agree by Paxos, over rows of the table, on one
//! value: the next view, and where every stream ends. Everyone delivers up to there, and begins the next view.
//!
//! [`Membership`] holds what the row of this process shows, and what it has read in the others'. It owns no clock, no
//! randomness and no I/O: [`crate::node::Node`] drives it, with the data plane beside it.

mod accusations;
mod alone;
mod candidates;
mod causes;
mod check;
mod clocks;
mod detector;
mod epoch;
mod joining;
mod ledger;
mod links;
mod paxos;
mod restart;
mod row;
mod timeouts;
mod view;

pub use accusations::Cause;
pub use alone::Alone;
pub use epoch::Wanted;
pub use joining::{Admission, Refusal};
pub use ledger::Ledger;
pub use restart::Outcome;
pub use row::table_spec;
pub use view::{Departure, Member, Peer, View};

use crate::config::MemberId;
use crate::fabric::{Fabric, Rank, Row, SLOTS, Slot, Source};
use crate::multicast::{Breach, End, Layout, Seat, Standing};
use crate::sst::{Column, Table};
use detector::{Detector, Look};
use epoch::Epoch;
use joining::Pending;
use links::Link;
use row::Record;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use view::Value;

/// The time of the first view's begin: all founders write the same.
pub const FIRST_NS: u64 = 1;
/// So many of those that departed are remembered.
const DEPARTED_MAX: usize = SLOTS;

/// How patient a member is, and what it may do alone.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A member whose engine stands still for so long is suspected; see [`Membership::failure_timeout_ms`].
    pub failure_timeout_ms: u64,
    /// An epoch that has not ended after so long leaves this member without a primary partition; see
    /// [`Membership::partition_timeout_ms`].
    pub partition_timeout_ms: u64,
    /// How long those who come may take: the founders to meet, a joiner to be taken in.
    pub join_timeout_ms: u64,
    /// Of two voters one alone goes on. Both may do so at once: the application must rule that out by other means.
    pub lone_survivor: bool,
    /// After a total failure, for how long those who are enough to go on wait for the others.
    pub restart_wait_ms: u64,
    /// The group has a log: votes are on disk before they are shown, and the group outlives all of its processes.
    pub logs: bool,
    /// In a group with a log: how far the own host's clock may be from the others' before it is corrected.
    pub clock_skew_max_ms: u64,
    /// Seeds the pauses between attempts of leaders that got in each other's way.
    pub seed: u64,
}

/// What happened between two views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewChange {
    /// The view that begins.
    pub view: View,
    /// Its members that were not in the one before.
    pub joined: Vec<Peer>,
    /// The members of the one before that are not in it, and why.
    pub departed: Vec<(Peer, Departure)>,
}

/// See the module.
pub struct Membership {
    table: Table,
    me: Peer,
    settings: Settings,
    view: Option<View>,
    /// In a group with a log: the decision that began it.
    began: Option<Value>,
    /// All processes of the group are being restarted; see `restart`.
    restarting: bool,
    /// This founder waits for the others to begin the first view.
    founding: bool,
    /// What is to be said of the time; see [`row::CLOCK`] and [`row::HOST_CLOCK`].
    clock_ns: u64,
    announced_ns: u64,
    /// See [`Membership::take_mute`].
    mute: Vec<Slot>,
    /// This process stood still: until then it is no leader that removes anybody.
    returned_until_ms: u64,
    host_ns: u64,
    /// By slot.
    links: Vec<Option<Link>>,
    /// The slots whose links are up.
    audience: Vec<Slot>,
    /// The slots of the view's other members that are linked, for the look at each pass.
    watched: Vec<Slot>,
    detector: Detector,
    epoch: Epoch,
    pending: Vec<Pending>,
    /// One above the slot that was linked last.
    next_slot: Slot,
    /// A joiner's view, once it is decided.
    invited: Option<Value>,
    /// What was observed of members that speaks against them.
    faults: Vec<(MemberId, String)>,
    /// Something was pushed that `CHANGES` does not tell yet.
    changed: bool,
    /// The processes that departed last, with the view that began without them.
    departed: VecDeque<(Peer, u64, Departure)>,
}

impl Membership {
    /// For process `me` with its `row` of the table of [`table_spec`].
    pub fn new(me: Peer, row: Arc<Row>, settings: Settings, now_ms: u64) -> Membership {
        let membership = Membership {
            table: Table::new(table_spec(), me.slot, row),
            me,
            settings,
            view: None,
            began: None,
            restarting: false,
            founding: false,
            clock_ns: 0,
            announced_ns: 0,
            mute: Vec::new(),
            returned_until_ms: 0,
            host_ns: 0,
            links: vec![None; SLOTS],
            audience: Vec::new(),
            watched: Vec::new(),
            detector: Detector::new(now_ms),
            epoch: Epoch::new(settings.seed),
            pending: Vec::new(),
            next_slot: me.slot + 1,
            invited: None,
            faults: Vec::new(),
            changed: false,
            departed: VecDeque::new(),
        };
        membership.advertise_timeouts();
        membership
    }

    /// The present view; `None` before the first.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// This process.
    pub fn me(&self) -> Peer {
        self.me
    }

    fn number(&self) -> u64 {
        self.view.as_ref().map_or(0, |view| view.number)
    }

    fn my_rank(&self) -> Option<Rank> {
        self.view.as_ref().and_then(|view| view.rank_of(self.me.slot))
    }

    /// The slot of the member of `rank`.
    pub fn slot_of(&self, rank: Rank) -> Option<Slot> {
        self.view.as_ref()?.members.get(rank).map(|member| member.peer.slot)
    }

    /// Where the member in `slot` is, seen from this view.
    #[inline]
    pub fn standing(&self, slot: Slot) -> Standing {
        let view = self.number();
        if self.table.load(slot, row::INSTALLED) < view + 1 {
            Standing::Behind
        } else if self.table.load(slot, row::WEDGED) > view {
            Standing::Gone
        } else {
            Standing::Here
        }
    }

    /// A member whose view word is above this may reuse what this one has still to deliver: it has begun the next view, and,
    /// if this one is in that too, the one after it.
    fn gone_on_above(&self) -> u64 {
        self.number() + 1 + u64::from(self.is_in_next())
    }

    /// Whether the member in `slot` has gone on like that.
    pub fn has_gone_on(&self, slot: Slot) -> bool {
        // What was read of its row before may not be read later than the word.
        fence(Ordering::Acquire);
        self.table.load(slot, row::INSTALLED) > self.gone_on_above()
    }

    /// Whether some member has gone on like that: then this one is not among them.
    pub fn is_outrun(&self) -> bool {
        self.view.iter().flat_map(|view| &view.members).any(|member| self.has_gone_on(member.peer.slot))
    }

    fn store_and_push(&mut self, column: Column, value: u64, fabric: &mut dyn Fabric) {
        self.table.store(column, value);
        self.table.push(fabric, &self.audience, column.0..column.0 + 8, Source::Snapshot);
        self.changed = true;
    }

    /// Writes a record of the own row, then what guards it.
    fn write(&mut self, record: Record, words: &[u64], fabric: &mut dyn Fabric) {
        let me = self.me.slot;
        let (place, guard, value) = record.place(self.number(), |column| self.table.load(me, column));
        for (n, &word) in words.iter().enumerate() {
            self.table.store(place.at(n), word);
        }
        self.table.push(fabric, &self.audience, place.0..place.at(words.len()).0, Source::Snapshot);
        self.store_and_push(guard, value, fabric);
    }

    /// Tells the peers that there is something to look at, last of all.
    pub fn tell(&mut self, fabric: &mut dyn Fabric) {
        if std::mem::take(&mut self.changed) {
            let count = self.table.load(self.me.slot, row::CHANGES) + 1;
            self.store_and_push(row::CHANGES, count, fabric);
            self.changed = false;
        }
    }

    /// View 0 begins.
    pub fn found(&mut self, view: View) {
        let first = Value { view: view.clone(), trims: Vec::new(), left: 0, time_ns: FIRST_NS };
        self.began = self.settings.logs.then_some(first);
        self.founding = true;
        self.begin(view);
    }

    /// A view begins; the founders' first one with all of them linked. [`Membership::installed`] shows it.
    pub fn begin(&mut self, view: View) {
        self.epoch.begin(view.members.len());
        self.view = Some(view);
        self.count_links();
        self.detector.begin();
        for link in self.links.iter_mut().flatten() {
            // What it shows of this view may have been there before.
            link.changes = u64::MAX;
        }
        let members = &self.view;
        self.pending.retain(|pending| !members.iter().any(|v| v.members.iter().any(|m| m.peer == pending.peer)));
    }

    /// The founders that have not met all others yet.
    pub fn not_installed(&self) -> Vec<Peer> {
        let members = self.view.iter().flat_map(|view| &view.members).map(|member| member.peer);
        members.filter(|peer| self.table.load(peer.slot, row::INSTALLED) == 0).collect()
    }

    /// Whether some member has wedged the present view: then all have installed it.
    pub fn somebody_wedged(&self) -> bool {
        let view = self.number();
        self.watched.iter().any(|&slot| self.table.load(slot, row::WEDGED) > view)
    }

    /// Looks at the rows and the time. True if anything new was seen.
    pub fn observe(&mut self, now_ms: u64, fabric: &mut dyn Fabric) -> Result<bool, Breach> {
        let mut news = self.observe_rows(fabric)?;
        if self.detector.is_due(now_ms, self.settings.failure_timeout_ms) {
            let beats = self.table.load(self.me.slot, row::HEARTBEAT) + 1;
            self.table.store(row::HEARTBEAT, beats);
            self.show_clock();
            self.table.push(fabric, &self.audience, row::HEARTBEAT.0..row::CHANGES.0, Source::Snapshot);
            news |= self.judge_heartbeats(now_ms, fabric);
        }
        Ok(news)
    }

    /// Accuses the members whose heartbeat stands still, and acquits those whose heartbeat moves again.
    fn judge_heartbeats(&mut self, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        let table = &self.table;
        // Bytes that arrive are a sign of life: on a slow network a heartbeat comes behind all that was written before it.
        let load = |slot| table.load(slot, row::HEARTBEAT).wrapping_add(fabric.received_from(slot));
        let timeout_ms = self.patience_ms();
        let looks = self.detector.look(now_ms, timeout_ms, &self.watched, load);
        let mut news = false;
        for (slot, look) in looks {
            let Some(rank) = self.view.as_ref().and_then(|view| view.rank_of(slot)) else { continue };
            news |= match look {
                Look::Moved => self.acquit(rank, Cause::Silence, fabric),
                Look::Silent(_) if self.has_not_begun(slot) => false,
                Look::Silent(silent_ms) => {
                    if silent_ms >= 2 * timeout_ms && self.is_wedged() && !self.is_final(rank) && !fabric.shares_rows()
                    {
                        self.mute.push(slot);
                    }
                    let what = format!("its engine has stood still for {timeout_ms} ms");
                    self.suspect(rank, Cause::Silence, &what, fabric)
                }
            };
        }
        news
    }

    /// The processes of whose links nothing has come for so long that their connections are better made again: after an outage of
    /// the network, TCP tries the old one again only after a pause as long as the outage.
    pub fn take_mute(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.mute)
    }

    /// For how long a member may stand still: the failure timeout, or longer where this process itself did not run when it
    /// wanted to.
    pub fn patience_ms(&self) -> u64 {
        self.detector.patience_ms(self.failure_timeout_ms())
    }

    /// This process ran again after `elapsed_ms` by its host's clock.
    ///
    /// One that stood still for long is heard again by those who waited for it only in a moment: until then it does not go on
    /// without them, although others that stood still may be enough.
    pub fn ran_after(&mut self, elapsed_ms: u64, now_ms: u64) {
        self.detector.ran_after(elapsed_ms, self.settings.failure_timeout_ms);
        if elapsed_ms > self.failure_timeout_ms() / 2 {
            self.returned_until_ms = now_ms.saturating_add(self.failure_timeout_ms());
        }
    }

    /// Whether the founder in `slot` is still to start its engine: there is no heartbeat yet that could stand still.
    fn has_not_begun(&self, slot: Slot) -> bool {
        let load = |column| self.table.load(slot, column);
        self.founding && load(row::INSTALLED) == 0 && load(row::HEARTBEAT) == 0
    }

    /// All founders run. One that has begun just now has had no time for a heartbeat.
    pub fn founded(&mut self) {
        self.founding = false;
        self.detector.begin();
    }

    /// The time between two heartbeats.
    pub fn beat_ms(&self) -> u64 {
        detector::beat_ms(self.settings.failure_timeout_ms)
    }

    /// When [`Membership::observe`] has something to do even if nothing arrives.
    pub fn next_look_ms(&self) -> u64 {
        self.detector.next_beat_ms(self.settings.failure_timeout_ms)
    }

    fn observe_rows(&mut self, fabric: &mut dyn Fabric) -> Result<bool, Breach> {
        let mut news = false;
        if self.view.is_none() {
            return self.look_for_invitation();
        }
        for i in 0..self.watched.len() {
            let slot = self.watched[i];
            let changes = self.table.load(slot, row::CHANGES);
            let Some(link) = self.links[slot].as_mut().filter(|link| link.changes != changes) else { continue };
            link.changes = changes;
            news |= self.read_row(slot, fabric)?;
        }
        Ok(news)
    }

    /// What was observed of members since the last call that speaks against them.
    pub fn take_faults(&mut self) -> Vec<(MemberId, String)> {
        std::mem::take(&mut self.faults)
    }

    fn note_fault(&mut self, rank: Rank, what: String) {
        if let Some(member) = self.view.as_ref().and_then(|view| view.members.get(rank)) {
            self.faults.push((member.peer.id, what));
        }
    }

    /// Says that this process wants to leave.
    pub fn ask_to_leave(&mut self, fabric: &mut dyn Fabric) {
        if self.table.load(self.me.slot, row::LEAVING) == 0 {
            self.store_and_push(row::LEAVING, 1, fabric);
        }
    }

    /// Says that this process has the group's state.
    pub fn ready(&mut self, fabric: &mut dyn Fabric) {
        if self.table.load(self.me.slot, row::READY) == 0 {
            self.store_and_push(row::READY, 1, fabric);
        }
    }

    /// What the row shows of an epoch is over; it is about no epoch while it is being cleared.
    fn clear_epoch(&mut self, fabric: &mut dyn Fabric) {
        self.store_and_push(row::EPOCH, 0, fabric);
        for offset in row::GUARDS.step_by(8) {
            self.table.store(Column(offset), 0);
        }
        self.table.push(fabric, &self.audience, row::GUARDS, Source::Snapshot);
    }

    /// The next view begins here, which was decided. What it begins with, for the data plane, which is to push what it shows
    /// before [`Membership::installed`].
    pub fn enter(&mut self, fabric: &mut dyn Fabric) -> Option<(Layout, ViewChange, Vec<Slot>)> {
        let value = self.epoch.decided.take().or_else(|| self.invited.take())?;
        let change = ViewChange {
            view: value.view.clone(),
            joined: value.joined().collect(),
            departed: value.departed().collect(),
        };
        let start =
            |peer: Peer| value.trims.iter().find(|(old, _)| *old == peer).map_or(End::default(), |&(_, end)| end);
        let seats = value
            .view
            .members
            .iter()
            .map(|member| Seat {
                slot: member.peer.slot,
                id: member.peer.id,
                voter: member.voter,
                start: start(member.peer),
            })
            .collect();
        let layout = Layout { view: value.view.number, seats, order: value.view.order, time_ns: value.time_ns };
        self.departed.extend(change.departed.iter().map(|&(peer, departure)| (peer, value.view.number, departure)));
        let excess = self.departed.len().saturating_sub(DEPARTED_MAX);
        self.departed.drain(..excess);
        self.clear_epoch(fabric);
        let gone = change
            .departed
            .iter()
            .map(|(peer, _)| *peer)
            .filter(|peer| self.links[peer.slot].is_some_and(|l| l.peer == *peer));
        let gone: Vec<Slot> = gone.map(|peer| peer.slot).collect();
        self.begin(value.view.clone());
        self.began = self.settings.logs.then_some(value);
        Some((layout, change, gone))
    }

    /// The data plane is in the new view too, and has pushed what it shows of it: shows so, and accuses whom there is no link
    /// with.
    pub fn installed(&mut self, fabric: &mut dyn Fabric) {
        let shown = self.number() + 1;
        self.store_and_push(row::INSTALLED, shown, fabric);
        self.store_and_push(row::EPOCH, shown, fabric);
        let members: Vec<Peer> = self.view.iter().flat_map(|view| &view.members).map(|m| m.peer).collect();
        for (rank, peer) in members.into_iter().enumerate() {
            if !self.is_linked(peer) {
                self.suspect(rank, Cause::LinkDown, "there is no link to it", fabric);
            }
        }
    }
}
