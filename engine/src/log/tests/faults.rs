//! Failing operations, and the errors that they return.

use super::*;
use crate::log::failure;
use crate::log::segment::segment_name;

/// The file and the offset that the error names.
fn damage(result: Result<impl Sized, Error>) -> (String, u64) {
    match result.err().expect("it is damaged") {
        Error::LogDamaged { file, offset, what } => {
            assert!(!what.is_empty());
            (file, offset)
        }
        error => panic!("{error}"),
    }
}

/// The offset of record `n` in its segment's file, for a store with records of `len` bytes.
fn offset(n: u64, len: u64) -> u64 {
    let bytes = (64 + len).next_multiple_of(8);
    4096 + n % ((SMALL - 4096) / bytes) * bytes
}

#[test]
fn a_full_disk_loses_nothing_and_the_log_goes_on() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    append(&mut store, 0..10, 1000).unwrap();
    disk.set_capacity(Some(SMALL + 1000));
    for _ in 0..3 {
        let full = append(&mut store, 10..14, 1000);
        assert!(
            matches!(&full, Err(Error::LogFull { file, bytes: SMALL, .. }) if file.contains("01.segment")),
            "{full:?}"
        );
        assert!(matches!(store.save("blob", &[1; 2000]), Err(Error::LogFull { .. })));
        store.sync().unwrap();
        assert_eq!(numbers(&store).unwrap().len(), 10);
    }
    // A record that fits is accepted.
    append(&mut store, 10..11, 1000).unwrap();
    disk.set_capacity(None);
    append(&mut store, 11..40, 1000).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.crash();
    assert_eq!(numbers(&open(&disk).unwrap()).unwrap(), (0..40).collect::<Vec<_>>());
}

#[test]
fn without_a_descriptor_nothing_is_lost_and_the_log_goes_on() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).unwrap();
    append(&mut store, 0..25, 1000).unwrap();
    store.sync().unwrap();
    let shortage = |result: Result<(), Error>| match result {
        Err(Error::LogFull { shortage, .. }) => assert!(shortage.contains("file descriptor"), "{shortage}"),
        other => panic!("{other:?}"),
    };
    for _ in 0..3 {
        disk.set_lacks_descriptors(true);
        shortage(append(&mut store, 25..40, 1000));
        shortage(store.save("blob", &[1; 2000]));
        // Cut in a sealed segment, and in the last one, which cannot be read either.
        for from in [5, 24] {
            let refused = store.cut(version(from)).unwrap_err();
            assert!(failure::is_shortage(&refused), "{refused}");
        }
        shortage(store.trim(version(15)));
        store.sync().unwrap();
        disk.set_lacks_descriptors(false);
        assert_eq!(numbers(&store).unwrap().len(), 25);
    }
    store.save("blob", b"kept").unwrap();
    append(&mut store, 25..40, 1000).unwrap();
    store.sync().unwrap();
    store.cut(version(30)).unwrap();
    store.trim(version(15)).unwrap();
    drop(store);
    disk.crash();
    let store = open(&disk).unwrap();
    assert_eq!(numbers(&store).unwrap().last(), Some(&29));
    assert_eq!(store.load("blob").unwrap().unwrap(), b"kept");
}

/// Everything that a cut needs is allocated before anything is changed.
#[test]
fn a_checkpoint_with_a_failed_write_is_never_installed() {
    let disk = SimDisk::new(5);
    let mut store = Store::open(Arc::new(disk.clone()), OURS, SMALL).unwrap();
    let mut good = store.snapshot(version(1), 7).unwrap();
    good.write(b"good").unwrap();
    store.install(good).unwrap();
    let mut torn = store.snapshot(version(2), 8).unwrap();
    torn.write(b"begins").unwrap();
    disk.set_capacity(Some(0));
    assert!(matches!(torn.write(&[1; 5000]), Err(Error::LogFull { .. })));
    disk.set_capacity(None);
    // There is space again, but a part is missing.
    assert!(matches!(torn.write(b"goes on"), Err(Error::LogFull { .. })));
    assert!(matches!(store.install(torn), Err(Error::LogFull { .. })));
    let mut kept = store.load_snapshot().unwrap().unwrap();
    let mut state = Vec::new();
    std::io::Read::read_to_end(&mut kept, &mut state).unwrap();
    assert_eq!((kept.version, &state[..]), (version(1), &b"good"[..]));
}

