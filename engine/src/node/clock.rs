//! The time of a member of a group with a log: its host's clock, corrected against those of the other members.
//!
//! Every member publishes its host's clock in its row. The median of the present view's clocks is the *reference*. A
//! member stamps and announces a time that is at most `clock_skew_max_ms` away from it. So a clock that is far off, in
//! either direction, neither distorts the log's times nor delays the closed time, as long as more than half of the
//! clocks are right. Only the sender corrects. If receivers did, a record would have different times at different
//! members.
//!
//! Two clocks, or two camps of equal size, have no majority. The earlier clock counts, unless it is behind a time that
//! some member has announced. In that case it was set back or does not run. A clock that is ahead never counts in this
//! comparison.
//!
//! A peer's word is read later than it was written. So its clock is known only as a range: the word arrived between the
//! last two looks.

use crate::fabric::{SLOTS, Slot};
use crate::membership::Peer;
use crate::planted::{self, Bug};
use crate::types::MemberId;

/// The largest host clock, in nanoseconds since 1970: a little below the largest stamp, in the year 2116.
pub(super) const CLOCK_MAX_NS: u64 = crate::multicast::STAMP_MAX_NS - 1;
/// How far the earlier of two clocks may be behind the latest announced time before it is ignored, in nanoseconds.
///
/// This is much more than a corrected clock may be ahead of it. To trust a clock that is ahead would distort the log's
/// times; to wait for one that is behind costs a minute.
const BEHIND_NS: i64 = 60_000_000_000;
/// How long a clock must be off before it is reported, in heartbeats, plus a time in milliseconds. One late heartbeat
/// is not enough.
const BEATS_BEFORE_REPORT: u64 = 3;
const TIME_BEFORE_REPORT_MS: u64 = 1000;
/// The pause between two reports of the same clock, in milliseconds.
const REPORT_AGAIN_MS: u64 = 600_000;

/// Bounds of a clock relative to the monotone clock of this process, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    least: i64,
    most: i64,
}

impl Range {
    fn exact(at: i64) -> Range {
        Range { least: at, most: at }
    }

    /// How far it is outside of `limit_ns` around `reference`, in nanoseconds. Positive if it is ahead.
    fn excess(self, reference: Range, limit_ns: i64) -> Option<i64> {
        let (ahead, behind) = (self.least.saturating_sub(reference.most), self.most.saturating_sub(reference.least));
        if ahead > limit_ns { Some(ahead) } else { (behind < -limit_ns).then_some(behind) }
    }
}

/// A peer's clock as last read.
#[derive(Debug, Clone, Copy)]
struct Heard {
    incarnation: u64,
    shown_ns: u64,
    range: Range,
}

/// Since when a clock has been off, and when that was reported.
#[derive(Debug, Clone, Copy, Default)]
struct Fault {
    since_ms: Option<u64>,
    reported_ms: Option<u64>,
}

/// See the module.
pub(super) struct HostClocks {
    limit_ns: i64,
    heard: Vec<Option<Heard>>,
    faults: Vec<Fault>,
    looked_ms: u64,
    /// The reference of the last look, if another clock was known.
    reference: Option<Range>,
}

