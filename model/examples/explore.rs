//! Explores one configuration: `cargo run --release -p galerna-model --example explore -- suspicions=2 crashes=1`.
//!
//! Arguments are fields of `Config`; numbers per member are three digits, `received=210`, flags are 0 or 1. With
//! `synod=1` the bounds start from `Config::SYNOD`.

use galerna_model::{Config, Epoch};
use stateright::{Checker, Model};
use std::process::ExitCode;
use std::time::Instant;

fn digits(text: &str) -> Option<[u8; 3]> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(10).map(|d| d as u8)).collect();
    digits?.try_into().ok()
}

fn set(config: &mut Config, argument: &str) -> Option<()> {
    let (field, text) = argument.split_once('=')?;
    let number: u16 = text.parse().ok()?;
    let flag = number != 0;
    match field {
        "received" => config.received = digits(text)?,
        "attempts" => config.attempts = digits(text)?,
        "suspicions" => config.suspicions = number.try_into().ok()?,
        "crashes" => config.crashes = number.into(),
        "asks" => config.asks = flag,
        "torn" => config.torn = flag,
        "joint" => config.joint = flag,
        "synod" => config.synod = flag,
        _ => return None,
    }
    Some(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let synod = arguments.iter().any(|argument| argument == "synod=1");
    let mut config = if synod { Config::SYNOD } else { Config::QUIET };
    for argument in &arguments {
        if set(&mut config, argument).is_none() {
            eprintln!("{argument}: expected FIELD=VALUE, with a field of `Config` and a value for it");
            return ExitCode::FAILURE;
        }
    }
    let (start, threads) = (Instant::now(), std::thread::available_parallelism().map_or(1, |n| n.get()));
    let checker = Epoch { config }.checker().threads(threads).spawn_dfs().join();
    println!("{config:?}");
    println!(
        "{} steps, {} states, depth {}, {:.1?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed()
    );
    let mut failures = 0;
    for (name, path) in checker.discoveries() {
        if checker.model().property(name).expectation.discovery_is_failure() {
            println!("BROKEN: {name}: {:?}", path.into_actions());
            failures += 1;
        } else {
            println!("seen: {name}");
        }
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
