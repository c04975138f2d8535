//! A member's log that goes further than the group's: its disk has records that no other member has.

use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, log_of, send, wait};
use super::stop_together::StopTogether;
use galerna::Version;
use galerna::log::{Kind, Log, LogOptions, Record};
use galerna::{Config, FabricKind, Group, MemberId, Mode};

const MESSAGES: usize = 30;
/// More than a segment holds, so that a cut removes whole segments.
const EXTRA: u64 = 40;
const EXTRA_BYTES: usize = 4000;
/// As if that member's clock were ahead: the others decide and go on at earlier times than these.
const AHEAD_NS: u64 = 600_000_000_000;

fn small_segments(folder: &Folder) -> Config {
    let mut config = config(folder, FabricKind::Tcp, 3);
    let log = config.log.as_mut().unwrap();
    (log.segment_bytes, log.restart_wait_ms) = (64 << 10, 500);
    config
}

/// Runs and ends three members. Their logs hold the same messages and end with the same view. Returns the messages.
fn three_that_are_gone(config: &Config) -> Vec<String> {
    let still = StopTogether::join(config, &[1, 2, 3]);
    for i in 0..MESSAGES {
        send(&still.members[i % 3].0, &format!("common {i}"));
    }
    still.members.iter().for_each(|(group, _)| group.persist(MAIN, PATIENCE).unwrap());
    still.members.iter().for_each(|(_, list)| wait("delivery", || list.all().len() == MESSAGES));
    let all = still.members[0].1.all();
    still.end();
    all
}

/// Appends records of its last view to member 3's log, while no process has it open.
fn lengthen(config: &Config) -> Vec<Version> {
    let directory = config.log.as_ref().unwrap().directory.join(format!("{}-3", config.group));
    let identity = Log::identity_of(&directory).unwrap().unwrap();
    let log = Log::open(&directory, LogOptions { identity, ..LogOptions::default() }).unwrap();
    let last = log.get(log.durable().unwrap()).unwrap().unwrap();
    let Version { view, sequence } = last.version();
    let (sender, mode, kind) = (MemberId(1), Mode::Durable, Kind::Message);
    let append = |n| {
        let version = Version { view, sequence: sequence + n };
        let text = format!("extra {n} {}", ".".repeat(EXTRA_BYTES));
        let record =
            Record { version, time_ns: last.time_ns() + AHEAD_NS + n, sender, mode, kind, payload: text.as_bytes() };
        log.append_record(record, PATIENCE).unwrap()
    };
    let versions = (1..=EXTRA).map(append).collect();
    log.close().unwrap();
    versions
}

/// Waits until all members have delivered `expected` and have the same records on disk.
fn wait_for(expected: &[String], members: &[(Group, List)]) {
    members.iter().for_each(|(group, _)| group.persist(MAIN, PATIENCE).unwrap());
    for (group, list) in members {
        wait("the same history", || list.all() == expected);
        wait("the same log", || log_of(group) == log_of(&members[0].0));
    }
}

fn nothing_extra(members: &[(Group, List)], extra: &[Version]) {
    for (group, list) in members {
        assert!(!list.all().iter().any(|text| text.starts_with("extra")));
        let found = log_of(group)
            .into_iter()
            .find(|(version, _, bytes)| extra.contains(version) && bytes.starts_with(b"extra"));
        assert_eq!(found, None);
    }
}

/// Members 1 and 2 come back without the third, and decide without its extra records. `late` then starts the third. It
/// returns all three members, and the first two if they must be kept running.
fn cut_of_what_was_decided_without_it(
    name: &str,
    late: impl FnOnce(&Config, StopTogether) -> (Option<StopTogether>, Vec<(Group, List)>),
) {
    let folder = Folder::new(name);
    let config = small_segments(&folder);
    let mut expected = three_that_are_gone(&config);
    let extra = lengthen(&config);
    let two = StopTogether::join(&config, &[1, 2]);
    for (group, list) in &two.members {
        assert_eq!((group.view().members.len(), list.all()), (2, expected.clone()));
    }
    for i in 0..MESSAGES {
        send(&two.members[0].0, &format!("later {i}"));
        expected.push(format!("later {i}"));
    }
    two.members.iter().for_each(|(group, _)| group.persist(MAIN, PATIENCE).unwrap());
    let (two, members) = late(&config, two);
    wait("all three", || members.iter().all(|(group, _)| group.view().members.len() == 3));
    send(&members[2].0, "after");
    expected.push("after".to_owned());
    wait_for(&expected, &members);
    nothing_extra(&members, &extra);
    drop((members, two));
    // The extra records do not come back in the next life either.
    let members = join_all(&config, &[1, 2, 3]);
    wait_for(&expected, &members);
    nothing_extra(&members, &extra);
}

