//! The joining process: it receives the state, reports the duration, and leaves when it is ordered to.

use super::JoinArgs;
use crate::Result;
use crate::control::{Control, Plan, Word};
use crate::measure::{exact_timers, now_ns};
use galerna::{Config, Delivery, Group, Handler, MemberId};
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::time::Duration;

/// The times at which a join was called and at which it returned, by [`now_ns`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
}

struct Application {
    expected: u64,
    state: Vec<u8>,
}

impl Handler for Application {
    fn deliver(&mut self, _message: Delivery<'_>) {}

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        self.state.clear();
        self.state.reserve_exact(self.expected as usize);
        state.read_to_end(&mut self.state)?;
        let found = self.state.len();
        match found as u64 == self.expected {
            true => Ok(()),
            false => Err(io::Error::other(format!("the state has {found} bytes instead of {}", self.expected))),
        }
    }
}

/// Runs the joiner: see [`crate::control`].
pub(crate) fn work(args: &JoinArgs, founders: &[String], plan: &Plan, control: &Control) -> Result<()> {
    exact_timers();
    let config = args.config(founders)?.with_member(MemberId(plan.rank as u32 + 1));
    let config = Config { address: plan.addresses.first().cloned(), ..config };
    let begin_ns = now_ns();
    let group = Group::join(config, Application { expected: args.state, state: Vec::new() })?;
    let end_ns = now_ns();
    control.say(&Word::Ready)?;
    control.wait_start();
    group.leave(Duration::from_secs(args.timeout_s))?;
    control.done(&Joined { begin_ns, end_ns })?;
    control.wait_end();
    Ok(())
}
