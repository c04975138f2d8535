//! One member's engine. [`Node::poll`] makes all progress and never waits.
//!
//! The node owns no thread, clock, socket or file. The fabric, the time and the application's callback are passed in,
//! so the simulator runs exactly this code.

mod acting;
mod clock;
mod ending;
mod lane;
mod logging;
mod relink;
mod restart;

pub(crate) use logging::{CLOCK, HARD_STATE};
pub(crate) use restart::Recovery;

use crate::error::Error;
use crate::fabric::{Connection, Event, Fabric, Row, Slot};
use crate::membership::{
    Actions, Admission, Cause, FIRST_NS, Fact, Fault, Membership, Peer, Refusal, Settings, Shard, Show, View,
    ViewChange,
};
use crate::multicast::{End, Multicast, Origin, Sink, Stats, StreamConfig, ViewConfig, Violation};
use crate::types::{MemberId, SubgroupId};
use ending::Fetches;
use lane::Lane;
use logging::Logging;
use restart::Restart;
use std::sync::Arc;

/// The phase of a node, from its start to its end.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// A founder that waits until every member runs view 0.
    Founding,
    /// A joiner that waits to be named in a view.
    Joining,
    /// After a total failure: it agrees with the other members on the end of the last view.
    Restarting,
    /// It sends and delivers. A view change does not end this phase.
    Running,
    /// A leaver that publishes all messages it accepted, and asks the others to continue without it.
    Leaving,
    /// It has left the group, and stays until the other members know that.
    Parting,
    /// It waits for its links to go down.
    Closing,
    /// It has left.
    Left,
    /// It delivers nothing more, for this reason.
    Stopped(Error),
}

/// See the module.
pub(crate) struct Node {
    fabric: Box<dyn Fabric>,
    membership: Membership,
    lanes: Vec<Lane>,
    settings: Settings,
    phase: Phase,
    events: Vec<Event>,
    /// When the present phase times out.
    until_ms: u64,
    fetches: Fetches,
    logging: Option<Logging>,
    restart: Option<Restart>,
    /// The lane that delivers next. A pass that ends early leaves the rest to the next one.
    turn: usize,
    changes: Vec<ViewChange>,
    /// What the membership wants this node to do. It is empty between passes, unless a callback has panicked.
    todo: Actions,
    /// The time as of the last pass, and how much of it this process was running. Its own pauses do not count against
    /// other members, and do not expire its deadlines.
    clock_ms: u64,
    now_ms: u64,
}

impl Node {
    /// Creates a process without a view, over its fabric, the membership's row there, and the data plane of each
    /// subgroup.
    pub(crate) fn new(
        me: Peer,
        fabric: Box<dyn Fabric>,
        row: Arc<Row>,
        subgroups: Vec<Multicast>,
        settings: Settings,
        now_ms: u64,
    ) -> Node {
        Node {
            fabric,
            membership: Membership::new(me, row, settings, now_ms),
            lanes: subgroups.into_iter().map(Lane::new).collect(),
            settings,
            phase: Phase::Joining,
            events: Vec::new(),
            until_ms: now_ms.saturating_add(settings.join_timeout_ms),
            fetches: Fetches::default(),
            logging: None,
            restart: None,
            turn: 0,
            changes: Vec::new(),
            todo: Actions::new(),
            clock_ms: now_ms,
            now_ms,
        }
    }

    /// Links this process over `connection` with `peer`. The place of `peer` was given in view `since`.
    pub(crate) fn attach(&mut self, peer: Peer, since: u64, connection: Connection) -> Result<(), Error> {
        let runs = matches!(self.phase, Phase::Running | Phase::Leaving | Phase::Parting);
        self.membership.may_attach(peer, since, runs).map_err(Error::Misuse)?;
        let what = "another process has its place";
        self.lose(peer.slot, Cause::LinkDown, what, false);
        let mut rows = self.fabric.attach(peer.slot, connection)?.into_iter();
        let Some(membership) = rows.next().filter(|_| rows.len() == self.lanes.len()) else {
            return Err(Error::Misuse("the fabric did not make the rows it was asked for"));
        };
        for (lane, row) in self.lanes.iter_mut().zip(rows) {
            lane.multicast.attach(peer.slot, row);
        }
        self.membership.attach(peer, since, membership, &mut *self.fabric);
        self.submit();
        Ok(())
    }

