//! Relinking while the end of an epoch is undecided: see `membership/links.rs`. The driver decides which end dials, and
//! when.

use super::{Node, Phase};
use crate::error::Error;
use crate::fabric::Connection;
use crate::membership::{Cause, Departure, Fact, Peer};

impl Node {
    /// The members to relink with. Empty while there is nothing to do.
    ///
    /// Their links broke, and the end of the present view is not decided, or only this process knows it and has left.
    pub(crate) fn broken_links(&self) -> Vec<Peer> {
        self.membership.links_to_make(&self.moment())
    }

    /// Checks whether the link with `peer`, which asks for it and has wedged view `view`, may be relinked.
    ///
    /// The error is the reason why not. A link that is still up here is taken down, because the peer has found it
    /// broken. The request must be younger than the link.
    pub(crate) fn may_relink(&mut self, peer: Peer, view: u64) -> Result<(), &'static str> {
        match self.membership.is_just_relinked(peer, self.now_ms) {
            true => Err("the link has just been made again"),
            false => self.make_way(peer, view),
        }
    }

    /// Takes a link with `peer` down that is still up here, and checks whether it may be relinked.
    fn make_way(&mut self, peer: Peer, view: u64) -> Result<(), &'static str> {
        let parts = matches!(self.phase, Phase::Parting);
        if !parts && !matches!(self.phase, Phase::Running | Phase::Leaving) {
            return Err("this member does not run");
        }
        if self.membership.must_drop(peer, view, parts, self.now_ms)? {
            self.lose(peer.slot, Cause::LinkDown, "it found the link broken", true);
            self.submit();
        }
        self.membership.may_relink(peer, view, parts)
    }

    /// Returns the view that began without `peer`, and how it departed. `peer` asks for its link and has wedged view
    /// `view`.
    pub(crate) fn has_gone_on_without(&self, peer: Peer, view: u64) -> Option<(u64, Departure)> {
        match self.phase {
            Phase::Running | Phase::Leaving | Phase::Parting => self.membership.has_gone_on_without(peer, view),
            _ => None,
        }
    }

    /// Handles the answer of `peer` that the group has continued without this process.
    ///
    /// This process had wedged view `view` when it asked. It cannot learn the decision any more, or it has left and no
    /// member waits for it.
    pub(crate) fn learn_gone_on(&mut self, peer: Peer, view: u64, departure: Departure) {
        self.tell(Fact::GoneOn { peer, view, departure });
    }

    /// Relinks with `peer`, which has wedged view `view`, over `connection`.
    ///
    /// `dialled` means that this process dialled the connection; otherwise the peer did. Of two connections that cross,
    /// both ends keep the one that the lower slot dialled.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the link may not be relinked by now, or another connection is kept; the errors of
    /// [`crate::fabric::Fabric::relink`].
    pub(crate) fn relink(&mut self, peer: Peer, view: u64, dialled: bool, connection: Connection) -> Result<(), Error> {
        let by_lower = dialled == (self.membership.me().slot < peer.slot);
        // If the peer had found the link broken, its request would have taken it down here. So a link that is up
        // crosses this one.
        if self.membership.is_settled(peer) && !by_lower {
            return Err(Error::Misuse("the link is being made again over another connection"));
        }
        self.make_way(peer, view).map_err(Error::Misuse)?;
        let mut rows = self.fabric.relink(peer.slot, connection)?.into_iter();
        let Some(membership) = rows.next().filter(|_| rows.len() == self.lanes.len()) else {
            return Err(Error::Misuse("the fabric did not return the rows that it has"));
        };
        self.fetches.lost(peer.slot);
        // The data plane's counters come first, because the membership's row determines how they are read.
        self.membership.row_moves(peer.slot, membership, &*self.fabric);
        for (lane, row) in self.lanes.iter_mut().zip(rows) {
            lane.multicast.relink(peer.slot, row, &mut *self.fabric);
        }
        self.membership.relink(peer, by_lower, self.now_ms, &mut *self.fabric);
        self.submit();
        Ok(())
    }
}
