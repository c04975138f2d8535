//! Joins that do not block: in a thread of the library, and driven by the application; cancellations.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use galerna::{Config, Copies, Delivery, Driver, Error, FabricKind, Group, Handler, Joining, Member, MemberId, Mode};
use galerna::{SubgroupId, View};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(60);

/// The callbacks of an application, and the threads in which they were called.
#[derive(Default)]
struct Told {
    messages: Vec<u8>,
    state: Vec<u8>,
    views: Vec<Vec<u32>>,
    threads: Vec<ThreadId>,
}

struct App(Arc<Mutex<Told>>);

impl App {
    fn note(&self, note: impl FnOnce(&mut Told)) {
        let mut told = self.0.lock().unwrap();
        told.threads.push(std::thread::current().id());
        note(&mut told);
    }
}

impl Handler for App {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.note(|told| told.messages.extend(message.payload));
    }

    fn view(&mut self, view: &View) {
        self.note(|told| told.views.push(view.members.iter().map(|id| id.0).collect()));
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        let told = self.0.lock().unwrap();
        Ok(Box::new(io::Cursor::new([&told.state[..], &told.messages[..]].concat())))
    }

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes)?;
        self.note(|told| told.state = bytes);
        Ok(())
    }
}

fn configs(fabric: FabricKind, n: u32) -> Vec<Config> {
    let addresses = (1..=n).zip(common::addresses(fabric, n));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    let mut config = Config::new("starting", fabric, members);
    config.ring_bytes = 64 << 10;
    config.verbs = common::patient_verbs();
    (1..=n).map(|id| config.clone().with_member(MemberId(id))).collect()
}

/// Begins to join in a thread of the library.
fn start(config: &Config) -> (galerna::Starting, Receiver<Result<Group, Error>>, Arc<Mutex<Told>>) {
    let told = Arc::<Mutex<Told>>::default();
    let (done, joined) = channel();
    let starting = Group::join_start(config.clone(), App(told.clone()), move |result| {
        let _ = done.send(result);
    });
    (starting.unwrap(), joined, told)
}

/// Dispatches whenever the descriptor is readable, until the join is over.
fn drive(joining: &mut Joining) -> Result<(Group, Driver), Error> {
    let deadline = Instant::now() + LONG;
    loop {
        assert!(Instant::now() < deadline, "the join does not end");
        let fd = joining.fd().unwrap();
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        if nix::poll::poll(&mut fds, PollTimeout::from(5000u16)).unwrap() == 0 {
            continue;
        }
        if let Some(joined) = joining.dispatch()? {
            return Ok(joined);
        }
    }
}

