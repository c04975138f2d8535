//! Several members in one process, for tests in which no process dies.

use super::common;
use super::folder::Folder;
use galerna::Member;
use galerna::Version;
use galerna::log::{Kind, Log, LogOptions};
use galerna::{Config, Delivery, Error, FabricKind, Group, Handler, LogConfig, MemberId, Mode, SubgroupId};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const MAIN: SubgroupId = SubgroupId(0);
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An application with the list of its deliveries as its state.
#[derive(Clone, Default)]
pub(crate) struct List(Arc<Mutex<(Vec<String>, u64)>>);

impl List {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().0.clone()
    }
}

impl Handler for List {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.0.lock().unwrap().0.push(String::from_utf8_lossy(message.payload).into_owned());
    }

    fn durable(&mut self, below: u64) {
        self.0.lock().unwrap().1 = below;
    }

    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(self.all().join("\n").into_bytes())))
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        let mut text = String::new();
        state.read_to_string(&mut text)?;
        self.0.lock().unwrap().0 = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

pub(crate) fn config(folder: &Folder, fabric: FabricKind, count: u32) -> Config {
    let addresses = common::addresses(fabric, count);
    let members = addresses.into_iter().enumerate();
    let members = members.map(|(n, address)| Member { id: MemberId(n as u32 + 1), address }).collect();
    let mut log = LogConfig::new(folder.0.join("logs"));
    log.segment_bytes = 1 << 20;
    log.restart_wait_ms = 2000;
    let mut config = Config::new("list", fabric, members).with_log(log);
    (config.ring_bytes, config.verbs, config.join_timeout_ms) = (1 << 16, common::patient_verbs(), 20_000);
    config
}

pub(crate) fn join_all(config: &Config, ids: &[u32]) -> Vec<(Group, List)> {
    let joins: Vec<_> = ids
        .iter()
        .map(|&id| {
            let (config, list) = (config.clone().with_member(MemberId(id)), List::default());
            std::thread::spawn(move || (Group::join(config, list.clone()).unwrap(), list))
        })
        .collect();
    joins.into_iter().map(|join| join.join().unwrap()).collect()
}

pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The log on a member's disk: versions, times and bytes.
pub(crate) fn log_of(group: &Group) -> Vec<(Version, u64, Vec<u8>)> {
    let entries = group.read_log(MAIN).unwrap().iter(..).map(|entry| entry.unwrap());
    entries.map(|entry| (entry.version(), entry.time_ns(), entry.to_vec())).collect()
}

pub(crate) fn send(group: &Group, text: &str) {
    group.send(MAIN, Mode::Durable, text.as_bytes(), PATIENCE).unwrap();
}

#[test]
fn a_group_comes_back_with_what_was_durable() {
    for fabric in common::fabrics() {
        let folder = Folder::new(&format!("back-{fabric}"));
        let config = config(&folder, fabric, 3);
        let mut expected = Vec::new();
        for life in 0..3 {
            let members = join_all(&config, &[1, 2, 3]);
            for (n, (group, _)) in members.iter().enumerate() {
                for i in 0..20 {
                    send(group, &format!("{life}.{n}.{i}"));
                }
                group.persist(MAIN, PATIENCE).unwrap();
            }
            for (_, list) in &members {
                wait("delivery", || list.all().len() == 60 * (life + 1));
            }
            let all = members[0].1.all();
            assert!(members.iter().all(|(_, list)| list.all() == all), "{fabric}");
            assert!(all.starts_with(&expected), "{fabric}: what was there before is there, and first");
            expected = all;
            let frontiers = members[0].0.frontiers(MAIN).unwrap();
            assert!(frontiers.durable > 60 && frontiers.persisted >= frontiers.durable, "{frontiers:?}");
            wait("the callback", || members[0].1.0.lock().unwrap().1 >= frontiers.durable);
            // Dropped without a leave: to the others, each member fails.
            drop(members);
        }
    }
}

#[test]
fn a_member_that_comes_back_alone_fetches_what_it_missed() {
    let folder = Folder::new("alone");
    let config = config(&folder, FabricKind::Tcp, 3);
    let mut members = join_all(&config, &[1, 2, 3]);
    send(&members[0].0, "before");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    let (gone, _) = members.pop().unwrap();
    drop(gone);
    wait("the removal", || members[0].0.view().members.len() == 2);
    for i in 0..50 {
        send(&members[0].0, &format!("meanwhile {i}"));
    }
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    let (back, list) = join_all(&config, &[3]).pop().unwrap();
    wait("the vote", || back.view().members.len() == 3 && list.all().len() == 51);
    send(&back, "after");
    back.persist(MAIN, PATIENCE).unwrap();
    wait("delivery", || list.all().len() == 52);
    wait("delivery", || members[0].1.all().len() == 52);
    assert_eq!(list.all(), members[0].1.all());
    let logs = [&members[0].0, &back].map(log_of);
    let common = logs[0].len().min(logs[1].len());
    assert_eq!(logs[0][..common], logs[1][..common]);
    assert!(common > 52);
}

