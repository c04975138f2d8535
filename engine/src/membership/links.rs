//! The links with other processes: made, broken, and relinked.
//!
//! A broken link is *relinked* while both of its ends have wedged and know no decision. So an outage that leaves no
//! majority does not end the group. Both rows keep their contents. Writes over the former link may have been lost. So
//! each end pushes its whole row again, and the flush fetches the peer's frames.

use super::row;
use super::{Cause, Departure, Member, Membership, Moment, Peer, Role};
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
    /// The peer's `CHANGES` as of the last look. It begins with a value that no row has.
    pub(super) changes: u64,
    /// The peer's `CHANGES` at the relink. Until it moves, only a part of the row may have arrived.
    unread: Option<u64>,
    relinked: Option<Relinked>,
}

/// The latest relink of a link.
#[derive(Debug, Clone, Copy)]
struct Relinked {
    /// The view of this process at that time.
    view: u64,
    /// The time by this process's clock.
    at_ms: u64,
    /// Whether the lower slot dialled the connection.
    by_lower: bool,
}

/// How long a connection that the lower slot dialled takes precedence over new requests, in milliseconds.
///
/// A request of the other end may be older than the connection. The other end asks again.
const SETTLES_MS: u64 = 1000;

/// For this time after a relink, in milliseconds, a request to relink is refused while the link is up: it may be older
/// than the link.
///
/// After an outage a request that has waited in the network can arrive together with those that follow it. It would take
/// the link down just when the members count on it. A process that has found the new link broken asks again.
const OLD_REQUEST_MS: u64 = 200;

impl Membership {
    /// Whether the link to `peer` is up and leads to exactly that incarnation.
    pub(super) fn is_linked(&self, peer: Peer) -> bool {
        self.is_same(peer, self.me)
            || self.links[peer.slot].is_some_and(|link| link.up && self.is_same(link.peer, peer))
    }

    /// Whether the link to the member of `rank` is down, and that member is not known to have begun a later view.
    pub(super) fn is_severed(&self, rank: Rank) -> bool {
        let member = self.view.as_ref().and_then(|view| view.members.get(rank)).map(|member| member.peer);
        member.is_some_and(|peer| !self.is_linked(peer) && !self.has_gone_on(peer.slot))
    }

