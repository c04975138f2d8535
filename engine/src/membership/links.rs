//! The links with other processes: made, lost, and made again.
//!
//! A link that broke is made again (*relinked*) while both of its ends have wedged and know no decision, so that an outage
//! that leaves no majority does not end the group. Both rows keep what they hold. What was written over the former link may
//! have been lost, so each end pushes its whole row again, and the frames of the peer are fetched in the flush.

use super::row;
use super::{Cause, Departure, Member, Membership, Peer};
use crate::fabric::{Fabric, Rank, Row, SLOTS, Slot, Source};
use crate::planted::{self, Bug};
use crate::sst::Column;
use std::ops::Range;
use std::sync::Arc;

/// A process that is linked with this one, or was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) peer: Peer,
    /// See [`super::Admission::since`].
    since: u64,
    pub(super) up: bool,
    /// Its `CHANGES` as of the last look; it begins at one that no row shows.
    pub(super) changes: u64,
    /// Its `CHANGES` when the link was made again: until it moves, only a part of the row may have arrived.
    unread: Option<u64>,
    /// The view of this process when the link was made again.
    relinked: Option<u64>,
    /// When that was, by the clock of this process, if the lower slot has dialled it.
    by_lower_ms: Option<u64>,
}

/// A connection that the lower slot has dialled stands for so long against requests of the other end, which may be older. The other
/// end asks again.
const SETTLES_MS: u64 = 1000;

impl Membership {
    /// Whether the link to `peer` is up, and leads to that very process.
    pub fn is_linked(&self, peer: Peer) -> bool {
        self.is_same(peer, self.me)
            || self.links[peer.slot].is_some_and(|link| link.up && self.is_same(link.peer, peer))
    }

    /// Whether somebody else was given `slot` in a view after `since`, and is linked.
    pub fn is_given_since(&self, slot: Slot, since: u64) -> bool {
        self.links[slot].is_some_and(|link| link.up && link.since > since)
    }

    /// `peer`, whose place was given `since` this view, is linked now, and `row` is its row.
    pub fn attach(&mut self, peer: Peer, since: u64, row: Arc<Row>, fabric: &mut dyn Fabric) {
        self.table.attach(peer.slot, row);
        // Zero, until all of the row is here; on shared memory it is whole at any time.
        let unread = Some(0).filter(|_| !fabric.shares_rows());
        self.links[peer.slot] =
            Some(Link { peer, since, up: true, changes: u64::MAX, unread, relinked: None, by_lower_ms: None });
        self.detector.heard(peer.slot);
        // Never back: a slot that was given out may be knocked at from for a while.
        if (peer.slot + 1 + SLOTS - self.next_slot % SLOTS) % SLOTS < SLOTS / 2 {
            self.next_slot = peer.slot + 1;
        }
        self.count_links();
        self.show_clock();
        // It knows nothing of this row yet. Records of the epoch are for those that are in the same epoch: when a group is
        // restarted.
        let decided = self.table.load(self.me.slot, row::DECIDED) > 0;
        let decisions = if decided { row::DECISION.0..row::table_spec().columns_len } else { 0..0 };
        let records = if self.restarting { row::WEDGE.0..row::DECISION.0 } else { 0..0 };
        self.push_row(peer.slot, [records, decisions], fabric);
        self.store_and_push(row::LINKED.at(peer.slot), peer.incarnation, fabric);
        if let Some(rank) = self.view.as_ref().and_then(|view| view.rank_of(peer.slot)) {
            self.acquit(rank, Cause::Absent, fabric);
        }
    }

    /// The link to the process in `slot` is down, because of `what`. True if that ends the view.
    pub fn link_down(&mut self, slot: Slot, cause: Cause, what: &str, fabric: &mut dyn Fabric) -> bool {
        let Some(link) = self.links[slot].filter(|link| link.up) else { return false };
        let peer = link.peer;
        // Its last words: it may have gone because it knew the decision. If they are none, it is suspected anyway.
        let _ = self.read_row(slot, fabric);
        self.links[slot] = Some(Link { up: false, changes: 0, ..link });
        self.count_links();
        self.pending.retain(|pending| pending.peer != peer);
        self.store_and_push(row::LINKED.at(slot), 0, fabric);
        let is = |m: &Member| self.is_same(m.peer, peer);
        let rank = self.view.as_ref().and_then(|view| view.members.iter().position(is));
        if self.restarting {
            // It may come back in another life, with what it has promised; how far its log goes is to be told again.
            if let Some(shown) = rank.and_then(|rank| self.epoch.shown.get_mut(rank)) {
                (shown.wedged, shown.flushed) = (None, None);
            }
            let broke = rank.filter(|_| cause == Cause::Breach);
            return broke.is_some_and(|rank| self.suspect(rank, cause, what, fabric));
        }
        rank.is_some_and(|rank| self.suspect(rank, cause, what, fabric))
    }

