//! One run: a cluster drawn from the seed, its workload, its faults, and the checks around them.

use super::fabric::Net;
use super::oracle::{Oracle, Sent, content};
use super::rng::Rng;
use crate::config::{MemberId, SubgroupId};
use crate::error::Error;
use crate::fabric::{Row, TableSpec};
use crate::membership::{self, Membership};
use crate::multicast::{self, Claim, Mode, Multicast, Origin, Refusal, SendRing, column, order};
use crate::node::{Node, Phase};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a run did; two runs of one seed do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Report {
    pub(crate) deliveries: u64,
    pub(crate) nulls: u64,
    pub(crate) wraps: u64,
    pub(crate) backpressure: u64,
    pub(crate) fifo_overtakes: u64,
    pub(crate) flushes: u64,
    pub(crate) failures: u64,
    pub(crate) leaves: u64,
    pub(crate) writes: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        self.deliveries += other.deliveries;
        self.nulls += other.nulls;
        self.wraps += other.wraps;
        self.backpressure += other.backpressure;
        self.fifo_overtakes += other.fifo_overtakes;
        self.flushes += other.flushes;
        self.failures += other.failures;
        self.leaves += other.leaves;
        self.writes += other.writes;
    }
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Everything is delivered, then silence.
    Calm,
    /// A link breaks in the middle.
    Cut(usize, usize),
    /// A process dies in the middle.
    Kill(usize),
    /// One leaves in the middle.
    Leave(usize),
    /// Two leave in the middle.
    LeaveLeave(usize, usize),
    /// One leaves, a link breaks.
    LeaveCut(usize, usize, usize),
    /// One leaves, another dies.
    LeaveKill(usize, usize),
    /// Everybody leaves as soon as it has delivered everything.
    AllLeave,
}

impl Plan {
    /// Who may be named as having left, and as having failed.
    fn causes(self, members: usize) -> (Vec<usize>, Vec<usize>) {
        match self {
            Plan::Calm => (vec![], vec![]),
            Plan::Cut(a, b) => (vec![], vec![a, b]),
            Plan::Kill(dead) => (vec![], vec![dead]),
            Plan::Leave(leaver) => (vec![leaver], vec![]),
            Plan::LeaveLeave(a, b) => (vec![a, b], vec![]),
            Plan::LeaveCut(leaver, a, b) => (vec![leaver], vec![a, b]),
            Plan::LeaveKill(leaver, dead) => (vec![leaver], vec![dead]),
            Plan::AllLeave => ((0..members).collect(), vec![]),
        }
    }
}

/// A flush that a member asked for.
struct Asked {
    member: usize,
    k: usize,
    ticket: u32,
    sent: usize,
    /// Per stream, one above the index of the last message delivered.
    delivered: Vec<u64>,
    target: Option<Vec<u64>>,
    done: bool,
}

struct Actor {
    node: Node,
    ring: Arc<SendRing>,
    /// Messages still to send: length and mode.
    todo: Vec<(usize, Mode)>,
    /// Claims not committed yet, with the message's place in the sender's order; none for one that will be dropped.
    open: Vec<(Claim, Option<usize>)>,
    paused: usize,
    dead: bool,
    /// The driver would not sleep: the last pass moved something, or something was asked of it since.
    awake: bool,
    /// A flush was asked for since the last pass.
    asked: bool,
    /// Wants to leave as soon as it runs.
    leaves: bool,
}

/// See the module.
pub(crate) struct Cluster {
    rng: Rng,
    net: Net,
    actors: Vec<Actor>,
    oracle: Oracle,
    plan: Plan,
    asked: Vec<Asked>,
    /// Every counter seen so far, to see that none goes back.
    counters: Vec<Vec<u64>>,
    report: Report,
    now_ms: u64,
    /// One reservation in so many is dropped.
    keep: usize,
    ring_bytes: usize,
}

const MULTICAST: usize = 1;

