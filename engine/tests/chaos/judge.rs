//! The conditions that a run must meet: the group is whole after each round, everything arrives in the end, and the
//! checker finds nothing in the records of all processes.

use crate::checker::{self, Case};
use crate::record::{Logged, Mark, Record};
use crate::run::Run;
use crate::schedule::{self, Setup};
use galerna::Mode;
use galerna::log::{Kind, Log};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for all members to be in one view after a round, and for all messages to be delivered. It is long
/// because the machine may be busy with other work.
const PATIENCE: Duration = Duration::from_secs(150);

/// Counters over all runs.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) kinds: BTreeMap<String, u64>,
    pub(crate) rounds: u64,
    pub(crate) deliveries: u64,
    pub(crate) views: u64,
    pub(crate) processes: u64,
    pub(crate) restarts: u64,
    pub(crate) refused_joins: u64,
    pub(crate) refused_sends: u64,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: Vec<(String, u64)>| {
            counts.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
        };
        let kinds = list(self.kinds.iter().map(|(kind, count)| (kind.clone(), *count)).collect());
        let faults = list(self.faults.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect());
        let Totals { runs, rounds, deliveries, views, processes, restarts, refused_joins, refused_sends, .. } = self;
        writeln!(f, "{runs} runs ({kinds}), {rounds} rounds")?;
        writeln!(f, "faults: {faults}")?;
        write!(
            f,
            "{deliveries} deliveries, {views} views, {processes} processes, {restarts} restarts, {refused_joins} refused joins, {refused_sends} refused sends"
        )
    }
}

/// Runs one group for about `time` and checks it. Returns the problems found; if there are any, the caller keeps the
/// folder.
pub(crate) fn run(setup: Setup, folder: PathBuf, time: Duration, totals: &mut Totals) -> Vec<String> {
    let until = Instant::now() + time;
    let log = if setup.has_log { "with a log" } else { "without" };
    let kind = format!("{} {log}", setup.fabric);
    let mut run = Run::new(setup, folder);
    let found = schedule::founding(&mut crate::rng::Rng::new(run.setup.seed ^ 1), &run.scene());
    run.plan_round(found);
    let mut whole = run.settle("the founding");
    while whole && Instant::now() < until {
        totals.rounds += 1;
        let mut rng = std::mem::replace(&mut run.rng, crate::rng::Rng::new(0));
        let planned = schedule::round(&mut rng, &run.scene());
        run.rng = rng;
        run.note("--- round");
        run.plan_round(planned);
        whole = run.settle("a round");
    }
    let (case, problems) = run.end(whole);
    count(&case, &run, totals);
    *totals.kinds.entry(kind).or_default() += 1;
    problems
}

fn count(case: &Case, run: &Run, totals: &mut Totals) {
    totals.runs += 1;
    for (kind, count) in &run.faults {
        *totals.faults.entry(kind).or_default() += count;
    }
    totals.refused_joins += run.refusals;
    let mut views = 0;
    for life in &case.lives {
        totals.processes += 1;
        totals.restarts += u64::from(life.process.life > 1);
        for (_, record) in &life.lines {
            match record {
                Record::Delivery { .. } => totals.deliveries += 1,
                Record::Refused { .. } => totals.refused_sends += 1,
                Record::View(view) => views = views.max(view.number + 1),
                _ => {}
            }
        }
    }
    totals.views += views;
}

impl Run {
    /// Whether all members that must be in the group are in the latest view.
    fn is_settled(&self) -> bool {
        let present = self.present();
        let Some((latest, members)) = self.latest_view() else { return false };
        let is_there = |id: &u32| {
            let place = &self.places[*id as usize - 1];
            place.is_up() && place.joined && place.view.as_ref().is_some_and(|(view, _)| view == latest)
        };
        let gone = self.places.iter().all(|place| !place.away || place.life.is_none());
        self.plan.is_empty() && gone && members.len() == present.len() && present.iter().all(is_there)
    }

    /// Ends the run and checks the records of its processes. Returns the problems; if there are any, the disks are
    /// kept.
    pub(crate) fn end(&mut self, whole: bool) -> (Case, Vec<String>) {
        let whole = whole && self.quiesce();
        self.finish(whole);
        let mut problems = std::mem::take(&mut self.problems);
        problems.extend(self.dump_logs());
        let case = Case::read(&self.folder).unwrap();
        problems.extend(checker::check(&case).iter().map(ToString::to_string));
        problems.iter().for_each(|problem| self.note(&format!("PROBLEM: {problem}")));
        if !problems.is_empty() {
            self.keep_disks();
        }
        (case, problems)
    }

    /// Waits until the plan is empty and the group is whole. Returns false if it does not become whole.
    pub(crate) fn settle(&mut self, after: &str) -> bool {
        let most = Duration::from_secs(120);
        self.go_on(most, |run| run.plan.is_empty());
        let until = Instant::now() + PATIENCE;
        while !self.lost && Instant::now() < until {
            self.go_on(until.saturating_duration_since(Instant::now()), Run::is_settled);
            // A view change may be in progress.
            self.go_on(Duration::from_millis(300), |_| false);
            if self.is_settled() && self.moves() {
                self.waiting.clear();
                self.note("settled");
                return true;
            }
        }
        let seen: Vec<String> =
            self.places.iter().map(|p| format!("{} joined {} in {:?}", p.process(), p.joined, p.view)).collect();
        self.is_late(&format!("the group is not whole after {after}: {}", seen.join("; ")));
        false
    }

