//! Decides which broken links this process dials, and from when on. `peers/relink.rs` has the thread that dials.

use crate::fabric::Slot;
use crate::meet::questions::Place;
use crate::membership::Peer;
use crate::node::Node;
use crate::peers::relink::{Caller, Dialler};
use std::collections::HashMap;

/// Time that the driver waits for a link after it has allowed another process to make it, in milliseconds.
const AWAITED_MS: u64 = 1000;
/// Time for which a link must be down before the process in the lower slot dials, in milliseconds.
const LOWER_WAITS_MS: u64 = 30;
/// Time for which a link must be down before the process in the higher slot dials, in milliseconds.
const HIGHER_WAITS_MS: u64 = 2000;

/// The broken links of this process.
pub(super) struct Mending {
    caller: Caller,
    /// The time since which each link is known to be broken, by the incarnation of the process.
    since_ms: HashMap<u64, u64>,
    /// The time until which a link is expected that another process has asked to make, by its incarnation.
    awaited_ms: HashMap<u64, u64>,
    /// The time at which the next link is to be dialled, if some link is not dialled yet.
    due_ms: Option<u64>,
    dialler: Option<Dialler>,
}

impl Mending {
    pub(super) fn new(caller: Caller) -> Mending {
        Mending { caller, since_ms: HashMap::new(), awaited_ms: HashMap::new(), due_ms: None, dialler: None }
    }

    /// Notes that `peer` asks to make its link. This process does not dial `peer` for a while then.
    ///
    /// Returns false if `peer` must wait for the answer to this process's own request, which takes precedence.
    pub(super) fn await_dial(&mut self, peer: Peer, now_ms: u64) -> bool {
        let is_lower = self.caller.me.slot < peer.slot;
        let yields = self.dialler.as_ref().is_none_or(|dialler| dialler.yield_to(peer, is_lower));
        if yields {
            self.awaited_ms.insert(peer.incarnation, now_ms.saturating_add(AWAITED_MS));
        }
        yields
    }

    /// The time at which a pass is needed, if one is.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// The time from which `peer` is dialled. Its link is known to be broken at `now_ms`.
    fn dials_at_ms(&mut self, peer: Peer, me: Slot, now_ms: u64) -> u64 {
        let since_ms = *self.since_ms.entry(peer.incarnation).or_insert(now_ms);
        let wait_ms = if me < peer.slot { LOWER_WAITS_MS } else { HIGHER_WAITS_MS };
        let awaited_ms = self.awaited_ms.get(&peer.incarnation).copied().unwrap_or(0);
        since_ms.saturating_add(wait_ms).max(awaited_ms)
    }

    /// Keeps the dialling thread informed of the broken links, while they may be made again.
    pub(super) fn update(&mut self, node: &Node, now_ms: u64, place_of: impl Fn(Peer) -> Option<Place>) {
        let broken = if node.is_between_views() { node.broken_links() } else { Vec::new() };
        if broken.is_empty() {
            if !self.since_ms.is_empty() {
                *self = Mending::new(self.caller.clone());
            }
            return;
        }
        self.since_ms.retain(|incarnation, _| broken.iter().any(|peer| peer.incarnation == *incarnation));
        self.due_ms = None;
        let mut places = Vec::new();
        for peer in broken {
            match self.dials_at_ms(peer, self.caller.me.slot, now_ms) {
                at_ms if at_ms <= now_ms => places.extend(place_of(peer)),
                at_ms => self.due_ms = Some(self.due_ms.map_or(at_ms, |due_ms| due_ms.min(at_ms))),
            }
        }
        let view = node.view().map_or(0, |view| view.number);
        match &self.dialler {
            Some(dialler) => dialler.set(view, places),
            None if places.is_empty() => {}
            None => match Dialler::start(self.caller.clone(), view, places) {
                Ok(dialler) => self.dialler = Some(dialler),
                // The next pass tries again.
                Err(error) => tracing::warn!(%error, "cannot make broken links again yet; trying again"),
            },
        }
    }
}
