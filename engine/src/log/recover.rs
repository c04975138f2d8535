//! Surveys the directory when a log is opened, and repairs the effects of a crash.
//!
//! A segment that has a successor was completely synced before the successor was created, so only its header is read.
//! The last segment is read from its beginning. The first record in it that is not as written ends the log. It is
//! damage instead if a later record proves that the log had been synced beyond that place.

use super::codec::Head;
use super::codec::{self, HEAD_BYTES};
use super::disk::{Disk, File};
use super::index;
use super::marks::{MARKS, Marks};
use super::segment::{End, Header, Identity, Named, PAGE_BYTES, TEMPORARY, index_name, segment_name};
use super::snapshot;
use super::window::{self, Window};
use crate::error::Error;
use crate::planted::{self, Bug};
use crate::types::Version;
use std::collections::BTreeSet;
use std::io;

/// The files in the directory.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) segments: BTreeSet<u64>,
    indexes: BTreeSet<u64>,
    pub(super) snapshots: BTreeSet<Version>,
    blobs: BTreeSet<String>,
    /// Whether there are files that only a previously opened log can have.
    grown: bool,
    temporary: Vec<String>,
}

impl Listing {
    pub(super) fn read(disk: &dyn Disk) -> Result<Listing, Error> {
        let names = disk.names().map_err(|error| Error::io("listing the log directory", error))?;
        let mut listing = Listing::default();
        for name in names {
            match Named::of(&name) {
                Some(Named::Segment(number)) => drop(listing.segments.insert(number)),
                Some(Named::Index(number)) => drop(listing.indexes.insert(number)),
                Some(Named::Snapshot(version)) => drop(listing.snapshots.insert(version)),
                Some(Named::Blob) => drop(name.strip_suffix(".blob").map(|blob| listing.blobs.insert(blob.to_owned()))),
                Some(Named::Marks) => listing.grown = true,
                Some(Named::Temporary) => listing.temporary.push(name),
                None => {}
            }
        }
        listing.grown |= !listing.indexes.is_empty() || !listing.snapshots.is_empty() || !listing.blobs.is_empty();
        Ok(listing)
    }
}

/// The records of the last segment.
pub(super) struct Scan {
    pub(super) end: End,
    pub(super) index: Vec<index::Entry>,
    /// The highest position that a record reports as synced.
    proved: u64,
    /// Whether there are nonzero bytes behind the end.
    pub(super) torn: bool,
}

/// The result of a survey.
pub(super) struct Survey {
    pub(super) identity: Identity,
    pub(super) marks: Marks,
    /// The headers of all segments that belong to the log.
    pub(super) headers: Vec<Header>,
    pub(super) file: Box<dyn File>,
    pub(super) scan: Scan,
    /// Required files beside the segments that are missing.
    pub(super) missing: Vec<String>,
    /// The marks as found on the disk, if any.
    noted: Option<Marks>,
}

pub(super) fn missing(file: String) -> Error {
    Error::LogDamaged { file, offset: 0, what: "the file is missing".to_owned() }
}

fn open_segment(disk: &dyn Disk, number: u64) -> Result<Box<dyn File>, Error> {
    let name = segment_name(number);
    disk.open(&name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(name),
        _ => Error::io(format!("opening {name}"), error),
    })
}

fn read_header(disk: &dyn Disk, number: u64) -> Result<(Box<dyn File>, Header, u64), Error> {
    let name = segment_name(number);
    let file = open_segment(disk, number)?;
    let reading = |error| Error::io(format!("reading {name}"), error);
    let len = file.len().map_err(reading)?;
    if len < PAGE_BYTES {
        let what = "the file ends within the segment's header".to_owned();
        return Err(Error::LogDamaged { file: name, offset: len, what });
    }
    let mut page = vec![0; PAGE_BYTES as usize];
    file.read_at(0, &mut page).map_err(reading)?;
    Ok((file, Header::decode(&name, number, &page)?, len))
}

/// Turns `file`, which has its temporary name, into segment `header.number`: writes the header, syncs, renames.
pub(super) fn establish(disk: &dyn Disk, file: &dyn File, header: &Header) -> io::Result<()> {
    let name = segment_name(header.number);
    file.write_at(0, &header.encode())?;
    file.sync()?;
    disk.rename(&format!("{name}{TEMPORARY}"), &name)?;
    disk.sync_names()
}

