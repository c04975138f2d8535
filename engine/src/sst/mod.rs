//! The shared state table: one row of monotone counters per process, read by everybody without a lock.
//!
//! A [`Table`] gives the rows that a fabric made their meaning as words: [`Table::load`] reads a column of any row,
//! [`Table::store`] writes one of the own row, [`Table::push`] sends a range of the own row to some peers.
//! Storing a word *is* announcing it (on shared memory the store itself is seen): whatever it guards comes before.

use crate::fabric::{Fabric, Row, SLOTS, SNAPSHOT_MAX, Slot, Source, TableId, TableSpec, Ticket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Offset of a word among the columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column(pub usize);

impl Column {
    /// The word `n` words further on.
    pub const fn at(self, n: usize) -> Column {
        Column(self.0 + 8 * n)
    }
}

/// A table as one member sees it.
pub struct Table {
    spec: TableSpec,
    me: Slot,
    rows: Vec<Option<Arc<Row>>>,
}

impl Table {
    /// The table of shape `spec`, for the process in slot `me` with its own row; others are added when they are attached.
    pub fn new(spec: TableSpec, me: Slot, own: Arc<Row>) -> Table {
        let mut rows = vec![None; SLOTS];
        rows[me] = Some(own);
        Table { spec, me, rows }
    }

    /// The row of the process that was attached in `slot`.
    pub fn attach(&mut self, slot: Slot, row: Arc<Row>) {
        self.rows[slot] = Some(row);
    }

    /// The own slot.
    pub fn me(&self) -> Slot {
        self.me
    }

    /// Its number.
    pub fn id(&self) -> TableId {
        self.spec.id
    }

    /// The row in a slot, if a process was attached there.
    pub fn row(&self, slot: Slot) -> Option<&Arc<Row>> {
        self.rows[slot].as_ref()
    }

    /// Reads a word of a row; Acquire: what the owner stored before it is visible after. 0 where nobody was attached.
    #[inline]
    pub fn load(&self, slot: Slot, column: Column) -> u64 {
        #[cfg(test)]
        crate::planted::step();
        self.rows[slot].as_ref().map_or(0, |row| row.word(column.0).load(Ordering::Acquire))
    }

    /// Writes a word of the own row; Release: pairs with [`Table::load`].
    #[inline]
    pub fn store(&self, column: Column, value: u64) {
        #[cfg(test)]
        crate::planted::step();
        if let Some(row) = &self.rows[self.me] {
            row.word(column.0).store(value, Ordering::Release);
        }
    }

    /// Queues a write of `range` of the own row to `peers`; the ticket covers all of them. Columns longer than one
    /// snapshot go in several.
    pub fn push(&self, fabric: &mut dyn Fabric, peers: &[Slot], range: Range<usize>, source: Source) -> Ticket {
        let step = if source == Source::Snapshot { SNAPSHOT_MAX } else { range.len().max(1) };
        let mut ticket = Ticket::default();
        for start in range.clone().step_by(step) {
            for &peer in peers {
                ticket = fabric.write(peer, self.id(), start..range.end.min(start + step), source);
            }
        }
        ticket
    }
}
