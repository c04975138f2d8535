//! Processes that join a running group: they get the state, and then every message.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use galerna::{Config, Delivery, Error, FabricKind, Group, Handler, Member, MemberId, Mode, SubgroupId, View};
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);
const MAIN: SubgroupId = SubgroupId(0);

/// Everything that was ever delivered is the state.
#[derive(Default)]
struct Past {
    messages: Vec<(u32, u32)>,
    views: Vec<View>,
    padding: usize,
}

struct Recorder(Arc<Mutex<Past>>);

impl Handler for Recorder {
    fn deliver(&mut self, message: Delivery<'_>) {
        let number = u32::from_le_bytes(message.payload[..4].try_into().unwrap());
        self.0.lock().unwrap().messages.push((message.sender.0, number));
    }

    fn view(&mut self, view: &View) {
        self.0.lock().unwrap().views.push(view.clone());
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        let past = self.0.lock().unwrap();
        let mut bytes = vec![0; past.padding];
        bytes.extend(past.messages.iter().flat_map(|(s, n)| [s.to_le_bytes(), n.to_le_bytes()].concat()));
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let mut past = self.0.lock().unwrap();
        let mut bytes = vec![0; past.padding];
        state.read_exact(&mut bytes)?;
        past.messages.clear();
        bytes.clear();
        state.read_to_end(&mut bytes)?;
        let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
        past.messages.extend(bytes.chunks_exact(8).map(|b| (word(&b[..4]), word(&b[4..]))));
        Ok(())
    }
}

fn config(fabric: FabricKind, founders: u32) -> Config {
    let addresses = (1..=founders).zip(common::addresses(fabric, founders));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    Config { ring_bytes: 64 << 10, verbs: common::patient_verbs(), ..Config::new("joining", fabric, members) }
}

type Joined = (Group, Arc<Mutex<Past>>);

fn start(config: &Config, id: u32, padding: usize) -> Result<Joined, Error> {
    let past = Arc::new(Mutex::new(Past { padding, ..Past::default() }));
    let group = Group::join(config.clone().with_member(MemberId(id)), Recorder(past.clone()))?;
    Ok((group, past))
}

fn found(config: &Config, padding: usize) -> Vec<Joined> {
    let ids: Vec<u32> = config.members.iter().map(|member| member.id.0).collect();
    let started: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let config = config.clone();
            std::thread::spawn(move || start(&config, id, padding).unwrap())
        })
        .collect();
    started.into_iter().map(|s| s.join().unwrap()).collect()
}

/// A process that is none of the founders.
fn newcomer(config: &Config, id: u32, padding: usize) -> Result<Joined, Error> {
    let config = Config { address: Some(common::addresses(config.fabric, 1).remove(0)), ..config.clone() };
    start(&config, id, padding)
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send(group: &Group, number: u32) {
    group.send(MAIN, Mode::Safe, &number.to_le_bytes(), LONG).unwrap();
}

fn same_past(members: &[&Joined], messages: usize) {
    for member in members {
        wait_for("all messages", || member.1.lock().unwrap().messages.len() >= messages);
    }
    let first = members[0].1.lock().unwrap().messages.clone();
    assert_eq!(first.len(), messages);
    for member in members {
        assert!(member.1.lock().unwrap().messages == first, "another history");
    }
}

#[test]
fn a_newcomer_gets_the_state_and_then_every_message() {
    for fabric in common::fabrics() {
        let config = config(fabric, 3);
        let members = found(&config, 0);
        (0..100).for_each(|n| members.iter().for_each(|(group, _)| send(group, n)));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (joiner, sent) = std::thread::scope(|scope| {
            // Under load, so that messages come while the state does.
            let senders: Vec<_> = members
                .iter()
                .map(|(group, _)| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let mut n = 100;
                        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                            send(group, n);
                            n += 1;
                        }
                        n as usize
                    })
                })
                .collect();
            let joiner = newcomer(&config, 9, 0).unwrap();
            (0..50).for_each(|n| send(&joiner.0, n));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (joiner, senders.into_iter().map(|s| s.join().unwrap()).sum::<usize>())
        });
        let all: Vec<&Joined> = members.iter().chain([&joiner]).collect();
        same_past(&all, sent + 50);
        // It becomes a voter in a view of its own.
        for (group, past) in &all {
            wait_for("the view in which it votes", || group.view().number >= 2);
            let joined: Vec<_> = past.lock().unwrap().views.iter().flat_map(|view| view.joined.clone()).collect();
            assert!(joined.contains(&MemberId(9)), "{fabric}: {joined:?}");
        }
    }
}

#[test]
fn a_founder_that_died_comes_back_as_a_newcomer() {
    for fabric in common::fabrics() {
        for id in [1, 3] {
            let config = config(fabric, 3);
            let mut members = found(&config, 0);
            members.iter().for_each(|(group, _)| send(group, 7));
            drop(members.remove(id as usize - 1));
            let back = start(&config, id, 0).unwrap();
            send(&back.0, 8);
            let all: Vec<&Joined> = members.iter().chain([&back]).collect();
            wait_for("its message", || members[0].1.lock().unwrap().messages.contains(&(id, 8)));
            let count = members[0].1.lock().unwrap().messages.len();
            same_past(&all, count);
        }
    }
}

#[test]
fn several_join_at_once_while_one_founder_leaves() {
    let config = config(FabricKind::Tcp, 3);
    let mut members = found(&config, 1 << 20);
    let joiners: Vec<_> = (10..14)
        .map(|id| {
            let config = config.clone();
            std::thread::spawn(move || newcomer(&config, id, 1 << 20).unwrap())
        })
        .collect();
    members.remove(0).0.leave(LONG).unwrap();
    members.extend(joiners.into_iter().map(|joiner| joiner.join().unwrap()));
    members.iter().for_each(|(group, _)| send(group, 1));
    same_past(&members.iter().collect::<Vec<_>>(), 6);
}

#[test]
fn a_joiner_with_another_configuration_or_a_living_id_is_refused() {
    let mut config = config(FabricKind::Tcp, 2);
    let members = found(&config, 0);
    let other = Config { ring_bytes: 128 << 10, ..config.clone() };
    let error = newcomer(&other, 9, 0).err().unwrap();
    assert!(matches!(&error, Error::Disagreement { key, .. } if key == "ring_bytes"), "{error}");
    config.join_timeout_ms = 1000;
    let (group, _) = newcomer(&Config { join_timeout_ms: 30_000, ..config.clone() }, 9, 0).unwrap();
    let error = newcomer(&config, 9, 0).err().unwrap();
    assert!(error.to_string().contains("a member of this id is in the group"), "{error}");
    drop((group, members));
}

#[test]
fn a_state_that_cannot_be_restored_ends_the_join_and_nothing_else() {
    let config = config(FabricKind::Tcp, 3);
    let members = found(&config, 0);
    send(&members[0].0, 1);
    // It expects more than there is.
    let hasty = Config { join_timeout_ms: 2000, ..config.clone() };
    let error = newcomer(&hasty, 9, 1 << 20).err().unwrap();
    assert!(matches!(error, Error::StateTransfer(_)), "{error}");
    for (group, _) in &members {
        wait_for("the view without it", || group.view().members.len() == 3 && group.view().number >= 2);
    }
    send(&members[1].0, 2);
    same_past(&members.iter().collect::<Vec<_>>(), 2);
}
