//! Messages and views that a joiner keeps while it takes the group's state.
//!
//! They are copied out of the rings, so that no sender waits for the joiner.

use super::transfer::Covered;
use super::view::View;
use crate::config::{MemberId, SubgroupId};
use crate::multicast::{Delivery, Mode};
use std::collections::VecDeque;
use std::sync::Arc;

/// A message or a view that has not been passed to the application yet.
pub(super) enum Item {
    Message { subgroup: SubgroupId, view: u64, sender: MemberId, sequence: u64, mode: Mode, payload: Box<[u8]> },
    View(Arc<View>),
}

impl Item {
    /// Whether the state covers this item, so that the application must not receive it.
    pub(super) fn is_covered(&self, covered: &Covered) -> bool {
        match self {
            Item::View(view) => view.number < covered.view,
            Item::Message { view, sequence, .. } => covered.has(*view, *sequence),
        }
    }
}

/// The queue of kept items, in the order of arrival.
#[derive(Default)]
pub(super) struct Backlog {
    items: VecDeque<Item>,
    bytes: usize,
}

/// Approximate memory of an item besides its payload, in bytes.
const ITEM_BYTES: usize = size_of::<Item>();

impl Backlog {
    /// The approximate memory of all kept items, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a copy of a delivered message.
    pub(super) fn keep(&mut self, message: &Delivery<'_>) {
        let Delivery { subgroup, view, sender, sequence, mode, payload } = *message;
        self.bytes += ITEM_BYTES + payload.len();
        let payload = payload.into();
        self.items.push_back(Item::Message { subgroup, view, sender, sequence, mode, payload });
    }

    pub(super) fn keep_view(&mut self, view: Arc<View>) {
        self.bytes += ITEM_BYTES;
        self.items.push_back(Item::View(view));
    }

    /// Removes and returns the oldest item.
    pub(super) fn next(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= ITEM_BYTES;
        if let Item::Message { payload, .. } = &item {
            self.bytes -= payload.len();
        }
        Some(item)
    }
}
