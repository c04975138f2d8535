//! The columns of a multicast row.

use crate::sst::Column;

/// Frames (low half) and messages including nulls (high half) on the owner's stream, each modulo 2^32.
pub const PUBLISHED: Column = Column(0);
/// The owner is done with all messages below this number. Their callbacks have returned, and in a group with a log
/// they are copied out of the ring for the log.
pub const DELIVERED: Column = Column(8);
/// The owner is short of ring space and needs `delivered` to be pushed as soon as it reaches this number.
pub const WANTED: Column = Column(16);

/// All messages below this number are in the owner's log, synced.
pub const PERSISTED: Column = Column(24);

/// All messages of the process in `slot` below this index, nulls included, have reached the owner.
pub const fn received(slot: crate::fabric::Slot) -> Column {
    Column(32 + 8 * slot)
}

/// On shared memory, by rank: the members of the view with their memory mapped at the owner (see `handover`).
pub const HAS_MEMORY: Column = received(crate::fabric::SLOTS);
