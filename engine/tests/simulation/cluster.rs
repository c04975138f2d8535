//! One run: a cluster drawn from the seed, its workload, its faults, and the checks around them.

use super::clocks::HostClocks;
use super::fabric::{Crash, Net};
use super::media::SimJournal;
use super::oracle::{Oracle, Sent, content};
use super::outages::Outages;
use super::rng::Rng;
use crate::error::Error;
use crate::fabric::{Connection, Row, SLOTS, Slot, TableSpec};
use crate::log::{Release, deferred};
use crate::membership::{self, Fault, Member, Peer, Settings, View};
use crate::multicast::{self, Claim, Delivery, Durability, Multicast, Origin, Refusal, SendRing, Sink, Stats, column};
use crate::node::{Node, Phase};
use crate::types::{Copies, EVERYBODY, MemberId, Mode, SubgroupId, Version};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Makes a struct of counters.
macro_rules! counters {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $type {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl $type {
            pub(crate) fn add(&mut self, other: &$type) {
                $(self.$name += other.$name;)*
            }

            /// The names of the counters that are zero.
            pub(crate) fn zeros(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name),)*];
                all.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
            }
        }
    };
}

counters! {
    /// Counts of the events in a run; two runs of one seed have the same counts.
    Report {
        deliveries,
        nulls,
        wraps,
        backpressure,
        fifo_overtakes,
        flushes,
        views,
        kills,
        cuts,
        stalls,
        pauses,
        suspicions,
        joins,
        leaves,
        removed,
        partitioned,
        fetches,
        writes,
        blackouts,
        restarts,
        revivals,
        durable,
        disk_failures,
        relinks,
        /// How often the error of a wrong clock changed.
        leaps,
        /// Links that broke between two processes in a restart, and were made again.
        links_again,
        /// Members that learned from a peer that the others had gone on without them.
        told_gone_on,
        /// How often new memory was lost, and the link with it.
        lost_memories,
    }
}

/// A flush that a member asked for.
struct Asked {
    view: u64,
    member: usize,
    subgroup: usize,
    k: usize,
    ticket: u32,
    target: Option<Vec<u64>>,
    done: bool,
}

/// What a process sends in one subgroup.
struct Sending {
    ring: Arc<SendRing>,
    /// Messages still to send: length and mode.
    todo: Vec<(usize, Mode)>,
    /// Claims that are not committed yet, each with the message's place in the sender's order. The place is `None` if
    /// the claim will be dropped.
    open: Vec<(Claim, Option<usize>)>,
}

pub(super) struct Actor {
    pub(super) node: Node,
    pub(super) peer: Peer,
    pub(super) process: usize,
    /// By subgroup.
    sends: Vec<Sending>,
    pub(super) paused: usize,
    dead: bool,
    /// The driver would not sleep: the last pass made progress, or the driver was called since.
    pub(super) awake: bool,
    /// A flush was asked for since the last pass.
    asked: bool,
    /// The member leaves as soon as it runs.
    leaves: bool,
    /// A fault may cost the member its place.
    doubtful: bool,
    /// The member's disk, in a group with a log.
    journal: Option<SimJournal>,
    /// For a joiner in such a group: `release` lets its journal proceed, and `first` is the beginning of its first
    /// view.
    release: Option<Release>,
    first: Option<Version>,
}

/// A link that its other end has made: the receiver, the sender, and the view since which the sender has its place.
pub(super) struct Arrival {
    pub(super) at: usize,
    pub(super) from: usize,
    pub(super) since: u64,
    pub(super) connection: Connection,
}

impl Actor {
    fn runs(&self) -> bool {
        !self.dead && matches!(self.node.phase(), Phase::Running)
    }

    pub(super) fn ended(&self) -> bool {
        self.dead || matches!(self.node.phase(), Phase::Left | Phase::Stopped(_))
    }
}

/// The frequency of each event per thousand steps, and the conditions that the run must meet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan {
    kill: usize,
    cut: usize,
    /// All links break at once.
    storm: usize,
    stall: usize,
    /// One process stands still for longer than the failure timeout.
    pause: usize,
    suspect: usize,
    join: usize,
    leave: usize,
    /// Several members believe that they lead while an epoch ends, over links with very different delays.
    duel: usize,
    /// The limit for the number of faults.
    most: usize,
    /// No fault may cost the majority, so the group must survive.
    careful: bool,
    /// Broken links can be made again after a while, and stalled ones recover in the end.
    pub(super) heals: bool,
    /// Of two members only the link fails, for less than the partition timeout. Both must go on, or leave.
    outages: bool,
    all_leave: bool,
    /// All processes die at once; the disks keep their state.
    blackout: usize,
    /// A disk fails.
    disk: usize,
}

/// The simulated cluster; see the module.
pub(crate) struct Cluster {
    pub(super) rng: Rng,
    pub(super) net: Net,
    /// The membership's table and those of the subgroups.
    specs: Vec<TableSpec>,
    pub(super) actors: Vec<Actor>,
    /// By subgroup.
    oracles: Vec<Oracle>,
    pub(super) plan: Plan,
    pub(super) settings: Settings,
    asked: Vec<Asked>,
    /// Links that one end has made and the other does not know yet.
    pub(super) arrivals: Vec<Arrival>,
    stalled: Vec<(usize, usize)>,
    pub(super) outages: Outages,
    /// A member that stood still or was cut off may come back in time, and its accuser may lose its place instead. At
    /// most this many members may be lost in this way, whichever they are.
    pub(super) excuses: usize,
    /// Every counter seen so far, to check that none goes back.
    counters: HashMap<usize, (Arc<Row>, Vec<u64>)>,
    pub(super) report: Report,
    pub(super) now_ms: u64,
    /// One reservation in `keep` is dropped.
    keep: usize,
    ring_bytes: usize,
    max_message: usize,
    shared: bool,
    /// The limit for the number of leaders that are accused after they proposed.
    duels: usize,
    trace: bool,
    /// `disks`: the disks by member, in a group with a log. `durability`: how many votes make a message durable.
    disks: HashMap<u32, SimJournal>,
    durability: Option<Durability>,
    founders: usize,
    /// A disk makes progress at one step in `slowness`.
    slowness: usize,
    /// The disks hold the real log instead of its model.
    real: bool,
    /// No process runs: processes are being restarted.
    dark: bool,
    /// Closed times, each with the last record up to it at that moment.
    pasts: Vec<(u64, Option<Version>)>,
    clocks: HostClocks,
}

/// What is special in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One subgroup, without a log.
    Plain,
    /// One subgroup, with a log.
    Logs,
    /// Several subgroups, without logs.
    Subgroups,
}

/// The index of a subgroup's table among the tables of a process.
fn table_of(subgroup: usize) -> usize {
    1 + subgroup
}

/// Ends its passes early now and then, as a time limit does.
struct Hasty<F> {
    told: F,
    passed: u64,
}

impl<F: FnMut(&Delivery<'_>)> Sink for Hasty<F> {
    fn deliver(&mut self, delivery: Delivery<'_>) -> bool {
        (self.told)(&delivery);
        !self.is_over()
    }

    fn is_over(&mut self) -> bool {
        self.passed += 1;
        self.passed.is_multiple_of(11)
    }
}

