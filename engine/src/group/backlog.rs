//! What a process that joins keeps of the stream while it takes the group's state: copies, out of the rings, so that
//! nobody waits for it.

use super::transfer::Covered;
use super::view::View;
use crate::config::{MemberId, SubgroupId};
use crate::multicast::{Delivery, Mode};
use std::collections::VecDeque;
use std::sync::Arc;

/// Something that the application is still to be told.
pub(super) enum Item {
    Message { subgroup: SubgroupId, view: u64, sender: MemberId, sequence: u64, mode: Mode, payload: Box<[u8]> },
    View(Arc<View>),
}

impl Item {
    /// Whether a state covers it.
    pub(super) fn is_covered(&self, covered: &Covered) -> bool {
        match self {
            Item::View(view) => view.number < covered.view,
            Item::Message { view, sequence, .. } => covered.has(*view, *sequence),
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Backlog {
    items: VecDeque<Item>,
    bytes: usize,
}

/// What an item takes beside its payload, about.
const ITEM_BYTES: usize = size_of::<Item>();

impl Backlog {
    /// Bytes kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a message that was delivered.
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

    /// The next item.
    pub(super) fn next(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= ITEM_BYTES;
        if let Item::Message { payload, .. } = &item {
            self.bytes -= payload.len();
        }
        Some(item)
    }
}
