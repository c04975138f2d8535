//! Files with corrupted content.
//!
//! Reading them returns an error or a true part of the appended records, and never panics.

use super::*;
use crate::log::codec;
use crate::simulation::rng::Rng;
use proptest::prelude::*;

/// One change to the files.
#[derive(Debug, Clone)]
enum Change {
    Flip {
        file: usize,
        at: usize,
        mask: u8,
    },
    Zero {
        file: usize,
        at: usize,
        len: usize,
    },
    Noise {
        file: usize,
        at: usize,
        len: usize,
        seed: u64,
    },
    Truncate {
        file: usize,
        len: usize,
    },
    Extend {
        file: usize,
        len: usize,
    },
    /// Copies bytes within a file, or from the other log.
    Move {
        file: usize,
        from: usize,
        to: usize,
        len: usize,
        other: bool,
    },
    /// Replaces a file by another one.
    Swap {
        file: usize,
        with: usize,
        other: bool,
    },
    Remove {
        file: usize,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let (file, at, len) = (0..64_usize, 0..SMALL as usize, 1..3000_usize);
    let aligned = (0..SMALL as usize / 8).prop_map(|n| n * 8);
    prop_oneof![
        4 => (file.clone(), at.clone(), 1..=255_u8).prop_map(|(file, at, mask)| Change::Flip { file, at, mask }),
        2 => (file.clone(), at.clone(), len.clone()).prop_map(|(file, at, len)| Change::Zero { file, at, len }),
        2 => (file.clone(), at.clone(), len.clone(), any::<u64>())
            .prop_map(|(file, at, len, seed)| Change::Noise { file, at, len, seed }),
        1 => (file.clone(), at.clone()).prop_map(|(file, len)| Change::Truncate { file, len }),
        1 => (file.clone(), len.clone()).prop_map(|(file, len)| Change::Extend { file, len }),
        2 => (file.clone(), aligned.clone(), aligned, len, any::<bool>())
            .prop_map(|(file, from, to, len, other)| Change::Move { file, from, to, len, other }),
        1 => (file.clone(), file.clone(), any::<bool>()).prop_map(|(file, with, other)| Change::Swap { file, with, other }),
        1 => file.prop_map(|file| Change::Remove { file }),
    ]
}

fn make(disk: &SimDisk, other: &SimDisk, change: &Change) {
    let names = disk.names().unwrap();
    let name = |n: usize| names[n % names.len()].clone();
    let edit = |file: usize, run: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = disk.bytes(&name(file)).unwrap_or_default();
        run(&mut bytes);
        disk.put(&name(file), bytes);
    };
    match *change {
        Change::Flip { file, at, mask } => edit(file, &|bytes| {
            let len = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at % len) {
                *byte ^= mask;
            }
        }),
        Change::Zero { file, at, len } => edit(file, &|bytes| bytes.iter_mut().skip(at).take(len).for_each(|b| *b = 0)),
        Change::Noise { file, at, len, seed } => edit(file, &|bytes| {
            let mut rng = Rng::new(seed);
            bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte = rng.next() as u8);
        }),
        Change::Truncate { file, len } => edit(file, &|bytes| bytes.truncate(len)),
        Change::Extend { file, len } => edit(file, &|bytes| bytes.resize(bytes.len() + len, 0xa5)),
        Change::Move { file, from, to, len, other: of_other } => {
            let source = if of_other { other.bytes(&name(file)) } else { disk.bytes(&name(file)) };
            let source: Vec<u8> = source.unwrap_or_default().into_iter().skip(from).take(len).collect();
            edit(file, &|bytes| bytes.iter_mut().skip(to).zip(&source).for_each(|(byte, new)| *byte = *new));
        }
        Change::Swap { file, with, other: of_other } => {
            let source = if of_other { other } else { disk };
            if let Some(bytes) = source.bytes(&name(with)) {
                disk.put(&name(file), bytes);
            }
        }
        Change::Remove { file } => disk.take(&name(file)),
    }
}

const RECORDS: u64 = 60;

/// A log with all kinds of files, and another history of the same log that shares its first records.
fn logs() -> (SimDisk, SimDisk) {
    let disk = written(20, 500);
    let other = disk.copy(2);
    for (disk, len) in [(&disk, 500), (&other, 420)] {
        let mut store = open(disk).unwrap();
        for n in 20..RECORDS {
            append(&mut store, n..n + 1, len).unwrap();
            store.sync().unwrap();
        }
        store.save("state", b"the state of the application").unwrap();
    }
    (disk, other)
}

/// Reads everything, and checks that every returned record is true.
fn read_all(disk: &SimDisk) {
    let Ok(store) = open(disk) else { return };
    let reader = store.reader();
    let mut next = None;
    for entry in reader.iter(..) {
        let Ok(entry) = entry else { break };
        let n = entry.version().sequence;
        let same = entry.record() == record(n, &payload(n, 500)) || entry.record() == record(n, &payload(n, 420));
        assert!(same, "record {n} is none that was appended");
        assert!(next.is_none_or(|next| next == n), "{n} after {next:?}");
        next = Some(n + 1);
    }
    for n in (0..RECORDS).step_by(7) {
        if let Ok(Some(entry)) = reader.get(version(n)) {
            assert_eq!(entry.version(), version(n));
        }
        let _ = reader.at_time(1005 + 10 * n);
        let _ = reader.first_at_or_after(version(n));
    }
    if let Ok(Some(state)) = store.load("state") {
        assert_eq!(state, b"the state of the application");
    }
    drop(store);
    // Opening has repaired the log, so it opens again.
    let again = open(disk);
    assert!(again.is_ok(), "{:?}", again.err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_files_give_true_records_or_errors(changes in prop::collection::vec(change(), 1..4)) {
        let (disk, other) = logs();
        for change in &changes {
            make(&disk, &other, change);
        }
        read_all(&disk);
    }

    #[test]
    fn one_change_costs_no_record_before_it(change in change()) {
        // A segment of another history contradicts the one before it, so the error is reported there.
        prop_assume!(!matches!(change, Change::Swap { .. }));
        let (disk, other) = logs();
        let before: Vec<_> = disk.names().unwrap().iter().map(|name| (name.clone(), disk.bytes(name))).collect();
        make(&disk, &other, &change);
        let changed = before.iter().find(|(name, bytes)| disk.bytes(name) != *bytes);
        let Some((name, _)) = changed.filter(|(name, _)| name.ends_with(".segment")) else { return Ok(()) };
        let Ok(store) = open(&disk) else { return Ok(()) };
        // All records of the segments before the changed one must exist.
        let number = u64::from_str_radix(name.trim_end_matches(".segment"), 16).unwrap();
        let each = (SMALL - 4096) / 568;
        let there = store.reader().iter(..).take_while(|entry| entry.is_ok()).count() as u64;
        prop_assert!(there >= number * each, "{there} of {}", number * each);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), position: u64, seed: u32) {
        prop_assert!(codec::decode(&bytes, position, seed).is_none());
    }
}
