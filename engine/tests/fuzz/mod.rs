//! Fuzz tests of the parsers that a stranger, a peer or a disk can reach.
//!
//! Each test is named `fuzz_*`, and most are beside their parser, which is private. A test begins with valid inputs,
//! made by the encoder of the format, and gives the parser changed ones and noise. [`run`] checks that the parser does
//! not panic, that it refuses or accepts within its limit of memory, and that the valid inputs are accepted. The test
//! checks that an accepted value, encoded again, is decoded to itself. Where a format has checksums, the test corrects
//! them in most of the changed inputs, so that these pass the checksums and reach the checks behind them.
//!
//! An input depends only on its number. So `GALERNA_FUZZ=n` repeats the first `n` inputs, failures included.

mod config;
mod heap;
mod mutate;
mod questions;

use crate::simulation::rng::Rng;
use std::fmt::Arguments;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Inputs per test, unless `GALERNA_FUZZ` sets another number.
const INPUTS: u64 = 20_000;

/// The limit for TOML. It is parsed to a tree before the values are taken from it, and the description of an error takes
/// more than the tree of a short text.
const TOML_HEAP_MAX: (usize, usize) = (400, 128 << 10);

/// A parser under test.
pub(crate) struct Parser<'p> {
    pub(crate) name: &'p str,
    /// Valid inputs.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// Corrects the checksums of an input.
    pub(crate) repair: &'p dyn Fn(&mut [u8]),
    /// The most memory that one input may take at a time, in bytes: `.0` for each byte of the input, and `.1` beside.
    ///
    /// It includes the memory of the test itself, which encodes the value again.
    pub(crate) heap_max: (usize, usize),
}

/// For formats without checksums.
pub(crate) fn as_it_is(_: &mut [u8]) {}

/// Gives `parse` the seeds, then changed ones. `parse` returns whether it has accepted the input.
pub(crate) fn run(parser: &Parser<'_>, parse: impl Fn(&[u8]) -> bool) {
    let inputs = std::env::var("GALERNA_FUZZ").map_or(INPUTS, |number| number.parse().unwrap());
    let Parser { name, seeds, .. } = parser;
    let (mut accepted, mut highest) = (0, 0);
    for seed in seeds {
        let (valid, _) = attempt(parser, format_args!("a valid input"), seed, &parse);
        assert!(valid, "{name}: a valid input is refused: {}", shown(seed));
    }
    for number in 0..inputs {
        let input = mutate::input(&mut Rng::new(number), seeds, parser.repair);
        let (valid, held) = attempt(parser, format_args!("input {number}"), &input, &parse);
        accepted += u64::from(valid);
        highest = highest.max(held);
    }
    println!("fuzz: {name}: {inputs} inputs, {accepted} accepted, at most {highest} bytes of memory");
    assert!(accepted > 0 || inputs < INPUTS, "{name}: no changed input is accepted, so little was tested");
}

/// Gives `parse` one input. Returns whether it was accepted, and the memory that this took.
fn attempt(parser: &Parser<'_>, which: Arguments<'_>, input: &[u8], parse: &impl Fn(&[u8]) -> bool) -> (bool, usize) {
    let (result, held) = heap::highest(|| catch_unwind(AssertUnwindSafe(|| parse(input))));
    let Parser { name, heap_max: (each, beside), .. } = parser;
    let Ok(accepted) = result else { panic!("{name}: {which} fails, see above: {}", shown(input)) };
    let most = each * input.len() + beside;
    assert!(held <= most, "{name}: {which} takes {held} bytes of memory, more than {most}: {}", shown(input));
    (accepted, held)
}

/// The input as text in which every byte can be read.
fn shown(input: &[u8]) -> String {
    format!("{} bytes: \"{}\"", input.len(), input.escape_ascii())
}