impl Cluster {
    pub(crate) fn new(seed: u64, kind: Kind) -> Cluster {
        let mut rng = Rng::new(seed);
        let logs = kind == Kind::Logs;
        let subgroups = if kind == Kind::Subgroups { 2 + rng.below(3) } else { 1 };
        let n = [1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 7, 9][rng.below(14)];
        let ring_bytes = 512 << rng.below(5);
        let max_message = match rng.below(3) {
            0 => ring_bytes / 2 - 8 - 8 * usize::from(logs),
            1 => ring_bytes / 4,
            _ => ring_bytes / 16,
        };
        let origin = if rng.chance(1, 2) { near_the_wrap(&mut rng) } else { Origin::default() };
        let rings = (0..subgroups).map(|subgroup| multicast::table_spec(SubgroupId(subgroup as u16), ring_bytes));
        let specs: Vec<TableSpec> = [membership::table_spec()].into_iter().chain(rings).collect();
        let shared = rng.chance(1, 5);
        let failure_timeout_ms = [600, 1500, 4000][rng.below(3)];
        let settings = settings(failure_timeout_ms, logs, subgroups, seed);
        let mut plan = plan(&mut rng, n, shared);
        let durability = logs.then(|| Durability { k: if rng.chance(1, 4) { 1 + rng.below(n) } else { 0 } });
        if logs {
            trouble(&mut rng, &mut plan);
        }
        let keep = [2, 12, 40][rng.below(3)];
        let net = Net::new(&specs, shared, rng.next());
        let mut cluster = Cluster {
            rng,
            net,
            specs,
            actors: Vec::new(),
            oracles: (0..subgroups).map(Oracle::new).collect(),
            plan,
            settings,
            asked: Vec::new(),
            arrivals: Vec::new(),
            stalled: Vec::new(),
            outages: Outages::default(),
            excuses: 0,
            counters: HashMap::new(),
            report: Report::default(),
            now_ms: 0,
            keep,
            ring_bytes,
            max_message,
            shared,
            duels: 3,
            trace: std::env::var("GALERNA_TRACE").is_ok(),
            disks: HashMap::new(),
            durability,
            founders: n,
            slowness: 3,
            real: false,
            dark: false,
            pasts: Vec::new(),
            clocks: HostClocks::new(seed, n),
        };
        if logs {
            cluster.slowness = [3, 30, 200][cluster.rng.below(3)];
            cluster.real = cluster.rng.chance(1, 8);
        }
        cluster.oracles[0].durable_is_all = durability.is_none_or(|durability| durability.k == 0);
        cluster.found(n, origin);
        if cluster.trace {
            println!("{n} members, shared {shared}, rings of {ring_bytes}, {plan:?}, timeout {failure_timeout_ms}");
        }
        cluster
    }

    /// Makes the founders, linked with each other.
    fn found(&mut self, n: usize, origin: Origin) {
        let step = 1 + 2 * self.rng.below(4);
        let founders: Vec<Peer> =
            (0..n).map(|i| self.add((i * step + 3) % SLOTS, i as u32 + 1, origin, Start::Founds)).collect();
        for a in 0..n {
            for b in (0..n).filter(|&b| b != a) {
                let connection = Connection::Simulated(self.actors[b].process);
                self.actors[a].node.attach(founders[b], 0, connection).unwrap();
            }
        }
        for actor in &mut self.actors {
            actor.node.found(&founders, origin);
        }
    }

    /// Adds a process.
    fn add(&mut self, slot: Slot, id: u32, origin: Origin, start: Start) -> Peer {
        let (process, fabric, rows) = self.net.process(slot);
        let peer = Peer { slot, id: MemberId(id), incarnation: self.actors.len() as u64 + 1 };
        let subgroup = |subgroup: usize| {
            let (id, table) = (SubgroupId(subgroup as u16), table_of(subgroup));
            let (spec, row) = (self.specs[table], rows[table].clone());
            Multicast::new(id, spec, slot, row, self.max_message, self.durability, origin)
        };
        let subgroups: Vec<Multicast> = (0..self.settings.subgroups).map(subgroup).collect();
        let rings: Vec<Arc<SendRing>> = subgroups.iter().map(|multicast| multicast.ring().clone()).collect();
        // A member may have shorter timeouts; the largest of a view is in force.
        let part = [1, 1, 1, 2, 3][self.rng.below(5)];
        let settings = Settings {
            seed: self.rng.next(),
            failure_timeout_ms: self.settings.failure_timeout_ms / part,
            partition_timeout_ms: self.settings.partition_timeout_ms / part,
            ..self.settings
        };
        let mut node = Node::new(peer, Box::new(fabric), rows[0].clone(), subgroups, settings, self.now_ms);
        let (mut journal, mut release) = (None, None);
        if self.durability.is_some() {
            let (real, seed) = (self.real, u64::from(id) << 32 | self.actors.len() as u64);
            let new = || if real { SimJournal::real(seed) } else { SimJournal::default() };
            let disk = self.disks.entry(id).or_insert_with(new).clone();
            disk.media().crash(&mut self.rng);
            disk.media().open();
            node = match start {
                Start::Joins => {
                    let (held, lets_go) = deferred();
                    release = Some(lets_go);
                    node.with_journal(Box::new(held))
                }
                _ => node.with_journal(Box::new(disk.clone())),
            };
            journal = Some(disk);
            node.set_wall_clock(self.clocks.read_ns(id, self.now_ms));
        }
        self.oracles.iter_mut().for_each(|oracle| oracle.add(start == Start::Founds));
        let (logs, max_message) = (self.durability.is_some(), self.max_message);
        let send = |ring| Sending { ring, todo: workload(&mut self.rng, max_message, logs), open: Vec::new() };
        let sends = rings.into_iter().map(send).collect();
        self.actors.push(Actor {
            node,
            peer,
            process,
            sends,
            paused: 0,
            dead: false,
            awake: true,
            asked: false,
            leaves: false,
            doubtful: false,
            journal,
            release,
            first: None,
        });
        peer
    }

    pub(crate) fn run(mut self) -> Report {
        if self.plan.careful || self.plan.outages || self.rng.chance(9, 10) {
            self.meet();
        }
        let steps = 200 + self.rng.below(3000);
        for _ in 0..steps {
            self.step();
        }
        self.settle();
        self.check_end();
        self.report
    }

    /// Polls until all founders have installed the first view.
    fn meet(&mut self) {
        let mut rounds = 0;
        while self.actors.iter().any(|actor| matches!(actor.node.phase(), Phase::Founding)) {
            rounds += 1;
            assert!(rounds < 1000, "the founders do not meet: {}", self.describe());
            self.net.world().drain();
            for who in 0..self.actors.len() {
                self.poll(who);
                self.finish_disk(who);
            }
        }
    }

    fn step(&mut self) {
        self.now_ms += u64::from(self.rng.chance(1, 3));
        let who = self.rng.below(self.actors.len());
        self.fault(who);
        if self.durability.is_some() {
            self.step_disks();
        }
        if self.plan.duel > 0 && self.rng.chance(1, self.plan.duel) {
            self.duel(who);
        }
        if self.rng.chance(1, 12) && !self.dial(who) {
            self.connect();
        }
        match self.rng.below(100) {
            0..=43 => {
                if self.actors[who].paused > 0 {
                    self.actors[who].paused -= 1;
                } else {
                    self.poll_if_awake(who);
                }
            }
            // The network keeps up with the heartbeats of all pairs.
            44..=79 => {
                for _ in 0..1 + self.actors.len() * self.actors.len() / 8 {
                    self.net.world().step();
                }
            }
            80..=92 => {
                let subgroup = self.some_subgroup();
                self.send(who, subgroup);
            }
            93..=95 => self.close_claims(who),
            96 => self.actors[who].paused += self.rng.below(5),
            97 => {
                let subgroup = self.some_subgroup();
                self.ask_flush(who, subgroup);
            }
            98 => self.arrive(),
            _ => self.check_counters(),
        }
    }

