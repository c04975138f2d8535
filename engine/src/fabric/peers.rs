//! Links by slot, stored densely: iterating costs time in proportion to the links in use, not to all possible slots.

use super::{SLOTS, Slot};

/// Marks a slot without a link.
const NOWHERE: u8 = u8::MAX;
const _: () = assert!(SLOTS < NOWHERE as usize);

/// At most one link per slot.
pub(super) struct Peers<L> {
    list: Vec<(Slot, L)>,
    /// By slot: the index of its link in `list`.
    places: [u8; SLOTS],
}

impl<L> Peers<L> {
    pub(super) fn new() -> Peers<L> {
        Peers { list: Vec::with_capacity(SLOTS), places: [NOWHERE; SLOTS] }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut L> {
        // [`NOWHERE`] is beyond the end of the list, so `get_mut` finds nothing there.
        let place = *self.places.get(slot)?;
        self.list.get_mut(usize::from(place)).map(|(_, link)| link)
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.places.get(slot).is_some_and(|place| *place != NOWHERE)
    }

    /// Adds the link of `slot`, which must have none.
    pub(super) fn insert(&mut self, slot: Slot, link: L) {
        assert!(!self.contains(slot), "slot {slot} has a link");
        self.places[slot] = self.list.len() as u8;
        self.list.push((slot, link));
    }

    /// Removes the link of `slot`. The last link of the list moves to the free place.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<L> {
        let place = std::mem::replace(self.places.get_mut(slot)?, NOWHERE);
        if place == NOWHERE {
            return None;
        }
        let (_, link) = self.list.swap_remove(usize::from(place));
        if let Some((moved, _)) = self.list.get(usize::from(place)) {
            self.places[*moved] = place;
        }
        Some(link)
    }

    /// The link at index `place`, for a loop that removes links on its way.
    #[inline]
    pub(super) fn at(&mut self, place: usize) -> Option<(Slot, &mut L)> {
        self.list.get_mut(place).map(|(slot, link)| (*slot, link))
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &L)> {
        self.list.iter().map(|(slot, link)| (*slot, link))
    }

    #[inline]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut L)> {
        self.list.iter_mut().map(|(slot, link)| (*slot, link))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_moves_is_still_found() {
        let mut peers = Peers::new();
        for slot in [5, 0, 63, 17] {
            peers.insert(slot, 100 + slot);
        }
        assert_eq!(peers.remove(0), Some(100));
        assert_eq!(peers.remove(0), None);
        assert_eq!(peers.remove(17), Some(117));
        for (slot, there) in [(0, false), (5, true), (17, false), (63, true), (64, false), (usize::MAX, false)] {
            assert_eq!(peers.contains(slot), there);
            assert_eq!(peers.get_mut(slot).copied(), there.then(|| 100 + slot));
        }
        assert_eq!(peers.remove(usize::MAX), None);
        peers.insert(17, 117);
        assert_eq!(
            peers.iter().map(|(slot, link)| (slot, *link)).collect::<Vec<_>>(),
            [(5, 105), (63, 163), (17, 117)]
        );
        assert_eq!([5, 63, 17].map(|slot| peers.remove(slot)), [Some(105), Some(163), Some(117)]);
        assert!(peers.is_empty());
    }
}
