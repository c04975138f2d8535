//! `galerna-log recover` on a real group, after its processes were killed and most of its disks were lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "../../engine/tests/common/folder.rs"]
mod folder;

use folder::Folder;
use galerna::log::Log;
use galerna::{Config, Delivery, FabricKind, Group, LogConfig, Member, MemberId, Mode, SubgroupId};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(60);
const MESSAGES: usize = 30;
const ROLE: &str = "GALERNA_RECOVER_MEMBER";

/// Ports below the range from which the system assigns ports to connections.
fn addresses() -> Vec<String> {
    let begin = 10_000 + std::process::id() % 20_000;
    let listeners: Vec<_> =
        (begin..).filter_map(|port| TcpListener::bind(("127.0.0.1", port as u16)).ok()).take(3).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

/// Not a test, but the process of a member: `ID LOGS JOIN_TIMEOUT_MS ADDRESSES`.
///
/// It sends each line of its input as a message, and prints its deliveries.
#[test]
fn member_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let role: Vec<&str> = role.split(' ').collect();
    let id = MemberId(role[0].parse().unwrap());
    let members =
        (1..).zip(role[3].split(',')).map(|(id, address)| Member { id: MemberId(id), address: address.to_owned() });
    let mut log = LogConfig::new(role[1]);
    (log.segment_bytes, log.restart_wait_ms) = (1 << 20, 1000);
    let mut config = Config::new("Re:cover", FabricKind::Tcp, members.collect()).with_log(log).with_member(id);
    (config.ring_bytes, config.join_timeout_ms) = (1 << 16, role[2].parse().unwrap());
    let deliver = |message: Delivery<'_>| println!("@delivered {}", String::from_utf8_lossy(message.payload));
    let group = match Group::join(config, Application(Box::new(deliver), Vec::new())) {
        Ok(group) => group,
        Err(error) => return println!("@refused {error}"),
    };
    println!("@joined");
    for line in std::io::stdin().lock().lines() {
        group.send(MAIN, Mode::Durable, line.unwrap().as_bytes(), LONG).unwrap();
        group.persist(MAIN, LONG).unwrap();
        println!("@durable");
    }
}

/// An application. Its state is the list of its delivered messages.
struct Application(Box<dyn FnMut(Delivery<'_>) + Send>, Vec<String>);

impl galerna::Handler for Application {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.1.push(String::from_utf8_lossy(message.payload).into_owned());
        (self.0)(message);
    }

    fn snapshot(&mut self) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(self.1.join("\n").into_bytes())))
    }

    fn restore(&mut self, state: &mut dyn std::io::Read) -> std::io::Result<()> {
        let mut text = String::new();
        state.read_to_string(&mut text)?;
        self.1 = text.lines().map(str::to_owned).collect();
        self.1.iter().for_each(|message| println!("@delivered {message}"));
        Ok(())
    }
}

struct Process {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    delivered: Vec<String>,
}

