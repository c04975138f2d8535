//! Numbers for the messages that a test sends until something happens. Rate and count are bounded, so that a slow
//! machine does not run out of memory or disk.

use std::time::Duration;

/// Messages between two pauses.
const BURST: u64 = 32;
/// The first pause: at most 8,000 messages a second.
const SHORT: Duration = Duration::from_millis(4);
/// The pause after `FEW` messages, which is more than most runs need: at most 400 messages a second.
const LONG: Duration = Duration::from_millis(80);
const FEW: u64 = 50_000;
/// The limit for one test.
const MOST: u64 = 200_000;

/// Counts 0, 1, 2 and so on up to `MOST`, with pauses.
pub(crate) fn paced() -> impl Iterator<Item = u64> {
    (0..MOST).inspect(|number| {
        if number % BURST == BURST - 1 {
            std::thread::sleep(if *number < FEW { SHORT } else { LONG });
        }
    })
}
