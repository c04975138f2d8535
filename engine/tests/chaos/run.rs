//! A run: five members under load, what is done to them, and what must come of it.

use crate::history::{self, History};
use crate::life::{Life, Said};
use crate::member::Clock;
use crate::proxy::Network;
use crate::rng::Rng;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

pub(crate) const MEMBERS: [u32; 5] = [1, 2, 3, 4, 5];
/// Until all are back and in one view after what was done to them; until everything sent is delivered.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// What is done to a member.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Kill,
    Stop,
    Continue,
    Leave,
    /// Nothing gets through between it and all others: of what it says, or of what they say to it, or both.
    Cut {
        mute: bool,
        deaf: bool,
    },
    Heal,
    /// Nothing gets through from it to the other.
    Hold(u32),
    LetThrough(u32),
    /// The connection with the other breaks.
    Break(u32),
    /// What comes now costs the member its place, within so many failure timeouts.
    Doom(u64),
    /// What comes now costs it or the other its place.
    DoomOneOf(u32),
}

/// Lives of which one at least must be removed, and within how long, if that is certain.
struct Doomed {
    lives: Vec<(u32, u32)>,
    from_ms: u64,
    within_ms: Option<u64>,
}

/// How a life ended.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    Stopped,
    Left(u64),
    NeverIn,
    Final(u64),
}

#[derive(Default)]
struct Place {
    pub(crate) id: u32,
    life: Option<Life>,
    lives: u32,
    /// Its life is in the group, since this view.
    since_view: Option<u64>,
    founder: bool,
    /// Its last view, with its members.
    pub(crate) view: Option<(u64, String)>,
    fate: Option<Fate>,
    start_at: Option<Instant>,
    /// Something was done to this life.
    disturbed: bool,
    stopped: bool,
    cut: bool,
    /// It was told to send a last message, and has sent so many.
    asked: bool,
    sent: Option<u64>,
    report: Option<String>,
}

pub(crate) struct Run {
    pub(crate) folder: PathBuf,
    pub(crate) timeout_ms: u64,
    pub(crate) rng: Rng,
    /// Of its own, as deaths come when they come: what is done depends on the seed alone.
    pauses: Rng,
    clock: Clock,
    log: File,
    network: Network,
    places: Vec<Place>,
    sink: Sender<Said>,
    said: Receiver<Said>,
    plan: Vec<(Instant, u32, Step)>,
    doomed: Vec<Doomed>,
    /// Who failed, as of which time, in the views that members told of.
    failed: Vec<(u32, u64)>,
    fates: Vec<(u32, u32, Fate)>,
    pub(crate) problems: Vec<String>,
    /// What the summary counts.
    pub(crate) steps: u32,
    pub(crate) unprovoked: u32,
    last_look: Instant,
    /// How late this process got its turn, at worst, since the last question.
    lag: Duration,
}

impl Run {
    /// Starts all members, and waits until they are one group.
    pub(crate) fn start(folder: PathBuf, timeout_ms: u64, seed: u64) -> Run {
        std::fs::create_dir_all(&folder).unwrap();
        let network = Network::start(&MEMBERS);
        let fabric = crate::fabric();
        let members = network.doors.iter().map(|(id, front, _)| format!("{{ id = {id}, address = '{front}' }}"));
        let members = members.collect::<Vec<_>>().join(", ");
        for (id, _, behind) in &network.doors {
            let config = format!(
                "group = 'chaos'\nmember = {id}\nfabric = '{fabric}'\nlisten = '{behind}'\nmembers = [{members}]\nring_bytes = 65536\n\
                 failure_timeout_ms = {timeout_ms}\npartition_timeout_ms = {}\njoin_timeout_ms = 20000\n\
                 verbs.timeout = 18\n",
                5 * timeout_ms
            );
            std::fs::write(folder.join(format!("member-{id}.toml")), config).unwrap();
        }
        let (sink, said) = channel();
        let place = |id| Place { id, start_at: Some(Instant::now()), ..Place::default() };
        let log = File::create(folder.join("events.log")).unwrap();
        let mut run = Run {
            log,
            timeout_ms,
            rng: Rng::new(seed),
            pauses: Rng::new(!seed),
            clock: Clock::start(),
            network,
            places: MEMBERS.into_iter().map(place).collect(),
            sink,
            said,
            plan: Vec::new(),
            doomed: Vec::new(),
            failed: Vec::new(),
            fates: Vec::new(),
            problems: Vec::new(),
            steps: 0,
            unprovoked: 0,
            last_look: Instant::now(),
            lag: Duration::ZERO,
            folder,
        };
        run.note(&format!("seed {seed}"));
        run.settle("the founders");
        run
    }

