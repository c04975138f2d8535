//! Disks that become full.

use super::common;
use super::folder::Folder;
use super::group::{List, PATIENCE, config, join_all, send, wait};
use super::small_disk;
use galerna::Member;
use galerna::{Config, Error, FabricKind, Group, LogConfig, MemberId, Mode, SubgroupId};
use std::path::PathBuf;

const SMALL: &str = "GALERNA_SMALL_DISK";
const MAIN: SubgroupId = SubgroupId(0);

/// Runs in a child process with a small file system of its own; returns at once elsewhere.
#[test]
fn child_with_a_small_disk() {
    let Some(small) = std::env::var_os(SMALL).map(PathBuf::from) else { return };
    let folder = Folder::new("small");
    let addresses = common::addresses(FabricKind::Tcp, 3);
    let members = addresses.into_iter().enumerate();
    let members = members.map(|(n, address)| Member { id: MemberId(n as u32 + 1), address }).collect();
    let log = |directory: PathBuf| LogConfig { segment_bytes: 1 << 20, ..LogConfig::new(directory) };
    let mut config = Config::new("small", FabricKind::Tcp, members).with_log(log(folder.0.join("logs")));
    (config.ring_bytes, config.failure_timeout_ms, config.join_timeout_ms) = (1 << 16, 1000, 20_000);
    let little = config.clone().with_log(log(small)).with_member(MemberId(3));
    let third = std::thread::spawn(move || Group::join(little, List::default()).unwrap());
    let members = join_all(&config, &[1, 2]);
    let third = third.join().unwrap();
    let mut sent = 0;
    while members[0].0.view().members.len() == 3 {
        send(&members[0].0, &format!("{sent} {}", ".".repeat(2000)));
        sent += 1;
        assert!(sent < 20_000, "the disk does not fill up");
    }
    let stopped = third.stopped();
    assert!(
        matches!(&stopped, Some(Error::LogFull { file, .. }) if file.starts_with('/') && file.contains("segment")),
        "{stopped:?}"
    );
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    members[1].0.send(MAIN, Mode::Durable, b"after", PATIENCE).unwrap();
    for (_, list) in &members {
        wait("delivery", || list.all().len() == sent + 1);
    }
    println!("the others went on");
}

#[test]
fn a_member_whose_disk_is_full_stops_and_the_others_go_on() {
    let folder = Folder::new("full");
    let child = "full_disk::child_with_a_small_disk";
    if let Some(output) = small_disk::run_on_one(&folder.0, 4, SMALL, child) {
        small_disk::assert_said(&output, "the others went on");
    }
}

const SMALL_JOINER: &str = "GALERNA_DURABLE_SMALL_JOINER";

/// A joining process with a full disk reports that its own disk is full, not that a member could not give it the log.
#[test]
fn child_that_joins_with_a_full_disk() {
    let Ok(small) = std::env::var(SMALL_JOINER) else { return };
    let folder = Folder::new("full-joiner");
    let config = config(&folder, FabricKind::Tcp, 1);
    let (first, _) = join_all(&config, &[1]).pop().unwrap();
    // More than the joining process's disk can hold.
    (0..800).for_each(|n| send(&first, &format!("{n} {}", ".".repeat(8000))));
    first.persist(MAIN, PATIENCE).unwrap();
    let mut newcomer = Config { address: common::addresses(FabricKind::Tcp, 1).pop(), ..config };
    newcomer.log.as_mut().unwrap().directory = small.into();
    let refused = Group::join(newcomer.with_member(MemberId(2)), List::default()).err().unwrap();
    assert!(matches!(refused, Error::LogFull { .. }), "{refused}");
    wait("the view without it", || first.view().members.len() == 1);
    send(&first, "goes on");
    first.persist(MAIN, PATIENCE).unwrap();
    println!("the other is told so: {:?}", first.fault(MemberId(2)));
}

#[test]
fn a_joiner_whose_disk_is_full_says_so() {
    let folder = Folder::new("small-joiner");
    let child = "full_disk::child_that_joins_with_a_full_disk";
    if let Some(output) = small_disk::run_on_one(&folder.0, 4, SMALL_JOINER, child) {
        small_disk::assert_said(&output, "the other is told so");
    }
}
