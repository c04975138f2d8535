//! Groups with a log, by real processes: all are killed at random moments and started again, many times over.
//!
//! `GALERNA_ROUNDS=100` makes it a hundred rounds, `GALERNA_SEED` draws other moments.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod errors;
mod faults;
mod group;
mod handed_on;
mod history;
mod longer;
mod member;
mod rounds;
#[path = "../common/small_disk.rs"]
mod small_disk;
mod still;
#[path = "../chaos/trace.rs"]
mod trace;

/// Not a test: what a member's process runs.
#[test]
fn member_process() {
    member::run();
}
