//! Processes that join a running group: they get the state, and then every message.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/pace.rs"]
mod pace;
#[path = "common/stops.rs"]
mod stops;

use galerna::{Config, Delivery, Error, FabricKind, Group, Handler, Member, MemberId, Mode, SubgroupId, View};
use pace::paced;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stops::Stops;

const LONG: Duration = Duration::from_secs(30);
const MAIN: SubgroupId = SubgroupId(0);

/// An application with all its past deliveries as its state.
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

/// Starts a process that is not a founder.
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
        let stop = AtomicBool::new(false);
        let (joiner, sent) = std::thread::scope(|scope| {
            let stops = Stops(&stop);
            // Under load, so that messages arrive during the state transfer.
            let senders: Vec<_> = members
                .iter()
                .map(|(group, _)| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let more = paced().take_while(|_| !stop.load(Ordering::Relaxed));
                        100 + more.inspect(|n| send(group, 100 + *n as u32)).count()
                    })
                })
                .collect();
            let joiner = newcomer(&config, 9, 0).unwrap();
            (0..50).for_each(|n| send(&joiner.0, n));
            drop(stops);
            (joiner, senders.into_iter().map(|s| s.join().unwrap()).sum::<usize>())
        });
        assert_eq!(joiner.0.view().voters, [1, 2, 3, 9].map(MemberId), "{fabric}: the join returns with the vote");
        let all: Vec<&Joined> = members.iter().chain([&joiner]).collect();
        same_past(&all, sent + 50);
        // The joiner is a member in one view, and a voter from the next one on.
        for (group, past) in &all {
            wait_for("the view in which it votes", || group.view().number >= 2);
            let joined: Vec<_> = past.lock().unwrap().views.iter().flat_map(|view| view.joined.clone()).collect();
            assert!(joined.contains(&MemberId(9)), "{fabric}: {joined:?}");
            let views = past.lock().unwrap().views.clone();
            let learns = views.iter().find(|view| view.joined == [MemberId(9)]).unwrap();
            assert_eq!((learns.members.len(), learns.voters.len()), (4, 3), "{fabric}: {learns:?}");
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

/// An operator changes timeouts and addresses by restarting one member after the other.
#[test]
fn timeouts_and_addresses_change_member_by_member() {
    let mut config = config(FabricKind::Tcp, 3);
    let mut members = found(&config, 0);
    (config.failure_timeout_ms, config.partition_timeout_ms) = (6000, 20_000);
    for (place, address) in common::addresses(FabricKind::Tcp, 3).into_iter().enumerate() {
        members.iter().for_each(|(group, _)| send(group, 7));
        members.remove(0).0.leave(LONG).unwrap();
        // Its file has the new address; the files of the others still have the old one.
        config.members[place].address = address;
        members.push(start(&config, place as u32 + 1, 0).unwrap());
    }
    // A process with only the new addresses in its file finds the group.
    members.push(newcomer(&config, 9, 0).unwrap());
    members.iter().for_each(|(group, _)| send(group, 8));
    same_past(&members.iter().collect::<Vec<_>>(), 3 * 3 + 4);
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
    config.join_timeout_ms = 30_000;
    let (group, _) = newcomer(&config, 9, 0).unwrap();
    // The deadline may pass at any moment: between two attempts, or while a question waits for its answer.
    let refused = &|join_timeout_ms| {
        let config = Config { join_timeout_ms, ..config.clone() };
        let error = newcomer(&config, 9, 0).err().unwrap();
        assert!(error.to_string().contains("a member of this id is in the group"), "{join_timeout_ms} ms: {error}");
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (0..10).for_each(|turn| refused(700 + 10 * turn + 3 * thread)));
        }
    });
    drop((group, members));
}

#[test]
fn a_state_that_cannot_be_restored_ends_the_join_and_nothing_else() {
    let config = config(FabricKind::Tcp, 3);
    let members = found(&config, 0);
    send(&members[0].0, 1);
    // Its `restore` expects more bytes than the state has.
    let hasty = Config { join_timeout_ms: 2000, ..config.clone() };
    let error = newcomer(&hasty, 9, 1 << 20).err().unwrap();
    assert!(matches!(error, Error::StateTransfer(_)), "{error}");
    for (group, _) in &members {
        wait_for("the view without it", || group.view().members.len() == 3 && group.view().number >= 2);
    }
    send(&members[1].0, 2);
    same_past(&members.iter().collect::<Vec<_>>(), 2);
}

/// An application with many short callbacks, and with a `restore` that waits.
struct Slow {
    callback: Duration,
    heard: Arc<AtomicUsize>,
    restoring: Arc<AtomicBool>,
    restores: Arc<AtomicBool>,
}