impl Cluster {
    pub(crate) fn new(seed: u64) -> Cluster {
        let mut rng = Rng::new(seed);
        let n = 1 + rng.below(6);
        let ring_bytes = 512 << rng.below(5);
        let max_message = match rng.below(3) {
            0 => ring_bytes / 2 - 8,
            1 => ring_bytes / 4,
            _ => ring_bytes / 16,
        };
        let origin = if rng.chance(1, 2) { near_the_wrap(&mut rng) } else { Origin::default() };
        let spec = multicast::table_spec(SubgroupId(0), n, ring_bytes);
        let specs: [TableSpec; 2] = [membership::table_spec(), spec];
        let net = Net::new(n, &specs, rng.next());
        start_counters(&net, n, origin);
        let ids: Vec<MemberId> = (1..=n as u32).map(MemberId).collect();
        let actors = (0..n)
            .map(|me| {
                let (fabric, mut tables) = net.endpoint(me);
                let rows = tables.pop().unwrap();
                let multicast = Multicast::new(SubgroupId(0), ids.clone(), rows, me, max_message, origin);
                let ring = multicast.ring().clone();
                let membership = Membership::new(tables.pop().unwrap(), me);
                let node = Node::new(ids.clone(), Box::new(fabric), membership, vec![multicast], 0, u64::MAX);
                Actor {
                    node,
                    ring,
                    todo: workload(&mut rng, max_message),
                    open: Vec::new(),
                    paused: 0,
                    dead: false,
                    awake: true,
                    asked: false,
                    leaves: false,
                }
            })
            .collect();
        let keep = [2, 12, 40][rng.below(3)];
        let a = rng.below(n);
        let b = (a + 1 + rng.below(n.max(2) - 1)) % n;
        let plan = match rng.below(11) {
            0 if n > 1 => Plan::Kill(a),
            1 if n > 1 => Plan::Cut(a, b),
            4 if n > 1 => Plan::LeaveLeave(a, b),
            5 if n > 1 => Plan::LeaveKill(a, b),
            6 if n > 1 => Plan::LeaveCut(rng.below(n), a, b),
            2 => Plan::Leave(a),
            3 => Plan::AllLeave,
            _ => Plan::Calm,
        };
        Cluster {
            rng,
            net,
            actors,
            oracle: Oracle::new(n),
            plan,
            asked: Vec::new(),
            counters: Vec::new(),
            report: Report::default(),
            now_ms: 0,
            keep,
            ring_bytes,
        }
    }

    pub(crate) fn run(mut self) -> Report {
        let steps = 200 + self.rng.below(1500);
        let fault_at = self.rng.below(steps);
        let second = match self.plan {
            Plan::LeaveLeave(..) | Plan::LeaveKill(..) | Plan::LeaveCut(..) => {
                (fault_at + self.rng.below(100)).min(steps - 1)
            }
            _ => steps,
        };
        for step in 0..steps {
            if step == second {
                match self.plan {
                    Plan::LeaveLeave(_, b) => self.start_leave(b),
                    Plan::LeaveCut(_, a, b) => self.net.world().cut(a, b),
                    Plan::LeaveKill(_, b) => {
                        self.actors[b].dead = true;
                        self.net.world().kill(b);
                    }
                    _ => {}
                }
            }
            if step == fault_at {
                self.fault();
            }
            self.step();
        }
        self.settle();
        self.check_end();
        self.report
    }

    fn fault(&mut self) {
        match self.plan {
            Plan::Cut(a, b) => self.net.world().cut(a, b),
            Plan::Kill(member) => {
                self.actors[member].dead = true;
                self.net.world().kill(member);
            }
            Plan::Leave(member)
            | Plan::LeaveLeave(member, _)
            | Plan::LeaveKill(member, _)
            | Plan::LeaveCut(member, ..) => self.start_leave(member),
            Plan::Calm | Plan::AllLeave => {}
        }
    }

    fn start_leave(&mut self, member: usize) {
        // What is not accepted by now never will be.
        self.actors[member].todo.clear();
        self.close_claims(member);
        self.actors[member].leaves = true;
        self.actors[member].awake = true;
    }

    fn step(&mut self) {
        self.now_ms += 1;
        let who = self.rng.below(self.actors.len());
        self.leave_when_done(who);
        match self.rng.below(100) {
            0..=39 => {
                if self.actors[who].paused > 0 {
                    self.actors[who].paused -= 1;
                } else {
                    self.poll_if_awake(who);
                }
            }
            40..=79 => {
                self.net.world().step();
            }
            80..=93 => self.send(who),
            94..=96 => self.close_claims(who),
            97 => self.actors[who].paused = self.rng.below(60),
            98 => self.ask_flush(who),
            _ => self.check_counters(),
        }
    }

