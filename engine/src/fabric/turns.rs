//! Decides when a fabric with a very cheap poll (a few loads) also asks the kernel.

use nix::time::{ClockId, clock_gettime};

/// While polls follow one another without pause, one poll in this many asks the kernel.
pub(super) const ASK_EVERY: u32 = 128;

/// Counts the polls of one fabric.
pub(super) struct Turns {
    polls: u32,
    /// The tick of the system's coarse clock (a few milliseconds) in which a poll last asked.
    tick_ns: i64,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns { polls: 0, tick_ns: 0 }
    }

    /// Whether this poll has to ask the kernel: once per [`ASK_EVERY`] polls, and once per clock tick.
    ///
    /// The tick matters because the callbacks of one pass may take longer than many polls, and the death of a peer's
    /// process must be noticed nevertheless.
    pub(super) fn is_due(&mut self) -> bool {
        // Reading the coarse clock costs about as much as a cache miss. It exists since Linux 2.6.32.
        let tick_ns = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(-1, |time| time.tv_nsec());
        self.polls += 1;
        let is_due = self.polls >= ASK_EVERY || tick_ns != self.tick_ns;
        if is_due {
            (self.polls, self.tick_ns) = (0, tick_ns);
        }
        is_due
    }
}
