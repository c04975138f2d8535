//! The state of all members, and the transport of rows between them.

use std::hash::{Hash, Hasher};

use crate::row::{Members, N, Row, Update, candidates, contains};

/// The whole state. `table[i]` is the memory of member i: its own row, and a copy of each peer's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `table[reader][owner]`. The diagonal contains the owners' rows themselves.
    pub table: [[Row; N]; N],
    /// For each owner, the pushes that a member which still reads has not read yet.
    log: [Vec<Update>; N],
    /// `read[reader][owner]`: the number of pushes in the owner's log that the reader has read.
    read: [[u8; N]; N],
    /// The crashed members.
    pub crashed: Members,
    /// The members that installed the next view.
    pub installed: Members,
    /// The number of false suspicions so far.
    pub suspicions: u8,
    /// The highest count that any process, also a crashed one, delivered as safe.
    pub safe: u8,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.table.as_flattened().iter().for_each(|row| row.hash(hasher));
        for (owner, log) in self.log.iter().enumerate() {
            let read = self.read.map(|read| read[owner]);
            hasher.write_u32(u32::from_le_bytes([read[0], read[1], read[2], log.len() as u8]));
            log.iter().for_each(|update| update.hash(hasher));
        }
        hasher.write_u32(u32::from_le_bytes([self.crashed, self.installed, self.suspicions, self.safe]));
    }
}

impl State {
    /// All members have read all rows.
    pub fn new(rows: [Row; N]) -> Self {
        Self {
            table: [rows; N],
            log: Default::default(),
            read: Default::default(),
            crashed: 0,
            installed: 0,
            suspicions: 0,
            safe: rows.iter().map(|row| row.received).min().unwrap_or(0),
        }
    }

    /// A member's own row.
    pub fn own(&self, member: usize) -> &Row {
        &self.table[member][member]
    }

    /// Whether a member still takes part: alive, and without a decision.
    pub fn is_active(&self, member: usize) -> bool {
        !contains(self.crashed, member) && !self.own(member).decided
    }

    /// The candidates as a member sees them.
    pub fn candidates(&self, member: usize) -> Members {
        candidates(self.own(member).edges)
    }

    /// Changes a member's own row, and pushes the change to the others.
    pub fn push(&mut self, owner: usize, update: Update) {
        self.table[owner][owner].apply(update);
        self.log[owner].push(update);
    }

    /// The number of pushes of an owner that a reader has not read.
    pub fn pending(&self, reader: usize, owner: usize) -> usize {
        if reader == owner { 0 } else { self.log[owner].len() - usize::from(self.read[reader][owner]) }
    }

    /// Whether a reader that reads `count` more pushes stops between a record and its guard.
    pub fn is_torn(&self, reader: usize, owner: usize, count: usize) -> bool {
        let next = usize::from(self.read[reader][owner]) + count;
        next > 0 && self.log[owner][next - 1].is_guarded()
    }

    /// Lets a reader read the next pushes of an owner.
    pub fn deliver(&mut self, reader: usize, owner: usize, count: u8) {
        let from = usize::from(self.read[reader][owner]);
        for update in &self.log[owner][from..from + usize::from(count)] {
            self.table[reader][owner].apply(*update);
        }
        self.read[reader][owner] += count;
    }

    /// Removes data that no member will read, so that states that differ only in such data become equal.
    pub fn compact(&mut self) {
        for reader in 0..N {
            if !self.is_active(reader) {
                let own = *self.own(reader);
                self.table[reader] = Default::default();
                self.table[reader][reader] = own;
            }
        }
        for owner in 0..N {
            let readers = || (0..N).filter(move |&r| r != owner);
            let active = readers().filter(|&r| self.is_active(r)).fold(0u8, |set, r| set | 1 << r);
            let length = self.log[owner].len() as u8;
            let seen = readers().filter(|&r| contains(active, r)).map(|r| self.read[r][owner]).min().unwrap_or(length);
            self.log[owner].drain(..usize::from(seen));
            for reader in (0..N).filter(|&r| r != owner) {
                let read = &mut self.read[reader][owner];
                *read = if contains(active, reader) { *read - seen } else { 0 };
            }
        }
    }
}
