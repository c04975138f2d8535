//! All members leave at the same time, and every leave succeeds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/ports.rs"]
mod ports;

use galerna::{Config, Delivery, FabricKind, Group, Member, MemberId};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

fn leave_together() -> Vec<String> {
    let addresses = ports::free_addresses(["127.0.0.1"; 4].into_iter()).unwrap();
    let members = (0..4).zip(addresses).map(|(id, address)| Member { id: MemberId(id), address });
    let config = Config::new("leave", FabricKind::Tcp, members.collect());
    let leave = |id| {
        let config = config.clone().with_member(MemberId(id));
        std::thread::spawn(move || {
            let group = Group::join(config, |_: Delivery<'_>| {}).map_err(|e| format!("join of {id}: {e}"))?;
            group.leave(LONG).map_err(|e| format!("leave of {id}: {e}"))
        })
    };
    let leaves: Vec<_> = (0..4).map(leave).collect();
    let results = leaves.into_iter().map(|leave| leave.join().unwrap());
    results.filter_map(Result::err).collect()
}

#[test]
fn all_leaves_are_in_order() {
    let rounds = if std::env::var_os("GALERNA_LONG").is_some() { 300 } else { 30 };
    let errors: Vec<_> = (0..rounds).flat_map(|_| leave_together()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
