//! The parent: starts the members, perhaps kills one, waits for what they report, and judges it.

use crate::judge::judge;
use crate::lines::Lines;
use crate::member::{Outcome, Report};
use crate::members::{self, Event, Launch, Members};
use crate::options::{Run, Workload};
use crate::progress::Progress;
use crate::report;
use crate::views::since_1970;
use anyhow::{Context, Result, bail, ensure};
use galerna::Config;
use std::process::{ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After one member has failed the others have this long to say what they saw of it.
const GRACE: Duration = Duration::from_secs(3);
/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;
/// How long the lines take when a member is to be killed among them.
const SECONDS_WITH_KILL: u32 = 3;

/// How the members ended.
enum End {
    /// By id; of who was killed there is nothing.
    All(Vec<Option<Outcome>>),
    Interrupted,
}

/// A member that is to be killed.
pub(crate) struct Victim {
    pub(crate) id: u32,
    /// It is killed once so many lines are delivered to it.
    after: usize,
    /// When it was killed, since 1970.
    pub(crate) killed: Option<Duration>,
}

pub(crate) fn run(run: &Run) -> Result<ExitCode> {
    let victim = run.victim()?;
    // Removed when it is dropped, whatever happens.
    let directory = tempfile::Builder::new().prefix("replicate-").tempdir();
    let directory = directory.context("cannot make a temporary directory")?;
    let config = members::config(run, directory.path())?;
    let lines = Lines::read(&run.workload, Config::from_toml(&config)?.max_message())?;
    let path = directory.path().join("group.toml");
    std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;

    let (sender, events) = channel();
    let interrupts = sender.clone();
    ctrlc::set_handler(move || drop(interrupts.send(Event::Interrupted))).context("cannot wait for Ctrl-C")?;
    let workload = paced(run, &lines);
    let launch = Launch { run, workload: &workload, config: &path, expect: lines.len(), victim, events: &sender };
    let members = Members::start(&launch)?;
    let mut victim = victim.map(|id| Victim { id, after: lines.len() / 3, killed: None });
    let progress = Progress::new(lines.len(), run.members as usize);
    match watch(members, &events, progress, victim.as_mut())? {
        End::Interrupted => {
            eprintln!("interrupted: all members are ended");
            Ok(ExitCode::from(INTERRUPTED))
        }
        End::All(outcomes) => {
            let outcomes = outcomes.into_iter().enumerate().filter_map(|(id, outcome)| Some((id, outcome?)));
            let outcomes: Vec<_> = outcomes.collect();
            report::show(run, &lines, &outcomes);
            if let Some(victim) = &victim {
                report::show_views(victim, &outcomes);
            }
            judge(run, &lines, &outcomes, victim.as_ref())?;
            println!("\n{}", report::verdict(run.workload.mode));
            if let (Some(victim), Some((_, outcome))) = (&victim, outcomes.first()) {
                println!("{}", report::verdict_on(victim, outcome, &lines, run.members));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The workload of the members: slow enough to be there for a kill in mid-stream.
fn paced(run: &Run, lines: &Lines) -> Workload {
    let mut workload = run.workload.clone();
    if run.kill.is_some() && workload.rate.is_none() {
        workload.rate = u32::try_from(lines.len()).ok().map(|lines| (lines / SECONDS_WITH_KILL).max(1));
    }
    workload
}

/// Waits until all members have ended; the error says of each that failed what is known.
fn watch(
    mut members: Members,
    events: &Receiver<Event>,
    mut progress: Progress,
    mut victim: Option<&mut Victim>,
) -> Result<End> {
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    outcomes.resize_with(members.len(), || None);
    let mut said: Vec<Option<String>> = vec![None; members.len()];
    let mut failures = Vec::new();
    let mut running = members.len();
    let mut deadline: Option<Instant> = None;
    while running > 0 {
        let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        match events.recv_timeout(left) {
            Ok(Event::Report(id, Report::Progress(delivered))) => {
                progress.update(id, delivered);
                match &mut victim {
                    Some(victim) if victim.is_due(id, delivered) => {
                        victim.kill(&mut members)?;
                        progress.forget(id);
                    }
                    _ => {}
                }
            }
            Ok(Event::Report(id, Report::Done(outcome))) => outcomes[id] = Some(outcome),
            Ok(Event::Report(id, Report::Failed(why))) => said[id] = Some(why),
            Ok(Event::Interrupted) => return Ok(End::Interrupted),
            Ok(Event::Ended(id)) => {
                running -= 1;
                let pid = members.pid(id);
                let status = members.status(id)?;
                let killed = victim.as_ref().is_some_and(|victim| victim.id as usize == id && victim.killed.is_some());
                if !killed && (outcomes[id].is_none() || !status.success()) {
                    failures.push(failure(id, pid, status, said[id].take()));
                    deadline.get_or_insert_with(|| Instant::now() + GRACE);
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(progress);
    if !failures.is_empty() {
        bail!("the replication failed\n  {}", failures.join("\n  "))
    }
    if let Some(victim) = victim {
        ensure!(victim.killed.is_some(), "all lines were sent before {victim} could be killed: give a lower --rate");
    }
    Ok(End::All(outcomes))
}

impl Victim {
    fn is_due(&self, id: usize, delivered: usize) -> bool {
        self.killed.is_none() && self.id as usize == id && delivered >= self.after
    }

    fn kill(&mut self, members: &mut Members) -> Result<()> {
        let now = since_1970();
        if members.kill_one(self.id as usize)? {
            self.killed = Some(now);
        }
        Ok(())
    }
}

impl std::fmt::Display for Victim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "member {}", self.id)
    }
}

fn failure(id: usize, pid: u32, status: ExitStatus, said: Option<String>) -> String {
    match said {
        Some(why) => format!("member {id}: {why}"),
        None => format!("member {id} (pid {pid}) died: {status}"),
    }
}
