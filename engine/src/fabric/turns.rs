//! When a fabric whose poll is a few loads asks the kernel, too.

use nix::time::{ClockId, clock_gettime};

/// Polls in a row that need not ask, where they follow one another at once.
pub(super) const ASK_EVERY: u32 = 128;

/// Counts the polls of one fabric.
pub(super) struct Turns {
    polls: u32,
    /// The tick of the system's coarse clock (a few milliseconds) in which it was last asked.
    tick_ns: i64,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns { polls: 0, tick_ns: 0 }
    }

    /// Whether this poll is to ask: once in so many polls, and in each tick. The callbacks of one pass may take longer than many
    /// a poll, and a process that has died is to be noticed all the same.
    pub(super) fn is_due(&mut self) -> bool {
        // The coarse clock costs about as much as a cache miss, and has been there since Linux 2.6.32.
        let tick_ns = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(-1, |time| time.tv_nsec());
        self.polls += 1;
        let is_due = self.polls >= ASK_EVERY || tick_ns != self.tick_ns;
        if is_due {
            (self.polls, self.tick_ns) = (0, tick_ns);
        }
        is_due
    }
}
