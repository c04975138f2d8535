//! Who is in the group. For now the membership is fixed: the configured members are view 0, and the first that fails or
//! leaves ends it. The table is the one that view changes will grow in.
//!
//! Columns: [`INSTALLED`], one above the number of the view that the owner runs; [`LEAVING`], 1 once it has said goodbye;
//! [`ACCUSED`] and [`FAREWELL`], the members on whose account the owner stops.

use crate::fabric::{Fabric, Rank, Source, TableId, TableRows, TableSpec};
use crate::sst::{Column, Table};

/// One above the number of the view that the owner has installed; 0 before the first.
pub const INSTALLED: Column = Column(0);
/// 1 once the owner leaves: the end of its link is no failure.
pub const LEAVING: Column = Column(8);
/// One bit per rank that the owner suspects; it stops for their sake, and says so before its own links go down.
pub const ACCUSED: Column = Column(16);
/// One bit per rank that has left in order, so that the owner stops too.
pub const FAREWELL: Column = Column(24);
const COLUMNS_LEN: usize = 64;

/// The membership's table.
pub fn table_spec() -> TableSpec {
    TableSpec { id: TableId(0), columns_len: COLUMNS_LEN, row_len: COLUMNS_LEN }
}

/// The members of view 0 and what they have said of themselves.
pub struct Membership {
    table: Table,
    /// Per member whose link ended without a failure of its own: on whose account, its own or of one that left.
    departed: Vec<Option<Rank>>,
}

impl Membership {
    /// Over the table that the fabric made for [`table_spec`].
    pub fn new(rows: TableRows, me: Rank) -> Membership {
        let departed = vec![None; rows.rows.len()];
        Membership { table: Table::new(rows, me), departed }
    }

    /// Shows that this member has met all others and runs view 0.
    pub fn install(&mut self, fabric: &mut dyn Fabric) {
        self.table.store(INSTALLED, 1);
        self.table.push(fabric, 0..COLUMNS_LEN, Source::Snapshot);
    }

    /// Whether every member runs view 0.
    pub fn installed(&self) -> bool {
        self.table.minimum(INSTALLED) >= 1
    }

    /// The members that do not run view 0 yet.
    pub fn not_installed(&self) -> Vec<Rank> {
        (0..self.table.members()).filter(|&r| self.table.load(r, INSTALLED) == 0).collect()
    }

    /// Says goodbye.
    pub fn leave(&mut self, fabric: &mut dyn Fabric) {
        self.table.store(LEAVING, 1);
        self.table.push(fabric, 0..COLUMNS_LEN, Source::Snapshot);
    }

    /// The link to `peer` is down: true if nothing failed. It said goodbye, or it stopped because another did.
    pub fn departed(&mut self, peer: Rank) -> bool {
        self.departed[peer] = if self.left(peer) { Some(peer) } else { self.first_marked(FAREWELL, peer) };
        self.departed[peer].is_some()
    }

    /// Whether `member` has said goodbye.
    fn left(&self, member: Rank) -> bool {
        self.table.load(member, LEAVING) == 1
    }

    /// Shows that this member stops because `peer` failed.
    pub fn accuse(&mut self, peer: Rank, fabric: &mut dyn Fabric) {
        self.mark(ACCUSED, peer, fabric);
    }

    /// Shows that this member stops because `peer` left.
    pub fn bid_farewell(&mut self, peer: Rank, fabric: &mut dyn Fabric) {
        self.mark(FAREWELL, peer, fabric);
    }

    fn mark(&self, column: Column, peer: Rank, fabric: &mut dyn Fabric) {
        self.table.store(column, self.table.load(self.table.me(), column) | 1 << peer);
        self.table.push(fabric, 0..COLUMNS_LEN, Source::Snapshot);
    }

    /// The first member that `by` accuses, if any: when the link to `by` is down, that is why.
    pub fn accused(&self, by: Rank) -> Option<Rank> {
        self.first_marked(ACCUSED, by)
    }

    fn first_marked(&self, column: Column, by: Rank) -> Option<Rank> {
        let first = self.table.load(by, column).trailing_zeros() as Rank;
        (first < self.table.members()).then_some(first)
    }

    /// The members that departed, each with the one on whose account.
    pub fn gone(&self) -> impl Iterator<Item = (Rank, Rank)> {
        self.departed.iter().enumerate().filter_map(|(rank, cause)| cause.map(|cause| (rank, cause)))
    }
}