    /// Checks whether `peer`, with a place that was given in view `since`, may be attached. The error is the reason why
    /// not.
    ///
    /// `runs` means that this process runs a view.
    pub(crate) fn may_attach(&self, peer: Peer, since: u64, runs: bool) -> Result<(), &'static str> {
        // Another process got the slot in a later view, and is linked.
        let is_given = self.links[peer.slot].is_some_and(|link| link.up && link.since > since);
        if peer.slot == self.me.slot || self.is_stranger(peer) || is_given {
            return Err("a link to a slot that another process holds");
        }
        match runs && self.is_member(peer) {
            true => Err("a link to a member of a view that runs, which is made again only while the view ends"),
            false => Ok(()),
        }
    }

    /// Attaches the row of `peer`, which is linked now. Its place was given in view `since`.
    pub(crate) fn attach(&mut self, peer: Peer, since: u64, row: Arc<Row>, fabric: &mut dyn Fabric) {
        self.table.attach(peer.slot, row);
        // `CHANGES` is 0 until the whole row has arrived. On shared memory the row is complete at any time.
        let unread = Some(0).filter(|_| !fabric.shares_rows());
        self.links[peer.slot] = Some(Link { peer, since, up: true, changes: u64::MAX, unread, relinked: None });
        self.detector.heard(peer.slot);
        // Only forwards: a joiner that was given an earlier slot may still be dialling members.
        if (peer.slot + 1 + SLOTS - self.next_slot % SLOTS) % SLOTS < SLOTS / 2 {
            self.next_slot = peer.slot + 1;
        }
        self.count_links();
        self.show_clock();
        // The peer has nothing of this row yet. It needs the records of the epoch only if it is in the same epoch,
        // which is the case during a restart.
        let decided = self.table.load(self.me.slot, row::DECIDED) > 0;
        let decisions = if decided { row::DECISION.0..row::table_spec().columns_len } else { 0..0 };
        let records = if self.restarting { row::WEDGE.0..row::DECISION.0 } else { 0..0 };
        self.push_row(peer.slot, [records, decisions], fabric);
        self.store_and_push(row::LINKED.at(peer.slot), peer.incarnation, fabric);
        if let Some(rank) = self.view.as_ref().and_then(|view| view.rank_of(peer.slot)) {
            self.acquit(rank, Cause::Absent, fabric);
        }
    }

    /// Notes that the link to the process in `slot` is down for the reason `what`. Returns true if that accuses the
    /// member.
    pub(super) fn link_down(&mut self, slot: Slot, cause: Cause, what: &str, fabric: &mut dyn Fabric) -> bool {
        let Some(link) = self.links[slot].filter(|link| link.up) else { return false };
        let peer = link.peer;
        // Reads the peer's last writes: it may have gone because it knew the decision. A protocol violation among them
        // needs no treatment, since the peer is accused anyway.
        let _ = self.read_row(slot, fabric);
        self.links[slot] = Some(Link { up: false, changes: 0, ..link });
        self.count_links();
        self.pending.retain(|pending| pending.peer != peer);
        self.store_and_push(row::LINKED.at(slot), 0, fabric);
        let is = |m: &Member| self.is_same(m.peer, peer);
        let rank = self.view.as_ref().and_then(|view| view.members.iter().position(is));
        if self.restarting {
            // The member may come back as another incarnation with the same promises. Then it must publish again how
            // far its log goes.
            if let Some(shown) = rank.and_then(|rank| self.epoch.shown.get_mut(rank)) {
                (shown.wedged, shown.flushed) = (None, None);
            }
            let broke = rank.filter(|_| cause == Cause::Violation);
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

    /// Whether the row in `slot` is complete. It is not while its owner pushes it again.
    pub(super) fn is_readable(&self, slot: Slot) -> bool {
        let changes = self.table.load(slot, row::CHANGES);
        self.links[slot].is_none_or(|link| link.unread != Some(changes))
    }

    /// The members to relink with. Empty while there is nothing to do.
    pub(crate) fn links_to_make(&self, at: &Moment) -> Vec<Peer> {
        match at.role {
            Role::Runs { .. } => self.broken_links(),
            Role::Parts => self.cut_off_heirs(),
            _ => Vec::new(),
        }
    }

    /// The members with broken links. Empty unless this process has wedged and knows no decision.
    fn broken_links(&self) -> Vec<Peer> {
        if !self.is_wedged() || self.restarting {
            return Vec::new();
        }
        let members = self.view.iter().flat_map(|view| &view.members).enumerate();
        let broken = members.filter(|(rank, member)| self.is_broken(member.peer) && !self.is_final(*rank));
        broken.map(|(_, member)| member.peer).collect()
    }

    /// Whether `peer` was linked and its link is down.
    pub(super) fn is_broken(&self, peer: Peer) -> bool {
        peer != self.me && self.links[peer.slot].is_some_and(|link| !link.up && link.peer == peer)
    }

    /// Whether the link with `peer` is up here and must be taken down, since the peer asks to relink it.
    ///
    /// The arguments are those of [`Membership::may_relink`]. The error is the reason why the peer has to ask again.
    pub(crate) fn must_drop(&self, peer: Peer, view: u64, parts: bool, now_ms: u64) -> Result<bool, &'static str> {
        let is_member = self.is_member(peer) && peer != self.me;
        let same_view = self.view.as_ref().is_some_and(|mine| mine.number == view || mine.number == view + 1);
        // The request may be older than the link that is up now.
        let is_late = self.has_followed(peer, view) || self.has_given_up(peer);
        let ends = is_member && same_view && !is_late && (parts || !self.is_decided());
        if ends && self.has_just_settled(peer, now_ms) {
            return Err("the link has just been made again");
        }
        Ok(ends && self.is_linked(peer))
    }

    /// Checks whether the link with `peer`, which has wedged view `view`, may be relinked. The error is the reason why
    /// not.
    ///
    /// A peer may be one view behind. It was a candidate of that view's decision, so it lacks only the decision. The
    /// same holds if this member `parts`: it has left, knows the decision, and stays until the others know it.
    pub(crate) fn may_relink(&self, peer: Peer, view: u64, parts: bool) -> Result<(), &'static str> {
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

    /// Makes `row` the row of the process in `slot`, during a relink. The row keeps its contents.
    pub(crate) fn row_moves(&mut self, slot: Slot, row: Arc<Row>, fabric: &dyn Fabric) {
        let changes = self.table.load(slot, row::CHANGES);
        self.table.attach(slot, row);
        let unread = Some(changes).filter(|_| !fabric.shares_rows());
        if let Some(link) = &mut self.links[slot] {
            *link = Link { changes: u64::MAX, unread, ..*link };
        }
    }

    /// The latest relink with `peer`, if the link is up since.
    fn relinked(&self, peer: Peer) -> Option<Relinked> {
        self.links[peer.slot].filter(|link| link.up && link.peer == peer)?.relinked
    }

    /// Whether the link with `peer` is up over a connection that takes precedence over one that crosses it.
    pub(crate) fn is_settled(&self, peer: Peer) -> bool {
        self.relinked(peer).is_some_and(|relinked| relinked.by_lower)
    }

    /// Whether [`Membership::is_settled`] holds, and the connection was made less than `SETTLES_MS` ago.
    fn has_just_settled(&self, peer: Peer, now_ms: u64) -> bool {
        let relinked = self.relinked(peer).filter(|relinked| relinked.by_lower);
        relinked.is_some_and(|relinked| now_ms.saturating_sub(relinked.at_ms) < SETTLES_MS)
    }

    /// Whether the link with `peer` was made again so lately that a request of `peer` may be older.
    pub(crate) fn is_just_relinked(&self, peer: Peer, now_ms: u64) -> bool {
        self.relinked(peer).is_some_and(|relinked| now_ms.saturating_sub(relinked.at_ms) < OLD_REQUEST_MS)
    }

    /// Returns the view that began without `peer`, and how `peer` departed. `None` if this member knows no such view.
    ///
    /// `peer` has wedged view `view` and knows no decision.
    pub(crate) fn has_gone_on_without(&self, peer: Peer, view: u64) -> Option<(u64, Departure)> {
        let mine = self.view.as_ref().filter(|_| !self.restarting)?;
        let decided = self.epoch.decided.as_ref().filter(|_| mine.number == view);
        if let Some(value) = decided {
            // A leaver is not in this list: it can still learn the decision from this member.
            let mut departed = value.departed().filter(|(_, departure)| *departure == Departure::Failed);
            return departed.find(|(other, _)| *other == peer).map(|(_, departure)| (value.view.number, departure));
        }
        if mine.number <= view || self.is_member(peer) {
            return None;
        }
        let known = self.departed.iter().find(|(other, ..)| *other == peer);
        // Only the latest departures are remembered. A peer that is forgotten may have left on request, but it is
        // reported as failed.
        Some(known.map_or((view + 1, Departure::Failed), |&(_, number, departure)| (number, departure)))
    }

    /// Whether `peer`, which asked in an earlier view `view`, has installed the present view since.
    pub(super) fn has_followed(&self, peer: Peer, view: u64) -> bool {
        view < self.number() && self.table.load(peer.slot, row::INSTALLED) > self.number()
    }

    /// Whether this member's accusation of `peer` stays until the end of the epoch.
    pub(super) fn has_given_up(&self, peer: Peer) -> bool {
        self.view.as_ref().and_then(|view| view.rank_of(peer.slot)).is_some_and(|rank| self.is_final(rank))
    }

    /// Notes that the link with `peer` was relinked, as [`Membership::may_relink`] allowed.
    ///
    /// `by_lower` means that the lower slot dialled the connection.
    pub(crate) fn relink(&mut self, peer: Peer, by_lower: bool, now_ms: u64, fabric: &mut dyn Fabric) {
        let (slot, view) = (peer.slot, self.number());
        if let Some(link) = &mut self.links[slot] {
            (link.up, link.relinked) = (true, Some(Relinked { view, at_ms: now_ms, by_lower }));
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

    /// Whether frames of the member of `rank` may be missing although its `WEDGED` has arrived, because of a relink.
    ///
    /// That member may have been one view ahead at the relink.
    pub(super) fn is_relinked(&self, rank: Rank) -> bool {
        let link = self.slot_of(rank).and_then(|slot| self.links[slot]);
        link.and_then(|link| link.relinked).is_some_and(|relinked| relinked.view + 1 >= self.number())
    }

    /// Pushes this process's row with the given `records` to a peer that has an older state of it, or none.
    ///
    /// The parts go in the order in which the owner stores them, records before their guards. [`Membership::publish_changes`]
    /// pushes `CHANGES` last. The peer reads nothing of the row until `CHANGES` moves.
    fn push_row(&self, slot: Slot, records: [Range<usize>; 2], fabric: &mut dyn Fabric) {
        let [epoch, decisions] = records;
        let word = |column: Column| column.0..column.at(1).0;
        let parts = [
            // A peer that enters the view during this must see that the view has ended here before it sees that it
            // began here.
            word(row::WEDGED),
            epoch,
            decisions,
            row::HEARTBEAT.0..row::CHANGES.0,
            row::ACCEPTED.0..row::WEDGE.0,
            // A leader that sees the promise must have seen the acceptance that came before it.
            word(row::PROMISE),
            row::EPOCH.0..row::PROMISE.0,
        ];
        for part in parts.into_iter().filter(|_| !planted::is(Bug::RelinkWithoutRow)) {
            self.table.push(fabric, &[slot], part, Source::Snapshot);
        }
    }

    /// Ends the links with the processes in `gone`, which are not in the view.
    ///
    /// The decision is already queued for them. After this, nothing that they write lands here.
    pub(crate) fn forget(&mut self, gone: &[Slot], fabric: &mut dyn Fabric) {
        gone.iter().for_each(|&slot| fabric.release(slot));
        for &slot in gone {
            self.links[slot] = None;
            self.store_and_push(row::LINKED.at(slot), 0, fabric);
        }
        self.count_links();
    }
}