#[test]
fn a_cut_on_a_full_disk_is_refused_and_changes_nothing() {
    for from in [5, 24] {
        let disk = written(25, 1000);
        let mut store = open(&disk).unwrap();
        disk.set_capacity(Some(1));
        for _ in 0..3 {
            assert!(matches!(store.cut(version(from)), Err(Error::LogFull { .. })));
        }
        assert_eq!(numbers(&store).unwrap().len(), 25);
        disk.set_capacity(None);
        store.cut(version(from)).unwrap();
        append(&mut store, 25..26, 1000).unwrap();
        store.sync().unwrap();
        drop(store);
        disk.crash();
        assert_eq!(numbers(&open(&disk).unwrap()).unwrap().len() as u64, from + 1);
    }
}

#[test]
fn there_must_be_space_for_a_new_log() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(SMALL - 1));
    assert!(matches!(open(&disk), Err(Error::LogFull { .. })));
    disk.set_capacity(None);
    open(&disk).unwrap();
}

#[test]
fn a_failed_write_or_sync_is_final() {
    let fails: [fn(&SimDisk); 2] = [|disk| disk.fail_sync_after(0), |disk| disk.fail_writes(1)];
    for (fail, word) in fails.into_iter().zip(["syncing", "writing"]) {
        let disk = written(5, 100);
        let mut store = open(&disk).unwrap();
        fail(&disk);
        let first = append(&mut store, 5..6, 100).and_then(|()| store.sync()).unwrap_err().to_string();
        assert!(first.contains(word) && first.contains(&segment_name(0)), "{first}");
        let (from, mut all) = (version(3), Vec::new());
        all.push(append(&mut store, 5..6, 100));
        all.push(store.sync());
        all.push(store.cut(from));
        all.push(store.trim(from));
        all.push(store.save("blob", b""));
        for again in all {
            assert_eq!(again.unwrap_err().to_string(), first);
        }
        // The durable records can still be read.
        assert_eq!(numbers(&store).unwrap().len(), 5);
        drop(store);
        disk.crash();
        assert!(numbers(&open(&disk).unwrap()).unwrap().len() >= 5);
    }
}

#[test]
fn a_torn_tail_ends_the_log_and_stays_away() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut store = open(&disk).unwrap();
        append(&mut store, 0..4, 300).unwrap();
        store.sync().unwrap();
        append(&mut store, 4..12, 700).unwrap();
        drop(store);
        disk.crash();
        let mut store = open(&disk).unwrap();
        let n = numbers(&store).unwrap().len() as u64;
        assert!((4..=12).contains(&n));
        let end = (4096 + 4 * 368 + (n - 4) * 768) as usize;
        assert!(disk.bytes(&segment_name(0)).unwrap()[end..].iter().all(|&byte| byte == 0));
        // Appends the same records again, with other bytes.
        append(&mut store, n..n + 1, 30).unwrap();
        store.sync().unwrap();
        drop(store);
        disk.crash();
        assert_eq!(numbers(&open(&disk).unwrap()).unwrap().len() as u64, n + 1);
    }
}

/// A record that was once at this place, but followed different records than those before it now.
#[test]
fn a_record_of_another_history_is_none() {
    let (disk, other) = (written(5, 300), written(5, 300));
    for (disk, time_ns) in [(&disk, 2000), (&other, 2001)] {
        let mut store = open(disk).unwrap();
        store.append(&[Record { time_ns, ..record(5, &[1; 300]) }]).unwrap();
        store.sync().unwrap();
    }
    let mut store = open(&other).unwrap();
    store.append(&[Record { time_ns: 3000, ..record(6, &[2; 300]) }]).unwrap();
    store.sync().unwrap();
    drop(store);
    let mut bytes = disk.bytes(&segment_name(0)).unwrap();
    let stale = offset(6, 300) as usize..offset(7, 300) as usize;
    bytes[stale.clone()].copy_from_slice(&other.bytes(&segment_name(0)).unwrap()[stale.clone()]);
    // Only its predecessor is wrong. The sync position that it reports is below the end here.
    disk.put(&segment_name(0), bytes.clone());
    assert_eq!(open(&other).unwrap().reader().end(), Some(version(6)));
    assert_eq!(open(&disk).unwrap().reader().end(), Some(version(5)));
}

#[test]
fn a_damaged_record_below_a_synced_one_is_an_error() {
    let disk = written(8, 300);
    for n in 0..7 {
        for inside in [0, 5, 30, 63, 64, 200, 363] {
            let trial = disk.copy(1);
            trial.flip(&segment_name(0), (offset(n, 300) + inside) as usize, 4);
            assert_eq!(damage(open(&trial)), (segment_name(0), offset(n, 300)));
        }
    }
    // No record proves that the last one was ever synced.
    disk.flip(&segment_name(0), offset(7, 300) as usize + 70, 4);
    assert_eq!(numbers(&open(&disk).unwrap()).unwrap().len(), 7);
}

