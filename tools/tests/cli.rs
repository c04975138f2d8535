//! The tool on real logs: complete, torn, damaged, being written, and missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "../../engine/tests/common/folder.rs"]
mod folder;
#[path = "../../engine/tests/common/stops.rs"]
mod stops;

use galerna::Version;
use galerna::log::{Kind, Log, LogOptions, Record};
use galerna::{MemberId, Mode};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stops::Stops;

const LONG: Duration = Duration::from_secs(60);
/// 2026-01-31T09:30:00Z
const MORNING_NS: u64 = 1_769_851_800_000_000_000;

/// A folder with a log in it.
struct Folder(PathBuf, #[allow(dead_code, reason = "removes the folder")] folder::Folder);

impl Folder {
    fn new() -> Folder {
        let made = folder::Folder::new("log-tool");
        Folder(made.0.clone(), made)
    }

    /// A log with records 1 to `n` in views of 100, one record per second, in segments of 64 KiB.
    fn with(n: u64) -> Folder {
        let folder = Folder::new();
        fill(&folder.open(), 1..=n);
        folder
    }

    fn open(&self) -> Log {
        Log::open(self.log(), LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Runs `galerna-log COMMAND LOG ARGUMENTS`.
    fn run(&self, command: &str) -> Output {
        let (command, arguments) = command.split_once(' ').unwrap_or((command, ""));
        let mut tool = Command::new(env!("CARGO_BIN_EXE_galerna-log"));
        tool.arg(command).arg(self.log()).args(arguments.split_whitespace()).current_dir(&self.0).output().unwrap()
    }

    /// The standard output of a command that must succeed.
    fn out(&self, command: &str) -> String {
        let output = self.run(command);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {err}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The standard error of a command that must end with this status.
    fn err(&self, command: &str, status: i32) -> String {
        let output = self.run(command);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{command}: {err}");
        err
    }

    /// Inverts the bits of one byte in a file of the log.
    fn damage(&self, file: &str, offset: u64) {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.log().join(file)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[!byte[0]], offset).unwrap();
    }
}

fn version(sequence: u64) -> Version {
    Version { view: 1 + sequence / 100, sequence }
}

fn fill(log: &Log, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        let payload = format!("record {sequence}, line 1\nline 2: {}", "x".repeat(sequence as usize % 700));
        let (sender, kind) = (MemberId(sequence as u32 % 3 + 1), Kind::Message);
        let time_ns = MORNING_NS + sequence * 1_000_000_000;
        let payload = payload.as_bytes();
        let record = Record { version: version(sequence), time_ns, sender, mode: Mode::Durable, kind, payload };
        log.append_record(record, LONG).unwrap();
    }
    log.sync(LONG).unwrap();
}

fn segment(number: u64) -> String {
    format!("{number:016x}.segment")
}

#[test]
fn a_whole_log_is_listed_and_verified() {
    let folder = Folder::with(500);
    let log = folder.open();
    let mut checkpoint = log.snapshot(version(300), MORNING_NS).unwrap();
    checkpoint.write(b"the state").unwrap();
    log.install(checkpoint, LONG).unwrap();
    log.trim(version(300), LONG).unwrap();
    log.save("promise", b"kept", LONG).unwrap();
    log.close().unwrap();
    let list: Value = serde_json::from_str(&folder.out("list --json")).unwrap();
    let segments = list["segments"].as_array().unwrap();
    assert!(segments.len() > 1 && segments[0]["number"].as_u64() > Some(0), "{list}");
    let records: u64 = segments.iter().map(|segment| segment["records"].as_u64().unwrap()).sum();
    let low = list["low"]["sequence"].as_u64().unwrap();
    assert!(low > 1 && low <= 300);
    assert_eq!((list["records"].as_u64(), records), (Some(501 - low), 501 - low));
    assert_eq!((&list["segments"][0]["first"], &segments[segments.len() - 1]["last"]), (&list["low"], &list["last"]));
    assert_eq!((&list["last"]["view"], &list["last"]["time"]), (&6.into(), &"2026-01-31T09:38:20.000000000Z".into()));
    assert_eq!((&list["checkpoint"]["sequence"], &list["checkpoint"]["bytes"]), (&300.into(), &9.into()));
    assert_eq!(list["torn"], Value::Null);
    let text = folder.out("list");
    for part in ["subgroup 0", "6.500 of 2026-01-31T09:38:20", "checkpoint: up to 4.300", &segment(low / 150)[..12]] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    let text = folder.out("verify");
    assert!(text.starts_with(&format!("whole: {records} records")), "{text}");
    assert!(text.contains("checkpoint up to 4.300, 9 bytes; 1 blobs"), "{text}");
    folder.damage(&format!("{:016x}-{:016x}.snapshot", 4, 300), 100);
    assert!(folder.err("verify", 1).contains(".snapshot, offset 96"));
    assert!(folder.err("list", 1).contains(".snapshot"));
    folder.damage("promise.blob", 65);
    assert!(folder.err("verify", 1).contains("promise.blob"));
}

#[test]
fn records_are_printed() {
    let folder = Folder::with(250);
    let lines = |command: &str| folder.out(command).lines().map(str::to_owned).collect::<Vec<_>>();
    let all = lines("print");
    assert_eq!(all.len(), 250);
    let first = "1.1  2026-01-31T09:30:01.000000000Z  sender 2  durable  message  ";
    assert!(all[0].starts_with(first) && all[0].ends_with("record 1, line 1\\nline 2: x"), "{}", all[0]);
    assert_eq!(lines("print --from 1.90 --to 2.110"), all[89..110]);
    assert_eq!(lines("print --from 90 --to 110"), all[89..110]);
    assert_eq!(lines("print --from 2.0 --limit 3"), all[99..102]);
    assert_eq!(lines("print --at 2026-01-31T09:30:07.5Z"), all[6..7]);
    assert_eq!(lines(&format!("print --at {} --limit 2", MORNING_NS + 7_000_000_000)), all[6..8]);
    assert_eq!(lines("print --from 9.1").len(), 0);
    assert!(folder.err("print --at 2026-01-31T09:30:00Z", 2).contains("no record is as old as 2026-01-31"));
    let hex = lines("print --limit 1 --format hex");
    assert!(hex[0].starts_with(first));
    assert_eq!(hex[1], "  00000000  72 65 63 6f 72 64 20 31  2c 20 6c 69 6e 65 20 31  |record 1, line 1|");
    assert_eq!(hex[2], "  00000010  0a 6c 69 6e 65 20 32 3a  20 78                    |.line 2: x|");
    let json: Value = serde_json::from_str(&lines("print --limit 1 --format json")[0]).unwrap();
    assert_eq!((&json["sequence"], &json["mode"], &json["bytes"]), (&1.into(), &"durable".into(), &26.into()));
    for (flags, why) in [("--from a.b", "VIEW.SEQ"), ("--at noon", "RFC 3339"), ("--at 5 --from 1", "--from")] {
        assert!(folder.err(&format!("print {flags}"), 2).contains(why), "{flags}");
    }
}

#[test]
fn what_is_not_text_is_shown_in_hexadecimal() {
    let folder = Folder::new();
    let log = folder.open();
    for payload in [&b"\x00\x01"[..], b"\xff", "caf\u{e9} \\ tab\t".as_bytes(), b""] {
        log.append(payload, LONG).unwrap();
    }
    log.close().unwrap();
    let text = folder.out("print");
    let shown: Vec<&str> = text.lines().map(|line| line.split(" bytes  ").nth(1).unwrap()).collect();
    assert_eq!(shown, ["hex 0001", "hex ff", "caf\u{e9} \\\\ tab\\t", ""]);
    assert_eq!(folder.out("print --from 3").lines().count(), 2, "a sequence alone, in a log without views");
}

#[test]
fn records_are_exported() {
    let folder = Folder::with(250);
    folder.out("export all.jsonl");
    let text = fs::read_to_string(folder.0.join("all.jsonl")).unwrap();
    assert_eq!(text, folder.out("export -"));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 250);
    for (line, sequence) in lines.iter().zip(1u64..) {
        let hex = line["payload_hex"].as_str().unwrap();
        assert_eq!((line["view"].as_u64(), line["sequence"].as_u64()), (Some(1 + sequence / 100), Some(sequence)));
        assert_eq!(line["time_ns"].as_u64(), Some(MORNING_NS + sequence * 1_000_000_000));
        assert_eq!(line["bytes"].as_u64(), Some(hex.len() as u64 / 2));
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect();
        assert!(bytes.starts_with(format!("record {sequence}, ").as_bytes()));
    }
    assert_eq!(folder.out("export - --from 1.3 --to 1.5").lines().count(), 3);
    assert!(folder.err("export all.jsonl", 2).contains("all.jsonl"), "nothing is overwritten");
}

#[test]
fn a_torn_tail_is_told_and_is_no_damage() {
    let folder = Folder::with(10);
    let list: Value = serde_json::from_str(&folder.out("list --json")).unwrap();
    let end = 4096 + list["bytes"].as_u64().unwrap();
    let file = fs::OpenOptions::new().write(true).open(folder.log().join(segment(0))).unwrap();
    file.write_all_at(b"half a record", end).unwrap();
    let torn = format!("torn tail: {} at {end}", segment(0));
    let text = folder.out("verify");
    assert!(text.contains(&torn) && text.contains("whole: 10 records"), "{text}");
    assert!(folder.out("list").contains(&torn));
    let list: Value = serde_json::from_str(&folder.out("list --json")).unwrap();
    assert_eq!((&list["torn"]["file"], &list["torn"]["offset"]), (&segment(0).into(), &end.into()));
    assert_eq!(folder.out("print").lines().count(), 10);
}

#[test]
fn damage_is_told_by_file_and_offset() {
    let folder = Folder::with(1000);
    let list: Value = serde_json::from_str(&folder.out("list --json")).unwrap();
    assert!(list["segments"].as_array().unwrap().len() > 4);
    let records = |n: usize| list["segments"][n]["records"].as_u64().unwrap();
    // Damage the payload of the first record of segment 1, and the header of the first record of segment 3.
    folder.damage(&segment(1), 4096 + 64);
    folder.damage(&segment(3), 4096 + 20);
    let output = folder.run("verify");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{err}");
    for number in [1, 3] {
        assert!(err.contains(&format!("{}, offset 4096", segment(number))), "{err}");
    }
    let readable = 1000 - records(1) - records(3);
    assert!(out.contains(&format!("readable: {readable} records")), "{out}{err}");
    assert!(folder.err("print", 1).contains(&segment(1)));
    let output = folder.run("export -");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).lines().count() as u64,
        records(0),
        "what is before it is saved"
    );
    // Damage in the last segment, or in a segment's header, is found when the log is opened.
    folder.damage(&segment(2), 100);
    assert!(folder.err("verify", 1).contains(&format!("{}, offset 0", segment(2))));
    assert!(folder.err("list", 1).contains(&segment(2)));
}

