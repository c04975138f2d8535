//! The parent: starts the members, waits for what they report, and judges it.

use crate::lines::Lines;
use crate::member::{Outcome, Report};
use crate::members::{self, Event, Members};
use crate::options::{DeliveryMode, Run};
use crate::progress::Progress;
use crate::report;
use anyhow::{Context, Result, bail, ensure};
use galerna::Config;
use std::process::{ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After one member has failed the others have this long to say what they saw of it.
const GRACE: Duration = Duration::from_secs(3);
/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// How the members ended.
enum End {
    All(Vec<Outcome>),
    Interrupted,
}

pub(crate) fn run(run: &Run) -> Result<ExitCode> {
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
    let members = Members::start(run, &path, lines.len(), &sender)?;
    let progress = Progress::new(lines.len(), run.members as usize);
    match watch(members, &events, progress)? {
        End::Interrupted => {
            eprintln!("interrupted: all members are ended");
            Ok(ExitCode::from(INTERRUPTED))
        }
        End::All(outcomes) => {
            report::show(run, &lines, &outcomes);
            judge(run, &lines, &outcomes)?;
            println!("\n{}", report::verdict(run.workload.mode));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Waits until all members have ended; the error says of each that failed what is known.
fn watch(mut members: Members, events: &Receiver<Event>, mut progress: Progress) -> Result<End> {
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    outcomes.resize_with(members.len(), || None);
    let mut said: Vec<Option<String>> = vec![None; members.len()];
    let mut failures = Vec::new();
    let mut running = members.len();
    let mut deadline: Option<Instant> = None;
    while running > 0 {
        let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        match events.recv_timeout(left) {
            Ok(Event::Report(id, Report::Progress(delivered))) => progress.update(id, delivered),
            Ok(Event::Report(id, Report::Done(outcome))) => outcomes[id] = Some(outcome),
            Ok(Event::Report(id, Report::Failed(why))) => said[id] = Some(why),
            Ok(Event::Interrupted) => return Ok(End::Interrupted),
            Ok(Event::Ended(id)) => {
                running -= 1;
                let pid = members.pid(id);
                let status = members.status(id)?;
                if outcomes[id].is_none() || !status.success() {
                    failures.push(failure(id, pid, status, said[id].take()));
                    deadline.get_or_insert_with(|| Instant::now() + GRACE);
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(progress);
    if failures.is_empty() {
        return Ok(End::All(outcomes.into_iter().flatten().collect()));
    }
    bail!("the replication failed\n  {}", failures.join("\n  "))
}

fn failure(id: usize, pid: u32, status: ExitStatus, said: Option<String>) -> String {
    match said {
        Some(why) => format!("member {id}: {why}"),
        None => format!("member {id} (pid {pid}) died: {status}"),
    }
}

/// Every member must have every line, and the same history.
fn judge(run: &Run, lines: &Lines, outcomes: &[Outcome]) -> Result<()> {
    let expected = lines.digests_by_sender(run.members);
    for (id, outcome) in outcomes.iter().enumerate() {
        ensure!(outcome.lines == lines.len(), "member {id} has {} lines instead of {}", outcome.lines, lines.len());
        for (sender, (theirs, expected)) in outcome.digests_by_sender.iter().zip(&expected).enumerate() {
            ensure!(
                theirs == expected,
                "member {id} has other lines of member {sender} than the file: SHA-256 {theirs}, not {expected}"
            );
        }
        // Each sender's lines are right. In `fifo` mode no more is promised.
        ensure!(
            run.workload.mode == DeliveryMode::Fifo || outcome.digest == outcomes[0].digest,
            "the histories differ: SHA-256 {} at member 0, {} at member {id}",
            outcomes[0].digest,
            outcome.digest
        );
    }
    Ok(())
}
