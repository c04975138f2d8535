//! Whole processes over tcp, to which everything is done that the engine promises to survive.
//!
//! Five members send all the time. Their processes are killed, stopped (for shorter and for longer than the failure
//! timeout), told to leave, and started anew; they are cut off, and pairs of them from each other. At most two at a time:
//! the group as such must never stop. Then all heals, everything that was sent is delivered, and the histories of all lives
//! of all members are compared, from the first to the last message.
//!
//! `GALERNA_CHAOS_FABRIC` is tcp or verbs (whose packets pass by the proxies: links are broken, but not held up; see
//! `rdma_faults.rs` for that); `GALERNA_CHAOS_SEED` chooses what is done (not what comes of it: the processes and the network have times of their own),
//! `GALERNA_CHAOS_SECONDS` for how long. What a failed run leaves is in the folder that it names: `events.log`, and by
//! member and life the history and the engine's own words.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::exit,
    reason = "a test fails by panicking, its processes by ending"
)]

mod history;
mod life;
mod member;
mod proxy;
#[allow(dead_code, reason = "the simulator uses the rest")]
#[path = "../simulation/rng.rs"]
mod rng;
mod run;
mod trace;

use run::{MEMBERS, Run, Step};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One group at a time: they would be each other's load.
static ALONE: Mutex<()> = Mutex::new(());

