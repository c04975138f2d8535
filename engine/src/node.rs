//! One member's engine. [`Node::poll`] makes all progress and never waits.
//!
//! The node owns no thread, clock, socket or file. The fabric, the time and the application's callback are passed in,
//! so the simulator runs exactly this code.

mod clock;
mod ending;
mod logging;
mod relink;
mod restart;

pub(crate) use logging::{CLOCK, HARD_STATE};
pub(crate) use restart::Recovery;

use crate::error::Error;
use crate::fabric::{Connection, Event, Fabric, Row, Slot};
use crate::membership::{Admission, Cause, FIRST_NS, Membership, Peer, Refusal, Settings, View, ViewChange};
use crate::multicast::{End, Multicast, Origin, Sink, Stats, StreamConfig, ViewConfig, Violation};
use crate::types::MemberId;
use ending::Fetches;
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
    multicast: Multicast,
    settings: Settings,
    phase: Phase,
    events: Vec<Event>,
    /// When the present phase times out.
    until_ms: u64,
    fetches: Fetches,
    logging: Option<Logging>,
    restart: Option<Restart>,
    changes: Vec<ViewChange>,
    /// The time as of the last pass, and how much of it this process was running. Its own pauses do not count against
    /// other members, and do not expire its deadlines.
    clock_ms: u64,
    now_ms: u64,
}

impl Node {
    /// Creates a process without a view, over its fabric and its rows there (the membership's and the subgroup's).
    pub(crate) fn new(
        me: Peer,
        fabric: Box<dyn Fabric>,
        row: Arc<Row>,
        multicast: Multicast,
        settings: Settings,
        now_ms: u64,
    ) -> Node {
        Node {
            fabric,
            membership: Membership::new(me, row, settings, now_ms),
            multicast,
            settings,
            phase: Phase::Joining,
            events: Vec::new(),
            until_ms: now_ms.saturating_add(settings.join_timeout_ms),
            fetches: Fetches::default(),
            logging: None,
            restart: None,
            changes: Vec::new(),
            clock_ms: now_ms,
            now_ms,
        }
    }

    /// Links this process over `connection` with `peer`. The place of `peer` was given in view `since`.
    pub(crate) fn attach(&mut self, peer: Peer, since: u64, connection: Connection) -> Result<(), Error> {
        let taken = self.membership.is_stranger(peer) || self.membership.is_given_since(peer.slot, since);
        if peer.slot == self.membership.me().slot || taken {
            return Err(Error::Misuse("a link to a slot that another process holds"));
        }
        let runs = matches!(self.phase, Phase::Running | Phase::Leaving | Phase::Parting);
        if runs && self.membership.is_member(peer) {
            return Err(Error::Misuse(
                "a link to a member of a view that runs, which is made again only while the view ends",
            ));
        }
        let what = "another process has its place";
        self.membership.link_down(peer.slot, Cause::LinkDown, what, &mut *self.fabric);
        let mut rows = self.fabric.attach(peer.slot, connection)?.into_iter();
        let (Some(membership), Some(multicast)) = (rows.next(), rows.next()) else {
            return Err(Error::Misuse("the fabric did not make the rows it was asked for"));
        };
        self.multicast.attach(peer.slot, multicast);
        self.membership.attach(peer, since, membership, &mut *self.fabric);
        self.membership.publish_changes(&mut *self.fabric);
        self.fabric.submit();
        Ok(())
    }

    /// Begins view 0 with all `founders`, by rank, which are linked already. It runs once all others have installed it
    /// too.
    ///
    /// `origin` is that of every founder's subgroup.
    pub(crate) fn found(&mut self, founders: &[Peer], origin: Origin) {
        let view = View::first(founders, origin.index);
        let start = End { messages: origin.index, frames: origin.index, word: origin.word };
        let seat = |peer: &Peer| StreamConfig { slot: peer.slot, id: peer.id, voter: true, start };
        let layout =
            ViewConfig { view: 0, seats: founders.iter().map(seat).collect(), order: view.order, time_ns: FIRST_NS };
        self.phase = Phase::Founding;
        self.until_ms = self.now_ms.saturating_add(self.settings.join_timeout_ms);
        self.membership.found(view);
        match self.enter_streams(&layout) {
            // With a log, the view is published once it is on disk: when a member runs, no founder can forget the view.
            Ok(()) if self.logging.is_some() => self.write_first(),
            Ok(()) => self.membership.installed(&mut *self.fabric),
            Err(breach) => self.breach(breach),
        }
        self.membership.publish_changes(&mut *self.fabric);
        self.fabric.submit();
    }

