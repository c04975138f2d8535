//! Fetches the records that the own log lacks to continue with the others, while the group is being restarted.

use super::app::App;
use crate::meet::questions::Place;
use crate::membership::Peer;
use crate::node::{Node, Phase};
use crate::peers::gate::Source;
use crate::peers::log_transfer::{self, Fetch, Wanted};
use std::sync::mpsc::TryRecvError;
use std::time::Instant;

/// Pause after a failed fetch, in milliseconds.
const PAUSE_MS: u64 = 200;

/// The fetch that is under way, if one is.
pub(super) struct LogFetch {
    group_id: u64,
    fetch: Option<Fetch>,
    /// The time from which the next fetch may begin.
    again_ms: u64,
}

impl LogFetch {
    pub(super) fn new(group_id: u64) -> LogFetch {
        LogFetch { group_id, fetch: None, again_ms: 0 }
    }

    /// Continues with the fetch, or begins one. Returns true if anything changed.
    pub(super) fn poll(
        &mut self,
        node: &mut Node,
        app: &App,
        now_ms: u64,
        deadline: Instant,
        place_of: impl Fn(Peer) -> Option<Place>,
    ) -> bool {
        if !matches!(node.phase(), Phase::Restarting) {
            self.fetch = None;
            return false;
        }
        let mut moved = false;
        let slice = app.shared.pulse.begin();
        // The source may have gone.
        let need = node.log_need();
        self.fetch.take_if(|fetch| need.is_some_and(|need| need.from != fetch.from));
        while let Some(fetch) = &self.fetch {
            if slice.is_over() {
                // The rest follows in the next pass, because the other members wait for heartbeats.
                return true;
            }
            match fetch.batches.try_recv() {
                Ok(Ok(batch)) => {
                    batch.iter().for_each(|owned| node.take_record(owned.record()));
                    moved = true;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot fetch missing log records; trying again");
                    self.again_ms = now_ms + PAUSE_MS;
                }
                Err(TryRecvError::Empty) => return moved,
                Err(TryRecvError::Disconnected) => self.fetch = None,
            }
        }
        let Some(need) = node.log_need().filter(|_| now_ms >= self.again_ms) else { return moved };
        let Some(Place { address, .. }) = place_of(need.from) else { return moved };
        let source = Source { peer: need.from, address };
        let (after, below) = (need.after, need.below);
        let wanted =
            Wanted { me: node.me(), deadline, group_id: self.group_id, from: after.next(), below, ended: false };
        let shared = app.shared.clone();
        match log_transfer::fetch(source, wanted, move || shared.ask()) {
            Ok(fetch) => self.fetch = Some(fetch),
            Err(error) => {
                tracing::error!(%error, "cannot fetch missing log records; trying again");
                self.again_ms = now_ms + PAUSE_MS;
                return moved;
            }
        }
        tracing::info!(from = need.from.id.0, %after, %below, "fetching missing log records");
        moved
    }
}
