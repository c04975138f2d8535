//! Temporary and permanent obstacles to a start.

use crate::common;
use crate::folder::Folder;
use crate::process::{Process, configuration};
use galerna::FabricKind;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Forwards connections to `from` on to `to`.
fn forward(from: TcpListener, to: String) {
    let pipe = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    };
    std::thread::spawn(move || {
        for stream in from.incoming().flatten() {
            if let Ok(there) = TcpStream::connect(&to) {
                pipe(&stream, &there);
                pipe(&there, &stream);
            }
        }
    });
}

/// One pair of founders cannot connect for several failure timeouts. Of each pair the later founder in the list
/// connects, so only member 3 dials the configured address of member 2.
#[test]
fn founders_wait_for_a_pair_that_cannot_connect_yet() {
    let (folder, addresses) = (Folder::new("pair"), common::addresses(FabricKind::Tcp, 4));
    let keys = "failure_timeout_ms = 300\npartition_timeout_ms = 300\njoin_timeout_ms = 60000\n";
    let mut members: Vec<Process> = (1..=3)
        .map(|id| {
            let listen = if id == 2 { format!("{keys}listen = \"{}\"", addresses[3]) } else { keys.to_owned() };
            Process::start(&folder.0, &id.to_string(), &configuration(id, &addresses, &[1, 2, 3], &listen), &[])
        })
        .collect();
    members.iter_mut().for_each(|member| member.tell("join"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(members.iter().all(Process::is_silent), "a founder has given up");
    forward(TcpListener::bind(&addresses[1]).unwrap(), addresses[3].clone());
    for member in &members {
        assert_eq!(member.hear(), "joined [1, 2, 3]");
    }
}

/// A founder that is killed and started again in the middle of the founding makes no other founder give up.
#[test]
fn a_founder_may_be_started_again_while_the_others_meet() {
    let (folder, addresses) = (Folder::new("again"), common::addresses(FabricKind::Tcp, 3));
    for keys in ["", "log"] {
        let keys = match keys {
            "" => String::new(),
            _ => format!("log.directory = \"{}\"\nlog.segment_bytes = 1048576", folder.0.display()),
        };
        let keys = format!("failure_timeout_ms = 300\npartition_timeout_ms = 300\njoin_timeout_ms = 100000\n{keys}");
        let start = |id: u32| {
            Process::start(&folder.0, &id.to_string(), &configuration(id, &addresses, &[1, 2, 3], &keys), &[])
        };
        let mut others = [start(1), start(2)];
        others.iter_mut().for_each(|member| member.tell("join"));
        // At moments before, during and after the handshakes.
        for pause_ms in [0, 5, 20, 60, 150, 400] {
            let mut third = start(3);
            third.tell("join");
            std::thread::sleep(Duration::from_millis(pause_ms));
            third.kill();
        }
        let mut third = start(3);
        assert_eq!(third.ask("join"), "joined [1, 2, 3]");
        for member in &mut others {
            let said = member.hear();
            assert!(said.starts_with("joined"), "{said}");
            member.wait_for_view(&[1, 2, 3]);
        }
    }
}

#[test]
fn a_port_that_is_taken_for_a_while_is_waited_for() {
    let (folder, addresses) = (Folder::new("taken"), common::addresses(FabricKind::Tcp, 1));
    let taken = TcpListener::bind(&addresses[0]).unwrap();
    let mut one = Process::start(&folder.0, "1", &configuration(1, &addresses, &[1], ""), &[]);
    one.tell("join");
    std::thread::sleep(Duration::from_secs(1));
    assert!(one.is_silent());
    drop(taken);
    assert_eq!(one.hear(), "joined [1]");
}

/// No founder dials the last founder in the list, but later joiners will.
#[test]
fn a_last_founder_that_is_not_where_it_says_is_named() {
    let (folder, mut addresses) = (Folder::new("last"), common::addresses(FabricKind::Tcp, 3));
    let listens = addresses.remove(1);
    let start = |id: u32, more: &str| {
        let more = format!("join_timeout_ms = 4000\n{more}");
        Process::start(&folder.0, &id.to_string(), &configuration(id, &addresses, &[1, 2], &more), &[])
    };
    let (mut one, mut two) = (start(1, ""), start(2, &format!("listen = \"{listens}\"\n")));
    [&mut one, &mut two].iter_mut().for_each(|process| process.tell("join"));
    let said = one.hear();
    let expected = format!("member 2 at {}, its address for the other members (Connection refused", addresses[1]);
    assert!(said.starts_with("refused") && said.contains(&expected), "{said}");
    let said = two.hear();
    assert!(said.starts_with("refused") && said.contains("member 1"), "{said}");
}

/// The process's own address and its network come up late, in a network namespace of its own.
#[test]
fn an_address_that_is_not_there_yet_is_waited_for() {
    let probe = std::process::Command::new("unshare").args(["--net", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: an address that comes late needs root, for a network namespace");
        return;
    }
    let folder = Folder::new("late");
    for (address, host) in [("10.77.0.1:7101", "10.77.0.1/24"), ("[fd77::1]:7101", "fd77::1/64")] {
        let script = format!("(sleep 1.5; ip link set lo up; ip addr add {host} dev lo) & exec \"$@\"");
        let wrapped = ["unshare", "--net", "sh", "-c", &script, "sh"];
        let config = configuration(1, &[address.to_owned()], &[1], "");
        let mut one = Process::start(&folder.0, "1", &config, &wrapped);
        assert_eq!(one.ask("join"), "joined [1]", "{address}");
    }
}

/// Permanent obstacles are reported at once.
#[test]
fn what_no_time_mends_is_said_at_once() {
    let (folder, addresses) = (Folder::new("never-ready"), common::addresses(FabricKind::Tcp, 2));
    let began = Instant::now();
    let keys = "join_timeout_ms = 600000";
    if std::path::Path::new("/sys/class/infiniband").read_dir().is_ok_and(|mut devices| devices.next().is_some()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: RDMA that is missing, as there is some");
    } else {
        let config = configuration(1, &addresses, &[1, 2], keys).replace("\"tcp\"", "\"verbs\"");
        let mut one = Process::start(&folder.0, "1", &config, &[]);
        let said = one.ask("join");
        assert!(said.starts_with("refused RDMA cannot be used"), "{said}");
    }
    let path = folder.0.join("file");
    std::fs::write(&path, "precious").unwrap();
    let unix = ["1", "2"].map(|id| format!("unix:{}", folder.0.join(id).display()));
    let unix = [format!("unix:{}", path.display()), unix[1].clone()];
    let config = configuration(1, &unix, &[1, 2], keys).replace("\"tcp\"", "\"shm\"");
    let mut one = Process::start(&folder.0, "1", &config, &[]);
    let said = one.ask("join");
    assert!(said.contains("not a socket"), "{said}");
    // A directory in which no file can be created: the path of a file, and a path in `/proc`.
    for (directory, cause) in [(path.clone(), "Not a directory"), ("/proc/logs".into(), "No such file")] {
        let log = format!("{keys}\nlog.directory = \"{}\"", directory.display());
        let mut one = Process::start(&folder.0, "1", &configuration(1, &addresses, &[1, 2], &log), &[]);
        let said = one.ask("join");
        let key = format!("`log.directory` is `{}`", directory.display());
        assert!([&key, cause, "give a directory"].iter().all(|part| said.contains(part)), "{said}");
    }
    assert!(began.elapsed() < Duration::from_secs(300), "the join timeout was waited for");
}