#[test]
fn a_checkpoint_shortens_what_is_told_again() {
    let folder = Folder::new("checkpoint");
    let config = config(&folder, FabricKind::Tcp, 2);
    let members = join_all(&config, &[1, 2]);
    for i in 0..30 {
        send(&members[0].0, &format!("old {i}"));
    }
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    wait("delivery", || members.iter().all(|(_, list)| list.all().len() == 30));
    for (group, _) in &members {
        let version = group.checkpoint(MAIN, PATIENCE).unwrap();
        group.trim_log(MAIN, version).unwrap();
        assert!(group.trim_log(MAIN, Version { view: version.view + 1, ..version }).is_err());
    }
    send(&members[1].0, "new");
    members[1].0.persist(MAIN, PATIENCE).unwrap();
    let all = members[1].1.all();
    drop(members);
    let members = join_all(&config, &[2, 1]);
    assert!(members.iter().all(|(_, list)| list.all() == all), "{:?}", members[0].1.all());
}

#[test]
fn too_few_say_whom_they_wait_for_and_the_rest_makes_enough() {
    let folder = Folder::new("few");
    let mut config = config(&folder, FabricKind::Tcp, 3);
    let members = join_all(&config, &[1, 2, 3]);
    send(&members[2].0, "kept");
    members[2].0.persist(MAIN, PATIENCE).unwrap();
    drop(members);
    config.join_timeout_ms = 1500;
    let refused = Group::join(config.clone().with_member(MemberId(2)), List::default()).err().unwrap();
    assert!(matches!(&refused, Error::Missing { missing, .. } if missing.contains("1, 3")), "{refused}");
    config.join_timeout_ms = 20_000;
    let members = join_all(&config, &[3, 1]);
    assert!(members.iter().all(|(_, list)| list.all() == ["kept"]));
    assert_eq!(members[0].0.view().members.len(), 2);
    let late = join_all(&config, &[2]).pop().unwrap();
    assert_eq!(late.1.all(), ["kept"]);
}

#[test]
fn everybody_leaves_and_comes_back() {
    let folder = Folder::new("leave");
    let config = config(&folder, FabricKind::Tcp, 2);
    for life in 0..3 {
        let members = join_all(&config, &[1, 2]);
        assert_eq!(members[0].1.all().len(), life);
        send(&members[0].0, &format!("{life}"));
        members[0].0.persist(MAIN, PATIENCE).unwrap();
        let leaves: Vec<_> =
            members.into_iter().map(|(group, _)| std::thread::spawn(move || group.leave(PATIENCE).unwrap())).collect();
        leaves.into_iter().for_each(|leave| leave.join().unwrap());
    }
}

#[test]
fn reads_by_time_are_the_same_everywhere() {
    let folder = Folder::new("time");
    let config = config(&folder, FabricKind::Tcp, 3);
    let members = join_all(&config, &[1, 2, 3]);
    for round in 0..5 {
        for (n, (group, _)) in members.iter().enumerate() {
            send(group, &format!("{round}.{n}"));
            group.persist(MAIN, PATIENCE).unwrap();
        }
    }
    let last = members[0].0.read_log(MAIN).unwrap();
    let time_ns = last.get(last.end().unwrap()).unwrap().unwrap().time_ns();
    let upto: Vec<Vec<_>> = members
        .iter()
        .map(|(group, _)| {
            group.wait_closed(MAIN, time_ns, PATIENCE).unwrap();
            let log = group.read_log(MAIN).unwrap();
            let end = log.at_time(time_ns).unwrap().unwrap().version();
            log.iter(..=end).map(|entry| entry.unwrap().version()).collect()
        })
        .collect();
    assert!(upto.iter().all(|log| *log == upto[0]), "{upto:?}");
    let messages = last.iter(..).filter(|e| e.as_ref().unwrap().record().kind == Kind::Message).count();
    assert_eq!(messages, 15);
    // The closed time of a quiet group goes on with its clock.
    let later_ns = members[1].0.frontiers(MAIN).unwrap().closed_ns + 100_000_000;
    members[1].0.wait_closed(MAIN, later_ns, PATIENCE).unwrap();
}

