//! A run: the processes of one group, their output, and the plan of their faults. `acts.rs` carries out the plan, and
//! `judge.rs` checks the outcome.

use crate::checker::load::MARKS;
use crate::life::{Life, Said};
use crate::member::{Role, config_file, now_ms};
use crate::netns;
use crate::record::{Mark, Process};
use crate::rng::Rng;
use crate::schedule::{Event, Planned, Scene, Setup, Step, Target, When};
use crate::shim::Control;
use crate::world::World;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(5);
/// Size of a member's disk, if it is a file system of its own.
const DISK_MIB: u32 = 256;

/// A member over all of its lives.
pub(crate) struct Place {
    pub(crate) id: u32,
    pub(crate) life: Option<Life>,
    pub(crate) lives: u32,
    /// The member has left for good, or has not joined yet.
    pub(crate) away: bool,
    pub(crate) joined: bool,
    /// Its last view: the number and the members.
    pub(crate) view: Option<(u64, Vec<u32>)>,
    pub(crate) killed: bool,
    pub(crate) start_at: Option<Instant>,
    /// The runner has asked the member to send nothing more.
    pub(crate) quiet: bool,
    pub(crate) report: Option<String>,
    pub(crate) control: Control,
    pub(crate) disk: PathBuf,
    /// The disk is a small file system of its own, so that it can be filled up.
    pub(crate) small: bool,
}

impl Place {
    pub(crate) fn process(&self) -> Process {
        Process { id: self.id, life: self.lives }
    }

    /// Whether the process runs and was not killed.
    pub(crate) fn is_up(&self) -> bool {
        self.life.is_some() && !self.killed
    }
}

pub(crate) struct Run {
    pub(crate) setup: Setup,
    pub(crate) folder: PathBuf,
    pub(crate) rng: Rng,
    /// Separate from `rng`, since processes end at times of their own: the faults must depend on the seed alone.
    pub(crate) pauses: Rng,
    pub(crate) world: World,
    pub(crate) places: Vec<Place>,
    pub(crate) plan: Vec<(Instant, Target, u32, Action)>,
    /// Steps that wait for an event.
    pub(crate) waiting: Vec<Planned>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) refusals: u64,
    /// The reason that each ended process gave.
    pub(crate) ends: Vec<(Process, String)>,
    /// Conditions that the group did not meet in time.
    pub(crate) problems: Vec<String>,
    /// The group existed, and all its processes are gone. Without a log it cannot come back.
    pub(crate) lost: bool,
    was_there: bool,
    library: Option<PathBuf>,
    log: File,
    marks: File,
    began_ms: u64,
    sink: Sender<Said>,
    said: Receiver<Said>,
}

/// An action of the runner at a planned time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Action {
    Do(Step),
    /// Ends a step that has a duration.
    Undo(Step),
}

impl Run {
    /// Prepares everything in `folder`; nothing runs yet.
    pub(crate) fn new(setup: Setup, folder: PathBuf) -> Run {
        std::fs::create_dir_all(&folder).unwrap();
        let world = World::new(&setup.fabric, setup.all(), setup.mtu, setup.seed);
        let own_mounts = setup.has_log && netns::own_mounts().is_ok();
        let library = crate::shim::compile(&folder);
        let place = |id| {
            let disk = disk_of(&folder, id);
            std::fs::create_dir_all(&disk).unwrap();
            let small = own_mounts && netns::mount_small(&disk, DISK_MIB).is_ok();
            let control = Control::new(folder.join(format!("member-{id}.control")), disk.clone()).unwrap();
            write_config(&setup, &world, &folder, id, &[]);
            Place {
                id,
                life: None,
                lives: 0,
                away: id > setup.founders,
                joined: false,
                view: None,
                killed: false,
                start_at: (id <= setup.founders).then(Instant::now),
                quiet: false,
                report: None,
                control,
                disk,
                small,
            }
        };
        let places = (1..=setup.all()).map(place).collect();
        let (sink, said) = channel();
        let create = |name: &str| File::create(folder.join(name)).unwrap();
        let (log, marks) = (create("events.log"), create(MARKS));
        let (rng, pauses) = (Rng::new(setup.seed ^ 0x0005_eed0), Rng::new(!setup.seed));
        let mut run = Run {
            setup,
            folder,
            rng,
            pauses,
            world,
            places,
            plan: Vec::new(),
            waiting: Vec::new(),
            faults: BTreeMap::new(),
            refusals: 0,
            ends: Vec::new(),
            problems: Vec::new(),
            lost: false,
            was_there: false,
            library,
            log,
            marks,
            began_ms: now_ms(),
            sink,
            said,
        };
        let (fabric, log) = (run.setup.fabric.clone(), run.setup.has_log);
        run.mark(&Mark::Group { fabric, log });
        run.note(&format!("seed {}: {}", run.setup.seed, run.setup));
        run
    }

