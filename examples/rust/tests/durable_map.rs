//! Runs the built example as a user does. `GALERNA_ROUNDS=100` sets the number of rounds to 100.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

/// Returns the command of the example. Cargo builds examples before tests, in the directory `examples` beside that of
/// this test's program.
fn example() -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().find(|dir| dir.join("examples").is_dir()).unwrap();
    Command::new(profile.join("examples/durable-map"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn survives(args: &[&str], rounds: usize) {
    let output = example().args(args).args(["--rounds", &rounds.to_string()]).output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert_eq!(out.matches("killed all members").count(), rounds, "{out}");
    assert_eq!(out.matches("no acknowledged change is lost, and the 3 maps of").count(), rounds, "{out}");
    assert!(!out.contains("maps of 0 keys"), "{out}");
}

fn fails(output: &Output, code: i32, expected: &str) {
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert!(err.contains(expected), "`{expected}` is missing in: {err}");
}

#[test]
fn all_are_killed_on_shm() {
    survives(&[], 3);
}

#[test]
fn all_are_killed_on_tcp() {
    survives(&["--fabric", "tcp"], 3);
}

#[test]
fn all_are_killed_again_and_again() {
    let rounds = std::env::var("GALERNA_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    for fabric in ["shm", "tcp"] {
        survives(&["--fabric", fabric, "--changes", "250"], rounds.unwrap_or(8));
    }
}

/// A group on this host, and its members.
struct Folder {
    directory: tempfile::TempDir,
    members: u32,
}

impl Folder {
    fn new(members: u32, log: bool) -> Folder {
        let folder = Folder { directory: tempfile::tempdir().unwrap(), members };
        let path = folder.directory.path().display();
        let mut text = "group = \"map\"\nfabric = \"shm\"\njoin_timeout_ms = 60000\n".to_owned();
        if log {
            text += &format!("[log]\ndirectory = \"{path}/logs\"\nsegment_bytes = 4194304\nrestart_wait_ms = 30000\n");
        }
        for id in 1..=members {
            text += &format!("[[members]]\nid = {id}\naddress = \"unix:{path}/{id}.sock\"\n");
        }
        std::fs::write(folder.config(), text).unwrap();
        folder
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("group.toml")
    }

    /// Starts all members.
    fn start(&self) -> Vec<Member> {
        let mut members: Vec<Member> = (1..=self.members).map(|id| Member::start(&self.config(), id)).collect();
        members.iter_mut().for_each(|member| assert!(member.line().starts_with("joined with")));
        members
    }
}

struct Member {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Member {
    fn start(config: &Path, id: u32) -> Member {
        let mut child = example()
            .arg("member")
            .arg(config)
            .arg(id.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Member { child, said }
    }

    /// Returns the next line that the member prints. Lines that list the members of the group are skipped.
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "the member ended");
            if !line.starts_with("members: ") {
                return line.trim_end().to_owned();
            }
        }
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.line()
    }

    fn quit(mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "quit").unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn commands_are_answered_and_outlive_a_kill() {
    let folder = Folder::new(2, true);
    let mut members = folder.start();
    assert_eq!(members[0].ask("put colour deep blue"), "ok colour");
    assert_eq!(members[0].ask("put empty "), "ok empty");
    assert_eq!(members[0].ask("get colour"), "colour deep blue");
    assert_eq!(members[0].ask("get shape"), "none shape");
    assert_eq!(members[1].ask("put shape round"), "ok shape");
    assert!(members[1].ask("checkpoint").starts_with("checkpoint "));
    assert_eq!(members[1].ask("del shape"), "ok shape");
    assert_eq!(members[1].ask("put colour red"), "ok colour");
    assert!(members[1].ask("durable").strip_prefix("durable ").unwrap().parse::<u64>().unwrap() > 4);
    for wrong in ["put colour", "get", "get two keys", "del", "nonsense", ""] {
        assert!(members[0].ask(wrong).starts_with("error: "), "{wrong}");
    }
    assert!(members[0].ask(&format!("put large {}", "x".repeat(3 << 20))).contains("error: "));
    // The members are killed one after the other, so the second may have continued without the first.
    drop(members);
    let mut members = folder.start();
    for member in &mut members {
        assert_eq!(member.ask("dump"), "colour red");
        assert_eq!((member.line(), member.line()), ("empty ".trim_end().to_owned(), "end 2".to_owned()));
    }
    let quitting: Vec<_> = members.into_iter().map(|member| std::thread::spawn(|| member.quit())).collect();
    quitting.into_iter().for_each(|quit| quit.join().unwrap());
    // The map is the same after all members have left.
    let mut members = folder.start();
    assert_eq!(members[1].ask("get colour"), "colour red");
}

#[test]
fn mistakes_are_explained() {
    let folder = Folder::new(1, false);
    fails(&example().arg("member").arg(folder.config()).arg("1").output().unwrap(), 1, "no `[log]` section");
    fails(&example().args(["member", "nowhere.toml", "1"]).output().unwrap(), 1, "nowhere.toml");
    fails(&example().args(["--rounds", "0"]).output().unwrap(), 2, "0");
    let there = example().arg("--directory").arg(folder.directory.path()).output().unwrap();
    fails(&there, 1, "cannot make");
}

#[test]
fn an_interrupt_ends_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = example()
        .args(["--rounds", "1000000", "--changes", "100"])
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}
