//! Tests each promised behaviour on its own.

use super::*;
use crate::log::segment::{index_name, segment_name};
use std::io::Read;

#[test]
fn what_is_appended_is_found_again() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    assert_eq!(store.reader().end(), None);
    assert!(store.reader().get(Version::default()).unwrap().is_none());
    append(&mut store, 0..100, 500).unwrap();
    assert!(segments(&disk).len() > 3);
    store.sync().unwrap();
    let check = |store: &Store| {
        assert_eq!(numbers(store).unwrap(), (0..100).collect::<Vec<_>>());
        let reader = store.reader();
        for n in 0..100 {
            assert_eq!(&reader.get(version(n)).unwrap().unwrap()[..], payload(n, 500));
            assert_eq!(reader.at_time(1000 + 10 * n).unwrap().unwrap().version(), version(n));
            assert_eq!(reader.at_time(1009 + 10 * n).unwrap().unwrap().version(), version(n));
            assert_eq!(reader.last_at_or_before(version(n)).unwrap().unwrap().version(), version(n));
        }
        assert_eq!(reader.last_at_or_before(version(1000)).unwrap().unwrap().version(), version(99));
        assert!(reader.at_time(999).unwrap().is_none());
        assert!(reader.get(version(100)).unwrap().is_none());
        assert_eq!(reader.end(), Some(version(99)));
        assert_eq!(reader.oldest().unwrap(), Some(version(0)));
        let some = reader.iter(version(30)..=version(50)).map(|entry| entry.unwrap().version().sequence);
        assert_eq!(some.collect::<Vec<_>>(), (30..=50).collect::<Vec<_>>());
    };
    check(&store);
    drop(store);
    disk.crash();
    check(&open(&disk).unwrap());
}

#[test]
fn a_reader_sees_only_what_is_synced() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    append(&mut store, 0..3, 10).unwrap();
    let mut iter = store.reader().iter(..);
    assert!(iter.next().is_none());
    store.sync().unwrap();
    assert_eq!(iter.by_ref().count(), 3);
    append(&mut store, 3..4, 10).unwrap();
    assert!(iter.next().is_none());
    store.sync().unwrap();
    assert_eq!(iter.next().unwrap().unwrap().version(), version(3));
}

#[test]
fn records_that_do_not_follow_are_refused() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    append(&mut store, 5..6, 10).unwrap();
    let again = append(&mut store, 5..6, 10);
    assert!(matches!(again, Err(Error::LogOrder { .. })), "{again:?}");
    let large = append(&mut store, 6..7, SMALL as usize);
    assert!(matches!(large, Err(Error::LogRecordTooLarge { .. })), "{large:?}");
    let limit = store.payload_max();
    append(&mut store, 6..7, limit).unwrap();
    append(&mut store, 7..8, limit).unwrap();
    store.sync().unwrap();
    assert_eq!(numbers(&store).unwrap(), [5, 6, 7]);
}

#[test]
fn a_cut_removes_the_end_for_good() {
    for from in [0, 1, 17, 40, 59, 60] {
        let disk = written(60, 700);
        let mut store = open(&disk).unwrap();
        store.cut(version(from)).unwrap();
        assert_eq!(numbers(&store).unwrap(), (0..from).collect::<Vec<_>>());
        drop(store);
        disk.crash();
        let mut store = open(&disk).unwrap();
        assert_eq!(numbers(&store).unwrap(), (0..from).collect::<Vec<_>>());
        append(&mut store, from..from + 30, 600).unwrap();
        store.sync().unwrap();
        drop(store);
        disk.crash();
        let store = open(&disk).unwrap();
        assert_eq!(numbers(&store).unwrap(), (0..from + 30).collect::<Vec<_>>());
        for n in 0..from + 30 {
            assert!(store.reader().get(version(n)).unwrap().is_some());
        }
    }
}

#[test]
fn a_trim_removes_the_beginning() {
    let disk = written(60, 700);
    let mut store = open(&disk).unwrap();
    let before = segments(&disk).len();
    store.trim(version(30)).unwrap();
    assert!(segments(&disk).len() < before);
    let check = |store: &Store| {
        let oldest = store.reader().oldest().unwrap().unwrap().sequence;
        assert!((1..=30).contains(&oldest));
        assert_eq!(numbers(store).unwrap(), (oldest..60).collect::<Vec<_>>());
        let early = store.reader().get(version(oldest - 1));
        let told = format!("its oldest record: {}", version(oldest));
        assert!(
            matches!(&early, Err(error @ Error::LogTrimmed { .. }) if error.to_string().contains(&told)),
            "{early:?}"
        );
        assert!(matches!(store.reader().at_time(1000), Err(Error::LogTrimmed { .. })));
    };
    check(&store);
    store.trim(version(3)).unwrap();
    drop(store);
    disk.crash();
    let mut store = open(&disk).unwrap();
    check(&store);
    assert!(matches!(store.cut(version(0)), Err(Error::LogTrimmed { .. })));
    store.trim(version(1000)).unwrap();
    assert_eq!(segments(&disk).len(), 1);
}