    fn some_subgroup(&mut self) -> usize {
        match self.settings.subgroups {
            // Such a run draws nothing more.
            1 => 0,
            subgroups => self.rng.below(subgroups),
        }
    }

    /// Whether the group surely survives if `lost` are lost, too.
    fn can_lose(&self, lost: &[usize]) -> bool {
        if !self.plan.careful {
            return true;
        }
        if self.actors.iter().any(|actor| matches!(actor.node.phase(), Phase::Founding)) {
            return false;
        }
        let sure = |incarnation: u64| {
            let actor = incarnation as usize - 1;
            let it = &self.actors[actor];
            !it.dead && !it.doubtful && !it.leaves && !lost.contains(&actor)
        };
        // Some members may still be in an earlier view.
        let views = self.actors.iter().filter(|actor| !actor.ended()).filter_map(|actor| actor.node.view());
        views.into_iter().all(|view| {
            let voters = view.members.iter().filter(|member| member.voter && sure(member.peer.incarnation)).count();
            2 * voters > view.members.len()
        })
    }

    fn fault(&mut self, who: usize) {
        let plan = self.plan;
        let drawn = self.rng.below(1000);
        if plan.most == 0 || self.actors[who].ended() {
            return;
        }
        let other = self.rng.below(self.actors.len());
        let mut edge = 0;
        let mut is = |chance: usize| {
            edge += chance;
            drawn < edge && drawn + chance >= edge
        };
        let done = if is(plan.kill) {
            self.can_lose(&[who]) && self.kill(who)
        } else if is(plan.cut) {
            self.can_lose(&[who, other]) && self.cut(who, other)
        } else if is(plan.storm) {
            !self.plan.careful && self.storm()
        } else if is(plan.stall) {
            self.can_lose(&[who, other]) && self.stall(who, other)
        } else if is(plan.pause) {
            self.can_lose(&[who]) && self.pause(who)
        } else if is(plan.suspect) {
            self.can_lose(&[who, other]) && self.suspect(who, other)
        } else if is(plan.join) {
            self.join()
        } else if is(plan.leave) {
            self.can_lose(&[who]) && self.start_leave(who)
        } else if is(plan.disk) {
            self.can_lose(&[who]) && self.fail_disk(who)
        } else if is(plan.blackout) {
            self.black_out()
        } else {
            false
        };
        self.plan.most -= usize::from(done);
    }

