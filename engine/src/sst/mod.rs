//! The shared state table: one row of monotone counters per member, read by everybody without a lock.
//!
//! A [`Table`] gives the rows that a fabric made their meaning as words: [`Table::load`] reads a column of any row,
//! [`Table::store`] writes one of the own row, [`Table::push`] sends a range of the own row to the peers.
//! Storing a word *is* announcing it (on shared memory the store itself is seen): whatever it guards comes before.

use crate::fabric::{Fabric, Rank, Row, Source, TableId, TableRows, Ticket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Offset of a word among the columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column(pub usize);

/// A table as one member sees it.
pub struct Table {
    rows: TableRows,
    me: Rank,
    peers: Vec<Rank>,
}

impl Table {
    /// The table over `rows`, for the member of rank `me`.
    pub fn new(rows: TableRows, me: Rank) -> Table {
        let peers = (0..rows.rows.len()).filter(|&r| r != me).collect();
        Table { rows, me, peers }
    }

    /// The own rank.
    pub fn me(&self) -> Rank {
        self.me
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.rows.rows.len()
    }

    /// Its number.
    pub fn id(&self) -> TableId {
        self.rows.spec.id
    }

    /// A member's row.
    pub fn row(&self, rank: Rank) -> &Arc<Row> {
        &self.rows.rows[rank]
    }

    /// Reads a word of a row; Acquire: what the owner stored before it is visible after.
    #[inline]
    pub fn load(&self, rank: Rank, column: Column) -> u64 {
        self.rows.rows[rank].word(column.0).load(Ordering::Acquire)
    }

    /// Writes a word of the own row; Release: pairs with [`Table::load`].
    #[inline]
    pub fn store(&self, column: Column, value: u64) {
        self.rows.rows[self.me].word(column.0).store(value, Ordering::Release);
    }

    /// Queues a write of `range` of the own row to every peer; the ticket covers all of them.
    pub fn push(&self, fabric: &mut dyn Fabric, range: Range<usize>, source: Source) -> Ticket {
        let mut ticket = Ticket::default();
        for &peer in &self.peers {
            ticket = fabric.write(peer, self.id(), range.clone(), source);
        }
        ticket
    }

    /// The smallest value of `column` over all rows.
    pub fn minimum(&self, column: Column) -> u64 {
        (0..self.members()).map(|r| self.load(r, column)).min().unwrap_or(0)
    }
}
