//! Runs the built example as a user does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Returns the command of the example. Cargo builds examples before tests, in the directory `examples` beside that of
/// this test's program.
fn example() -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().find(|dir| dir.join("examples").is_dir()).unwrap();
    Command::new(profile.join("examples/replicate"))
}

fn run(args: &[&str], file: Option<&Path>) -> Output {
    example().args(args).args(file).output().unwrap()
}

/// Makes a file that is deleted after the test.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn numbered(lines: usize) -> tempfile::NamedTempFile {
    let text: String = (0..lines).map(|i| format!("line {i} of a file\n")).collect();
    file(text.as_bytes())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the number of lines and the digest of each member, from the table that a run prints. The run must have
/// succeeded.
fn table(output: &Output) -> Vec<(usize, String)> {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    let rows = out.lines().skip_while(|line| !line.contains("SHA-256")).skip(1);
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields[1].parse().unwrap(), fields[2].to_owned())
    };
    rows.take_while(|line| !line.is_empty()).map(row).collect()
}

fn fails(output: &Output, expected: &[&str]) {
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    for part in expected {
        assert!(err.contains(part), "`{part}` is missing in: {err}");
    }
}

/// Computes the expected digest of a run with one member.
fn alone(lines: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(0u32.to_le_bytes());
        hash.update(line);
        hash.update(b"\n");
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn every_mode(fabric: &str, members: &str) {
    let lines = 2000;
    let file = numbered(lines);
    for mode in ["fifo", "ordered", "safe"] {
        let args = ["--fabric", fabric, "--members", members, "--mode", mode];
        let output = run(&args, Some(file.path()));
        let rows = table(&output);
        assert_eq!(rows.len().to_string(), members);
        assert!(rows.iter().all(|row| row.0 == lines), "{rows:?}");
        assert!(mode == "fifo" || rows.iter().all(|row| row.1 == rows[0].1), "{rows:?}");
        let out = text(&output.stdout);
        assert!(out.contains("lines/s") && out.contains("p99.9"), "{out}");
        assert_eq!(out.contains("promises no order"), mode == "fifo", "{out}");
    }
}

#[test]
fn shm_three_members() {
    every_mode("shm", "3");
}

#[test]
fn shm_five_members() {
    every_mode("shm", "5");
}

#[test]
fn tcp_three_members() {
    every_mode("tcp", "3");
}

#[test]
fn tcp_five_members() {
    every_mode("tcp", "5");
}

#[test]
fn the_file_it_carries() {
    let rows = table(&run(&[], None));
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.0 == 20_000));
}

#[test]
fn large_lines_and_repetition() {
    let file = numbered(1000);
    for fabric in ["shm", "tcp"] {
        let output = run(&["--size", "4096", "--repeat", "3", "--fabric", fabric], Some(file.path()));
        assert!(table(&output).iter().all(|row| row.0 == 3000));
    }
}

#[test]
fn size_pads_and_cuts() {
    let file = file(b"a\nabcdef\n");
    let rows = table(&run(&["--members", "1", "--size", "4"], Some(file.path())));
    assert_eq!(rows, [(2, alone(&[b"a   ", b"abcd"]))]);
}

#[test]
fn any_bytes_are_lines() {
    let file = file(b"\xff\xfe\0\r\n\r\n\nno line feed at the end");
    let rows = table(&run(&["--members", "1"], Some(file.path())));
    let lines: [&[u8]; 4] = [b"\xff\xfe\0\r", b"\r", b"", b"no line feed at the end"];
    assert_eq!(rows, [(4, alone(&lines))]);
    let rows = table(&run(&["--members", "3"], Some(file.path())));
    assert!(rows.iter().all(|row| *row == (4, rows[0].1.clone())), "{rows:?}");
}

#[test]
fn an_empty_file() {
    let file = file(b"");
    for fabric in ["shm", "tcp"] {
        let rows = table(&run(&["--fabric", fabric], Some(file.path())));
        assert_eq!(rows, vec![(0, alone(&[])); 3]);
    }
}

#[test]
fn a_missing_file() {
    let missing = Path::new("no-such-file.txt");
    fails(&run(&[], Some(missing)), &["cannot read no-such-file.txt", "No such file"]);
}

#[test]
fn a_line_over_the_limit() {
    let mut bytes = b"short\n".to_vec();
    bytes.resize(bytes.len() + (2 << 20) - 7, b'x');
    let file = file(&bytes);
    fails(&run(&[], Some(file.path())), &["line 2 of", "2097145 bytes", "limit of 2097144"]);
    assert_eq!(table(&run(&["--size", "10"], Some(file.path()))).len(), 3);
    fails(&run(&["--size", "2097145"], Some(file.path())), &["--size 2097145", "limit of 2097144"]);
}

