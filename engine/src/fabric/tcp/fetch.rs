//! Both ends of [`crate::fabric::Fabric::fetch`]: what we asked a peer for, and what it asks us for.

use super::Tables;
use super::send::Outbox;
use super::wire::Place;
use crate::fabric::{Event, Row, Slot};
use std::collections::VecDeque;
use std::sync::Arc;

/// Most requests that a peer may have open with us. Who has more to ask for asks as the answers come.
pub(super) const OPEN_MAX: usize = 64;

/// What one peer is or will be asked for, oldest first; answers come in this order.
#[derive(Default)]
pub(super) struct Asked {
    /// Each with the row that its answer goes to. The first [`OPEN_MAX`] have been sent.
    list: VecDeque<(Place, Arc<Row>)>,
}

impl Asked {
    /// Asks for `place`, now or when the answers before it are in.
    pub(super) fn push(&mut self, place: Place, row: Arc<Row>, outbox: &mut Outbox) {
        if self.list.len() < OPEN_MAX {
            outbox.push_request(&place);
        }
        self.list.push_back((place, row));
    }

    /// Whether an answer for `place` is what comes next.
    pub(super) fn expects(&self, place: &Place) -> bool {
        self.list.front().is_some_and(|(asked, _)| asked == place)
    }

    /// Where the answer that comes next goes.
    pub(super) fn row(&self) -> Option<&Arc<Row>> {
        self.list.front().map(|(_, row)| row)
    }

    /// The answer that came next is in.
    fn pop(&mut self, outbox: &mut Outbox) -> Option<Place> {
        let (place, _) = self.list.pop_front()?;
        if let Some((next, _)) = self.list.get(OPEN_MAX - 1) {
            outbox.push_request(next);
        }
        Some(place)
    }
}

/// What the receiving side of a link needs beside its own state when requests and answers arrive.
pub(super) struct Dealings<'a> {
    pub(super) peer: Slot,
    pub(super) tables: &'a Tables,
    pub(super) outbox: &'a mut Outbox,
    /// Our end was sent: nothing is answered any more.
    pub(super) mute: bool,
    pub(super) events: &'a mut Vec<Event>,
}

impl Dealings<'_> {
    /// Queues the answer to a request of the peer, or says how the request breaks the contract.
    pub(super) fn answer(&mut self, place: &Place) -> Result<(), String> {
        let Some(row) = self.tables.rows.get(place.owner).and_then(|rows| rows.get(place.table)) else {
            return Err(format!("a request for the row of slot {}, which nobody has here", place.owner));
        };
        if self.mute {
            return Ok(());
        }
        if self.outbox.answers() == OPEN_MAX {
            return Err(format!("more than {OPEN_MAX} requests at once"));
        }
        self.outbox.push_answer(place, row.clone());
        Ok(())
    }

    /// The answer that came next is in its row.
    pub(super) fn fetched(&mut self, asked: &mut Asked) {
        if let Some(Place { id, owner, range, .. }) = asked.pop(self.outbox) {
            self.events.push(Event::Fetched { peer: self.peer, table: id, owner, range });
        }
    }
}
