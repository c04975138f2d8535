//! Both ends of [`crate::fabric::Fabric::fetch`]: our requests to a peer, and the peer's requests to us.

use super::Tables;
use super::send::Outbox;
use super::wire::Place;
use crate::fabric::{Event, Row, Slot};
use std::collections::VecDeque;
use std::sync::Arc;

/// Most open requests of one peer. Further ones are sent as the answers arrive.
pub(super) const OPEN_MAX: usize = 64;

/// The requests to one peer, oldest first; the answers come in this order.
#[derive(Default)]
pub(super) struct Asked {
    /// Each request with the row to which its answer goes. The first [`OPEN_MAX`] have been sent.
    list: VecDeque<(Place, Arc<Row>)>,
}

impl Asked {
    /// Requests `place`, at once or after earlier answers have arrived.
    pub(super) fn push(&mut self, place: Place, row: Arc<Row>, outbox: &mut Outbox) {
        if self.list.len() < OPEN_MAX {
            outbox.push_request(&place);
        }
        self.list.push_back((place, row));
    }

    /// Whether the next answer must be the one for `place`.
    pub(super) fn expects(&self, place: &Place) -> bool {
        self.list.front().is_some_and(|(asked, _)| asked == place)
    }

    /// The row to which the next answer goes.
    pub(super) fn row(&self) -> Option<&Arc<Row>> {
        self.list.front().map(|(_, row)| row)
    }

    /// Removes the oldest request, which has been answered, and sends the next one that waits.
    fn pop(&mut self, outbox: &mut Outbox) -> Option<Place> {
        let (place, _) = self.list.pop_front()?;
        if let Some((next, _)) = self.list.get(OPEN_MAX - 1) {
            outbox.push_request(next);
        }
        Some(place)
    }
}

/// The state of a link that its receiving side needs for requests and answers.
pub(super) struct Dealings<'a> {
    pub(super) peer: Slot,
    pub(super) tables: &'a Tables,
    pub(super) outbox: &'a mut Outbox,
    /// The end of our stream was sent, so nothing is answered any more.
    pub(super) mute: bool,
    pub(super) events: &'a mut Vec<Event>,
}

impl Dealings<'_> {
    /// Queues the answer to a request of the peer; the error describes the request's violation of the protocol.
    pub(super) fn answer(&mut self, place: &Place) -> Result<(), String> {
        let Some(row) = self.tables.rows.get(place.owner).and_then(|rows| rows.get(place.table)) else {
            return Err(format!("a request for the row of slot {}, which this process does not have", place.owner));
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

    /// Completes the oldest request: its answer is in the row now.
    pub(super) fn fetched(&mut self, asked: &mut Asked) {
        if let Some(Place { id, owner, range, .. }) = asked.pop(self.outbox) {
            self.events.push(Event::Fetched { peer: self.peer, table: id, owner, range });
        }
    }
}