/// A run that would last for hours, started and with all members joined: its process, the members' pids, and its
/// temporary directory.
struct LongRun {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    pids: Vec<String>,
    directory: tempfile::TempDir,
    _file: tempfile::NamedTempFile,
}

fn long_run(fabric: &str) -> LongRun {
    let file = numbered(100_000);
    let directory = tempfile::tempdir().unwrap();
    let mut child = example()
        .args(["--verbose", "--rate", "10", "--fabric", fabric])
        .arg(file.path())
        .env("TMPDIR", directory.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut pids = Vec::new();
    let mut line = String::new();
    // All members have joined when the reported progress is greater than 0.
    while !line.contains("lines everywhere") || line.starts_with("0 ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "ended early");
        pids.extend(line.split_once("pid ").map(|(_, pid)| pid.trim().to_owned()));
    }
    assert_eq!(pids.len(), 3);
    LongRun { child, stderr, pids, directory, _file: file }
}

impl Drop for LongRun {
    fn drop(&mut self) {
        // The process has already ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl LongRun {
    /// Waits for the end of the run. Returns the exit code and the output. No process and no file of the run may be
    /// left.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        for pid in &self.pids {
            assert!(!PathBuf::from("/proc").join(pid).exists(), "member {pid} still runs");
        }
        let left: Vec<_> = self.directory.path().read_dir().unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        (status.code(), said)
    }
}

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

#[test]
fn a_member_that_dies_is_named() {
    for fabric in ["shm", "tcp"] {
        let run = long_run(fabric);
        signal("-KILL", &run.pids[1]);
        let victim = format!("member 1 (pid {}) died: signal: 9", run.pids[1]);
        let (code, said) = run.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&victim), "{said}");
        for survivor in ["member 0: ", "member 2: "] {
            let line = said.lines().find(|line| line.contains(survivor));
            assert!(line.is_some_and(|line| line.contains("member 1 failed")), "{said}");
        }
    }
}

/// Does a run in which a member is killed and replaced. Returns the output.
fn killed(args: &[&str], lines: usize, members: usize) -> String {
    let file = numbered(lines);
    let output = run(args, Some(file.path()));
    let rows = table(&output);
    assert_eq!(rows.len(), members);
    assert!(rows.iter().all(|row| row.0 == lines), "{rows:?}");
    assert!(args.contains(&"fifo") || rows.iter().all(|row| row.1 == rows[0].1), "{rows:?}");
    text(&output.stdout)
}

#[test]
fn a_member_that_is_killed_on_purpose_comes_back() {
    for fabric in ["shm", "tcp"] {
        for (kill, members, failed, joined) in [
            ("--kill", "3", "0, 1: 2 failed", "0, 1, 2: 2 joined"),
            ("--kill=0", "4", "1, 2, 3: 0 failed", "1, 2, 3, 0: 0 joined"),
        ] {
            let count = members.parse().unwrap();
            let out = killed(&[kill, "--members", members, "--fabric", fabric], 3000, count);
            assert_eq!(out.matches(failed).count(), count - 1, "{out}");
            assert_eq!(out.matches(joined).count(), count, "{out}");
            assert!(out.contains("deliveries paused") && out.contains("every line exactly once"), "{out}");
            assert!(out.contains("lines from the others") && !out.contains("received 0 lines"), "{out}");
        }
        killed(&["--kill=1", "--mode", "fifo", "--fabric", fabric, "--rate", "2000"], 3000, 3);
    }
}

#[test]
fn a_kill_that_cannot_be() {
    fails(&run(&["--kill", "--members", "2"], None), &["--kill needs 3 members or more"]);
    fails(&run(&["--kill=3"], None), &["--kill=3", "members are 0 to 2"]);
    let file = numbered(10);
    fails(&run(&["--kill", "--rate", "100000"], Some(file.path())), &["before member 2 could be killed", "--rate"]);
}

#[test]
fn an_interrupt_ends_everything() {
    for name in ["-INT", "-TERM"] {
        let run = long_run("shm");
        signal(name, &run.child.id().to_string());
        let (code, said) = run.end();
        assert_eq!(code, Some(130), "{said}");
    }
}

#[test]
fn members_end_with_their_parent() {
    let mut run = long_run("shm");
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    // The members hold standard error open, so it ends when all of them have ended.
    run.stderr.read_to_string(&mut String::new()).unwrap();
}

#[test]
fn wrong_arguments_are_explained() {
    for (args, expected) in [
        (["--members", "0"], "1..=64"),
        (["--members", "65"], "1..=64"),
        (["--fabric", "udp"], "shm"),
        (["--mode", "total"], "ordered"),
    ] {
        let output = run(&args, None);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}
