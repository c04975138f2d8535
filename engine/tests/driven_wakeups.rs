//! A member that the application drives waits on its descriptor first, and dispatches when that is readable. It must be
//! woken, however it came into the group.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use galerna::{Config, Delivery, Driver, FabricKind, Group, LogConfig, Member, MemberId, Mode, SubgroupId};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(30);

/// Heartbeats are 12 minutes apart, so that no heartbeat wakes a member.
fn config(fabric: FabricKind) -> Config {
    let address = common::addresses(fabric, 1).remove(0);
    let mut config = Config::new("driven", fabric, vec![Member { id: MemberId(1), address }]);
    config.verbs = common::patient_verbs();
    (config.ring_bytes, config.failure_timeout_ms, config.partition_timeout_ms) = (64 << 10, 3_600_000, 3_600_000);
    config
}

/// Joins, and counts the deliveries.
fn join(config: &Config, id: u32) -> (Group, Driver, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let deliver = move |_: Delivery<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let (group, driver) = Group::join_driven(config.clone().with_member(MemberId(id)), deliver).unwrap();
    (group, driver, seen)
}

/// Sends one message, then only waits on the descriptor and dispatches until the message is delivered.
fn one_message(what: &str, (group, driver, seen): &mut (Group, Driver, Arc<AtomicUsize>)) {
    let before = seen.load(Ordering::Relaxed);
    group.try_send(MAIN, Mode::Safe, b"a message").unwrap();
    while seen.load(Ordering::Relaxed) == before {
        let mut fds = [PollFd::new(driver.fd(), PollFlags::POLLIN)];
        let woken = nix::poll::poll(&mut fds, PollTimeout::try_from(LONG).unwrap()).unwrap();
        assert_eq!(woken, 1, "{what}: the descriptor did not become readable");
        driver.dispatch().unwrap();
    }
}

#[test]
fn a_founder_is_woken() {
    for fabric in common::fabrics() {
        let mut member = join(&config(fabric), 1);
        // The first dispatch arms the descriptor; the second message finds it armed.
        one_message(&format!("{fabric}, first"), &mut member);
        one_message(&format!("{fabric}, second"), &mut member);
    }
}

#[test]
fn a_member_that_is_started_again_is_woken() {
    for fabric in common::fabrics() {
        let folder = Folder::new(&format!("restart-{fabric}"));
        let config = config(fabric).with_log(LogConfig::new(&folder.0));
        for life in 0..2 {
            let mut member = join(&config, 1);
            one_message(&format!("{fabric}, life {life}"), &mut member);
            member.1.leave(LONG).unwrap();
        }
    }
}

#[test]
fn a_member_that_joins_is_woken() {
    for fabric in common::fabrics() {
        for logs in [false, true] {
            let folder = Folder::new(&format!("join-{fabric}-{logs}"));
            let mut config = config(fabric);
            if logs {
                config = config.with_log(LogConfig::new(&folder.0));
            }
            let founder = Group::join(config.clone().with_member(MemberId(1)), |_: Delivery<'_>| {}).unwrap();
            config.address = Some(common::addresses(fabric, 1).remove(0));
            let mut member = join(&config, 2);
            one_message(&format!("{fabric}, log {logs}"), &mut member);
            founder.try_send(MAIN, Mode::Safe, b"another").unwrap();
            one_message(&format!("{fabric}, log {logs}, second"), &mut member);
        }
    }
}
