//! Outages after which the same members go on: no decision is made without a majority, and links are made again.

use super::common;
use super::group::{Cluster, Plan, until};
use super::network::Network;
use galerna::FabricKind;
use std::collections::HashSet;
use std::time::{Duration, Instant};

fn plan(fabric: FabricKind, addresses: Vec<(String, String)>, keys: &str) -> Plan {
    Plan { fabric, addresses, keys: keys.to_owned(), logs: false, len: 2000, pause_us: 2000 }
}

fn direct(fabric: FabricKind, count: u32) -> Vec<(String, String)> {
    common::addresses(fabric, count).into_iter().map(|address| (address.clone(), address)).collect()
}

/// All run, all have the same deliveries, and every accepted message was delivered.
fn all_go_on(cluster: &mut Cluster, ids: &[u32]) {
    cluster.wait_for_more(ids, 50);
    let mut sent = 0;
    for id in ids {
        cluster.members.get_mut(id).unwrap().hush();
    }
    for id in ids {
        cluster.wait(*id, "sent ");
        let said = cluster.members[id].said();
        let line = said.iter().find_map(|line| line.strip_prefix("sent ")).unwrap();
        sent += line.parse::<usize>().unwrap();
    }
    for id in ids {
        let process = &cluster.members[id];
        let what = || format!("member {id} has {} of {sent}: {:?}", process.lines().len(), process.said());
        until(|| process.lines().len() >= sent, what);
    }
    let first: Vec<String> = cluster.members[&ids[0]].lines();
    assert_eq!(first.len(), sent, "more was delivered than was sent");
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), sent, "something was delivered twice");
    for id in ids {
        assert_eq!(cluster.members[id].lines(), first, "member {id}");
        assert!(!cluster.members[id].has_said("stopped"), "{:?}", cluster.members[id].said());
    }
    cluster.check_manners();
}

/// With the default settings, a process stands still for longer than `failure_timeout_ms` and for less than
/// `partition_timeout_ms`.
fn stopped_for_a_moment(fabric: FabricKind, pause: Duration) {
    let mut cluster = Cluster::start(&format!("moment-{fabric}"), plan(fabric, direct(fabric, 2), ""));
    cluster.wait_for_more(&[1, 2], 50);
    for id in [2, 1] {
        cluster.members[&id].stop();
        std::thread::sleep(pause);
        cluster.members[&id].go_on();
        cluster.wait_for_view(1, "1,2");
        cluster.wait_for_view(2, "1,2");
        // If the members were to stop, they would have done so when the partition timeout had passed.
        let end = Instant::now() + Duration::from_secs(12);
        while Instant::now() < end {
            cluster.wait_for_more(&[1, 2], 20);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    all_go_on(&mut cluster, &[1, 2]);
}

#[test]
fn a_process_that_stood_still_for_a_moment_goes_on_with_the_other() {
    std::thread::scope(|scope| {
        for fabric in common::fabrics() {
            scope.spawn(move || stopped_for_a_moment(fabric, Duration::from_millis(2500)));
        }
    });
}

/// A member stands still while another one leaves. The leaver's last link, to the one that stands still, does not end
/// in time; but the third member goes on without both, so the leave has succeeded.
#[test]
fn a_leave_that_the_others_know_has_succeeded() {
    let keys = "failure_timeout_ms = 3000\npartition_timeout_ms = 60000";
    let plan = plan(FabricKind::Tcp, direct(FabricKind::Tcp, 3), keys);
    let mut cluster = Cluster::start("left-in-time", plan);
    cluster.wait_for_more(&[1, 2, 3], 50);
    cluster.members[&3].stop();
    if let Some(leaver) = cluster.members.get_mut(&1) {
        leaver.leave(5500);
    }
    cluster.wait(1, "left ");
    assert!(cluster.members[&1].has_said("left Ok(())"), "{:?}", cluster.members[&1].said());
    cluster.wait_for_view(2, "2");
}

/// All links of the members are cut for longer than `failure_timeout_ms`, again and again.
fn all_cut(ids: &[u32], view: &str) {
    let behind = common::addresses(FabricKind::Tcp, ids.len() as u32);
    let network = Network::start(&behind);
    let addresses = network.fronts().into_iter().zip(behind).collect();
    let keys = "failure_timeout_ms = 1500\npartition_timeout_ms = 60000";
    let mut cluster = Cluster::start(&format!("cut-{}", ids.len()), plan(FabricKind::Tcp, addresses, keys));
    for _ in 0..3 {
        cluster.wait_for_more(ids, 50);
        network.cut();
        std::thread::sleep(Duration::from_secs(4));
        network.heal();
        cluster.wait_for_more(ids, 50);
        ids.iter().for_each(|id| cluster.wait_for_view(*id, view));
    }
    all_go_on(&mut cluster, ids);
}

#[test]
fn two_whose_link_was_cut_go_on_together() {
    all_cut(&[1, 2], "1,2");
}

#[test]
fn three_whose_links_were_all_cut_go_on_together() {
    all_cut(&[1, 2, 3], "1,2,3");
}