fn nanoseconds(ms: u64) -> i64 {
    i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

/// The offset of a clock that shows `shown_ns` while the monotone clock shows `ms`, in nanoseconds.
fn offset(shown_ns: u64, ms: u64) -> i64 {
    i64::try_from(shown_ns.min(CLOCK_MAX_NS)).unwrap_or(i64::MAX).saturating_sub(nanoseconds(ms))
}

impl HostClocks {
    pub(super) fn new(clock_skew_max_ms: u64) -> HostClocks {
        HostClocks {
            limit_ns: nanoseconds(clock_skew_max_ms),
            heard: vec![None; SLOTS],
            faults: vec![Fault::default(); SLOTS],
            looked_ms: 0,
            reference: None,
        }
    }

    /// Reads the clocks of the linked processes. `now_ms` is the monotone clock of this process.
    pub(super) fn look(&mut self, now_ms: u64, shown: impl Iterator<Item = (Peer, u64)>) {
        let before_ms = std::mem::replace(&mut self.looked_ms, now_ms);
        for (peer, shown_ns) in shown {
            let known = &mut self.heard[peer.slot];
            let same = known.is_some_and(|k| (k.incarnation, k.shown_ns) == (peer.incarnation, shown_ns));
            if shown_ns > 0 && !same {
                let range = Range { least: offset(shown_ns, now_ms), most: offset(shown_ns, before_ms) };
                *known = Some(Heard { incarnation: peer.incarnation, shown_ns, range });
            }
        }
    }

    fn range(&self, peer: Peer) -> Option<Range> {
        self.heard[peer.slot].filter(|heard| heard.incarnation == peer.incarnation).map(|heard| heard.range)
    }

    /// Returns this member's time in nanoseconds, or `None` if the view has other members and none has shown its clock.
    ///
    /// That includes members that are not linked now: a time announced without their clocks might need a correction
    /// later. `wall_ns` is this host's clock, `latest_ns` is the latest announced time, and `others` are the other
    /// members of the view.
    pub(super) fn time_ns(
        &mut self,
        now_ms: u64,
        wall_ns: u64,
        latest_ns: u64,
        others: impl Iterator<Item = Peer>,
    ) -> Option<u64> {
        let own = offset(wall_ns, now_ms);
        let (mut least, mut most, mut known, mut awaited) = ([own; SLOTS], [own; SLOTS], 1, false);
        for peer in others {
            match self.range(peer) {
                Some(range) if known < SLOTS => {
                    (least[known], most[known]) = (range.least, range.most);
                    known += 1;
                }
                _ => awaited = true,
            }
        }
        self.reference = None;
        if known == 1 {
            return (!awaited).then_some(wall_ns);
        }
        let (least, most) = (&mut least[..known], &mut most[..known]);
        least.sort_unstable();
        most.sort_unstable();
        let (lower, upper) = ((known - 1) / 2, known / 2);
        let two_camps = least[upper].saturating_sub(most[lower]) > self.limit_ns;
        let tolerance_ns = self.limit_ns.saturating_mul(2).saturating_add(BEHIND_NS);
        let is_behind = most[lower].saturating_add(tolerance_ns) < offset(latest_ns, now_ms);
        let middle = if two_camps && is_behind { upper } else { lower };
        let reference = Range { least: least[middle], most: most[middle] };
        self.reference = Some(reference);
        let (earliest, latest) =
            (reference.least.saturating_sub(self.limit_ns), reference.most.saturating_add(self.limit_ns));
        let corrected = own.clamp(earliest, latest);
        if corrected == own || planted::is(Bug::ClocksUncorrected) {
            return Some(wall_ns);
        }
        let time_ns = u64::try_from(corrected.saturating_add(nanoseconds(now_ms))).unwrap_or(1);
        Some(time_ns.min(CLOCK_MAX_NS))
    }

    /// Returns the reports about the clocks of `members`, by the last [`HostClocks::time_ns`]. Called at each
    /// heartbeat.
    pub(super) fn reports(
        &mut self,
        (now_ms, beat_ms): (u64, u64),
        (me, wall_ns): (Peer, u64),
        members: impl Iterator<Item = Peer>,
    ) -> Vec<(MemberId, String)> {
        let Some(reference) = self.reference else { return Vec::new() };
        let own = Range::exact(offset(wall_ns, now_ms));
        let mut reports = Vec::new();
        for peer in members {
            let range = if peer == me { Some(own) } else { self.range(peer) };
            let excess = range.and_then(|range| range.excess(reference, self.limit_ns));
            if let Some(excess_ns) = excess.filter(|_| self.is_due(peer.slot, now_ms, beat_ms)) {
                reports.push((peer.id, text(excess_ns, self.limit_ns)));
            } else if excess.is_none() {
                self.faults[peer.slot].since_ms = None;
            }
        }
        reports
    }

    /// Whether to report the clock of the process in `slot`, which is off.
    fn is_due(&mut self, slot: Slot, now_ms: u64, beat_ms: u64) -> bool {
        let fault = &mut self.faults[slot];
        let lasts_ms = now_ms.saturating_sub(*fault.since_ms.get_or_insert(now_ms));
        let lasts = lasts_ms >= BEATS_BEFORE_REPORT.saturating_mul(beat_ms).saturating_add(TIME_BEFORE_REPORT_MS);
        let is_new = fault.reported_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= REPORT_AGAIN_MS);
        if lasts && is_new {
            fault.reported_ms = Some(now_ms);
        }
        lasts && is_new
    }
}

