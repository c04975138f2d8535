//! A log that is open for reading only: its records and its files.

use super::disk::Disk;
use super::failure::in_directory;
use super::os::OsDisk;
use super::reader::Reader;
use super::segment::{Identity, PAGE_BYTES, segment_name};
use super::snapshot::Snapshot;
use super::{blobs, recover, store};
use crate::error::Error;
use crate::types::Version;
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

/// A segment, as described by the headers of the log's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The segment's number, from 0.
    pub number: u64,
    /// The name of its file in the log's directory.
    pub file: String,
    /// The size of its file in bytes, while the log uses it.
    pub file_bytes: u64,
    /// The bytes of its records, headers included.
    pub bytes: u64,
    /// The version and time of the last record before the segment; `None` at the beginning of the log.
    pub before: Option<(Version, u64)>,
    /// The version and time of the last record up to its end; equal to `before` if the segment has no record.
    pub last: Option<(Version, u64)>,
}

/// The result of [`ReadOnlyLog::count`] for a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentCount {
    /// The number of records.
    pub records: u64,
    /// The bytes of their payloads.
    pub payload_bytes: u64,
    /// The version and time of the first record.
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

    /// A reader of the records that existed when the log was opened.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The group and the member that own the log.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The file and the offset in bytes of an incomplete last record. A crash left it, or it is being written.
    pub fn torn(&self) -> Option<(&str, u64)> {
        self.torn.as_ref().map(|(file, offset)| (file.as_str(), *offset))
    }

    /// The names of files beside the segments that were removed: blobs and the newest checkpoint.
    ///
    /// The log cannot be opened for writing without them.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The bytes of the blob `name`; `None` if it was never saved.
    pub fn load(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let file = blobs::blob_file(name)?;
        self.check(|missing| *missing == file)?;
        blobs::load(&*self.disk, self.identity, &file).map_err(|error| in_directory(error, &*self.disk))
    }

    fn check(&self, asked: impl Fn(&String) -> bool) -> Result<(), Error> {
        let lost = self.missing.iter().find(|missing| asked(missing));
        lost.map_or(Ok(()), |file| Err(in_directory(recover::missing(file.clone()), &*self.disk)))
    }

    /// The newest checkpoint, verified; `None` if there is none.
    pub fn load_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        self.check(|missing| missing.ends_with(".snapshot"))?;
        Snapshot::load(&*self.disk, self.identity).map_err(|error| in_directory(error, &*self.disk))
    }

    /// The segments that existed when the log was opened, the oldest first. There is at least one.
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

    /// Counts the records of a segment by reading and checking their headers.
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
