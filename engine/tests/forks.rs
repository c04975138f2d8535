//! A forked child has no part in its parent's groups and logs. Every call reports that and changes nothing, and the
//! parent goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses a part of it")]
mod common;
#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use galerna::Version;
use galerna::log::{Log, LogOptions};
use galerna::{
    Config, Delivery, Driver, Error, FabricKind, Group, LogConfig, Member, MemberId, Mode, Reservation, SubgroupId,
    Wait,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(60);

type Heard = Arc<Mutex<Vec<String>>>;

fn config(fabric: FabricKind, members: u32) -> Config {
    let addresses = (1..=members).zip(common::addresses(fabric, members));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    let mut config = Config::new("forks", fabric, members);
    (config.ring_bytes, config.verbs) = (64 << 10, common::patient_verbs());
    // Long timeouts, so that no member is taken for dead on a busy machine.
    (config.failure_timeout_ms, config.partition_timeout_ms) = (60_000, 60_000);
    config
}

fn recorder() -> (Heard, impl FnMut(Delivery<'_>) + Send + 'static) {
    let heard = Heard::default();
    let sink = heard.clone();
    (heard, move |m: Delivery<'_>| sink.lock().unwrap().push(String::from_utf8_lossy(m.payload).into_owned()))
}

/// Runs `body` in a child process, which ends afterwards. An error of `body` fails the test.
fn in_child(body: impl FnOnce() -> Result<(), String>) {
    // SAFETY: the child uses the memory allocator, which glibc keeps usable after a fork, and the calls under test. It
    // ends by `_exit`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = match body() {
                Ok(()) => 0,
                Err(what) => {
                    // SAFETY: the bytes are valid. No lock is taken that another thread may have held at the fork.
                    unsafe { libc::write(2, format!("{what}\n").as_ptr().cast(), what.len() + 1) };
                    1
                }
            };
            // SAFETY: it ends here.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            let deadline = Instant::now() + LONG;
            loop {
                match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
                    WaitStatus::StillAlive if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    WaitStatus::StillAlive => {
                        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
                        panic!("the child hangs");
                    }
                    status => return assert_eq!(status, WaitStatus::Exited(child, 0)),
                }
            }
        }
    }
}

fn forked<T>(what: &str, result: Result<T, Error>) -> Result<(), String> {
    match result {
        Err(Error::Forked) => Ok(()),
        Err(other) => Err(format!("{what}: {other}")),
        Ok(_) => Err(format!("{what} is done, in a child")),
    }
}

fn is(what: &str, condition: bool) -> Result<(), String> {
    if condition { Ok(()) } else { Err(format!("{what} is not so")) }
}

fn group_calls(group: &Group) -> Result<(), String> {
    let (version, bytes) = (Version::default(), b"the child's");
    for _ in 0..100 {
        forked("send", group.send(MAIN, Mode::Safe, bytes, LONG))?;
        forked("try_send", group.try_send(MAIN, Mode::Ordered, bytes))?;
    }
    forked("reserve", group.reserve(MAIN, 8, LONG))?;
    forked("try_reserve", group.try_reserve(MAIN, 8))?;
    forked("max_message", group.max_message(MAIN))?;
    forked("flush", group.flush(MAIN, galerna::Copies::All, LONG))?;
    forked("start_flush", group.start_flush(MAIN, galerna::Copies::All))?;
    forked("stats", group.stats(MAIN))?;
    forked("frontiers", group.frontiers(MAIN))?;
    forked("wait_durable", group.wait_durable(MAIN, 0, LONG))?;
    forked("wait_closed", group.wait_closed(MAIN, 0, LONG))?;
    forked("persist", group.persist(MAIN, LONG))?;
    forked("start_persist", group.start_persist(MAIN))?;
    forked("read_log", group.read_log(MAIN))?;
    forked("log_stats", group.log_stats(MAIN))?;
    forked("checkpoint", group.checkpoint(MAIN, LONG))?;
    forked("trim_log", group.trim_log(MAIN, version))?;
    forked("leave", group.leave(LONG))?;
    is("stopped", matches!(group.stopped(), Some(Error::Forked)))?;
    is("no view", group.view().members.is_empty())?;
    is("no fault", group.fault(MemberId(2)).is_none())
}

/// The child's use of the handles that it has from its parent.
fn child(
    group: Group,
    driver: Option<Driver>,
    mut reservation: Reservation<'_>,
    flush: Wait,
    own: Config,
) -> Result<(), String> {
    group_calls(&group)?;
    is("no bytes", reservation.is_empty() && reservation.iter_mut().next().is_none())?;
    forked("commit", reservation.commit(Mode::Safe))?;
    forked("a flush", flush.wait(LONG))?;
    if let Some(mut driver) = driver {
        forked("dispatch", driver.dispatch())?;
        is("no pass", !driver.poll())?;
        driver.disarm();
        forked("wait", driver.wait(LONG, || false))?;
        forked("a driver's leave", driver.leave(LONG))?;
    }
    drop(group);
    // The child may join by itself.
    let (heard, handler) = recorder();
    let lone = Group::join(own, handler).map_err(|error| error.to_string())?;
    lone.send(MAIN, Mode::Safe, b"its own", LONG).map_err(|error| error.to_string())?;
    lone.leave(LONG).map_err(|error| error.to_string())?;
    is("its own message", *heard.lock().unwrap() == ["its own"])
}