    /// Begins view 0 with all `founders`, by rank, which are linked already. It runs once all others have installed it
    /// too.
    ///
    /// `origin` is that of every founder's subgroups.
    pub(crate) fn found(&mut self, founders: &[Peer], origin: Origin) {
        let view = View::first(founders, self.settings.subgroups, origin.index);
        let start = End { messages: origin.index, frames: origin.index, word: origin.word };
        let seat = |peer: &Peer| StreamConfig { slot: peer.slot, id: peer.id, voter: true, start };
        let seats: Vec<StreamConfig> = founders.iter().map(seat).collect();
        let config =
            |shard: &Shard| ViewConfig { view: 0, seats: seats.clone(), order: shard.order, time_ns: FIRST_NS };
        let configs: Vec<ViewConfig> = view.shards.iter().map(config).collect();
        self.phase = Phase::Founding;
        self.until_ms = self.now_ms.saturating_add(self.settings.join_timeout_ms);
        let first = self.membership.found(view);
        if let Err(breach) = self.enter_streams(&configs) {
            self.tell(Fact::Breach(breach));
            return self.submit();
        }
        if let Some(first) = first {
            self.write_beginning(&first);
        }
        // With a log, the view is published once it is on disk: when a member runs, no founder can forget the view.
        if let Err(breach) = self.show(&Show::View) {
            self.tell(Fact::Breach(breach));
        }
        self.submit();
    }

    /// Sends everything that was written. `CHANGES` goes last.
    fn submit(&mut self) {
        self.membership.publish_changes(&mut *self.fabric);
        self.fabric.submit();
    }

    /// Begins a view in the data plane.
    fn enter_streams(&mut self, configs: &[ViewConfig]) -> Result<(), Violation> {
        if let Some(view) = self.membership.view() {
            lane::place(&mut self.lanes, view);
        }
        for (lane, config) in self.lanes.iter_mut().zip(configs) {
            lane.multicast.enter(config, &mut *self.fabric).map_err(|breach| lane.blame(breach))?;
            if let Some(logging) = &mut self.logging {
                logging.note(lane.multicast.progress());
            }
        }
        Ok(())
    }

    /// Makes one pass: lets writes land, advances, delivers, pushes counters, and makes a step if an epoch ends.
    ///
    /// `now_ms` is any monotone clock in milliseconds. `sink` takes the deliveries, and reports when the pass must end
    /// so that heartbeats continue. Returns true if anything moved, so that another pass is worthwhile.
    pub(crate) fn poll(&mut self, now_ms: u64, sink: &mut impl Sink) -> bool {
        // A running process makes a pass at least at each heartbeat, so a longer gap counts only in part.
        let elapsed_ms = now_ms.saturating_sub(self.clock_ms);
        let counted_ms = elapsed_ms.min(3 * self.membership.beat_ms() / 2 + 1);
        self.clock_ms = now_ms;
        self.now_ms += counted_ms;
        self.membership.ran_after(elapsed_ms, self.now_ms);
        let mut progress = self.fabric.poll(&mut self.events);
        progress |= self.take_events();
        if !matches!(self.phase, Phase::Left | Phase::Stopped(_)) {
            self.run_clock();
            progress |= self.check_disk();
        }
        progress |= match self.phase {
            // A leaver ends once its disk has all that was written. Neither a peer that has stopped responding nor a disk
            // that has delays it for long.
            Phase::Closing if self.fabric.closed() && self.has_saved() || self.now_ms >= self.until_ms => {
                self.phase = Phase::Left;
                true
            }
            Phase::Closing | Phase::Left | Phase::Stopped(_) => false,
            _ => self.pass(sink),
        };
        self.submit();
        progress
    }

    /// When the next pass is due even if nothing arrives, in milliseconds of the clock of [`Node::poll`].
    pub(crate) fn next_pass_ms(&self) -> u64 {
        if matches!(self.phase, Phase::Left | Phase::Stopped(_)) {
            return u64::MAX;
        }
        let due_ms = self.membership.due_ms(&self.moment());
        self.clock_ms.saturating_add(due_ms.saturating_sub(self.now_ms))
    }

    /// The data plane's pass.
    fn stream(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        let announced_ns = self.look_at_clocks();
        let membership = &self.membership;
        let mut progress = false;
        for lane in &mut self.lanes {
            let moved = lane.multicast.advance(&mut *self.fabric, &|slot| membership.phase_of(slot));
            progress |= moved.map_err(|breach| lane.blame(breach))?;
        }
        progress |= self.write_log(announced_ns, sink)?;
        // Sends the writes that peers wait for before the callbacks run.
        self.fabric.submit();
        progress |= self.deliver(sink, |_, breach| Err(breach))?;
        for lane in &mut self.lanes {
            lane.multicast.advertise(&mut *self.fabric);
        }
        Ok(progress)
    }

    /// Delivers everything deliverable, until the pass has lasted long enough. `torn` handles invalid frames of a lane.
    fn deliver(
        &mut self,
        sink: &mut impl Sink,
        torn: fn(&mut Node, Violation) -> Result<bool, Violation>,
    ) -> Result<bool, Violation> {
        let mut moved = false;
        for n in 0..self.lanes.len() {
            if n > 0 && sink.is_over() {
                // The next pass begins with the lanes that are left.
                return Ok(true);
            }
            let turn = self.turn;
            self.turn = (turn + 1) % self.lanes.len();
            let lane = &mut self.lanes[turn];
            let delivered = lane.multicast.deliver(sink).map_err(|breach| lane.blame(breach));
            moved |= delivered.or_else(|breach| torn(self, breach))?;
        }
        Ok(moved)
    }

