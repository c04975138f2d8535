//! A log for those who only look: its records, and the files that it consists of.

use super::disk::Disk;
use super::failure::in_directory;
use super::os::OsDisk;
use super::reader::Reader;
use super::segment::{Identity, PAGE_BYTES, segment_name};
use super::snapshot::Snapshot;
use super::{Version, blobs, recover, store};
use crate::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A log that is open for reading only: see [`Log::open_read_only`](super::Log::open_read_only).
pub struct ReadOnlyLog {
    reader: Reader,
    disk: Arc<dyn Disk>,
    identity: Identity,
    torn: Option<(String, u64)>,
    missing: Vec<String>,
}

/// A segment, as the headers of the log's files tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number, from 0.
    pub number: u64,
    /// Its file in the log's directory.
    pub file: String,
    /// The size of the file, as long as the log uses it.
    pub file_bytes: u64,
    /// Bytes of its records, headers included.
    pub bytes: u64,
    /// Version and time of the last record in front of it; none at the beginning of the log.
    pub before: Option<(Version, u64)>,
    /// Version and time of the last record up to its end: that of `before` if it has none itself.
    pub last: Option<(Version, u64)>,
}

/// What [`ReadOnlyLog::count`] finds in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentCount {
    /// Records.
    pub records: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Version and time of the first.
    pub first: Option<(Version, u64)>,
}

impl ReadOnlyLog {
    pub(super) fn open(path: &Path) -> Result<ReadOnlyLog, Error> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::open_read_only(path)?);
        let survey = recover::survey_steady(&*disk).map_err(|error| in_directory(error, &*disk))?.ok_or_else(|| {
            Error::io(format!("opening the log in {}", path.display()), io::Error::from(io::ErrorKind::NotFound))
        })?;
        let reader = Reader { shared: store::share(disk.clone(), &survey) };
        let header = survey.last();
        let offset = survey.scan.end.position - header.number * header.segment_bytes;
        let torn = survey.scan.torn.then(|| (segment_name(header.number), offset));
        Ok(ReadOnlyLog { reader, disk, identity: survey.identity, torn, missing: survey.missing })
    }

    /// Reads the records that were there when it was opened.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Whose log it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// File and offset in bytes where the log ends with a record that is not whole: a crash left it, or it is being written.
    pub fn torn(&self) -> Option<(&str, u64)> {
        self.torn.as_ref().map(|(file, offset)| (file.as_str(), *offset))
    }

    /// Files beside the segments that somebody has removed: blobs, and the newest checkpoint. The log cannot be opened for writing
    /// without them.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The bytes of the blob `name`; none if it was never saved.
    pub fn load(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let file = blobs::blob_file(name)?;
        self.check(|missing| *missing == file)?;
        blobs::load(&*self.disk, self.identity, &file).map_err(|error| in_directory(error, &*self.disk))
    }

    fn check(&self, asked: impl Fn(&String) -> bool) -> Result<(), Error> {
        let lost = self.missing.iter().find(|missing| asked(missing));
        lost.map_or(Ok(()), |file| Err(in_directory(recover::missing(file.clone()), &*self.disk)))
    }

    /// The newest checkpoint, verified; none if there is none.
    pub fn load_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        self.check(|missing| missing.ends_with(".snapshot"))?;
        Snapshot::load(&*self.disk, self.identity).map_err(|error| in_directory(error, &*self.disk))
    }

    /// The segments that there were when the log was opened, from the oldest; never none.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let table = self.reader.shared.read();
        let size = self.reader.shared.segment_bytes;
        let next = table.segments.iter().skip(1).map(|segment| segment.before).chain([table.end]);
        let info = |(segment, end): (&Arc<super::table::Segment>, super::segment::End)| SegmentInfo {
            number: segment.number,
            file: segment_name(segment.number),
            file_bytes: size,
            bytes: end.position - (segment.number * size + PAGE_BYTES),
            before: segment.before.last.map(|last| (last.version, last.time_ns)),
            last: end.last.map(|last| (last.version, last.time_ns)),
        };
        table.segments.iter().zip(next).map(info).collect()
    }

    /// Counts the records of a segment by their headers, each of which is checked.
    pub fn count(&self, segment: &SegmentInfo) -> Result<SegmentCount, Error> {
        let numbers = self.reader.shared.read();
        if !numbers.segments.iter().any(|there| there.number == segment.number) {
            return Err(Error::Misuse("the log has no such segment"));
        }
        drop(numbers);
        let mut cursor = self.reader.shared.beginning(segment.number)?;
        let mut count = SegmentCount::default();
        while let Some(head) = cursor.head()? {
            count.first = count.first.or(Some((head.stamp.version, head.stamp.time_ns)));
            count.records += 1;
            count.payload_bytes += u64::from(head.length);
            cursor.step(&head);
        }
        Ok(count)
    }
}
