//! Changes valid inputs.

use crate::simulation::rng::Rng;

/// Numbers at which checks of lengths and counts tend to be wrong.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    63,
    64,
    0x7f,
    0xff,
    0xffff,
    0x1_0000,
    (1 << 28) + 1,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Parts of texts, for the formats that are text.
const TEXTS: [&str; 24] = [
    "\"",
    "\\",
    "\n",
    "\0",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "#",
    "'''",
    "-",
    "0",
    "-1",
    "1e99",
    "nan",
    "true",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
];

/// An input: noise, or a seed with a few changes.
pub(super) fn input(rng: &mut Rng, seeds: &[Vec<u8>], repair: &dyn Fn(&mut [u8])) -> Vec<u8> {
    if rng.chance(1, 16) {
        let len = rng.below(300);
        return noise(rng, len);
    }
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..=rng.below(4) {
        let other = &seeds[rng.below(seeds.len())];
        change(rng, &mut bytes, other);
    }
    if rng.chance(7, 8) {
        repair(&mut bytes);
    }
    bytes
}

fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.next() as u8).collect()
}

/// Makes one change. `other` is a seed from which a part may be taken.
fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(bytes.len() + 1);
    let end = at + rng.below((bytes.len() - at).min(64) + 1);
    match rng.below(10) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.next() as u8),
        2 | 3 => store_number(rng, bytes),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..end)),
        6 => {
            let new = noise(rng, end - at);
            bytes[at..end].copy_from_slice(&new);
        }
        7 => insert(bytes, at, TEXTS[rng.below(TEXTS.len())].as_bytes()),
        8 => {
            let len = rng.below(20);
            let new = noise(rng, len);
            insert(bytes, at, &new);
        }
        _ => {
            let from = rng.below(other.len() + 1);
            let part = &other[from..from + rng.below((other.len() - from).min(64) + 1)];
            // Half of the time in place of as many bytes.
            let replaced = if rng.chance(1, 2) { part.len() } else { 0 };
            bytes.splice(at..(at + replaced).min(bytes.len()), part.iter().copied());
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    bytes.splice(at..at, new.iter().copied());
}

/// Stores a number in 1, 2, 4 or 8 bytes: one of [`NUMBERS`], or what is there already plus or minus a little.
fn store_number(rng: &mut Rng, bytes: &mut [u8]) {
    let width = 1 << rng.below(4);
    let Some(places) = bytes.len().checked_sub(width) else { return };
    let at = if rng.chance(3, 4) { rng.below(places / width + 1) * width } else { rng.below(places + 1) };
    let place = &mut bytes[at..at + width];
    let mut word = [0; 8];
    word[..width].copy_from_slice(place);
    let number = match rng.below(3) {
        0 => u64::from_le_bytes(word).wrapping_add(rng.below(17) as u64).wrapping_sub(8),
        _ => NUMBERS[rng.below(NUMBERS.len())],
    };
    place.copy_from_slice(&number.to_le_bytes()[..width]);
}