    /// As a driver does that sleeps when a pass moves nothing.
    fn poll_if_awake(&mut self, who: usize) -> bool {
        // That the last own write has gone out wakes a closing member; the simulated fabric does not tell.
        let closing = matches!(self.actors[who].node.phase(), Phase::Closing);
        (closing || self.actors[who].awake || self.net.world().wakes(who)) && self.poll(who)
    }

    fn poll(&mut self, who: usize) -> bool {
        if self.actors[who].dead {
            return false;
        }
        if self.actors[who].leaves {
            self.actors[who].node.leave();
        }
        let (net, oracle) = (&self.net, &mut self.oracle);
        let members = self.actors.len();
        let moved = self.actors[who].node.poll(self.now_ms, &mut |delivery| {
            let world = net.world();
            let load = |m, s| world.row(MULTICAST, m).word(column::received(s).0).load(Ordering::Acquire);
            let stable = (0..members).map(|s| (0..members).map(|m| load(m, s)).min().unwrap());
            oracle.deliver(who, &delivery, &stable.collect::<Vec<u64>>());
        });
        let asked = std::mem::take(&mut self.actors[who].asked);
        if moved || asked {
            self.check_flushes(who);
        }
        self.actors[who].awake = moved || asked;
        moved
    }

    /// The application sends a few messages: claims, most of which it commits at once.
    fn send(&mut self, who: usize) {
        for _ in 0..1 + self.rng.below(4) {
            let actor = &mut self.actors[who];
            if actor.dead || !matches!(actor.node.phase(), Phase::Installing | Phase::Running) {
                return;
            }
            let Some(&(len, mode)) = actor.todo.last() else { return };
            let claim = match actor.ring.claim(len) {
                Ok(claim) => claim,
                Err(Refusal::Full(first)) => {
                    actor.awake |= first;
                    self.report.backpressure += 1;
                    return;
                }
                Err(Refusal::TooLarge(limit)) => panic!("{len} bytes refused with a limit of {limit}"),
            };
            if self.rng.chance(1, self.keep) {
                actor.open.push((claim, None));
            } else {
                let number = self.oracle.sent[who].len();
                self.oracle.sent[who].push(Sent { len, mode, committed: false });
                actor.todo.pop();
                actor.open.push((claim, Some(number)));
            }
            if !self.rng.chance(1, 8) {
                self.close_claims(who);
            }
        }
    }

    /// Fills and commits, or drops, every open claim, in any order.
    fn close_claims(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        actor.awake |= !actor.open.is_empty();
        self.rng.shuffle(&mut actor.open);
        for (mut claim, number) in actor.open.drain(..) {
            let Some(number) = number else {
                assert!(actor.ring.abandon_if_open(claim));
                assert!(!actor.ring.abandon_if_open(claim), "a second time");
                continue;
            };
            let sent = &mut self.oracle.sent[who][number];
            for (i, byte) in actor.ring.bytes_mut(&mut claim).iter_mut().enumerate() {
                *byte = content(who, number, i);
            }
            sent.committed = true;
            actor.ring.commit(claim, sent.mode);
        }
    }

    fn ask_flush(&mut self, member: usize) {
        let (sent, delivered) = (self.oracle.sent[member].len(), self.oracle.passed(member));
        let ticket = self.actors[member].ring.next_ticket();
        let k = self.rng.below(self.actors.len() + 2);
        self.actors[member].awake = true;
        self.actors[member].asked = true;
        self.asked.push(Asked { member, k, ticket, sent, delivered, target: None, done: false });
    }

