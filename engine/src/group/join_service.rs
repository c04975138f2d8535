//! The driver's part in requests of other processes.
//!
//! It admits joiners, attaches their links, and provides the application's state.

use super::acceptor::{Acceptor, NoState, PeerRequest, Snapshot};
use super::contacts::Memory;
use super::driver::Driver;
use super::gate::Source;
use super::linking::Linking;
use super::relink::Mending;
use super::transfer::Covered;
use super::wire::{Place, Reply};
use crate::config::{FabricKind, MemberId};
use crate::membership::{self, Admission, Departure, Peer, Refusal, ViewChange};
use crate::node::Node;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::mpsc::SyncSender;

/// A state that waits to be handed out.
pub(super) struct HandOut {
    snapshot: Snapshot,
    /// For each stream of its view, the number of messages that the state covers.
    covers: Vec<u64>,
    reply: SyncSender<Result<Snapshot, NoState>>,
}

impl HandOut {
    /// Whether all messages in the state will be delivered to every member, even if this process dies.
    ///
    /// That is the case if all members have received them, or if this process has taken them into the next view.
    fn is_due(&self, node: &Node) -> bool {
        let view = node.view().map_or(0, |view| view.number);
        view > self.snapshot.covered.view || node.multicast().received_by(0, &self.covers)
    }
}

/// The addresses of the other processes, and the means to link with them.
pub(super) struct JoinService {
    group_id: u64,
    fabric: FabricKind,
    /// By incarnation.
    addresses: HashMap<u64, String>,
    memory: Memory,
    /// Members that reported why they could not take the state. An entry stays until the member joins again.
    gave_up: HashSet<MemberId>,
    /// This process. `linking` makes its links.
    me: Place,
    linking: Linking,
    pub(super) mending: Mending,
    /// The listening thread, which lives as long as the driver.
    _door: Acceptor,
}

impl JoinService {
    pub(super) fn new(
        (group_id, me, linking): (u64, Place, Linking),
        addresses: HashMap<u64, String>,
        memory: Memory,
        acceptor: Acceptor,
    ) -> JoinService {
        let (fabric, mending, gave_up) = (linking.kind(), Mending::default(), HashSet::new());
        JoinService { group_id, fabric, addresses, memory, gave_up, me, linking, mending, _door: acceptor }
    }

    /// Keeps the addresses for this process's next attempt to join.
    pub(super) fn remember(&self, places: &[Place]) {
        self.memory.keep(self.group_id, places);
    }

    pub(super) fn me(&self) -> &Place {
        &self.me
    }

    pub(super) fn linking(&self) -> &Linking {
        &self.linking
    }

    pub(super) fn fabric(&self) -> FabricKind {
        self.fabric
    }

    pub(super) fn group_id(&self) -> u64 {
        self.group_id
    }

    pub(super) fn address_of(&self, peer: Peer) -> Option<String> {
        self.addresses.get(&peer.incarnation).cloned()
    }

    /// Updates the known processes when a view begins: those that departed are forgotten.
    pub(super) fn begin(&mut self, change: &ViewChange) {
        for peer in &change.joined {
            self.gave_up.remove(&peer.id);
        }
        for (peer, _) in &change.departed {
            self.addresses.remove(&peer.incarnation);
        }
    }

    fn place(&self, peer: Peer) -> Option<Place> {
        Some(Place::new(peer, self.addresses.get(&peer.incarnation)?))
    }
}

impl Driver {
    /// Serves a request of another process.
    pub(super) fn receive(&mut self, request: PeerRequest) {
        match request {
            PeerRequest::Join { id, incarnation, address, reply } => {
                let answer = self.admit(id, incarnation, address);
                // The visitor's thread may have given up.
                let _ = reply.send(answer);
            }
            PeerRequest::Leads { reply } => {
                // The visitor's thread may have given up.
                let _ = reply.send(self.node.leads());
            }
            PeerRequest::Link { place, since, connection } => match self.node.attach(place.peer(), since, connection) {
                Ok(()) => {
                    self.join_service.addresses.insert(place.incarnation, place.address);
                }
                Err(error) => tracing::warn!(%error, member = place.id, "a link was refused"),
            },
            PeerRequest::MayRelink { peer, view, reply } => {
                let answer = self.may_relink(peer, view);
                // The visitor's thread may have given up.
                let _ = reply.send(answer);
            }
            PeerRequest::GoneOn { peer, view, left } => {
                let departure = if left { Departure::Left } else { Departure::Failed };
                self.node.learn_gone_on(peer, view, departure);
            }
            PeerRequest::Relink { peer, view, dialled, connection } => {
                match self.node.relink(peer, view, dialled, connection) {
                    Ok(()) => tracing::info!(member = peer.id.0, "a broken link was made again"),
                    Err(error) => tracing::debug!(%error, member = peer.id.0, "a link was not made again"),
                }
            }
            PeerRequest::State { view, reply } => match self.snapshot(view) {
                Ok(snapshot) => {
                    let covers = self.node.multicast().delivered_counts();
                    self.hand_outs.push(HandOut { snapshot, covers, reply });
                }
                Err(error) => {
                    if let NoState::Failed(what) = &error {
                        self.note_own(what);
                    }
                    let _ = reply.send(Err(error));
                }
            },
            PeerRequest::Fault { member, what } if member == self.shared.me => self.note_own(&what),
            PeerRequest::Fault { member, what } => self.note_cause(member, what),
        }
    }