#[test]
fn durable_needs_a_log() {
    let address = common::addresses(FabricKind::Tcp, 1).remove(0);
    let config = Config::new("plain", FabricKind::Tcp, vec![Member { id: MemberId(1), address }]);
    let group = Group::join(config.with_member(MemberId(1)), List::default()).unwrap();
    let refused = group.send(MAIN, Mode::Durable, b"x", PATIENCE).unwrap_err();
    assert!(refused.to_string().contains("without a log"), "{refused}");
    assert!(group.persist(MAIN, PATIENCE).is_err() && group.read_log(MAIN).is_err());
    group.send(MAIN, Mode::Safe, b"x", PATIENCE).unwrap();
    group.flush(MAIN, galerna::Copies::All, PATIENCE).unwrap();
}

#[test]
fn a_log_that_begins_with_a_checkpoint_hands_it_on() {
    let folder = Folder::new("begins");
    let config = config(&folder, FabricKind::Tcp, 1);
    let mut members = join_all(&config, &[1]);
    // More than two segments, so that the first one is trimmed.
    for i in 0..300 {
        send(&members[0].0, &format!("{i} {}", ".".repeat(8000)));
    }
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    let version = members[0].0.checkpoint(MAIN, PATIENCE).unwrap();
    members[0].0.trim_log(MAIN, version).unwrap();
    assert!(members[0].0.read_log(MAIN).unwrap().oldest().unwrap().unwrap().sequence > 1, "nothing was trimmed");
    send(&members[0].0, "after");
    // Each newcomer takes the state from the one before it.
    for (id, address) in [2, 3].into_iter().zip(common::addresses(FabricKind::Tcp, 2)) {
        let newcomer = Config { address: Some(address), ..config.clone() };
        members.extend(join_all(&newcomer, &[id]));
        let list = &members.last().unwrap().1;
        wait("the state", || list.all() == members[0].1.all());
        wait("the vote", || members[0].0.view().members.len() == id as usize);
        send(&members[0].0, "more");
        members[0].0.persist(MAIN, PATIENCE).unwrap();
        members.iter().for_each(|(_, list)| wait("delivery", || list.all().len() == 300 + id as usize));
    }
}

#[test]
fn founders_meet_again_if_some_did_not_write_the_first_view_down() {
    let folder = Folder::new("vain");
    let config = config(&folder, FabricKind::Tcp, 3);
    drop(join_all(&config, &[1, 2, 3]));
    let directory = |id: u32| folder.0.join(format!("logs/list-{id}"));
    // Member 2 crashed before it made its log, member 3 before its log had any record.
    std::fs::remove_dir_all(directory(2)).unwrap();
    let identity = Log::identity_of(directory(3)).unwrap().unwrap();
    std::fs::remove_dir_all(directory(3)).unwrap();
    Log::open(directory(3), LogOptions { identity, ..LogOptions::default() }).unwrap().close().unwrap();
    let members = join_all(&config, &[1, 2, 3]);
    send(&members[1].0, "first");
    members[1].0.persist(MAIN, PATIENCE).unwrap();
    assert_ne!(Log::identity_of(directory(1)).unwrap(), Some(identity), "this is another group");
    drop(members);
    // Now there are messages to lose: no process founds the group again, and the process without a log waits until it
    // can join.
    std::fs::remove_dir_all(directory(2)).unwrap();
    let members = join_all(&config, &[1, 2, 3]);
    members.iter().for_each(|(_, list)| wait("delivery", || list.all() == ["first"]));
}

#[test]
fn a_restart_forgives_who_gave_up_and_comes_again() {
    let folder = Folder::new("again");
    let mut config = config(&folder, FabricKind::Tcp, 3);
    let members = join_all(&config, &[1, 2, 3]);
    send(&members[0].0, "kept");
    members[0].0.persist(MAIN, PATIENCE).unwrap();
    drop(members);
    config.join_timeout_ms = 20_000;
    let patient = config.clone();
    let first = std::thread::spawn(move || join_all(&patient, &[1]).pop().unwrap());
    // It meets the first member, and gives up before the two have waited long enough for the third.
    let hasty = Config { join_timeout_ms: 1200, ..config.clone() };
    assert!(Group::join(hasty.with_member(MemberId(2)), List::default()).is_err());
    let second = join_all(&config, &[2]).pop().unwrap();
    let first = first.join().unwrap();
    assert_eq!((first.1.all(), second.1.all()), (vec!["kept".to_owned()], vec!["kept".to_owned()]));
}
