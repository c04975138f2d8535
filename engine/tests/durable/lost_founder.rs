//! Three founders: one lost its disk, one has a log with only the first view, and one has the durable messages.

use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, wait};
use super::stop_together::StopTogether;
use galerna::Version;
use galerna::log::{Log, LogOptions};
use galerna::{FabricKind, Group, MemberId, Mode};

/// Runs a group with `durable_members` = `k`, damages the logs of members 1 and 3, and restarts `ids`. Returns the
/// deliveries of each of these, or its error.
fn come_back(name: &str, k: usize, mode: Mode, ids: &[u32]) -> Vec<Result<Vec<String>, String>> {
    let folder = Folder::new(name);
    let mut config = config(&folder, FabricKind::Tcp, 3);
    config.log.as_mut().unwrap().durable_members = k;
    config.join_timeout_ms = 12_000;
    let still = StopTogether::join(&config, &[1, 2, 3]);
    still.members[1].0.send(MAIN, mode, b"kept", PATIENCE).unwrap();
    wait("delivery", || still.members.iter().all(|(_, list)| list.all() == ["kept"]));
    assert!(still.members.iter().all(|(group, _)| group.view().number == 0));
    wait("the disk", || still.members[1].0.frontiers(MAIN).unwrap().persisted > 1);
    still.end();
    // The disk of the first member was behind, since no message waited for it.
    let directory = folder.0.join("logs/list-1");
    let identity = Log::identity_of(&directory).unwrap().unwrap();
    let log = Log::open(&directory, LogOptions { identity, ..LogOptions::default() }).unwrap();
    log.cut(Version { view: 0, sequence: 1 }, PATIENCE).unwrap();
    log.close().unwrap();
    // The third member has a new, empty disk.
    std::fs::remove_dir_all(folder.0.join("logs/list-3")).unwrap();
    let joins: Vec<_> = ids
        .iter()
        .map(|&id| {
            let (config, list) = (config.clone().with_member(MemberId(id)), List::default());
            std::thread::spawn(move || (Group::join(config, list.clone()).map_err(|error| error.to_string()), list))
        })
        .collect();
    let joined: Vec<_> = joins.into_iter().map(|join| join.join().unwrap()).collect();
    let told = joined.iter().map(|(joined, list)| joined.as_ref().map(|_| list.all()).map_err(Clone::clone)).collect();
    println!("{name}: {told:?}; a log at member 1: {}", directory.is_dir());
    told
}

/// Control: the two members with their disks are a majority, and go on.
#[test]
fn control_two_with_their_logs_come_back() {
    let told = come_back("two", 1, Mode::Durable, &[1, 2]);
    assert_eq!(told, vec![Ok(vec!["kept".to_owned()]); 2]);
}

#[test]
fn a_founder_without_its_disk_does_not_make_another_discard_its_log() {
    let told = come_back("lost-k1", 1, Mode::Durable, &[1, 2, 3]);
    assert_eq!(told, vec![Ok(vec!["kept".to_owned()]); 3]);
}

/// The same with the default `durable_members` and a message that is not durable: at least the group must come back.
#[test]
fn a_group_with_two_of_three_logs_comes_back_whoever_lost_its_disk() {
    let told = come_back("lost-all", 0, Mode::Safe, &[1, 2, 3]);
    assert!(told.iter().all(Result::is_ok), "{told:?}");
}
