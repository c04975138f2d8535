//! Disks that refuse a sync or a write, with real processes.

use super::common;
use super::folder::Folder;
use super::group::wait;
use super::history::{self, Durable, Line};
use super::rounds::{MEMBERS, Member, configure, equal_logs, start};
use galerna::FabricKind;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The number of durable messages that the member is delivered in its life before its disk begins to fail; one per
/// round.
const MOMENTS: [usize; 3] = [20, 400, 1500];

/// Compiles the library that makes calls fail, and stores it in the folder.
pub(crate) fn failing_disk(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/durable/failing_disk.c");
    let library = folder.join("failing_disk.so");
    let flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"];
    let compiled = Command::new("cc").args(flags).arg(&library).arg(source).arg("-ldl").status().unwrap();
    assert!(compiled.success());
    library
}

fn view_of(line: &Line) -> u64 {
    line.1.split(' ').next().unwrap().parse().unwrap()
}

fn is_durable(line: &Line) -> bool {
    line.1.split(' ').nth(3) == Some("d")
}

/// The deliveries of a member up to its last durable message. Later ones may be known to no other member.
pub(crate) fn settled(path: &Path) -> Vec<Line> {
    let mut lines = history::read(path);
    lines.truncate(lines.iter().rposition(is_durable).map_or(0, |last| last + 1));
    lines
}

pub(crate) fn stopped(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().find(|line| line.starts_with("# stopped")).map(str::to_owned)
}

/// Runs rounds of a group. In each round the disk of another member begins to refuse `calls`.
fn a_member_stops_and_comes_back(calls: &str) {
    let folder = Folder::new(&format!("refuse-{calls}"));
    let logs = folder.0.join("logs");
    std::fs::create_dir(&logs).unwrap();
    // The kernel gives the names of open files without symbolic links.
    let logs = logs.canonicalize().unwrap();
    configure(&folder.0, &logs, &common::addresses(FabricKind::Tcp, MEMBERS));
    let library = failing_disk(&folder.0);
    let mut durable = Durable::default();
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let failing = MEMBERS - round as u32 % MEMBERS;
        let trigger = folder.0.join(format!("since-{round}"));
        let directory = logs.join(format!("durable-{failing}"));
        let refusing: [(&str, &OsStr); 4] = [
            ("LD_PRELOAD", library.as_os_str()),
            ("FAILING_DIRECTORY", directory.as_os_str()),
            ("FAILING_CALLS", OsStr::new(calls)),
            ("FAILING_SINCE", trigger.as_os_str()),
        ];
        let life = 2 * round;
        let variables = |id: u32| if id == failing { &refusing[..] } else { &[] };
        let mut members: Vec<Member> = (1..=MEMBERS).map(|id| start(&folder.0, id, life, variables(id))).collect();
        members.iter_mut().for_each(|member| member.hear("joined"));
        let mut failed = members.remove(failing as usize - 1);
        // The old content of the log is delivered before the process prints `joined`.
        let before = settled(&failed.history).len();
        wait("durable delivery", || settled(&failed.history).len() > before + moment);
        assert_eq!(stopped(&failed.history), None, "round {round}: nothing was refused yet");

        std::fs::write(&trigger, "").unwrap();
        wait("the stop", || stopped(&failed.history).is_some());
        let reason = stopped(&failed.history).unwrap();
        let doing = if calls == "sync" { "syncing" } else { "writing" };
        // The log may also have been about to make the next segment.
        let named = [doing, "making"].iter().any(|doing| reason.contains(&format!("because {doing} 0000")));
        assert!(named && reason.contains(".segment") && reason.contains("os error 5"), "round {round}: {reason}");
        let last = settled(&failed.history).last().map_or(0, view_of);
        for member in &members {
            let goes_on = || settled(&member.history).last().is_some_and(|line| view_of(line) > last);
            wait("durable delivery without it", goes_on);
        }
        failed.end();

        let mut back = start(&folder.0, failing, life + 1, &[]);
        back.hear("joined");
        let reached = settled(&members[0].history).last().map_or(0, |line| line.0);
        wait("the way back", || settled(&back.history).last().is_some_and(|line| line.0 > reached));
        members.iter_mut().chain([&mut back]).for_each(Member::kill);

        let lives = members.iter().chain([&failed, &back]);
        let histories: Vec<_> = lives.map(|member| settled(&member.history)).collect();
        durable.check(round, &histories);
        equal_logs(&logs, round);
        println!("round {round}: {} durable messages; {reason}", durable.len());
    }
    // One more start, so that the messages of the last round are found in the logs, too.
    let life = 2 * MOMENTS.len();
    let mut members: Vec<Member> = (1..=MEMBERS).map(|id| start(&folder.0, id, life, &[])).collect();
    members.iter_mut().for_each(|member| member.hear("joined"));
    members.iter_mut().for_each(Member::kill);
    let histories: Vec<_> = members.iter().map(|member| settled(&member.history)).collect();
    assert!(histories.iter().all(|history| history.len() >= durable.len()), "not all was told");
    durable.check(MOMENTS.len(), &histories);
}

#[test]
fn a_refused_sync_stops_its_member_only() {
    a_member_stops_and_comes_back("sync");
}

#[test]
fn a_refused_write_stops_its_member_only() {
    a_member_stops_and_comes_back("write");
}
