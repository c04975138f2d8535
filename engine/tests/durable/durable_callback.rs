//! Messages that became durable while a member was delivered its log.

use super::folder::Folder;
use super::group::{MAIN, PATIENCE, config, join_all, send, wait};
use galerna::{Delivery, FabricKind, Group, Handler, MemberId, Mode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The messages delivered, with their numbers, and the highest number below which everything was reported as durable.
#[derive(Default)]
struct Told {
    messages: Vec<(String, u64)>,
    below: u64,
}

#[derive(Clone, Default)]
struct Slow(Arc<Mutex<Told>>);

impl Handler for Slow {
    fn deliver(&mut self, message: Delivery<'_>) {
        let text = String::from_utf8_lossy(message.payload).into_owned();
        if text == "first" {
            std::thread::sleep(Duration::from_secs(3));
        }
        self.0.lock().unwrap().messages.push((text, message.sequence));
    }

    fn durable(&mut self, below: u64) {
        self.0.lock().unwrap().below = below;
    }
}

#[test]
fn durable_is_told_of_what_came_while_the_log_was_told() {
    let folder = Folder::new("durable");
    let config = config(&folder, FabricKind::Tcp, 2);
    let members = join_all(&config, &[1, 2]);
    send(&members[0].0, "first");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    drop(members);
    let slow = Slow::default();
    let (other, handler) = (config.clone().with_member(MemberId(2)), slow.clone());
    let second = std::thread::spawn(move || Group::join(other, handler).unwrap());
    let first = join_all(&config, &[1]).pop().unwrap().0;
    first.send(MAIN, Mode::Safe, b"late", PATIENCE).unwrap();
    first.persist(MAIN, PATIENCE).unwrap();
    let second = second.join().unwrap();
    wait("delivery", || slow.0.lock().unwrap().messages.iter().any(|(text, _)| text == "late"));
    let late = slow.0.lock().unwrap().messages.iter().find(|(text, _)| text == "late").unwrap().1;
    wait("durability", || second.frontiers(MAIN).unwrap().durable > late);
    wait("the callback", || slow.0.lock().unwrap().below > late);
}
