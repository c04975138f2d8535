//! The C ABI of Galerna. cbindgen generates `include/galerna.h` from these files, so the doc comment of each public
//! type and function is the manual for C programs.
//!
//! Every function runs inside [`border::call`], which catches panics and turns errors into result codes. Handles are
//! numbers and are never dereferenced ([`handle`]). Every pointer that is dereferenced passes through a cast in
//! [`border`]. [`callbacks`] defines which calls are allowed inside a callback. [`drive`] defines which thread drives a
//! group and how calls wait.
#![allow(non_camel_case_types, reason = "types and enumerators have here the names that they have in C")]
#![allow(unreachable_pub, reason = "the public items here are the C API, which cbindgen reads")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the documentation is that of the C header, which states the requirements of each pointer"
)]

// The header has the functions in the order of these lines, which is the order of use. The empty lines keep rustfmt
// from sorting them.
mod border;
mod entry;
mod failure;
mod handle;
mod thrown;

mod result;

mod log_callback;

mod config;
mod draft;

mod callbacks;

mod group;

mod message;

mod send;

mod reservation;

mod drive;

mod snapshot;

mod reader;

mod view;

mod stats;

mod durable;

mod leave;

mod log;

#[cfg(test)]
#[path = "../tests/unit/codes.rs"]
mod codes_tests;
#[cfg(test)]
#[path = "../tests/unit/draft.rs"]
mod draft_tests;
#[cfg(test)]
#[path = "../tests/unit/log_lines.rs"]
mod log_lines_tests;
#[cfg(test)]
#[path = "../tests/unit/state.rs"]
mod state_tests;
