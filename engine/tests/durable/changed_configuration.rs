//! Members that come back with configurations that differ.

use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, send, wait};
use galerna::{Config, Error, FabricKind, Group, MemberId};

type Change = fn(&mut Config);

#[test]
fn a_restart_notices_that_configurations_differ() {
    let changes: [(&str, Change); 3] = [
        ("log.durable_members", |config| config.log.as_mut().unwrap().durable_members = 1),
        ("ring_bytes", |config| config.ring_bytes = 1 << 17),
        ("max_message_bytes", |config| config.max_message_bytes = Some(100)),
    ];
    let folder = Folder::new("agreed");
    let config = config(&folder, FabricKind::Tcp, 2);
    let members = join_all(&config, &[1, 2]);
    send(&members[0].0, "kept");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    drop(members);
    for (what, change) in changes {
        let mut changed = config.clone();
        change(&mut changed);
        let joins = [(config.clone(), 1), (changed, 2)].map(|(config, id)| {
            std::thread::spawn(move || Group::join(config.with_member(MemberId(id)), List::default()).err())
        });
        for join in joins {
            let refused = join.join().unwrap();
            assert!(matches!(&refused, Some(Error::Disagreement { key, .. }) if key == what), "{what}: {refused:?}");
        }
    }
    // Keys that need not be equal do not prevent the start: timeouts, and at a restart the list of founders.
    let mut other = config.clone();
    (other.failure_timeout_ms, other.partition_timeout_ms) = (7000, 9000);
    other.members.reverse();
    let joins = [(config, 1), (other, 2)].map(|(config, id)| {
        let list = List::default();
        std::thread::spawn(move || (Group::join(config.with_member(MemberId(id)), list.clone()).unwrap(), list))
    });
    let members = joins.map(|join| join.join().unwrap());
    assert!(members.iter().all(|(_, list)| list.all() == ["kept"]));
}

/// Keys that must be equal change while no process runs. All leave, and come back with their logs.
#[test]
fn all_leave_and_come_back_with_another_ring() {
    let folder = Folder::new("ring");
    let mut config = config(&folder, FabricKind::Tcp, 2);
    let members = join_all(&config, &[1, 2]);
    // Longer than a message that fits the smaller ring.
    let long = "long".repeat(5000);
    send(&members[0].0, &long);
    for (group, list) in &members {
        wait("delivery", || list.all().len() == 1);
        group.persist(MAIN, PATIENCE).unwrap();
    }
    members.iter().for_each(|(group, _)| group.leave(PATIENCE).unwrap());
    drop(members);
    config.ring_bytes = 1 << 14;
    config.log.as_mut().unwrap().durable_members = 1;
    let members = join_all(&config, &[1, 2]);
    members.iter().for_each(|(group, _)| send(group, "after"));
    for (_, list) in &members {
        wait("the history", || list.all() == [long.as_str(), "after", "after"]);
    }
}
