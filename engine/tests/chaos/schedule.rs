//! Draws a run from the seed: the group, its habits, and the faults of each round.

use crate::member::Habits;
use crate::rng::Rng;
use crate::switch::Rule;
use std::fmt;

/// The group of a run.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) fabric: String,
    pub(crate) has_log: bool,
    pub(crate) founders: u32,
    /// Number of members that may join later.
    pub(crate) spares: u32,
    pub(crate) ring_bytes: usize,
    pub(crate) largest: usize,
    pub(crate) failure_ms: u64,
    pub(crate) partition_ms: u64,
    pub(crate) durable_members: u32,
    pub(crate) mtu: i32,
    pub(crate) habits: Habits,
}

impl Setup {
    pub(crate) fn draw(seed: u64, fabric: Option<&str>) -> Setup {
        let mut rng = Rng::new(seed);
        let fabric = fabric.unwrap_or(if rng.chance(7, 10) { "tcp" } else { "shm" }).to_owned();
        let has_log = rng.chance(1, 2);
        let founders = [3, 3, 4, 5][rng.below(4)];
        let ring_bytes = [4096, 1 << 16, 1 << 20, 1 << 21][rng.below(4)];
        let failure_ms = [800, 1200, 2000][rng.below(3)];
        let (threads, pause_us) = (1 + rng.below(3) as u32, [4000, 8000, 20_000][rng.below(3)]);
        let slow = [0, 0, 1, 5][rng.below(4)];
        // All callbacks together take at most a fifth of the time. Otherwise a joiner could never catch up with the
        // others.
        let per_second = u64::from(founders * threads) * 1_000_000 / pause_us;
        let most_ms = 200_000 / (per_second * slow.max(1) as u64);
        let habits = Habits {
            threads,
            pause_us,
            slow,
            slow_ms: (1 + rng.below(failure_ms as usize / 4) as u64).min(most_ms),
            state_bytes: [0, 1 << 16, 4 << 20][rng.below(3)],
            restore_ms: [0, 0, 300, 1500][rng.below(4)],
            has_log,
        };
        Setup {
            seed,
            fabric,
            has_log,
            founders,
            spares: rng.below(3) as u32,
            ring_bytes,
            // Space for the frame header and, with a log, for the time.
            largest: (ring_bytes / 2 - 64).min(600 << 10),
            failure_ms,
            partition_ms: failure_ms * (4 + rng.below(4) as u64),
            durable_members: if rng.chance(1, 3) { founders / 2 + 1 } else { 0 },
            mtu: if rng.chance(1, 2) { 1500 } else { 9000 },
            habits,
        }
    }

    pub(crate) fn all(&self) -> u32 {
        self.founders + self.spares
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { fabric, founders, spares, ring_bytes, habits, failure_ms, .. } = self;
        let log = if self.has_log { "a log" } else { "no log" };
        write!(
            f,
            "{fabric}, {log}, {founders} founders and {spares} later, rings of {ring_bytes} bytes, {} threads, timeout {failure_ms} ms",
            habits.threads
        )
    }
}

/// A step of the plan. A step that ends by itself has its duration in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    Kill,
    KillAll,
    Pause(u64),
    PauseAll(u64),
    Leave,
    LeaveForGood,
    /// A member that is not a founder joins.
    Join,
    /// Frames from the member (`mute`), to the member (`deaf`) or both are lost.
    Isolate {
        mute: bool,
        deaf: bool,
        ms: u64,
    },
    /// Frames from the member to the other one are lost.
    OneWay(u32, u64),
    /// The members of the mask (bit 0 is member 1) and the others cannot reach each other.
    Split(u64, u64),
    Reset(u32, u64),
    Weather(Rule, u64),
    /// Sets the offset of the member's wall clock, in milliseconds.
    Clock(i64),
    DiskSync(u64),
    DiskWrite(u64),
    DiskFull(u64),
    Checkpoint,
}

impl Step {
    /// The name of the step in the counts.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Step::Kill => "kill",
            Step::KillAll => "kill of all",
            Step::Pause(_) => "pause",
            Step::PauseAll(_) => "pause of all",
            Step::Leave => "leave",
            Step::LeaveForGood => "leave for good",
            Step::Join => "join",
            Step::Isolate { mute: true, deaf: true, .. } => "isolation",
            Step::Isolate { .. } => "one-way isolation",
            Step::OneWay(..) => "one-way cut",
            Step::Split(..) => "partition",
            Step::Reset(..) => "reset of connections",
            Step::Weather(..) => "loss, delay, reordering, duplication",
            Step::Clock(_) => "jump of a clock",
            Step::DiskSync(_) => "failed sync",
            Step::DiskWrite(_) => "failed write",
            Step::DiskFull(_) => "full disk",
            Step::Checkpoint => "checkpoint",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Id(u32),
    /// The member of the lowest rank in the view.
    Leader,
    /// The member of the highest rank, which is asked for the state first.
    Source,
    /// The process that the event is about.
    Subject,
}

