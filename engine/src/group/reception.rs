//! The driver's side of the door: gives joiners a place, attaches them, hands out the application's state.

use super::door::{Door, Snapshot, Visit};
use super::driver::Driver;
use super::transfer::Covered;
use super::wire::{Place, Reply};
use crate::config::{FabricKind, MemberId};
use crate::membership::{Admission, Peer, Refusal, ViewChange};
use crate::node::Node;
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::mpsc::SyncSender;

/// A state on its way out.
pub(super) struct HandOut {
    snapshot: Snapshot,
    /// Per stream of its view, how many messages it covers.
    covers: Vec<u64>,
    reply: SyncSender<io::Result<Snapshot>>,
}

impl HandOut {
    /// Whether all that it covers will be delivered to everybody, even if this process dies: all have received it, or this
    /// process has brought it into the next view.
    fn is_due(&self, node: &Node) -> bool {
        let view = node.view().map_or(0, |view| view.number);
        view > self.snapshot.covered.view || node.multicast().received_by(0, &self.covers)
    }
}

/// What a driver knows of where processes are found.
pub(super) struct Reception {
    group_id: u64,
    fabric: FabricKind,
    /// By incarnation.
    addresses: HashMap<u64, String>,
    /// Listens as long as the driver lives.
    _door: Door,
}

impl Reception {
    pub(super) fn new(group_id: u64, fabric: FabricKind, addresses: HashMap<u64, String>, door: Door) -> Reception {
        Reception { group_id, fabric, addresses, _door: door }
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

    /// A view begins: those who are gone are not asked for any more.
    pub(super) fn begin(&mut self, change: &ViewChange) {
        for (peer, _) in &change.departed {
            self.addresses.remove(&peer.incarnation);
        }
    }

    fn place(&self, peer: Peer) -> Option<Place> {
        Some(Place::new(peer, self.addresses.get(&peer.incarnation)?))
    }
}

impl Driver {
    /// Does what somebody at the door wants.
    pub(super) fn receive(&mut self, visit: Visit) {
        match visit {
            Visit::Join { id, incarnation, address, reply } => {
                let answer = self.admit(id, incarnation, address);
                // The visitor may have lost its patience.
                let _ = reply.send(answer);
            }
            Visit::Link { place, since, connection } => match self.node.attach(place.peer(), since, connection) {
                Ok(()) => {
                    self.reception.addresses.insert(place.incarnation, place.address);
                }
                Err(error) => tracing::warn!(%error, member = place.id, "a link was refused"),
            },
            Visit::State { view, reply } => match self.snapshot(view) {
                Ok(snapshot) => {
                    let covers = self.node.multicast().told();
                    self.hand_outs.push(HandOut { snapshot, covers, reply });
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            },
        }
    }

    fn admit(&mut self, id: MemberId, incarnation: u64, address: String) -> Reply {
        match self.node.admit(id, incarnation) {
            Ok(Admission { peer, since, others }) => {
                let me = Place::new(peer, &address);
                self.reception.addresses.insert(incarnation, address);
                let others = others.into_iter().map(|other| self.reception.place(other)).collect::<Option<_>>();
                match others {
                    Some(others) => {
                        let Reception { group_id, fabric, .. } = self.reception;
                        Reply::Admitted { group_id, fabric, me, since, others }
                    }
                    None => Reply::Later { reason: "another process is joining".to_owned() },
                }
            }
            Err(Refusal::NotLeader(leader)) => match leader.and_then(|leader| self.reception.address_of(leader)) {
                Some(address) => Reply::Elsewhere { address },
                None => Reply::Later { reason: "no member leads the group".to_owned() },
            },
            Err(Refusal::Busy(reason)) => Reply::Later { reason: reason.to_owned() },
            Err(Refusal::Full) => Reply::Refused {
                reason: format!("the group has {} members, which are all it can have", crate::fabric::SLOTS),
            },
        }
    }

    /// Hands out the states that cover nothing which only this member may have.
    pub(super) fn hand_out(&mut self) {
        for HandOut { snapshot, reply, .. } in self.hand_outs.extract_if(.., |given| given.is_due(&self.node)) {
            // The visitor may have lost its patience.
            let _ = reply.send(Ok(snapshot));
        }
    }

    /// The state, for a process that has heard nothing before view `first`.
    fn snapshot(&mut self, first: u64) -> io::Result<Snapshot> {
        if !self.node.is_voter() || self.newcomer.is_new() {
            return Err(io::Error::other("this member does not have the whole state itself"));
        }
        let covered = Covered::of(&self.node);
        if covered.view < first {
            // What this member has still to deliver of its view would reach the other in no way.
            return Err(io::Error::other(format!("this member has not begun view {first} yet")));
        }
        let mut given: Option<io::Result<Box<dyn Read + Send>>> = None;
        self.call(|handler| given = Some(handler.snapshot()));
        let state = given.unwrap_or_else(|| Err(io::Error::other("the application's `snapshot` panicked")))?;
        Ok(Snapshot { covered, state })
    }
}
