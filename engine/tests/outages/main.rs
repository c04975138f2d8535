//! Real processes that are stopped and continued, and networks that fail for a while. All members are delivered the
//! same, and every member that can go on does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/folder.rs"]
mod folder;
mod group;
mod member;
mod network;
mod relinked;
mod shared_memory;
mod slow;

/// The entry point of a member's process; returns at once elsewhere.
#[test]
fn member_process() {
    member::run();
}