    /// Begins a view in the data plane.
    fn enter_streams(&mut self, layout: &ViewConfig) -> Result<(), Violation> {
        self.multicast.enter(layout, &mut *self.fabric)?;
        if let Some(logging) = &mut self.logging {
            logging.note(self.multicast.progress());
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
        let moved = match self.phase {
            Phase::Founding => self.wait_for_founders(),
            Phase::Joining => self.wait_for_view(),
            Phase::Restarting => self.restart_pass(),
            Phase::Running | Phase::Leaving => self.pass(sink),
            Phase::Parting => self.part(),
            // A peer that has stopped responding does not delay a leaver.
            Phase::Closing if self.fabric.closed() || self.now_ms >= self.until_ms => {
                self.phase = Phase::Left;
                Ok(true)
            }
            Phase::Closing | Phase::Left | Phase::Stopped(_) => Ok(false),
        };
        match moved {
            Ok(moved) => progress |= moved,
            Err(breach) => {
                self.breach(breach);
                progress = true;
            }
        }
        self.membership.publish_changes(&mut *self.fabric);
        self.fabric.submit();
        progress
    }

    /// When the next pass is due even if nothing arrives, in milliseconds of the clock of [`Node::poll`].
    pub(crate) fn next_pass_ms(&self) -> u64 {
        let look = self.membership.next_look_ms();
        let due = match self.phase {
            Phase::Running | Phase::Leaving | Phase::Restarting if self.membership.is_wedged() => {
                // An attempt that has timed out is repeated at the next look.
                let attempt = self.membership.next_attempt_ms();
                if attempt > self.now_ms { look.min(attempt) } else { look }
            }
            Phase::Left | Phase::Stopped(_) => return u64::MAX,
            // The rows that it waits for change by themselves, unless a link must be made again.
            Phase::Parting if self.membership.cut_off_heirs().is_empty() => self.parts_until_ms(),
            Phase::Parting => self.parts_until_ms().min(self.now_ms.saturating_add(self.membership.beat_ms())),
            _ => look,
        };
        self.clock_ms.saturating_add(due.saturating_sub(self.now_ms))
    }

    fn pass(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        let mut progress = self.membership.observe(self.now_ms, &mut *self.fabric)?;
        progress |= self.drop_mute_links();
        for slot in self.membership.expired(self.now_ms) {
            self.fabric.release(slot);
            self.lost(slot, Cause::LinkDown, "it did not complete its join in time");
        }
        let leaves = matches!(self.phase, Phase::Leaving) && self.multicast.has_published_all();
        if leaves {
            self.membership.ask_to_leave(&mut *self.fabric);
        }
        if self.membership.must_wedge(leaves) {
            let ends = self.multicast.wedge();
            if self.is_outrun() {
                // All members of the next view have wedged this one, and this member is not among them.
                self.stop_removed();
                return Ok(true);
            }
            self.membership.wedge(ends, self.now_ms, &mut *self.fabric);
            progress = true;
        }
        if self.membership.is_decided() {
            progress |= self.end_epoch(sink)?;
        } else if self.membership.is_wedged() {
            progress |= self.deliver_rest(sink)?;
            progress |= self.step_epoch()?;
        } else {
            progress |= self.stream(sink)?;
        }
        Ok(progress)
    }

    /// The data plane's pass.
    fn stream(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        let announced_ns = self.look_at_clocks();
        let membership = &self.membership;
        let mut progress = self.multicast.advance(&mut *self.fabric, &|slot| membership.phase_of(slot))?;
        progress |= self.write_log(announced_ns, sink)?;
        // Sends the writes that peers wait for before the callbacks run.
        self.fabric.submit();
        progress |= self.multicast.deliver(sink)?;
        self.multicast.advertise(&mut *self.fabric);
        Ok(progress)
    }

    /// Delivers while the epoch ends. Invalid frames of a severed member are left for the decision: the decided end may
    /// come before them, or other members may have valid frames there.
    fn deliver_rest(&mut self, sink: &mut impl Sink) -> Result<bool, Violation> {
        let delivered = self.multicast.deliver(sink);
        let severed = |rank: usize| {
            let member = self.membership.view().and_then(|view| view.members.get(rank));
            member.is_some_and(|m| !self.membership.is_linked(m.peer) && !self.membership.has_gone_on(m.peer.slot))
        };
        match delivered {
            Err(breach) if severed(breach.peer) => Ok(false),
            other => other,
        }
    }

    fn wait_for_founders(&mut self) -> Result<bool, Violation> {
        let progress = self.membership.observe(self.now_ms, &mut *self.fabric)?;
        if !self.first_is_shown() {
            return Ok(progress);
        }
        let missing = self.membership.not_installed();
        if missing.is_empty() || self.membership.somebody_wedged() {
            self.membership.founded();
            self.phase = Phase::Running;
            if let Some(view) = self.membership.view() {
                let joined = view.members.iter().map(|member| member.peer).collect();
                self.changes.push(ViewChange { view: view.clone(), joined, departed: Vec::new() });
            }
            return Ok(true);
        }
        // A founder has failed before it was linked with all others. If some of them have the view, they soon publish
        // that they wedged it. Otherwise it never begins.
        if self.membership.has_suspicions() {
            self.until_ms = self.until_ms.min(self.now_ms.saturating_add(self.membership.failure_timeout_ms()));
        }
        if self.now_ms >= self.until_ms {
            let missing = missing.iter().map(|peer| format!("member {} (met, but it has not met all others)", peer.id));
            let missing = missing.collect::<Vec<_>>().join(", ");
            self.stop(Error::Missing { missing, after_ms: self.settings.join_timeout_ms });
            return Ok(true);
        }
        Ok(progress)
    }

    fn wait_for_view(&mut self) -> Result<bool, Violation> {
        let mut progress = self.membership.observe(self.now_ms, &mut *self.fabric)?;
        if self.membership.is_invited() {
            self.membership.accept_invitation(&mut *self.fabric);
            self.write_first();
            self.phase = Phase::Running;
            self.enter()?;
            progress = true;
        } else if self.now_ms >= self.until_ms {
            self.stop(Error::TimedOut { what: "join", after_ms: self.settings.join_timeout_ms });
            progress = true;
        }
        Ok(progress)
    }

    fn take_events(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let any = !events.is_empty();
        for event in events.drain(..) {
            if matches!(self.phase, Phase::Closing | Phase::Left | Phase::Stopped(_)) {
                continue;
            }
            match event {
                Event::LinkDown { peer, cause } => self.lost(peer, Cause::LinkDown, &cause),
                Event::Violation { peer, what } => {
                    self.lost(peer, Cause::Violation, &format!("it broke the protocol and was severed: {what}"));
                    if matches!(self.phase, Phase::Founding) {
                        self.stop_founding(peer, what);
                    }
                }
                Event::Fetched { peer, owner, range, .. } => {
                    self.fetches.done(peer, owner, &range);
                    self.membership.answered(peer, &mut *self.fabric);
                }
            }
        }
        self.events = events;
        any
    }

    fn lost(&mut self, slot: Slot, cause: Cause, what: &str) {
        self.membership.link_down(slot, cause, what, &mut *self.fabric);
        self.fetches.lost(slot);
    }

    /// Severs a member that violated the protocol and accuses it.
    fn breach(&mut self, breach: Violation) {
        let peer = self.membership.view().and_then(|view| view.members.get(breach.peer)).map(|member| member.peer);
        let Some(peer) = peer else {
            return self.stop(Error::Misuse("a member showed something that is no part of the protocol"));
        };
        if peer == self.membership.me() {
            return self.stop(Error::Internal(breach.what));
        }
        if !self.membership.is_linked(peer) {
            // Its remaining data cannot be used. If it has entered a later view, on shared memory, this member was
            // removed.
            return match self.membership.has_gone_on(peer.slot) {
                true => self.stop_removed(),
                false => self.stop(Error::Contract { member: peer.id, what: breach.what }),
            };
        }
        if self.fabric.shares_rows() && self.membership.has_gone_on(peer.slot) {
            // The data read may be of a later view, so it proves nothing. A wedged member will learn the decision.
            if !self.membership.is_wedged() {
                self.stop_removed();
            }
            return;
        }
        self.fabric.sever(peer.slot);
        let what = format!("it broke the protocol and was severed: {}", breach.what);
        self.lost(peer.slot, Cause::Violation, &what);
        if matches!(self.phase, Phase::Joining | Phase::Founding) {
            self.stop(Error::Contract { member: peer.id, what: breach.what });
        }
    }

    /// Stops if the process in `slot` is a founder, since view 0 cannot begin without it.
    fn stop_founding(&mut self, slot: Slot, what: String) {
        let members = self.membership.view().into_iter().flat_map(|view| &view.members);
        if let Some(member) = members.map(|m| m.peer).find(|peer| peer.slot == slot).map(|peer| peer.id) {
            self.stop(Error::Contract { member, what });
        }
    }

    fn stop(&mut self, error: Error) {
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
        self.membership.is_wedged() || self.membership.is_decided()
    }

    /// Takes the view changes since the last call. Each comes after all deliveries of the previous view, which have
    /// been made, and before those of its own view.
    pub(crate) fn take_changes(&mut self) -> Vec<ViewChange> {
        std::mem::take(&mut self.changes)
    }

    /// Takes the faults of members observed since the last call.
    pub(crate) fn take_faults(&mut self) -> Vec<(MemberId, String)> {
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

    /// The subgroup of all members.
    pub(crate) fn multicast(&self) -> &Multicast {
        &self.multicast
    }

    /// The fabric, for a caller that waits on its descriptor.
    pub(crate) fn fabric(&mut self) -> &mut dyn Fabric {
        &mut *self.fabric
    }

    /// Counters of the subgroup, including those of the fabric.
    pub(crate) fn stats(&self) -> Stats {
        Stats { fabric: self.fabric.stats(), ..self.multicast.stats() }
    }
}