    fn take_events(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let any = !events.is_empty();
        for event in events.drain(..) {
            if matches!(self.phase, Phase::Closing | Phase::Left | Phase::Stopped(_)) {
                continue;
            }
            match event {
                Event::LinkDown { peer, cause } => self.lose(peer, Cause::LinkDown, &cause, false),
                Event::Violation { peer, what } => self.lose(peer, Cause::Violation, &what, false),
                Event::Fetched { peer, table, owner, range } => {
                    self.fetches.done(peer, (table, owner, &range));
                    self.tell(Fact::Answered(peer));
                }
            }
        }
        self.events = events;
        any
    }

    /// Takes in that the link to the process in `slot` is down, or takes it down if `sever`.
    fn lose(&mut self, slot: Slot, cause: Cause, what: &str, sever: bool) {
        self.tell(Fact::Lost { slot, cause, what, sever });
    }

    fn stop(&mut self, error: Error) {
        // The rest of the list is void. A callback that panicked may have interrupted it.
        self.todo.clear();
        self.phase = Phase::Stopped(error);
        self.fabric.close();
    }

    /// Stops for a reason of this process's own. The other members see it fail.
    pub(crate) fn fail(&mut self, error: Error) {
        self.stop(error);
    }

    /// Begins to leave. The caller must not accept messages from the application any more.
    pub(crate) fn leave(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Leaving;
        }
    }

    /// This process.
    pub(crate) fn me(&self) -> Peer {
        self.membership.me()
    }

    /// Whether this process is a voter of the present view, which means that it has the whole state.
    pub(crate) fn is_voter(&self) -> bool {
        let me = self.membership.me();
        self.view().is_some_and(|view| view.members.iter().any(|member| member.peer == me && member.voter))
    }

    /// Notes that this process has the application's state, so that it can become a voter.
    pub(crate) fn ready(&mut self) {
        self.membership.ready(&mut *self.fabric);
    }

    /// Whether this member leads the group, as far as it knows. The leader gives places to joiners.
    pub(crate) fn leads(&self) -> bool {
        matches!(self.phase, Phase::Running) && self.membership.view().is_some() && self.membership.is_leader()
    }

    /// Gives a joiner a place, if this member leads the group.
    pub(crate) fn admit(&mut self, id: MemberId, incarnation: u64) -> Result<Admission, Refusal> {
        match self.phase {
            Phase::Running => self.membership.admit(id, incarnation, self.now_ms),
            _ => Err(Refusal::Busy("this member is not in the group, or leaves it")),
        }
    }

    /// The decision of the present epoch, for comparison.
    #[cfg(test)]
    pub(crate) fn decision(&self) -> Option<String> {
        self.membership.decision()
    }

    /// Whether it has published a proposal in the present epoch.
    #[cfg(test)]
    pub(crate) fn has_proposed(&self) -> bool {
        self.membership.has_proposed()
    }

    /// Accuses the member in `slot` unconditionally.
    #[cfg(test)]
    pub(crate) fn suspect(&mut self, slot: Slot) {
        if let Some(rank) = self.view().and_then(|view| view.rank_of(slot)) {
            self.membership.suspect(rank, Cause::Violation, "for a test", &mut *self.fabric);
        }
    }

    /// Whether the present view's epoch is ending here.
    pub(crate) fn is_between_views(&self) -> bool {
        self.membership.is_between_views()
    }

    /// Takes the view changes since the last call. Each comes after all deliveries of the previous view, which have
    /// been made, and before those of its own view.
    pub(crate) fn take_changes(&mut self) -> Vec<ViewChange> {
        std::mem::take(&mut self.changes)
    }

    /// Takes the faults of members observed since the last call.
    pub(crate) fn take_faults(&mut self) -> Vec<Fault> {
        self.membership.take_faults()
    }

    /// The present phase.
    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The present view; `None` before the first.
    pub(crate) fn view(&self) -> Option<&View> {
        self.membership.view()
    }

    /// Whether all links are down, so that nothing is left to poll for.
    pub(crate) fn closed(&self) -> bool {
        self.fabric.closed()
    }

    /// The data plane of a subgroup, which must exist.
    pub(crate) fn subgroup(&self, id: SubgroupId) -> &Multicast {
        &self.lanes[usize::from(id.0)].multicast
    }

    /// The fabric, for a caller that waits on its descriptor.
    pub(crate) fn fabric(&mut self) -> &mut dyn Fabric {
        &mut *self.fabric
    }

    /// Counters of a subgroup, which must exist, including those of the fabric, which all subgroups share.
    pub(crate) fn stats(&self, id: SubgroupId) -> Stats {
        Stats { fabric: self.fabric.stats(), ..self.subgroup(id).stats() }
    }
}
