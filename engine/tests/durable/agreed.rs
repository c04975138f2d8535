//! Members that come back with configurations that differ.

use super::group::{List, MAIN, PATIENCE, config, join_all, send};
use super::rounds::Folder;
use galerna::{Config, FabricKind, Group, MemberId};

/// Founding a group, or joining it, says [`galerna::Error::Disagreement`].
fn come_back(name: &str, change: impl FnOnce(&mut Config)) -> Vec<Result<(Group, List), String>> {
    let folder = Folder::new(name);
    let mut config = config(&folder, FabricKind::Tcp, 2);
    config.join_timeout_ms = 3000;
    let members = join_all(&config, &[1, 2]);
    send(&members[0].0, "kept");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    drop(members);
    let mut changed = config.clone();
    change(&mut changed);
    let joins = [(config, 1), (changed, 2)].map(|(config, id)| {
        let (config, list) = (config.with_member(MemberId(id)), List::default());
        std::thread::spawn(move || {
            Group::join(config, list.clone()).map(|group| (group, list)).map_err(|error| error.to_string())
        })
    });
    let joined: Vec<_> = joins.into_iter().map(|join| join.join().unwrap()).collect();
    println!("{name}: {:?}", joined.iter().map(|joined| joined.as_ref().map(|_| ())).collect::<Vec<_>>());
    joined
}

fn disagrees(joined: &[Result<(Group, List), String>]) -> bool {
    joined
        .iter()
        .any(|joined| joined.as_ref().is_err_and(|error| error.contains("durable_members") || error.contains("bytes")))
}

#[test]
fn a_restart_notices_another_durable_members() {
    let joined = come_back("agreed-k", |config| config.log.as_mut().unwrap().durable_members = 1);
    assert!(disagrees(&joined), "two members run, each with another idea of what is durable");
}

#[test]
fn a_restart_notices_another_ring_size() {
    let joined = come_back("agreed-ring", |config| config.ring_bytes = 1 << 17);
    assert!(disagrees(&joined));
}

#[test]
fn a_restart_notices_another_message_size() {
    let joined = come_back("agreed-message", |config| config.max_message_bytes = Some(100));
    assert!(disagrees(&joined));
}
