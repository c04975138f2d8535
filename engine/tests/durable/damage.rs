//! A byte of a member's files that is another than was written, found when the group comes back or later.

use super::common;
use super::group::{List, MAIN, PATIENCE, config, join_all, log_of, send, wait};
use super::rounds::Folder;
use super::still::Still;
use galerna::{Config, Error, FabricKind, Group, MemberId};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What stands before a record's payload.
const HEAD_BYTES: usize = 64;
const SEGMENT_BYTES: u64 = 16 << 10;
/// About eleven of these fit a segment.
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

/// Message `n`, which is found again among the bytes of a file.
fn text(n: usize) -> String {
    format!("<{n}> {}", ".".repeat(MESSAGE_BYTES))
}

/// In which segment a message lies, and where its record begins there.
fn place_of(directory: &Path, n: usize) -> (String, usize) {
    let start = text(n).into_bytes();
    let found =
        files(directory).into_iter().filter(|(name, _)| name.ends_with(".segment")).find_map(|(name, bytes)| {
            let at = bytes.windows(start.len()).position(|window| window == start)?;
            Some((name, at - HEAD_BYTES))
        });
    found.unwrap()
}

/// Sends until there are four segments, and enough records in the last one; the number of messages.
fn fill(still: &Still, directory: &Path) -> usize {
    for n in 0..10_000 {
        // Each in a batch of its own: the later ones vouch for it.
        send(&still.members[0].0, &text(n));
        still.members[0].0.persist(MAIN, PATIENCE).unwrap();
        let segments = files(directory).into_keys().filter(|name| name.ends_with(".segment")).count();
        if segments >= 4 && place_of(directory, n - 5).0 == place_of(directory, n).0 {
            return n + 1;
        }
    }
    panic!("10,000 messages do not fill four segments")
}

/// Members 1 to 3, gone by now, whose logs hold the same messages, in several segments; the number of messages.
fn three_that_are_gone(config: &Config) -> usize {
    let still = Still::join(config, &[1, 2, 3]);
    let count = fill(&still, &directory_of(config, 3));
    still.members.iter().for_each(|(group, _)| group.persist(MAIN, PATIENCE).unwrap());
    still.end();
    count
}

/// In the very file, which somebody may have mapped.
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

/// Members 1 and 2 are back, with everything; then the third, whose directory was removed.
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
    // The first page of a segment, also of one whose records are not read now.
    places.push((place_of(&directory, 15).0, 50, 0));
    for blob in ["ledger.blob", "places.blob"] {
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
            // The number of the format is looked at before the checksum.
            Error::LogFormat { file, .. } => assert_eq!((Path::new(file), at), (&*path, 10), "{refused}"),
            other => panic!("{name} at {at}: {other}"),
        }
        assert!(files(&directory) == before, "{refused}: the files are others now");
        flip(&path, at);
    }
    // Too short, in turn down to nothing.
    for len in [100, 63, 0] {
        let path = directory.join("ledger.blob");
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
    for blob in ["ledger.blob", "places.blob", "tail.blob", "clock.blob"] {
        // The group runs by now, and the member would be given all of it but what it voted.
        let Some(bytes) = files(&directory).remove(blob) else { continue };
        let path = directory.join(blob);
        flip(&path, bytes.len() - 1);
        let refused = refusal(&config, 3);
        assert!(matches!(&refused, Error::LogDamaged { file, .. } if Path::new(file) == path), "{refused}");
        flip(&path, bytes.len() - 1);
    }
    join_third_anew(&config, &two, count);
}

/// The records of old segments are not read at the opening, but when the application is told them.
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
        // First when all come back, then when it joins the others, who run.
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

/// Any file but those that are built anew, of a member whose disk is otherwise whole.
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

/// Who takes over the log does not end where one source is damaged, but goes on with another.
#[test]
fn a_newcomer_takes_from_another_what_one_has_damaged() {
    let folder = Folder::new("damage-source");
    let config = small_segments(&folder, 2);
    let still = Still::join(&config, &[1, 2]);
    let directory = directory_of(&config, 2);
    let count = fill(&still, &directory);
    still.members.iter().for_each(|(_, list)| wait("delivery", || has_all(list, count)));
    let (segment, record) = place_of(&directory, 15);
    // The first that is asked is the last voter.
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