/// An event that a member reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Started,
    View,
    Restoring,
    Restored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// So many milliseconds after the beginning of the round.
    At(u64),
    /// So many milliseconds after the first such event.
    On(Event, u64),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) when: When,
    pub(crate) target: Target,
    pub(crate) step: Step,
}

/// The facts on which the next round depends.
pub(crate) struct Scene<'a> {
    pub(crate) setup: &'a Setup,
    /// Members that are in the group, as voters.
    pub(crate) present: Vec<u32>,
    /// A member that was never in the group.
    pub(crate) spare: Option<u32>,
    pub(crate) has_weather: bool,
    pub(crate) can_cut: bool,
    pub(crate) can_reset: bool,
}

/// Draws one round. It takes away at most a minority at a time, unless all come back before any member gives up, or the
/// group has a log.
pub(crate) fn round(rng: &mut Rng, scene: &Scene<'_>) -> Vec<Planned> {
    let mut victims = scene.present.clone();
    rng.shuffle(&mut victims);
    let few = (victims.len() - 1) / 2;
    let first = victims[0];
    match rng.below(12) {
        0 if scene.setup.has_log => all_die(rng, &victims),
        1 if scene.can_cut => vec![at(0, first, split(rng, scene))],
        1 => vec![at(0, first, Step::PauseAll(outage(rng, scene)))],
        2 => {
            let paused = 1 + rng.below(victims.len());
            let ms = outage(rng, scene);
            victims.iter().take(paused).map(|&id| at(rng.below(50) as u64, id, Step::Pause(ms))).collect()
        }
        3 | 4 if scene.has_weather => {
            let mut plan = vec![at(0, first, Step::Weather(weather(rng), 1000 + rng.below(4000) as u64))];
            plan.extend(disturb(rng, scene, first, 300));
            plan
        }
        5 if scene.can_reset => {
            let mut plan = vec![at(0, first, Step::Reset(victims[1], 50 + rng.below(1500) as u64))];
            if few > 1 {
                plan.extend(disturb(rng, scene, victims[2], 0));
            }
            plan
        }
        6 if scene.can_cut => {
            vec![at(0, first, Step::OneWay(victims[1], 100 + rng.below(3 * scene.setup.failure_ms as usize) as u64))]
        }
        7 if scene.spare.is_some() => join(rng, scene, &victims),
        8 if scene.present.len() > 3 => {
            let founder = victims.iter().copied().find(|id| *id <= scene.setup.founders).unwrap_or(first);
            vec![at(0, founder, Step::LeaveForGood)]
        }
        9 | 10 => aimed(rng, scene, &victims),
        _ => victims
            .iter()
            .take(1 + rng.below(few))
            .flat_map(|&id| {
                let later = rng.below(1500) as u64;
                disturb(rng, scene, id, later)
            })
            .collect(),
    }
}

fn at(ms: u64, id: u32, step: Step) -> Planned {
    Planned { when: When::At(ms), target: Target::Id(id), step }
}

/// Draws the duration of an outage in milliseconds: short enough that all come back before any member gives up.
fn outage(rng: &mut Rng, scene: &Scene<'_>) -> u64 {
    let Setup { failure_ms, partition_ms, .. } = scene.setup;
    let most = partition_ms / 2;
    failure_ms / 4 + rng.below(most.saturating_sub(failure_ms / 4) as usize) as u64
}

fn split(rng: &mut Rng, scene: &Scene<'_>) -> Step {
    let mut ids = scene.present.clone();
    rng.shuffle(&mut ids);
    let half = ids.len() / 2;
    let mask = ids[..half].iter().fold(0, |mask, id| mask | 1 << (id - 1));
    // If one side has a majority, or with a log, the other members may give up.
    let long = ids.len() % 2 == 1 || scene.setup.has_log;
    let ms = match long && rng.chance(1, 2) {
        true => 2 * scene.setup.failure_ms + rng.below(2 * scene.setup.partition_ms as usize) as u64,
        false => outage(rng, scene),
    };
    Step::Split(mask, ms)
}

fn weather(rng: &mut Rng) -> Rule {
    let mut some = |most: usize| if rng.chance(1, 2) { rng.below(most + 1) } else { 0 };
    Rule {
        delay_ms: some(60) as u64,
        jitter_ms: some(40) as u64,
        lost: some(40),
        twice: some(100),
        overtaken: some(200),
        bytes_per_ms: some(3000) as u64,
        ..Rule::default()
    }
}

/// Kills all processes at about the same time, some of them again as they come back.
fn all_die(rng: &mut Rng, victims: &[u32]) -> Vec<Planned> {
    let mut plan = match rng.chance(1, 2) {
        true => vec![at(0, victims[0], Step::KillAll)],
        false => victims.iter().map(|&id| at(rng.below(300) as u64, id, Step::Kill)).collect(),
    };
    if rng.chance(1, 2) {
        plan.push(at(500 + rng.below(2000) as u64, victims[0], Step::Kill));
    }
    if rng.chance(1, 3) {
        plan.push(at(500 + rng.below(2000) as u64, victims[0], Step::KillAll));
    }
    plan
}

