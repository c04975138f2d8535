//! Tests with real processes: which process founds a group, which joins, and how long each waits.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/folder.rs"]
mod folder;
mod obstacles;
mod process;

use folder::Folder;
use galerna::FabricKind;
use process::{Process, configuration, contacts};
use std::time::Duration;

/// The entry point of a member's process; returns at once elsewhere.
#[test]
fn member_process() {
    process::run();
}

fn log(folder: &Folder) -> String {
    format!("log.directory = \"{}\"\nlog.segment_bytes = 1048576\nlog.restart_wait_ms = 2000", folder.0.display())
}

/// Member 1 founds the group, and members 2 and 3, which are not founders, join it.
fn three_of_one_founder(folder: &Folder, addresses: &[String], keys: impl Fn(u32) -> String) -> Vec<Process> {
    let mut members: Vec<Process> = Vec::new();
    for id in 1..=3 {
        let config = configuration(id, addresses, &[1], &keys(id));
        members.push(Process::start(&folder.0, &id.to_string(), &config, &[]));
    }
    // With contacts, the founder waits for an answer of the processes that will join.
    members.iter_mut().for_each(|member| member.tell("join"));
    for member in &members {
        let said = member.hear();
        assert!(said.starts_with("joined"), "{said}");
    }
    members.iter_mut().for_each(|member| member.wait_for_view(&[1, 2, 3]));
    members
}