    /// While an epoch ends, some members accuse the member that leads it in their view. The accusations spread at
    /// different speeds.
    fn duel(&mut self, who: usize) {
        for _ in 0..3 {
            let (from, to) = (self.rng.below(self.actors.len()), self.rng.below(self.actors.len()));
            let slow = self.rng.chance(1, 2);
            self.net.world().slow(self.actors[from].process, self.actors[to].process, slow);
        }
        // A member that shows a proposal (`PROPOSED` in the membership's row) has a value that others may be about to
        // accept.
        let proposed = self.net.world().row(0, self.actors[who].process).word(96).load(Ordering::Acquire) > 0;
        if !proposed || !self.actors[who].runs() || self.duels == 0 {
            return;
        }
        let Some(view) = self.actors[who].node.view().map(|view| view.number) else { return };
        // A single accuser may be removed instead.
        let mut accused = 0;
        for _ in 0..6 {
            let by = self.rng.below(self.actors.len());
            let same = self.actors[by].node.view().is_some_and(|of| of.number == view);
            accused += usize::from(accused < 2 && same && self.suspect(by, who));
        }
        self.duels -= usize::from(accused > 0);
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{}: {}", self.now_ms, what());
        }
    }

    fn kill(&mut self, who: usize) -> bool {
        // A member that becomes a voter before it dies would be one loss more than the group can tolerate.
        let peer = self.actors[who].peer;
        let votes = |view: &View| view.members.iter().any(|member| member.peer == peer && member.voter);
        let counted = !self.plan.careful || self.actors[who].node.view().is_some_and(votes);
        if counted && self.rng.chance(1, 2) {
            // It dies between two writes of its next passes.
            let most = [2, 8, 40][self.rng.below(3)];
            let writes = self.rng.below(most);
            self.say(|| format!("kill {who} in {writes} writes"));
            self.doubt(&[who]);
            self.net.world().light_fuse(self.actors[who].process, writes);
            return true;
        }
        self.say(|| format!("kill {who}"));
        self.bury(who);
        true
    }

    fn bury(&mut self, who: usize) {
        self.actors[who].dead = true;
        if let Some(journal) = &self.actors[who].journal {
            journal.media().crash(&mut self.rng);
        }
        self.net.world().kill(self.actors[who].process);
        self.report.kills += 1;
    }

    fn cut(&mut self, a: usize, b: usize) -> bool {
        if a == b || self.actors[b].dead {
            return false;
        }
        self.say(|| format!("cut {a} {b}"));
        self.doubt(&[a, b]);
        let until_ms = self.outage_ends_ms();
        self.break_link(a, b, until_ms);
        true
    }

    pub(super) fn doubt(&mut self, actors: &[usize]) {
        actors.iter().for_each(|&actor| self.actors[actor].doubtful = true);
    }

    /// Stalls the link from one process to another, both directions of it, or all links of one process, for a while.
    fn stall(&mut self, a: usize, b: usize) -> bool {
        if self.shared || a == b {
            return false;
        }
        if let Some(at) =
            (!self.stalled.is_empty() && self.rng.chance(1, 2)).then(|| self.rng.below(self.stalled.len()))
        {
            let (from, to) = self.stalled.swap_remove(at);
            self.net.world().stall(from, to, false);
            return false;
        }
        self.say(|| format!("stall {a} {b}"));
        self.doubt(&[a, b]);
        let (from, to) = (self.actors[a].process, self.actors[b].process);
        let mut pairs = vec![(from, to)];
        match self.rng.below(3) {
            0 => {}
            1 => pairs.push((to, from)),
            // One process against all others.
            _ => pairs.extend((0..self.actors.len()).flat_map(|p| [(from, p), (p, from)]).filter(|(x, y)| x != y)),
        }
        for pair in pairs {
            self.net.world().stall(pair.0, pair.1, true);
            self.stalled.push(pair);
        }
        self.report.stalls += 1;
        self.excuses += self.actors.len();
        true
    }

    fn pause(&mut self, who: usize) -> bool {
        self.say(|| format!("pause {who}"));
        self.doubt(&[who]);
        // A process has its turn once in so many steps.
        let steps = 3 * self.settings.failure_timeout_ms as usize * (1 + self.rng.below(4));
        self.actors[who].paused = steps / 2 / self.actors.len();
        self.report.pauses += 1;
        self.excuses += 1;
        true
    }

    fn suspect(&mut self, who: usize, whom: usize) -> bool {
        let slot = self.actors[whom].peer.slot;
        let in_view = self.actors[who].node.view().is_some_and(|view| view.rank_of(slot).is_some());
        if who == whom || !in_view || !self.actors[who].runs() {
            return false;
        }
        self.say(|| format!("{who} suspects {whom}"));
        self.doubt(&[who, whom]);
        self.actors[who].node.suspect(slot);
        self.actors[who].awake = true;
        self.report.suspicions += 1;
        true
    }

    /// A process asks the leader for a place, and begins to link itself with all members.
    fn join(&mut self) -> bool {
        if self.actors.len() >= 14 {
            return false;
        }
        let id = if self.rng.chance(1, 3) {
            // A member that died comes back.
            self.actors[self.rng.below(self.actors.len())].peer.id
        } else {
            MemberId(self.actors.len() as u32 + 1)
        };
        self.join_as(id)
    }

    fn join_as(&mut self, id: MemberId) -> bool {
        // The log's directory is locked while a process of that member is alive.
        if self.durability.is_some() && self.actors.iter().any(|a| !a.ended() && a.peer.id == id) {
            return false;
        }
        let incarnation = self.actors.len() as u64 + 1;
        let alive = (0..self.actors.len()).filter(|&a| self.actors[a].runs());
        let asked: Vec<usize> = alive.collect();
        let Some(admission) = asked.iter().find_map(|&actor| self.actors[actor].node.admit(id, incarnation).ok())
        else {
            return false;
        };
        self.say(|| format!("process {} joins: {admission:?}", incarnation - 1));
        let joiner = self.actors.len();
        self.add(admission.peer.slot, id.0, Origin::default(), Start::Joins);
        for other in admission.others {
            let actor = other.incarnation as usize - 1;
            let connection = Connection::Simulated(self.actors[actor].process);
            self.actors[joiner].node.attach(other, admission.since, connection).unwrap();
            let connection = Connection::Simulated(self.actors[joiner].process);
            self.arrivals.push(Arrival { at: actor, from: joiner, since: admission.since, connection });
        }
        self.report.joins += 1;
        true
    }

    /// A link that one end has made reaches the other.
    fn arrive(&mut self) {
        if !self.arrivals.is_empty() {
            let arrival = self.arrivals.swap_remove(self.rng.below(self.arrivals.len()));
            let Arrival { at, from, since, connection } = arrival;
            let peer = self.actors[from].peer;
            if !self.actors[at].ended() && !self.actors[from].dead {
                // The link may be refused, because another process has the slot by now.
                let number = if let Connection::SimulatedAgain(_, number) = connection { Some(number) } else { None };
                let refused = self.actors[at].node.attach(peer, since, connection).is_err();
                if let Some(number) = number.filter(|_| refused) {
                    // The end that made the link finds it broken.
                    self.net.world().refuse(self.actors[at].process, self.actors[from].process, number);
                }
                self.actors[at].awake = true;
            }
        }
    }

    fn start_leave(&mut self, member: usize) -> bool {
        if !self.actors[member].runs() {
            return false;
        }
        self.say(|| format!("{member} leaves"));
        // Messages that are not accepted by now are never sent.
        self.actors[member].sends.iter_mut().for_each(|send| send.todo.clear());
        self.close_claims(member);
        self.actors[member].leaves = true;
        self.actors[member].awake = true;
        self.report.leaves += 1;
        true
    }

    /// Polls as a driver does that sleeps when a pass makes no progress.
    fn poll_if_awake(&mut self, who: usize) -> bool {
        let actor = &self.actors[who];
        // A closing member is woken when its last write has gone out; the simulated fabric does not report that.
        let closing = matches!(actor.node.phase(), Phase::Closing);
        let due = self.now_ms >= actor.node.next_pass_ms();
        (closing || due || actor.awake || self.net.world().wakes(actor.process)) && self.poll(who)
    }

    fn poll(&mut self, who: usize) -> bool {
        if self.actors[who].ended() {
            return false;
        }
        if self.actors[who].leaves {
            self.actors[who].node.leave();
        }
        self.get_ready(who);
        if self.durability.is_some() {
            self.fetch_log(who);
        }
        let oracles = &mut self.oracles;
        let members = self.actors[who].node.view().map(|view| view.members.clone()).unwrap_or_default();
        self.net.world().burn(self.actors[who].process, true);
        let (actor, now_ms) = (&mut self.actors[who], self.now_ms);
        let node = &mut actor.node;
        node.set_wall_clock(self.clocks.read_ns(actor.peer.id.0, now_ms));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let told = |delivery: &Delivery<'_>| {
                let sender = members.iter().find(|member| member.peer.id == delivery.sender).unwrap();
                let oracle = &mut oracles[usize::from(delivery.subgroup.0)];
                oracle.deliver(who, sender.peer.incarnation as usize - 1, delivery);
            };
            node.poll(now_ms, &mut Hasty { told, passed: now_ms })
        }));
        self.net.world().burn(self.actors[who].process, false);
        let lost = std::mem::take(&mut self.net.world().lost_memory);
        for (a, b) in lost {
            let of = |process| self.actors.iter().position(|actor| actor.process == process);
            let both: Vec<usize> = [a, b].into_iter().filter_map(of).collect();
            self.say(|| format!("cut {both:?}: memory was lost"));
            self.doubt(&both);
            self.report.lost_memories += 1;
        }
        let moved = match polled {
            Ok(moved) => moved,
            Err(panic) if panic.is::<Crash>() => {
                self.say(|| format!("{who} dies in its pass"));
                self.bury(who);
                return true;
            }
            Err(panic) => resume_unwind(panic),
        };
        for Fault { member, what, .. } in self.actors[who].node.take_faults() {
            self.say(|| format!("{who} has it against {member} that {what}"));
        }
        self.note_changes(who);
        // On shared memory the others do not wait until the leaver has read everything.
        if matches!(self.actors[who].node.phase(), Phase::Parting) && moved && !self.shared {
            let view = self.actors[who].node.view().unwrap().number;
            self.oracles.iter_mut().for_each(|oracle| oracle.end_view(who, view));
        }
        if let Phase::Stopped(error) = self.actors[who].node.phase() {
            self.say(|| format!("{who} stops: {error}"));
        }
        let asked = std::mem::take(&mut self.actors[who].asked);
        if moved || asked {
            self.check_flushes(who);
        }
        self.actors[who].awake = moved || asked;
        moved
    }

    fn note_changes(&mut self, who: usize) {
        for change in self.actors[who].node.take_changes() {
            if self.trace {
                println!(
                    "{}: {who} installs {} {:?}, {:?}",
                    self.now_ms,
                    change.view.number,
                    change.view.ids(),
                    change.view.shards.iter().map(|shard| shard.order).collect::<Vec<_>>()
                );
            }
            self.note_install(who, &change);
            self.oracles.iter_mut().for_each(|oracle| oracle.install(who, &change));
        }
    }

    /// A learner has its state after a while.
    fn get_ready(&mut self, who: usize) {
        let peer = self.actors[who].peer;
        let view = self.actors[who].node.view();
        let learner = view.is_some_and(|view| view.members.iter().any(|m| m.peer == peer && !m.voter));
        if learner && !self.actors[who].ended() && !self.has_taken_over(who) {
            return;
        }
        if learner && !self.actors[who].ended() && (self.plan.most == 0 || self.rng.chance(1, 20)) {
            self.actors[who].node.ready();
            self.actors[who].awake = true;
        }
    }

    /// The application sends a few messages: it claims space, and commits most claims at once.
    fn send(&mut self, who: usize, subgroup: usize) {
        for _ in 0..1 + self.rng.below(4) {
            let actor = &mut self.actors[who];
            if actor.dead || actor.leaves || !matches!(actor.node.phase(), Phase::Founding | Phase::Running) {
                return;
            }
            let (send, oracle) = (&mut actor.sends[subgroup], &mut self.oracles[subgroup]);
            let Some(&(len, mode)) = send.todo.last() else { return };
            let claim = match send.ring.claim(len) {
                Ok(claim) => claim,
                Err(Refusal::Full(first)) => {
                    actor.awake |= first;
                    self.report.backpressure += 1;
                    return;
                }
                Err(Refusal::TooLarge(limit)) => panic!("{len} bytes refused with a limit of {limit}"),
            };
            if self.rng.chance(1, self.keep) {
                send.open.push((claim, None));
            } else {
                let number = oracle.sent[who].len();
                let ticket = send.ring.ticket(claim);
                let after = oracle.last_of(who);
                oracle.sent[who].push(Sent { len, mode, ticket, after, committed: false });
                send.todo.pop();
                send.open.push((claim, Some(number)));
            }
            if !self.rng.chance(1, 8) {
                self.close_claims(who);
            }
        }
    }

    /// Fills and commits, or drops, every open claim, in any order.
    fn close_claims(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        if actor.dead {
            return;
        }
        let sends = actor.sends.iter_mut().zip(&mut self.oracles).enumerate();
        for (subgroup, (Sending { ring, open, .. }, oracle)) in sends {
            actor.awake |= !open.is_empty();
            self.rng.shuffle(open);
            for (mut claim, number) in open.drain(..) {
                let Some(number) = number else {
                    assert!(ring.abandon_if_open(claim));
                    assert!(!ring.abandon_if_open(claim), "a second time");
                    continue;
                };
                let sent = &mut oracle.sent[who][number];
                for (i, byte) in ring.bytes_mut(&mut claim).iter_mut().enumerate() {
                    *byte = content(subgroup, who, number, i);
                }
                sent.committed = true;
                ring.commit(claim, sent.mode);
            }
        }
    }

    fn ask_flush(&mut self, member: usize, subgroup: usize) {
        let Some(view) = self.actors[member].node.view() else { return };
        let (view, members) = (view.number, view.members.len());
        let ticket = self.actors[member].sends[subgroup].ring.next_ticket();
        let k = self.rng.below(members + 2);
        self.actors[member].awake = true;
        self.actors[member].asked = true;
        self.asked.push(Asked { view, member, subgroup, k, ticket, target: None, done: false });
    }

    /// Checks each finished flush: enough members must have received everything that it covers. Messages of an ended
    /// view count as received.
    fn check_flushes(&mut self, who: usize) {
        let Some(view) = self.actors[who].node.view() else { return };
        let slots: Vec<(usize, Slot)> =
            view.members.iter().map(|m| (self.actors[m.peer.incarnation as usize - 1].process, m.peer.slot)).collect();
        let node = &self.actors[who].node;
        let world = self.net.world();
        for asked in self.asked.iter_mut().filter(|a| a.member == who && !a.done) {
            if asked.view != view.number {
                if asked.target.take().is_some() {
                    asked.done = true;
                    continue;
                }
                asked.view = view.number;
            }
            let multicast = node.subgroup(SubgroupId(asked.subgroup as u16));
            if asked.target.is_none() {
                asked.target = multicast.flush_target(asked.ticket);
            }
            let Some(target) = &asked.target else { continue };
            if multicast.received_by(copies(asked.k), target) {
                asked.done = true;
                self.report.flushes += 1;
                let load = |process, slot| {
                    let row = world.row(table_of(asked.subgroup), process);
                    row.word(column::received(slot).0).load(Ordering::Acquire)
                };
                // Below the view's first index everything counts as received.
                let base = view.shards[asked.subgroup].order.base;
                let has = |process: usize| {
                    slots.iter().zip(target).all(|((_, slot), &want)| want == base || load(process, *slot) >= want)
                };
                let have = slots.iter().filter(|(process, _)| has(*process)).count();
                let need = if asked.k == 0 { slots.len() } else { asked.k.min(slots.len()) };
                assert!(have >= need, "flush({}) done, but {have} members have {target:?}", asked.k);
            }
        }
    }

    /// Checks that no counter goes back, in any copy.
    fn check_counters(&mut self) {
        let columns = column::received(SLOTS).0;
        let world = self.net.world();
        for row in (0..self.settings.subgroups).flat_map(|subgroup| world.copies(table_of(subgroup))) {
            let after: Vec<u64> = (0..columns).step_by(8).map(|o| row.word(o).load(Ordering::Acquire)).collect();
            let key = Arc::<Row>::as_ptr(row) as usize;
            if let Some((_, before)) = self.counters.get(&key)
                && before[0] != 0
            {
                let grown = |shift: u32| i64::from((after[0] >> shift) as u32) - i64::from((before[0] >> shift) as u32);
                let forward = |d: i64| d.rem_euclid(1 << 32) < 1 << 31;
                assert!(forward(grown(0)) && forward(grown(32)), "`published` went back: {before:x?} {after:x?}");
                let back = before[1..].iter().zip(&after[1..]).any(|(b, a)| a < b);
                assert!(!back, "a counter went back: {before:?} {after:?}");
            }
            // The row is kept, so that no other row gets its address.
            self.counters.insert(key, (row.clone(), after));
        }
    }

    /// The workload and the faults are over: all work must be finished within a bounded time.
    fn settle(&mut self) {
        self.plan.most = 0;
        self.actors.iter_mut().for_each(|a| a.paused = 0);
        if self.plan.heals {
            for (from, to) in std::mem::take(&mut self.stalled) {
                self.net.world().stall(from, to, false);
            }
        }
        let give_up_ms = self.now_ms + 200 * self.settings.partition_timeout_ms;
        // By then a member that cannot reach the others any more has been suspected.
        let quiet_ms = self.now_ms + 4 * self.settings.failure_timeout_ms;
        let (mut leaving, mut rounds, mut revivals) = (false, 0u32, 0);
        loop {
            let mut moved = false;
            while !self.arrivals.is_empty() {
                self.arrive();
            }
            for who in 0..self.actors.len() {
                moved |= self.dial(who) | self.link_again(who);
            }
            while self.connect() {}
            for who in 0..self.actors.len() {
                self.close_claims(who);
                (0..self.settings.subgroups).for_each(|subgroup| self.send(who, subgroup));
                self.close_claims(who);
                self.get_ready(who);
                moved |= self.poll_if_awake(who);
                moved |= self.finish_disk(who);
            }
            moved |= !self.net.world().idle();
            moved |= self.actors.iter().any(|a| !a.ended() && self.net.world().wakes(a.process));
            self.net.world().drain();
            rounds += 1;
            if rounds.is_multiple_of(8) {
                self.check_counters();
            }
            if self.durability.is_some() && self.is_dark() {
                assert!(revivals < 8, "the group does not come back (guarantee 9): {}", self.describe());
                revivals += 1;
                self.revive();
            }
            if moved {
                self.now_ms += 1;
            } else if self.is_settled() && self.now_ms >= quiet_ms {
                if leaving || !self.plan.all_leave {
                    return;
                }
                leaving = true;
                for who in 0..self.actors.len() {
                    self.start_leave(who);
                }
            } else {
                let next = self.actors.iter().filter(|a| !a.ended()).map(|a| a.node.next_pass_ms()).min();
                self.now_ms = next.unwrap_or(u64::MAX).clamp(self.now_ms + 1, self.now_ms + 1000);
            }
            assert!(self.now_ms < give_up_ms, "no end (guarantee 9): {}", self.describe());
        }
    }

    fn subgroups(&self) -> impl Iterator<Item = SubgroupId> + use<> {
        (0..self.settings.subgroups).map(|subgroup| SubgroupId(subgroup as u16))
    }

    fn describe(&self) -> String {
        let show = |(who, a): (usize, &Actor)| {
            let view = a.node.view().map(|view| (view.number, view.ids()));
            let dead = if a.dead { " (dead)" } else { "" };
            let todo: Vec<usize> = a.sends.iter().map(|send| send.todo.len()).collect();
            let stats: Vec<Stats> = self.subgroups().map(|subgroup| a.node.stats(subgroup)).collect();
            format!("\n{who}{dead}: {:?} in {view:?}, {todo:?} to send, {stats:?}", a.node.phase())
        };
        self.actors.iter().enumerate().map(show).collect::<String>() + &format!("\n{:?}", self.plan)
    }

    /// Whether no member has any change or message in progress.
    fn is_settled(&self) -> bool {
        let alive = |incarnation: u64| !self.actors[incarnation as usize - 1].ended();
        self.actors.iter().filter(|a| !a.ended()).all(|a| {
            let Some(view) = a.node.view() else { return false };
            // A member behind a stalled link will be suspected.
            let heard = |incarnation: u64| {
                let other = &self.actors[incarnation as usize - 1];
                !self.net.world().is_stalled(other.process, a.process)
            };
            let all = |m: &Member| alive(m.peer.incarnation) && m.voter && heard(m.peer.incarnation);
            let all = view.members.iter().all(all);
            // Messages wait while new memory of the ring is on its way.
            let published = self.subgroups().all(|subgroup| a.node.subgroup(subgroup).has_published_all());
            let sent = a.sends.iter().all(|send| send.todo.is_empty()) && published;
            a.runs() && !a.node.is_between_views() && all && sent && !a.leaves
        })
    }

    fn check_end(&mut self) {
        let running: Vec<usize> = (0..self.actors.len()).filter(|&a| self.actors[a].runs()).collect();
        self.oracles.iter_mut().for_each(|oracle| oracle.check_last(&running));
        self.check_logs(&running);
        self.oracles.iter().for_each(Oracle::check_uniform);
        let mut unexcused = 0;
        for (who, actor) in self.actors.iter().enumerate() {
            let phase = actor.node.phase();
            match phase {
                _ if actor.dead => {}
                Phase::Running => {}
                Phase::Left => assert!(actor.leaves, "{who} has left unasked"),
                Phase::Stopped(Error::Removed { .. }) => self.report.removed += 1,
                Phase::Stopped(Error::Partitioned { .. } | Error::Missing { .. }) => self.report.partitioned += 1,
                Phase::Stopped(Error::TimedOut { what: "join", .. }) => {}
                // The process is a learner, and all members with the state have left.
                Phase::Stopped(Error::StateTransfer(_)) if !actor.node.is_voter() => {}
                Phase::Stopped(Error::Io { .. }) if self.report.disk_failures > 0 => {}
                _ => panic!("{who} ends as {phase:?}, which no fault explains (guarantee 11){}", self.describe()),
            }
            let fine = actor.dead || actor.doubtful || actor.ended() && !self.plan.careful || actor.runs();
            // If two members accuse each other, either of them may be removed.
            let removed =
                matches!(phase, Phase::Stopped(Error::Removed { .. })) && self.actors.iter().any(|a| a.doubtful);
            // On shared memory the others do not wait for a leaver: it may find them two views further.
            let outrun = self.shared && actor.leaves && matches!(phase, Phase::Stopped(_));
            let fine = fine || removed || outrun || matches!(phase, Phase::Left);
            let late = matches!(phase, Phase::Stopped(Error::TimedOut { .. }));
            unexcused += usize::from(!fine && !late);
            assert!(
                unexcused <= self.excuses,
                "{who} ends as {phase:?}, without a reason (guarantee 9){}",
                self.describe()
            );
        }
        if self.plan.outages {
            // A leaver that cannot reach the other member again may stop as partitioned, since that member has gone on.
            let same = self.actors.iter().all(|a| a.runs() || a.leaves);
            assert!(same, "an outage has cost a member its place (guarantee 9){}", self.describe());
        }
        let views: Vec<&View> = running.iter().filter_map(|&who| self.actors[who].node.view()).collect();
        assert!(views.windows(2).all(|pair| pair[0] == pair[1]), "two groups (guarantee 7){}", self.describe());
        let group_ended = self.actors.iter().all(|a| a.dead || a.leaves || !matches!(a.node.phase(), Phase::Running));
        assert!(
            !self.plan.careful || !running.is_empty() || group_ended && self.actors.iter().any(|a| a.leaves),
            "nobody runs any more (guarantee 9){}",
            self.describe()
        );
        for &at in &running {
            for sender in 0..self.actors.len() {
                let whole = running.contains(&sender) || matches!(self.actors[sender].node.phase(), Phase::Left);
                assert!(
                    !whole || self.oracles.iter().all(|oracle| oracle.has_all_of(at, sender)),
                    "{at} has not delivered everything of {sender} (guarantees 5 and 9){}",
                    self.describe()
                );
            }
        }
        // If a link stays stalled, a member may still be suspected after a long time.
        if self.stalled.is_empty() {
            self.check_silence();
        }
        self.finish_report();
    }

    /// Checks that a quiet group sends nothing but heartbeats.
    fn check_silence(&mut self) {
        for _ in 0..3 {
            for who in 0..self.actors.len() {
                self.poll(who);
            }
            self.net.world().drain();
        }
        let (before, before_ms) = (self.net.world().posted, self.now_ms);
        for _ in 0..20 {
            self.now_ms += self.settings.failure_timeout_ms / 4;
            for who in 0..self.actors.len() {
                self.poll(who);
                self.finish_disk(who);
            }
            self.net.world().drain();
        }
        let after = self.net.world().posted;
        assert_eq!(after, before, "a quiet group sends{}", self.describe());
        self.check_closed_time(before_ms);
    }

    /// Checks that a wrong clock does not hold up the closed time of a group in which most clocks are right.
    fn check_closed_time(&self, since_ms: u64) {
        let many = |a: &Actor| a.node.view().is_some_and(|view| view.members.len() >= 3);
        for (who, actor) in self.actors.iter().enumerate().filter(|(_, a)| a.journal.is_some() && a.runs() && many(a)) {
            let (closed_ns, since_ns) = (actor.node.closed_ns(EVERYBODY), HostClocks::right_ns(since_ms));
            assert!(
                closed_ns >= since_ns,
                "the closed time of {who} stands (guarantee 9): {closed_ns}, not {since_ns}{}",
                self.describe()
            );
        }
    }

    fn finish_report(&mut self) {
        self.report.leaps = self.clocks.leaps;
        let all: Vec<SubgroupId> = self.subgroups().collect();
        for (actor, &subgroup) in self.actors.iter().flat_map(|actor| all.iter().map(move |id| (actor, id))) {
            let stats = actor.node.stats(subgroup);
            self.report.nulls += stats.nulls_sent;
            self.report.wraps += stats.bytes_sent / self.ring_bytes as u64;
        }
        for asked in self.asked.iter().filter(|asked| self.actors[asked.member].runs()) {
            assert!(asked.done, "a flush never ended");
        }
        self.report.deliveries = self.oracles.iter().map(|oracle| oracle.deliveries).sum();
        self.report.durable = self.oracles.iter().map(Oracle::durable).sum();
        self.report.fifo_overtakes = self.oracles.iter().map(|oracle| oracle.fifo_overtakes).sum();
        self.report.views = self.oracles[0].views();
        self.report.fetches = self.net.world().fetches;
        self.report.writes = self.net.world().posted;
    }
}

