//! A log that its member has from others.

use super::common;
use super::group::{MAIN, PATIENCE, config, join_all, log_of, send, wait};
use super::rounds::Folder;
use galerna::{Config, FabricKind};

/// A member whose disk was replaced has the whole log from another, and is as good a source as that one.
#[test]
fn a_newcomer_hands_on_the_log_that_it_got() {
    let folder = Folder::new("handed-on");
    let config = config(&folder, FabricKind::Tcp, 2);
    let mut members = join_all(&config, &[1, 2]);
    send(&members[0].0, "first");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    members.pop().unwrap().0.leave(PATIENCE).unwrap();
    std::fs::remove_dir_all(folder.0.join("logs/list-2")).unwrap();
    members.extend(join_all(&config, &[2]));
    wait("the vote", || members[0].0.view().members.len() == 2);
    send(&members[0].0, "second");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    let [whole, got] =
        [0, 1].map(|n| log_of(&members[n].0).into_iter().map(|(version, ..)| version).collect::<Vec<_>>());
    println!("the founder's log: {whole:?}, the newcomer's: {got:?}");
    members.remove(0).0.leave(PATIENCE).unwrap();
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    members.extend(join_all(&Config { address, join_timeout_ms: 5000, ..config.clone() }, &[3]));
    assert_eq!(members[1].1.all(), ["first", "second"]);
    assert_eq!(got[0], whole[0], "the newcomer's log begins with another record");
}
