//! Messages and views that a joiner keeps while it takes the group's state.
//!
//! They are copied out of the rings, so that no sender waits for the joiner.

use crate::app::View;
use crate::multicast::Delivery;
use crate::shared::snapshot::Covered;
use crate::types::Mode;
use crate::types::{MemberId, SubgroupId};
use std::collections::VecDeque;
use std::sync::Arc;

/// A message or a view that has not been passed to the application yet.
pub(crate) enum Item {
    Message {
        subgroup: SubgroupId,
        view: u64,
        sender: MemberId,
        sequence: u64,
        mode: Mode,
        time_ns: u64,
        payload: Box<[u8]>,
    },
    View(Arc<View>),
}

impl Item {
    /// Whether the state covers this item, so that the application must not receive it.
    pub(crate) fn is_covered(&self, covered: &Covered) -> bool {
        match self {
            Item::View(view) => view.number < covered.view,
            Item::Message { view, sequence, .. } => covered.has(*view, *sequence),
        }
    }
}

/// The queue of kept items, in the order of arrival.
#[derive(Default)]
pub(crate) struct Backlog {
    items: VecDeque<Item>,
    bytes: usize,
}

/// Approximate memory of an item besides its payload, in bytes.
const ITEM_BYTES: usize = size_of::<Item>();

impl Backlog {
    /// The approximate memory of all kept items, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a copy of a delivered message.
    pub(crate) fn keep(&mut self, message: &Delivery<'_>) {
        let Delivery { subgroup, view, sender, sequence, mode, time_ns, payload, ticket: _ } = *message;
        self.bytes += ITEM_BYTES + payload.len();
        let payload = payload.into();
        self.items.push_back(Item::Message { subgroup, view, sender, sequence, mode, time_ns, payload });
    }

    pub(crate) fn keep_view(&mut self, view: Arc<View>) {
        self.bytes += ITEM_BYTES;
        self.items.push_back(Item::View(view));
    }

    /// Removes and returns the oldest item.
    pub(crate) fn next(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= ITEM_BYTES;
        if let Item::Message { payload, .. } = &item {
            self.bytes -= payload.len();
        }
        Some(item)
    }
}
