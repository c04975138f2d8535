//! Groups with similar names, in one directory of logs.

use super::common;
use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, log_of, send, wait};
use galerna::{Config, Error, FabricKind, Group, MemberId};

#[test]
fn groups_with_names_that_look_alike_have_logs_of_their_own() {
    let folder = Folder::new("names");
    let names = ["a:b", "a_b", "A:b", "..", &"long ".repeat(51)];
    let configs = names.map(|name| {
        let mut config = config(&folder, FabricKind::Tcp, 1);
        config.group = name.to_owned();
        config
    });
    for life in 0..2 {
        for config in &configs {
            let members = join_all(config, &[1]);
            let text = |life: usize| format!("{} {life}", config.group);
            let before: Vec<String> = (0..life).map(text).collect();
            wait("what this group had", || members[0].1.all() == before);
            send(&members[0].0, &text(life));
            members[0].0.persist(MAIN, PATIENCE).unwrap();
            assert!(log_of(&members[0].0).iter().all(|(_, _, bytes)| {
                names.iter().all(|name| *name == config.group || !bytes.starts_with(format!("{name} ").as_bytes()))
            }));
        }
    }
    let made = std::fs::read_dir(folder.0.join("logs")).unwrap().count();
    assert_eq!(made, names.len());
}

/// An operator gave the directory to another group.
#[test]
fn the_log_of_a_group_of_another_name_is_refused() {
    let folder = Folder::new("renamed");
    let one = config(&folder, FabricKind::Tcp, 1);
    let members = join_all(&one, &[1]);
    send(&members[0].0, "of one");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    drop(members);
    let address = common::addresses(FabricKind::Tcp, 1);
    let mut other = Config { group: "another".to_owned(), ..one.clone() };
    other.members[0].address.clone_from(&address[0]);
    let log = one.log.as_ref().unwrap();
    let [from, to] = [&one.group, &other.group].map(|group| log.directory_of(group, MemberId(1)));
    std::fs::rename(&from, &to).unwrap();
    let refused = Group::join(other.with_member(MemberId(1)), List::default()).err().unwrap();
    assert!(matches!(&refused, Error::LogForeign { key: "group name", ours, .. } if ours == "another"), "{refused}");
    std::fs::rename(&to, &from).unwrap();
    assert_eq!(join_all(&one, &[1])[0].1.all(), ["of one"]);
}
