//! A restarting process that has to join anew: its handler must not be called with `stopped` in between.

use super::folder::Folder;
use super::group::{MAIN, PATIENCE, config, join_all, send, wait};
use super::stop_together::StopTogether;
use galerna::{Delivery, Error, FabricKind, Group, Handler, MemberId};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Handler for Told {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.0.lock().unwrap().push(format!("deliver {}", String::from_utf8_lossy(message.payload)));
    }

    fn stopped(&mut self, reason: &Error) {
        self.0.lock().unwrap().push(format!("stopped {reason}"));
    }
}

#[test]
fn a_process_that_joins_anew_was_not_told_that_it_has_stopped() {
    let folder = Folder::new("stopped");
    let mut config = config(&folder, FabricKind::Tcp, 3);
    config.log.as_mut().unwrap().restart_wait_ms = 500;
    let still = StopTogether::join(&config, &[1, 2, 3]);
    send(&still.members[0].0, "first");
    still.members[0].0.persist(MAIN, PATIENCE).unwrap();
    still.end();
    // Members 1 and 2 go on without the third.
    let two = StopTogether::join(&config, &[1, 2]);
    send(&two.members[0].0, "second");
    two.members[0].0.persist(MAIN, PATIENCE).unwrap();
    two.end();
    let others = config.clone();
    let others = std::thread::spawn(move || join_all(&others, &[1, 2]));
    let told = Told::default();
    let third = Group::join(config.clone().with_member(MemberId(3)), told.clone()).unwrap();
    let others = others.join().unwrap();
    send(&others[0].0, "third");
    let all = || told.0.lock().unwrap().clone();
    wait("delivery", || all().iter().any(|line| line == "deliver third"));
    println!("{:?}", all());
    assert_eq!(all(), ["deliver first", "deliver second", "deliver third"]);
    drop(third);
}

/// Member 3 has only the first view on disk, in which member 1 and itself are a majority. The others went on without it.
/// Neither of the two that are here may take the other for absent, or advise to begin a second group.
#[test]
fn a_log_that_is_behind_says_so_and_so_does_the_member_beside_it() {
    let folder = Folder::new("behind");
    let mut config = config(&folder, FabricKind::Tcp, 3);
    config.log.as_mut().unwrap().restart_wait_ms = 500;
    StopTogether::join(&config, &[1, 2, 3]).end();
    StopTogether::join(&config, &[1, 2]).end();
    config.join_timeout_ms = 5000;
    let start = |id| {
        let config = config.clone().with_member(MemberId(id));
        std::thread::spawn(move || Group::join(config, Told::default()).err().map(|error| error.to_string()))
    };
    let [first, third] = [1, 3].map(start).map(|joins| joins.join().unwrap().unwrap());
    let address = |id: usize| &config.members[id - 1].address;
    let waits = format!("member 1 at {} with view 1", address(1));
    assert!(third.contains("continued without this process") && third.contains(&waits), "{third}");
    assert!(!third.contains("galerna-log recover") && !third.contains("members 1"), "{third}");
    let older = format!(
        "with earlier views on disk, so that they count only if they are in view 1, wait: member 3 at {}",
        address(3)
    );
    assert!(first.contains("member 2 of view 1") && first.contains(&older), "{first}");
}