    /// A flush that is done is true: enough members have really received all that it covers.
    fn check_flushes(&mut self, who: usize) {
        let n = self.actors.len();
        let multicast = &self.actors[who].node.multicasts()[0];
        let world = self.net.world();
        for asked in self.asked.iter_mut().filter(|a| a.member == who && !a.done) {
            if asked.target.is_none() {
                asked.target = multicast.flush_target(asked.ticket);
            }
            let Some(target) = &asked.target else { continue };
            let delivered = asked.delivered.iter().zip(target).all(|(delivered, covered)| delivered <= covered);
            assert!(delivered, "a flush to {target:?} leaves out what was delivered, {:?}", asked.delivered);
            if multicast.received_by(asked.k, target) {
                asked.done = true;
                self.report.flushes += 1;
                let load = |m, s| world.row(MULTICAST, m).word(column::received(s).0).load(Ordering::Acquire);
                let have = (0..n).filter(|&m| (0..n).all(|s| load(m, s) >= target[s])).count();
                let need = if asked.k == 0 { n } else { asked.k.min(n) };
                assert!(have >= need, "flush({}) done, but {have} members have {target:?}", asked.k);
            }
        }
    }

    /// No counter goes back, in any copy.
    fn check_counters(&mut self) {
        let columns = column::received(self.actors.len()).0;
        let world = self.net.world();
        let words = |row: &Arc<Row>| (0..columns).step_by(8).map(|o| row.word(o).load(Ordering::Acquire)).collect();
        let now: Vec<Vec<u64>> = world.copies(MULTICAST).map(words).collect();
        for (before, after) in self.counters.iter().zip(&now) {
            let grown = |shift: u32| i64::from((after[0] >> shift) as u32) - i64::from((before[0] >> shift) as u32);
            let forward = |d: i64| d.rem_euclid(1 << 32) < 1 << 31;
            assert!(forward(grown(0)) && forward(grown(32)), "`published` went back: {before:x?} {after:x?}");
            let back = before[1..].iter().zip(&after[1..]).any(|(b, a)| a < b);
            assert!(!back, "a counter went back: {before:?} {after:?}");
        }
        self.counters = now;
    }

    /// The workload and the faults are over: within a bounded number of rounds everything is done.
    fn settle(&mut self) {
        let n = self.actors.len();
        self.actors.iter_mut().for_each(|a| a.paused = 0);
        let left: usize = self.actors.iter().map(|a| a.todo.len() + a.open.len()).sum();
        let bound = 100 + 60 * (left + n);
        for round in 0.. {
            let mut moved = false;
            for who in 0..n {
                self.close_claims(who);
                self.send(who);
                self.close_claims(who);
            }
            for who in 0..n {
                moved |= self.poll_if_awake(who);
                moved |= self.leave_when_done(who);
            }
            moved |= !self.net.world().idle();
            self.net.world().drain();
            self.check_counters();
            let quiet = !moved && self.actors.iter().all(|a| a.todo.is_empty() || a.dead || ended(&a.node));
            if quiet {
                break;
            }
            let show = |a: &Actor| format!("{:?} with {} to send, {:?}", a.node.phase(), a.todo.len(), a.node.stats(0));
            let phases = || self.actors.iter().map(show).collect::<Vec<_>>().join(", ");
            assert!(round < bound, "no end after {bound} rounds: {:?}, {}", self.plan, phases());
        }
    }

    /// True if the member decided it just now.
    fn leave_when_done(&mut self, who: usize) -> bool {
        let all_sent = self.actors.iter().all(|a| a.todo.is_empty() && a.open.is_empty());
        let leaves = self.plan == Plan::AllLeave && all_sent && self.oracle.has_all(who);
        let news = leaves && !self.actors[who].leaves;
        self.actors[who].leaves |= leaves;
        self.actors[who].awake |= news;
        news
    }

    fn check_end(&mut self) {
        self.oracle.check_prefixes();
        let of = |is: fn(&Phase) -> bool| {
            let all = self.actors.iter().enumerate();
            all.filter(|(_, a)| is(a.node.phase())).map(|(who, _)| who).collect::<Vec<_>>()
        };
        let (left, stopped) = (of(|p| matches!(p, Phase::Left)), of(|p| matches!(p, Phase::Stopped(_))));
        let (leavers, failed) = self.plan.causes(self.actors.len());
        if failed.is_empty() {
            self.oracle.check_uniform(&left, &stopped);
        }
        for who in (0..self.actors.len()).filter(|&w| !self.actors[w].dead) {
            self.check_member_end(who, &leavers, &failed);
            // Who left before need not have waited for it.
            let stays = failed.is_empty() && stopped.contains(&who);
            let lacks = left.iter().find(|&&leaver| stays && !self.oracle.has_all_of(who, leaver));
            assert!(lacks.is_none(), "member {who} misses messages of the leaver {lacks:?}");
        }
        self.check_silence();
        self.finish_report();
    }

