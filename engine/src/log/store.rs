//! The log with a single owner, without threads and without waiting. The simulator runs this same code.

use super::Reader;
use super::blobs;
use super::codec::{self, HEAD_BYTES, Stamp};
use super::disk::{Disk, File};
use super::failure::{Step, full_or_final, in_directory};
use super::index::{self, Index};
use super::marks::{Marks, Prepared};
use super::recover::{self, Survey};
use super::segment::{End, Header, Identity, PAGE_BYTES, SEGMENT_BYTES, TEMPORARY, segment_name, valid_size};
use super::snapshot::SnapshotWriter;
use super::table::{Segment, Shared, Table};
use crate::error::Error;
use crate::types::Version;
use std::collections::VecDeque;
use std::sync::Arc;

/// A segment that a batch will need, and the marks that will note it.
struct Made {
    file: Box<dyn File>,
    marks: Prepared,
}

/// The default size of a segment: 64 MiB.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// A log on a [`Disk`], with a single owner. Nothing is durable before [`Store::sync`] returns.
///
/// After the disk failed a write or a sync, every call that writes returns [`Error::LogFailed`]: open the log again.
pub(crate) struct Store {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) identity: Identity,
    pub(super) shared: Arc<Shared>,
    pub(super) marks: Marks,
    /// The file of the last segment.
    pub(super) file: Box<dyn File>,
    pub(super) number: u64,
    /// The end of the written records.
    pub(super) end: End,
    /// The position up to which the log is synced.
    pub(super) synced: u64,
    /// The index entries of records that are not synced yet.
    pub(super) fresh: Vec<index::Entry>,
    /// The offset of the last index entry of this segment; 0 if there is none.
    pub(super) indexed: u64,
    failure: Option<Error>,
}

impl Store {
    /// Opens the log in `disk`, or creates one with segments of `segment_bytes` bytes.
    ///
    /// `segment_bytes` is a multiple of 4096, from 8 KiB to 2 GiB. An existing log keeps the size with which it was
    /// created.
    ///
    /// The effects of a crash are repaired, durably. Returns [`Error::LogDamaged`] if durable data is lost,
    /// [`Error::LogForeign`] if files belong to another log, [`Error::LogFormat`] if a later version wrote them, and
    /// [`Error::LogFull`] if there is no space.
    pub(crate) fn open(disk: Arc<dyn Disk>, identity: Identity, segment_bytes: u64) -> Result<Store, Error> {
        if !valid_size(segment_bytes) {
            let (least, most) = (SEGMENT_BYTES.start(), SEGMENT_BYTES.end());
            let what =
                format!("`segment_bytes` must be a multiple of 4096 from {least} to {most}, not {segment_bytes}");
            return Err(Error::Config(what));
        }
        let mut survey = match recover::survey(&*disk, Some(identity))? {
            Some(survey) => survey,
            None => {
                recover::create_first(&*disk, identity, segment_bytes)?;
                let made = recover::survey(&*disk, Some(identity))?;
                made.ok_or_else(|| Error::Internal("the segment that was just created is missing".to_owned()))?
            }
        };
        if let Some(file) = survey.missing.first() {
            return Err(recover::missing(file.clone()));
        }
        survey.repair(&*disk)?;
        let shared = share(disk.clone(), &survey);
        let (number, end) = (survey.last().number, survey.scan.end);
        let indexed = survey.scan.index.last().map_or(0, |entry| entry.offset);
        Ok(Store {
            disk,
            identity,
            shared,
            marks: survey.marks,
            file: survey.file,
            number,
            end,
            synced: end.position,
            fresh: Vec::new(),
            indexed,
            failure: None,
        })
    }

    /// A reader of the synced records.
    pub(crate) fn reader(&self) -> Reader {
        Reader { shared: self.shared.clone() }
    }

    /// The version and time of the last appended record, synced or not.
    pub(crate) fn last(&self) -> Option<(Version, u64)> {
        self.end.last.map(|last| (last.version, last.time_ns))
    }

    /// The largest payload of a record, in bytes.
    pub(crate) fn payload_max(&self) -> usize {
        payload_max(self.shared.segment_bytes)
    }

    /// Appends records that [`codec::encode`] has put into `batch`, with one write for each segment that it touches.
    ///
    /// All records are appended or none. Returns [`Error::LogOrder`] for records that cannot be appended. Returns
    /// [`Error::LogFull`] if there is no space for the next segment; the same call may succeed later.
    pub(super) fn append_encoded(&mut self, batch: &mut [u8]) -> Result<(), Error> {
        self.go_on()?;
        let planned = self.end_cut().and_then(|()| self.plan(batch));
        let result = planned.and_then(|segments| self.write(batch, segments));
        self.settle(result)
    }

