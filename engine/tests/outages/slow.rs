//! A slow network: the bytes queued for a peer take longer than the failure timeout, and no member is removed for it.

use super::common;
use super::group::{Cluster, Plan};
use super::network::Network;
use galerna::FabricKind;
use std::time::{Duration, Instant};

/// In bytes per second: a ring of 1 MiB takes five seconds, one of 4 MiB takes twenty.
const RATE: u64 = 200_000;

#[test]
fn a_full_ring_on_a_slow_link_removes_nobody_and_a_stopped_member_is_removed() {
    let behind = common::addresses(FabricKind::Tcp, 3);
    let network = Network::start(&behind);
    let addresses = network.fronts().into_iter().zip(behind).collect();
    let (ring_bytes, seconds) = if std::env::var_os("GALERNA_LONG").is_some() { (4 << 20, 25) } else { (1 << 20, 8) };
    let keys = format!("ring_bytes = {ring_bytes}\nfailure_timeout_ms = 2000\npartition_timeout_ms = 110000");
    let plan = Plan { fabric: FabricKind::Tcp, addresses, keys, logs: false, len: 60_000, pause_us: 0 };
    let cluster = Cluster::start("slow", plan);
    network.limit(RATE);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        for (id, process) in &cluster.members {
            let said = process.said();
            let bad = said.iter().find(|line| line.starts_with("suspected") || line.starts_with("stopped"));
            assert!(bad.is_none(), "member {id}: {said:?}");
        }
    }
    cluster.members[&3].stop();
    let began = Instant::now();
    cluster.wait(1, "suspected 3");
    cluster.wait(2, "suspected 3");
    println!("the stopped member was suspected after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(60));
    network.limit(0);
    cluster.wait_for_view(1, "1,2");
    cluster.wait_for_view(2, "1,2");
    cluster.wait_for_more(&[1, 2], 20);
    cluster.check_manners();
}
