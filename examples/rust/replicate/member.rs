//! A member process. It sends its share of the lines, stores all lines, and reports to its parent on standard output.

use crate::lines::Lines;
use crate::options::Member;
use crate::replica::{Replica, State};
use crate::views::Seen;
use anyhow::{Result, bail, ensure};
use galerna::{Config, MemberId};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A report of a member to its parent. Each report is one line of JSON.
#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    /// Number of lines delivered so far.
    Progress(usize),
    /// The group continues without the victim.
    WentOn,
    /// The member has all lines and has left the group.
    Done(Box<Outcome>),
    /// The member failed, for this reason.
    Failed(String),
}

/// The result of a member.
#[derive(Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
    pub(crate) lines_by_sender: Vec<usize>,
    /// Number of lines received with the group's state, and number of those that an earlier process sent with this
    /// member's id.
    pub(crate) taken: usize,
    pub(crate) resumed_at: usize,
    pub(crate) views: Vec<Seen>,
    /// SHA-256 of the history, and of each sender's lines in it.
    pub(crate) digest: String,
    pub(crate) digests_by_sender: Vec<String>,
    /// Time from the end of the join to the last delivery.
    pub(crate) elapsed: Duration,
    /// p50, p99, p99.9 and maximum of the latencies. `None` if the member sent nothing.
    pub(crate) latencies: Option<[Duration; 4]>,
}

pub(crate) fn main(options: &Member) -> ExitCode {
    die_with_parent();
    match run(options) {
        Ok(outcome) => {
            report(&Report::Done(Box::new(outcome)));
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&Report::Failed(format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Member) -> Result<Outcome> {
    let config = Config::from_file(&options.config)?;
    let members = u32::try_from(config.members.len())?;
    let lines = Lines::read(&options.workload, config.max_message())?;
    let total = lines.len();
    ensure!(
        total == options.expect,
        "the file changed during the run: it has {total} lines to send, not {}",
        options.expect
    );
    let replica = Replica::join(config, MemberId(options.id), options.workload.mode.into())?;
    let started = Instant::now();
    // Lines that an earlier process sent with this id are either in the state or lost. This process continues after the
    // lines in the state.
    let resumed_at = replica.wait_for(|state| (!state.views.seen.is_empty()).then(|| state.history.of(options.id)))?;
    let delivered: Result<()> = while_reporting(&replica, options.victim, || {
        for number in lines.share(options.id, members).skip(resumed_at) {
            if let Some(rate) = options.workload.rate {
                let due = Duration::from_secs_f64((number - resumed_at * members as usize) as f64 / f64::from(rate));
                std::thread::sleep(due.saturating_sub(started.elapsed()));
            }
            check(replica.failed(options.victim), &replica)?;
            replica.send(&lines.get(number))?;
        }
        wait_for_all(&replica, &lines, members, options.victim)
    });
    delivered?;
    Ok(outcome(replica.leave()?, resumed_at, members, started))
}

/// Waits until all lines of all members are delivered and the victim is back. If members left earlier, the victim could
/// find no member to take the state from.
fn wait_for_all(replica: &Replica, lines: &Lines, members: u32, victim: Option<u32>) -> Result<()> {
    let is_whole = |state: &State, id: u32| state.history.of(id) == lines.share(id, members).len();
    let is_back = |state: &State| victim.is_none_or(|victim| state.views.is_back(victim));
    let has_all = |state: &State| (0..members).all(|id| is_whole(state, id)) && is_back(state);
    let lost = replica.wait_for(|state| match has_all(state) {
        true => Some(None),
        false => state.failed(victim).map(Some),
    })?;
    check(lost, replica)
}

/// Fails if a member failed. The group would continue without that member, but its lines would be incomplete.
fn check(failed: Option<u32>, replica: &Replica) -> Result<()> {
    failed.map_or(Ok(()), |id| bail!("member {id} failed: {}", replica.fault(id)))
}

fn outcome(mut state: State, resumed_at: usize, members: u32, started: Instant) -> Outcome {
    state.latencies.sort_unstable();
    let count = state.latencies.len();
    let at = |per_mille: usize| state.latencies[(count * per_mille).div_ceil(1000).max(1) - 1];
    let digests = state.history.digests(members);
    Outcome {
        lines: state.history.len(),
        bytes: state.history.bytes(),
        lines_by_sender: (0..members).map(|id| state.history.of(id)).collect(),
        taken: state.taken,
        resumed_at,
        views: state.views.seen,
        digest: digests.whole,
        digests_by_sender: digests.by_sender,
        elapsed: state.last_delivery.map_or(Duration::ZERO, |last| last - started),
        latencies: (count > 0).then(|| [at(500), at(990), at(999), at(1000)]),
    }
}

/// Runs `work`. During it, reports the number of delivered lines ten times a second, and reports once that the victim
/// is gone.
fn while_reporting<T>(replica: &Replica, mut victim: Option<u32>, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(Duration::from_millis(100)) {
                report(&Report::Progress(replica.delivered()));
                if victim.take_if(|victim| replica.failed(None) == Some(*victim)).is_some() {
                    report(&Report::WentOn);
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn report(report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else {
        return;
    };
    line.push(b'\n');
    // This fails only if the parent is gone, and then this process ends as well.
    let _ = std::io::stdout().lock().write_all(&line);
}

/// Ends this process when its standard input ends. The parent holds the other end as long as the parent runs.
fn die_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        #[allow(clippy::exit, reason = "the parent has ended, so nothing is left to do")]
        std::process::exit(1);
    });
}