    pub(crate) fn note(&mut self, what: &str) {
        writeln!(self.log, "{:7} {what}", self.clock.ms()).unwrap();
    }

    fn problem(&mut self, what: String) {
        self.note(&format!("PROBLEM: {what}"));
        self.problems.push(what);
    }

    fn place(&mut self, id: u32) -> &mut Place {
        self.places.iter_mut().find(|place| place.id == id).unwrap()
    }

    /// Plans steps with a member, at times in milliseconds from now.
    pub(crate) fn plan_steps(&mut self, id: u32, steps: &[(u64, Step)]) {
        let now = Instant::now();
        self.plan.extend(steps.iter().map(|&(ms, step)| (now + Duration::from_millis(ms), id, step)));
    }

    /// How many lives each member has had.
    pub(crate) fn lives(&self) -> [u32; 5] {
        MEMBERS.map(|id| self.places.iter().find(|place| place.id == id).map_or(0, |place| place.lives))
    }

    /// Lets things happen for a while, until `done`, or until there is a problem. False if it was not done in time.
    pub(crate) fn go_on(&mut self, most: Duration, done: impl Fn(&Run) -> bool) -> bool {
        let until = Instant::now() + most;
        self.last_look = Instant::now();
        while self.problems.is_empty() {
            self.look();
            if done(self) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
        }
        false
    }

    fn look(&mut self) {
        while let Ok(said) = self.said.recv_timeout(LOOK) {
            self.hear(said);
            if self.last_look.elapsed() > 4 * LOOK {
                break;
            }
        }
        let now = Instant::now();
        self.lag = self.lag.max(now.duration_since(self.last_look).saturating_sub(4 * LOOK));
        self.last_look = now;
        while let Some(due) = self.plan.iter().position(|(at, ..)| *at <= now) {
            let (_, id, step) = self.plan.remove(due);
            self.take(id, step);
        }
        let due: Vec<u32> =
            self.places.iter().filter(|p| p.start_at.is_some_and(|at| at <= now)).map(|p| p.id).collect();
        due.into_iter().for_each(|id| self.start_life(id));
    }

    fn start_life(&mut self, id: u32) {
        let (clock, folder, sink) = (self.clock, self.folder.clone(), self.sink.clone());
        let place = self.place(id);
        place.lives += 1;
        let number = place.lives;
        let life = Life::start(id, number, clock, &folder, &sink);
        let pid = life.pid();
        *place = Place { id, life: Some(life), lives: number, ..Place::default() };
        self.network.is_process(id, pid);
        self.note(&format!("{id}.{number} starts"));
    }

