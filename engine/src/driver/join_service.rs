//! Serves the requests of other processes: admits joiners, attaches their links, and provides the application's state.

use super::app::App;
use super::mending::Mending;
use super::newcomer::Newcomer;
use crate::config::FabricKind;
use crate::error::Error;
use crate::meet::questions::{Place, Reply};
use crate::membership::{self, Admission, Departure, Peer, Refusal, ViewChange};
use crate::node::Node;
use crate::peers::acceptor::Acceptor;
use crate::peers::contacts::Memory;
use crate::peers::gate::{Gate, Source};
use crate::peers::log_store::{PLACES, Places};
use crate::peers::relink::Caller;
use crate::shared::requests::PeerRequest;
use crate::shared::snapshot::{NoState, Snapshot};
use crate::types::{Copies, EVERYBODY, MemberId};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// A state that waits to be handed out.
pub(crate) struct HandOut {
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
        view > self.snapshot.covered.view || node.subgroup(EVERYBODY).received_by(Copies::All, &self.covers)
    }
}

/// What other processes ask of this one, and their addresses.
pub(crate) struct JoinService {
    group_id: u64,
    fabric: FabricKind,
    /// By incarnation.
    addresses: HashMap<u64, String>,
    memory: Memory,
    /// Members that reported why they could not take the state. An entry stays until the member joins again.
    gave_up: HashSet<MemberId>,
    hand_outs: Vec<HandOut>,
    mending: Mending,
    /// The listening thread, which lives as long as the driver.
    _acceptor: Acceptor,
}

impl JoinService {
    pub(super) fn new(
        caller: Caller,
        addresses: HashMap<u64, String>,
        memory: Memory,
        acceptor: Acceptor,
    ) -> JoinService {
        JoinService {
            group_id: caller.group_id,
            fabric: caller.linking.kind(),
            addresses,
            memory,
            gave_up: HashSet::new(),
            hand_outs: Vec::new(),
            mending: Mending::new(caller),
            _acceptor: acceptor,
        }
    }

    pub(super) fn group_id(&self) -> u64 {
        self.group_id
    }

    /// The time at which a pass is needed to make links again, if one is.
    pub(super) fn mends_at_ms(&self) -> Option<u64> {
        self.mending.due_ms()
    }

    /// Makes broken links again, while that is allowed.
    pub(super) fn mend_links(&mut self, node: &Node, now_ms: u64) {
        let JoinService { mending, addresses, .. } = self;
        mending.update(node, now_ms, |peer| place_of(addresses, peer));
    }

    /// Updates the known processes when a view begins: those that departed are forgotten.
    pub(crate) fn begin(&mut self, change: &ViewChange) {
        for peer in &change.joined {
            self.gave_up.remove(&peer.id);
        }
        for (peer, _) in &change.departed {
            self.addresses.remove(&peer.incarnation);
        }
    }

    /// A process and its address, if the address is known.
    pub(super) fn place(&self, peer: Peer) -> Option<Place> {
        place_of(&self.addresses, peer)
    }

    /// Serves a request of another process.
    pub(super) fn receive(
        &mut self,
        request: PeerRequest,
        node: &mut Node,
        app: &mut App,
        newcomer: &Newcomer,
        now_ms: u64,
    ) {
        match request {
            PeerRequest::Join { id, incarnation, address, reply } => {
                let answer = self.admit(node, id, incarnation, address);
                // The visitor's thread may have given up.
                let _ = reply.send(answer);
            }
            PeerRequest::Leads { reply } => {
                // The visitor's thread may have given up.
                let _ = reply.send(node.leads());
            }
            PeerRequest::Link { place, since, connection } => match node.attach(place.peer(), since, connection) {
                Ok(()) => {
                    self.addresses.insert(place.incarnation, place.address);
                }
                Err(error) => {
                    tracing::warn!(%error, member = place.id, "cannot link with a joining process");
                    // For want of memory, say. The joiner cannot see it, and this process holds it up.
                    if matches!(error, Error::Io { .. }) {
                        note_own(
                            app,
                            &format!("this process cannot link with the joining member {}: {error}", place.id),
                        );
                    }
                }
            },
            PeerRequest::MayRelink { peer, view, reply } => {
                let answer = self.may_relink(node, peer, view, now_ms);
                // The visitor's thread may have given up.
                let _ = reply.send(answer);
            }
            PeerRequest::GoneOn { peer, view, left } => {
                let departure = if left { Departure::Left } else { Departure::Failed };
                node.learn_gone_on(peer, view, departure);
            }
            PeerRequest::Relink { peer, view, dialled, connection } => {
                match node.relink(peer, view, dialled, connection) {
                    Ok(()) => tracing::info!(member = peer.id.0, "a broken link was made again"),
                    Err(error) => tracing::debug!(%error, member = peer.id.0, "a broken link could not be made again"),
                }
            }
            PeerRequest::State { view, reply } => match snapshot(node, app, newcomer, view) {
                Ok(snapshot) => {
                    let covers = node.subgroup(EVERYBODY).delivered_counts();
                    self.hand_outs.push(HandOut { snapshot, covers, reply });
                }
                Err(error) => {
                    if let NoState::Failed(what) = &error {
                        note_own(app, what);
                    }
                    let _ = reply.send(Err(error));
                }
            },
            PeerRequest::Fault { member, what } if member == app.shared.me => note_own(app, &what),
            PeerRequest::Fault { member, what } => self.note_cause(app, member, what),
        }
    }

