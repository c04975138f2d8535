//! The C ABI of Galerna. cbindgen generates `include/galerna.h` from these files, so the doc comment of each public
//! type and function is the manual for C programs.
//!
//! Every function runs inside [`border::call`], which catches panics and turns errors into result codes. Handles are
//! numbers and are never dereferenced ([`handle`]). Every pointer that is dereferenced passes through a cast in
//! [`border`]. [`callbacks`] defines which calls are allowed inside a callback. [`drive`] defines which thread drives a
//! group and how calls wait.
#![allow(non_camel_case_types, reason = "types and enumerators have here the names that they have in C")]
#![allow(unreachable_pub, reason = "what is `pub` here is the C API, which cbindgen reads")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the documentation is the C header's, and says of each pointer what it must be"
)]

mod border;
mod callbacks;
mod config;
mod drive;
mod durable;
mod failure;
mod group;
mod handle;
mod log;
mod message;
mod reader;
mod reservation;
mod result;
mod send;
mod snapshot;
mod stats;
mod thrown;
mod view;

#[cfg(test)]
#[path = "../tests/unit/codes.rs"]
mod codes_tests;
#[cfg(test)]
#[path = "../tests/unit/state.rs"]
mod state_tests;