#[test]
fn a_damaged_record_of_a_full_segment_is_an_error_when_it_is_read() {
    let disk = written(60, 700);
    let at = offset(5, 700);
    disk.flip(&segment_name(0), at as usize + 100, 1);
    let store = open(&disk).unwrap();
    assert_eq!(damage(numbers(&store)), (segment_name(0), at));
    assert_eq!(damage(store.reader().get(version(5))), (segment_name(0), at));
    let last = store.reader().iter(..).last().unwrap();
    assert_eq!(damage(last), (segment_name(0), at), "nothing follows an error");
    let after = store.reader().iter(version(6)..).map(|entry| entry.unwrap().version().sequence);
    assert_eq!(after.collect::<Vec<_>>(), (6..60).collect::<Vec<_>>());
}

#[test]
fn a_segment_that_is_missing_or_short_is_an_error() {
    let disk = written(60, 700);
    let last = segments(&disk).len() as u64 - 1;
    assert!(last >= 3);
    for number in 0..=last {
        let trial = disk.copy(1);
        trial.take(&segment_name(number));
        assert_eq!(damage(open(&trial)), (segment_name(number), 0));
        if number == last {
            break;
        }
        for len in [0, 100, 4096, 12_000] {
            let trial = disk.copy(1);
            let mut bytes = disk.bytes(&segment_name(number)).unwrap();
            bytes.truncate(len);
            trial.put(&segment_name(number), bytes);
            assert_eq!(damage(open(&trial)), (segment_name(number), len as u64));
        }
    }
    for name in segments(&disk) {
        disk.take(&name);
    }
    assert_eq!(damage(open(&disk)), (segment_name(last), 0), "the other files are there");
    disk.take("marks");
    assert_eq!(damage(open(&disk)), ("marks".to_owned(), 0), "the index files are there");
}

#[test]
fn the_last_segment_may_be_short() {
    let disk = written(5, 300);
    let mut bytes = disk.bytes(&segment_name(0)).unwrap();
    bytes.truncate(offset(5, 300) as usize + 40);
    disk.put(&segment_name(0), bytes);
    let mut store = open(&disk).unwrap();
    append(&mut store, 5..40, 300).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.crash();
    assert_eq!(disk.bytes(&segment_name(0)).unwrap().len() as u64, SMALL);
    assert_eq!(numbers(&open(&disk).unwrap()).unwrap().len(), 40);
}

#[test]
fn segments_of_the_same_log_at_another_place_are_refused() {
    let disk = written(60, 700);
    let second = disk.bytes(&segment_name(2)).unwrap();
    disk.put(&segment_name(1), second);
    assert_eq!(damage(open(&disk)), (segment_name(1), 0));
}

#[test]
fn other_files_are_left_alone_and_unfinished_ones_removed() {
    let disk = written(60, 700);
    let strays = ["notes.txt", "lock", "1.segment", "0000000000000009.segment.old", "x.tmp", "UPPER.blob"];
    for name in strays {
        disk.put(name, vec![1, 2, 3]);
    }
    let unfinished = ["0000000000000009.segment.tmp", "paxos.blob.tmp", "marks.tmp"];
    for name in unfinished {
        disk.put(name, vec![1, 2, 3]);
    }
    assert_eq!(numbers(&open(&disk).unwrap()).unwrap().len(), 60);
    let names = disk.names().unwrap();
    assert!(strays.iter().all(|stray| names.iter().any(|name| name == stray)), "{names:?}");
    assert!(!unfinished.iter().any(|gone| names.iter().any(|name| name == gone)), "{names:?}");
}

#[test]
fn a_trimmed_log_does_not_forget_it() {
    let disk = written(60, 700);
    let mut store = open(&disk).unwrap();
    store.trim(version(40)).unwrap();
    let oldest = store.reader().oldest().unwrap();
    append(&mut store, 60..90, 700).unwrap();
    store.sync().unwrap();
    drop(store);
    assert_eq!(open(&disk).unwrap().reader().oldest().unwrap(), oldest);
    let first = segments(&disk)[0].clone();
    disk.take(&first);
    assert_eq!(damage(open(&disk)), (first, 0));
}