    /// Checks a batch before anything is written, and creates the segments that it needs.
    fn plan(&self, batch: &[u8]) -> Result<VecDeque<Made>, Step> {
        let size = self.shared.segment_bytes;
        let (mut at, mut last, mut offset, mut rolls) = (0, self.end.last, self.offset(), 0);
        while let Some((len, stamp)) = codec::peek(&batch[at..]) {
            if !stamp.follows(last) {
                return Err(Step::Refused(out_of_order(stamp, last)));
            }
            let bytes = codec::record_bytes(len) as u64;
            if offset + bytes > size {
                (offset, rolls) = (PAGE_BYTES, rolls + 1);
            }
            offset += bytes;
            at += bytes as usize;
            last = Some(stamp);
        }
        let (mut made, numbers) = (VecDeque::new(), self.number + 1..=self.number + rolls);
        for number in numbers.clone() {
            match self.make(number) {
                Ok(one) => made.push_back(one),
                Err(step) => {
                    // Files that remain are removed when the log is opened next.
                    made.into_iter().for_each(|one| one.marks.discard(&*self.disk));
                    numbers.take_while(|&made| made < number).for_each(|n| drop(self.disk.remove(&temporary(n))));
                    return Err(step);
                }
            }
        }
        Ok(made)
    }

    /// Allocates everything that another segment needs.
    fn make(&self, number: u64) -> Result<Made, Step> {
        let (name, size) = (temporary(number), self.shared.segment_bytes);
        let file = self.disk.create(&name, size).map_err(|error| full_or_final("making", error, &name, size))?;
        match (Marks { newest: number, ..self.marks.clone() }).prepare(&*self.disk) {
            Ok(marks) => Ok(Made { file, marks }),
            Err(step) => {
                let _ = self.disk.remove(&name);
                Err(step)
            }
        }
    }

    fn write(&mut self, batch: &mut [u8], mut segments: VecDeque<Made>) -> Result<(), Step> {
        let (mut from, mut at, mut offset) = (0, 0, self.offset());
        let mut end = self.end;
        while let Some((len, stamp)) = codec::peek(&batch[at..]) {
            let bytes = codec::record_bytes(len);
            if offset + bytes as u64 > self.shared.segment_bytes {
                self.write_part(&batch[from..at], end)?;
                let next = segments.pop_front();
                let missing = || Error::Internal("a batch needs more segments than were made".to_owned());
                self.roll(next.ok_or_else(missing)?)?;
                (from, offset, end) = (at, PAGE_BYTES, self.end);
            }
            let record = &mut batch[at..];
            let finished = codec::finish(record, end.position, self.shared.seed, end.checksum, self.synced);
            let Some(checksum) = finished else { break };
            if self.indexed == 0 || offset >= self.indexed + index::STRIDE_BYTES {
                self.indexed = offset;
                self.fresh.push(index::Entry { stamp, offset, previous: end.checksum });
            }
            at += bytes;
            offset += bytes as u64;
            end = End { position: end.position + bytes as u64, last: Some(stamp), checksum };
        }
        self.write_part(&batch[from..], end)
    }

    fn write_part(&mut self, bytes: &[u8], end: End) -> Result<(), Step> {
        if bytes.is_empty() {
            return Ok(());
        }
        let offset = self.offset();
        let written = self.file.write_at(offset, bytes);
        written.map_err(|error| Step::new(format!("writing {} at {offset}", segment_name(self.number)), error))?;
        self.end = end;
        Ok(())
    }

    /// Continues in a new segment, once the present one is completely durable.
    fn roll(&mut self, Made { file, marks }: Made) -> Result<(), Step> {
        self.sync_segment()?;
        let sealed = self.shared.read().recent.clone();
        let written = Index::write(&*self.disk, self.number, self.shared.seed, self.end.checksum, &sealed);
        if let Err(error) = written {
            // A reader rebuilds the index from the records when it needs it.
            tracing::warn!("the index of {} could not be written: {error}", segment_name(self.number));
        }
        let (number, segment_bytes) = (self.number + 1, self.shared.segment_bytes);
        let header = Header { identity: self.identity, number, segment_bytes, before: self.end, low: self.marks.low };
        recover::establish(&*self.disk, &*file, &header)
            .map_err(|error| Step::new(format!("making {}", segment_name(number)), error))?;
        // Before any record in the segment counts: the loss of an unnoted segment would not be detected.
        self.marks = marks.save(&*self.disk, self.identity)?;
        self.file = file;
        self.number = number;
        self.end = header.start();
        self.synced = self.end.position;
        self.indexed = 0;
        let mut table = self.shared.write();
        table.segments.push_back(Segment::new(number, header.before));
        table.recent.clear();
        table.end = self.end;
        Ok(())
    }