/// Where the members' processes begin.
#[test]
#[ignore = "a member's process, which the other tests start"]
fn member_process() {
    if let Ok(role) = std::env::var(member::MEMBER) {
        member::run(&role);
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Runs a group in a folder of its own, which stays if there is a problem.
fn with_group(name: &str, timeout_ms: u64, seed: u64, events: impl FnOnce(&mut Run)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{seed}", std::process::id()));
    println!("{name}: GALERNA_CHAOS_SEED={seed}, {}; the network is cut by proxies", folder.display());
    let mut run = Run::start(folder.clone(), timeout_ms, seed);
    if run.problems.is_empty() {
        events(&mut run);
    }
    run.quiesce();
    let problems = run.finish();
    let kept = folder.display();
    assert!(problems.is_empty(), "GALERNA_CHAOS_SEED={seed}: all is kept in {kept}\n{}", problems.join("\n"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn histories_agree_whatever_happens_to_two_of_five() {
    let clock = member::Clock::start();
    let seed = number("GALERNA_CHAOS_SEED", clock.0);
    let time = Duration::from_secs(number("GALERNA_CHAOS_SECONDS", 15));
    with_group("chaos", 800, seed, |run| {
        let begun = Instant::now();
        while begun.elapsed() < time && run.problems.is_empty() {
            round(run);
        }
    });
}

/// The transport of the group.
fn fabric() -> String {
    std::env::var("GALERNA_CHAOS_FABRIC").unwrap_or_else(|_| "tcp".to_owned())
}

/// Whether the proxies hold up what the members tell each other.
fn can_hold_up() -> bool {
    fabric() == "tcp"
}

/// Does something to one or two members, at about the same time, and waits until they are back.
fn round(run: &mut Run) {
    let mut victims = MEMBERS;
    run.rng.shuffle(&mut victims);
    let [first, second, ..] = victims;
    run.note("--- round");
    match run.rng.below(10) {
        0..=2 => disturb(run, first, 0, true),
        3 | 4 => part(run, first, second),
        5 if can_hold_up() => join_unevenly(run, first),
        _ => {
            disturb(run, first, 0, false);
            let later = run.rng.below(2500) as u64;
            disturb(run, second, later, false);
        }
    }
    run.settle("a round");
}

/// Plans what is done to a member; `alone` if nothing is done to another meanwhile.
fn disturb(run: &mut Run, id: u32, at_ms: u64, alone: bool) {
    let timeout_ms = run.timeout_ms;
    let mut between = |least: u64, most: u64| at_ms + least + run.rng.below((most - least) as usize) as u64;
    let short = between(50, timeout_ms * 3 / 4);
    let long = between(2 * timeout_ms, 7 * timeout_ms);
    let again = between(100, 2 * timeout_ms);
    let (mute, deaf) = [(true, true), (true, false), (false, true)][run.rng.below(3)];
    let doom = Step::Doom(if alone { 2 } else { 4 });
    let step = match run.rng.below(10) {
        4 | 5 | 9 if !can_hold_up() => 2,
        step => step,
    };
    let steps = match step {
        0 => vec![(at_ms, Step::Kill)],
        1 => vec![(at_ms, Step::Stop), (short, Step::Continue)],
        2 => vec![(at_ms, doom), (at_ms, Step::Stop), (long, Step::Continue)],
        3 => vec![(at_ms, Step::Leave)],
        4 => vec![(at_ms, Step::Cut { mute, deaf }), (short, Step::Heal)],
        5 => vec![(at_ms, doom), (at_ms, Step::Cut { mute, deaf }), (long, Step::Heal)],
        // The second time it may be about to join.
        6 => vec![(at_ms, Step::Kill), (again, Step::Kill)],
        7 => vec![(at_ms, Step::Kill), (again, Step::Stop), (again + timeout_ms * 3 / 2, Step::Continue)],
        8 => vec![(at_ms, Step::Leave), (at_ms + short % 20, Step::Kill)],
        // What it was told last, and what it said last, is known to nobody else.
        _ => vec![(at_ms, Step::Cut { mute, deaf }), (short, Step::Kill), (short + 20, Step::Heal)],
    };
    run.plan_steps(id, &steps);
}

/// Plans that a member comes back while now one, now another member's words reach it late, or reach late whom it asks for
/// the state: then the state is ahead of what it is told, or behind.
fn join_unevenly(run: &mut Run, id: u32) {
    run.plan_steps(id, &[(0, Step::Kill)]);
    for n in 0..12 {
        let mut others: Vec<u32> = MEMBERS.into_iter().filter(|other| *other != id).collect();
        run.rng.shuffle(&mut others);
        let (from, to) = (others[0], if run.rng.chance(1, 2) { id } else { others[1] });
        let begin_ms = 300 + 150 * n;
        let end_ms = begin_ms + 50 + run.rng.below(150) as u64;
        run.plan_steps(from, &[(begin_ms, Step::Hold(to)), (end_ms, Step::LetThrough(to))]);
    }
}

/// Plans what is done to a pair, one of which the group then goes on without.
fn part(run: &mut Run, a: u32, b: u32) {
    let long = 2 * run.timeout_ms + run.rng.below(3000) as u64;
    let mut steps = vec![(0, Step::DoomOneOf(b))];
    match run.rng.below(3) {
        way if way == 0 || !can_hold_up() => steps.push((0, Step::Break(b))),
        1 => steps.extend([(0, Step::Hold(b)), (long, Step::LetThrough(b))]),
        _ => {
            steps.extend([(0, Step::Hold(b)), (long, Step::LetThrough(b))]);
            run.plan_steps(b, &[(0, Step::Hold(a)), (long, Step::LetThrough(a))]);
        }
    }
    run.plan_steps(a, &steps);
}

#[test]
fn a_broken_link_costs_one_of_its_two_members_its_place() {
    // Long enough that nobody is suspected for being slow.
    with_group("broken-link", 5000, 1, |run| {
        let before = run.lives();
        run.plan_steps(2, &[(0, Step::DoomOneOf(4)), (0, Step::Break(4))]);
        run.settle("a broken link");
        run.go_on(Duration::from_secs(1), |_| false);
        let after = run.lives();
        let anew: Vec<u32> = (0..MEMBERS.len()).filter(|&n| after[n] != before[n]).map(|n| MEMBERS[n]).collect();
        assert!(matches!(anew[..], [2] | [4]), "these were removed: {anew:?}");
    });
}
