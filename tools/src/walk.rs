//! Reads the records of a log that may be written at the same time.

use crate::Result;
use crate::args::{Place, RangeArgs};
use galerna::Error;
use galerna::Version;
use galerna::log::{Entry, Iter, Log, ReadOnlyLog};
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// The records of a range, up to the end that the log had at first.
///
/// An error is reported only if a second look finds it again, because a writing process may have trimmed or cut the
/// log.
pub(crate) struct Walk {
    dir: PathBuf,
    pub(crate) log: ReadOnlyLog,
    iter: Iter,
    start: Bound<Version>,
    end: Bound<Version>,
    /// Bounds that were given without a view.
    sequences: (u64, u64),
    doubted: Option<String>,
    /// Whether the oldest requested records were trimmed.
    pub(crate) trimmed: bool,
}

/// Opens the log. The error names the missing file or directory.
pub(crate) fn open(dir: &Path) -> Result<ReadOnlyLog> {
    Ok(Log::open_read_only(dir)?)
}

impl Walk {
    pub(crate) fn all(dir: &Path) -> Result<Walk> {
        Walk::over(dir, &RangeArgs { from: None, to: None })
    }

    pub(crate) fn over(dir: &Path, range: &RangeArgs) -> Result<Walk> {
        let log = open(dir)?;
        let last = log.reader().end().unwrap_or_default();
        let mut sequences = (0, u64::MAX);
        let start = match range.from {
            None => Bound::Unbounded,
            Some(Place::Version(version)) => Bound::Included(version),
            // A log without a group has a single view.
            Some(Place::Sequence(sequence)) if last.view == 0 => Bound::Included(Version { view: 0, sequence }),
            Some(Place::Sequence(sequence)) => {
                sequences.0 = sequence;
                Bound::Unbounded
            }
        };
        let end = match range.to {
            None => last,
            Some(Place::Version(version)) => version.min(last),
            Some(Place::Sequence(sequence)) => {
                sequences.1 = sequence;
                last
            }
        };
        let end = Bound::Included(end);
        let iter = log.reader().iter((start, end));
        Ok(Walk { dir: dir.to_owned(), log, iter, start, end, sequences, doubted: None, trimmed: false })
    }

    /// Continues behind this version, or from the oldest record if it is `None`.
    pub(crate) fn skip_to(&mut self, behind: Option<Version>) {
        self.start = behind.map_or(Bound::Unbounded, Bound::Excluded);
        self.iter = self.log.reader().iter((self.start, self.end));
    }

    fn look_again(&mut self, error: Error) -> Result<()> {
        let what = error.to_string();
        if matches!(error, Error::LogTrimmed { .. }) && self.start != Bound::Unbounded {
            self.start = Bound::Unbounded;
            self.trimmed = true;
        } else if self.doubted.as_ref() == Some(&what) {
            return Err(error.into());
        }
        self.doubted = Some(what);
        self.log = open(&self.dir)?;
        self.iter = self.log.reader().iter((self.start, self.end));
        Ok(())
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let entry = match self.iter.next() {
                None => return Ok(None),
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    self.look_again(error)?;
                    continue;
                }
            };
            self.start = Bound::Excluded(entry.version());
            let (first, last) = self.sequences;
            if (first..=last).contains(&entry.version().sequence) {
                return Ok(Some(entry));
            }
        }
    }

    /// Prints a note if some of the requested records were trimmed.
    pub(crate) fn tell_trimmed(&self) {
        if self.trimmed {
            eprintln!("note: the log was trimmed: records older than the first one were removed");
        }
    }
}
