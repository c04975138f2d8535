//! A changed byte in a member's files, which is found at the restart or later.

use super::common;
use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, log_of, send, wait};
use super::stop_together::StopTogether;
use galerna::{Config, Error, FabricKind, Group, MemberId};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes in front of a record's payload.
const HEAD_BYTES: usize = 64;
const SEGMENT_BYTES: u64 = 16 << 10;
/// A segment holds about eleven of these.
const MESSAGE_BYTES: usize = 1000;

fn small_segments(folder: &Folder, count: u32) -> Config {
    let mut config = config(folder, FabricKind::Tcp, count);
    config.max_message_bytes = Some(4096);
    let log = config.log.as_mut().unwrap();
    (log.segment_bytes, log.restart_wait_ms) = (SEGMENT_BYTES, 500);
    config
}

fn directory_of(config: &Config, id: u32) -> PathBuf {
    config.log.as_ref().unwrap().directory_of(&config.group, MemberId(id))
}

/// The files of a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// The text of message `n`, which the test can find among the bytes of a file.
fn text(n: usize) -> String {
    format!("<{n}> {}", ".".repeat(MESSAGE_BYTES))
}

/// Returns the segment that holds a message, and the offset of its record there.
fn place_of(directory: &Path, n: usize) -> (String, usize) {
    let start = text(n).into_bytes();
    let found =
        files(directory).into_iter().filter(|(name, _)| name.ends_with(".segment")).find_map(|(name, bytes)| {
            let at = bytes.windows(start.len()).position(|window| window == start)?;
            Some((name, at - HEAD_BYTES))
        });
    found.unwrap()
}

/// Sends until there are four segments, and enough records in the last one. Returns the number of messages.
fn fill(still: &StopTogether, directory: &Path) -> usize {
    for n in 0..10_000 {
        // Each message is in a batch of its own, so that later batches prove it complete.
        send(&still.members[0].0, &text(n));
        still.members[0].0.persist(MAIN, PATIENCE).unwrap();
        let segments = files(directory).into_keys().filter(|name| name.ends_with(".segment")).count();
        if segments >= 4 && place_of(directory, n - 5).0 == place_of(directory, n).0 {
            return n + 1;
        }
    }
    panic!("10,000 messages do not fill four segments")
}

/// Runs and ends members 1 to 3. Their logs then hold the same messages in several segments. Returns the number of
/// messages.
fn three_that_are_gone(config: &Config) -> usize {
    let still = StopTogether::join(config, &[1, 2, 3]);
    let count = fill(&still, &directory_of(config, 3));
    still.members.iter().for_each(|(group, _)| group.persist(MAIN, PATIENCE).unwrap());
    still.end();
    count
}

/// Flips a bit in the file itself, not in a copy, since a process may have mapped the file.
fn flip(path: &Path, at: usize) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
}

fn refusal(config: &Config, id: u32) -> Error {
    let joined = Group::join(config.clone().with_member(MemberId(id)), List::default());
    joined.err().unwrap_or_else(|| panic!("member {id} joined with a damaged log"))
}

fn has_all(list: &List, count: usize) -> bool {
    list.all().len() == count && (0..count).all(|n| list.all()[n] == text(n))
}

/// Members 1 and 2 are back with everything. The third joins after its directory was removed.
fn join_third_anew(config: &Config, two: &[(Group, List)], count: usize) {
    std::fs::remove_dir_all(directory_of(config, 3)).unwrap();
    let (group, list) = join_all(config, &[3]).pop().unwrap();
    wait("the vote", || group.view().members.len() == 3 && has_all(&list, count));
    send(&group, "after");
    group.persist(MAIN, PATIENCE).unwrap();
    wait("the same log", || log_of(&group) == log_of(&two[0].0));
}

#[test]
fn damage_is_told_at_the_start_and_nothing_is_changed() {
    let folder = Folder::new("damage-start");
    let config = small_segments(&folder, 3);
    let count = three_that_are_gone(&config);
    let directory = directory_of(&config, 3);
    let (segment, record) = place_of(&directory, count - 4);
    let mut places = vec![(segment.clone(), record + 30, record), (segment, record + HEAD_BYTES + 500, record)];
    // The first page of a segment, here of one with records that are not read at this time.
    places.push((place_of(&directory, 15).0, 50, 0));
    for blob in ["hard_state.blob", "places.blob"] {
        let len = files(&directory)[blob].len();
        places.extend([2, 10, 30, 64, len - 1].map(|at| (blob.to_owned(), at, 0)));
    }
    for (name, at, tells) in places {
        let path = directory.join(&name);
        flip(&path, at);
        let before = files(&directory);
        let refused = refusal(&config, 3);
        match &refused {
            Error::LogDamaged { file, offset, .. } => {
                assert_eq!((Path::new(file), *offset), (&*path, tells as u64), "{refused}");
            }
            // The format number is checked before the checksum.
            Error::LogFormat { file, .. } => assert_eq!((Path::new(file), at), (&*path, 10), "{refused}"),
            other => panic!("{name} at {at}: {other}"),
        }
        assert!(files(&directory) == before, "{refused}: the files are others now");
        flip(&path, at);
    }
    // Files that are too short, down to empty.
    for len in [100, 63, 0] {
        let path = directory.join("hard_state.blob");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..len]).unwrap();
        let refused = refusal(&config, 3);
        assert!(matches!(&refused, Error::LogDamaged { file, .. } if Path::new(file) == path), "{refused}");
        std::fs::write(&path, whole).unwrap();
    }
    let (segment, record) = place_of(&directory, count - 4);
    let segment = directory.join(segment);
    flip(&segment, record + HEAD_BYTES);
    assert!(matches!(refusal(&config, 3), Error::LogDamaged { .. }));
    let two = join_all(&config, &[1, 2]);
    assert!(two.iter().all(|(_, list)| has_all(list, count)));
    flip(&segment, record + HEAD_BYTES);
    for blob in ["hard_state.blob", "places.blob", "tail.blob", "clock.blob"] {
        // The group runs by now, and could give the member everything except its votes.
        let Some(bytes) = files(&directory).remove(blob) else { continue };
        let path = directory.join(blob);
        flip(&path, bytes.len() - 1);
        let refused = refusal(&config, 3);
        assert!(matches!(&refused, Error::LogDamaged { file, .. } if Path::new(file) == path), "{refused}");
        flip(&path, bytes.len() - 1);
    }
    join_third_anew(&config, &two, count);
}