#[test]
fn what_was_decided_without_it_cuts_it_when_it_joins() {
    cut_of_what_was_decided_without_it("longer-joins", |config, two| {
        let mut members = join_all(config, &[3]);
        members.splice(0..0, two.members.iter().cloned());
        (Some(two), members)
    });
}

#[test]
fn what_was_decided_without_it_cuts_it_when_all_come_back() {
    cut_of_what_was_decided_without_it("longer-back", |config, two| {
        two.end();
        (None, join_all(config, &[1, 2, 3]))
    });
}

/// The members that come back cannot rule out that the extra records were durable.
#[test]
fn the_longest_log_wins_when_all_come_back() {
    let folder = Folder::new("longer-wins");
    let config = small_segments(&folder);
    let common = three_that_are_gone(&config);
    let extra = lengthen(&config);
    for _ in 0..2 {
        let members = join_all(&config, &[1, 2, 3]);
        wait("the extra ones", || members[0].1.all().len() == MESSAGES + EXTRA as usize);
        let all = members[0].1.all();
        wait_for(&all, &members);
        assert_eq!(all[..MESSAGES], common);
        assert!(all[MESSAGES..].iter().all(|text| text.starts_with("extra")));
        let log = log_of(&members[0].0);
        assert!(extra.iter().all(|version| log.iter().any(|(there, ..)| there == version)));
    }
}

/// The others have trimmed the records before their checkpoint, so the third member's log is useless.
#[test]
fn a_checkpoint_of_the_others_takes_its_place() {
    let folder = Folder::new("longer-checkpoint");
    let config = small_segments(&folder);
    let mut expected = three_that_are_gone(&config);
    let extra = lengthen(&config);
    let two = join_all(&config, &[1, 2]);
    for i in 0..MESSAGES {
        expected.push(format!("later {i} {}", ".".repeat(EXTRA_BYTES)));
        send(&two[0].0, &expected[expected.len() - 1]);
    }
    two[0].0.persist(MAIN, PATIENCE).unwrap();
    two.iter().for_each(|(_, list)| wait("delivery", || list.all() == expected));
    for (group, _) in &two {
        let version = group.checkpoint(MAIN, PATIENCE).unwrap();
        group.trim_log(MAIN, version).unwrap();
    }
    let oldest = two[1].0.read_log(MAIN).unwrap().oldest().unwrap().unwrap();
    assert!(oldest > extra[0], "nothing was trimmed");
    let members: Vec<_> = two.into_iter().chain(join_all(&config, &[3])).collect();
    wait("all three", || members.iter().all(|(group, _)| group.view().members.len() == 3));
    expected.push("after".to_owned());
    send(&members[2].0, "after");
    members.iter().for_each(|(group, _)| group.persist(MAIN, PATIENCE).unwrap());
    // The third member's log begins behind the checkpoint.
    let from = members[2].0.read_log(MAIN).unwrap().oldest().unwrap().unwrap();
    let log = |n: usize| log_of(&members[n].0).into_iter().filter(|(version, ..)| *version >= from).collect::<Vec<_>>();
    for (n, (_, list)) in members.iter().enumerate() {
        wait("the same history", || list.all() == expected);
        wait("the same log", || log(n) == log(2));
    }
    nothing_extra(&members, &extra);
    drop(members);
    let members = join_all(&config, &[1, 2, 3]);
    members.iter().for_each(|(_, list)| wait("the same history", || list.all() == expected));
    nothing_extra(&members, &extra);
}
