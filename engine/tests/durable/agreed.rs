//! Members that come back with configurations that differ.

use super::group::{List, MAIN, PATIENCE, config, join_all, send};
use super::rounds::Folder;
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
    assert!(join_all(&config, &[1, 2]).iter().all(|(_, list)| list.all() == ["kept"]));
}