fn settings(failure_timeout_ms: u64, logs: bool, subgroups: usize, seed: u64) -> Settings {
    Settings {
        failure_timeout_ms,
        partition_timeout_ms: 20 * failure_timeout_ms,
        join_timeout_ms: 30 * failure_timeout_ms,
        lone_survivor: false,
        restart_wait_ms: failure_timeout_ms / 2,
        logs,
        subgroups,
        clock_skew_max_ms: 1000,
        seed,
    }
}

/// Draws the events of a run.
fn plan(rng: &mut Rng, n: usize, shared: bool) -> Plan {
    let heals = rng.chance(3, 4);
    let careful = rng.chance(2, 3);
    let most = 1 + rng.below(5);
    let rare = [2, 5, 20][rng.below(3)];
    let mut plan = Plan { most, careful, heals, all_leave: rng.chance(1, 10), ..Plan::default() };
    match rng.below(11) {
        9 => (plan.storm, plan.cut, plan.pause, plan.careful) = (rare, rare, rare / 2, false),
        10 if n == 2 => {
            (plan.cut, plan.pause, plan.careful) = (rare, rare, false);
            (plan.heals, plan.outages, plan.all_leave) = (true, true, false);
            plan.leave = [0, rare][rng.below(2)];
        }
        8 if n > 3 => {
            (plan.duel, plan.suspect, plan.careful) = ([20, 60][rng.below(2)], 5, false);
            plan.most += 2;
        }
        0 => plan.most = 0,
        1 => plan.kill = rare,
        2 => (plan.kill, plan.cut) = (rare, rare),
        3 => (plan.stall, plan.pause) = (2 * rare, rare),
        4 => (plan.suspect, plan.kill) = (rare, rare),
        5 => (plan.join, plan.kill, plan.leave) = (rare, rare / 2, rare / 2),
        6 => (plan.leave, plan.kill) = (rare, rare),
        _ => {
            plan = Plan { kill: rare, cut: rare, stall: rare, pause: rare, suspect: rare, ..plan };
            (plan.join, plan.leave) = (rare, rare);
        }
    }
    if shared {
        plan.stall = 0;
    }
    if n == 1 {
        plan.careful = true;
    }
    plan
}

