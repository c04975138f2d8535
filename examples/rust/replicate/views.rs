//! The views that a member has seen, and the pauses between deliveries around each of them.

use galerna::View;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

/// A view, as a member reports it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) number: u64,
    pub(crate) members: Vec<u32>,
    pub(crate) joined: Vec<u32>,
    pub(crate) left: Vec<u32>,
    pub(crate) failed: Vec<u32>,
    /// The time at which it began, since 1970. All processes of a host use the same clock.
    pub(crate) at: Duration,
    /// Pauses between two deliveries, up to the first delivery in this view: the end and the length of each. A pause is
    /// removed when a later one is at least as long.
    pub(crate) pauses: VecDeque<(Duration, Duration)>,
}

impl Seen {
    /// Returns the longest pause that ended after `time`.
    pub(crate) fn pause_after(&self, time: Duration) -> Duration {
        self.pauses.iter().find(|(end, _)| *end >= time).map(|(_, pause)| *pause).unwrap_or_default()
    }
}

/// All views so far.
#[derive(Default)]
pub(crate) struct Views {
    pub(crate) seen: Vec<Seen>,
    last_delivery: Option<Instant>,
    /// See [`Seen::pauses`].
    pauses: VecDeque<(Duration, Duration)>,
    /// Whether nothing has been delivered in the last view yet.
    open: bool,
}

impl Views {
    pub(crate) fn delivery(&mut self, now: Instant) {
        let pause = self.last_delivery.replace(now).map_or(Duration::ZERO, |last| now - last);
        while self.pauses.back().is_some_and(|(_, earlier)| *earlier <= pause) {
            self.pauses.pop_back();
        }
        self.pauses.push_back((since_1970(), pause));
        if std::mem::take(&mut self.open)
            && let Some(seen) = self.seen.last_mut()
        {
            seen.pauses = self.pauses.clone();
        }
    }

    pub(crate) fn begins(&mut self, view: &View) {
        let ids = |members: &[galerna::MemberId]| members.iter().map(|member| member.0).collect();
        self.seen.push(Seen {
            number: view.number,
            members: ids(&view.members),
            joined: ids(&view.joined),
            left: ids(&view.left),
            failed: ids(&view.failed),
            at: since_1970(),
            pauses: self.pauses.clone(),
        });
        self.open = true;
    }

    /// Whether a failed member is back with the whole state of the group. It joins in one view, and becomes a voter in
    /// a later one, when it has the state.
    pub(crate) fn is_back(&self, id: u32) -> bool {
        let mut since = self.seen.iter().skip_while(|seen| !seen.failed.contains(&id));
        since.any(|seen| seen.joined.contains(&id)) && since.next().is_some()
    }

    /// The members that failed and were removed from the view.
    pub(crate) fn failed(&self) -> impl Iterator<Item = u32> {
        self.seen.iter().flat_map(|seen| &seen.failed).copied()
    }
}

pub(crate) fn since_1970() -> Duration {
    // This fails only if the host's clock is before 1970.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