/// Founder 1 dies and is started again at once. It joins 2 and 3, which its list of founders does not contain.
fn the_only_founder_comes_back(folder: &Folder, addresses: &[String], keys: impl Fn(u32) -> String) {
    let mut members = three_of_one_founder(folder, addresses, &keys);
    assert!(members[1].ask("send kept").starts_with("sent Ok"));
    members.remove(0).kill();
    let config = configuration(1, addresses, &[1], &keys(1));
    let mut again = Process::start(&folder.0, "1", &config, &[]);
    let said = again.ask("join");
    assert_eq!(said, "joined [1, 2, 3]");
    members.push(again);
    members.iter_mut().for_each(|member| member.wait_for_view(&[1, 2, 3]));
    assert!(members[2].ask("send more").starts_with("sent Ok"));
    for member in &mut members {
        let deadline = std::time::Instant::now() + process::PATIENCE;
        while member.ask("list") != "list kept more" {
            assert!(std::time::Instant::now() < deadline, "{}", member.ask("list"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_founder_without_log_comes_back_through_its_contacts() {
    let (folder, addresses) = (Folder::new("contacts"), common::addresses(FabricKind::Tcp, 3));
    let contacts = contacts(&addresses, &[2, 3]);
    the_only_founder_comes_back(&folder, &addresses, |_| contacts.clone());
}

#[test]
fn a_founder_with_a_log_finds_the_others_where_they_were() {
    let (folder, addresses) = (Folder::new("log"), common::addresses(FabricKind::Tcp, 3));
    the_only_founder_comes_back(&folder, &addresses, |_| log(&folder));
}

/// All founders leave for good. A new process joins through a contact, a process that left joins through the addresses
/// that it remembers, and one that died joins through those in its log.
#[test]
fn a_group_whose_founders_have_left_is_open_to_others() {
    let (folder, addresses) = (Folder::new("left"), common::addresses(FabricKind::Tcp, 4));
    let mut members = three_of_one_founder(&folder, &addresses, |_| log(&folder));
    assert_eq!(members[0].ask("leave"), "left Ok(())");
    members.remove(0).kill();
    members.iter_mut().for_each(|member| member.wait_for_view(&[2, 3]));
    let keys = contacts(&addresses, &[3]) + &log(&folder);
    let mut four = Process::start(&folder.0, "4", &configuration(4, &addresses, &[1], &keys), &[]);
    assert_eq!(four.ask("join"), "joined [2, 3, 4]");
    members.push(four);
    members[0].wait_for_view(&[2, 3, 4]);
    assert_eq!(members[0].ask("leave"), "left Ok(())");
    assert_eq!(members[0].ask("join"), "joined [2, 3, 4]");
    members.iter_mut().for_each(|member| member.wait_for_view(&[2, 3, 4]));
    members.remove(0).kill();
    members.iter_mut().for_each(|member| member.wait_for_view(&[3, 4]));
    let mut two = Process::start(&folder.0, "2", &configuration(2, &addresses, &[1], &log(&folder)), &[]);
    assert_eq!(two.ask("join"), "joined [2, 3, 4]");
    // The founder that left can join, too: its log knows the others.
    let mut one = Process::start(&folder.0, "1", &configuration(1, &addresses, &[1], &log(&folder)), &[]);
    assert_eq!(one.ask("join"), "joined [1, 2, 3, 4]");
}

/// It has no log and no contacts, but the process itself has been in the group.
#[test]
fn a_process_that_left_does_not_found_a_second_group() {
    let (folder, addresses) = (Folder::new("memory"), common::addresses(FabricKind::Tcp, 3));
    let short = |_| "join_timeout_ms = 4000".to_owned();
    let mut members = three_of_one_founder(&folder, &addresses, short);
    assert_eq!(members[0].ask("leave"), "left Ok(())");
    assert_eq!(members[0].ask("join"), "joined [1, 2, 3]");
    // The others are gone: it knows them, and cannot ask them.
    assert_eq!(members[0].ask("leave"), "left Ok(())");
    let mut one = members.remove(0);
    members.into_iter().for_each(Process::kill);
    let said = one.ask("join");
    let named = said.contains(&addresses[1]) && said.contains("member 2 of the group that this process was in");
    assert!(said.starts_with("refused join: after 4000 ms") && named, "{said}");
    // A new process knows nothing of the former group.
    one.kill();
    let mut new = Process::start(&folder.0, "1", &configuration(1, &addresses, &[1], &short(1)), &[]);
    assert_eq!(new.ask("join"), "joined [1]");
}

/// One of two founders has been in a group with a third process; the other one is new.
#[test]
fn founders_tell_each_other_of_a_former_group() {
    let (folder, addresses) = (Folder::new("told"), common::addresses(FabricKind::Tcp, 3));
    let config = |id| configuration(id, &addresses, &[1, 2], "join_timeout_ms = 15000");
    let mut members: Vec<Process> =
        (1..=3).map(|id| Process::start(&folder.0, &id.to_string(), &config(id), &[])).collect();
    members.iter_mut().for_each(|member| member.tell("join"));
    assert!(members.iter().all(|member| member.hear().starts_with("joined")));
    members.iter_mut().for_each(|member| member.wait_for_view(&[1, 2, 3]));
    for member in &mut members[..2] {
        assert_eq!(member.ask("leave"), "left Ok(())");
    }
    members.remove(1).kill();
    members[1].wait_for_view(&[3]);
    let mut two = Process::start(&folder.0, "2", &config(2), &[]);
    two.tell("join");
    members[0].tell("join");
    let said = [two.hear(), members[0].hear()];
    assert!(said.iter().all(|said| said.starts_with("joined [") && said.contains('3')), "{said:?}");
    members[1].wait_for_view(&[1, 2, 3]);
}

#[test]
fn a_contact_that_does_not_answer_forbids_founding() {
    let (folder, addresses) = (Folder::new("silent"), common::addresses(FabricKind::Tcp, 3));
    let keys = "join_timeout_ms = 1500\n".to_owned() + &contacts(&addresses, &[2, 3]);
    let mut one = Process::start(&folder.0, "1", &configuration(1, &addresses, &[1], &keys), &[]);
    let said = one.ask("join");
    assert!(said.contains(&format!("the contact at {} (", addresses[1])), "{said}");
    assert!(said.contains(&addresses[2]) && said.contains("must answer before the group is founded"), "{said}");
}

#[test]
fn a_process_that_never_founds_waits_for_a_group() {
    let (folder, addresses) = (Folder::new("never"), common::addresses(FabricKind::Tcp, 2));
    let keys = "join_timeout_ms = 1500\nfound = \"never\"";
    let mut one = Process::start(&folder.0, "1", &configuration(1, &addresses, &[1, 2], keys), &[]);
    // The other founder learns why it has to wait.
    let keys = "join_timeout_ms = 1000";
    let mut two = Process::start(&folder.0, "2", &configuration(2, &addresses, &[1, 2], keys), &[]);
    one.tell("join");
    two.tell("join");
    let (one, two) = (one.hear(), two.hear());
    assert!(one.starts_with("refused join: after 1500 ms") && one.contains("`found` is \"never\""), "{one}");
    assert!(two.starts_with("refused join: after 1000 ms") && two.contains("member 1"), "{two}");
}

/// Two groups have one name, and do not know each other. A process that meets both reports it, and so does a process
/// that returns to one group and finds the other.
#[test]
fn two_groups_of_one_name_are_told_apart() {
    let (folder, addresses) = (Folder::new("two"), common::addresses(FabricKind::Tcp, 3));
    let keys = log(&folder);
    let mut groups: Vec<Process> = (1..=2)
        .map(|id| Process::start(&folder.0, &id.to_string(), &configuration(id, &addresses, &[id], &keys), &[]))
        .collect();
    for (group, id) in groups.iter_mut().zip(1..) {
        assert_eq!(group.ask("join"), format!("joined [{id}]"));
    }
    let both = contacts(&addresses, &[2]) + &keys;
    let mut three = Process::start(&folder.0, "3", &configuration(3, &addresses, &[1], &both), &[]);
    let said = three.ask("join");
    let named = addresses[..2].iter().all(|address| said.contains(&format!("runs at {address}")));
    assert!(said.starts_with("refused two groups are named `found`") && named, "{said}");
    groups.remove(0).kill();
    let mut one = Process::start(&folder.0, "1", &configuration(1, &addresses, &[1], &both), &[]);
    let said = one.ask("join");
    let named = said.contains("this process's log") && said.contains(&format!("runs at {}", addresses[1]));
    assert!(said.starts_with("refused two groups are named `found`") && named, "{said}");
}