    fn may_relink(&mut self, peer: Peer, view: u64) -> Reply {
        if let Some((view, departure)) = self.node.has_gone_on_without(peer, view) {
            return Reply::GoneOn { view, left: departure == Departure::Left };
        }
        match self.node.may_relink(peer, view) {
            Ok(()) => {
                self.join_service.mending.await_dial(peer, self.now_ms());
                Reply::Linked {}
            }
            Err(reason) => Reply::Later { reason: reason.to_owned() },
        }
    }

    fn admit(&mut self, id: MemberId, incarnation: u64, address: String) -> Reply {
        match self.node.admit(id, incarnation) {
            Ok(Admission { peer, since, others }) => {
                let me = Place::new(peer, &address);
                self.join_service.addresses.insert(incarnation, address);
                let others = others.into_iter().map(|other| self.join_service.place(other)).collect::<Option<_>>();
                match others {
                    Some(others) => {
                        let JoinService { group_id, fabric, .. } = self.join_service;
                        Reply::Admitted { group_id, fabric, me, since, others }
                    }
                    None => Reply::Later { reason: "another process is joining".to_owned() },
                }
            }
            Err(Refusal::NotLeader(leader)) => match leader.and_then(|leader| self.join_service.address_of(leader)) {
                Some(address) => Reply::Elsewhere { address },
                None => Reply::Later { reason: "no member leads the group".to_owned() },
            },
            Err(Refusal::Busy(reason)) => Reply::Later { reason: reason.to_owned() },
            Err(Refusal::Full) => Reply::Refused {
                reason: format!("the group has {} members, which are all it can have", crate::fabric::SLOTS),
            },
        }
    }

    /// Hands out each waiting state, once no message in it can be lost with this member.
    pub(super) fn hand_out(&mut self) {
        for HandOut { snapshot, reply, .. } in self.hand_outs.extract_if(.., |given| given.is_due(&self.node)) {
            // The visitor's thread may have given up.
            let _ = reply.send(Ok(snapshot));
        }
    }

    /// Takes a snapshot for a process that enters the group in view `first`.
    fn snapshot(&mut self, first: u64) -> Result<Snapshot, NoState> {
        if !self.node.is_voter() || self.newcomer.is_new() {
            return Err(NoState::Later("this member does not have the whole state itself".to_owned()));
        }
        let covered = Covered::of(&self.node);
        if covered.view < first {
            // The joiner would never get the messages that this member has yet to deliver in its own, earlier view.
            return Err(NoState::Later(format!("this member has not begun view {first} yet")));
        }
        let mut given: Option<io::Result<Box<dyn Read + Send>>> = None;
        self.call(|handler| given = Some(handler.snapshot()));
        let failed =
            |what: &dyn std::fmt::Display| NoState::Failed(format!("the application's `snapshot` failed: {what}"));
        match given.unwrap_or_else(|| Err(io::Error::other("it panicked"))) {
            Ok(state) => Ok(Snapshot { covered, state }),
            // The application cannot provide its state now, but may do so later.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(NoState::Later(error.to_string())),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Records a fault of a member. The application is notified later.
    pub(super) fn note_fault(&mut self, member: MemberId, what: String) {
        tracing::warn!(member = member.0, what, "suspected");
        if !self.join_service.gave_up.contains(&member) {
            // The first fault is the cause; later ones are consequences.
            self.shared.lock().faults.entry(member).or_insert_with(|| what.clone());
        }
        self.unreported_faults.push_back((member, what));
    }

    /// Notifies the application of hosts with a wrong clock, and logs a warning for the operator.
    pub(super) fn tell_warnings(&mut self) {
        for (member, what) in self.node.take_warnings() {
            tracing::warn!(member = member.0, what, "a wrong clock");
            self.call(|handler| handler.warned(member, &what));
        }
    }

    /// Records why a process could not take the state. The loss of its link, which comes next, is only a consequence.
    fn note_cause(&mut self, member: MemberId, what: String) {
        self.join_service.gave_up.insert(member);
        // The link may have gone down first, so this replaces that fault.
        self.shared.lock().faults.insert(member, what.clone());
        self.note_fault(member, what);
    }

    /// Records an error of this process, for [`crate::Group::fault`] with the own member id.
    fn note_own(&mut self, what: &str) {
        tracing::error!(what, "this process could not give the group's state away");
        self.shared.lock().faults.insert(self.shared.me, what.to_owned());
    }

    /// Updates the set of processes in the view, and the list of sources for a state transfer.
    pub(super) fn show_sources(&mut self, view: &membership::View) {
        let present = view.members.iter().map(|member| member.peer.incarnation).collect();
        self.shared.lock().present = present;
        // The highest rank comes first: the lowest rank is the leader, which has enough work.
        let voters = view.members.iter().rev().filter(|member| member.voter).map(|member| member.peer);
        let source = |peer| Some(Source { peer, address: self.join_service.address_of(peer)? });
        self.newcomer.gate.offer(voters.filter_map(source).collect());
    }
}
