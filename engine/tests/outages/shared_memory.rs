//! On shared memory: a member stands still for so long that it is removed, while the others go on and reuse the memory
//! that it reads.

use super::common;
use super::group::{Cluster, Plan, until};
use galerna::FabricKind;
use galerna::log::{Kind, Log};
use std::collections::HashMap;
use std::time::Duration;

const ROUNDS: u64 = 5;

/// The deliveries of the members that stay, by sequence number.
fn delivered(cluster: &Cluster, ids: &[u32]) -> HashMap<u64, String> {
    let mut all = HashMap::new();
    for id in ids {
        for line in cluster.members[id].lines() {
            let Some(sequence) = line.split(' ').nth(1).and_then(|word| word.parse().ok()) else { continue };
            let known = all.entry(sequence).or_insert_with(|| line.clone());
            assert_eq!(*known, line, "member {id} was delivered something else");
        }
    }
    all
}

fn stopped_and_removed(logs: bool) {
    let addresses = common::addresses(FabricKind::Shm, 3).into_iter().map(|address| (address.clone(), address));
    let plan = Plan {
        fabric: FabricKind::Shm,
        addresses: addresses.collect(),
        keys: "ring_bytes = 65536\nfailure_timeout_ms = 1500\npartition_timeout_ms = 60000".to_owned(),
        logs,
        len: 3000,
        pause_us: 500,
    };
    let mut cluster = Cluster::start(if logs { "shm-log" } else { "shm" }, plan);
    for round in 0..ROUNDS {
        cluster.wait_for_more(&[1, 2, 3], 50);
        if round % 2 == 0 {
            // At an arbitrary moment of its passes.
            std::thread::sleep(Duration::from_micros(137 * (round * round + 1)));
            cluster.members[&3].stop();
        } else {
            cluster.members.get_mut(&3).unwrap().stand();
        }
        cluster.wait_for_view(1, "1,2");
        cluster.wait_for_view(2, "1,2");
        // More than their rings hold.
        cluster.wait_for_more(&[1, 2], 500);
        cluster.members[&3].go_on();
        cluster.wait(3, "stopped");
        let process = &cluster.members[&3];
        until(
            || process.has_said("Removed") || process.has_said("Partitioned"),
            || format!("it stopped for another reason: {:?}", process.said()),
        );
        cluster.check_manners();
        let theirs = delivered(&cluster, &[1, 2]);
        let own = process.lines();
        for line in &own {
            let sequence: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert_eq!(theirs.get(&sequence), Some(line), "round {round}: only the removed member was delivered this");
        }
        println!("round {round}: the removed member was delivered {} messages, all of them right", own.len());
        cluster.members.remove(&3);
        if logs {
            check_log(&cluster, &theirs);
        }
        cluster.begin(3);
        cluster.wait(3, "joined");
        cluster.wait_for_view(1, "1,2,3");
    }
}

/// Checks the log on the removed member's disk.
fn check_log(cluster: &Cluster, theirs: &HashMap<u64, String>) {
    let log = Log::open_read_only(cluster.folder.0.join("logs").join("outages-3")).unwrap();
    let mut count = 0;
    for entry in log.reader().iter(..).map(|entry| entry.unwrap()) {
        let record = entry.record();
        if record.kind == Kind::Message {
            let line = super::member::line_of(record.version.sequence, record.sender.0, record.payload);
            let line = format!("M {line}");
            let known = theirs.get(&record.version.sequence);
            assert_eq!(known, Some(&line), "the log of the removed member has something else");
            count += 1;
        }
    }
    println!("its log has {count} messages, all of them right");
}

#[test]
fn a_member_that_stood_still_and_was_removed_delivers_nothing_wrong() {
    stopped_and_removed(false);
}

#[test]
fn its_log_holds_nothing_wrong_either() {
    stopped_and_removed(true);
}