impl Handler for Slow {
    fn deliver(&mut self, _message: Delivery<'_>) {
        std::thread::sleep(self.callback);
        self.heard.fetch_add(1, Ordering::SeqCst);
    }

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        io::copy(state, &mut io::sink())?;
        self.restoring.store(true, Ordering::SeqCst);
        while !self.restores.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// More callbacks in a row than fit between two heartbeats.
#[test]
fn many_short_callbacks_do_not_make_a_member_look_dead() {
    const MESSAGES: u32 = 600;
    let mut config = config(FabricKind::Tcp, 2);
    (config.ring_bytes, config.failure_timeout_ms, config.join_timeout_ms) = (256 << 10, 3000, 60_000);
    let members = found(&config, 0);
    let (heard, restores) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let restoring = Arc::new(AtomicBool::new(false));
    let (told, begun, goes_on) = (heard.clone(), restoring.clone(), restores.clone());
    let slow = Slow { callback: Duration::from_millis(10), heard: told, restoring: begun, restores: goes_on };
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let newcomer = Config { address, ..config }.with_member(MemberId(9));
    let joins = std::thread::spawn(move || Group::join(newcomer, slow));
    wait_for("the state, which covers nothing of what follows", || restoring.load(Ordering::SeqCst));
    // All messages arrive during the state transfer, and are delivered in the catch-up.
    (0..MESSAGES).for_each(|n| send(&members[0].0, n));
    members[0].0.flush(MAIN, galerna::Copies::All, LONG).unwrap();
    restores.store(true, Ordering::SeqCst);
    let joined = joins.join().unwrap().unwrap();
    assert_eq!(heard.load(Ordering::SeqCst), MESSAGES as usize);
    // These messages are delivered as they arrive.
    (0..MESSAGES).for_each(|n| send(&members[1].0, n));
    wait_for("the slow member's deliveries", || heard.load(Ordering::SeqCst) == 2 * MESSAGES as usize);
    for group in [&joined, &members[0].0, &members[1].0] {
        assert_eq!(group.view().members.len(), 3, "{:?}", group.view());
        assert!(group.stopped().is_none());
    }
}

/// Every joiner links itself with all members. A member that cannot be reached would lock all others out.
#[test]
fn a_joiner_that_cannot_be_reached_is_refused_and_locks_nobody_out() {
    for fabric in [FabricKind::Tcp, FabricKind::Shm] {
        let config = config(fabric, 2);
        let _members = found(&config, 0);
        let wrong = |address: &str, id| {
            let listen = common::addresses(fabric, 1).pop();
            start(&Config { address: Some(address.to_owned()), listen, ..config.clone() }, id, 0).err().unwrap()
        };
        let nobody = common::addresses(fabric, 1).remove(0);
        let error = wrong(&nobody, 8);
        assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains(&nobody), "{fabric}: {error}");
        let address = common::addresses(fabric, 1).remove(0);
        let ninth = start(&Config { address: Some(address.clone()), ..config.clone() }, 9, 0).unwrap();
        // The address of another member.
        let error = wrong(&address, 8);
        assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains(&address), "{fabric}: {error}");
        let tenth = newcomer(&config, 10, 0).unwrap();
        assert_eq!(tenth.0.view().voters, [1, 2, 9, 10].map(MemberId), "{fabric}");
        drop(ninth);
    }
}

/// Forwards connections to a member, except those of processes that want to link themselves with it.
fn one_way(to: String) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, to) = (stream.unwrap(), to.clone());
            std::thread::spawn(move || -> io::Result<()> {
                let mut first = [0; 4096];
                let n = stream.read(&mut first)?;
                if String::from_utf8_lossy(&first[..n]).contains("[Link]") {
                    return Ok(());
                }
                let mut other = std::net::TcpStream::connect(to)?;
                io::Write::write_all(&mut other, &first[..n])?;
                let (mut from, mut into) = (other.try_clone()?, stream.try_clone()?);
                std::thread::spawn(move || io::copy(&mut from, &mut into));
                io::copy(&mut stream, &mut other)?;
                Ok(())
            });
        }
    });
    address
}

#[test]
fn a_member_that_a_joiner_cannot_dial_dials_the_joiner() {
    let mut config = config(FabricKind::Tcp, 3);
    let real = std::mem::take(&mut config.members[1].address);
    config.members[1].address = one_way(real.clone());
    let founders = [1, 2, 3].map(|id| {
        let listen = (id == 2).then(|| real.clone());
        let config = Config { listen, ..config.clone() };
        std::thread::spawn(move || start(&config, id, 0).unwrap())
    });
    let members = founders.map(|founder| founder.join().unwrap());
    let ninth = newcomer(&config, 9, 0).unwrap();
    send(&members[1].0, 1);
    send(&ninth.0, 2);
    let all: Vec<&Joined> = members.iter().chain([&ninth]).collect();
    same_past(&all, 2);
}

#[test]
fn what_is_missing_is_said_with_the_whole_wait() {
    let config = Config { join_timeout_ms: 1200, ..config(FabricKind::Tcp, 2) };
    let error = start(&config, 1, 0).err().unwrap();
    assert!(matches!(error, Error::Missing { after_ms: 1200, .. }), "{error}");
}

/// The joiner's callbacks take longer than the interval of the messages, so its catch-up would never end.
#[test]
fn a_joiner_that_is_too_slow_for_the_group_gives_up() {
    let mut config = config(FabricKind::Tcp, 2);
    (config.failure_timeout_ms, config.join_timeout_ms) = (3000, 5000);
    let members = found(&Config { join_timeout_ms: 30_000, ..config.clone() }, 0);
    let (heard, restores) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let slow =
        Slow { callback: Duration::from_millis(40), heard, restoring: Arc::default(), restores: restores.clone() };
    let address = common::addresses(FabricKind::Tcp, 1).pop();
    let newcomer = Config { address, ..config }.with_member(MemberId(9));
    let joins = std::thread::spawn(move || Group::join(newcomer, slow).err());
    for n in 0..20_000u32 {
        if joins.is_finished() {
            break;
        }
        send(&members[0].0, n);
        // More messages arrived during the state transfer than it can deliver until the deadline.
        let is_member = members[0].0.view().members.len() == 3;
        restores.fetch_or(is_member && n > 500, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(3));
    }
    match joins.join().unwrap() {
        Some(Error::StateTransfer(what)) => assert!(what.contains("has not caught up"), "{what}"),
        other => panic!("{other:?}"),
    }
    wait_for("the view without it", || members[0].0.view().members.len() == 2 && members[0].0.view().number >= 2);
}
