//! All threads of a process are interrupted by signals all the time: no call of the library fails because of that.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use galerna::log::{Log, LogOptions};
use galerna::{Config, Delivery, Group, LogConfig, Member, MemberId, Mode, SubgroupId};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// Makes a folder in `/dev/shm` if there is one, since a reservation of disk space can be interrupted there.
fn folder(name: &str) -> Folder {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { Folder::within(memory, name) } else { Folder::new(name) }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Sends the signal to every thread but its own until it is dropped.
struct Storm(Arc<AtomicBool>, Option<std::thread::JoinHandle<u64>>);

impl Storm {
    fn begin() -> Storm {
        // SAFETY: the handler does nothing; the system does not restart the calls that it interrupts.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
        }
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let send = move || {
            // SAFETY: no arguments.
            let (process, own) = unsafe { (libc::getpid(), libc::gettid()) };
            let mut sent = 0;
            while !seen.load(Ordering::Relaxed) {
                for task in std::fs::read_dir("/proc/self/task").unwrap() {
                    let thread: i32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
                    if thread != own {
                        // SAFETY: for a thread that has ended the call returns an error, which is ignored.
                        sent +=
                            u64::from(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) } == 0);
                    }
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            sent
        };
        Storm(over, Some(std::thread::spawn(send)))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let sent = self.1.take().map(|storm| storm.join());
        println!("signals: {sent:?}");
    }
}

#[test]
fn signals_interrupt_no_log_and_no_group() {
    let storm = Storm::begin();
    log_and_groups();
    drop(storm);
}

/// A signal seldom comes at the very moment of a call. Here every third call is interrupted.
#[test]
fn calls_that_are_interrupted_are_made_again() {
    let folder = folder("calls");
    let (library, source) = (folder.0.join("interrupts.so"), folder.0.join("interrupts.c"));
    std::fs::write(&source, include_str!("interrupts.c")).unwrap();
    let flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"];
    let compiled = Command::new("cc").args(flags).arg(&library).arg(source).arg("-ldl").status().unwrap();
    assert!(compiled.success());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["the_work_of_a_process", "--exact", "--ignored", "--nocapture"])
        .env("LD_PRELOAD", &library)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
#[ignore = "another test starts it in a process whose calls are interrupted"]
fn the_work_of_a_process() {
    log_and_groups();
}

fn log_and_groups() {
    let folder = folder("all");
    let options = LogOptions { segment_bytes: 64 << 20, ..LogOptions::default() };
    for round in 0..3 {
        let log = Log::open(folder.0.join(format!("log-{round}")), options.clone()).unwrap();
        let payload = vec![7; 8 << 20];
        // The segment changes.
        for _ in 0..10 {
            log.append(&payload, LONG).unwrap();
        }
        log.sync(LONG).unwrap();
        log.close().unwrap();
        assert_eq!(Log::open_read_only(folder.0.join(format!("log-{round}"))).unwrap().reader().iter(..).count(), 10);
        std::fs::remove_dir_all(folder.0.join(format!("log-{round}"))).unwrap();
    }
    for fabric in common::fabrics() {
        let members = (1..).zip(common::addresses(fabric, 2));
        let members = members.map(|(id, address)| Member { id: MemberId(id), address }).collect();
        let log = LogConfig::new(folder.0.join(format!("logs-{fabric}")));
        let mut config = Config::new("interrupted", fabric, members).with_log(log);
        (config.ring_bytes, config.max_message_bytes, config.failure_timeout_ms) = (32 << 20, Some(1 << 20), 10_000);
        config.verbs = common::patient_verbs();
        let delivered = Arc::new(AtomicU64::new(0));
        let joins = [1, 2].map(|id| {
            let (config, count) = (config.clone().with_member(MemberId(id)), delivered.clone());
            let deliver = move |_: Delivery<'_>| {
                count.fetch_add(1, Ordering::SeqCst);
            };
            std::thread::spawn(move || Group::join(config, deliver).unwrap())
        });
        let groups = joins.map(|join| join.join().unwrap());
        for group in &groups {
            for _ in 0..20 {
                group.send(SubgroupId(0), Mode::Durable, &vec![1; 100_000], LONG).unwrap();
            }
            group.persist(SubgroupId(0), LONG).unwrap();
        }
        let leaves = groups.map(|group| std::thread::spawn(move || group.leave(LONG)));
        leaves.into_iter().for_each(|leave| leave.join().unwrap().unwrap());
        assert_eq!(delivered.load(Ordering::SeqCst), 80, "{fabric}");
    }
}