/// Creates the first segment of a new log.
pub(super) fn create_first(disk: &dyn Disk, identity: Identity, segment_bytes: u64) -> Result<(), Error> {
    let name = segment_name(0);
    let temporary = format!("{name}{TEMPORARY}");
    let file = disk
        .create(&temporary, segment_bytes)
        .map_err(|error| super::failure::not_made("making", error, &temporary, segment_bytes))?;
    let before = End { position: PAGE_BYTES, last: None, checksum: 0 };
    let header = Header { identity, number: 0, segment_bytes, before, low: 0 };
    establish(disk, &*file, &header).map_err(|error| Error::io(format!("making {name}"), error))
}

/// Surveys the directory without changing anything. Returns `None` if there is no log.
///
/// `identity` is the identity that the log must have, if known.
pub(super) fn survey(disk: &dyn Disk, identity: Option<Identity>) -> Result<Option<Survey>, Error> {
    // Marks are read first: every file that they note existed before, so it is in the listing that is made afterwards.
    let noted = Marks::load(disk)?;
    let listing = Listing::read(disk)?;
    let Some(&highest) = listing.segments.last() else {
        return match noted {
            Some((_, marks)) => Err(missing(segment_name(marks.newest))),
            None if listing.grown => Err(missing(MARKS.to_owned())),
            None => Ok(None),
        };
    };
    // Only the first segment is created before the marks exist.
    if noted.is_none() && (listing.grown || highest > 0) {
        return Err(missing(MARKS.to_owned()));
    }
    let (_, newest, _) = read_header(disk, highest)?;
    let theirs = noted.as_ref().map_or(newest.identity, |(theirs, _)| *theirs);
    let identity = identity.unwrap_or(theirs);
    identity.check(&segment_name(highest), newest.identity)?;
    identity.check(MARKS, theirs)?;
    let segment_bytes = newest.segment_bytes;
    let noted = noted.map(|(_, marks)| marks);
    let marks = noted.clone().unwrap_or_default();
    let low = marks.low.max(newest.low);
    let (last, limit) = marks.end(segment_bytes).unwrap_or((highest.max(marks.newest), segment_bytes));
    if low > last || last > highest {
        return Err(missing(segment_name(low.max(last))));
    }
    let (headers, file, len) = read_headers(disk, identity, segment_bytes, low..=last)?;
    let header = headers[headers.len() - 1];
    let name = segment_name(last);
    let scan = scan(&name, &mut Window::new(&*file, limit.min(len)), &header)?;
    if noted.is_none() && (scan.torn || scan.end.last.is_some()) {
        return Err(missing(MARKS.to_owned()));
    }
    if let Some(position) = marks.cut.filter(|&position| scan.end.position != position) {
        let offset = |position: u64| position - last * segment_bytes;
        let what = format!("the records end here, but the log was cut at {}", offset(position));
        return Err(Error::LogDamaged { file: name, offset: offset(scan.end.position), what });
    }
    let lost = marks.missing(&listing.blobs, &listing.snapshots);
    let marks = Marks { low, ..marks };
    Ok(Some(Survey { identity, marks, headers, file, scan, missing: lost, noted }))
}

/// Surveys the directory while another process may be writing.
///
/// One file may then be read in an older state than another, and the end of a file in a newer state than its middle. So
/// damage counts only if a second survey finds it in the same place.
pub(super) fn survey_steady(disk: &dyn Disk) -> Result<Option<Survey>, Error> {
    const LOOKS_MAX: usize = 100;
    let mut before = None;
    for _ in 1..LOOKS_MAX {
        match survey(disk, None) {
            Err(Error::LogDamaged { file, offset, what }) if before != Some((file.clone(), offset)) => {
                tracing::debug!("{file} at {offset}: {what}; reading again");
                before = Some((file, offset));
            }
            // The owner puts the end of the log in order in this very moment.
            Err(Error::Io { what, source }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::debug!("{what}: {source}; reading again");
            }
            steady => return steady,
        }
    }
    survey(disk, None)
}

type Headers = (Vec<Header>, Box<dyn File>, u64);

/// The identity of the log; `None` if there is no log.
pub(super) fn identity(disk: &dyn Disk) -> Result<Option<Identity>, Error> {
    if let Some((identity, _)) = Marks::load(disk)? {
        return Ok(Some(identity));
    }
    let listing = Listing::read(disk)?;
    match listing.segments.last() {
        Some(&highest) => Ok(Some(read_header(disk, highest)?.1.identity)),
        None if listing.grown => Err(missing(MARKS.to_owned())),
        None => Ok(None),
    }
}