#[test]
fn founders_and_a_joiner_start_without_blocking() {
    for fabric in common::fabrics() {
        let configs = configs(fabric, 3);
        let begin = Instant::now();
        let founders: Vec<_> = configs.iter().map(start).collect();
        assert!(begin.elapsed() < Duration::from_secs(2), "no start waits for the others");
        let groups: Vec<_> =
            founders.iter().map(|(_, joined, _)| joined.recv_timeout(LONG).unwrap().unwrap()).collect();
        groups[0].send(MAIN, Mode::Safe, b"a", LONG).unwrap();
        groups[0].flush(MAIN, Copies::All, LONG).unwrap();
        // A cancellation after the join has no effect.
        founders[0].0.cancel();
        drop(founders);
        groups[2].leave(LONG).unwrap();

        let told = Arc::<Mutex<Told>>::default();
        let mut joining = Group::join_start_driven(configs[2].clone(), App(told.clone())).unwrap();
        let fd = joining.fd().unwrap().as_raw_fd();
        let (group, mut driver) = drive(&mut joining).unwrap();
        drop(joining);
        assert_eq!(driver.fd().as_raw_fd(), fd, "one descriptor for the whole life");
        groups[1].send(MAIN, Mode::Safe, b"b", LONG).unwrap();
        group.send(MAIN, Mode::Safe, b"c", Duration::ZERO).unwrap();
        let done = || told.lock().unwrap().messages.len() == 2;
        let deadline = Instant::now() + LONG;
        while !done() {
            assert!(Instant::now() < deadline);
            let mut fds = [PollFd::new(driver.fd(), PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, PollTimeout::from(5000u16)).unwrap();
            driver.dispatch().unwrap();
        }
        let told = told.lock().unwrap();
        assert_eq!(told.state, b"a");
        assert!(told.messages == b"bc" || told.messages == b"cb", "{:?}", told.messages);
        assert_eq!(told.views.last().unwrap(), &[1, 2, 3]);
        let me = std::thread::current().id();
        assert!(told.threads.iter().all(|thread| *thread == me), "callbacks run in dispatch only");
        drop(told);
        driver.leave(LONG).unwrap();
    }
}

#[test]
fn a_wait_for_others_is_cancelled() {
    let configs = configs(FabricKind::Tcp, 2);
    let (starting, joined, _) = start(&configs[0]);
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    starting.cancel();
    assert!(matches!(joined.recv_timeout(LONG).unwrap(), Err(Error::Left)));
    drop(starting);
    // Dropping it cancels, too, and waits for the end: the address is free then.
    let (starting, joined, _) = start(&configs[0]);
    std::thread::sleep(Duration::from_millis(300));
    drop(starting);
    assert!(matches!(joined.try_recv().unwrap(), Err(Error::Left)));
    let mut joining = Group::join_start_driven(configs[0].clone(), |_: Delivery<'_>| {}).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    joining.cancel();
    assert!(matches!(drive(&mut joining), Err(Error::Left)));
    drop(Group::join_start_driven(configs[0].clone(), |_: Delivery<'_>| {}).unwrap());
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    // Nothing remains in the way of a later join.
    let members: Vec<_> = configs.iter().map(start).collect();
    for (_, joined, _) in &members {
        joined.recv_timeout(LONG).unwrap().unwrap();
    }
}

/// A joiner is cancelled while its callbacks are not made: it leaves, and the group goes on.
#[test]
fn a_joiner_is_cancelled_in_the_middle_of_its_callbacks() {
    let configs = configs(FabricKind::Tcp, 3);
    let members: Vec<_> = configs.iter().map(start).collect();
    let groups: Vec<_> = members.iter().map(|(_, joined, _)| joined.recv_timeout(LONG).unwrap().unwrap()).collect();
    groups[2].leave(LONG).unwrap();
    // Its state is there, and nobody dispatches.
    groups[0].send(MAIN, Mode::Safe, b"state", LONG).unwrap();
    let joining = Group::join_start_driven(configs[2].clone(), App(Arc::default())).unwrap();
    let deadline = Instant::now() + LONG;
    while !groups[0].view().members.contains(&MemberId(3)) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(joining);
    while groups[0].view().members.contains(&MemberId(3)) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    groups[0].send(MAIN, Mode::Safe, b"goes on", LONG).unwrap();
    groups[0].flush(MAIN, Copies::All, LONG).unwrap();
}

#[test]
fn a_callback_that_panics_ends_the_join() {
    let configs = configs(FabricKind::Shm, 1);
    struct Panics;
    impl Handler for Panics {
        fn deliver(&mut self, _: Delivery<'_>) {}
        fn view(&mut self, _: &View) {
            panic!("on purpose");
        }
    }
    let mut joining = Group::join_start_driven(configs[0].clone(), Panics).unwrap();
    let ended = drive(&mut joining).err().unwrap();
    assert!(matches!(&ended, Error::CallbackPanicked(text) if text.contains("on purpose")), "{ended}");
    drop(joining);
    let (done, joined) = channel();
    let _starting = Group::join_start(configs[0].clone(), Panics, move |result| done.send(result).unwrap()).unwrap();
    let ended = joined.recv_timeout(LONG).unwrap().err().unwrap();
    assert!(matches!(&ended, Error::CallbackPanicked(text) if text.contains("on purpose")), "{ended}");
}

#[test]
fn a_wrong_configuration_is_refused_at_once() {
    let mut config = configs(FabricKind::Tcp, 1).remove(0);
    config.ring_bytes = 5000;
    let refused = Group::join_start_driven(config.clone(), |_: Delivery<'_>| {}).err();
    assert!(matches!(refused, Some(Error::Config(_))), "{refused:?}");
    let refused = Group::join_start(config, |_: Delivery<'_>| {}, |_| {}).err();
    assert!(matches!(refused, Some(Error::Config(_))), "{refused:?}");
}

/// Waits on the descriptor and dispatches until that fails.
fn drive_to_the_end(driver: &mut Driver) -> Error {
    let deadline = Instant::now() + LONG;
    loop {
        assert!(Instant::now() < deadline, "the leave does not end");
        let mut fds = [PollFd::new(driver.fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::from(5000u16)).unwrap();
        if let Err(error) = driver.dispatch() {
            return error;
        }
    }
}

fn told_of_leave(group: &Group, timeout: Duration) -> Receiver<Result<(), Error>> {
    let (done, left) = channel();
    group.leave_start(timeout, move |result| done.send(result).unwrap()).unwrap();
    assert!(matches!(group.leave_start(timeout, |_| panic!("a second leave")), Err(Error::Left)));
    left
}

#[test]
fn a_leave_does_not_block() {
    for fabric in common::fabrics() {
        let configs = configs(fabric, 3);
        let members: Vec<_> = configs.iter().map(start).collect();
        let groups: Vec<_> = members.iter().map(|(_, joined, _)| joined.recv_timeout(LONG).unwrap().unwrap()).collect();
        drop(members);
        for i in 0..50 {
            groups[2].send(MAIN, Mode::Safe, &[i], LONG).unwrap();
        }
        let left = told_of_leave(&groups[2], LONG);
        assert!(matches!(groups[2].send(MAIN, Mode::Safe, b"late", LONG), Err(Error::Left)));
        left.recv_timeout(LONG).unwrap().unwrap();
        // The application drives the next one.
        let mut joining = Group::join_start_driven(configs[2].clone(), App(Arc::default())).unwrap();
        let (group, mut driver) = drive(&mut joining).unwrap();
        let left = told_of_leave(&group, LONG);
        assert!(left.try_recv().is_err(), "nothing happens before a dispatch");
        let ended = drive_to_the_end(&mut driver);
        assert!(matches!(ended, Error::Left), "{ended}");
        left.try_recv().unwrap().unwrap();
        assert!(matches!(driver.dispatch(), Err(Error::Left)), "the end stays");
        drop(driver);
        groups[0].send(MAIN, Mode::Safe, b"goes on", LONG).unwrap();
        groups[0].flush(MAIN, Copies::All, LONG).unwrap();
        assert!(groups[0].view().left.contains(&MemberId(3)), "{:?}", groups[0].view());
    }
}

/// The others do not answer: the leave ends at its time limit, and says so. A driver that is dropped says so, too.
#[test]
fn a_leave_that_is_not_finished_is_told() {
    let mut configs = configs(FabricKind::Tcp, 2);
    for config in &mut configs {
        (config.failure_timeout_ms, config.partition_timeout_ms) = (60_000, 60_000);
    }
    let mut members = Vec::new();
    let mut joinings: Vec<_> =
        configs.iter().map(|config| Group::join_start_driven(config.clone(), |_: Delivery<'_>| {}).unwrap()).collect();
    let deadline = Instant::now() + LONG;
    while members.len() < 2 {
        assert!(Instant::now() < deadline);
        joinings.retain_mut(|joining| match joining.dispatch().unwrap() {
            Some(member) => {
                members.push(member);
                false
            }
            None => true,
        });
        for (_, driver) in &mut members {
            driver.dispatch().unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // From here on only one of the two is driven.
    let (idle, mut driven) = (members.remove(0), members.remove(0));
    let left = told_of_leave(&driven.0, Duration::from_millis(300));
    let ended = drive_to_the_end(&mut driven.1);
    assert!(matches!(ended, Error::Left), "{ended}");
    let result = left.try_recv().unwrap();
    assert!(matches!(result, Err(Error::TimedOut { after_ms: 300, .. })), "{result:?}");
    let left = told_of_leave(&idle.0, LONG);
    drop(idle.1);
    assert!(matches!(left.try_recv().unwrap(), Err(Error::Left)));
}

/// A callback can begin the leave of its own group.
#[test]
fn a_leave_begins_inside_a_callback() {
    struct Leaves(Arc<Mutex<Option<Group>>>, std::sync::mpsc::Sender<Result<(), Error>>);
    impl Handler for Leaves {
        fn deliver(&mut self, message: Delivery<'_>) {
            if let (b"leave", Some(group)) = (message.payload, &*self.0.lock().unwrap()) {
                let told = self.1.clone();
                group.leave_start(LONG, move |result| told.send(result).unwrap()).unwrap();
            }
        }
    }
    let configs = configs(FabricKind::Shm, 2);
    let (slot, (told, left)) = (Arc::new(Mutex::new(None)), channel());
    let (done, joined) = channel();
    let handler = Leaves(slot.clone(), told);
    let starting = Group::join_start(configs[1].clone(), handler, move |result| done.send(result).unwrap()).unwrap();
    let (other, other_joined, _) = start(&configs[0]);
    let group = joined.recv_timeout(LONG).unwrap().unwrap();
    let other_group = other_joined.recv_timeout(LONG).unwrap().unwrap();
    *slot.lock().unwrap() = Some(group);
    other_group.send(MAIN, Mode::Safe, b"leave", LONG).unwrap();
    left.recv_timeout(LONG).unwrap().unwrap();
    drop((starting, other, slot.lock().unwrap().take()));
}

/// The environment variable that gives the addresses to the process of the members that are stopped.
const STOPPED: &str = "GALERNA_STARTING_STOPPED";

fn pair_of(fabric: FabricKind, addresses: &str) -> Config {
    let members = (1..).zip(addresses.split(',')).map(|(id, at)| Member { id: MemberId(id), address: at.to_owned() });
    let mut config = Config::new("stopped", fabric, members.collect());
    config.ring_bytes = 64 << 10;
    (config.failure_timeout_ms, config.partition_timeout_ms) = (60_000, 60_000);
    config
}

/// Runs in the process that the test below starts; returns at once elsewhere.
#[test]
fn members_that_are_stopped() {
    let Ok(addresses) = std::env::var(STOPPED) else { return };
    let fabric = if addresses.starts_with("unix:") { FabricKind::Shm } else { FabricKind::Tcp };
    let config = pair_of(fabric, &addresses);
    let join = |id| {
        let config = config.clone().with_member(MemberId(id));
        std::thread::spawn(move || Group::join(config, |_: Delivery<'_>| {}).unwrap())
    };
    let groups = [1, 2].map(join).map(|thread| thread.join().unwrap());
    println!("ready");
    let _ = io::stdin().read(&mut [0]);
    drop(groups);
}

/// The members stand still in the middle of a join, and the join is cancelled: that does not wait for their answers.
#[test]
fn a_cancellation_waits_for_no_member_that_stands_still() {
    use nix::sys::signal::{Signal, kill};
    for fabric in [FabricKind::Tcp, FabricKind::Shm] {
        let addresses = common::addresses(fabric, 3);
        let (founders, own) = (addresses[..2].join(","), addresses[2].clone());
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["members_that_are_stopped", "--exact", "--nocapture", "--test-threads=1"]);
        let piped = std::process::Stdio::piped;
        let mut child = child.env(STOPPED, &founders).stdin(piped()).stdout(piped()).spawn().unwrap();
        let mut said = io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert!(io::BufRead::read_line(&mut said, &mut line).unwrap() > 0, "the members have ended");
        }
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let mut took = Duration::ZERO;
        for round in 0..12 {
            let config = Config { address: Some(own.clone()), ..pair_of(fabric, &founders).with_member(MemberId(3)) };
            let starting = Group::join_start(config, |_: Delivery<'_>| {}, |_| {}).unwrap();
            std::thread::sleep(Duration::from_millis(1 << (round / 2)));
            kill(pid, Signal::SIGSTOP).unwrap();
            let begin = Instant::now();
            drop(starting);
            took += begin.elapsed();
            kill(pid, Signal::SIGCONT).unwrap();
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        // A leave lasts a second at most, and a question that is waited for five seconds.
        assert!(took < Duration::from_secs(25), "{fabric}: {took:?}");
    }
}

/// No callback follows the end of a leave, although messages go on.
#[test]
fn nothing_is_delivered_after_a_leave_that_timed_out() {
    for fabric in [FabricKind::Tcp, FabricKind::Shm] {
        let configs = configs(fabric, 2);
        for round in 0..10u64 {
            let over = Arc::new(Mutex::new(false));
            let seen = over.clone();
            let deliver = move |_: Delivery<'_>| assert!(!*seen.lock().unwrap(), "a message after the end");
            let (done, joined) = channel();
            let sends = move |result: Result<Group, Error>| done.send(result).unwrap();
            let late = Group::join_start(configs[1].clone(), deliver, sends).unwrap();
            let (other, other_joined, _) = start(&configs[0]);
            let group = joined.recv_timeout(LONG).unwrap().unwrap();
            let other_group = other_joined.recv_timeout(LONG).unwrap().unwrap();
            for _ in 0..2000 {
                let _ = other_group.try_send(MAIN, Mode::Ordered, b"goes on");
            }
            let (told, left) = channel();
            let ends = over.clone();
            let done = move |result| {
                *ends.lock().unwrap() = true;
                told.send(result).unwrap();
            };
            group.leave_start(Duration::from_millis(round / 3), done).unwrap();
            // Which of the two it is depends on the machine.
            let result = left.recv_timeout(LONG).unwrap();
            assert!(matches!(result, Ok(()) | Err(Error::TimedOut { .. })), "{result:?}");
            drop((group, late, other_group, other));
        }
    }
}