fn wait_for(driver: &mut Option<Driver>, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        match driver {
            Some(driver) => {
                driver.wait(Duration::from_millis(5), || false).unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn the_parent_goes_on(fabric: FabricKind, logs: bool, driven: bool) {
    let folder = Folder::new("log");
    let mut config = config(fabric, 2);
    if logs {
        config = config.with_log(LogConfig::new(&folder.0));
    }
    let own = self::config(fabric, 1).with_member(MemberId(1));
    let second = {
        let config = config.clone().with_member(MemberId(2));
        std::thread::spawn(move || {
            let (heard, handler) = recorder();
            (Group::join(config, handler).unwrap(), heard)
        })
    };
    let (heard, handler) = recorder();
    let config = config.with_member(MemberId(1));
    let (group, mut driver) = match driven {
        true => Group::join_driven(config, handler).map(|(group, driver)| (group, Some(driver))).unwrap(),
        false => (Group::join(config, handler).unwrap(), None),
    };
    // A driven member takes part only while its driver is called.
    wait_for(&mut driver, "the second member", || second.is_finished());
    let (other, other_heard) = second.join().unwrap();
    group.try_send(MAIN, Mode::Safe, b"before").unwrap();
    wait_for(&mut driver, "the first message", || other_heard.lock().unwrap().len() == 1);
    {
        let mut open = group.try_reserve(MAIN, 8).unwrap();
        open.copy_from_slice(b"parent's");
        let flush = group.start_flush(MAIN, galerna::Copies::All).unwrap();
        // The fork makes the second copy of each.
        in_child(|| {
            // SAFETY: these are bitwise copies of values that the child has from the fork; it never uses the originals.
            unsafe {
                child(
                    std::ptr::read(&group),
                    std::ptr::read(&driver),
                    std::ptr::read(&open),
                    std::ptr::read(&flush),
                    std::ptr::read(&own),
                )
            }
        });
        open.commit(Mode::Safe).unwrap();
    }
    for number in 0..100 {
        let text = format!("after {number}");
        other.send(MAIN, Mode::Safe, text.as_bytes(), LONG).unwrap();
        let sent = || !matches!(group.try_send(MAIN, Mode::Safe, text.as_bytes()), Err(Error::WouldBlock(_)));
        wait_for(&mut driver, "room", sent);
    }
    let done = || heard.lock().unwrap().len() == 202 && other_heard.lock().unwrap().len() == 202;
    wait_for(&mut driver, "all messages", done);
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard, *other_heard.lock().unwrap(), "{fabric}");
    assert!(heard.contains(&"parent's".to_owned()) && !heard.iter().any(|text| text.contains("child")), "{heard:?}");
    assert_eq!((group.view().number, other.view().number), (0, 0), "nobody was taken for dead");
}

#[test]
fn a_child_has_no_part_in_a_group() {
    for fabric in common::fabrics() {
        for (logs, driven) in [(false, false), (false, true), (true, false), (true, true)] {
            the_parent_goes_on(fabric, logs, driven);
        }
    }
}

#[test]
fn a_child_has_no_part_in_a_log() {
    let folder = Folder::new("log");
    let log = Log::open(&folder.0, LogOptions::default()).unwrap();
    let first = log.append(b"first", LONG).unwrap();
    log.sync(LONG).unwrap();
    let reader = log.reader();
    let mut iter = log.iter(..);
    let mut writer = log.snapshot(first, 1).unwrap();
    writer.write(b"the parent's").unwrap();
    let read_only = Log::open_read_only(&folder.0).unwrap();
    in_child(|| {
        let bytes = b"the child's";
        forked("append", log.append(bytes, LONG))?;
        forked("try_append", log.try_append(bytes))?;
        forked("append_batch", log.append_batch(&[bytes], LONG))?;
        forked("sync", log.sync(LONG))?;
        forked("wait_durable", log.wait_durable(first, LONG))?;
        forked("cut", log.cut(first, LONG))?;
        forked("trim", log.trim(first, LONG))?;
        forked("save", log.save("name", bytes, LONG))?;
        forked("load", log.load("name"))?;
        forked("snapshot", log.snapshot(first, 2))?;
        forked("load_snapshot", log.load_snapshot())?;
        forked("get", reader.get(first))?;
        forked("at_time", reader.at_time(u64::MAX))?;
        forked("oldest", reader.oldest())?;
        forked("a log open for reading", read_only.reader().get(first))?;
        forked("iteration", iter.next().unwrap_or_else(|| Err(Error::Left)))?;
        forked("checkpoint", writer.write(bytes))?;
        is("failure", matches!(log.failure(), Some(Error::Forked)))?;
        is("no end", log.durable().is_none() && reader.end().is_none())?;
        // The parent's lock stays, and its checkpoint is not removed.
        // SAFETY: these are bitwise copies of values that the child has from the fork; it never uses the originals.
        unsafe {
            drop(std::ptr::read(&writer));
            forked("close", std::ptr::read(&log).close())
        }
    });
    assert!(matches!(Log::open(&folder.0, LogOptions::default()), Err(Error::LogLocked { .. })));
    let second = log.append(b"second", LONG).unwrap();
    log.install(writer, LONG).unwrap();
    log.sync(LONG).unwrap();
    assert_eq!(&log.get(second).unwrap().unwrap()[..], b"second");
    assert_eq!(log.iter(..).count(), 2);
    assert_eq!(log.load_snapshot().unwrap().unwrap().len, 12);
    log.close().unwrap();
}

/// A program that is started by `exec` has none of the library's descriptors.
#[test]
fn descriptors_are_closed_by_exec() {
    let open = || -> Vec<(i32, String, bool)> {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().path());
        let look = |path: PathBuf| {
            let number = path.file_name()?.to_str()?.parse().ok()?;
            let what = std::fs::read_link(&path).ok()?.to_string_lossy().into_owned();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
            let closes = i32::from_str_radix(&flags, 8).ok()? & libc::O_CLOEXEC != 0;
            Some((number, what, closes))
        };
        fds.filter_map(look).collect()
    };
    let before: Vec<i32> = open().into_iter().map(|(number, ..)| number).collect();
    for fabric in common::fabrics() {
        let folder = Folder::new("log");
        let config = config(fabric, 2).with_log(LogConfig::new(&folder.0));
        let other = config.clone().with_member(MemberId(2));
        let other = std::thread::spawn(move || Group::join(other, |_: Delivery<'_>| {}).unwrap());
        let group = Group::join(config.with_member(MemberId(1)), |_: Delivery<'_>| {}).unwrap();
        let other = other.join().unwrap();
        let open: Vec<_> =
            open().into_iter().filter(|(number, _, closes)| !closes && !before.contains(number)).collect();
        assert!(open.is_empty(), "{fabric}: {open:?}");
        drop((group, other));
    }
}

/// A child process that ends with the value.
struct Process(nix::unistd::Pid);

impl Process {
    fn new(body: impl FnOnce()) -> Process {
        // SAFETY: as in `in_child`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
                // SAFETY: it ends here.
                unsafe { libc::_exit(i32::from(ended.is_err())) }
            }
            ForkResult::Parent { child } => Process(child),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

/// A parent is killed while its child lives: the others notice it at once, although the failure timeout is a minute, and
/// the parent's address and log are free for its next process.
#[test]
fn the_death_of_a_parent_is_noticed_while_its_child_lives() {
    for fabric in common::fabrics() {
        let folders: Vec<_> = (0..3).map(|_| Folder::new("log")).collect();
        let config = config(fabric, 3);
        let of = |id: u32| {
            let config = config.clone().with_member(MemberId(id));
            config.with_log(LogConfig::new(&folders[id as usize - 1].0))
        };
        let (mut told, tells) = std::io::pipe().unwrap();
        let parent = Process::new(|| {
            let group = Group::join(of(3), |_: Delivery<'_>| {}).unwrap();
            let child = Process::new(|| std::thread::sleep(2 * LONG));
            (&tells).write_all(&child.0.as_raw().to_le_bytes()).unwrap();
            std::thread::sleep(2 * LONG);
            drop((group, child));
        });
        let join = |id| {
            let config = of(id);
            std::thread::spawn(move || Group::join(config, |_: Delivery<'_>| {}).unwrap())
        };
        let [first, second] = [1, 2].map(join).map(|thread| thread.join().unwrap());
        let mut number = [0; 4];
        told.read_exact(&mut number).unwrap();
        let child = Process(nix::unistd::Pid::from_raw(i32::from_le_bytes(number)));
        drop(parent);
        let deadline = Instant::now() + LONG / 2;
        while first.view().members.contains(&MemberId(3)) {
            assert!(Instant::now() < deadline, "{fabric}: the death of the parent is not noticed");
            std::thread::sleep(Duration::from_millis(5));
        }
        let again = join(3).join().unwrap();
        again.leave(LONG).unwrap();
        drop((first, second));
        // It lived until now.
        assert_eq!(nix::sys::signal::kill(child.0, None), Ok(()));
    }
}
