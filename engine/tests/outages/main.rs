//! Real processes that are stopped and continued, and networks that fail for a while: what was delivered is the same
//! everywhere, and whoever can go on does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod group;
mod member;
mod network;
mod relinked;
mod shared_memory;
mod slow;

/// Not a test: what a member's process runs.
#[test]
fn member_process() {
    member::run();
}