/// The records of old segments are not read when the log is opened, but when they are delivered to the application.
#[test]
fn damage_in_an_old_segment_is_an_error_of_who_comes_back() {
    for (name, inside) in [("head", 30), ("payload", HEAD_BYTES + 500)] {
        let folder = Folder::new(&format!("damage-old-{name}"));
        let config = small_segments(&folder, 3);
        let count = three_that_are_gone(&config);
        let directory = directory_of(&config, 3);
        let (segment, record) = place_of(&directory, 15);
        assert_ne!(segment, place_of(&directory, count - 1).0);
        flip(&directory.join(&segment), record + inside);
        let damaged = std::fs::read(directory.join(&segment)).unwrap();

        let third = {
            let config = config.clone();
            std::thread::spawn(move || refusal(&config, 3))
        };
        let two = join_all(&config, &[1, 2]);
        // First the member restarts together with the others, then it joins them while they run.
        for refused in [third.join().unwrap(), refusal(&config, 3)] {
            let told = matches!(&refused, Error::LogDamaged { file, offset, .. } if Path::new(file) == directory.join(&segment) && *offset == record as u64);
            assert!(told, "{refused}");
        }
        assert!(std::fs::read(directory.join(&segment)).unwrap() == damaged);
        two.iter().for_each(|(_, list)| wait("delivery", || has_all(list, count)));
        wait("the removal", || two.iter().all(|(group, _)| group.view().members.len() == 2));
        join_third_anew(&config, &two, count);
    }
}

/// Each file except those that are rebuilt is removed once, on a disk that is otherwise complete.
#[test]
fn a_file_that_was_removed_is_told_at_the_start_and_nothing_is_changed() {
    let folder = Folder::new("damage-removed");
    let config = small_segments(&folder, 3);
    let count = three_that_are_gone(&config);
    let directory = directory_of(&config, 3);
    let all = files(&directory);
    let needed: Vec<&String> = all.keys().filter(|name| !name.ends_with(".index") && *name != "lock").collect();
    let segments = needed.iter().filter(|name| name.ends_with(".segment")).count();
    assert!(segments >= 4 && needed.len() >= segments + 3, "{needed:?}");
    for name in needed {
        std::fs::rename(directory.join(name), folder.0.join("aside")).unwrap();
        let before = files(&directory);
        for _ in 0..2 {
            let refused = refusal(&config, 3);
            let told = matches!(&refused, Error::LogDamaged { file, what, .. } if Path::new(file) == directory.join(name) && what.contains("missing"));
            assert!(told, "{name}: {refused}");
        }
        assert!(files(&directory) == before, "{name}: the files are others now");
        std::fs::rename(folder.0.join("aside"), directory.join(name)).unwrap();
    }
    for name in all.keys().filter(|name| name.ends_with(".index")) {
        std::fs::remove_file(directory.join(name)).unwrap();
    }
    let three = join_all(&config, &[1, 2, 3]);
    three.iter().for_each(|(_, list)| wait("delivery", || has_all(list, count)));
}

/// A newcomer that takes over the log does not fail at the damage of one source, but goes on with another source.
#[test]
fn a_newcomer_takes_from_another_what_one_has_damaged() {
    let folder = Folder::new("damage-source");
    let config = small_segments(&folder, 2);
    let still = StopTogether::join(&config, &[1, 2]);
    let directory = directory_of(&config, 2);
    let count = fill(&still, &directory);
    still.members.iter().for_each(|(_, list)| wait("delivery", || has_all(list, count)));
    let (segment, record) = place_of(&directory, 15);
    // The last voter is asked first.
    flip(&directory.join(&segment), record + HEAD_BYTES + 500);
    let read = still.members[1].0.read_log(MAIN).unwrap().iter(..).find_map(Result::err).unwrap();
    assert!(
        matches!(&read, Error::LogDamaged { file, offset, .. } if Path::new(file) == directory.join(&segment) && *offset == record as u64)
    );
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let (group, list) = join_all(&Config { address, ..config.clone() }, &[3]).pop().unwrap();
    assert!(has_all(&list, count));
    group.persist(MAIN, PATIENCE).unwrap();
    wait("the same log", || log_of(&group) == log_of(&still.members[0].0));
}
