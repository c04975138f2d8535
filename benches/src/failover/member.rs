//! A member of a group in which one member is killed. It sends until the end, and records the failure as it sees it.

use crate::Result;
use crate::args::FailoverArgs;
use crate::control::{Control, Plan, Word};
use crate::measure::{exact_timers, now_ns, sleep_until};
use galerna::{Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId, View};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const MAIN: SubgroupId = SubgroupId(0);
/// The shortest pause between two deliveries that is recorded, in nanoseconds.
const PAUSE_MIN_NS: u64 = 20_000;
/// The number of most recent pauses that are kept.
const PAUSES_MAX: usize = 20_000;
/// The timeout of a send, after which the member checks its state.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// The observations of a survivor. Times are by [`now_ns`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The time of its first suspicion, the suspected member, and the reason.
    pub(crate) suspected_ns: u64,
    pub(crate) suspect: u32,
    pub(crate) notice: String,
    /// The start of the next view, and the members that failed.
    pub(crate) view_ns: u64,
    pub(crate) failed: Vec<u32>,
    /// The times of the first delivery after the suspicion and of the first delivery in the next view.
    pub(crate) next_ns: u64,
    pub(crate) back_ns: u64,
    /// The begin and end of the last pauses between two deliveries.
    pub(crate) pauses: VecDeque<(u64, u64)>,
}

/// The state that the handler shares with the member's main loop.
#[derive(Default)]
struct Board {
    delivered: u64,
    /// The observations, once they are complete.
    seen: Option<Seen>,
    stopped: Option<Error>,
}

struct Watch {
    board: Arc<Mutex<Board>>,
    seen: Seen,
    last_ns: u64,
    delivered: u64,
    done: bool,
}

impl Watch {
    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Watch {
    fn deliver(&mut self, message: Delivery<'_>) {
        if self.done {
            return;
        }
        let now = now_ns();
        let last = std::mem::replace(&mut self.last_ns, now);
        self.delivered += 1;
        let seen = &mut self.seen;
        if last != 0 && now - last >= PAUSE_MIN_NS {
            if seen.pauses.len() == PAUSES_MAX {
                seen.pauses.pop_front();
            }
            seen.pauses.push_back((last, now));
        }
        if seen.suspected_ns != 0 && seen.next_ns == 0 {
            seen.next_ns = now;
        }
        if message.view > 0 {
            seen.back_ns = now;
            self.done = true;
            let seen = std::mem::take(&mut self.seen);
            self.board().seen = Some(seen);
        } else if self.delivered == 1 {
            self.board().delivered = 1;
        }
    }

    fn suspected(&mut self, member: MemberId, what: &str) {
        if self.seen.suspected_ns == 0 {
            self.seen.suspected_ns = now_ns();
            self.seen.suspect = member.0;
            what.clone_into(&mut self.seen.notice);
        }
    }

    fn view(&mut self, view: &View) {
        if view.number == 1 {
            self.seen.view_ns = now_ns();
            self.seen.failed = view.failed.iter().map(|member| member.0).collect();
        }
    }

    fn stopped(&mut self, reason: &Error) {
        self.board().stopped = Some(reason.clone());
    }
}

/// Runs the member: see [`crate::control`].
pub(crate) fn work(args: &FailoverArgs, plan: &Plan, control: &Control) -> Result<()> {
    exact_timers();
    let config = args.config(&plan.addresses)?.with_member(MemberId(plan.rank as u32 + 1));
    let board = Arc::new(Mutex::new(Board::default()));
    let watch = Watch { board: board.clone(), seen: Seen::default(), last_ns: 0, delivered: 0, done: false };
    let group = Group::join(config, watch)?;
    let payload = vec![7; args.size];
    let step_ns = args.rate.map(|rate| 1e9 / rate as f64);
    let (start_ns, mut sent, mut ready) = (now_ns(), 0u64, false);
    let mut reported = false;
    while !control.ended() {
        if let Some(step) = step_ns {
            sleep_until(start_ns + (sent as f64 * step) as u64);
        }
        match group.send(MAIN, Mode::Safe, &payload, LOOK_AROUND) {
            Ok(_) => sent += 1,
            Err(Error::TimedOut { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &board.stopped {
            return Err(reason.clone().into());
        }
        if let Some(seen) = board.seen.take() {
            control.done(&seen)?;
            reported = true;
        }
        let warm = board.delivered > 0 && now_ns() - start_ns >= args.warmup_ms * 1_000_000;
        drop(board);
        if !ready && warm {
            ready = true;
            control.say(&Word::Ready)?;
        }
        if reported {
            control.wait_end();
        }
    }
    Ok(())
}
