//! A founder of a group that other processes join. It sends on a schedule until the report, and records every pause.

use super::JoinArgs;
use crate::Result;
use crate::control::{Control, Plan, Word};
use crate::measure::{exact_timers, now_ns, sleep_until};
use galerna::{Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId};
use serde::{Deserialize, Serialize};
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const MAIN: SubgroupId = SubgroupId(0);
/// Of all pauses that end within the same interval of this many nanoseconds, only the longest is kept.
const GRAIN_NS: u64 = 1_000_000;
/// The timeout of a send, after which the founder checks its state.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// The begin and end of pauses, by [`now_ns`], ordered by their ends.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pauses(Vec<(u64, u64)>);

impl Pauses {
    pub(super) fn add(&mut self, begin: u64, end: u64) {
        match self.0.last_mut() {
            Some(last) if last.1 / GRAIN_NS == end / GRAIN_NS => {
                if last.1 - last.0 < end - begin {
                    *last = (begin, end);
                }
            }
            _ => self.0.push((begin, end)),
        }
    }

    /// The longest pause in ms. `part_ns` returns the part of a pause that counts.
    pub(crate) fn longest_ms(&self, part_ns: impl Fn(u64, u64) -> u64) -> f64 {
        self.0.iter().map(|&(begin, end)| part_ns(begin, end)).max().unwrap_or(0) as f64 / 1e6
    }
}

/// The observations of a founder, from its first delivery to the end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Pauses between two deliveries of its own messages.
    pub(crate) deliveries: Pauses,
    /// Pauses in calls of `send`.
    pub(crate) sends: Pauses,
}

/// The state that the handler shares with the founder's main loop.
#[derive(Default)]
struct Board {
    last_ns: Option<u64>,
    pauses: Pauses,
    stopped: Option<Error>,
}

struct Application {
    me: MemberId,
    /// The state never changes, so the transfer reads it without a copy.
    state: Arc<[u8]>,
    board: Arc<Mutex<Board>>,
}

impl Handler for Application {
    fn deliver(&mut self, message: Delivery<'_>) {
        if message.sender == self.me {
            let now = now_ns();
            let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(last) = board.last_ns.replace(now) {
                board.pauses.add(last, now);
            }
        }
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.state.clone())))
    }

    fn stopped(&mut self, reason: &Error) {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).stopped = Some(reason.clone());
    }
}

/// Runs the founder: see [`crate::control`].
pub(crate) fn work(args: &JoinArgs, plan: &Plan, control: &Control) -> Result<()> {
    exact_timers();
    let me = MemberId(plan.rank as u32 + 1);
    let config = args.config(&plan.addresses)?.with_member(me);
    // Bytes that vary, so that every page is really allocated and the content cannot be compressed.
    let state = (0..args.state as usize).map(|i| (i ^ i >> 8) as u8).collect();
    let board = Arc::new(Mutex::new(Board::default()));
    let group = Group::join(config, Application { me, state, board: board.clone() })?;
    let payload = vec![7; args.size];
    let step = 1e9 / args.rate as f64;
    let (start_ns, mut sent, mut sends) = (now_ns(), 0u64, Pauses::default());
    let mut is_ready = false;
    while !control.wants_report() {
        sleep_until(start_ns + (sent as f64 * step) as u64);
        let begin = now_ns();
        while let Err(error) = group.send(MAIN, Mode::Safe, &payload, LOOK_AROUND) {
            if !matches!(error, Error::TimedOut { .. }) {
                return Err(error.into());
            }
            if control.wants_report() {
                break;
            }
        }
        sends.add(begin, now_ns());
        sent += 1;
        let board = board.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &board.stopped {
            return Err(reason.clone().into());
        }
        if !is_ready && board.last_ns.is_some() {
            is_ready = true;
            control.say(&Word::Ready)?;
        }
    }
    let deliveries = std::mem::take(&mut board.lock().unwrap_or_else(PoisonError::into_inner).pauses);
    control.done(&Seen { deliveries, sends })?;
    control.wait_end();
    Ok(())
}