/// Counters that wrap modulo 2^32 within a few messages.
fn near_the_wrap(rng: &mut Rng) -> Origin {
    Origin {
        index: (1 << 32) - 1 - rng.below(20) as u64,
        ticket: u32::MAX - rng.below(20) as u32,
        word: u32::MAX - rng.below(300) as u32,
    }
}

/// Draws the messages of a member: many, few or none.
fn workload(rng: &mut Rng, max_message: usize, logs: bool) -> Vec<(usize, Mode)> {
    let count = [0, 3, 20, 60][rng.below(4)];
    let modes: &[Mode] = match rng.below(4) {
        0 if logs => &[Mode::Durable],
        3 if logs => &[Mode::Safe, Mode::Ordered, Mode::Fifo, Mode::Durable, Mode::Durable],
        0 => &[Mode::Safe],
        1 => &[Mode::Ordered],
        2 => &[Mode::Fifo],
        _ => &[Mode::Safe, Mode::Ordered, Mode::Fifo],
    };
    (0..count)
        .map(|_| {
            let len = match rng.below(4) {
                0 => rng.below(9),
                1 => max_message - rng.below(8.min(max_message)),
                _ => rng.below(max_message + 1),
            };
            (len, modes[rng.below(modes.len())])
        })
        .collect()
}

