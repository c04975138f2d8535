//! Whole processes, to which everything is done that the engine promises to survive.
//!
//! A run is one group: three to five founders, more that join later, all sending all the time; over tcp between hosts of
//! their own (network namespaces and a switch in this process, see `netns.rs` and `switch.rs`), or on shared memory; with and
//! without a log. Round by round something is done to it, drawn from the seed (`schedule.rs`): processes are killed, stopped,
//! told to leave, for good as well; the network is cut, one way too, split, reset, and loses, delays, reorders and
//! duplicates; clocks jump; disks fail and fill up; at any time, and at the moments at which the group is busy with something
//! else. After each round all heals, and the group must become whole; at the end everything sent must be delivered.
//!
//! Every process writes down all it is told (`record.rs`), and the checker holds the files of all of them against the
//! guarantees (`checker`).
//!
//! `GALERNA_SEED` draws one run again (what is done, not what comes of it: processes and networks have times of their own);
//! `GALERNA_CHAOS_SECONDS` says for how long to go on, run after run; `GALERNA_CHAOS_FABRIC` is `tcp`, `shm` or `verbs`
//! (over devices of this host, with proxies: connections are broken, but not held up; see `rdma_faults.rs` for that). What a
//! failed run leaves is in the folder that it names: `events.log`, and of each process what it wrote and the engine's words;
//! `GALERNA_CHAOS_CHECK` names such a folder to check it again.

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

/// Runs that fail, after which there is no point in more.
const FAILED_MOST: usize = 3;

/// Where the members' processes begin.
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
        // Long enough for a group to come to something, and short enough for many groups.
        let each = left.min(Duration::from_secs(10 + seed % 20));
        // A thread of its own, as it has mounts of its own.
        let problems = std::thread::scope(|scope| {
            let run = scope.spawn(|| judge::run(setup, folder.clone(), each, &mut totals));
            run.join().unwrap_or_else(|_| vec!["the test itself panicked".to_owned()])
        });
        if problems.is_empty() {
            // The mounts are gone with the thread.
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

/// Checks what a failed run has left in the folder `GALERNA_CHAOS_CHECK`.
#[test]
fn what_a_run_has_left_is_checked_again() {
    let Some(folder) = std::env::var_os("GALERNA_CHAOS_CHECK") else { return };
    let case = checker::Case::read(Path::new(&folder)).unwrap();
    let violations: Vec<String> = checker::check(&case).iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}