/// The headers of all segments, and the file of the last one with its length.
fn read_headers(
    disk: &dyn Disk,
    identity: Identity,
    segment_bytes: u64,
    numbers: std::ops::RangeInclusive<u64>,
) -> Result<Headers, Error> {
    let mut headers: Vec<Header> = Vec::new();
    let mut last = None;
    for number in numbers.clone() {
        let name = segment_name(number);
        let damaged = |offset, what: &str| Error::LogDamaged { file: name.clone(), offset, what: what.to_owned() };
        let (file, header, len) = read_header(disk, number)?;
        identity.check(&name, header.identity)?;
        if header.segment_bytes != segment_bytes {
            return Err(damaged(0, "the segment's size differs from that of the others"));
        }
        if let Some((_, before_len)) = last {
            let start = (number - 1) * segment_bytes;
            let content = start + PAGE_BYTES..=start + segment_bytes;
            if !content.contains(&header.before.position) {
                return Err(damaged(0, "the segment's header contradicts the previous segment"));
            }
            if header.before.position - start > before_len {
                let what = "the file ends before its last record".to_owned();
                return Err(Error::LogDamaged { file: segment_name(number - 1), offset: before_len, what });
            }
        }
        headers.push(header);
        last = Some((file, len));
    }
    let (file, len) = last.ok_or_else(|| missing(segment_name(*numbers.start())))?;
    Ok((headers, file, len))
}

/// The header of the record at `offset`, if the record is whole and valid at `position`.
fn whole_record(window: &mut Window<'_>, offset: u64, position: u64, seed: u32) -> io::Result<Option<Head>> {
    let Some(head) = codec::decode(window.at(offset, HEAD_BYTES)?, position, seed) else { return Ok(None) };
    if offset + head.record_bytes() > window.len() {
        return Ok(None);
    }
    let mut checksum = 0;
    window.pieces(offset + HEAD_BYTES as u64, u64::from(head.length), |_, piece| {
        checksum = crc32c::crc32c_append(checksum, piece);
        Ok(())
    })?;
    Ok(Some(head).filter(|head| checksum == head.payload_checksum || planted::is(Bug::TornTailTaken)))
}

/// Reads the records of the segment.
fn scan(name: &str, window: &mut Window<'_>, header: &Header) -> Result<Scan, Error> {
    let reading = |error| Error::io(format!("reading {name}"), error);
    let (seed, base) = (header.identity.seed(), header.number * header.segment_bytes);
    let mut end = header.start();
    let mut scan = Scan { end, index: Vec::new(), proved: end.position, torn: false };
    let mut at = PAGE_BYTES;
    while let Some(head) = whole_record(window, at, end.position, seed).map_err(reading)? {
        if head.previous != end.checksum || !head.stamp.follows(end.last) {
            break;
        }
        index::note(&mut scan.index, index::Entry { stamp: head.stamp, offset: at, previous: end.checksum });
        scan.proved = scan.proved.max(head.synced);
        at += head.record_bytes();
        end = End { position: base + at, last: Some(head.stamp), checksum: head.checksum };
    }
    scan.end = end;
    let proof = look_further(window, at, base, seed, end.position, &mut scan.torn).map_err(reading)?;
    if let Some(synced) = scan.proved.max(proof).checked_sub(end.position).filter(|&beyond| beyond > 0) {
        let what = format!("the record here is damaged, although the log was synced up to {synced} bytes after it");
        return Err(Error::LogDamaged { file: name.to_owned(), offset: at, what });
    }
    Ok(scan)
}

/// The highest position that any header behind `from` reports as synced.
fn look_further(
    window: &mut Window<'_>,
    from: u64,
    base: u64,
    seed: u32,
    end: u64,
    torn: &mut bool,
) -> io::Result<u64> {
    const BLOCK_BYTES: usize = 4096;
    static ZEROS: [u8; BLOCK_BYTES + 8] = [0; BLOCK_BYTES + 8];
    let (mut proof, mut at) = (end, from);
    while at < window.len() {
        let stop = window.len().min(at.next_multiple_of(BLOCK_BYTES as u64).max(at + 8));
        let block = (stop - at) as usize;
        // A header may begin in the last word of the block.
        let bytes = window.at(at, block + HEAD_BYTES)?;
        if bytes[..block] != ZEROS[..block] {
            *torn = true;
            let heads = (0..block).step_by(8).filter_map(|n| codec::decode(&bytes[n..], base + at + n as u64, seed));
            proof = heads.map(|head| head.synced).fold(proof, u64::max);
        }
        at = stop;
    }
    Ok(proof)
}