    pub(crate) fn note(&mut self, what: &str) {
        let ms = now_ms();
        writeln!(self.log, "{ms} (+{}) {what}", ms - self.began_ms).unwrap();
    }

    /// Records that the group did not do something in time.
    pub(crate) fn is_late(&mut self, what: &str) {
        self.note(what);
        self.problems.push(format!("guarantee 9 (liveness): {what}"));
    }

    pub(crate) fn mark(&mut self, mark: &Mark) {
        writeln!(self.marks, "{} {mark}", now_ms()).unwrap();
    }

    pub(crate) fn place(&mut self, id: u32) -> &mut Place {
        &mut self.places[id as usize - 1]
    }

    /// Members that must be in the group.
    pub(crate) fn present(&self) -> Vec<u32> {
        self.places.iter().filter(|place| !place.away).map(|place| place.id).collect()
    }

    /// The latest view that any process has reported.
    pub(crate) fn latest_view(&self) -> Option<&(u64, Vec<u32>)> {
        self.places.iter().filter(|place| place.is_up()).filter_map(|place| place.view.as_ref()).max()
    }

    pub(crate) fn scene(&self) -> Scene<'_> {
        Scene {
            setup: &self.setup,
            present: self.present(),
            spare: self.places.iter().find(|place| place.away && place.lives == 0).map(|place| place.id),
            has_weather: self.world.has_weather(),
            can_cut: self.world.can_cut(&self.setup.fabric),
            can_reset: self.world.can_reset(),
        }
    }

    /// Adds a round's steps to the plan.
    pub(crate) fn plan_round(&mut self, planned: Vec<Planned>) {
        let now = Instant::now();
        for one in planned {
            match one.when {
                When::At(ms) => self.plan.push((now + Duration::from_millis(ms), one.target, 0, Action::Do(one.step))),
                When::On(..) => self.waiting.push(one),
            }
        }
    }

    /// Runs the event loop for at most `most`, or until `done`. Returns false if `done` was not reached in time.
    pub(crate) fn go_on(&mut self, most: Duration, done: impl Fn(&Run) -> bool) -> bool {
        let until = Instant::now() + most;
        loop {
            self.look();
            if done(self) {
                return true;
            }
            if Instant::now() >= until || self.lost {
                return false;
            }
        }
    }

    fn look(&mut self) {
        let until = Instant::now() + 4 * LOOK;
        while let Ok(said) = self.said.recv_timeout(LOOK) {
            self.hear(said);
            if Instant::now() >= until {
                break;
            }
        }
        let now = Instant::now();
        // In the order of their times, so that a step is undone after it was done.
        self.plan.sort_by_key(|(at, ..)| *at);
        let due = self.plan.iter().take_while(|(at, ..)| *at <= now).count();
        for (_, target, subject, action) in self.plan.drain(..due).collect::<Vec<_>>() {
            self.act(target, subject, action);
        }
        let due: Vec<u32> =
            self.places.iter().filter(|p| p.start_at.is_some_and(|at| at <= now)).map(|p| p.id).collect();
        due.into_iter().for_each(|id| self.start_life(id));
    }

    fn start_life(&mut self, id: u32) {
        let (sink, library, folder) = (self.sink.clone(), self.library.clone(), self.folder.clone());
        let (seed, habits) = (self.pauses.next(), self.setup.habits);
        // Without a log, a founder that starts again when all other founders have left cannot find the group by itself.
        if !self.setup.has_log {
            let is_contact = |place: &&Place| place.id > self.setup.founders && place.id != id && place.view.is_some();
            let contacts: Vec<u32> = self.places.iter().filter(is_contact).map(|place| place.id).collect();
            write_config(&self.setup, &self.world, &folder, id, &contacts);
        }
        let place = self.place(id);
        place.lives += 1;
        let process = place.process();
        let role = Role { process, seed, habits, folder };
        let life = {
            let (world, place) = (&self.world, &self.places[id as usize - 1]);
            Life::start(&role, &sink, |command| {
                place.control.apply(command, library.as_deref());
                world.home(id, command);
            })
        };
        self.world.is_process(id, life.pid());
        let place = self.place(id);
        place.life = Some(life);
        (place.joined, place.view, place.killed, place.start_at) = (false, None, false, None);
        (place.quiet, place.report) = (false, None);
        self.note(&format!("{process} starts"));
        self.happened(Event::Started, id);
    }

    fn hear(&mut self, said: Said) {
        let Said { process, line } = said;
        let Some(line) = line else { return self.bury(process) };
        if !line.starts_with("report") {
            self.note(&format!("{process} {line}"));
        }
        if let Some(end) = line.strip_prefix("ended ") {
            self.ends.push((process, end.to_owned()));
        }
        let place = self.place(process.id);
        if place.lives != process.life {
            return;
        }
        let mut words = line.split_whitespace();
        match words.next().unwrap_or_default() {
            "joined" => place.joined = true,
            "view" => {
                let number = words.next().and_then(|number| number.parse().ok()).unwrap();
                let members = words.next().unwrap_or_default().split(',').filter_map(|id| id.parse().ok()).collect();
                place.view = Some((number, members));
                self.was_there = true;
                self.happened(Event::View, process.id);
            }
            "restoring" => self.happened(Event::Restoring, process.id),
            "restored" => self.happened(Event::Restored, process.id),
            "report" => place.report = Some(line["report ".len()..].to_owned()),
            "ended" if line.contains(" join ") => self.refusals += 1,
            _ => {}
        }
    }

    fn happened(&mut self, event: Event, id: u32) {
        let is_due = |one: &Planned| matches!(one.when, When::On(on, _) if on == event);
        let Some(at) = self.waiting.iter().position(is_due) else { return };
        let one = self.waiting.remove(at);
        if let When::On(_, ms) = one.when {
            self.plan.push((Instant::now() + Duration::from_millis(ms), one.target, id, Action::Do(one.step)));
        }
    }

    /// Records that a process has ended, and plans its next start unless its member is away.
    fn bury(&mut self, process: Process) {
        let pause = Duration::from_millis(self.pauses.below(800) as u64);
        let place = self.place(process.id);
        let status = place.life.as_mut().map(Life::reap).unwrap_or_default();
        place.life = None;
        place.view = None;
        place.start_at = (!place.away).then(|| Instant::now() + pause);
        self.note(&format!("{process} ended: {status}"));
        self.note_all_dead();
    }

    /// Records that no process is in the group any more, if that is so.
    pub(crate) fn note_all_dead(&mut self) {
        if self.was_there && !self.places.iter().any(|place| place.is_up() && place.view.is_some()) {
            self.was_there = false;
            self.lost = !self.setup.has_log;
            self.mark(&Mark::AllDead);
            self.note("nobody is in the group");
        }
    }
}

