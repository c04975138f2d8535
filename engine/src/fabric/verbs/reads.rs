//! Reads of a peer's memory, for [`super::super::Fabric::fetch`]. A fetch first reads the peer's directory, which gives
//! the address of the row, and then the row.

use super::super::{Event, FabricStats, Row, SLOTS, Slot, TableId};
use super::link::{DIRECTORY_AT, Link};
use super::region::{Region, Target};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The maximum length of one request, in bytes.
const PIECE_MAX: usize = 1 << 20;

/// The table in which a process publishes, by slot, the addresses of its copies of rows.
///
/// An entry fills whole cache lines. It consists of a version, the targets of the rows in the order of the tables, and
/// the version again. Version 0 means that no process was attached.
pub(super) struct Directory;

impl Directory {
    /// Bytes of one entry.
    pub(super) fn entry_len(tables: usize) -> usize {
        (8 * (2 + 2 * tables)).next_multiple_of(64)
    }

    /// Bytes of all entries.
    pub(super) fn len(tables: usize) -> usize {
        SLOTS * Directory::entry_len(tables)
    }

    /// Publishes the addresses of the rows of `slot`.
    ///
    /// Only the fabric's thread writes, from the end of the entry to its beginning. A reader reads at any time, from
    /// the beginning to the end, and recognises by the two versions whether the entry is whole.
    pub(super) fn show(row: &Row, slot: Slot, targets: &[Target]) {
        let start = slot * Directory::entry_len(targets.len());
        let version = row.word(start).load(Ordering::Relaxed) + 1;
        let fields = targets.iter().flat_map(|target| [target.address, u64::from(target.key)]);
        let words: Vec<u64> = std::iter::once(version).chain(fields).chain([version]).collect();
        for (n, word) in words.into_iter().enumerate().rev() {
            row.word(start + 8 * n).store(word, Ordering::SeqCst);
        }
    }

    /// The target of a table's row, from a copy of an entry at `offset`. An error if no process was attached, `None` if
    /// the entry is not whole.
    fn read(row: &Row, offset: usize, table: usize, tables: usize) -> Result<Option<Target>, ()> {
        let word = |n: usize| row.word(offset + 8 * n).load(Ordering::Acquire);
        let (version, again) = (word(0), word(1 + 2 * tables));
        if version == 0 && again == 0 {
            return Err(());
        }
        let target = Target { address: word(1 + 2 * table), key: word(2 + 2 * table) as u32 };
        Ok((version == again).then_some(target))
    }
}

/// One fetch.
pub(super) struct Read {
    pub(super) id: TableId,
    pub(super) table: usize,
    pub(super) owner: Slot,
    pub(super) range: Range<usize>,
    /// The copy into which the bytes are read.
    pub(super) copy: Arc<Region>,
}

/// The progress of the first fetch.
#[derive(Clone, Copy)]
enum Stage {
    /// The request with this number reads the directory's entry.
    Directory(u64),
    /// The row is at `source`. Everything before `next` has been requested, and `last` is the number of the last
    /// request.
    Row { source: Target, next: usize, last: Option<u64> },
}

/// All fetches from one peer, in the order of the calls.
#[derive(Default)]
pub(super) struct Reads {
    queue: VecDeque<Read>,
    stage: Option<Stage>,
}

impl Reads {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, read: Read) {
        self.queue.push_back(read);
    }
}

impl Link {
    /// Advances the fetches and reports the complete ones. True if there were any.
    pub(super) fn fetch(&mut self, slot: Slot, events: &mut Vec<Event>, stats: &mut FabricStats) -> bool {
        let before = events.len();
        while let Some(read) = self.reads.queue.pop_front() {
            match self.step(&read, stats) {
                Ok(true) => {
                    self.reads.stage = None;
                    let Read { id, owner, range, .. } = read;
                    events.push(Event::Fetched { peer: slot, table: id, owner, range });
                    continue;
                }
                Ok(false) => {}
                Err(what) => self.fail(|| what),
            }
            self.reads.queue.push_front(read);
            break;
        }
        events.len() > before
    }

    /// One step of the first fetch. True once it is complete.
    fn step(&mut self, read: &Read, stats: &mut FabricStats) -> Result<bool, String> {
        let tables = self.peer.rows.len();
        if let Some(Stage::Directory(request)) = self.reads.stage {
            if !self.sends.is_done(request) {
                return Ok(false);
            }
            let nobody =
                |()| format!("it does not have the row of slot {} that this process fetches from it", read.owner);
            let source = Directory::read(&self.desk.row, DIRECTORY_AT, read.table, tables).map_err(nobody)?;
            self.reads.stage = source.map(|source| Stage::Row { source, next: read.range.start, last: None });
        }
        if self.reads.stage.is_none() {
            let (len, desk) = (Directory::entry_len(tables), self.desk.clone());
            let entry = self.peer.directory.at(read.owner * len);
            self.reads.stage = self.read(entry, &desk, DIRECTORY_AT, len, stats).map(Stage::Directory);
        }
        let Some(Stage::Row { source, mut next, mut last }) = self.reads.stage else { return Ok(false) };
        while next < read.range.end {
            let end = read.range.end.min(next + PIECE_MAX);
            let Some(request) = self.read(source.at(next), &read.copy, next, end - next, stats) else { break };
            (next, last) = (end, Some(request));
        }
        self.reads.stage = Some(Stage::Row { source, next, last });
        Ok(next == read.range.end && last.is_some_and(|request| self.sends.is_done(request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_where_the_rows_are() {
        let row = Row::anonymous(Directory::len(3).next_multiple_of(4096), 4096).unwrap();
        let entry = Directory::entry_len(3);
        assert_eq!(entry, 64);
        let targets = |n: u64| [1, 2, 3].map(|t| Target { address: n << 40 | t, key: (n + t) as u32 });
        Directory::show(&row, 5, &targets(1));
        Directory::show(&row, 63, &targets(2));
        Directory::show(&row, 5, &targets(3));
        for table in 0..3 {
            assert_eq!(Directory::read(&row, 5 * entry, table, 3), Ok(Some(targets(3)[table])));
            assert_eq!(Directory::read(&row, 63 * entry, table, 3), Ok(Some(targets(2)[table])));
            assert_eq!(Directory::read(&row, 6 * entry, table, 3), Err(()));
        }
        row.word(5 * entry).store(9, Ordering::Relaxed);
        assert_eq!(Directory::read(&row, 5 * entry, 0, 3), Ok(None), "torn");
    }
}