    pub(super) fn count_links(&mut self) {
        let up = |slot: &Slot| self.links[*slot].is_some_and(|link| link.up);
        self.audience = (0..SLOTS).filter(up).collect();
        let members = self.view.iter().flat_map(|view| &view.members);
        let members = members.map(|m| m.peer).filter(|&peer| peer.slot != self.me.slot && self.is_linked(peer));
        self.watched = members.map(|peer| peer.slot).collect();
    }

    /// Whether the row in `slot` is whole: not while its owner pushes it again.
    pub(super) fn is_readable(&self, slot: Slot) -> bool {
        let changes = self.table.load(slot, row::CHANGES);
        self.links[slot].is_none_or(|link| link.unread != Some(changes))
    }

    /// The members whose link may be made again: this process has wedged, knows no decision, and the link is down.
    pub fn broken_links(&self) -> Vec<Peer> {
        if !self.is_wedged() || self.restarting {
            return Vec::new();
        }
        let members = self.view.iter().flat_map(|view| &view.members).enumerate();
        let broken = members.filter(|(rank, member)| self.is_broken(member.peer) && !self.is_final(*rank));
        broken.map(|(_, member)| member.peer).collect()
    }

    /// Whether `peer` was linked, and is no more.
    pub(super) fn is_broken(&self, peer: Peer) -> bool {
        peer != self.me && self.links[peer.slot].is_some_and(|link| !link.up && link.peer == peer)
    }

