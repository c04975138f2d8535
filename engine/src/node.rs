//! One member's engine: [`Node::poll`] makes everything advance and never waits.
//!
//! The node owns no thread, clock, socket or file: the fabric, the time and the application's callback are passed in, so
//! the simulator runs this very code.

use crate::config::MemberId;
use crate::error::Error;
use crate::fabric::{Event, Fabric, Rank};
use crate::membership::Membership;
use crate::multicast::{Breach, Delivery, Multicast, Outlook, Stats};

/// Where a node is in its life.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Waits until every member runs view 0.
    Installing,
    /// Sends and delivers.
    Running,
    /// Sends what was accepted, and waits until every member has received it and all that was delivered here.
    Leaving,
    /// Has said goodbye; waits for the links to go down.
    Closing,
    /// Has left.
    Left,
    /// Delivers nothing more, for this reason.
    Stopped(Error),
}

/// See the module.
pub struct Node {
    ids: Vec<MemberId>,
    fabric: Box<dyn Fabric>,
    membership: Membership,
    multicasts: Vec<Multicast>,
    phase: Phase,
    events: Vec<Event>,
    install_by_ms: u64,
    install_timeout_ms: u64,
}

impl Node {
    /// A node of view 0 with members `ids` in rank order; it shows itself installed at once. It stops when not all
    /// others do so within `install_timeout_ms` from `now_ms`.
    pub fn new(
        ids: Vec<MemberId>,
        mut fabric: Box<dyn Fabric>,
        mut membership: Membership,
        multicasts: Vec<Multicast>,
        now_ms: u64,
        install_timeout_ms: u64,
    ) -> Node {
        membership.install(&mut *fabric);
        fabric.submit();
        let phase = Phase::Installing;
        let install_by_ms = now_ms.saturating_add(install_timeout_ms);
        let events = Vec::new();
        Node { ids, fabric, membership, multicasts, phase, events, install_by_ms, install_timeout_ms }
    }

