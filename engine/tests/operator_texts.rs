//! The texts for an operator: in the main situations they name the cause instead of a consequence, and the configured
//! values.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use galerna::{Config, Delivery, Driver, Error, FabricKind, Group, LogConfig, Member, MemberId, Mode, SubgroupId};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const MAIN: SubgroupId = SubgroupId(0);

fn config(name: &str, count: u32) -> Config {
    let addresses = (1..=count).zip(common::addresses(FabricKind::Tcp, count));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    let timeouts =
        Config { failure_timeout_ms: 2000, partition_timeout_ms: 4000, ..Config::new(name, FabricKind::Tcp, members) };
    Config { ring_bytes: 1 << 14, ..timeouts }
}

fn join(config: &Config, id: u32) -> Result<Group, Error> {
    Group::join(config.clone().with_member(MemberId(id)), |_: Delivery<'_>| {})
}

/// Starts all members. The driver of the last one is never called, so it stands still.
fn one_that_stands_still(config: &Config) -> (Vec<Group>, (Group, Driver)) {
    let last = config.members.len() as u32;
    let started: Vec<_> = (1..last)
        .map(|id| {
            let config = config.clone();
            std::thread::spawn(move || join(&config, id).unwrap())
        })
        .collect();
    let still = Group::join_driven(config.clone().with_member(MemberId(last)), |_: Delivery<'_>| {}).unwrap();
    (started.into_iter().map(|s| s.join().unwrap()).collect(), still)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn the_cause_of_a_removal_is_told_at_every_member() {
    let config = config("told", 4);
    let (mut members, (fourth, mut driver)) = one_that_stands_still(&config);
    wait_for("the view without it", || members.iter().all(|group| group.view().failed == [MemberId(4)]));
    // Each has its own observation or another member's; one may have learned of the accusation before it could read the
    // cause.
    let faults: Vec<String> = members.iter().map(|group| group.fault(MemberId(4)).unwrap()).collect();
    assert!(faults.iter().filter(|fault| fault.contains("stood still for")).count() >= 2, "{faults:?}");
    members.iter().for_each(|group| assert_eq!(group.fault(MemberId(1)), None));
    drop(members.pop());
    wait_for("the next view", || members.iter().all(|group| group.view().failed == [MemberId(3)]));
    for group in &members {
        let fault = group.fault(MemberId(3)).unwrap();
        says(&fault, &["the peer closed the connection"]);
        // Later observations have not replaced the cause.
        let fault = group.fault(MemberId(4)).unwrap();
        assert!(!fault.contains("closed"), "{fault}");
    }
    let stopped = driver.wait(LONG, || fourth.stopped().is_some());
    let reason = fourth.stopped().unwrap_or_else(|| panic!("{stopped:?}")).to_string();
    says(&reason, &["this process was removed", "stood still", "start it again"]);
    // A leave is no fault.
    let second = members.pop().unwrap();
    second.leave(LONG).unwrap();
    wait_for("the last view", || members[0].view().left == [MemberId(2)]);
    assert_eq!(members[0].fault(MemberId(2)), None);
}

#[test]
fn a_member_that_is_cut_off_says_so_with_the_timeout() {
    let config = config("cut-off", 2);
    let (members, still) = one_that_stands_still(&config);
    drop(still);
    wait_for("its end", || members[0].stopped().is_some());
    let text = members[0].stopped().unwrap().to_string();
    says(&text, &["is cut off", "more than half of the members of view 0", "4000 ms", "`partition_timeout_ms`"]);
    assert_eq!(text.matches("stopped").count(), 1, "{text}");
}

#[test]
fn a_full_ring_is_told_with_what_it_waits_for() {
    let config = Config { failure_timeout_ms: 60_000, partition_timeout_ms: 60_000, ..config("full", 2) };
    let (members, _still) = one_that_stands_still(&config);
    let error = loop {
        if let Err(error) = members[0].send(MAIN, Mode::Safe, &[7; 1000], Duration::from_millis(200)) {
            break error.to_string();
        }
    };
    says(&error, &["room in the ring", "until every member has delivered", "200 ms"]);
}

#[test]
fn missing_members_are_told_with_the_configured_time() {
    let config = Config { join_timeout_ms: 1500, ..config("missing", 2) };
    for (id, other, obstacle) in [(1, 1, "no connection from it yet"), (2, 0, "connection refused")] {
        let error = join(&config, id).err().unwrap().to_string();
        let Member { id, address } = &config.members[other];
        let expected = format!(
            "join: after 1500 ms still missing: member {id} at {address} ({obstacle}); start them, or check their addresses"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn a_restart_tells_for_whom_it_waited_and_how_long() {
    let folder = Folder::new("restart");
    let config = config("restart", 2).with_log(LogConfig::new(&folder.0));
    let (members, still) = one_that_stands_still(&config);
    drop((members, still));
    let error = join(&Config { join_timeout_ms: 2500, ..config }, 1).err().unwrap().to_string();
    says(&error, &["after 2500 ms still missing", "missing: member 2 of view 0", "with their logs"]);
}

#[test]
fn a_contact_that_does_not_answer_is_no_unavailable_resource() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let members = vec![Member { id: MemberId(1), address: silent.local_addr().unwrap().to_string() }];
    let address = Some(common::addresses(FabricKind::Tcp, 1).remove(0));
    let silence = Config { join_timeout_ms: 1000, address, ..Config::new("silence", FabricKind::Tcp, members) };
    let error = join(&silence, 2).err().unwrap().to_string();
    says(&error, &["after 1000 ms", "no answer within"]);
    assert!(!error.contains("os error"), "{error}");
}

#[test]
fn another_group_and_another_key_are_told_with_both_values() {
    let config = config("one", 2);
    let others = [
        (Config { group: "two".into(), ..config.clone() }, ["`group`", "one", "two"]),
        (Config { lone_survivor: true, ..config.clone() }, ["`lone_survivor`", "false", "true"]),
    ];
    for (other, parts) in others {
        let first = config.clone();
        let first = std::thread::spawn(move || join(&Config { join_timeout_ms: 5000, ..first }, 1).err());
        let error = join(&other, 2).err().unwrap().to_string();
        says(&error, &parts);
        says(&error, &["member 1", "give every member the same"]);
        drop(first.join().unwrap());
    }
}
