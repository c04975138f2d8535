//! The numbers of messages that a test sends until something happens: bounded in rate and in count, so that a machine on which
//! that takes long does not run out of memory or of disk.

use std::time::Duration;

/// Messages between two pauses.
const BURST: u64 = 32;
/// The pause at first: 8,000 messages a second at most.
const SHORT: Duration = Duration::from_millis(4);
/// The pause once so many were sent as most runs need: 400 messages a second at most.
const LONG: Duration = Duration::from_millis(80);
const FEW: u64 = 50_000;
/// No test sends more.
const MOST: u64 = 200_000;

/// 0, 1, 2 and so on, with pauses, and not for ever.
pub(crate) fn paced() -> impl Iterator<Item = u64> {
    (0..MOST).inspect(|number| {
        if number % BURST == BURST - 1 {
            std::thread::sleep(if *number < FEW { SHORT } else { LONG });
        }
    })
}
