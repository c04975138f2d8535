//! The fabrics that this machine can test, and addresses for members.

mod ports;

use galerna::FabricKind;
use galerna::Verbs;
use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Returns all fabrics. Verbs is among them if `GALERNA_RDMA_HOSTS` lists the addresses of devices, as `soft-roce/run`
/// does.
pub(crate) fn fabrics() -> Vec<FabricKind> {
    let mut fabrics = vec![FabricKind::Tcp, FabricKind::Shm];
    if rdma_hosts().is_empty() {
        assert!(std::env::var_os("GALERNA_REQUIRE_RDMA").is_none(), "GALERNA_RDMA_HOSTS names no address");
        say_once("SKIPPED: verbs, as GALERNA_RDMA_HOSTS names no address; soft-roce/test runs it");
    } else {
        fabrics.push(FabricKind::Verbs);
    }
    fabrics
}

/// Prints to standard error directly: the test runner hides the output of tests that pass.
fn say_once(what: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = writeln!(std::io::stderr(), "{what}");
    });
}

fn rdma_hosts() -> Vec<String> {
    let hosts = std::env::var("GALERNA_RDMA_HOSTS").unwrap_or_default();
    hosts.split_whitespace().map(str::to_owned).collect()
}

/// Verbs settings for software devices on an emulated processor. An answer may take long, and some of these devices
/// cannot cope with needless retransmissions.
pub(crate) fn patient_verbs() -> Verbs {
    Verbs { timeout: 18, ..Verbs::default() }
}

/// Returns `count` addresses on free ports. For verbs they are on the hosts with devices, in turn.
pub(crate) fn addresses(fabric: FabricKind, count: u32) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir();
    let unix = |n| format!("unix:{}/galerna-test-{}-{number}-{n}.sock", folder.display(), std::process::id());
    if fabric == FabricKind::Shm {
        return (0..count).map(unix).collect();
    }
    let hosts = if fabric == FabricKind::Verbs { rdma_hosts() } else { vec!["127.0.0.1".to_owned()] };
    ports::free_addresses(hosts.iter().cycle().take(count as usize).map(String::as_str)).unwrap()
}