/// Draws a fault of one member.
fn disturb(rng: &mut Rng, scene: &Scene<'_>, id: u32, ms: u64) -> Vec<Planned> {
    let failure_ms = scene.setup.failure_ms;
    let short = 50 + rng.below(failure_ms as usize * 3 / 4) as u64;
    let long = 2 * failure_ms + rng.below(3 * failure_ms as usize) as u64;
    let again = ms + 200 + rng.below(2 * failure_ms as usize) as u64;
    let (mute, deaf) = [(true, true), (true, false), (false, true)][rng.below(3)];
    let isolate = |ms| Step::Isolate { mute, deaf, ms };
    let disk_ms = 200 + rng.below(2 * failure_ms as usize) as u64;
    match rng.below(13) {
        0 | 1 => vec![at(ms, id, Step::Kill)],
        2 => vec![at(ms, id, Step::Pause(short))],
        3 => vec![at(ms, id, Step::Pause(long))],
        4 => vec![at(ms, id, Step::Leave)],
        5 if scene.can_cut => vec![at(ms, id, isolate(short))],
        6 if scene.can_cut => vec![at(ms, id, isolate(long))],
        // No other member knows the last deliveries and the last messages of this member.
        7 if scene.can_cut => vec![at(ms, id, isolate(short + 50)), at(ms + short, id, Step::Kill)],
        8 => vec![at(ms, id, Step::Kill), at(again, id, Step::Kill)],
        9 => vec![at(ms, id, Step::Leave), at(ms + short % 30, id, Step::Kill)],
        10 => vec![at(ms, id, Step::Clock([-3_600_000, -5000, 0, 5000, 3_600_000][rng.below(5)]))],
        11 if scene.setup.has_log => {
            let step = [Step::DiskSync(disk_ms), Step::DiskWrite(disk_ms), Step::DiskFull(disk_ms)][rng.below(3)];
            vec![at(ms, id, step)]
        }
        12 if scene.setup.has_log => vec![at(ms, id, Step::Checkpoint)],
        _ => vec![at(ms, id, Step::Kill), at(again, id, Step::Pause(failure_ms * 3 / 2))],
    }
}

/// Draws a fault at a moment at which the group is busy with another change.
fn aimed(rng: &mut Rng, scene: &Scene<'_>, victims: &[u32]) -> Vec<Planned> {
    let mut plan = vec![at(0, victims[0], if rng.chance(1, 4) { Step::Leave } else { Step::Kill })];
    let event = [Event::View, Event::Started, Event::Restoring, Event::Restored][rng.below(4)];
    let short = 50 + rng.below(scene.setup.failure_ms as usize / 2) as u64;
    let delay_ms = if rng.chance(1, 2) { 0 } else { rng.below(60) as u64 };
    let spare_one = victims.len() >= 5;
    let target = match rng.below(3) {
        _ if event == Event::Started => Target::Subject,
        0 if event != Event::View => Target::Subject,
        1 => Target::Source,
        _ => Target::Leader,
    };
    let may_go = spare_one || target == Target::Subject;
    let step = match rng.below(4) {
        0 | 1 if may_go => Step::Kill,
        2 if may_go && scene.can_cut => Step::Isolate { mute: true, deaf: rng.chance(1, 2), ms: short * 4 },
        3 if scene.can_cut => Step::Isolate { mute: rng.chance(1, 2), deaf: true, ms: short },
        _ => Step::Pause(short),
    };
    plan.push(Planned { when: When::On(event, delay_ms), target, step });
    plan
}

/// Plans the join of one more member, sometimes with a fault at the same time.
fn join(rng: &mut Rng, scene: &Scene<'_>, victims: &[u32]) -> Vec<Planned> {
    let mut plan = vec![at(0, scene.spare.unwrap_or(0), Step::Join)];
    if rng.chance(1, 2) {
        let later = rng.below(400) as u64;
        plan.extend(disturb(rng, scene, victims[0], later));
    }
    plan
}

/// Draws a fault of one founder while the founders meet, or none.
pub(crate) fn founding(rng: &mut Rng, scene: &Scene<'_>) -> Vec<Planned> {
    if rng.chance(1, 2) {
        return Vec::new();
    }
    let id = scene.present[rng.below(scene.present.len())];
    let ms = rng.below(600) as u64;
    let long = 100 + rng.below(3000) as u64;
    let step = match rng.below(4) {
        0 => Step::Kill,
        1 if scene.can_cut => Step::Isolate { mute: rng.chance(1, 2), deaf: true, ms: long },
        2 if scene.can_cut => Step::OneWay(1 + id % scene.setup.founders, long),
        _ => Step::Pause(long),
    };
    vec![at(ms, id, step)]
}
