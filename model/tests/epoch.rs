//! The protocol holds its properties in every reachable state; each planted mistake breaks one.
#![allow(clippy::unwrap_used, clippy::panic)]

use galerna_model::{Bug, Config, Epoch};
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::time::Instant;

const THREADS: usize = 2;

/// Explores everything, and fails with the steps that lead to a broken property.
fn holds(name: &str, config: Config, witnessed: &[&str]) {
    let start = Instant::now();
    let checker = Epoch { config }.checker().threads(THREADS).spawn_dfs().join();
    println!(
        "{name}: {} steps, {} states, depth {}, {:.1?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed()
    );
    let mut found = checker.discoveries();
    for property in checker.model().properties() {
        let path = found.remove(property.name);
        match property.expectation {
            Expectation::Sometimes if witnessed.contains(&property.name) => {
                assert!(path.is_some(), "{name}: never: {}", property.name);
            }
            Expectation::Sometimes => {}
            _ => {
                let steps = path.map(|path| path.into_actions());
                assert!(steps.is_none(), "{name}: not always: {}: {steps:?}", property.name);
            }
        }
    }
}

const SAME: &str = "a decision for the same members";
const NEW_LEADER: &str = "a decision without rank 0";
const ADOPTION: &str = "rank 1 finishes a proposal of rank 0";
const CONTEST: &str = "two leaders propose two values";

#[test]
fn the_epoch_ends_well() {
    let one = Config { suspicions: 1, crashes: 1, ..Config::QUIET };
    holds("one of each", one, &[NEW_LEADER, CONTEST]);
    // Nearly all steps.
    if std::env::var_os("GALERNA_LONG").is_some() {
        holds("torn, joint", Config { torn: true, joint: true, ..one }, &[NEW_LEADER, CONTEST]);
        holds("asked", Config { asks: true, ..one }, &[SAME, NEW_LEADER, ADOPTION, CONTEST]);
        holds("two suspicions", Config { suspicions: 2, ..one }, &[NEW_LEADER, ADOPTION, CONTEST]);
    }
}

#[test]
fn the_ballots_agree() {
    holds("ballots", Config { attempts: [2, 1, 1], ..Config::SYNOD }, &[NEW_LEADER, ADOPTION, CONTEST]);
    if std::env::var_os("GALERNA_LONG").is_some() {
        holds("torn ballots", Config { torn: true, joint: true, ..Config::SYNOD }, &[NEW_LEADER, ADOPTION, CONTEST]);
    }
}

/// Explores until the named property breaks. The tests above, with `GALERNA_LONG`, explore bounds at least as wide
/// without the mistake, so what is found is the mistake and not the model.
fn breaks(bug: Bug, bounds: Config, broken: &str) {
    let start = Instant::now();
    let wanted = HasDiscoveries::AnyOf([broken].iter().filter_map(|name| property(name)).collect());
    let config = Config { bug: Some(bug), ..bounds };
    let checker = Epoch { config }.checker().threads(THREADS).finish_when(wanted).spawn_bfs().join();
    let steps = checker.discovery(property(broken).unwrap()).map(|path| path.into_actions());
    println!("{bug:?}: {} states, {:.1?}, {steps:?}", checker.unique_state_count(), start.elapsed());
    assert!(steps.is_some(), "{bug:?} does not show");
}

fn property(name: &str) -> Option<&'static str> {
    Epoch { config: Config::QUIET }.properties().iter().map(|property| property.name).find(|&known| known == name)
}

const AGREEMENT: &str = "one decision";

#[test]
fn mistakes_with_the_trim_show() {
    let suspicion = Config { suspicions: 1, ..Config::QUIET };
    breaks(Bug::TrimByMinimum, suspicion, "the next view delivered nothing beyond the trim");
    breaks(Bug::ProposeUnflushed, suspicion, "the next view has all up to the trim");
    let crash = Config { crashes: 1, ..Config::QUIET };
    breaks(Bug::TakeInAfterWedge, crash, "the next view delivered nothing beyond the trim");
    breaks(Bug::TakeInAfterWedge, crash, "every message delivered as safe is in the trim");
    breaks(Bug::InstallThoughRemoved, suspicion, "only members of the next view install it");
}

#[test]
fn mistakes_with_the_ballots_show() {
    breaks(Bug::IgnoreAccepted, Config::SYNOD, AGREEMENT);
    breaks(Bug::AcceptAfterPromise, Config::SYNOD, AGREEMENT);
    breaks(Bug::SkipPromises, Config::SYNOD, AGREEMENT);
    breaks(Bug::FirstBallotAfterPromise, Config::SYNOD, AGREEMENT);
    breaks(Bug::MajorityAcrossBallots, Config::SYNOD, AGREEMENT);
    breaks(Bug::MajorityOfOneValue, Config { attempts: [2, 1, 1], ..Config::SYNOD }, AGREEMENT);
    breaks(Bug::PromiseBeforeAccepted, Config { joint: true, ..Config::SYNOD }, AGREEMENT);
    breaks(Bug::CounterBeforeSlot, Config { torn: true, ..Config::SYNOD }, AGREEMENT);
}

#[test]
fn mistakes_with_changing_candidates_show() {
    let asked = Config { received: [0; 3], suspicions: 1, asks: true, ..Config::QUIET };
    breaks(Bug::ReuseBallot, asked, AGREEMENT);
    let suspicions = Config { suspicions: 2, ..Config::QUIET };
    breaks(Bug::FlushOnce, suspicions, "a connected majority ends the epoch");
}
