//! The files of a log, each with correct checksums over wrong content.

use super::*;
use crate::fuzz::{Parser, as_it_is, run};
use crate::log::blobs;
use crate::log::codec::{self, Stamp};
use crate::log::index::{self, Index, Key};
use crate::log::segment::{End, Header, Named, PAGE_BYTES, index_name, segment_name};
use crate::log::snapshot::{Snapshot, SnapshotWriter, file_name};
use std::io::Read;

/// The simulated disk holds each file twice, and is given a copy.
const DISK_HEAP_MAX: (usize, usize) = (6, 8 << 10);

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn store(bytes: &mut [u8], at: usize, checksum: u32) {
    bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Corrects the checksum at byte 4, which covers the bytes from 8 to `end` and begins with `salt`.
fn repair_head(bytes: &mut [u8], end: usize, salt: u32) {
    if let Some(covered) = bytes.get(8..end) {
        let checksum = crc32c::crc32c_append(salt, covered);
        store(bytes, 4, checksum);
    }
}

/// The seed of the records' checksums.
fn seed() -> u32 {
    OURS.seed()
}

/// Corrects the checksums of the records from `at` on, of which the first is at position `base + at` of the log.
fn repair_records(bytes: &mut [u8], mut at: usize, base: u64, mut previous: u32) {
    while bytes.len() >= at + codec::HEAD_BYTES {
        let record = &mut bytes[at..];
        let len = u32_at(record, 16) as usize;
        if let Some(payload) = record.get(codec::HEAD_BYTES..codec::HEAD_BYTES + len) {
            let checksum = crc32c::crc32c(payload);
            store(record, 8, checksum);
        }
        let synced = u64_at(record, 48);
        previous = codec::finish(record, base + at as u64, seed(), previous, synced).unwrap();
        at += codec::record_bytes(len);
    }
}

fn encoded(n: u64, len: usize) -> Vec<u8> {
    let (mut batch, payload) = (Vec::new(), payload(n, len));
    codec::encode(&mut batch, &record(n, &payload), crc32c::crc32c(&payload));
    codec::finish(&mut batch, 8192, seed(), 5, 4096);
    batch
}

#[test]
fn fuzz_log_records() {
    let seeds = [(0, 0), (9, 1), (10, 300)].map(|(n, len)| encoded(n, len)).to_vec();
    let repair = |bytes: &mut [u8]| {
        if bytes.len() >= codec::HEAD_BYTES {
            let (previous, synced) = (u32_at(bytes, 12), u64_at(bytes, 48));
            codec::finish(bytes, 8192, seed(), previous, synced);
        }
    };
    // The record is encoded again only if its payload is there.
    run(&Parser { name: "log records", seeds, repair: &repair, heap_max: (4, 1 << 10) }, |bytes| {
        let Some(head) = codec::decode(bytes, 8192, seed()) else { return false };
        assert!(codec::decode(bytes, 8200, seed()).is_none() && codec::decode(bytes, 8192, seed() ^ 1).is_none());
        assert!(head.record_bytes() >= u64::from(head.length) + codec::HEAD_BYTES as u64);
        if let Some(payload) = bytes.get(codec::HEAD_BYTES..codec::HEAD_BYTES + head.length as usize) {
            let mut batch = Vec::new();
            codec::encode(&mut batch, &head.record(payload), head.payload_checksum);
            let checksum = codec::finish(&mut batch, 8192, seed(), head.previous, head.synced).unwrap();
            assert_eq!(codec::decode(&batch, 8192, seed()), Some(codec::Head { checksum, ..head }));
        }
        true
    });
}

#[test]
fn fuzz_segment_headers() {
    let stamp = Stamp { version: version(70), time_ns: 99 };
    let header = |number, last| {
        let before = End { position: number * SMALL + PAGE_BYTES, last, checksum: 7 };
        Header { identity: OURS, number, segment_bytes: SMALL, before, low: number / 2 }.encode()
    };
    let seeds = vec![header(3, Some(stamp)), header(3, None)];
    let padded = |bytes: &[u8]| {
        let mut page = bytes.to_vec();
        page.resize(PAGE_BYTES as usize, 0);
        page
    };
    let repair = |bytes: &mut [u8]| {
        let page = padded(bytes);
        if bytes.len() > 8 {
            store(bytes, 4, crc32c::crc32c(&page[8..]));
        }
    };
    run(&Parser { name: "segment headers", seeds, repair: &repair, heap_max: (3, 12 << 10) }, |bytes| {
        let page = padded(bytes);
        let Ok(header) = Header::decode("a segment", 3, &page) else { return false };
        assert_eq!(Header::decode("a segment", 3, &header.encode()).unwrap(), header);
        assert!(header.start().position >= PAGE_BYTES);
        true
    });
}

#[test]
fn fuzz_file_names() {
    let names = [segment_name(255), index_name(3), file_name(version(7)), "marks".into(), "tail.blob".into()];
    let seeds = names.iter().flat_map(|name| [name.clone(), format!("{name}~7.tmp")]).map(String::into_bytes).collect();
    run(&Parser { name: "file names", seeds, repair: &as_it_is, heap_max: (4, 256) }, |bytes| {
        let name = String::from_utf8_lossy(bytes);
        let again = match Named::of(&name) {
            Some(Named::Segment(number)) => segment_name(number),
            Some(Named::Index(number)) => index_name(number),
            Some(Named::Snapshot(version)) => file_name(version),
            Some(Named::Blob | Named::Marks | Named::Temporary) => return true,
            None => return false,
        };
        assert_eq!(again, name);
        true
    });
}

#[test]
fn fuzz_blobs() {
    let seeds = [&b""[..], b"what the application knows"].map(|bytes| blobs::encode(OURS, "a.blob", bytes)).to_vec();
    let repair = |bytes: &mut [u8]| {
        let end = bytes.len();
        repair_head(bytes, end, crc32c::crc32c(b"a.blob"));
    };
    // The file's length counts, and not the length in it.
    run(&Parser { name: "blobs", seeds, repair: &repair, heap_max: DISK_HEAP_MAX }, |bytes| {
        let disk = SimDisk::new(1);
        disk.put("a.blob", bytes.to_vec());
        let Ok(Some((identity, content))) = blobs::load_any(&disk, "a.blob") else { return false };
        disk.put("a.blob", blobs::encode(identity, "a.blob", &content));
        assert_eq!(blobs::load_any(&disk, "a.blob").unwrap(), Some((identity, content)));
        true
    });
}

/// The file of a checkpoint.
fn checkpoint(state: &[u8]) -> Vec<u8> {
    let disk = SimDisk::new(1);
    let mut writer = SnapshotWriter::begin(Arc::new(disk.clone()), OURS, version(7), 99).unwrap();
    writer.write(state).unwrap();
    writer.seal().unwrap();
    writer.install().unwrap();
    disk.bytes(&file_name(version(7))).unwrap()
}

#[test]
fn fuzz_checkpoints() {
    let seeds = [&b""[..], b"what the application knows"].map(checkpoint).to_vec();
    let repair = |bytes: &mut [u8]| {
        const HEAD_BYTES: usize = 96;
        if bytes.len() >= HEAD_BYTES {
            let len = usize::try_from(u64_at(bytes, 72)).unwrap_or(usize::MAX).min(bytes.len() - HEAD_BYTES);
            let body = crc32c::crc32c(&bytes[HEAD_BYTES..HEAD_BYTES + len]);
            store(bytes, 12, body);
            repair_head(bytes, HEAD_BYTES, 0);
        }
    };
    let load = |bytes: &[u8]| {
        let disk = SimDisk::new(1);
        disk.put(&file_name(version(7)), bytes.to_vec());
        let mut found = Snapshot::load(&disk, OURS).ok()??;
        let mut state = Vec::new();
        found.read_to_end(&mut state).unwrap();
        assert_eq!(state.len() as u64, found.len);
        Some((found.version, found.time_ns, state))
    };
    // The buffer through which a checkpoint is read, twice at most.
    let heap_max = (8, (128 << 10) + (8 << 10));
    run(&Parser { name: "checkpoints", seeds, repair: &repair, heap_max }, |bytes| {
        let Some((_, time_ns, state)) = load(bytes) else { return false };
        let again = load(&checkpoint(&state)).unwrap();
        assert!(time_ns != 99 || again == (version(7), time_ns, state));
        true
    });
}

#[test]
fn fuzz_index() {
    let (number, end) = (3, 77);
    let entry = |n: u64| index::Entry {
        stamp: Stamp { version: version(100 * n), time_ns: 1000 * n },
        offset: PAGE_BYTES + n * index::STRIDE_BYTES,
        previous: n as u32,
    };
    let file = |count: u64| {
        let disk = SimDisk::new(1);
        Index::write(&disk, number, seed(), end, &(0..count).map(entry).collect::<Vec<_>>()).unwrap();
        disk.bytes(&index_name(number)).unwrap()
    };
    let salt = index::salt(number, seed(), end);
    let repair = |bytes: &mut [u8]| {
        repair_head(bytes, 64, salt);
        for entry in bytes.get_mut(64..).unwrap_or_default().chunks_exact_mut(40) {
            let checksum = crc32c::crc32c_append(salt, &entry[..36]);
            store(entry, 36, checksum);
        }
    };
    let parser =
        Parser { name: "index", seeds: [0, 1, 9].map(file).to_vec(), repair: &repair, heap_max: DISK_HEAP_MAX };
    run(&parser, |bytes| {
        let disk = SimDisk::new(1);
        disk.put(&index_name(number), bytes.to_vec());
        let Some(index) = Index::open(&disk, number, seed(), end) else { return false };
        let keys = [Key::Version(version(450)), Key::Before(version(300)), Key::Time(3500), Key::Time(u64::MAX)];
        keys.into_iter().all(|key| match index.search(key) {
            Ok(found) => found.is_none_or(|entry| key.reached_by(entry.stamp)),
            Err(index::Damaged) => false,
        })
    });
}

#[test]
fn an_index_that_counts_more_entries_than_it_has_is_none() {
    let (disk, name) = (SimDisk::new(1), index_name(3));
    Index::write(&disk, 3, seed(), 77, &[]).unwrap();
    assert!(Index::open(&disk, 3, seed(), 77).is_some());
    for count in [1, 1 << 60, u64::MAX] {
        let mut bytes = disk.bytes(&name).unwrap();
        bytes[16..24].copy_from_slice(&count.to_le_bytes());
        repair_head(&mut bytes, 64, index::salt(3, seed(), 77));
        disk.put(&name, bytes);
        assert!(Index::open(&disk, 3, seed(), 77).is_none(), "{count}");
    }
}

/// A segment with records, as the first of a log.
fn segment() -> Vec<u8> {
    let disk = SimDisk::new(1);
    let mut store = open_sized(&disk, 8192).unwrap();
    for n in 0..6 {
        append(&mut store, n..n + 1, 60 + 90 * n as usize).unwrap();
        store.sync().unwrap();
    }
    disk.bytes(&segment_name(0)).unwrap()
}

/// The records of a log with this first segment.
fn records(marks: &[u8], segment: Vec<u8>) -> Result<Vec<(Version, Vec<u8>)>, Error> {
    let disk = SimDisk::new(1);
    disk.put("marks", marks.to_vec());
    disk.put(&segment_name(0), segment);
    let store = open_sized(&disk, 8192)?;
    let read = || store.reader().iter(..).map(|entry| entry.map(|entry| (entry.version(), entry.to_vec()))).collect();
    let found: Vec<_> = Result::from_iter::<Vec<Result<_, Error>>>(read())?;
    for (version, _) in found.iter().take(3) {
        assert_eq!(store.reader().get(*version)?.map(|entry| entry.version()), Some(*version));
    }
    drop(store);
    // Opening has put the log in order, so it opens again with the same records.
    let again = open_sized(&disk, 8192)?;
    assert_eq!(
        again.reader().iter(..).map(Result::unwrap).map(|entry| entry.version()).collect::<Vec<_>>(),
        found.iter().map(|(version, _)| *version).collect::<Vec<_>>()
    );
    Ok(found)
}

#[test]
fn fuzz_segments() {
    let repair = |bytes: &mut [u8]| {
        let page = PAGE_BYTES as usize;
        repair_head(bytes, page, 0);
        repair_records(bytes, page, 0, 0);
    };
    let disk = SimDisk::new(1);
    drop(open_sized(&disk, 8192).unwrap());
    let marks = disk.bytes("marks").unwrap();
    // Windows of 256 KiB at most, and the copies of the simulated disk with its unsynced writes.
    let heap_max = (20, 1 << 20);
    let parser = Parser { name: "segments", seeds: vec![segment()], repair: &repair, heap_max };
    run(&parser, |bytes| {
        // A segment of a larger size is extended on the disk, which is memory here.
        bytes.len() >= 64 && u64_at(bytes, 56) == 8192 && records(&marks, bytes.to_vec()).is_ok()
    });
}