impl Survey {
    /// The header of the last segment.
    pub(super) fn last(&self) -> &Header {
        &self.headers[self.headers.len() - 1]
    }

    /// Repairs the effects of a crash, durably.
    ///
    /// Files and bytes that are not part of the log are removed, and everything that is part of it is synced.
    pub(super) fn repair(&mut self, disk: &dyn Disk) -> Result<(), Error> {
        let last = *self.last();
        let name = segment_name(last.number);
        // The survey may have seen changes that are not durable. They are synced before anything is removed because of
        // them.
        disk.sync_names().map_err(|error| Error::io("syncing the log directory", error))?;
        self.tidy(disk, last.number)?;
        let writing = |error| Error::io(format!("repairing the end of {name}"), error);
        let (start, end) = (last.number * last.segment_bytes, self.scan.end.position);
        let offset = |position: u64| position - start;
        if self.scan.torn || self.marks.cut.is_some() {
            self.file.clear_from(offset(end)).map_err(writing)?;
        }
        let len = self.file.len().map_err(writing)?;
        if len < last.segment_bytes {
            window::write_zeros(&*self.file, len, last.segment_bytes - len).map_err(writing)?;
        }
        // After a failed sync, the system may treat these bytes as written although they are not. So they are written
        // again.
        self.write_again(offset(self.scan.proved), offset(end), start).map_err(writing)?;
        self.file.sync().map_err(writing)?;
        self.note(disk, last.number)
    }

    /// Writes the records from `offset` to `end` again. `base` is the position of the segment's first byte.
    ///
    /// The bytes come from the file once more, and the system may have dropped what the survey saw. So each record is
    /// checked as it is written.
    fn write_again(&self, mut offset: u64, end: u64, base: u64) -> io::Result<()> {
        let (file, seed) = (&*self.file, self.identity.seed());
        let mut window = Window::new(file, end);
        while offset < end {
            let changed = || io::Error::other(format!("the record at {offset} changed while the log was opened"));
            let head = codec::decode(window.at(offset, HEAD_BYTES)?, base + offset, seed).ok_or_else(changed)?;
            let mut checksum = 0;
            window.pieces(offset, head.record_bytes(), |at, piece| {
                let skipped = (offset + HEAD_BYTES as u64).saturating_sub(at).min(piece.len() as u64) as usize;
                let payload_end = offset + HEAD_BYTES as u64 + u64::from(head.length);
                let kept = payload_end.saturating_sub(at).min(piece.len() as u64) as usize;
                checksum = crc32c::crc32c_append(checksum, piece.get(skipped..kept).unwrap_or_default());
                file.write_at(at, piece)
            })?;
            if checksum != head.payload_checksum && !planted::is(Bug::TornTailTaken) {
                return Err(changed());
            }
            offset += head.record_bytes();
        }
        Ok(())
    }

    /// Updates the marks to the existing files, once these are durable.
    fn note(&mut self, disk: &dyn Disk, last: u64) -> Result<(), Error> {
        let listing = Listing::read(disk)?;
        let Marks { low, .. } = self.marks;
        let snapshot = listing.snapshots.last().copied();
        self.marks = Marks { low, newest: last, cut: None, snapshot, blobs: listing.blobs };
        if self.noted.as_ref() != Some(&self.marks) {
            self.marks.save(disk, self.identity).map_err(super::failure::Step::error)?;
        }
        Ok(())
    }

    /// Removes files that are unfinished, trimmed or cut.
    fn tidy(&self, disk: &dyn Disk, last: u64) -> Result<(), Error> {
        let listing = Listing::read(disk)?;
        let low = self.marks.low;
        let segments = listing.segments.iter().filter(|&&n| n < low || n > last).map(|&n| segment_name(n));
        let indexes = listing.indexes.iter().filter(|&&n| n < low || n >= last).map(|&n| index_name(n));
        let newest = listing.snapshots.last().copied();
        let older = listing.snapshots.iter().filter(|&&version| Some(version) != newest);
        let snapshots = older.map(|&version| snapshot::file_name(version));
        let gone: Vec<String> = segments.chain(indexes).chain(snapshots).chain(listing.temporary).collect();
        for name in &gone {
            disk.remove(name).map_err(|error| Error::io(format!("removing {name}"), error))?;
        }
        if !gone.is_empty() {
            disk.sync_names().map_err(|error| Error::io("syncing the log directory", error))?;
        }
        Ok(())
    }
}