impl Process {
    fn start(id: u32, logs: &Path, join_timeout_ms: u64, addresses: &[String]) -> Process {
        let role = format!("{id} {} {join_timeout_ms} {}", logs.display(), addresses.join(","));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["member_process", "--exact", "--nocapture", "--test-threads", "1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Process { child, said, delivered: Vec::new() }
    }

    /// Reads the process's output until it contains the tag `what`. Returns the rest of that line.
    fn hear(&mut self, what: &str) -> String {
        let start = Instant::now();
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "the process ended before it said {what}");
            assert!(start.elapsed() < 2 * LONG, "{what} was not said");
            let Some((_, said)) = line.trim_end().split_once('@') else { continue };
            if let Some(message) = said.strip_prefix("delivered ") {
                self.delivered.push(message.to_owned());
            }
            if let Some(more) = said.strip_prefix(what) {
                return more.trim().to_owned();
            }
            assert!(!said.starts_with("refused"), "{said}");
        }
    }

    fn send(&mut self, text: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{text}").unwrap();
        self.hear("durable");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn recover(arguments: &str, folder: &Folder) -> Output {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_galerna-log"));
    tool.arg("recover").args(arguments.split_whitespace()).current_dir(&folder.0).output().unwrap()
}

fn refused(arguments: &str, folder: &Folder) -> String {
    let output = recover(arguments, folder);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {output:?}");
    assert!(!folder.0.join("new").exists() || arguments.contains("new2"), "{arguments}");
    String::from_utf8(output.stderr).unwrap()
}

/// Starts three members with the same messages and kills them at once. Returns the messages.
fn killed_group(folder: &Folder, addresses: &[String]) -> Vec<String> {
    let logs = folder.0.join("logs");
    let mut members: Vec<_> = (1..=3).map(|id| Process::start(id, &logs, 60_000, addresses)).collect();
    members.iter_mut().for_each(|member| drop(member.hear("joined")));
    let messages: Vec<String> = (0..MESSAGES).map(|n| format!("message {n}")).collect();
    messages.iter().for_each(|message| members[0].send(message));
    for member in &mut members {
        while member.delivered.last() != messages.last() {
            member.hear("delivered");
        }
    }
    // The log of a running member is refused.
    let running = refused("logs/%52e%3acover-1 new --accept-loss --lost 2,3", folder);
    assert!(running.contains("open for writing already"), "{running}");
    members.iter_mut().for_each(|member| member.child.kill().unwrap());
    messages
}

#[test]
fn one_log_of_three_makes_a_new_group() {
    let folder = Folder::new("recover");
    let addresses = addresses();
    let mut messages = killed_group(&folder, &addresses);
    let (own, logs) = ("logs/%52e%3acover-1", folder.0.join("logs"));
    let before = Log::open_read_only(folder.0.join(own)).unwrap().reader().iter(..).count();

    for (arguments, why) in [
        ("new --lost 2,3", "--accept-loss"),
        ("new --accept-loss", "--lost"),
        ("new --accept-loss --lost 2", "members 1, 3 are not named as lost"),
        ("new --accept-loss --lost 1,2", "member 1 is named as lost"),
        ("new --accept-loss --lost 2,3,9", "member 9 is not in view"),
        ("logs --accept-loss --lost 2,3", "exists already"),
        ("new --accept-loss --lost 2,3", "must be `%52e%3acover-1`"),
        ("new-%52e%3acover-1 --accept-loss --lost 2,3", "must be `%52e%3acover-1`"),
        ("elsewhere/%52e%3acover-2 --accept-loss --lost 2,3", "must be `%52e%3acover-1`"),
    ] {
        let said = refused(&format!("{own} {arguments}"), &folder);
        assert!(said.contains(why), "{arguments}: {said}");
    }
    assert!(refused("nowhere new --accept-loss --lost 2,3", &folder).contains("is not a directory"));
    for id in [2, 3] {
        fs::remove_dir_all(logs.join(format!("%52e%3acover-{id}"))).unwrap();
    }
    let mut alone = Process::start(1, &logs, 2000, &addresses);
    let mut line = String::new();
    while !line.contains("@refused") {
        line.clear();
        assert!(alone.said.read_line(&mut line).unwrap() > 0);
        assert!(!line.contains("@joined"), "one of three is not enough");
    }
    drop(alone);

    // The remains of an attempt that was killed.
    fs::create_dir_all(folder.0.join("new/%52e%3acover-1.unfinished")).unwrap();
    fs::write(folder.0.join("new/%52e%3acover-1.unfinished/0000000000000000.segment"), "half").unwrap();
    let made = recover(&format!("{own} new/%52e%3acover-1 --accept-loss --lost 2,3"), &folder);
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for part in ["its only member is 1", "possibly missing", "members 2, 3", "its voters: 1, 2, 3"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let names: Vec<_> = fs::read_dir(folder.0.join("new")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["%52e%3acover-1"]);
    // The old log is unchanged.
    assert_eq!(Log::open_read_only(folder.0.join(own)).unwrap().reader().iter(..).count(), before);

    let new = folder.0.join("new");
    let mut first = Process::start(1, &new, 60_000, &addresses);
    first.hear("joined");
    first.send("after");
    messages.push("after".to_owned());
    let mut others: Vec<_> = [2, 3].map(|id| Process::start(id, &new, 60_000, &addresses)).into();
    others.iter_mut().for_each(|other| drop(other.hear("joined")));
    others[1].send("of a newcomer");
    messages.push("of a newcomer".to_owned());
    for member in others.iter_mut().chain([&mut first]) {
        while member.delivered.last() != messages.last() {
            member.hear("delivered");
        }
        assert_eq!(member.delivered, messages);
    }
    // The log of the old group is not accepted by the new group.
    others[0].child.kill().unwrap();
    others[0].child.wait().unwrap();
    let verified =
        Command::new(env!("CARGO_BIN_EXE_galerna-log")).arg("verify").arg(new.join("%52e%3acover-2")).output();
    assert!(verified.unwrap().status.success());
}

#[test]
fn help_says_what_it_costs() {
    let help = recover("--help", &Folder::new("help"));
    let text = String::from_utf8(help.stdout).unwrap();
    for part in ["--accept-loss", "--lost", "new group", "more than half"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
