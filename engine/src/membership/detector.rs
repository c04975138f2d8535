//! Who stands still: heartbeats.

use crate::fabric::{SLOTS, Slot};

/// Heartbeats in one failure timeout.
const BEATS_PER_TIMEOUT: u64 = 5;

/// The time between two heartbeats.
pub(super) fn beat_ms(timeout_ms: u64) -> u64 {
    (timeout_ms / BEATS_PER_TIMEOUT).max(1)
}

/// See the module.
pub(super) struct Detector {
    last_beat_ms: u64,
    /// By slot: the heartbeat last read, and for how long it has stood still.
    heard: Vec<(u64, u64)>,
}

impl Detector {
    pub(super) fn new(now_ms: u64) -> Detector {
        Detector { last_beat_ms: now_ms, heard: vec![(0, 0); SLOTS] }
    }

    /// A view begins: nobody has been silent in it.
    pub(super) fn begin(&mut self) {
        self.heard.iter_mut().for_each(|(_, silent_ms)| *silent_ms = 0);
    }

    /// Something came from the process in `slot`.
    pub(super) fn heard(&mut self, slot: Slot) {
        self.heard[slot].1 = 0;
    }

    /// Whether it is time for a heartbeat, and for a look at the others'.
    pub(super) fn beat(&self, now_ms: u64, timeout_ms: u64) -> bool {
        now_ms >= self.next_beat_ms(timeout_ms)
    }

    pub(super) fn next_beat_ms(&self, timeout_ms: u64) -> u64 {
        self.last_beat_ms.saturating_add(beat_ms(timeout_ms))
    }

    /// One beat: who of `watched` has stood still for `timeout_ms`, in time during which this process was running, which
    /// is what `now_ms` counts.
    pub(super) fn silent(
        &mut self,
        now_ms: u64,
        timeout_ms: u64,
        watched: &[Slot],
        heartbeat: impl Fn(Slot) -> u64,
    ) -> Vec<Slot> {
        let elapsed_ms = now_ms - self.last_beat_ms;
        self.last_beat_ms = now_ms;
        let mut silent = Vec::new();
        for &slot in watched {
            let now = heartbeat(slot);
            let (before, silent_ms) = &mut self.heard[slot];
            if std::mem::replace(before, now) != now {
                *silent_ms = 0;
            } else {
                *silent_ms += elapsed_ms;
                if *silent_ms >= timeout_ms {
                    silent.push(slot);
                }
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_silence_is_told_and_a_beat_ends_it() {
        let mut detector = Detector::new(0);
        let look = |detector: &mut Detector, now_ms: u64, beat: u64| detector.silent(now_ms, 1000, &[3], |_| beat);
        assert!(look(&mut detector, 200, 1).is_empty());
        for now_ms in [400, 600, 800, 1000] {
            assert!(look(&mut detector, now_ms, 1).is_empty(), "{now_ms}");
        }
        assert_eq!(look(&mut detector, 1200, 1), [3], "a second without a beat");
        assert!(look(&mut detector, 1400, 2).is_empty());
        assert!(detector.beat(1600, 1000) && !detector.beat(1599, 1000));
    }
}
