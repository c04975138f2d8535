//! The marks: a log's record of the files that it must have, so that a removed file is detected.
//!
//! A file is noted once it is durable, and before anything relies on it. So a crash between the two steps leaves one
//! file too many, which is noted when the log is opened. It never leaves one too few.

use super::blobs;
use super::disk::{Disk, File};
use super::failure::{Step, full_or_final};
use super::segment::{Identity, TEMPORARY};
use super::snapshot;
use crate::error::Error;
use crate::types::Version;
use crate::words::{put_words, read_words};
use std::collections::BTreeSet;

/// The name of the marks file, which has the format of a blob.
pub(super) const MARKS: &str = "marks";

/// The files that a log must have: see the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Marks {
    /// The first segment that was not trimmed.
    pub(super) low: u64,
    /// The last segment that must exist. All segments between `low` and this one must exist too.
    pub(super) newest: u64,
    /// The position of a cut that has begun: nothing from this position on is part of the log.
    ///
    /// Without this mark, a cut that a crash interrupted would look like damage.
    pub(super) cut: Option<u64>,
    /// The newest checkpoint.
    pub(super) snapshot: Option<Version>,
    /// The names of all blobs.
    pub(super) blobs: BTreeSet<String>,
}

impl Marks {
    fn encode(&self) -> Vec<u8> {
        let Version { view, sequence } = self.snapshot.unwrap_or_default();
        let flags = u64::from(self.cut.is_some()) | u64::from(self.snapshot.is_some()) << 1;
        let count = self.blobs.len() as u64;
        let cut = self.cut.unwrap_or_default();
        let mut bytes = Vec::new();
        put_words(&mut bytes, [self.low, self.newest, flags, cut, view, sequence, count, 0]);
        for name in &self.blobs {
            // A name has at most 64 bytes.
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Marks> {
        let mut rest = bytes;
        let [low, newest, flags, cut, view, sequence, count, _] = read_words(&mut rest).ok()?;
        let cut = (flags & 1 != 0).then_some(cut);
        let snapshot = (flags & 2 != 0).then_some(Version { view, sequence });
        let mut blobs = BTreeSet::new();
        for _ in 0..count {
            let (&len, names) = rest.split_first()?;
            let (name, others) = names.split_at_checked(usize::from(len))?;
            let name = std::str::from_utf8(name).ok().filter(|name| blobs::valid_name(name))?;
            blobs.insert(name.to_owned());
            rest = others;
        }
        rest.is_empty().then_some(Marks { low, newest, cut, snapshot, blobs })
    }

    pub(super) fn save(&self, disk: &dyn Disk, identity: Identity) -> Result<(), Step> {
        blobs::save(disk, identity, MARKS, &self.encode())
    }

    /// The marks and the identity of their log; `None` if there are none.
    pub(super) fn load(disk: &dyn Disk) -> Result<Option<(Identity, Marks)>, Error> {
        let Some((identity, bytes)) = blobs::load_any(disk, MARKS)? else { return Ok(None) };
        let marks = Marks::decode(&bytes).ok_or_else(|| Error::LogDamaged {
            file: MARKS.to_owned(),
            offset: 0,
            what: "its list of files cannot be decoded".to_owned(),
        })?;
        Ok(Some((identity, marks)))
    }

    /// The log's last segment under an unfinished cut, and the offset in it at which the log ends. `None` without a
    /// cut.
    pub(super) fn end(&self, segment_bytes: u64) -> Option<(u64, u64)> {
        let position = self.cut?;
        // A cut at the boundary of a completely full segment belongs to that segment, not to the next one.
        let number = position.saturating_sub(1) / segment_bytes;
        Some((number, position - number * segment_bytes))
    }

    /// The required files beside the segments that are not among the given ones.
    pub(super) fn missing(&self, blobs: &BTreeSet<String>, snapshots: &BTreeSet<Version>) -> Vec<String> {
        let lost = self.snapshot.filter(|version| snapshots.last().is_none_or(|newest| newest < version));
        let blobs = self.blobs.difference(blobs).map(|name| format!("{name}.blob"));
        blobs.chain(lost.map(snapshot::file_name)).collect()
    }

    /// Allocates all space for saving these marks in advance. A later failure is final.
    pub(super) fn prepare(self, disk: &dyn Disk) -> Result<Prepared, Step> {
        let temporary = format!("{MARKS}~{}{TEMPORARY}", self.newest);
        let size = blobs::size(self.encode().len());
        let file = disk.create(&temporary, size);
        let file = file.map_err(|error| full_or_final("making", error, &temporary, size))?;
        Ok(Prepared { marks: self, file, temporary })
    }
}

/// Marks for which the file is already allocated.
pub(super) struct Prepared {
    marks: Marks,
    file: Box<dyn File>,
    temporary: String,
}

impl Prepared {
    /// Saves the marks, durably.
    pub(super) fn save(self, disk: &dyn Disk, identity: Identity) -> Result<Marks, Step> {
        let whole = blobs::encode(identity, MARKS, &self.marks.encode());
        let written = self.file.write_at(0, &whole);
        written.map_err(|error| Step::new(format!("writing {}", self.temporary), error))?;
        blobs::place(disk, &*self.file, &self.temporary, MARKS)?;
        Ok(self.marks)
    }

    /// Discards the prepared marks without saving them.
    pub(super) fn discard(self, disk: &dyn Disk) {
        // A file that cannot be removed now is removed when the log is opened next.
        let _ = disk.remove(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Parser, as_it_is, run};

    fn marks() -> Marks {
        let snapshot = Some(Version { view: 3, sequence: 99 });
        let blobs = ["hard_state", "places", "tail"].map(str::to_owned).into();
        Marks { low: 2, newest: 7, cut: Some(70_000), snapshot, blobs }
    }

    #[test]
    fn they_survive_and_a_part_of_them_does_not() {
        let bytes = marks().encode();
        assert_eq!(Marks::decode(&bytes), Some(marks()));
        assert!((0..bytes.len()).all(|len| Marks::decode(&bytes[..len]).is_none()));
        assert_eq!(Marks::decode(&Marks::default().encode()), Some(Marks::default()));
    }

    #[test]
    fn a_cut_at_the_end_of_a_full_segment_is_in_that_segment() {
        let end = |position| Marks { cut: Some(position), ..Marks::default() }.end(8192);
        assert_eq!([end(8191), end(8192), end(8192 + 4096)], [Some((0, 8191)), Some((0, 8192)), Some((1, 4096))]);
    }

    #[test]
    fn fuzz_marks() {
        let seeds = vec![marks().encode(), Marks::default().encode()];
        // A name of one byte takes a node of a tree and an allocation.
        let parser = Parser { name: "marks", seeds, repair: &as_it_is, heap_max: (100, 4 << 10) };
        run(&parser, |bytes| {
            let Some(marks) = Marks::decode(bytes) else { return false };
            assert_eq!(Marks::decode(&marks.encode()).as_ref(), Some(&marks));
            if let Some((number, offset)) = marks.end(8192) {
                assert_eq!(marks.cut, Some(number * 8192 + offset));
            }
            true
        });
    }
}