    /// A member ends as the plan has it, and names one of those on whose account.
    fn check_member_end(&self, who: usize, leavers: &[usize], failed: &[usize]) {
        let actor = &self.actors[who];
        let phase = actor.node.phase();
        let among = |causes: &[usize], member: &MemberId| causes.contains(&(member.0 as usize - 1));
        let fine = match phase {
            Phase::Running => self.plan == Plan::Calm,
            Phase::Left => leavers.contains(&who),
            Phase::Stopped(Error::MemberFailed { member, .. }) => among(failed, member),
            Phase::Stopped(Error::MemberLeft { member }) => among(leavers, member) && member.0 as usize - 1 != who,
            _ => false,
        };
        assert!(fine, "member {who} ends as {phase:?}, {:?}", self.plan);
        if matches!(self.plan, Plan::Calm | Plan::AllLeave) {
            assert!(self.oracle.has_all(who), "member {who} has not delivered everything");
            // One that has everything can see another leave before it leaves itself: it has lost nothing.
            assert!(!matches!(phase, Phase::Stopped(_)) || actor.node.flushed(), "member {who}: {phase:?}");
        }
    }

    /// A quiet group sends nothing.
    fn check_silence(&mut self) {
        let before = self.net.world().posted;
        for _ in 0..20 {
            for who in 0..self.actors.len() {
                assert!(!self.poll(who), "member {who} moves in a quiet group: {:?}", self.plan);
            }
        }
        assert_eq!(self.net.world().posted, before, "a quiet group sends");
    }

    fn finish_report(&mut self) {
        if self.plan == Plan::Calm {
            for asked in &self.asked {
                assert!(asked.done, "a flush never ended");
                for number in 0..asked.sent {
                    let sequence = self.oracle.sequence_of(asked.member, number).unwrap();
                    let covered = asked.target.as_ref().unwrap()[asked.member];
                    let n = self.actors.len();
                    assert!(sequence < order::sequence(covered, asked.member, n), "a flush left message {number} out");
                }
            }
        }
        for actor in &self.actors {
            let stats = actor.node.stats(0);
            self.report.nulls += stats.nulls_sent;
            self.report.wraps += stats.bytes_sent / self.ring_bytes as u64;
        }
        self.report.deliveries = self.oracle.delivered();
        self.report.fifo_overtakes = self.oracle.fifo_overtakes;
        self.report.failures =
            u64::from(matches!(self.plan, Plan::Cut(..) | Plan::Kill(_) | Plan::LeaveKill(..) | Plan::LeaveCut(..)));
        self.report.leaves = u64::from(matches!(self.plan, Plan::Leave(_) | Plan::LeaveLeave(..) | Plan::AllLeave));
        self.report.writes = self.net.world().posted;
    }
}

fn ended(node: &Node) -> bool {
    matches!(node.phase(), Phase::Left | Phase::Stopped(_) | Phase::Closing | Phase::Leaving)
}

/// Counters that wrap modulo 2^32 within a few messages.
fn near_the_wrap(rng: &mut Rng) -> Origin {
    Origin {
        index: (1 << 32) - 1 - rng.below(20) as u64,
        ticket: u32::MAX - rng.below(20) as u32,
        word: u32::MAX - rng.below(300) as u32,
    }
}

/// All copies of all counters begin at the origin.
fn start_counters(net: &Net, n: usize, origin: Origin) {
    let index = u64::from(origin.index as u32);
    let start = order::sequence(origin.index, 0, n);
    for row in net.world().copies(MULTICAST) {
        row.word(column::PUBLISHED.0).store(index | index << 32, Ordering::Release);
        (0..n).for_each(|s| row.word(column::received(s).0).store(origin.index, Ordering::Release));
        row.word(column::DELIVERED.0).store(start, Ordering::Release);
    }
}

/// Some members talk much, some little, some not at all.
fn workload(rng: &mut Rng, max_message: usize) -> Vec<(usize, Mode)> {
    let count = [0, 3, 20, 60][rng.below(4)];
    let modes: &[Mode] = match rng.below(4) {
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
