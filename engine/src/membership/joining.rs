//! Joiners: the leader gives each a slot. Once all candidates and the other joiners are linked with it, the next
//! decision names it.

use super::row::{self, Malformed};
use super::view::{Member, ViewDecision};
use super::{Membership, Peer};
use crate::fabric::{Fabric, SLOTS, Slot};
use crate::multicast::Violation;
use crate::types::MemberId;

/// A joiner to which the leader has given a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) peer: Peer,
    until_ms: u64,
}

/// A place in the group for a process that must still link with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admission {
    /// The process in its slot.
    pub peer: Peer,
    /// The view in which the place was given. If two processes have the same slot, the later view takes precedence.
    pub since: u64,
    /// The processes to link with: the members and the other joiners.
    pub others: Vec<Peer>,
}

/// Why a process gets no place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// This process is not the leader. Ask the given member, if one is known.
    NotLeader(Option<Peer>),
    /// A view change is under way, or an earlier incarnation of the same member is still in the view. Ask again.
    Busy(&'static str),
    /// No slot is free.
    Full,
}

impl Membership {
    /// Gives a joiner a place, if this member is the leader.
    pub(crate) fn admit(&mut self, id: MemberId, incarnation: u64, now_ms: u64) -> Result<Admission, Refusal> {
        let Some(view) = &self.view else { return Err(Refusal::NotLeader(None)) };
        if !self.is_leader() {
            let leader = (self.candidates().trailing_zeros() as usize).min(view.members.len());
            return Err(Refusal::NotLeader(view.members.get(leader).map(|member| member.peer)));
        }
        if self.epoch.wedged_ms.is_some() {
            return Err(Refusal::Busy("a view change is under way"));
        }
        let members: Vec<Peer> = view.members.iter().map(|member| member.peer).collect();
        if members.iter().any(|peer| peer.id == id) {
            return Err(Refusal::Busy("a member of this id is in the group: if it is dead, its removal is under way"));
        }
        // A process that asks again has abandoned its earlier attempt.
        self.pending.retain(|pending| pending.peer.id != id);
        let others: Vec<Peer> = members.iter().copied().chain(self.pending.iter().map(|p| p.peer)).collect();
        let taken = |slot: &Slot| others.iter().any(|peer| peer.slot == *slot);
        // The slot that has been unused for longest comes first: a joiner that gave up may still be dialling members
        // with its slot.
        let slots = (0..SLOTS).map(|n| (self.next_slot + n) % SLOTS);
        let slot = slots.into_iter().find(|slot| !taken(slot)).ok_or(Refusal::Full)?;
        self.next_slot = slot + 1;
        let peer = Peer { slot, id, incarnation };
        self.pending.push(Pending { peer, until_ms: now_ms.saturating_add(self.settings.join_timeout_ms) });
        Ok(Admission { peer, since: self.number(), others })
    }

    /// Removes the joiners that have taken too long. Returns their slots, for their links to be released.
    pub(super) fn expired(&mut self, now_ms: u64) -> Vec<Slot> {
        let (late, rest) = self.pending.iter().partition(|pending| now_ms >= pending.until_ms);
        self.pending = rest;
        let late: Vec<Pending> = late;
        late.into_iter()
            .map(|pending| pending.peer)
            .filter(|&peer| self.is_linked(peer))
            .map(|peer| peer.slot)
            .collect()
    }

    /// The joiners that are linked with every candidate and with each other.
    pub(super) fn complete_joiners(&self) -> Vec<Peer> {
        let Some(view) = self.view.as_ref().filter(|_| !self.pending.is_empty()) else { return Vec::new() };
        let candidates = self.candidates();
        let members = view.members.iter().enumerate().filter(|(rank, _)| candidates >> rank & 1 == 1);
        let mut group: Vec<Peer> = members.map(|(_, member)| member.peer).collect();
        let old = group.len();
        for joiner in self.pending.iter().map(|pending| pending.peer) {
            let both = |other: &Peer| self.shows_link(*other, joiner) && self.shows_link(joiner, *other);
            if group.iter().all(both) {
                group.push(joiner);
            }
        }
        group.split_off(old)
    }

    fn shows_link(&self, from: Peer, to: Peer) -> bool {
        let mine = from == self.me || self.is_linked(from);
        mine && self.table.load(from.slot, row::LINKED.at(to.slot)) == to.incarnation
    }

    /// Looks for a decided view that names this process, which has no view yet.
    pub(super) fn look_for_invitation(&mut self) -> Result<bool, Violation> {
        for i in 0..self.audience.len() {
            let slot = self.audience[i];
            let shown = self.table.load(slot, row::DECIDED);
            if shown == 0 || self.invited.is_some() {
                continue;
            }
            let value: Option<ViewDecision> = row::decided(&self.table, slot, shown - 1)
                .map_err(|Malformed(what)| Violation { peer: slot, what: what.into() })?;
            let Some(value) = value else { continue };
            match value.view.members.iter().find(|member| member.peer == self.me) {
                // A voter counts on its log and on its state, and this process has neither.
                Some(Member { voter: true, .. }) => {
                    let what = "its decision names this process as a voter before it has the state";
                    return Err(Violation { peer: slot, what: what.to_owned() });
                }
                Some(_) if value.view.shards.len() != self.settings.subgroups => {
                    let (theirs, ours) = (value.view.shards.len(), self.settings.subgroups);
                    let what = format!("its decision has {theirs} subgroups, and this process {ours}");
                    return Err(Violation { peer: slot, what });
                }
                Some(_) => self.invited = Some(value),
                None => {}
            }
        }
        Ok(self.invited.is_some())
    }

    /// Whether this process has no view yet and a decided view names it.
    pub(super) fn is_invited(&self) -> bool {
        self.view.is_none() && self.invited.is_some()
    }

    /// Publishes the decision that names this joiner, before the joiner enters that view.
    pub(super) fn accept_invitation(&mut self, fabric: &mut dyn Fabric) {
        if let Some(value) = &self.invited {
            let (words, of) = (value.encode(), value.view.number - 1);
            self.write(row::Record::Decision(of), &words, fabric);
        }
    }
}