    /// Whether the link with `peer`, which has wedged view `view`, may be made again; else why not. A peer may be one view
    /// behind: it was a candidate of that view's decision, so it lacks nothing but the decision. So may it if this member
    /// `parts`: it knows the decision, and stays until the others do.
    pub fn may_relink(&self, peer: Peer, view: u64, parts: bool) -> Result<(), &'static str> {
        let Some(mine) = self.view.as_ref().filter(|_| !self.restarting) else {
            return Err("this member is in no view yet");
        };
        let Some(rank) = mine.members.iter().position(|member| member.peer == peer && peer != self.me) else {
            return Err("it is not in the view of this member");
        };
        if !(view == mine.number || view + 1 == mine.number) {
            return Err("this member is in another view");
        }
        if !self.is_wedged() && !parts {
            return Err("the view does not end here, or its end is decided already");
        }
        if self.is_final(rank) {
            return Err("the link was made again too often in this view, or the member broke the protocol");
        }
        match self.is_broken(peer) {
            true => Ok(()),
            false => Err("the link is up here"),
        }
    }

    /// The row of the process in `slot`, whose link is being made again, is `row` from now on, and keeps what it held.
    pub fn row_moves(&mut self, slot: Slot, row: Arc<Row>, fabric: &dyn Fabric) {
        let changes = self.table.load(slot, row::CHANGES);
        self.table.attach(slot, row);
        let unread = Some(changes).filter(|_| !fabric.shares_rows());
        if let Some(link) = &mut self.links[slot] {
            *link = Link { changes: u64::MAX, unread, ..*link };
        }
    }

    /// Whether the link with `peer` is up over a connection that goes before another of the two that crosses it.
    pub fn is_settled(&self, peer: Peer) -> bool {
        self.links[peer.slot].is_some_and(|link| link.up && link.peer == peer && link.by_lower_ms.is_some())
    }

    /// Whether it is so since a moment ago.
    pub fn has_just_settled(&self, peer: Peer, now_ms: u64) -> bool {
        let made_ms = self.links[peer.slot].and_then(|link| link.by_lower_ms);
        self.is_settled(peer) && made_ms.is_some_and(|made_ms| now_ms.saturating_sub(made_ms) < SETTLES_MS)
    }

    /// The view that began without `peer`, which has wedged view `view` and knows no decision, and how `peer` departed. `None` if
    /// this member knows of no such view.
    pub fn has_gone_on_without(&self, peer: Peer, view: u64) -> Option<(u64, Departure)> {
        let mine = self.view.as_ref().filter(|_| !self.restarting)?;
        let decided = self.epoch.decided.as_ref().filter(|_| mine.number == view);
        if let Some(value) = decided {
            // One that left as it wanted is better told the decision, which this member still has.
            let mut departed = value.departed().filter(|(_, departure)| *departure == Departure::Failed);
            return departed.find(|(other, _)| *other == peer).map(|(_, departure)| (value.view.number, departure));
        }
        if mine.number <= view || self.is_member(peer) {
            return None;
        }
        let known = self.departed.iter().find(|(other, ..)| *other == peer);
        // That of long ago is forgotten: then it may have left, which nobody can tell it any more.
        Some(known.map_or((view + 1, Departure::Failed), |&(_, number, departure)| (number, departure)))
    }

    /// Whether `peer`, which was in the view before this one when it asked, has gone on to this one since.
    pub fn has_followed(&self, peer: Peer, view: u64) -> bool {
        view < self.number() && self.table.load(peer.slot, row::INSTALLED) > self.number()
    }

    /// Whether this member's accusation of `peer` stays for the rest of the epoch.
    pub fn has_given_up(&self, peer: Peer) -> bool {
        self.view.as_ref().and_then(|view| view.rank_of(peer.slot)).is_some_and(|rank| self.is_final(rank))
    }

    /// The link with `peer`, of which [`Membership::may_relink`] was true, was made again, at `by_lower_ms` if the lower slot
    /// has dialled it.
    pub fn relink(&mut self, peer: Peer, by_lower_ms: Option<u64>, fabric: &mut dyn Fabric) {
        let (slot, view) = (peer.slot, self.number());
        if let Some(link) = &mut self.links[slot] {
            (link.up, link.relinked, link.by_lower_ms) = (true, Some(view), by_lower_ms);
        }
        self.detector.heard(slot);
        self.count_links();
        self.push_row(slot, [row::WEDGE.0..row::DECISION.0, row::DECISION.0..row::table_spec().columns_len], fabric);
        self.store_and_push(row::LINKED.at(slot), peer.incarnation, fabric);
        let Some(rank) = self.view.as_ref().and_then(|view| view.rank_of(slot)) else { return };
        for cause in [Cause::Silence, Cause::LinkDown, Cause::Fetch, Cause::Stuck] {
            self.acquit(rank, cause, fabric);
        }
    }

    /// Whether the stream of the member of `rank` may lack what was written before its link was made again, although its `WEDGED`
    /// is here. That member may have been one view ahead then.
    pub(super) fn is_relinked(&self, rank: Rank) -> bool {
        let link = self.slot_of(rank).and_then(|slot| self.links[slot]);
        link.and_then(|link| link.relinked).is_some_and(|view| view + 1 >= self.number())
    }

    /// Pushes what the own row shows, with these of its `records`, to a peer that holds an older state of it, or none: in the
    /// order in which the owner stores it, records before their guards. `CHANGES` comes last, by [`Membership::tell`]: until it
    /// moves the peer reads nothing of the row as a whole.
    fn push_row(&self, slot: Slot, records: [Range<usize>; 2], fabric: &mut dyn Fabric) {
        let [epoch, decisions] = records;
        let word = |column: Column| column.0..column.at(1).0;
        let parts = [
            // A peer that enters the view meanwhile must see that it has ended here before it sees that it was begun here.
            word(row::WEDGED),
            epoch,
            decisions,
            row::HEARTBEAT.0..row::CHANGES.0,
            row::ACCEPTED.0..row::WEDGE.0,
            // A leader that sees the promise has seen what was accepted before.
            word(row::PROMISE),
            row::EPOCH.0..row::PROMISE.0,
        ];
        for part in parts.into_iter().filter(|_| !planted::is(Bug::RelinkWithoutRow)) {
            self.table.push(fabric, &[slot], part, Source::Snapshot);
        }
    }

    /// The processes in `gone` are not in the view: their links are of no use any more.
    pub fn forget(&mut self, gone: &[Slot], fabric: &mut dyn Fabric) {
        for &slot in gone {
            self.links[slot] = None;
            self.store_and_push(row::LINKED.at(slot), 0, fabric);
        }
        self.count_links();
    }
}