    fn hear(&mut self, said: Said) {
        let Said { id, life, line } = said;
        let Some(line) = line else { return self.bury(id, life) };
        if !line.starts_with("report") {
            self.note(&format!("{id}.{life} {line}"));
        }
        let place = self.place(id);
        let mut words = line.split_whitespace();
        let (word, first, second) =
            (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
        match word {
            "joined" => {
                place.since_view = Some(first.parse().unwrap());
                place.founder = second == "founder";
                if place.founder && life > 1 {
                    self.problem(format!("{id}.{life} has founded the group anew"));
                }
            }
            "view" => {
                place.view = Some((first.parse().unwrap(), second.to_owned()));
                let (failed, ms) = (words.next().unwrap_or(""), words.next().unwrap_or("").parse().unwrap());
                self.failed.extend(failed.split(',').filter_map(|id| Some((id.parse().ok()?, ms))));
            }
            "left" => place.fate = Some(Fate::Left(first.parse().unwrap())),
            "sent" => place.sent = Some(first.parse().unwrap()),
            "report" => place.report = Some(line["report ".len()..].to_owned()),
            "stopped" | "leave-error" | "join-error" => {
                let joining = word == "join-error";
                place.fate = Some(if joining { Fate::NeverIn } else { Fate::Stopped });
                let disturbed = place.disturbed;
                self.unprovoked += u32::from(!disturbed);
                let expected = match first {
                    "Removed" | "Partitioned" => true,
                    // A process that is stopped or cut off may not get in, or not be told that it may leave.
                    "Missing" | "TimedOut" | "StateTransfer" | "Refused" => word != "stopped" && disturbed,
                    _ => false,
                };
                if !expected {
                    self.problem(format!("{id}.{life} {line}"));
                }
            }
            _ => self.problem(format!("{id}.{life} {line}")),
        }
    }

    /// A life's process has ended.
    fn bury(&mut self, id: u32, number: u32) {
        let pause = Duration::from_millis(self.pauses.below(800) as u64);
        let place = self.place(id);
        let status = place.life.as_mut().map(Life::reap).unwrap_or_default();
        place.life = None;
        place.start_at = Some(Instant::now() + pause);
        (place.since_view, place.view) = (None, None);
        let fate = place.fate.take();
        self.note(&format!("{id}.{number} ended: {fate:?}, {status}"));
        match fate {
            Some(fate) => self.fates.push((id, number, fate)),
            None => self.problem(format!("{id}.{number} ended by itself: {status}")),
        }
    }

    fn take(&mut self, id: u32, step: Step) {
        self.steps += u32::from(!matches!(step, Step::Doom(_) | Step::DoomOneOf(_)));
        let place = self.place(id);
        let number = place.lives;
        place.disturbed = true;
        match (step, &mut place.life) {
            (Step::Kill, Some(life)) => {
                life.signal(Signal::SIGKILL);
                place.fate = Some(Fate::Killed);
                // What a cut holds of a dead process gets nowhere any more.
                if std::mem::take(&mut place.cut) {
                    self.others(id).for_each(|other| {
                        self.network.break_pair(id, other);
                    });
                }
            }
            (Step::Stop, Some(life)) => {
                life.signal(Signal::SIGSTOP);
                place.stopped = true;
            }
            (Step::Continue, Some(life)) if place.stopped => life.signal(Signal::SIGCONT),
            (Step::Leave, Some(life)) => life.tell("leave"),
            (Step::Cut { mute, deaf }, _) => {
                place.cut = true;
                self.others(id).for_each(|other| {
                    if mute {
                        self.network.hold(id, other);
                    }
                    if deaf {
                        self.network.hold(other, id);
                    }
                });
            }
            (Step::Heal, _) => self.others(id).for_each(|other| {
                self.network.let_through(id, other);
                self.network.let_through(other, id);
            }),
            (Step::Hold(other), _) => self.network.hold(id, other),
            (Step::LetThrough(other), _) => self.network.let_through(id, other),
            (Step::Break(other), _) => {
                self.place(other).disturbed = true;
                let count = self.network.break_pair(id, other);
                self.note(&format!("{count} connections"));
            }
            (Step::Doom(timeouts), _) => self.doom(&[id], Some(timeouts)),
            (Step::DoomOneOf(other), _) => self.doom(&[id, other], None),
            (_, None) | (Step::Continue, _) => return self.note(&format!("{id}: too late for {step:?}")),
        }
        self.note(&format!("{id}.{number}: {step:?}"));
    }

    fn others(&self, id: u32) -> impl Iterator<Item = u32> + use<> {
        MEMBERS.into_iter().filter(move |other| *other != id)
    }

    /// One of these members must be removed, if they are in the group.
    fn doom(&mut self, ids: &[u32], timeouts: Option<u64>) {
        let (from_ms, within_ms) = (self.clock.ms(), timeouts.map(|times| times * self.timeout_ms));
        let is_in = |place: &&mut Place| place.since_view.is_some() && place.fate.is_none();
        let lives: Vec<_> = ids.iter().map(|&id| (id, is_in(&self.place(id)), self.place(id).lives)).collect();
        if lives.iter().all(|(_, is_in, _)| *is_in) {
            let lives = lives.into_iter().map(|(id, _, life)| (id, life)).collect();
            self.doomed.push(Doomed { lives, from_ms, within_ms });
        }
    }

    /// Whether all members are in one view, and vote in it.
    fn is_settled(&self) -> bool {
        let all = MEMBERS.map(|id| id.to_string());
        let first = self.places[0].view.as_ref();
        self.plan.is_empty()
            && self.places.iter().all(|place| {
                let (Some(since), Some((view, members))) = (place.since_view, &place.view) else { return false };
                // Who has joined votes in a view that begins after it has the state.
                let votes = place.founder || *view > since;
                let whole = all.iter().all(|id| members.split(',').any(|member| member == id));
                votes && whole && place.fate.is_none() && Some(*view) == first.map(|(number, _)| *number)
            })
    }

    /// Waits until all are back.
    pub(crate) fn settle(&mut self, after: &str) {
        if self.go_on(PATIENCE, Run::is_settled) {
            // A view change may be under way.
            self.go_on(Duration::from_millis(200), |_| false);
            if self.go_on(PATIENCE, Run::is_settled) {
                return self.settled();
            }
        }
        if self.problems.is_empty() {
            let seen: Vec<_> = self.places.iter().map(|p| format!("{}.{} in {:?}", p.id, p.lives, p.view)).collect();
            self.problem(format!("the group is not whole {PATIENCE:?} after {after}: {}", seen.join("; ")));
        }
    }

    fn settled(&mut self) {
        self.note(&format!("settled; the test ran late by at most {:?}", self.lag));
        for doomed in std::mem::take(&mut self.doomed) {
            let stays = |(id, life): &(u32, u32)| self.places.iter().any(|p| (p.id, p.lives) == (*id, *life));
            if doomed.lives.iter().all(stays) {
                self.problem(format!("{:?}: none was removed", doomed.lives));
            } else if let Some(within_ms) = doomed.within_ms {
                self.check_removal(&doomed, within_ms);
            }
        }
        self.lag = Duration::ZERO;
    }

    /// How soon the others went on without a member.
    fn check_removal(&mut self, doomed: &Doomed, within_ms: u64) {
        let Doomed { lives, from_ms, .. } = doomed;
        let theirs = self.failed.iter().filter(|(id, ms)| ms >= from_ms && lives.iter().any(|life| life.0 == *id));
        let took = theirs.map(|(_, ms)| ms - from_ms).min();
        // The machine's other work is no fault of the group.
        let allowed = within_ms + 4 * self.lag.as_millis() as u64;
        match took {
            Some(ms) if ms <= allowed => self.note(&format!("{lives:?} removed in {ms} ms")),
            took => self.problem(format!("{lives:?} removed in {took:?} ms, not {allowed}")),
        }
    }

    /// Stops the load, and waits until every message of those who are there is delivered to all.
    pub(crate) fn quiesce(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.problems.is_empty() {
            // Somebody may be suspected for being slow even now, and come back.
            self.settle("the load");
            for place in &mut self.places {
                let Some(life) = &mut place.life else { continue };
                if !std::mem::replace(&mut place.asked, true) {
                    life.tell("last");
                }
                place.report = None;
                life.tell("report");
            }
            self.go_on(Duration::from_secs(2), |run| run.places.iter().all(|place| place.report.is_some()));
            if self.is_all_delivered() {
                break;
            }
            if Instant::now() >= until {
                let reports: Vec<_> =
                    self.places.iter().map(|p| format!("{} sent {:?}: {:?}", p.id, p.sent, p.report)).collect();
                self.problem(format!("not all is delivered after {PATIENCE:?}: {}", reports.join("; ")));
            }
        }
        self.note(&format!("quiet: {:?}", self.places[0].report));
    }

    fn is_all_delivered(&self) -> bool {
        let report = self.places[0].report.as_ref();
        self.places.iter().all(|place| {
            let Some(sent) = place.sent else { return false };
            let next = format!(" {}.{}={sent}", place.id, place.lives);
            place.report.as_ref() == report && report.is_some_and(|text| format!("{text} ").contains(&(next + " ")))
        })
    }

    /// Ends all members and compares what they were told.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let report = self.places[0].report.clone().unwrap_or_default();
        for place in &mut self.places {
            let fate = place.sent.filter(|_| place.fate.is_none()).map_or(Fate::Killed, Fate::Final);
            if place.life.take().is_some() {
                self.fates.push((place.id, place.lives, fate));
            }
        }
        let lost = self.fates.iter().filter_map(|(id, life, fate)| match fate {
            Fate::Left(sent) if *sent > 0 && !format!("{report} ").contains(&format!(" {id}.{life}={sent} ")) => {
                Some(format!("{id}.{life} left after {sent} messages, not all of which were delivered"))
            }
            _ => None,
        });
        let mut problems: Vec<_> = lost.filter(|_| !report.is_empty()).collect();
        let lives = self.places.iter().flat_map(|place| (1..=place.lives).map(|life| (place.id, life)));
        let histories: Vec<_> = lives.map(|(id, life)| History::read(&self.folder, id, life, &mut problems)).collect();
        let whole = |fate: &Fate| matches!(fate, Fate::Final(_) | Fate::Left(_));
        let complete =
            |h: &History| self.fates.iter().any(|(id, life, fate)| (*id, *life) == (h.id, h.life) && whole(fate));
        history::check(&histories, &complete, &mut problems);
        problems.truncate(20);
        let messages = report.split_whitespace().nth(1).unwrap_or("?").to_owned();
        let views = histories.iter().flat_map(|history| &history.views).map(|view| view.number).max();
        let (lives, steps, unprovoked, ms) = (histories.len(), self.steps, self.unprovoked, self.clock.ms());
        self.problems.append(&mut problems);
        let summary = format!(
            "{ms} ms, {steps} steps, {lives} lives, {} views, {messages} messages, {unprovoked} unprovoked ends, {} problems",
            views.map_or(0, |view| view + 1),
            self.problems.len()
        );
        self.note(&summary);
        println!("{summary}");
        self.problems
    }
}