/// The text for an operator about a clock that is off by `excess_ns`.
fn text(excess_ns: i64, limit_ns: i64) -> String {
    let seconds = |ns: i64| ns.unsigned_abs() as f64 / 1e9;
    let side = if excess_ns > 0 { "ahead of" } else { "behind" };
    format!(
        "its host's clock is {:.1} s {side} the clocks of the other members, more than `log.clock_skew_max_ms` ({:.1} s) allows: \
         set it right, for instance by NTP; until then its messages bear the others' time",
        seconds(excess_ns),
        seconds(limit_ns)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3600 * SECOND;
    /// Some day in 2023.
    const NOON: u64 = 1_700_000_000 * SECOND;

    fn peer(slot: usize) -> Peer {
        Peer { slot, id: MemberId(slot as u32 + 1), incarnation: slot as u64 + 7 }
    }

    /// The time of member 0 with the clock `own`, among members with the clocks `others`.
    fn time(own: u64, floor: u64, others: &[u64]) -> u64 {
        let mut clocks = HostClocks::new(1000);
        let peers: Vec<Peer> = (1..=others.len()).map(peer).collect();
        clocks.look(5000, peers.iter().copied().zip(others.iter().copied()));
        clocks.look(5000, peers.iter().copied().zip(others.iter().map(|clock| clock + 1)));
        clocks.time_ns(5000, own, floor, peers.iter().copied()).unwrap()
    }

    #[test]
    fn a_clock_beyond_the_limit_is_corrected_and_corrects_no_other() {
        let day = NOON + 24 * HOUR;
        assert_eq!(time(NOON, 0, &[]), NOON, "alone");
        assert_eq!(time(NOON, 0, &[NOON - SECOND / 2, NOON + SECOND / 2]), NOON, "within the limit");
        for wrong in [day, NOON - HOUR, 1, CLOCK_MAX_NS] {
            assert_eq!(time(NOON, NOON, &[NOON, wrong]), NOON, "{wrong}");
        }
        let near = |time: u64, expected: u64| assert!(time.abs_diff(expected) < 10, "{time} is not {expected}");
        near(time(day, NOON, &[NOON, NOON]), NOON + SECOND);
        near(time(NOON - HOUR, NOON, &[NOON, NOON]), NOON - SECOND);
        near(time(CLOCK_MAX_NS, NOON, &[NOON, NOON]), NOON + SECOND);
        near(time(1, NOON, &[NOON, NOON]), NOON - SECOND);
    }

    #[test]
    fn of_two_clocks_the_earlier_counts_unless_it_is_behind_what_was_announced() {
        let near = |time: u64, expected: u64| assert!(time.abs_diff(expected) < 10, "{time} is not {expected}");
        let day = NOON + 24 * HOUR;
        near(time(NOON, NOON, &[day]), NOON);
        near(time(day, NOON, &[NOON]), NOON + SECOND);
        // The other clock was set back, or this one was.
        near(time(NOON, NOON, &[NOON - HOUR]), NOON);
        near(time(NOON - HOUR, NOON, &[NOON]), NOON - SECOND);
        // There is no evidence which of the two is wrong.
        near(time(NOON, 0, &[NOON - HOUR]), NOON - HOUR + SECOND);
        near(time(NOON - HOUR, 0, &[NOON]), NOON - HOUR);
        // Two camps of two clocks each.
        near(time(NOON, NOON, &[NOON, day, day]), NOON);
        near(time(NOON, NOON, &[NOON, NOON - HOUR, NOON - HOUR]), NOON);
    }

    #[test]
    fn nothing_is_announced_before_the_others_have_shown_their_clocks() {
        let mut clocks = HostClocks::new(1000);
        let others = || [peer(1), peer(2)].into_iter();
        assert_eq!(clocks.time_ns(10, NOON, 0, others()), None);
        assert_eq!(clocks.time_ns(10, NOON, 0, std::iter::empty()), Some(NOON), "nobody is there to show one");
        // Another process in its slot has another clock.
        clocks.look(20, [(Peer { incarnation: 1, ..peer(1) }, NOON)].into_iter());
        assert_eq!(clocks.time_ns(20, NOON, 0, others()), None);
        clocks.look(30, [(peer(1), NOON)].into_iter());
        assert_eq!(clocks.time_ns(30, NOON, 0, others()), Some(NOON));
    }

    #[test]
    fn a_late_heartbeat_is_no_wrong_clock_and_a_wrong_clock_is_reported_once() {
        let mut clocks = HostClocks::new(1000);
        let (me, other) = (peer(0), peer(1));
        let mut told = Vec::new();
        let mut step = |clocks: &mut HostClocks, ms: u64, off: i64| {
            let wall = NOON + ms * 1_000_000;
            let shown = (wall as i64 + off) as u64;
            clocks.look(ms, [(other, shown)].into_iter());
            let time = clocks.time_ns(ms, wall, wall, [other].into_iter()).unwrap();
            told.extend(clocks.reports((ms, 400), (me, wall), [me, other].into_iter()));
            (time, told.clone())
        };
        // This process read the row only every 30 s, and each word was 25 s old.
        for n in 1..10 {
            let (time, told) = step(&mut clocks, 30_000 * n, -25_000_000_000);
            assert_eq!((time, told), (NOON + 30_000 * n * 1_000_000, Vec::new()));
        }
        for n in 0..40 {
            step(&mut clocks, 300_000 + 400 * n, 86_400_000_000_000);
        }
        let (_, told) = step(&mut clocks, 320_000, 86_400_000_000_000);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].0 == other.id && told[0].1.contains("is 86400.0 s ahead of"), "{told:?}");
    }
}
