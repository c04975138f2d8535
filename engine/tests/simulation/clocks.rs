//! The clocks of the hosts: up to 5 s apart. In a third of the runs, one of them is wrong by any amount and jumps.

use super::rng::Rng;
use crate::membership::View;

/// The simulated time begins on some day in 2023.
const BEGIN_NS: u64 = 1_700_000_000_000_000_000;
/// The limit by which a record's time may exceed the right time: the spread of the clocks, and the rest after a
/// correction.
const AHEAD_MAX_NS: u64 = 60_000_000_000;
const HOUR_S: i64 = 3600;
/// Some of them are before 1970, or beyond the range of a stamp.
const LEAPS_S: [i64; 6] = [0, -HOUR_S, HOUR_S, 24 * HOUR_S, -2_000_000_000, 20_000_000_000];

/// The clocks of all hosts; see the module.
pub(super) struct HostClocks {
    /// A separate generator: the rest of a run does not depend on the clocks.
    rng: Rng,
    /// The member with the wrong clock; `off_s` is the clock's error in seconds.
    wrong: Option<u32>,
    off_s: i64,
    alone: bool,
    pub(super) leaps: u64,
}

impl HostClocks {
    /// Makes the clocks of a group of `founders`. With fewer than three no clock is wrong, since the group could not
    /// determine which of two is right.
    pub(super) fn new(seed: u64, founders: usize) -> HostClocks {
        let mut rng = Rng::new(!seed);
        let wrong = (founders >= 3 && rng.chance(1, 3)).then(|| 1 + rng.below(founders) as u32);
        let mut clocks = HostClocks { rng, wrong, off_s: 0, alone: false, leaps: 0 };
        if clocks.rng.chance(1, 2) {
            clocks.leap();
        }
        clocks
    }

    fn leap(&mut self) {
        if self.wrong.is_some() {
            self.off_s = LEAPS_S[self.rng.below(LEAPS_S.len())];
            self.leaps += 1;
        }
    }

    /// The wrong clock jumps now and then.
    pub(super) fn step(&mut self) {
        if self.rng.chance(1, 400) {
            self.leap();
        }
    }

    pub(super) fn is_any_wrong(&self) -> bool {
        self.wrong.is_some()
    }

    /// The right time, in nanoseconds since 1970.
    pub(super) fn right_ns(now_ms: u64) -> u64 {
        BEGIN_NS + now_ms * 1_000_000
    }

    /// A member that is alone in a view has no peer that could correct its clock.
    pub(super) fn note_view(&mut self, view: &View) {
        self.alone |= view.members.len() == 1 && view.members.iter().any(|m| self.wrong == Some(m.peer.id.0));
    }

    /// The latest time that a record may have.
    pub(super) fn latest_ns(&self, now_ms: u64) -> u64 {
        if self.alone { u64::MAX } else { Self::right_ns(now_ms) + AHEAD_MAX_NS }
    }

    /// Reads the clock of this member's host.
    pub(super) fn read_ns(&self, member: u32, now_ms: u64) -> u64 {
        if self.wrong == Some(member) {
            return Self::right_ns(now_ms).saturating_add_signed(self.off_s.saturating_mul(1_000_000_000));
        }
        Self::right_ns(now_ms) + [0, 1, 1_000_000, 5_000_000_000][member as usize % 4]
    }
}