/// How a process comes into the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Founds,
    Joins,
    Restarts,
}

/// Adds the events that only a group with a log has.
fn trouble(rng: &mut Rng, plan: &mut Plan) {
    match rng.below(4) {
        0 => {}
        1 => plan.blackout = 3,
        2 => (plan.blackout, plan.disk) = (2, 1),
        _ => (plan.blackout, plan.kill) = (10, plan.kill.max(5)),
    }
    if plan.blackout > 0 {
        (plan.careful, plan.outages, plan.most) = (false, false, plan.most + 3);
        // A stalled link would hide members, which is not the subject of these runs.
        plan.stall = 0;
    }
}

/// Groups with a log: disks, total failures and restarts.
impl Cluster {
    fn step_disks(&mut self) {
        self.clocks.step();
        let who = self.rng.below(self.actors.len());
        if let Some(journal) = self.actors[who].journal.clone().filter(|_| !self.actors[who].dead) {
            let most = 1 + self.rng.below(6);
            if self.rng.chance(1, self.slowness) && journal.media().step(most) {
                self.actors[who].awake = true;
            }
        }
        if self.dark && self.rng.chance(1, 40) {
            self.bring_back();
        }
        if self.rng.chance(1, 20) {
            self.link_again(who);
        }
        if self.rng.chance(1, 20) && self.actors[who].runs() {
            self.note_closed(who);
        }
    }

    fn fail_disk(&mut self, who: usize) -> bool {
        let Some(journal) = self.actors[who].journal.clone().filter(|_| self.actors[who].runs()) else { return false };
        self.say(|| format!("the disk of {who} fails"));
        self.doubt(&[who]);
        journal.media().fail();
        self.actors[who].awake = true;
        self.report.disk_failures += 1;
        true
    }

    /// Ends all processes at once.
    fn black_out(&mut self) -> bool {
        self.say(|| "blackout".to_owned());
        for who in 0..self.actors.len() {
            if !self.actors[who].dead {
                self.bury(who);
            }
        }
        self.dark = true;
        self.pasts.clear();
        self.report.blackouts += 1;
        true
    }

    /// Whether any process runs in the group.
    fn somebody_runs(&self) -> bool {
        self.actors.iter().any(Actor::runs)
    }

    /// Starts one of the members again that have no running process.
    fn bring_back(&mut self) {
        if self.somebody_runs() {
            // A process that still waits in the restart finds the group running, and joins it anew.
            let waits = |a: &Actor| !a.dead && matches!(a.node.phase(), Phase::Restarting);
            if let Some(who) = self.actors.iter().position(waits) {
                self.bury(who);
            } else if let Some(id) = self.gone().first().copied().filter(|_| self.actors.len() < 30) {
                self.join_as(MemberId(id));
                self.dark = self.rng.chance(3, 4);
            } else {
                self.dark = false;
            }
            return;
        }
        let ids = self.gone();
        if ids.is_empty() || self.actors.len() >= 40 {
            return;
        }
        let id = ids[self.rng.below(ids.len())];
        self.start_again(id);
    }

