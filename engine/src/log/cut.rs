//! Removes records: an unconfirmed end of the log, or a beginning that is no longer needed.

use super::disk::File;
use super::failure::{Step, full_or_final};
use super::index::{self, Key};
use super::segment::{End, index_name, segment_name};
use super::store::{Store, temporary};
use super::table::Segment;
use super::window::Window;
use crate::error::Error;
use crate::types::Version;
use std::sync::Arc;

impl Store {
    /// Removes every record with version `from` or a greater one, durably.
    ///
    /// After a crash during the cut, the reopened log has all of these records or none. Returns [`Error::LogTrimmed`]
    /// if `from` itself was trimmed.
    ///
    /// The rest of the cut segment is copied into a new file, which needs the space of one segment. The old file is not
    /// changed, because a reader may still hold bytes of it, even in a process that had the log open before.
    pub(crate) fn cut(&mut self, from: Version) -> Result<(), Error> {
        self.go_on()?;
        let result = self.cut_step(from);
        self.settle(result)
    }

    fn cut_step(&mut self, from: Version) -> Result<(), Step> {
        if self.end.last.is_none_or(|last| last.version < from) {
            return Ok(());
        }
        self.end_cut()?;
        self.sync_segment()?;
        let (end, number, entries) = self.find_cut(from)?;
        let segment = Segment::new(number, self.shared.beginning(number)?.before());
        let offset = end.position - number * self.shared.segment_bytes;
        // Every step that needs space comes before the first change.
        let file = self.copy_up_to(number, offset)?;
        let before = self.marks.clone();
        (self.marks.cut, self.marks.newest) = (Some(end.position), number);
        if let Err(step) = self.marks.save(&*self.disk, self.identity) {
            self.marks = before;
            // A file that cannot be removed now is removed when the log is opened next.
            let _ = self.disk.remove(&temporary(number));
            return Err(step);
        }
        // From here on the log ends at the mark, also after a crash.
        let held = segment.hold();
        self.forget(&segment, end, entries);
        let (from, to) = (temporary(number), segment_name(number));
        self.disk.rename(&from, &to).map_err(|error| Step::new(format!("renaming {from}"), error))?;
        drop(held);
        for gone in number + 1..=self.number {
            self.remove(&segment_name(gone))?;
        }
        for gone in number..self.number {
            self.remove_if_there(&index_name(gone))?;
        }
        self.sync_names()?;
        self.file = file;
        self.number = number;
        self.end = end;
        self.synced = end.position;
        match self.end_cut() {
            // The mark may stay for now: the log ends exactly there until the next append.
            Err(Step::Refused(error)) => tracing::warn!("cannot remove the mark of a cut yet: {error}"),
            done => return done,
        }
        Ok(())
    }

    /// Removes the mark of a completed cut, before anything is appended after it.
    pub(super) fn end_cut(&mut self) -> Result<(), Step> {
        let Some(position) = self.marks.cut.take() else { return Ok(()) };
        let saved = self.marks.save(&*self.disk, self.identity);
        if saved.is_err() {
            self.marks.cut = Some(position);
        }
        saved
    }

    /// The end of the log after the cut, the number of its segment, and that segment's remaining index entries.
    fn find_cut(&self, from: Version) -> Result<(End, u64, Vec<index::Entry>), Error> {
        let mut cursor = self.shared.seek(Key::Before(from))?;
        let (number, sealed) = (cursor.number(), cursor.number() < self.number);
        let mut entries = Vec::new();
        if sealed {
            cursor = self.shared.beginning(number)?;
        }
        while let Some(head) = cursor.head()?.filter(|head| head.stamp.version < from) {
            if sealed {
                index::note(&mut entries, cursor.entry(&head));
            }
            cursor.step(&head);
        }
        let end = cursor.end();
        if !sealed {
            let offset = end.position - number * self.shared.segment_bytes;
            entries.clone_from(&self.shared.read().recent);
            entries.retain(|entry| entry.offset < offset);
        }
        Ok((end, number, entries))
    }

    /// Ends the log at `end` for readers, with `segment` as the last segment.
    fn forget(&mut self, segment: &Arc<Segment>, end: End, entries: Vec<index::Entry>) {
        self.indexed = entries.last().map_or(0, |entry| entry.offset);
        self.fresh.clear();
        let mut table = self.shared.write();
        table.cuts += 1;
        table.recent = entries;
        table.end = end;
        while table.segments.back().is_some_and(|last| last.number >= segment.number) {
            if let Some(last) = table.segments.pop_back() {
                last.retire();
            }
        }
        table.segments.push_back(segment.clone());
    }

    /// Creates a new durable file with the first `offset` bytes of the segment and nothing else.
    fn copy_up_to(&self, number: u64, offset: u64) -> Result<Box<dyn File>, Step> {
        let (name, temporary, size) = (segment_name(number), temporary(number), self.shared.segment_bytes);
        let old = self.disk.open(&name).map_err(|error| full_or_final("opening", error, &name, offset))?;
        let new = self.disk.create(&temporary, size);
        let new = new.map_err(|error| full_or_final("making", error, &temporary, size))?;
        let copied = Window::new(&*old, offset).pieces(0, offset, |at, piece| new.write_at(at, piece));
        let copied = copied.and_then(|()| new.sync());
        copied.map_err(|error| Step::new(format!("copying {name} to {temporary}"), error))?;
        Ok(new)
    }

    /// Removes, durably, each segment in which all records have a version less than `before`. The last segment stays.
    ///
    /// So some records before `before` may remain. [`Reader::oldest`](super::Reader::oldest) returns the oldest one.
    pub(crate) fn trim(&mut self, before: Version) -> Result<(), Error> {
        self.go_on()?;
        let result = self.trim_step(before);
        self.settle(result)
    }

    fn trim_step(&mut self, before: Version) -> Result<(), Step> {
        // A segment is obsolete if the last record before the next segment is obsolete.
        let low = {
            let table = self.shared.read();
            let beyond = |segment: &Segment| segment.before.last.is_none_or(|last| last.version < before);
            table.segments.iter().take_while(|segment| beyond(segment)).last().map(|segment| segment.number)
        };
        let Some(low) = low.filter(|&low| low > self.marks.low) else { return Ok(()) };
        self.end_cut()?;
        let first = std::mem::replace(&mut self.marks.low, low);
        if let Err(step) = self.marks.save(&*self.disk, self.identity) {
            self.marks.low = first;
            return Err(step);
        }
        self.shared.write().segments.retain(|segment| segment.number >= low);
        for number in first..low {
            self.remove(&segment_name(number))?;
            self.remove_if_there(&index_name(number))?;
        }
        self.sync_names()
    }

    fn remove(&self, name: &str) -> Result<(), Step> {
        self.disk.remove(name).map_err(|error| Step::new(format!("removing {name}"), error))
    }

    /// Removes an index file. It may be missing, because a failure to write one is tolerated.
    fn remove_if_there(&self, name: &str) -> Result<(), Step> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Step::new(format!("removing {name}"), error))
            }
            _ => Ok(()),
        }
    }

    fn sync_names(&self) -> Result<(), Step> {
        self.disk.sync_names().map_err(|error| Step::new("syncing the log directory", error))
    }
}