/// A writer has the log locked, appends, cuts and trims. A reader sees one consistent state of it.
#[test]
fn a_log_is_looked_at_while_it_is_written() {
    let folder = Folder::new();
    let log = folder.open();
    log.append(b"one", LONG).unwrap();
    log.sync(LONG).unwrap();
    assert_eq!(folder.out("print").lines().count(), 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stops = Stops(&done);
        let writer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let last = log.append_batch(&[&[b'a'; 3000], &[b'b'; 700]], LONG).unwrap().unwrap();
                if last.sequence % 100 == 1 {
                    log.trim(Version { view: 0, sequence: last.sequence - 50 }, LONG).unwrap();
                }
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            assert!(folder.out("verify").contains("whole: "));
            folder.out("list");
            folder.out("print --limit 5");
            folder.out("export -");
        }
        drop(stops);
        writer.join().unwrap();
    });
}

#[test]
fn what_is_not_there_cannot_be_opened() {
    let folder = Folder::new();
    for command in ["list", "verify", "print", "export -"] {
        assert!(folder.err(command, 2).contains("log"), "{command}");
    }
    fs::create_dir(folder.log()).unwrap();
    for command in ["list", "verify", "print", "export -"] {
        let err = folder.err(command, 2);
        assert!(err.contains("opening the log in"), "{command}: {err}");
    }
    assert_eq!(fs::read_dir(folder.log()).unwrap().count(), 0, "nothing is made");
    folder.open().close().unwrap();
    assert!(folder.out("verify").contains("whole: 0 records"));
    assert!(folder.out("list").contains("0 records in 1 segments; oldest: -; checkpoint: none"));
    assert_eq!(folder.out("print"), "");
    let help = Command::new(env!("CARGO_BIN_EXE_galerna-log")).args(["export", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("payload_hex"));
    assert_eq!(Command::new(env!("CARGO_BIN_EXE_galerna-log")).status().unwrap().code(), Some(2));
}

/// Files that were removed.
///
/// Without the newest segment the log is unreadable. A missing file beside the records is reported beside them.
#[test]
fn removed_files_are_missed() {
    let folder = Folder::with(500);
    let log = folder.open();
    log.save("promise", b"kept", LONG).unwrap();
    let mut checkpoint = log.snapshot(version(300), MORNING_NS).unwrap();
    checkpoint.write(b"the state").unwrap();
    log.install(checkpoint, LONG).unwrap();
    log.close().unwrap();
    assert!(folder.out("verify").contains("whole: 500 records"));
    let list: Value = serde_json::from_str(&folder.out("list --json")).unwrap();
    let newest = list["segments"].as_array().unwrap().len() as u64 - 1;
    let checkpoint = format!("{:016x}-{:016x}.snapshot", 4, 300);
    for name in ["promise.blob".to_owned(), checkpoint, segment(newest), "marks".to_owned()] {
        fs::rename(folder.log().join(&name), folder.0.join("aside")).unwrap();
        let output = folder.run("verify");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{name}: {out}{err}");
        assert!(err.contains(&format!("{name}, offset 0: the file is missing")), "{name}: {err}");
        assert!(!out.contains("whole"), "{name}: {out}");
        let beside = name.ends_with(".blob") || name.ends_with(".snapshot");
        assert_eq!(out.contains("readable: 500 records"), beside, "{name}: {out}");
        assert_eq!(folder.run("print").status.success(), beside, "{name}");
        fs::rename(folder.0.join("aside"), folder.log().join(&name)).unwrap();
    }
    assert!(folder.out("verify").contains("whole: 500 records"));
}

/// The memory that a log needs does not depend on the size of its segments, so a small container can open it.
#[test]
fn a_segment_may_be_larger_than_the_memory() {
    let folder = Folder::new();
    let log = Log::open(folder.log(), LogOptions::default()).unwrap();
    fill(&log, 1..=2000);
    log.close().unwrap();
    let segment = fs::metadata(folder.log().join(segment(0))).unwrap().len();
    assert!(segment >= 64 << 20, "the default of {segment} bytes is what this test needs");
    for command in ["verify", "list", "print"] {
        let tool = format!(
            "ulimit -v 50000; exec '{}' {}",
            env!("CARGO_BIN_EXE_galerna-log"),
            command.replacen(' ', &format!(" '{}' ", folder.log().display()), 1)
        );
        let tool = if command.contains(' ') { tool } else { format!("{tool} '{}'", folder.log().display()) };
        let output = Command::new("sh").args(["-c", &tool]).output().unwrap();
        assert!(output.status.success(), "{command}: {}, {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}
