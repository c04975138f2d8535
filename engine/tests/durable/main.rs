//! Groups with a log, as real processes: all are killed at random moments and started again, many times over.
//!
//! `GALERNA_ROUNDS=100` runs a hundred rounds; `GALERNA_SEED` draws other moments.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod after_failure;
mod changed_configuration;
mod checkpoints;
mod clocks;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod dead_source;
mod discarded_logs;
mod disk_errors;
mod durable_callback;
#[path = "../common/folder.rs"]
mod folder;
mod full_disk;
mod group;
mod half_comes_back;
mod history;
mod joins_anew;
mod link_breaks_in_restart;
mod log_from_members;
mod log_unlocked;
mod longest_log;
mod lost_founder;
mod member;
#[path = "../common/pace.rs"]
mod pace;
mod panic_in_catch_up;
mod paused_processes;
mod rounds;
mod similar_names;
mod slow_source;
#[path = "../common/small_disk.rs"]
mod small_disk;
mod smaller_segments;
mod stop_together;
#[path = "../common/stops.rs"]
mod stops;
#[path = "../chaos/trace.rs"]
mod trace;
mod vote_at_once;

/// The entry point of a member's process; returns at once elsewhere.
#[test]
fn member_process() {
    member::run();
}
