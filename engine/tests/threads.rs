//! The threads of the library. They take no signals of the program, their stack has the configured size, and a failure
//! to start one is an error that names the limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses a part of it")]
mod common;
#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use galerna::{Config, Delivery, Error, FabricKind, Group, LogConfig, Member, MemberId, Mode, SubgroupId};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(60);
const LIMITED: &str = "GALERNA_LIMITED_MEMBER";
/// A user id that no other process uses, so that only this process counts towards its limit.
const NOBODY: u32 = 61_234;

fn config(members: u32) -> Config {
    let addresses = (1..=members).zip(common::addresses(FabricKind::Tcp, members));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    Config { ring_bytes: 64 << 10, member: Some(MemberId(1)), ..Config::new("threads", FabricKind::Tcp, members) }
}

/// Name and blocked signals of every thread of this process.
fn threads() -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let look = |task: PathBuf| {
        let status = std::fs::read_to_string(task.join("status")).ok()?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        Some((field("Name:"), u64::from_str_radix(&field("SigBlk:"), 16).unwrap()))
    };
    // A thread that has ended since the listing is left out.
    tasks.filter_map(look).collect()
}

#[test]
fn the_librarys_threads_take_no_signal() {
    let folder = Folder::new("signals");
    let before = SigSet::thread_get_mask().unwrap();
    let group = Group::join(config(1).with_log(LogConfig::new(&folder.0)), |_: Delivery<'_>| {}).unwrap();
    assert_eq!(SigSet::thread_get_mask().unwrap(), before, "the caller's signals are as they were");
    group.send(MAIN, Mode::Durable, b"x", LONG).unwrap();
    group.persist(MAIN, LONG).unwrap();
    let deadline = Instant::now() + LONG;
    // A thread has its name once it has run.
    let own = loop {
        let own: Vec<_> = threads().into_iter().filter(|(name, _)| name.starts_with("galerna-")).collect();
        // The engine, the listener, and the log; threads of other tests may exist, too.
        if own.len() >= 3 {
            break own;
        }
        assert!(Instant::now() < deadline, "{own:?}");
        std::thread::sleep(Duration::from_millis(2));
    };
    let faults = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGSYS];
    let never = [Signal::SIGKILL, Signal::SIGSTOP];
    for signal in Signal::iterator().filter(|signal| !faults.contains(signal) && !never.contains(signal)) {
        let open: Vec<_> = own.iter().filter(|(_, blocked)| blocked & 1 << (signal as u64 - 1) == 0).collect();
        assert!(open.is_empty(), "{signal} would be taken by {open:?}");
    }
    group.leave(LONG).unwrap();
}

/// Uses more stack than the default size.
#[inline(never)]
fn deep(bytes: usize) -> usize {
    let page = std::hint::black_box([1u8; 16 << 10]);
    if bytes <= page.len() { 0 } else { deep(bytes - page.len()) + usize::from(page[bytes % page.len()]) }
}

#[test]
fn the_stack_of_callbacks_is_as_configured() {
    let (sender, receiver) = channel();
    let config = Config { stack_bytes: 256 << 20, ..config(1) };
    let group = Group::join(config.clone(), move |_: Delivery<'_>| sender.send(deep(24 << 20)).unwrap()).unwrap();
    group.send(MAIN, Mode::Safe, b"dive", LONG).unwrap();
    assert!(receiver.recv_timeout(LONG).unwrap() > 1000);
    for bad in [0, 1 << 17, usize::MAX] {
        let error = Config { stack_bytes: bad, ..config.clone() }.check().unwrap_err();
        assert!(error.to_string().contains("`stack_bytes`"), "{error}");
    }
}

/// Runs in the process with a limit on its threads; returns at once elsewhere.
#[test]
fn limited_process() {
    let Ok(privileged) = std::env::var(LIMITED) else { return };
    if privileged == "root" {
        // SAFETY: plain system calls. The limit does not apply to a privileged process, so the process gives up its
        // privileges.
        unsafe { assert!(libc::setgid(NOBODY) == 0 && libc::setuid(NOBODY) == 0) };
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
    let mut refused = 0;
    let mut joined = 0;
    for more in 0..8 {
        let (folder, now) = (Folder::new("limit"), threads().len() as u64);
        // Other processes of an ordinary user count, too, so for such a user only the first limit makes sense.
        let limit = if more == 0 { 1 } else { now + more };
        if more > 0 && privileged != "root" {
            break;
        }
        // A group that must wait for peers, and one that runs at once.
        for (members, logs) in [(3, false), (1, true)] {
            let mut config = Config { join_timeout_ms: 300, ..config(members) };
            if logs {
                config = config.with_log(LogConfig::new(&folder.0));
            }
            setrlimit(Resource::RLIMIT_NPROC, limit, hard).unwrap();
            let result = Group::join(config, |_: Delivery<'_>| {});
            match result {
                Ok(group) => {
                    joined += 1;
                    group.send(MAIN, Mode::Safe, b"x", LONG).unwrap();
                    group.leave(LONG).unwrap();
                }
                Err(Error::Missing { .. }) => assert_eq!(members, 3),
                Err(error @ Error::Io { .. }) => {
                    refused += 1;
                    let text = error.to_string();
                    let named =
                        ["cannot start the thread that", "RLIMIT_NPROC, here", "Resource temporarily unavailable"];
                    assert!(named.iter().all(|part| text.contains(part)), "{text}");
                }
                Err(other) => panic!("{more}: {other}"),
            }
        }
    }
    assert!(refused > 0, "no limit was reached");
    assert!(joined > 0 || privileged != "root", "eight threads are enough for a member");
    println!("limited: {refused} refused, {joined} joined");
}

#[test]
fn a_thread_that_cannot_be_started_is_an_error_that_names_the_limit() {
    // SAFETY: the call only reads.
    let root = unsafe { libc::geteuid() } == 0;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["limited_process", "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env(LIMITED, if root { "root" } else { "user" }).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("limited: "), "{}\n{text}", output.status);
}
