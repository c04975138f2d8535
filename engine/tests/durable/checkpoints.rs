//! Two threads ask for a checkpoint at the same time.

use super::common;
use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, send, wait};
use galerna::Version;
use galerna::{Config, Delivery, Error, FabricKind, Group, Handler, MemberId};
use std::io::Read;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An application with a state that takes a while to read, as a large one does.
struct Slow(List);

struct SlowState(std::io::Cursor<Vec<u8>>);

impl Read for SlowState {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(200));
        let len = into.len().min(8);
        self.0.read(&mut into[..len])
    }
}

impl Handler for Slow {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.0.deliver(message);
    }

    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(SlowState(std::io::Cursor::new(self.0.all().join("\n").into_bytes()))))
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        self.0.restore(state)
    }
}

/// Starts a single member with four messages in its log.
fn with_messages(folder: &Folder) -> (Config, Group) {
    let config = config(folder, FabricKind::Tcp, 1);
    let list = List::default();
    let group = Group::join(config.clone().with_member(MemberId(1)), Slow(list.clone())).unwrap();
    (0..4).for_each(|i| send(&group, &format!("{i}")));
    group.persist(MAIN, PATIENCE).unwrap();
    wait("delivery", || list.all().len() == 4);
    (config, group)
}

/// Asks for a checkpoint in a thread, and for another one while the first is being written.
fn two(group: &Group) -> [JoinHandle<Result<Version, Error>>; 2] {
    [0, 250].map(|after_ms| {
        let group = group.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(after_ms));
            group.checkpoint(MAIN, PATIENCE)
        })
    })
}

fn comes_back(config: &Config) -> Vec<String> {
    let list = List::default();
    let group = Group::join(config.clone().with_member(MemberId(1)), list.clone()).unwrap();
    drop(group);
    list.all()
}

#[test]
fn two_checkpoints_at_the_same_time() {
    let folder = Folder::new("two-checkpoints");
    let (config, group) = with_messages(&folder);
    for taken in two(&group) {
        taken.join().unwrap().unwrap();
    }
    send(&group, "4");
    group.persist(MAIN, PATIENCE).unwrap();
    assert!(group.stopped().is_none());
    drop(group);
    assert_eq!(comes_back(&config).len(), 5);
}

#[test]
fn a_process_that_ends_in_the_middle_of_two_checkpoints() {
    let folder = Folder::new("checkpoints-crash");
    let (mut config, group) = with_messages(&folder);
    let [first, second] = two(&group);
    first.join().unwrap().unwrap();
    // Copies the files as they are on the disk at this moment, as after a power failure.
    let copy = folder.0.join("copy");
    std::fs::create_dir_all(copy.join("list-1")).unwrap();
    for entry in std::fs::read_dir(folder.0.join("logs/list-1")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join("list-1").join(entry.file_name())).unwrap();
    }
    second.join().unwrap().unwrap();
    drop(group);
    config.log.as_mut().unwrap().directory = copy;
    assert_eq!(comes_back(&config), ["0", "1", "2", "3"]);
}

/// An application that refuses the state.
struct Refuses;

const REFUSAL: &str = "the checkpoint is of version 7";

impl Handler for Refuses {
    fn deliver(&mut self, _: Delivery<'_>) {}

    fn restore(&mut self, _: &mut dyn Read) -> std::io::Result<()> {
        Err(std::io::Error::other(REFUSAL))
    }
}

/// Joins with an application that refuses the checkpoint, and returns the error.
fn refused(config: Config) -> Error {
    let (begin, timeout) = (Instant::now(), Duration::from_millis(config.join_timeout_ms));
    let error = Group::join(config, Refuses).map(drop).unwrap_err();
    assert!(begin.elapsed() < timeout, "it is final: {error}");
    let text = error.to_string();
    let named = text.contains(&format!("the application's `restore` failed: {REFUSAL}"));
    assert!(matches!(error, Error::StateTransfer(_)) && named, "{text}");
    error
}

#[test]
fn an_application_that_refuses_its_own_checkpoint() {
    let folder = Folder::new("refuses-own");
    let (config, group) = with_messages(&folder);
    group.checkpoint(MAIN, PATIENCE).unwrap();
    drop(group);
    refused(config.clone().with_member(MemberId(1)));
    assert_eq!(comes_back(&config).len(), 4, "and nothing is lost");
}

#[test]
fn a_newcomer_that_refuses_the_groups_checkpoint() {
    let folder = Folder::new("refuses");
    let mut config = config(&folder, FabricKind::Tcp, 3);
    config.max_message_bytes = Some(4096);
    config.log.as_mut().unwrap().segment_bytes = 16 << 10;
    let members = join_all(&config, &[1, 2, 3]);
    // Enough messages to trim the log: a newcomer gets no checkpoint where it can have the log.
    (0..100).for_each(|n| send(&members[0].0, &format!("{n} {}", ".".repeat(1000))));
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    for (group, list) in &members {
        wait("delivery", || list.all().len() == 100);
        let version = group.checkpoint(MAIN, PATIENCE).unwrap();
        group.trim_log(MAIN, version).unwrap();
    }
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let newcomer = Config { address, ..config }.with_member(MemberId(4));
    refused(newcomer.clone());
    // The source of the log is the last voter, or another one if the last voter was too slow.
    let is_told = |group: &Group| group.fault(MemberId(4)).is_some_and(|what| what.contains(REFUSAL));
    wait("the cause", || members.iter().any(|(group, _)| is_told(group)));
    wait("the removal", || members.iter().all(|(group, _)| group.view().members.len() == 3));
    assert_eq!(join_one(newcomer).len(), 100, "another application takes it");
}

fn join_one(config: Config) -> Vec<String> {
    let list = List::default();
    let _group = Group::join(config, list.clone()).unwrap();
    list.all()
}
