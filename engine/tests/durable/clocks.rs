//! A host with a wrong clock, with real processes.

use super::common;
use super::folder::Folder;
use super::member::QUIET;
use super::rounds::{MEMBERS, Member, configure, equal_logs, start};
use galerna::FabricKind;
use galerna::log::Log;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(90);
const SECOND_NS: u64 = 1_000_000_000;
/// An hour back, a day ahead, before 1970, after 2554: in seconds.
const SHIFTS: [i64; 4] = [-3600, 86_400, -2_000_000_000, 20_000_000_000];

/// Compiles the library that shifts a clock, and stores it in the folder.
fn shifted_clock(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/durable/shifted_clock.c");
    let library = folder.join("shifted_clock.so");
    let flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"];
    let compiled = Command::new("cc").args(flags).arg(&library).arg(source).arg("-ldl").status().unwrap();
    assert!(compiled.success());
    library
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The closed time of a member.
fn closed_ns(member: &mut Member) -> u64 {
    let said = member.ask("closed", "closed ");
    said.split_whitespace().last().unwrap().parse().unwrap()
}

/// Waits until the closed time of every member has reached `time_ns`.
fn wait_closed(members: &mut [Member], time_ns: u64, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    for (n, member) in members.iter_mut().enumerate() {
        while closed_ns(member) < time_ns {
            assert!(Instant::now() < deadline, "{what}: the closed time of member {} stands", n + 1);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The clock of one of three hosts is wrong in every way, while only that member sends, and through a kill of all
/// members. The closed time goes on, no record has a time of that clock, no member stops, and every member warns of the
/// clock.
#[test]
fn a_wrong_clock_of_one_host_costs_nothing_but_a_warning() {
    let folder = Folder::new("clocks");
    let logs = folder.0.join("logs");
    configure(&folder.0, &logs, &common::addresses(FabricKind::Tcp, MEMBERS));
    let (library, shift) = (shifted_clock(&folder.0), folder.0.join("shift"));
    std::fs::write(&shift, "0").unwrap();
    let quiet = (QUIET, OsStr::new("1"));
    let shifted = [quiet, ("LD_PRELOAD", library.as_os_str()), ("SHIFTED_BY", shift.as_os_str())];
    let start_all = |life: usize| -> Vec<Member> {
        let variables = |id: u32| if id == MEMBERS { &shifted[..] } else { &shifted[..1] };
        let mut members: Vec<Member> = (1..=MEMBERS).map(|id| start(&folder.0, id, life, variables(id))).collect();
        members.iter_mut().for_each(|member| member.hear("joined"));
        members
    };
    let begin_ns = now_ns();
    let mut members = start_all(0);
    members[2].ask("send", "sent");
    wait_closed(&mut members, begin_ns, "all clocks are right");
    for (life, seconds) in SHIFTS.into_iter().enumerate() {
        let what = format!("a clock that is {seconds} s off");
        std::fs::write(&shift, seconds.to_string()).unwrap();
        let since_ns = now_ns();
        // By then the others have noticed: the last time that they have from that clock is one heartbeat old.
        wait_closed(&mut members, since_ns + 3 * SECOND_NS, &what);
        members[2].ask("send", "sent");
        // The message has an earlier time, so it is on all disks then.
        wait_closed(&mut members, now_ns() + SECOND_NS, &what);
        if life == 0 {
            std::thread::sleep(Duration::from_secs(5));
        }
        let before = closed_ns(&mut members[0]);
        members.iter_mut().for_each(Member::kill);
        members = start_all(life + 1);
        wait_closed(&mut members, before, &what);
    }
    members.iter_mut().for_each(Member::kill);
    for id in 1..=MEMBERS {
        let trace = std::fs::read_to_string(folder.0.join(format!("{id}-0.trace"))).unwrap();
        let warned = trace
            .lines()
            .any(|line| line.contains("member=3") && line.contains("s behind the clocks of the other members"));
        assert!(warned, "member {id} did not warn: {trace}");
    }
    let all = equal_logs(&logs, 0);
    assert!(all.iter().all(|log| log.len() == 1 + SHIFTS.len()), "{all:?}");
    let log = Log::open_read_only(logs.join("durable-1")).unwrap();
    for entry in log.reader().iter(..).map(|entry| entry.unwrap()).filter(|entry| entry.time_ns() > SECOND_NS) {
        let (time_ns, end_ns) = (entry.time_ns(), now_ns());
        assert!(
            (begin_ns - 5 * SECOND_NS..end_ns + 5 * SECOND_NS).contains(&time_ns),
            "{:?} is of {time_ns}",
            entry.version()
        );
    }
}
