//! The parent process. It starts the members, optionally kills one and replaces it, waits for the reports, and checks
//! them.

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
use std::collections::BTreeMap;
use std::process::{ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long the other members have to report a failure after one member has failed.
const GRACE: Duration = Duration::from_secs(3);
/// The exit code after Ctrl-C, as shells use it.
const INTERRUPTED: u8 = 130;
/// How long sending the lines takes if a member is to be killed during it.
const SECONDS_WITH_KILL: u32 = 3;

/// How the run ended.
enum End {
    /// All results with the members' ids, in the order of the ids.
    All(Vec<(usize, Outcome)>),
    Interrupted,
}

/// A member that is to be killed.
pub(crate) struct Victim {
    pub(crate) id: u32,
    /// The member is killed once this number of lines has been delivered to it.
    after: usize,
    /// The time of the kill, since 1970.
    pub(crate) killed: Option<Duration>,
    /// Number of survivors that have reported that the group continues without it.
    went_on: u32,
}

pub(crate) fn run(run: &Run) -> Result<ExitCode> {
    let victim = run.victim()?;
    // The directory is removed when this is dropped, also after an error.
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
    let mut victim = victim.map(|id| Victim { id, after: lines.len() / 3, killed: None, went_on: 0 });
    match watch(members, &events, &launch, victim.as_mut())? {
        End::Interrupted => {
            eprintln!("interrupted: all members were ended");
            Ok(ExitCode::from(INTERRUPTED))
        }
        End::All(outcomes) => {
            report::show(run, &lines, &outcomes);
            if let Some(victim) = &victim {
                report::show_views(victim, &outcomes);
            }
            judge(run, &lines, &outcomes)?;
            println!("\n{}", report::verdict(run.workload.mode));
            if let Some((victim, (_, outcome))) = victim.as_ref().and_then(|v| Some((v, outcomes.get(v.id as usize)?)))
            {
                println!("{}", report::verdict_on(victim, outcome));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns the workload of the members. If a member is to be killed, the rate is limited so that the kill happens
/// before the end.
fn paced(run: &Run, lines: &Lines) -> Workload {
    let mut workload = run.workload.clone();
    if run.kill.is_some() && workload.rate.is_none() {
        workload.rate = u32::try_from(lines.len()).ok().map(|lines| (lines / SECONDS_WITH_KILL).max(1));
    }
    workload
}

/// The state of the processes, as the parent knows it.
struct Watch<'a> {
    members: Members,
    launch: &'a Launch<'a>,
    victim: Option<&'a mut Victim>,
    progress: Progress,
    running: usize,
    /// By process number.
    outcomes: BTreeMap<usize, Outcome>,
    said: BTreeMap<usize, String>,
    failures: Vec<String>,
    /// The time at which the parent stops waiting.
    deadline: Option<Instant>,
}

/// Waits until all members have ended. The error names each member that failed, with the reason if known.
fn watch(members: Members, events: &Receiver<Event>, launch: &Launch<'_>, victim: Option<&mut Victim>) -> Result<End> {
    let progress = Progress::new(launch.expect, members.len());
    let mut watch = Watch {
        running: members.len(),
        members,
        launch,
        victim,
        progress,
        outcomes: BTreeMap::new(),
        said: BTreeMap::new(),
        failures: Vec::new(),
        deadline: None,
    };
    while watch.running > 0 {
        let left = watch.deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        match events.recv_timeout(left) {
            Ok(Event::Report(process, report)) => watch.report(process, report)?,
            Ok(Event::Interrupted) => return Ok(End::Interrupted),
            Ok(Event::Ended(process)) => watch.ended(process)?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    watch.end()
}

impl Watch<'_> {
    /// Returns the member id of a process.
    fn id(&self, process: usize) -> usize {
        match &self.victim {
            Some(victim) if process == self.launch.run.members as usize => victim.id as usize,
            _ => process,
        }
    }

    fn report(&mut self, process: usize, report: Report) -> Result<()> {
        match (report, &mut self.victim) {
            (Report::Progress(delivered), Some(victim)) if victim.is_due(process, delivered) => {
                let total = self.launch.expect;
                ensure!(delivered < total, "all lines were sent before {victim} could be killed: give a lower --rate");
                victim.kill(&mut self.members)?;
                self.progress.forget(process);
            }
            // A report that the victim sent before it was killed.
            (Report::Progress(_), Some(victim)) if victim.is_killed(process) => {}
            (Report::Progress(delivered), _) => self.progress.update(self.id(process), delivered),
            (Report::WentOn, Some(victim)) => {
                victim.went_on += 1;
                if victim.went_on + 1 == self.launch.run.members {
                    self.members.replace(self.launch, victim.id)?;
                    self.running += 1;
                }
            }
            (Report::WentOn, None) => {}
            (Report::Done(outcome), _) => drop(self.outcomes.insert(process, *outcome)),
            (Report::Failed(why), _) => drop(self.said.insert(process, why)),
        }
        Ok(())
    }

    fn ended(&mut self, process: usize) -> Result<()> {
        self.running -= 1;
        let pid = self.members.pid(process);
        let status = self.members.status(process)?;
        let killed = self.victim.as_ref().is_some_and(|victim| victim.is_killed(process));
        if !killed && (!self.outcomes.contains_key(&process) || !status.success()) {
            self.failures.push(failure(self.id(process), pid, status, self.said.remove(&process)));
            self.deadline.get_or_insert_with(|| Instant::now() + GRACE);
        }
        Ok(())
    }

    fn end(mut self) -> Result<End> {
        drop(self.progress);
        if !self.failures.is_empty() {
            bail!("the replication failed\n  {}", self.failures.join("\n  "))
        }
        if let Some(victim) = self.victim {
            // The process that replaced the victim has the greatest number.
            if let Some((_, outcome)) = self.outcomes.pop_last() {
                self.outcomes.insert(victim.id as usize, outcome);
            }
        }
        Ok(End::All(self.outcomes.into_iter().collect()))
    }
}

impl Victim {
    fn is_due(&self, id: usize, delivered: usize) -> bool {
        self.killed.is_none() && self.id as usize == id && delivered >= self.after
    }

    fn is_killed(&self, process: usize) -> bool {
        self.killed.is_some() && self.id as usize == process
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
