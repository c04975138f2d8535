//! The C ABI of Galerna. `include/galerna.h` is made from these files; what C programs need to know is said at each type
//! and function, for them.
//!
//! Every function runs inside [`border::call`], where panics stop and errors become codes. Handles are numbers, never
//! dereferenced ([`handle`]); the pointers that are dereferenced pass through the casts of [`border`]. What exactly may
//! happen inside a callback is decided in [`callbacks`]; who drives a group, and who waits how, in [`drive`].
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