    fn may_relink(&mut self, node: &mut Node, peer: Peer, view: u64, now_ms: u64) -> Reply {
        if let Some((view, departure)) = node.has_gone_on_without(peer, view) {
            return Reply::GoneOn { view, left: departure == Departure::Left };
        }
        match node.may_relink(peer, view) {
            Ok(()) if self.mending.await_dial(peer, now_ms) => Reply::Linked {},
            Ok(()) => Reply::Later { reason: "this process has asked to make the link itself".to_owned() },
            Err(reason) => Reply::Later { reason: reason.to_owned() },
        }
    }

    fn admit(&mut self, node: &mut Node, id: MemberId, incarnation: u64, address: String) -> Reply {
        match node.admit(id, incarnation) {
            Ok(Admission { peer, since, others }) => {
                let me = Place::new(peer, &address);
                self.addresses.insert(incarnation, address);
                let others = others.into_iter().map(|other| self.place(other)).collect::<Option<_>>();
                match others {
                    Some(others) => {
                        let JoinService { group_id, fabric, .. } = *self;
                        Reply::Admitted { group_id, fabric, me, since, others }
                    }
                    None => Reply::Later { reason: "another process is joining".to_owned() },
                }
            }
            Err(Refusal::NotLeader(leader)) => match leader.and_then(|leader| self.place(leader)) {
                Some(Place { address, .. }) => Reply::Elsewhere { address },
                None => Reply::Later { reason: "the group has no leader at present".to_owned() },
            },
            Err(Refusal::Busy(reason)) => Reply::Later { reason: reason.to_owned() },
            Err(Refusal::Full) => Reply::Refused {
                reason: format!("the group has {} members, the most that are possible", crate::fabric::SLOTS),
            },
        }
    }

    /// Hands out each waiting state, once no message in it can be lost with this member.
    pub(super) fn hand_out(&mut self, node: &Node) {
        for HandOut { snapshot, reply, .. } in self.hand_outs.extract_if(.., |given| given.is_due(node)) {
            // The visitor's thread may have given up.
            let _ = reply.send(Ok(snapshot));
        }
    }

    /// Records a fault of a member. The application is notified later.
    pub(super) fn note_fault(&self, app: &mut App, member: MemberId, what: String) {
        tracing::warn!(member = member.0, what, "suspected");
        if !self.gave_up.contains(&member) {
            // The first fault is the cause; later ones are consequences.
            app.shared.lock().faults.entry(member).or_insert_with(|| what.clone());
        }
        app.note_fault(member, what);
    }

    /// Records why a process could not take the state. The loss of its link, which comes next, is only a consequence.
    fn note_cause(&mut self, app: &mut App, member: MemberId, what: String) {
        self.gave_up.insert(member);
        // The link may have gone down first, so this replaces that fault.
        app.shared.lock().faults.insert(member, what.clone());
        self.note_fault(app, member, what);
    }

    /// Updates the set of processes in the view, and the list of sources for a state transfer.
    pub(super) fn show_sources(&self, app: &App, gate: &Gate, view: &membership::View) {
        let present = view.members.iter().map(|member| member.peer.incarnation).collect();
        app.shared.lock().present = present;
        // The highest rank comes first: the lowest rank is the leader, which has enough work.
        let voters = view.members.iter().rev().filter(|member| member.voter).map(|member| member.peer);
        let source = |peer| Some(Source { peer, address: self.place(peer)?.address });
        gate.offer(voters.filter_map(source).collect());
    }

    /// Keeps the addresses of the members of the new view.
    ///
    /// They are for processes that ask this one, for the next start of this process, and for its next attempt to join.
    pub(super) fn keep_places(&self, node: &mut Node, app: &App) {
        let Some(view) = node.view() else { return };
        let places: Vec<Place> = view.members.iter().filter_map(|member| self.place(member.peer)).collect();
        app.shared.lock().places = Arc::new(places.clone());
        self.memory.keep(self.group_id, &places);
        if !app.shared.logs() {
            return;
        }
        match toml::to_string(&Places { fabric: self.fabric, places }) {
            Ok(text) => node.save(PLACES, text.as_bytes()),
            Err(error) => tracing::error!(%error, "cannot save the members' addresses"),
        }
    }
}

fn place_of(addresses: &HashMap<u64, String>, peer: Peer) -> Option<Place> {
    Some(Place::new(peer, addresses.get(&peer.incarnation)?))
}

/// Takes a snapshot for a process that enters the group in view `first`.
fn snapshot(node: &mut Node, app: &mut App, newcomer: &Newcomer, first: u64) -> Result<Snapshot, NoState> {
    if !node.is_voter() || newcomer.is_new() {
        return Err(NoState::Later("this member does not have the whole state yet".to_owned()));
    }
    if node.view().is_none_or(|view| view.number < first) {
        // The joiner would never get the messages that this member has yet to deliver in its own, earlier view.
        return Err(NoState::Later(format!("this member has not begun view {first} yet")));
    }
    app.snapshot(node).map_err(|error| match error.kind() {
        // The application cannot provide its state now, but may do so later.
        io::ErrorKind::WouldBlock => NoState::Later(error.to_string()),
        _ => NoState::Failed(format!("the application's `snapshot` failed: {error}")),
    })
}

/// Records an error of this process, for [`crate::Group::fault`] with the own member id.
fn note_own(app: &App, what: &str) {
    tracing::error!(what, "a fault of this process");
    app.shared.lock().faults.insert(app.shared.me, what.to_owned());
}