fn disk_of(folder: &Path, id: u32) -> PathBuf {
    folder.join(format!("disk-{id}"))
}

/// Writes the configuration of a member. `contacts` are members that are no founders.
fn write_config(setup: &Setup, world: &World, folder: &Path, id: u32, contacts: &[u32]) {
    let entry = |id| format!("{{ id = {id}, address = '{}' }}", world.address(id, folder).0);
    let members: Vec<String> = (1..=setup.founders).map(entry).collect();
    let (address, listen) = world.address(id, folder);
    let Setup { fabric, ring_bytes, largest, failure_ms, partition_ms, .. } = setup;
    // In TOML the plain keys come before the tables.
    let mut text = format!(
        "group = 'chaos'\nmember = {id}\nfabric = '{fabric}'\nmembers = [{}]\nring_bytes = {ring_bytes}\n\
         max_message_bytes = {largest}\nfailure_timeout_ms = {failure_ms}\npartition_timeout_ms = {partition_ms}\n\
         join_timeout_ms = 20000\nverbs.timeout = 18\n",
        members.join(", ")
    );
    if id > setup.founders {
        text.push_str(&format!("address = '{address}'\n"));
    }
    if let Some(listen) = listen {
        text.push_str(&format!("listen = '{listen}'\n"));
    }
    if !contacts.is_empty() {
        let addresses: Vec<_> = contacts.iter().map(|&id| format!("'{}'", world.address(id, folder).0)).collect();
        text.push_str(&format!("contacts = [{}]\n", addresses.join(", ")));
    }
    if setup.has_log {
        let disk = disk_of(folder, id);
        let (k, directory) = (setup.durable_members, disk.display());
        text.push_str(&format!(
            "[log]\ndirectory = '{directory}'\nsegment_bytes = 4194304\ndurable_members = {k}\nrestart_wait_ms = 1500\n"
        ));
    }
    std::fs::write(config_file(folder, id), text).unwrap();
}
