//! A member's side of the conversation with its parent, by lines of JSON over the standard streams.
//!
//! The parent gives a [`Plan`]; the member prepares, warms up and says [`Word::Ready`]; it is told when all start
//! ([`Order::Start`]), says [`Word::Done`] with what it measured, and goes on serving the others until [`Order::End`].
//! When the parent is gone, so is the member.

use crate::args::{ClusterArgs, FailoverArgs, IdleArgs, LimitArgs, PingPongArgs};
use crate::join::{self, JoinArgs};
use crate::{Result, failover, idle, limit, member, pingpong};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What one member is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) rank: usize,
    /// Of all members, by rank.
    pub(crate) addresses: Vec<String>,
    /// Shared memory that the parent made, by rank; for the limits.
    pub(crate) memory: Vec<PathBuf>,
    /// Say [`Word::Progress`] now and then.
    pub(crate) progress: bool,
    pub(crate) job: Job,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Job {
    Cluster(ClusterArgs),
    Limit(LimitArgs),
    PingPong(PingPongArgs),
    Idle(IdleArgs),
    Failover(FailoverArgs),
    /// To found a group that others join.
    Found(JoinArgs),
    /// To join the group of the founders with these addresses.
    Join(JoinArgs, Vec<String>),
}

impl Job {
    /// The rank of the first member that does it.
    pub(crate) fn first_rank(&self) -> usize {
        match self {
            Job::Join(_, founders) => founders.len(),
            _ => 0,
        }
    }
}

/// From the parent, after the plan.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Order {
    /// At this time of the monotonic clock, in nanoseconds.
    Start(u64),
    /// Measure no more: say what was measured.
    Report,
    End,
}

/// To the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    Ready,
    /// Messages delivered so far.
    Progress(u64),
    Done(serde_json::Value),
    Failed(String),
}

/// What the parent has ordered so far.
#[derive(Debug, Default)]
struct Orders {
    start_ns: Option<u64>,
    report: bool,
    end: bool,
}

/// The member's end of the conversation.
#[derive(Clone, Default)]
pub(crate) struct Control {
    shared: Arc<(Mutex<Orders>, Condvar)>,
}

impl Control {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When to start, if that is said already.
    pub(crate) fn start_ns(&self) -> Option<u64> {
        self.orders().start_ns
    }

    /// Whether it is time to report.
    pub(crate) fn wants_report(&self) -> bool {
        self.orders().report
    }

    /// Whether all members are done.
    pub(crate) fn ended(&self) -> bool {
        self.orders().end
    }

    /// Waits for the start, for whoever has nothing else to do.
    pub(crate) fn wait_start(&self) -> u64 {
        let orders = self.shared.1.wait_while(self.orders(), |o| o.start_ns.is_none());
        orders.unwrap_or_else(PoisonError::into_inner).start_ns.unwrap_or(0)
    }

    /// Waits for the end, likewise.
    pub(crate) fn wait_end(&self) {
        drop(self.shared.1.wait_while(self.orders(), |o| !o.end));
    }

    pub(crate) fn say(&self, word: &Word) -> Result<()> {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, word)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    pub(crate) fn done(&self, report: &impl Serialize) -> Result<()> {
        self.say(&Word::Done(serde_json::to_value(report)?))
    }

    /// Says every 200 ms how far `delivered` is, for as long as the process lives.
    pub(crate) fn show_progress(&self, delivered: impl Fn() -> u64 + Send + 'static) {
        let control = self.clone();
        std::thread::spawn(move || {
            while control.say(&Word::Progress(delivered())).is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }

    /// Takes orders until the parent is gone.
    fn listen(&self) {
        for line in std::io::stdin().lock().lines() {
            let order = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            match order {
                Some(Order::Start(ns)) => self.orders().start_ns = Some(ns),
                Some(Order::Report) => self.orders().report = true,
                Some(Order::End) => self.orders().end = true,
                None => break,
            }
            self.shared.1.notify_all();
        }
        if !self.ended() {
            #[allow(clippy::exit, reason = "other threads may be in calls that wait for ever")]
            std::process::exit(2);
        }
    }
}

/// A member's whole life.
pub(crate) fn work() -> ExitCode {
    let control = Control::default();
    match obey(&control) {
        Ok(()) => ExitCode::SUCCESS,
        // What happens after the end is no failure: the others are going too.
        Err(_) if control.ended() => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = control.say(&Word::Failed(failure.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn obey(control: &Control) -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let plan: Plan = serde_json::from_str(&line).map_err(|e| format!("`member` is for galerna-bench itself: {e}"))?;
    let listener = control.clone();
    std::thread::spawn(move || listener.listen());
    match &plan.job {
        Job::Cluster(args) => member::work(args, &plan, control),
        Job::Limit(args) => limit::work(args, &plan, control),
        Job::PingPong(args) => pingpong::work(args, &plan, control),
        Job::Idle(args) => idle::work(args, &plan, control),
        Job::Failover(args) => failover::member::work(args, &plan, control),
        Job::Found(args) => join::founder::work(args, &plan, control),
        Job::Join(args, founders) => join::joiner::work(args, founders, &plan, control),
    }
}