    /// Whether all members' messages are delivered while the group stays whole: each member's count of its own must
    /// grow.
    fn moves(&mut self) -> bool {
        let mut first: Option<Vec<u64>> = None;
        let until = Instant::now() + PATIENCE;
        while !self.lost && Instant::now() < until && self.is_settled() {
            self.ask_for_reports();
            let own = |report: &String| report.split(' ').nth(3)?.parse().ok();
            let present = self.places.iter().filter(|place| !place.away);
            let counts: Option<Vec<u64>> = present.map(|place| place.report.as_ref().and_then(own)).collect();
            match (&first, counts) {
                (Some(first), Some(now)) if now.iter().zip(first).all(|(now, first)| now > first) => return true,
                (None, Some(now)) => first = Some(now),
                _ => {}
            }
            self.go_on(Duration::from_millis(100), |_| false);
        }
        false
    }

    /// Asks all members for a progress report, and waits a while for the answers.
    fn ask_for_reports(&mut self) {
        for place in self.places.iter_mut().filter(|place| !place.away && place.joined) {
            let Some(life) = &mut place.life else { continue };
            place.report = None;
            life.tell("report");
        }
        let all = |run: &Run| run.places.iter().all(|place| place.away || place.report.is_some());
        self.go_on(Duration::from_secs(3), all);
    }

    /// Ends the sending, and waits until all members have everything.
    fn quiesce(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while !self.lost && Instant::now() < until {
            for place in self.places.iter_mut().filter(|place| !place.away && place.joined) {
                let Some(life) = &mut place.life else { continue };
                if !std::mem::replace(&mut place.quiet, true) {
                    life.tell("quiet");
                }
            }
            self.ask_for_reports();
            let reports: Vec<Option<Vec<&str>>> = self
                .places
                .iter()
                .filter(|place| !place.away)
                .map(|place| Some(place.report.as_ref()?.split(' ').collect()))
                .collect();
            // View, count and sum are equal, and no more messages are to come.
            let same = |report: &Option<Vec<&str>>| match (report, &reports[0]) {
                (Some(one), Some(first)) => one.len() == 5 && one[..3] == first[..3] && one[4] == "idle",
                _ => false,
            };
            if reports.iter().all(same) && self.is_settled() {
                return true;
            }
            self.go_on(Duration::from_millis(200), |_| false);
        }
        let reports: Vec<String> = self.places.iter().map(|p| format!("{}: {:?}", p.process(), p.report)).collect();
        self.is_late(&format!("not all is delivered in the end: {}", reports.join("; ")));
        false
    }

    /// Ends all processes, and names to the checker those that must be in the group.
    fn finish(&mut self, whole: bool) {
        self.note(if whole { "the end: everything has arrived" } else { "the end, before its time" });
        if whole {
            self.mark(&Mark::Whole);
        }
        for id in self.present() {
            let process = self.place(id).process();
            self.mark(&Mark::Final(process));
        }
        let mut killed = Vec::new();
        // All are stopped first: on a busy machine the first could be dead for a while before the last one.
        for life in self.places.iter().filter_map(|place| place.life.as_ref()) {
            life.signal(nix::sys::signal::Signal::SIGSTOP);
        }
        for place in &mut self.places {
            if let Some(life) = &place.life {
                life.signal(nix::sys::signal::Signal::SIGKILL);
                if place.away {
                    killed.push(place.process());
                }
            }
        }
        // All are reaped only after all were killed, so that no process sees another one end.
        self.places.iter_mut().for_each(|place| drop(place.life.take()));
        self.world.clean(self.setup.all(), &self.folder);
        killed.into_iter().for_each(|process| self.mark(&Mark::Killed(process)));
    }

    /// Writes the logs of the members that are in the group at the end to files. Returns errors of reading them.
    fn dump_logs(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.setup.has_log {
            return problems;
        }
        for id in self.present() {
            let disk = self.place(id).disk.clone();
            let folders = std::fs::read_dir(&disk).into_iter().flatten().flatten().map(|entry| entry.path());
            for folder in folders.filter(|path| path.is_dir()) {
                let target = self.folder.join(checker::load::log_name(id));
                if let Err(error) = dump(&folder, &target) {
                    problems.push(format!("guarantee 11 (no silent loss), the log of member {id}: {error}"));
                }
            }
        }
        problems
    }

    /// Copies the disks into the run's folder: a disk on one of the run's own mounts vanishes with the mount.
    fn keep_disks(&mut self) {
        for place in &self.places {
            let kept = self.folder.join(format!("kept-{}", place.id));
            let _ = std::process::Command::new("cp").arg("-a").arg(&place.disk).arg(&kept).output();
        }
    }
}

fn dump(log: &Path, target: &Path) -> Result<(), String> {
    let log = Log::open_read_only(log).map_err(|error| error.to_string())?;
    let file = std::fs::File::create(target).map_err(|error| error.to_string())?;
    let mut file = std::io::BufWriter::new(file);
    for entry in log.reader().iter(..) {
        let entry = entry.map_err(|error| error.to_string())?;
        let record = entry.record();
        let mode = match record.mode {
            Mode::Fifo => 'f',
            Mode::Ordered => 'o',
            Mode::Safe => 's',
            Mode::Durable => 'd',
        };
        let logged = Logged {
            place: (record.version.view, record.version.sequence),
            time_ns: record.time_ns,
            sender: record.sender.0,
            mode,
            kind: if record.kind == Kind::Message { 'm' } else { 'd' },
            len: record.payload.len() as u32,
            crc: crc32c::crc32c(record.payload),
        };
        writeln!(file, "{logged}").map_err(|error| error.to_string())?;
    }
    file.flush().map_err(|error| error.to_string())
}