#[test]
fn blobs_are_replaced_as_a_whole() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    assert_eq!(store.load("paxos").unwrap(), None);
    store.save("paxos", b"one").unwrap();
    store.save("paxos", b"").unwrap();
    assert_eq!(store.load("paxos").unwrap().unwrap(), b"");
    store.save("paxos", b"three").unwrap();
    drop(store);
    disk.crash();
    let mut store = open(&disk).unwrap();
    assert_eq!(store.load("paxos").unwrap().unwrap(), b"three");
    assert!(matches!(store.save("../paxos", b""), Err(Error::Misuse(_))));
    for offset in 0..disk.bytes("paxos.blob").unwrap().len() {
        let trial = disk.copy(1);
        trial.flip("paxos.blob", offset, 0x10);
        let loaded = open(&trial).unwrap().load("paxos");
        let refused = matches!(loaded, Err(Error::LogDamaged { .. } | Error::LogFormat { .. }));
        // The four bytes of padding between header and payload are covered as well.
        assert!(refused, "offset {offset}: {loaded:?}");
    }
    let bytes = disk.bytes("paxos.blob").unwrap();
    disk.put("other.blob", bytes);
    assert!(matches!(store.load("other"), Err(Error::LogDamaged { .. })), "it is another blob's");
}

#[test]
fn checkpoints_replace_each_other() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    assert!(store.load_snapshot().unwrap().is_none());
    for n in [5, 9] {
        let mut snapshot = store.snapshot(version(n), 77 + n).unwrap();
        for chunk in payload(n, 100_000).chunks(3000) {
            snapshot.write(chunk).unwrap();
        }
        store.install(snapshot).unwrap();
    }
    drop(store.snapshot(version(10), 1).unwrap());
    std::mem::forget(store.snapshot(version(11), 1).unwrap());
    drop(store);
    disk.crash();
    let store = open(&disk).unwrap();
    let mut snapshot = store.load_snapshot().unwrap().unwrap();
    assert_eq!((snapshot.version, snapshot.time_ns, snapshot.len), (version(9), 86, 100_000));
    let mut bytes = Vec::new();
    snapshot.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, payload(9, 100_000));
    let files: Vec<_> = disk.names().unwrap().into_iter().filter(|name| name.contains("snapshot")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    disk.flip(&files[0], 50_000, 1);
    assert!(matches!(store.load_snapshot(), Err(Error::LogDamaged { .. })));
}

#[test]
fn the_files_own_segment_size_wins() {
    let disk = written(40, 700);
    let store = open_sized(&disk, 64 << 10).unwrap();
    assert_eq!(store.segment_bytes(), SMALL);
    assert_eq!(numbers(&store).unwrap().len(), 40);
    assert!(matches!(open_sized(&disk, 5000), Err(Error::Config(_))));
}

#[test]
fn an_index_that_is_lost_or_damaged_is_built_anew() {
    let disk = written(60, 700);
    disk.take(&index_name(0));
    disk.flip(&index_name(1), 70, 1);
    disk.flip(&index_name(2), 20, 1);
    let reader = open(&disk).unwrap().reader();
    for n in 0..60 {
        assert_eq!(reader.get(version(n)).unwrap().unwrap().version(), version(n));
        assert_eq!(reader.at_time(1005 + 10 * n).unwrap().unwrap().version(), version(n));
    }
}

#[test]
fn segments_that_are_not_ours_are_refused() {
    let disk = written(60, 700);
    let others =
        [Identity { group: [8; 16], ..OURS }, Identity { subgroup: 4, ..OURS }, Identity { member: 12, ..OURS }];
    for (other, key) in others.into_iter().zip(["group", "subgroup", "member"]) {
        match Store::open(Arc::new(disk.clone()), other, SMALL).err().unwrap() {
            Error::LogForeign { key: told, .. } => assert_eq!(told, key),
            error => panic!("{error}"),
        }
    }
    let mut page = disk.bytes(&segment_name(1)).unwrap();
    page[8] = 2;
    disk.put(&segment_name(1), page);
    let refused = open(&disk).err().unwrap();
    assert!(matches!(refused, Error::LogFormat { found: 2, known: 1, .. }), "{refused}");
}