/// A trim with a mark that exists but may not be durable. Then the power is cut while the log is opened.
#[test]
fn nothing_is_removed_on_the_strength_of_a_name_that_is_not_durable() {
    for seed in 0..300 {
        let disk = written(40, 700).copy(seed);
        let mut store = open(&disk).unwrap();
        disk.fail_sync_after(1);
        store.trim(version(30)).unwrap_err();
        drop(store);
        disk.restart();
        disk.power_off_after(seed % 12);
        let _ = open(&disk);
        disk.crash();
        assert_eq!(numbers(&open(&disk).unwrap()).unwrap().last(), Some(&39));
    }
}

/// A payload may contain bytes that look like a record. They prove nothing.
#[test]
fn records_in_payloads_are_no_records() {
    let disk = written(20, 300);
    let inner = disk.bytes(&segment_name(0)).unwrap();
    let outer = SimDisk::new(5);
    let mut store = open(&outer).unwrap();
    append(&mut store, 0..1, 10).unwrap();
    store.sync().unwrap();
    let large = Record { payload: &inner[4096..4096 + 7000], ..record(1, &[]) };
    store.append(&[large]).unwrap();
    store.sync().unwrap();
    drop(store);
    outer.flip(&segment_name(0), offset(0, 10) as usize + 80 + 20, 1);
    assert_eq!(numbers(&open(&outer).unwrap()).unwrap(), [0]);
}

/// A log with several segments that was cut and trimmed, with blobs and a checkpoint.
fn with_all_files() -> SimDisk {
    let disk = written(60, 700);
    let mut store = open(&disk).unwrap();
    for name in ["hard_state", "tail", "places"] {
        store.save(name, name.as_bytes()).unwrap();
    }
    store.trim(version(20)).unwrap();
    store.cut(version(50)).unwrap();
    append(&mut store, 60..80, 700).unwrap();
    store.sync().unwrap();
    let mut snapshot = store.snapshot(version(40), 77).unwrap();
    snapshot.write(b"the state").unwrap();
    store.install(snapshot).unwrap();
    disk
}

/// Every file except the index files, which are rebuilt.
#[test]
fn any_file_that_is_removed_is_missed() {
    let disk = with_all_files();
    let names = disk.names().unwrap();
    assert!(names.iter().any(|name| name.ends_with(".index")));
    for name in names.iter().filter(|name| !name.ends_with(".index")) {
        let trial = disk.copy(1);
        trial.take(name);
        assert_eq!(damage(open(&trial)), (name.clone(), 0));
        // The next attempt fails in the same way: no new file was created in its place.
        assert_eq!(damage(open(&trial)), (name.clone(), 0));
    }
    // Removes the newest two segments together, then the marks, which note that they existed.
    let last = segments(&disk);
    let trial = disk.copy(1);
    last.iter().rev().take(2).for_each(|name| trial.take(name));
    assert_eq!(damage(open(&trial)), (last[last.len() - 1].clone(), 0));
    trial.take("marks");
    assert_eq!(damage(open(&trial)), ("marks".to_owned(), 0));
    for name in names.iter().filter(|name| name.ends_with(".index")) {
        disk.take(name);
    }
    let found = numbers(&open(&disk).unwrap()).unwrap();
    assert_eq!(found, (found[0]..50).chain(60..80).collect::<Vec<_>>());
    assert!(found[0] > 0 && found[0] <= 20);
}

/// An empty log of one segment without marks may come from a crash during its creation.
///
/// With a record in it, the missing marks are damage.
#[test]
fn marks_are_missed_once_there_is_a_record() {
    let disk = SimDisk::new(1);
    drop(open(&disk).unwrap());
    disk.take("marks");
    let mut store = open(&disk).unwrap();
    append(&mut store, 0..1, 10).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.take("marks");
    assert_eq!(damage(open(&disk)), ("marks".to_owned(), 0));
}

/// Segments that are full to the last byte, with a cut between two of them.
#[test]
fn a_cut_between_two_full_segments_survives_a_crash() {
    // Eight records fill a segment.
    let len = (SMALL as usize - 4096) / 8 - 64;
    for step in 0..60 {
        let disk = written(30, len).copy(step);
        let mut store = open(&disk).unwrap();
        disk.power_off_after(step);
        let cut = store.cut(version(16));
        drop(store);
        disk.crash();
        let found = numbers(&open(&disk).unwrap()).unwrap();
        assert!(found.len() == 16 || found.len() == 30 && cut.is_err(), "step {step}: {}", found.len());
    }
}
