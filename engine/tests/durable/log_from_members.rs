//! A log that its member has taken from other members.

use super::common;
use super::folder::Folder;
use super::group::{List, MAIN, PATIENCE, config, join_all, log_of, send, wait};
use super::pace::paced;
use super::stops::Stops;
use galerna::{Config, FabricKind, Group, Mode};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A member with a new, empty disk gets the whole log from another member, and is then as good a source as that one.
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

/// Two members send all the time, while one process after the other joins as the third member and leaves again. Each is
/// delivered everything, once.
fn joins_under_load(config: &Config, members: &[(Group, List)]) {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    let go_on = move || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let _stops = Stops(stop);
        for (n, (group, _)) in members.iter().enumerate() {
            if config.log.is_some() {
                scope.spawn(move || {
                    while go_on() {
                        let version = group.checkpoint(MAIN, PATIENCE).unwrap();
                        group.trim_log(MAIN, version).unwrap();
                        // Each checkpoint is a copy of everything sent so far.
                        std::thread::sleep(Duration::from_millis(10));
                    }
                });
            }
            scope.spawn(move || {
                for i in paced().take_while(|_| go_on()) {
                    let mode = [Mode::Fifo, Mode::Ordered, Mode::Safe][i as usize % 3];
                    group.send(MAIN, mode, format!("{n}.{i}").as_bytes(), PATIENCE).unwrap();
                }
            });
        }
        for n in 0..10 {
            let before = members[n % 2].1.all();
            let address = common::addresses(FabricKind::Tcp, 1).pop();
            let (group, list) = join_all(&Config { address, ..config.clone() }, &[3]).pop().unwrap();
            let own = format!("newcomer {n}");
            group.send(MAIN, Mode::Safe, own.as_bytes(), PATIENCE).unwrap();
            wait("its message", || list.all().contains(&own));
            let told = list.all();
            let once: HashSet<_> = told.iter().collect();
            assert_eq!(once.len(), told.len(), "something was told twice");
            assert!(before.iter().all(|message| once.contains(message)), "something was not told");
            group.leave(PATIENCE).unwrap();
            if let Some(log) = &config.log {
                std::fs::remove_dir_all(log.directory.join("list-3")).unwrap();
            }
        }
    });
}

/// The source's checkpoint may cover messages of the newcomer's first view.
#[test]
fn newcomers_join_while_checkpoints_are_taken() {
    let folder = Folder::new("checkpoints");
    let config = config(&folder, FabricKind::Tcp, 2);
    let members = join_all(&config, &[1, 2]);
    // More than two segments, so that the first one is trimmed.
    for i in 0..300 {
        send(&members[0].0, &format!("{i} {}", ".".repeat(8000)));
    }
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    joins_under_load(&config, &members);
}

/// The source's state may cover messages ahead of the order.
#[test]
fn newcomers_take_states_with_messages_ahead_of_the_order() {
    let folder = Folder::new("ahead");
    let config = Config { log: None, ..config(&folder, FabricKind::Tcp, 2) };
    joins_under_load(&config, &join_all(&config, &[1, 2]));
}
