//! The failure detector: finds members with a heartbeat that does not move.

use crate::fabric::{SLOTS, Slot};

/// Heartbeats in one failure timeout.
const BEATS_PER_TIMEOUT: u64 = 5;

/// The time between two heartbeats, in milliseconds.
pub(super) fn beat_ms(timeout_ms: u64) -> u64 {
    (timeout_ms / BEATS_PER_TIMEOUT).max(1)
}

/// The largest factor by which a process that runs late extends its failure timeout.
const STRETCH_MAX: u64 = 10;

/// The result of a look at a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The heartbeat has moved since the last look.
    Moved,
    /// The heartbeat has not moved for this many milliseconds, which is too long.
    Silent(u64),
}

/// See the module.
pub(super) struct Detector {
    last_beat_ms: u64,
    /// By slot: the last heartbeat value read, and for how many milliseconds it has not moved.
    heard: Vec<(u64, u64)>,
    /// How late this process's own recent heartbeats were. Other processes on starved hosts may be as late.
    late_ms: u64,
}

impl Detector {
    pub(super) fn new(now_ms: u64) -> Detector {
        Detector { last_beat_ms: now_ms, heard: vec![(0, 0); SLOTS], late_ms: 0 }
    }

    /// Begins a view. All silent times restart at 0.
    pub(super) fn begin(&mut self) {
        self.heard.iter_mut().for_each(|(_, silent_ms)| *silent_ms = 0);
    }

    /// Notes that something arrived from the process in `slot`.
    pub(super) fn heard(&mut self, slot: Slot) {
        self.heard[slot].1 = 0;
    }

    /// Whether it is time to send a heartbeat and to look at the heartbeats of the others.
    pub(super) fn is_due(&self, now_ms: u64, timeout_ms: u64) -> bool {
        now_ms >= self.next_beat_ms(timeout_ms)
    }

    pub(super) fn next_beat_ms(&self, timeout_ms: u64) -> u64 {
        self.last_beat_ms.saturating_add(beat_ms(timeout_ms))
    }

    /// Notes that this process ran again after `elapsed_ms`, measured by its host's clock.
    ///
    /// A pause longer than the heartbeat interval counts as late. Each look halves the remembered lateness.
    pub(super) fn ran_after(&mut self, elapsed_ms: u64, timeout_ms: u64) {
        let late_ms = elapsed_ms.saturating_sub(beat_ms(timeout_ms));
        // Limited to the value that still has an effect, so that a long pause is forgotten as quickly as a short one.
        let most_ms = timeout_ms.saturating_mul(STRETCH_MAX - 1) / BEATS_PER_TIMEOUT;
        self.late_ms = self.late_ms.max(late_ms.min(most_ms));
    }

    /// How long a member may be silent before it is suspected, in milliseconds.
    ///
    /// This is `timeout_ms`, extended if this process itself runs late, because then others may run late too.
    pub(super) fn patience_ms(&self, timeout_ms: u64) -> u64 {
        timeout_ms.saturating_add(self.late_ms.saturating_mul(BEATS_PER_TIMEOUT))
    }

    /// Looks at the heartbeats of the slots in `watched`. Returns those that moved and those silent for `timeout_ms` or
    /// more.
    ///
    /// `now_ms` counts only time during which this process was running.
    pub(super) fn look(
        &mut self,
        now_ms: u64,
        timeout_ms: u64,
        watched: &[Slot],
        heartbeat: impl Fn(Slot) -> u64,
    ) -> Vec<(Slot, Look)> {
        let elapsed_ms = now_ms - self.last_beat_ms;
        self.last_beat_ms = now_ms;
        self.late_ms /= 2;
        let mut looks = Vec::new();
        for &slot in watched {
            let now = heartbeat(slot);
            let (before, silent_ms) = &mut self.heard[slot];
            if std::mem::replace(before, now) != now {
                *silent_ms = 0;
                looks.push((slot, Look::Moved));
            } else {
                *silent_ms += elapsed_ms;
                if *silent_ms >= timeout_ms {
                    looks.push((slot, Look::Silent(*silent_ms)));
                }
            }
        }
        looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_silence_is_told_and_a_beat_ends_it() {
        let mut detector = Detector::new(0);
        let look = |detector: &mut Detector, now_ms: u64, beat: u64| detector.look(now_ms, 1000, &[3], |_| beat);
        assert_eq!(look(&mut detector, 200, 1), [(3, Look::Moved)]);
        for now_ms in [400, 600, 800, 1000] {
            assert!(look(&mut detector, now_ms, 1).is_empty(), "{now_ms}");
        }
        assert_eq!(look(&mut detector, 1200, 1), [(3, Look::Silent(1000))], "a second without a beat");
        assert_eq!(look(&mut detector, 1400, 2), [(3, Look::Moved)]);
        assert!(detector.is_due(1600, 1000) && !detector.is_due(1599, 1000));
    }

    #[test]
    fn one_that_runs_late_is_patient_for_a_while() {
        let mut detector = Detector::new(0);
        detector.ran_after(200, 1000);
        assert_eq!(detector.patience_ms(1000), 1000, "in time");
        detector.ran_after(700, 1000);
        assert_eq!(detector.patience_ms(1000), 3500, "half a second late for a beat: five beats may be as late");
        detector.ran_after(3_600_000, 1000);
        assert_eq!(detector.patience_ms(1000), 10_000, "ten times at most");
        detector.ran_after(700, 1000);
        for beat in 1..40 {
            detector.ran_after(200, 1000);
            detector.look(200 * beat, 1000, &[], |_| 0);
        }
        assert_eq!(detector.patience_ms(1000), 1000, "it has run in time for long");
    }
}