    /// One pass: lets writes land, advances every subgroup, delivers, pushes counters. `now_ms` is any monotone clock in
    /// milliseconds. True if anything moved, so that another pass is worth its while.
    pub fn poll(&mut self, now_ms: u64, sink: &mut dyn FnMut(Delivery<'_>)) -> bool {
        let mut progress = self.fabric.poll(&mut self.events);
        progress |= self.take_events();
        match self.phase {
            Phase::Installing => progress |= self.install(now_ms),
            Phase::Running | Phase::Leaving => match self.pass(sink) {
                Ok(moved) => progress |= moved,
                Err(breach) => {
                    self.sever(breach);
                    progress = true;
                }
            },
            Phase::Closing => {
                if self.fabric.closed() {
                    self.phase = Phase::Left;
                    progress = true;
                }
            }
            Phase::Left | Phase::Stopped(_) => {}
        }
        self.fabric.submit();
        progress
    }

    fn pass(&mut self, sink: &mut dyn FnMut(Delivery<'_>)) -> Result<bool, Breach> {
        let mut progress = false;
        for multicast in &mut self.multicasts {
            progress |= multicast.advance(&mut *self.fabric)?;
        }
        // What peers wait for leaves before the callbacks run.
        self.fabric.submit();
        for multicast in &mut self.multicasts {
            progress |= multicast.deliver(sink)?;
            multicast.tell(&mut *self.fabric);
        }
        progress |= self.part(progress)?;
        Ok(progress)
    }

    fn install(&mut self, now_ms: u64) -> bool {
        if self.membership.installed() {
            self.phase = Phase::Running;
            return true;
        }
        if now_ms < self.install_by_ms {
            return false;
        }
        let missing = self.membership.not_installed();
        let missing = missing.iter().map(|&r| format!("member {} (met, but it has not met all others)", self.ids[r]));
        let missing = missing.collect::<Vec<_>>().join(", ");
        self.stop(Error::Missing { missing, after_ms: self.install_timeout_ms });
        true
    }

    fn take_events(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let any = !events.is_empty();
        for event in events.drain(..) {
            if matches!(self.phase, Phase::Closing | Phase::Left | Phase::Stopped(_)) {
                continue;
            }
            match event {
                Event::LinkDown { peer, cause } => self.link_down(peer, cause),
                Event::Breach { peer, what } => self.sever(Breach { peer, what }),
            }
        }
        self.events = events;
        any
    }

    fn link_down(&mut self, peer: Rank, cause: String) {
        if self.membership.departed(peer) {
            // What is still on its way from the others is waited for: see `part`.
            return;
        }
        // A peer that stopped because of a third member says so; that one is the culprit.
        let (culprit, cause) = match self.membership.accused(peer) {
            Some(third) => (third, format!("member {} reports it", self.ids[peer])),
            None => (peer, cause),
        };
        self.accuse_and_stop(culprit, Error::MemberFailed { member: self.ids[culprit], cause });
    }

    fn sever(&mut self, breach: Breach) {
        self.fabric.sever(breach.peer);
        let error = Error::Contract { member: self.ids[breach.peer], what: breach.what };
        self.accuse_and_stop(breach.peer, error);
    }

    fn accuse_and_stop(&mut self, peer: Rank, error: Error) {
        self.membership.accuse(peer, &mut *self.fabric);
        self.stop(error);
    }

    fn stop(&mut self, error: Error) {
        self.phase = Phase::Stopped(error);
        self.fabric.close();
    }

    /// Stops for a reason of this process's own: the others see it fail.
    pub fn fail(&mut self, error: Error) {
        self.stop(error);
    }

    /// Ends of membership: the own leave, once all that it waits for has happened, and those of others. After a member
    /// left, nothing that it had not received can become safe; what it had received still does, and is waited for.
    /// `delivered`: this pass has moved something.
    fn part(&mut self, delivered: bool) -> Result<bool, Breach> {
        let held = self.multicasts.iter().any(Multicast::holds_nulls);
        if matches!(self.phase, Phase::Leaving) && self.flushed() && !held {
            self.membership.leave(&mut *self.fabric);
            self.fabric.close();
            self.phase = Phase::Closing;
            return Ok(true);
        }
        let Some((_, leaver)) = self.membership.gone().next() else { return Ok(false) };
        let alone = self.membership.gone().count() + 1 == self.ids.len();
        let (mut ends, mut settled) = (false, true);
        for multicast in &mut self.multicasts {
            let (mut drained, mut lost) = (true, false);
            for (gone, _) in self.membership.gone() {
                let outlook = multicast.outlook(gone)?;
                ends |= outlook == Outlook::Stuck;
                drained &= outlook == Outlook::Drained;
                lost |= all_so_far(multicast).is_none_or(|target| !multicast.has_received(gone, &target));
            }
            ends |= drained;
            // Others may still be about to tell that they have received what this member sent or was delivered.
            settled &= lost || all_so_far(multicast).is_some_and(|target| multicast.received_by(0, &target));
        }
        // Whatever a last one claimed to have received, nobody is left to send it: what came is delivered above.
        let stops = settled && (ends || alone && !delivered);
        if stops {
            self.membership.bid_farewell(leaver, &mut *self.fabric);
            self.stop(Error::MemberLeft { member: self.ids[leaver] });
        }
        Ok(stops)
    }

    /// Whether all that was accepted from the application is delivered here, and that and all else that was delivered here
    /// has reached every member.
    pub fn flushed(&self) -> bool {
        self.multicasts.iter().all(|multicast| {
            let received = all_so_far(multicast).is_some_and(|target| multicast.received_by(0, &target));
            received && multicast.delivered_mine()
        })
    }

    /// Begins to leave: nothing is accepted from the application any more, which its caller sees to.
    pub fn leave(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Leaving;
        }
    }

    /// Where it is in its life.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether all links are down: nothing is left to poll for.
    pub fn closed(&self) -> bool {
        self.fabric.closed()
    }

    /// The subgroups, by number.
    pub fn multicasts(&self) -> &[Multicast] {
        &self.multicasts
    }

    /// The fabric, for whoever waits on its descriptor.
    pub fn fabric(&mut self) -> &mut dyn Fabric {
        &mut *self.fabric
    }

    /// Counters of subgroup `index` with those of the fabric.
    pub fn stats(&self, index: usize) -> Stats {
        Stats { fabric: self.fabric.stats(), ..self.multicasts[index].stats() }
    }
}

/// What a flush that began now would have to reach; `None` while something claimed is not published.
fn all_so_far(multicast: &Multicast) -> Option<Vec<u64>> {
    multicast.flush_target(multicast.ring().next_ticket())
}
