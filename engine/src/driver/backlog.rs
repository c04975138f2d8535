//! Messages and views that a joiner keeps while it takes the group's state.
//!
//! They are copied out of the rings, so that no sender waits for the joiner.

use crate::app::{Kept, View};
use crate::multicast::Delivery;
use crate::shared::snapshot::Covered;
use std::collections::VecDeque;
use std::sync::Arc;

/// A message or a view that has not been passed to the application yet.
pub(crate) enum Item {
    Message(Kept),
    View(Arc<View>),
}

impl Item {
    /// Whether the state covers this item, so that the application must not receive it.
    pub(crate) fn is_covered(&self, covered: &Covered) -> bool {
        match self {
            Item::View(view) => view.number < covered.view,
            Item::Message(kept) => covered.has(kept.view, kept.sequence),
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
        self.bytes += ITEM_BYTES + message.payload.len();
        self.items.push_back(Item::Message(message.into()));
    }

    pub(crate) fn keep_view(&mut self, view: Arc<View>) {
        self.bytes += ITEM_BYTES;
        self.items.push_back(Item::View(view));
    }

    /// Removes and returns the oldest item.
    pub(crate) fn next(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= ITEM_BYTES;
        if let Item::Message(kept) = &item {
            self.bytes -= kept.payload.len();
        }
        Some(item)
    }
}
