//! Segments that were made smaller than the present configuration allows.

use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, send, wait};
use galerna::{Error, FabricKind, Group, MemberId};

#[test]
fn larger_messages_after_the_configuration_was_changed() {
    let folder = Folder::new("segments");
    let mut config = config(&folder, FabricKind::Tcp, 2);
    config.log.as_mut().unwrap().segment_bytes = 8192;
    config.max_message_bytes = Some(2000);
    let members = join_all(&config, &[1, 2]);
    send(&members[0].0, "small");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    drop(members);
    // As the error of the configuration check advises: "raise `log.segment_bytes`".
    config.log.as_mut().unwrap().segment_bytes = 1 << 20;
    config.max_message_bytes = Some(10_000);
    let refused = Group::join(config.clone().with_member(MemberId(1)), List::default()).err().unwrap();
    assert!(
        matches!(&refused, Error::Config(what) if what.contains("10000 bytes") && what.contains("list-1")),
        "{refused}"
    );
    config.max_message_bytes = Some(2000);
    let members = join_all(&config, &[1, 2]);
    wait("the log", || members.iter().all(|(_, list)| list.all() == ["small"]));
}
