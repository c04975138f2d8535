//! Leaders that compete: every member leads, each with its own value, over the rows, links and delays of the simulated
//! fabric. In no case may a member learn of two decisions. In whole runs two leaders with different values at the same
//! time are rare; these tests contain nothing else.

use super::rng::Rng;
use super::scenarios::{Stage, stage};
use crate::planted::{self, Bug};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one duel, and returns the number of proposals.
fn duel(seed: u64) -> usize {
    let mut rng = Rng::new(seed);
    let n = 3 + 2 * rng.below(2);
    let mut s: Stage = stage(n, 4096, false);
    s.node(0).leave();
    s.run(&[0], 1);
    planted::let_everybody_lead(true);
    let mut decided: Vec<Option<String>> = vec![None; n];
    for _ in 0..4000 {
        s.now_ms += u64::from(rng.chance(1, 4));
        let who = rng.below(n);
        match rng.below(4) {
            // Some members stand still for a while, so that their ballots come late.
            0 if !(s.now_ms / 40 + who as u64).is_multiple_of(3) => s.poll(who),
            0 => {}
            1 => {
                let (from, to) = (rng.below(n), rng.below(n));
                s.net.world().slow(from, to, rng.chance(1, 2));
            }
            _ => {
                s.net.world().step();
            }
        }
        for (who, known) in decided.iter_mut().enumerate() {
            if let Some(value) = s.node(who).decision() {
                let first = known.get_or_insert_with(|| value.clone());
                assert_eq!(*first, value, "{who} changes its mind (guarantee 7)");
            }
        }
        let mut known = decided.iter().flatten();
        if let Some(first) = known.next() {
            assert!(known.all(|other| other == first), "two decisions (guarantee 7): {decided:#?}");
        }
        if decided.iter().all(Option::is_some) {
            break;
        }
    }
    planted::let_everybody_lead(false);
    (0..n).filter(|&who| s.node(who).has_proposed()).count()
}

fn run(seed: u64) -> Result<usize, String> {
    let done = catch_unwind(AssertUnwindSafe(|| duel(seed)));
    planted::let_everybody_lead(false);
    done.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[test]
fn duels_have_one_winner() {
    let duels = if std::env::var_os("GALERNA_LONG").is_some() { 2000 } else { 500 };
    let proposals: usize = (0..duels).map(|seed| run(seed).unwrap_or_else(|what| panic!("duel {seed}: {what}"))).sum();
    assert!(proposals > duels as usize, "only {proposals} proposals in {duels} duels");
}

/// The texts with which a duel fails if there are two decisions (see `duel`).
const ONE_DECISION: [&str; 2] = ["changes its mind (guarantee 7)", "two decisions (guarantee 7)"];

/// Each planted bug leads to two decisions within a few thousand duels. Another failure does not count, nor does a duel
/// that fails without the bug.
fn caught(bug: Bug) {
    let duel_with = |seed: u64| {
        planted::plant(Some(bug));
        let what = run(seed).err();
        planted::plant(None);
        let what = what.filter(|what| ONE_DECISION.iter().any(|part| what.contains(part)));
        what.filter(|_| run(seed).is_ok()).map(|what| (seed, what))
    };
    let found = (0..3000).find_map(duel_with);
    let (seed, what) = found.unwrap_or_else(|| panic!("{bug:?} led to no second decision in 3000 duels"));
    println!("{bug:?}: caught by duel number {}: {}", seed + 1, what.lines().next().unwrap_or_default());
}

#[test]
fn catches_a_leader_that_ignores_what_was_accepted() {
    caught(Bug::IgnoreAccepted);
}

#[test]
fn catches_an_acceptance_against_a_promise() {
    caught(Bug::AcceptAfterPromise);
}

#[test]
fn catches_a_majority_across_ballots() {
    caught(Bug::MajorityAcrossBallots);
}

#[test]
fn catches_a_promise_read_with_an_older_acceptance() {
    caught(Bug::PromiseBeforeAccepted);
}
