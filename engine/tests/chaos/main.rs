//! Runs groups of whole processes under every fault that the engine promises to survive.
//!
//! A run is one group: three to five founders, and members that join later. All of them send all the time. The group
//! runs over tcp between separate hosts (network namespaces and a switch in this process, see `netns.rs` and
//! `switch.rs`) or on shared memory, with and without a log. Each round applies faults that are drawn from the seed
//! (`schedule.rs`):
//!
//! * Processes are killed, are stopped, or leave, some of them for good.
//! * The network is cut, also in one direction only, is split, or is reset. It loses, delays, reorders and duplicates
//!   frames.
//! * Clocks jump. Disks fail and fill up.
//!
//! The faults come at any time, and also at the moments at which the group is busy with another change. After each
//! round all faults end, and the group must become whole. At the end every message that was sent must be delivered.
//!
//! Every process records all events that it sees (`record.rs`). The checker compares the files of all processes with
//! the guarantees (`checker`).
//!
//! Environment variables:
//!
//! * `GALERNA_SEED` draws one run again. The faults are the same, but their effects can differ, since processes and
//!   networks have timing of their own.
//! * `GALERNA_CHAOS_SECONDS` is the time in seconds in which run after run is started.
//! * `GALERNA_CHAOS_FABRIC` is `tcp`, `shm` or `verbs`. With `verbs` the members use devices of this host, and proxies
//!   break connections but do not hold them up (`rdma_faults.rs` does that).
//! * `GALERNA_CHAOS_CHECK` names the folder of a failed run, to check it again. A failed run prints the name of its
//!   folder, which holds `events.log`, and the records and the engine's output of each process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::exit,
    reason = "a test fails by panicking, its processes by ending"
)]

mod acts;
mod checker;
mod judge;
mod life;
mod member;
mod netns;
mod outbox;
mod proxy;
mod record;
#[allow(dead_code, reason = "the simulator uses the rest")]
#[path = "../simulation/rng.rs"]
mod rng;
mod run;
mod schedule;
mod scripted;
mod shim;
mod switch;
mod trace;
mod world;

use judge::Totals;
use schedule::Setup;
use std::path::Path;
use std::time::{Duration, Instant};

/// After so many failed runs the test ends.
const FAILED_MOST: usize = 3;

/// The entry point of the members' processes.
#[test]
#[ignore = "a member's process, which the other tests start"]
fn member_process() {
    if let Ok(role) = std::env::var(member::MEMBER) {
        member::run(&role);
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn the_guarantees_hold_whatever_happens() {
    let given = number("GALERNA_SEED");
    let first = given.unwrap_or_else(|| member::now_ms().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    let time = Duration::from_secs(number("GALERNA_CHAOS_SECONDS").unwrap_or(8));
    let fabric = std::env::var("GALERNA_CHAOS_FABRIC").ok();
    let begun = Instant::now();
    let (mut totals, mut failed) = (Totals::default(), Vec::new());
    for seed in first.. {
        let left = time.saturating_sub(begun.elapsed());
        let setup = Setup::draw(seed, fabric.as_deref());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}-{seed}", std::process::id()));
        println!("GALERNA_SEED={seed}: {setup}");
        // Long enough for a group to make progress, and short enough for many groups.
        let each = left.min(Duration::from_secs(10 + seed % 20));
        // A separate thread, because a run has its own mounts.
        let problems = std::thread::scope(|scope| {
            let run = scope.spawn(|| judge::run(setup, folder.clone(), each, &mut totals));
            run.join().unwrap_or_else(|_| vec!["the test itself panicked".to_owned()])
        });
        if problems.is_empty() {
            // The mounts ended with the thread.
            std::fs::remove_dir_all(&folder).unwrap();
        } else {
            let text = format!("GALERNA_SEED={seed}: all is kept in {}\n{}", folder.display(), problems.join("\n"));
            println!("{text}");
            failed.push(text);
        }
        if begun.elapsed() >= time || given.is_some() && failed.len() == 1 || failed.len() >= FAILED_MOST {
            break;
        }
    }
    println!("{totals}\n{} s, {} runs with violations", begun.elapsed().as_secs(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Checks the files that a failed run has left in the folder `GALERNA_CHAOS_CHECK`.
#[test]
fn what_a_run_has_left_is_checked_again() {
    let Some(folder) = std::env::var_os("GALERNA_CHAOS_CHECK") else { return };
    let case = checker::Case::read(Path::new(&folder)).unwrap();
    let violations: Vec<String> = checker::check(&case).iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}
