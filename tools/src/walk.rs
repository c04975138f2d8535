//! Goes through the records of a log that may be written meanwhile.

use crate::Result;
use crate::args::{Place, RangeArgs};
use galerna::Error;
use galerna::log::{Entry, Iter, Log, ReadOnlyLog, Version};
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// The records of a range, up to where the log ended at first. What looks wrong is looked at again before it is believed: a
/// process that writes the log may have trimmed or cut it.
pub(crate) struct Walk {
    dir: PathBuf,
    pub(crate) log: ReadOnlyLog,
    iter: Iter,
    start: Bound<Version>,
    end: Bound<Version>,
    /// Bounds of which the view was not said.
    sequences: (u64, u64),
    doubted: Option<String>,
    /// The oldest records that were asked for are gone.
    pub(crate) trimmed: bool,
}

/// Opens the log, with an error that says what is not there.
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
            // Without a group there is one view.
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

    /// Goes on behind this version; from the oldest record if it is none.
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

    /// The next record; none at the end.
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

    /// Tells who asked for more than there is.
    pub(crate) fn tell_trimmed(&self) {
        if self.trimmed {
            eprintln!("note: the log was trimmed: older records than the first ones here are gone");
        }
    }
}
