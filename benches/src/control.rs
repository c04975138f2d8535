//! A member's side of the protocol with its parent: lines of JSON over the standard streams.
//!
//! The parent sends a [`Plan`]. The member prepares, warms up, and reports [`Word::Ready`]. The parent sends the common
//! start time ([`Order::Start`]). The member measures, reports its results with [`Word::Done`], and keeps serving the
//! other members until [`Order::End`]. If the parent ends, the member ends too.

use crate::args::{ClusterArgs, FailoverArgs, IdleArgs, LimitArgs, PingPongArgs};
use crate::join::{self, JoinArgs};
use crate::{Result, failover, idle, limit, member, pingpong};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The task of one member.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) rank: usize,
    /// The addresses of all members, by rank.
    pub(crate) addresses: Vec<String>,
    /// Shared memory created by the parent, by rank. Used by the limits.
    pub(crate) memory: Vec<PathBuf>,
    /// Whether to report [`Word::Progress`] at intervals.
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
    /// Founds a group that other processes join.
    Found(JoinArgs),
    /// Joins the group of the founders with these addresses.
    Join(JoinArgs, Vec<String>),
}

impl Job {
    /// The rank of the first member that runs this job.
    pub(crate) fn first_rank(&self) -> usize {
        match self {
            Job::Join(_, founders) => founders.len(),
            _ => 0,
        }
    }
}

/// A message from the parent, after the plan.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The start time on the monotonic clock, in nanoseconds.
    Start(u64),
    /// End the measurement, and report the results.
    Report,
    End,
}

/// A message to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    Ready,
    /// The number of messages delivered so far.
    Progress(u64),
    Done(serde_json::Value),
    Failed(String),
}

/// The orders received from the parent so far.
#[derive(Debug, Default)]
struct Orders {
    start_ns: Option<u64>,
    report: bool,
    end: bool,
}

/// The member's end of the connection to the parent.
#[derive(Clone, Default)]
pub(crate) struct Control {
    shared: Arc<(Mutex<Orders>, Condvar)>,
}

impl Control {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The start time, if it was already received.
    pub(crate) fn start_ns(&self) -> Option<u64> {
        self.orders().start_ns
    }

    /// Whether the parent has asked for the report.
    pub(crate) fn wants_report(&self) -> bool {
        self.orders().report
    }

    /// Whether all members are done.
    pub(crate) fn ended(&self) -> bool {
        self.orders().end
    }

    /// Waits for the start time. For a member that has nothing to do until then.
    pub(crate) fn wait_start(&self) -> u64 {
        let orders = self.shared.1.wait_while(self.orders(), |o| o.start_ns.is_none());
        orders.unwrap_or_else(PoisonError::into_inner).start_ns.unwrap_or(0)
    }

    /// Waits for the end. For a member that has nothing to do until then.
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

    /// Reports `delivered` every 200 ms, as long as the process runs.
    pub(crate) fn show_progress(&self, delivered: impl Fn() -> u64 + Send + 'static) {
        let control = self.clone();
        std::thread::spawn(move || {
            while control.say(&Word::Progress(delivered())).is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }

    /// Receives orders until the parent ends.
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

/// Runs a member process from its start to its end.
pub(crate) fn work() -> ExitCode {
    let control = Control::default();
    match obey(&control) {
        Ok(()) => ExitCode::SUCCESS,
        // A failure after the end does not count: the other members are ending too.
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
