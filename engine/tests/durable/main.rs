//! Groups with a log, as real processes: all are killed at random moments and started again, many times over.
//!
//! `GALERNA_ROUNDS=100` runs a hundred rounds; `GALERNA_SEED` draws other moments.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod after_failure;
mod agreed;
mod broken;
mod callback;
mod checkpoints;
mod clocks;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod dead_source;
mod dots;
mod early;
mod errors;
mod faults;
#[path = "../common/folder.rs"]
mod folder;
mod group;
mod handed_on;
mod history;
mod locked;
mod longer;
mod lost_founder;
mod member;
mod names;
#[path = "../common/pace.rs"]
mod pace;
mod panic;
mod pauses;
mod rounds;
mod segments;
mod slow_source;
#[path = "../common/small_disk.rs"]
mod small_disk;
mod still;
mod stopped;
#[path = "../chaos/trace.rs"]
mod trace;
mod votes;

/// The entry point of a member's process; returns at once elsewhere.
#[test]
fn member_process() {
    member::run();
}
