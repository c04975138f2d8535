//! The membership of the group: views, and the epochs between them.
//!
//! A view lasts until a member suspects another, a member leaves, or the leader has a process to admit. Then its
//! members *wedge*: each stops its streams and publishes where they end. The *candidates* are the members that do not
//! accuse each other. They fetch from each other the frames that one has and another lacks. Then they agree by Paxos,
//! over rows of the table, on one value: the next view and the end of every stream. Every member delivers up to these
//! ends and begins the next view.
//!
//! [`Membership`] holds the contents of this process's row and the values read from the other rows. It has no clock,
//! randomness or I/O of its own. [`crate::node::Node`] reports to it what it observes, and carries out the actions that
//! follow: see [`Membership::step`].

mod accusations;
mod action;
mod alone;
mod candidates;
mod causes;
mod check;
mod clocks;
mod detector;
mod epoch;
mod hard_state;
mod joining;
mod leaving;
mod links;
mod paxos;
mod restart;
mod row;
mod shard;
mod step;
mod timeouts;
mod view;

pub(crate) use accusations::Cause;
pub(crate) use action::{Action, Actions, Beginning, Closing, Fact, Moment, Role, Show};
pub(crate) use epoch::Wanted;
pub(crate) use hard_state::HardState;
pub(crate) use joining::{Admission, Refusal};
pub(crate) use restart::LogNeed;
pub(crate) use row::table_spec;
pub(crate) use shard::Shard;
pub(crate) use view::{Departure, Member, Peer, View};

use crate::fabric::{Fabric, Rank, Row, SLOTS, Slot, Source};
use crate::multicast::{PeerPhase, ViewConfig, Violation};
use crate::sst::{Column, Table};
use crate::types::MemberId;
use detector::{Detector, Look};
use epoch::Epoch;
use joining::Pending;
use links::Link;
use restart::RestartWait;
use row::Record;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use view::ViewDecision;

/// The time of the first view's decision. All founders write the same value.
pub(crate) const FIRST_NS: u64 = 1;
/// How many departed processes are remembered.
const DEPARTED_MAX: usize = SLOTS;

/// The timeouts and permissions of a member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long a member's heartbeat may stand still before it is suspected; see [`Membership::failure_timeout_ms`].
    pub failure_timeout_ms: u64,
    /// How long a member may be without a majority before it stops; see [`Membership::partition_timeout_ms`].
    pub partition_timeout_ms: u64,
    /// How long the founders may take to link with each other, and a joiner to be admitted.
    pub join_timeout_ms: u64,
    /// Whether one of two voters may continue alone. Both may do so at once, which the application must prevent by
    /// other means.
    pub lone_survivor: bool,
    /// After a total failure, how long a sufficient set of members waits for the rest.
    pub restart_wait_ms: u64,
    /// Whether the group has a log. Votes are then on disk before they are published, and the group survives the end of
    /// all its processes.
    pub logs: bool,
    /// The number of subgroups: at most 4, so that their streams are at most those of a decision.
    pub subgroups: usize,
    /// In a group with a log: the difference between the host's clock and the others' above which it is corrected.
    pub clock_skew_max_ms: u64,
    /// The seed of the random pauses between the attempts of competing leaders.
    pub seed: u64,
}

/// A fault observed of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The view in which it was observed.
    pub view: u64,
    pub member: MemberId,
    /// A text for an operator.
    pub what: String,
}

/// The difference between two successive views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewChange {
    /// The view that begins.
    pub view: View,
    /// Its members that were not in the previous view.
    pub joined: Vec<Peer>,
    /// The members of the previous view that are not in this one, each with the reason.
    pub departed: Vec<(Peer, Departure)>,
}

/// See the module.
pub(crate) struct Membership {
    table: Table,
    me: Peer,
    settings: Settings,
    view: Option<View>,
    /// In a group with a log: the decision that began the view.
    began: Option<ViewDecision>,
    /// All processes of the group are being restarted; see `restart`.
    restarting: bool,
    restart_wait: RestartWait,
    /// This founder waits for the other founders to begin the first view.
    founding: bool,
    /// See [`Membership::set_clock`]; `announced_ns` goes to [`row::CLOCK`], and `host_ns` to [`row::HOST_CLOCK`].
    clock_ns: u64,
    announced_ns: u64,
    /// See [`Membership::take_mute`].
    mute: Vec<Slot>,
    /// Set after this process was paused. Until then it proposes no view without some of the members.
    returned_until_ms: u64,
    host_ns: u64,
    /// By slot.
    links: Vec<Option<Link>>,
    /// The slots of the processes that are linked.
    audience: Vec<Slot>,
    /// The slots of the view's other members that are linked. Each pass reads their rows.
    watched: Vec<Slot>,
    detector: Detector,
    epoch: Epoch,
    pending: Vec<Pending>,
    /// Where the search for a free slot begins: one above the slot that was given out or linked last.
    next_slot: Slot,
    /// The decision that names this joiner, once it is known.
    invited: Option<ViewDecision>,
    /// The faults observed of members since the last [`Membership::take_faults`].
    faults: Vec<Fault>,
    /// Something was pushed since the last push of `CHANGES`.
    changed: bool,
    /// The processes that departed last, each with the view that began without it.
    departed: VecDeque<(Peer, u64, Departure)>,
}