    /// Makes all appended records durable. Readers then see them.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.go_on()?;
        let result = self.sync_segment();
        self.settle(result)
    }

    pub(super) fn sync_segment(&mut self) -> Result<(), Step> {
        if self.synced != self.end.position {
            let synced = self.file.sync();
            synced.map_err(|error| Step::new(format!("syncing {}", segment_name(self.number)), error))?;
            self.synced = self.end.position;
            let mut table = self.shared.write();
            table.recent.append(&mut self.fresh);
            table.end = self.end;
        }
        Ok(())
    }

    /// Replaces the blob `name` (1 to 64 characters of a-z, 0-9, - and _) as a whole, durably.
    ///
    /// After a crash it contains the old bytes or the new ones.
    pub(crate) fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.go_on()?;
        let file = blobs::blob_file(name)?;
        let result = self.save_step(name, &file, bytes);
        self.settle(result)
    }

    fn save_step(&mut self, name: &str, file: &str, bytes: &[u8]) -> Result<(), Step> {
        if self.marks.blobs.contains(name) {
            return blobs::save(&*self.disk, self.identity, file, bytes);
        }
        let mut marks = self.marks.clone();
        marks.blobs.insert(name.to_owned());
        let marks = marks.prepare(&*self.disk)?;
        if let Err(step) = blobs::save(&*self.disk, self.identity, file, bytes) {
            marks.discard(&*self.disk);
            return Err(step);
        }
        self.marks = marks.save(&*self.disk, self.identity)?;
        Ok(())
    }

    /// Makes a checkpoint durable, in place of the older ones.
    pub(crate) fn install(&mut self, mut snapshot: SnapshotWriter) -> Result<(), Error> {
        self.go_on()?;
        snapshot.seal()?;
        let result = self.install_step(&mut snapshot);
        self.settle(result)
    }

    fn install_step(&mut self, snapshot: &mut SnapshotWriter) -> Result<(), Step> {
        let failed = |error| Step::new("installing a checkpoint", error);
        let newest = self.marks.snapshot.max(Some(snapshot.version()));
        let marks = Marks { snapshot: newest, ..self.marks.clone() }.prepare(&*self.disk)?;
        snapshot.install().map_err(failed)?;
        self.marks = marks.save(&*self.disk, self.identity)?;
        snapshot.remove_older().map_err(failed)
    }

    /// The offset in the last segment's file at which the next record is written.
    pub(super) fn offset(&self) -> u64 {
        self.end.position - self.number * self.shared.segment_bytes
    }

    pub(super) fn go_on(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Records a final failure, and adds the directory to the error.
    pub(super) fn settle<T>(&mut self, result: Result<T, Step>) -> Result<T, Error> {
        result.map_err(|step| {
            let is_final = matches!(step, Step::Final(_));
            let error = in_directory(step.error(), &*self.disk);
            if is_final {
                self.failure = Some(error.clone());
            }
            error
        })
    }
}

pub(super) fn temporary(number: u64) -> String {
    format!("{}{TEMPORARY}", segment_name(number))
}

pub(super) fn payload_max(segment_bytes: u64) -> usize {
    (segment_bytes - PAGE_BYTES) as usize - HEAD_BYTES
}

pub(super) fn out_of_order(given: Stamp, last: Option<Stamp>) -> Error {
    let last = last.unwrap_or(Stamp { version: Version::default(), time_ns: 0 });
    Error::LogOrder { given: given.version, given_ns: given.time_ns, last: last.version, last_ns: last.time_ns }
}

/// Builds the state that readers need from the result of a survey.
pub(super) fn share(disk: Arc<dyn Disk>, survey: &Survey) -> Arc<Shared> {
    let segments = survey.headers.iter().map(|header| Segment::new(header.number, header.before)).collect();
    let (recent, end) = (survey.scan.index.clone(), survey.scan.end);
    let table = Table { segments, recent, end, cuts: 0 };
    Shared::new(disk, survey.identity.seed(), survey.last().segment_bytes, table)
}