    /// The members that have no running process.
    fn gone(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.disks.keys().copied().collect();
        ids.sort_unstable();
        let up = |id: &u32| self.actors.iter().any(|a| !a.ended() && a.peer.id.0 == *id);
        ids.retain(|id| !up(id));
        ids
    }

    fn start_again(&mut self, id: u32) {
        let disk = self.disks[&id].clone();
        disk.media().crash(&mut self.rng);
        let recovered = disk.media().recover();
        // Without a hard state that names it as a member, it joins when the group runs.
        let Some((hard_state, recovery)) = recovered.filter(|(hard_state, _)| hard_state.is_member()) else { return };
        self.say(|| {
            let (me, view) = (hard_state.me(), hard_state.view());
            let names = view.members.iter().map(|member| (member.peer.id, member.peer.slot)).collect::<Vec<_>>();
            format!(
                "member {id} comes back with slot {} to view {} {names:?}, {:?}",
                me.slot, view.number, recovery.last
            )
        });
        let who = self.actors.len();
        self.add(hard_state.me().slot, id, Origin::default(), Start::Restarts);
        self.report.restarts += 1;
        self.actors[who].node.restart(hard_state, recovery);
        for other in 0..who {
            if !self.actors[other].dead
                && matches!(self.actors[other].node.phase(), Phase::Restarting)
                && self.actors[other].peer.slot != self.actors[who].peer.slot
            {
                let connection = Connection::Simulated(self.actors[other].process);
                let peer = self.actors[other].peer;
                // A later view may have given the slot to another member. Such a process joins anew when the group runs.
                if self.actors[who].node.attach(peer, 0, connection).is_err() {
                    continue;
                }
                let connection = Connection::Simulated(self.actors[who].process);
                self.arrivals.push(Arrival { at: other, from: who, since: 0, connection });
            }
        }
    }

    /// The host of a restarting process fetches the records that its log lacks.
    fn fetch_log(&mut self, who: usize) {
        let Some(need) = self.actors[who].node.log_need() else { return };
        let source = need.from.incarnation as usize - 1;
        if self.actors[source].dead {
            return;
        }
        let records = self.actors[source].journal.as_ref().unwrap().media().records.clone();
        let some = 1 + self.rng.below(20);
        let records = records.iter().filter(|r| r.version > need.after && r.version < need.below).take(some);
        for record in records {
            self.actors[who].node.take_record(record.record());
        }
        self.actors[who].awake = true;
    }

    /// A joiner takes over the log of a voter. Returns true once its own log is complete.
    fn has_taken_over(&mut self, who: usize) -> bool {
        let Some(release) = self.actors[who].release.clone() else { return true };
        let (Some(first), Some(journal)) = (self.actors[who].first.take(), self.actors[who].journal.clone()) else {
            return release.is_done();
        };
        let voter = |a: &Actor| {
            let view = a.node.view().map(|view| &view.members);
            a.runs() && view.is_some_and(|members| members.iter().any(|m| m.peer == a.peer && m.voter))
        };
        let others = self.actors.iter().enumerate().filter(|(at, actor)| *at != who && voter(actor));
        let sources: Vec<SimJournal> = others.filter_map(|(_, actor)| actor.journal.clone()).collect();
        for source in sources {
            let records = source.media().records.clone();
            if records.last().is_some_and(|last| last.version >= first) {
                journal.media().take_over(&records, first);
                release.release(Box::new(journal));
                return false;
            }
        }
        self.actors[who].first = Some(first);
        false
    }

    fn note_install(&mut self, who: usize, change: &membership::ViewChange) {
        self.clocks.note_view(&change.view);
        let Some(journal) = self.actors[who].journal.clone() else { return };
        let restarted = self.actors[who].release.is_none() && self.oracles[0].is_new(who) && change.view.number > 0;
        if self.actors[who].release.is_some() && self.oracles[0].is_new(who) {
            let (view, order) = (change.view.number, change.view.shards[0].order);
            self.actors[who].first = Some(Version { view, sequence: order.first - 1 });
        }
        if restarted {
            let records = journal.media().records.clone();
            self.oracles[0].restore(who, &records, change.view.number);
            self.report.revivals += 1;
        }
    }

    /// Records a member's closed time and the last record up to it, which must not change any more.
    fn note_closed(&mut self, who: usize) {
        let closed_ns = self.actors[who].node.closed_ns(EVERYBODY);
        // Of two clocks, the remaining one may have been set back since.
        let few = self.actors[who].node.view().is_none_or(|view| view.members.len() < 3);
        if few && self.clocks.is_any_wrong() {
            return;
        }
        let journal = self.actors[who].journal.clone();
        if let Some(journal) = journal.filter(|_| closed_ns > 0 && self.actors[who].release.is_none()) {
            let last = journal.media().last_at(closed_ns);
            self.pasts.push((closed_ns, last));
        }
    }

    /// Completes all operations that the disk was asked for.
    fn finish_disk(&mut self, who: usize) -> bool {
        let Some(journal) = self.actors[who].journal.clone().filter(|_| !self.actors[who].dead) else { return false };
        let moved = journal.media().step(usize::MAX);
        self.actors[who].awake |= moved;
        moved
    }

    /// Whether no process runs, or will run without a restart.
    fn is_dark(&self) -> bool {
        let gone = |a: &Actor| a.ended() || matches!(a.node.phase(), Phase::Closing);
        // If not all founders have begun view 0, the group leaves nothing behind.
        let founded = (0..self.founders).all(|who| !self.oracles[0].is_new(who));
        !self.plan.all_leave && founded && self.actors.iter().all(|a| gone(a) && !a.leaves)
    }

    /// Starts all members that can come back, until the group runs.
    fn revive(&mut self) {
        let mut ids: Vec<u32> = self.disks.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let up = self.actors.iter().any(|a| !a.ended() && a.peer.id.0 == id);
            if !up && self.actors.len() < 60 {
                self.start_again(id);
            }
        }
    }

    fn check_logs(&mut self, running: &[usize]) {
        let mut logs = Vec::new();
        for &who in running {
            if let Some(journal) = self.actors[who].journal.clone() {
                assert!(journal.media().is_idle(), "the disk of {who} has something to do still");
                let records = journal.media().records.clone();
                self.oracles[0].check_log(who, &records);
                let late = records.iter().find(|r| r.time_ns > self.clocks.latest_ns(self.now_ms));
                assert!(late.is_none(), "the log of {who} is dated by a clock that is ahead: {late:?}");
                logs.push(records);
            }
        }
        let key = |r: &super::media::Written| (r.version, r.time_ns, r.payload.clone());
        for pair in logs.windows(2) {
            let differ = pair[0].iter().zip(&pair[1]).find(|(a, b)| key(a) != key(b));
            assert!(differ.is_none(), "two logs differ (guarantee 1): {differ:?}");
            assert_eq!(pair[0].len(), pair[1].len(), "one log is longer (guarantee 1){}", self.describe());
        }
        if let Some(log) = logs.first() {
            for (closed_ns, last) in &self.pasts {
                let now = log.iter().filter(|r| r.time_ns <= *closed_ns).map(|r| r.version).max();
                assert_eq!(now, *last, "the past changed (guarantee 10): up to {closed_ns} ns");
            }
        }
    }
}

/// `k` members, or all of them for 0.
fn copies(k: usize) -> Copies {
    if k == 0 { Copies::All } else { Copies::AtLeast(k) }
}