impl Membership {
    /// Creates the membership of process `me`, with its `row` of the table of [`table_spec`].
    pub(crate) fn new(me: Peer, row: Arc<Row>, settings: Settings, now_ms: u64) -> Membership {
        let membership = Membership {
            table: Table::new(table_spec(), me.slot, row),
            me,
            settings,
            view: None,
            began: None,
            restarting: false,
            restart_wait: RestartWait::default(),
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
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// This process.
    pub(crate) fn me(&self) -> Peer {
        self.me
    }

    fn number(&self) -> u64 {
        self.view.as_ref().map_or(0, |view| view.number)
    }

    fn my_rank(&self) -> Option<Rank> {
        self.view.as_ref().and_then(|view| view.rank_of(self.me.slot))
    }

    /// The slot of the member of `rank`.
    pub(crate) fn slot_of(&self, rank: Rank) -> Option<Slot> {
        self.view.as_ref()?.members.get(rank).map(|member| member.peer.slot)
    }

    /// Whether the member in `slot` has not begun this view, runs it, or has wedged it.
    #[inline]
    pub(crate) fn phase_of(&self, slot: Slot) -> PeerPhase {
        let view = self.number();
        if self.table.load(slot, row::INSTALLED) < view + 1 {
            PeerPhase::Behind
        } else if self.table.load(slot, row::WEDGED) > view {
            PeerPhase::Gone
        } else {
            PeerPhase::Here
        }
    }

    /// A peer with an `INSTALLED` above this value may overwrite bytes that this member has not delivered yet.
    ///
    /// Such a peer has begun the next view, or, if this member is in the next view too, the one after it.
    fn gone_on_above(&self) -> u64 {
        self.number() + 1 + u64::from(self.is_in_next())
    }

    /// Whether the member in `slot` has advanced beyond that value.
    fn has_gone_on(&self, slot: Slot) -> bool {
        // Earlier loads of the peer's row must not be reordered after the load of `INSTALLED`.
        fence(Ordering::Acquire);
        self.table.load(slot, row::INSTALLED) > self.gone_on_above()
    }

    /// Whether some member has advanced beyond that value. Then this member was removed.
    pub(crate) fn is_outrun(&self) -> bool {
        self.view.iter().flat_map(|view| &view.members).any(|member| self.has_gone_on(member.peer.slot))
    }

    fn store_and_push(&mut self, column: Column, value: u64, fabric: &mut dyn Fabric) {
        self.table.store(column, value);
        self.table.push(fabric, &self.audience, column.0..column.0 + 8, Source::Snapshot);
        self.changed = true;
    }

    /// Writes a record of this process's row, then its guard.
    fn write(&mut self, record: Record, words: &[u64], fabric: &mut dyn Fabric) {
        let me = self.me.slot;
        let (place, guard, value) = record.place(self.number(), |column| self.table.load(me, column));
        for (n, &word) in words.iter().enumerate() {
            self.table.store(place.at(n), word);
        }
        self.table.push(fabric, &self.audience, place.0..place.at(words.len()).0, Source::Snapshot);
        self.store_and_push(guard, value, fabric);
    }

    /// Pushes `CHANGES`, after everything else, if anything else was pushed.
    pub(crate) fn publish_changes(&mut self, fabric: &mut dyn Fabric) {
        if std::mem::take(&mut self.changed) {
            let count = self.table.load(self.me.slot, row::CHANGES) + 1;
            self.store_and_push(row::CHANGES, count, fabric);
            self.changed = false;
        }
    }

    /// Begins view 0 as a founder. In a group with a log, returns what has to be on disk before it is published.
    pub(crate) fn found(&mut self, view: View) -> Option<Beginning> {
        let (old, ended) = (Vec::new(), Vec::new());
        let first = ViewDecision { view: view.clone(), old, ended, left: 0, time_ns: FIRST_NS };
        self.began = self.settings.logs.then_some(first);
        self.founding = true;
        self.begin(view);
        self.beginning_bytes()
    }

    /// Begins a view. [`Membership::installed`] publishes it. In the founders' first view all founders are linked.
    fn begin(&mut self, view: View) {
        self.epoch.begin(view.members.len());
        self.view = Some(view);
        self.count_links();
        self.detector.begin();
        for link in self.links.iter_mut().flatten() {
            // The peer's row may have shown this view before it began here, so it is read again.
            link.changes = u64::MAX;
        }
        let members = &self.view;
        self.pending.retain(|pending| !members.iter().any(|v| v.members.iter().any(|m| m.peer == pending.peer)));
    }

    /// The founders that have not installed their first view yet.
    fn not_installed(&self) -> Vec<Peer> {
        let members = self.view.iter().flat_map(|view| &view.members).map(|member| member.peer);
        members.filter(|peer| self.table.load(peer.slot, row::INSTALLED) == 0).collect()
    }

    /// Whether some member has wedged the present view. In that case all members have installed it.
    fn somebody_wedged(&self) -> bool {
        let view = self.number();
        self.watched.iter().any(|&slot| self.table.load(slot, row::WEDGED) > view)
    }

    /// Reads the rows, and sends a heartbeat if one is due. Returns true if anything new was seen.
    fn observe(&mut self, now_ms: u64, fabric: &mut dyn Fabric) -> Result<bool, Violation> {
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

    /// Accuses the members that are silent, and acquits those with a heartbeat that moves again.
    fn judge_heartbeats(&mut self, now_ms: u64, fabric: &mut dyn Fabric) -> bool {
        let table = &self.table;
        // Received bytes count as a sign of life: on a slow network a heartbeat arrives behind everything written
        // before it.
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

    /// Takes the slots with links that have been silent for so long that they should be relinked.
    ///
    /// After a network outage, TCP retries the old connection only after a pause as long as the outage.
    fn take_mute(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.mute)
    }

    /// How long a member may be silent before it is suspected, in milliseconds.
    ///
    /// This is the failure timeout, or longer if this process itself did not run when it wanted to.
    pub(crate) fn patience_ms(&self) -> u64 {
        self.detector.patience_ms(self.failure_timeout_ms())
    }

    /// Notes that this process ran again after `elapsed_ms`, measured by its host's clock.
    ///
    /// After a long pause, the members that waited for this one need a moment to receive its heartbeat and withdraw
    /// their accusations. Until then this member, as a leader, does not remove them, although others that paused too
    /// may form a majority with it.
    pub(crate) fn ran_after(&mut self, elapsed_ms: u64, now_ms: u64) {
        self.detector.ran_after(elapsed_ms, self.settings.failure_timeout_ms);
        if elapsed_ms > self.failure_timeout_ms() / 2 {
            self.returned_until_ms = now_ms.saturating_add(self.failure_timeout_ms());
        }
    }

    /// Whether the founder in `slot` has not started its engine yet, so that it has no heartbeat that could stop.
    fn has_not_begun(&self, slot: Slot) -> bool {
        let load = |column| self.table.load(slot, column);
        self.founding && load(row::INSTALLED) == 0 && load(row::HEARTBEAT) == 0
    }

    /// Notes that all founders run. Restarts the detector, since the last founder has had no time for a heartbeat.
    fn founded(&mut self) {
        self.founding = false;
        self.detector.begin();
    }

    /// The time between two heartbeats, in milliseconds.
    pub(crate) fn beat_ms(&self) -> u64 {
        detector::beat_ms(self.settings.failure_timeout_ms)
    }

    /// When [`Membership::observe`] has something to do even if nothing arrives, in milliseconds.
    fn next_look_ms(&self) -> u64 {
        self.detector.next_beat_ms(self.settings.failure_timeout_ms)
    }

    fn observe_rows(&mut self, fabric: &mut dyn Fabric) -> Result<bool, Violation> {
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

    /// Takes the faults of members observed since the last call.
    pub(crate) fn take_faults(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.faults)
    }

    fn note_fault(&mut self, rank: Rank, what: String) {
        if let Some(member) = self.view.as_ref().and_then(|view| view.members.get(rank)) {
            self.faults.push(Fault { view: self.number(), member: member.peer.id, what });
        }
    }

    /// Publishes that this process wants to leave.
    fn ask_to_leave(&mut self, fabric: &mut dyn Fabric) {
        if self.table.load(self.me.slot, row::LEAVING) == 0 {
            self.store_and_push(row::LEAVING, 1, fabric);
        }
    }

    /// Publishes that this process has the group's state.
    pub(crate) fn ready(&mut self, fabric: &mut dyn Fabric) {
        if self.table.load(self.me.slot, row::READY) == 0 {
            self.store_and_push(row::READY, 1, fabric);
        }
    }

    /// Clears the epoch columns of this process's row. `EPOCH` is 0 during that, so the row is about no epoch.
    fn clear_epoch(&mut self, fabric: &mut dyn Fabric) {
        self.store_and_push(row::EPOCH, 0, fabric);
        for offset in row::GUARDS.step_by(8) {
            self.table.store(Column(offset), 0);
        }
        self.table.push(fabric, &self.audience, row::GUARDS, Source::Snapshot);
    }

    /// Begins the decided view. Returns the layout for the data plane, the change, and the slots that departed.
    ///
    /// The data plane must push its own columns before [`Membership::installed`] is called.
    pub(crate) fn enter(&mut self, fabric: &mut dyn Fabric) -> Option<(Vec<ViewConfig>, ViewChange, Vec<Slot>)> {
        let value = self.epoch.decided.take().or_else(|| self.invited.take())?;
        let change = ViewChange {
            view: value.view.clone(),
            joined: value.joined().collect(),
            departed: value.departed().collect(),
        };
        let configs = value.view.shards.iter().filter_map(|shard| value.view_config(shard.id)).collect();
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
        Some((configs, change, gone))
    }

    /// Publishes that this member runs the new view, and accuses the members that it has no link with.
    ///
    /// The data plane is in the view by then and has pushed its columns.
    fn installed(&mut self, fabric: &mut dyn Fabric) {
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
