//! Rounds in which all members are started and killed.

use super::common;
use super::folder::Folder;
use super::history::{self, Durable};
use super::member::MEMBER;
use galerna::FabricKind;
use galerna::Version;
use galerna::log::{Kind, Log};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const MEMBERS: u32 = 3;
/// A start of all members may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn configure(folder: &Path, logs: &Path, addresses: &[String]) {
    let members: String = addresses
        .iter()
        .enumerate()
        .map(|(n, address)| format!("[[members]]\nid = {}\naddress = \"{address}\"\n", n + 1))
        .collect();
    for id in 1..=MEMBERS {
        let text = format!(
            "group = \"durable\"\nmember = {id}\nfabric = \"tcp\"\njoin_timeout_ms = 50000\nfailure_timeout_ms = 5000\nring_bytes = 262144\n\
             [log]\ndirectory = \"{}\"\nsegment_bytes = 4194304\nrestart_wait_ms = 20000\n{members}",
            logs.display()
        );
        std::fs::write(folder.join(format!("{id}.toml")), text).unwrap();
    }
}

pub(crate) struct Member {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    pub(crate) history: PathBuf,
}

/// Starts a member's process in its life `round`, with these environment variables.
pub(crate) fn start(folder: &Path, id: u32, round: usize, variables: &[(&str, &OsStr)]) -> Member {
    let history = folder.join(format!("{id}-{round}.history"));
    let said = std::fs::File::create(folder.join(format!("{id}-{round}.trace"))).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["member_process", "--exact", "--nocapture", "--test-threads", "1"])
        .env(MEMBER, format!("{} {} {round}", folder.join(format!("{id}.toml")).display(), history.display()))
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(said)
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    Member { child, said, history }
}

impl Member {
    /// Sends a request to the process, and returns the line with its answer.
    pub(crate) fn ask(&mut self, question: &str, answer: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{question}").unwrap();
        self.line_with(answer)
    }

    pub(crate) fn hear(&mut self, what: &str) {
        self.line_with(what);
    }

    fn line_with(&mut self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut line = String::new();
        while Instant::now() < deadline {
            line.clear();
            if self.said.read_line(&mut line).unwrap() == 0 {
                break;
            }
            if line.contains(what) {
                return line;
            }
            assert!(!line.contains("refused"), "{line}");
        }
        panic!("a member did not say `{what}`, but at last: {line}");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(process, signal).unwrap();
    }

    /// Ends the process by closing its standard input.
    pub(crate) fn end(&mut self) {
        drop(self.child.stdin.take());
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// The message records of a member's log, as lines of a history.
fn log_of(logs: &Path, id: u32) -> Vec<(Version, Vec<u8>)> {
    let directory = logs.join(format!("durable-{id}"));
    if Log::identity_of(&directory).unwrap().is_none() {
        return Vec::new();
    }
    let log = Log::open_read_only(directory).unwrap();
    let entries = log.reader().iter(..).map(|entry| entry.unwrap());
    entries.filter(|e| e.record().kind == Kind::Message).map(|e| (e.version(), e.to_vec())).collect()
}

/// Returns the logs of all members, and asserts that they are equal where they overlap.
pub(crate) fn equal_logs(logs: &Path, round: usize) -> Vec<Vec<(Version, Vec<u8>)>> {
    let all: Vec<_> = (1..=MEMBERS).map(|id| log_of(logs, id)).collect();
    for log in &all {
        let different = log.iter().zip(&all[0]).find(|(a, b)| a != b);
        assert!(different.is_none(), "round {round}: logs differ: {different:?}");
    }
    all
}

/// Returns a source of random numbers below its argument.
fn dice() -> impl FnMut(u64) -> u64 {
    let mut random = variable("GALERNA_SEED").unwrap_or(1);
    move |below| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    }
}

fn rounds() -> usize {
    variable("GALERNA_ROUNDS").unwrap_or(6) as usize
}

#[test]
fn founders_that_are_killed_found_again() {
    let mut draw = dice();
    let folder = Folder::new("founders");
    for round in 0..rounds() {
        let logs = folder.0.join(format!("logs-{round}"));
        configure(&folder.0, &logs, &common::addresses(FabricKind::Tcp, MEMBERS));
        for life in 0..2 {
            let mut members: Vec<Member> = (1..=MEMBERS).map(|id| start(&folder.0, id, round, &[])).collect();
            if life == 1 {
                members.iter_mut().for_each(|member| member.hear("joined"));
            }
            std::thread::sleep(Duration::from_millis(draw(60)));
            for member in &mut members {
                member.kill();
                std::thread::sleep(Duration::from_millis(draw(10)));
            }
        }
    }
}

#[test]
fn nothing_durable_is_lost_when_all_are_killed() {
    let (rounds, mut draw) = (rounds(), dice());
    let folder = Folder::new("rounds");
    let logs = folder.0.join("logs");
    configure(&folder.0, &logs, &common::addresses(FabricKind::Tcp, MEMBERS));
    let mut durable = Durable::default();
    for round in 0..rounds {
        let mut members: Vec<Member> = (1..=MEMBERS).map(|id| start(&folder.0, id, round, &[])).collect();
        // Sometimes the kill comes while the members found the group, or restart it.
        if draw(3) > 0 {
            members.iter_mut().for_each(|member| member.hear("joined"));
        }
        std::thread::sleep(Duration::from_millis(20 + draw(400)));
        // All at once, or one after the other: in the second case the remaining members may still decide something.
        if draw(2) == 0 {
            members.iter_mut().for_each(|member| member.child.kill().unwrap());
        }
        members.iter_mut().for_each(Member::kill);
        let histories: Vec<_> = members.iter().map(|member| history::read(&member.history)).collect();
        durable.check(round, &histories);
        let all = equal_logs(&logs, round);
        println!("round {round}: {} durable messages, {} records", durable.len(), all[0].len());
    }
    assert!(durable.len() > rounds, "nothing happened");
}
