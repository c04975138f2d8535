//! A member stops between any two actions that the membership wants of it while a view ends: it stands still for a
//! while, or it crashes and comes back with its disk. Each position of the list is tried, one after the other.
//!
//! In [`super::scenarios`] a member on shared memory stands still between any two loads and stores, too.

use super::clocks::HostClocks;
use super::fabric::Net;
use super::media::SimJournal;
use super::rng::Rng;
use crate::error::Error;
use crate::fabric::{Connection, TableSpec};
use crate::membership::{self, Peer, Settings};
use crate::multicast::{self, Delivery, Durability, Multicast, Origin, SendRing};
use crate::node::{Node, Phase};
use crate::planted::{self, Bug};
use crate::types::{MemberId, Mode, SubgroupId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

const TIMEOUT_MS: u64 = 200;
const RING_BYTES: usize = 4096;

/// A message as it was delivered: its view, its sender, its mode and its first byte.
type Message = (u64, u32, Mode, u8);

struct Member {
    /// `None` while the process is down, or while it makes a pass that a hook looks at.
    node: Option<Node>,
    peer: Peer,
    process: usize,
    ring: Arc<SendRing>,
    disk: SimJournal,
    delivered: Vec<Message>,
}

/// A group with a log.
struct Group {
    net: Net,
    specs: [TableSpec; 2],
    members: Vec<Member>,
    /// Processes that were made so far.
    made: u64,
    now_ms: u64,
    /// The decision about each view, by the number of the view.
    decisions: BTreeMap<u64, String>,
}

impl Group {
    /// Makes members in slots 0 to `n` - 1 that run view 0.
    fn new(n: usize) -> Group {
        let specs = [membership::table_spec(), multicast::table_spec(SubgroupId(0), RING_BYTES)];
        let net = Net::new(&specs, false, 7);
        let mut group = Group { net, specs, members: Vec::new(), made: 0, now_ms: 0, decisions: BTreeMap::new() };
        for slot in 0..n {
            let member = group.process(slot, SimJournal::default());
            group.members.push(member);
        }
        let founders: Vec<Peer> = group.members.iter().map(|member| member.peer).collect();
        for a in 0..n {
            for b in (0..n).filter(|&b| b != a) {
                let connection = Connection::Simulated(group.members[b].process);
                group.node(a).attach(founders[b], 0, connection).unwrap();
            }
        }
        (0..n).for_each(|who| group.node(who).found(&founders, Origin::default()));
        let all: Vec<usize> = (0..n).collect();
        group.run(&all, 6);
        assert!(all.iter().all(|&who| group.runs(who)));
        group
    }

    fn process(&mut self, slot: usize, disk: SimJournal) -> Member {
        let settings = Settings {
            failure_timeout_ms: TIMEOUT_MS,
            partition_timeout_ms: 20 * TIMEOUT_MS,
            join_timeout_ms: 100 * TIMEOUT_MS,
            lone_survivor: false,
            restart_wait_ms: TIMEOUT_MS,
            logs: true,
            clock_skew_max_ms: 1000,
            seed: slot as u64,
        };
        self.made += 1;
        let (process, fabric, rows) = self.net.process(slot);
        let peer = Peer { slot, id: MemberId(slot as u32 + 1), incarnation: self.made };
        let (spec, durability) = (self.specs[1], Some(Durability { k: 0 }));
        let most = RING_BYTES / 2 - 16;
        let multicast = Multicast::new(SubgroupId(0), spec, slot, rows[1].clone(), most, durability, Origin::default());
        let ring = multicast.ring().clone();
        let mut node = Node::new(peer, Box::new(fabric), rows[0].clone(), multicast, settings, self.now_ms)
            .with_journal(Box::new(disk.clone()));
        node.set_wall_clock(HostClocks::right_ns(self.now_ms));
        Member { node: Some(node), peer, process, ring, disk, delivered: Vec::new() }
    }

    fn node(&mut self, who: usize) -> &mut Node {
        self.members[who].node.as_mut().unwrap()
    }

    fn phase(&self, who: usize) -> Option<&Phase> {
        self.members[who].node.as_ref().map(Node::phase)
    }

    fn runs(&self, who: usize) -> bool {
        matches!(self.phase(who), Some(Phase::Running))
    }

    fn view(&self, who: usize) -> Option<u64> {
        self.members[who].node.as_ref().and_then(Node::view).map(|view| view.number)
    }

    fn send(&self, who: usize, byte: u8, mode: Mode) {
        let ring = &self.members[who].ring;
        let mut claim = ring.claim(40).unwrap();
        ring.bytes_mut(&mut claim).fill(byte);
        ring.commit(claim, mode);
    }

    /// Makes a pass of a node that may be outside of the group.
    fn pass(now_ms: u64, node: &mut Node) -> Vec<Message> {
        let mut delivered = Vec::new();
        node.set_wall_clock(HostClocks::right_ns(now_ms));
        node.poll(now_ms, &mut |d: Delivery<'_>| {
            assert!(d.payload.iter().all(|&byte| byte == d.payload[0]), "a mixture of messages: {d:?}");
            delivered.push((d.view, d.sender.0, d.mode, d.payload[0]));
        });
        delivered
    }

    fn poll(&mut self, who: usize) {
        let now_ms = self.now_ms;
        let Some(node) = &mut self.members[who].node else { return };
        let delivered = Group::pass(now_ms, node);
        self.members[who].delivered.extend(delivered);
        self.look(who);
    }

    /// Checks that the member knows no second decision about a view, and lets it fetch the log that it lacks.
    fn look(&mut self, who: usize) {
        let Some(node) = &self.members[who].node else { return };
        if let (Some(view), Some(decision)) = (node.view(), node.decision()) {
            let first = self.decisions.entry(view.number).or_insert_with(|| decision.clone());
            assert_eq!(*first, decision, "two decisions about view {} (guarantee 7)", view.number);
        }
        let Some(need) = node.log_need() else { return };
        let records = self.members[need.from.slot].disk.media().records.clone();
        for record in records.iter().filter(|r| r.version > need.after && r.version < need.below) {
            self.node(who).take_record(record.record());
        }
    }

    /// Lets everything land, polls the members `who`, and lets their disks write, `rounds` times.
    fn run(&mut self, who: &[usize], rounds: usize) {
        for _ in 0..rounds {
            self.net.world().drain();
            for &who in who {
                self.poll(who);
                self.members[who].disk.media().step(usize::MAX);
            }
        }
    }

    /// The same, while the time passes.
    fn pass_time(&mut self, who: &[usize], ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms += 10;
            self.run(who, 2);
        }
    }

    /// The process of `who` dies, and its disk keeps an arbitrary beginning of what it was asked.
    fn crash(&mut self, who: usize, rng: &mut Rng) {
        let member = &mut self.members[who];
        member.node = None;
        self.net.world().kill(member.process);
        member.disk.media().crash(rng);
    }

    /// Member `who` comes back with its disk. It is linked with the members that came back before.
    fn restart(&mut self, who: usize) {
        let disk = self.members[who].disk.clone();
        let (hard_state, recovery) = disk.media().recover().unwrap();
        let member = self.process(who, disk);
        let delivered = std::mem::take(&mut self.members[who].delivered);
        self.members[who] = Member { delivered, ..member };
        self.node(who).restart(hard_state, recovery);
        for other in (0..self.members.len()).filter(|&other| other != who) {
            if matches!(self.phase(other), Some(Phase::Restarting)) {
                let [me, it] = [who, other].map(|who| (self.members[who].peer, self.members[who].process));
                self.node(who).attach(it.0, 0, Connection::Simulated(it.1)).unwrap();
                self.node(other).attach(me.0, 0, Connection::Simulated(me.1)).unwrap();
            }
        }
    }
}

/// The text of a panic of a member that crashes on purpose.
const CRASHED: &str = "this member crashes here";

/// Lets `who` make passes, and runs `meanwhile` before its action number `at`; the member crashes there if `crashes`.
///
/// The others make passes between those of `who`. Returns the position's action, or `None` if the member wants fewer
/// actions.
fn stopped(
    group: Group,
    who: usize,
    at: usize,
    crashes: bool,
    meanwhile: impl Fn(&mut Group) + Clone + 'static,
) -> (Option<String>, Group) {
    let group = Rc::new(RefCell::new(group));
    let (left, stopped_at) = (Rc::new(Cell::new(at)), Rc::new(RefCell::new(None)));
    for pass in 0..90 {
        let mut node = group.borrow_mut().members[who].node.take().unwrap();
        let now_ms = group.borrow().now_ms;
        let (others, countdown, found, what) = (group.clone(), left.clone(), stopped_at.clone(), meanwhile.clone());
        planted::at_every_action(Some(Box::new(move |action| {
            if found.borrow().is_some() {
                return;
            }
            if countdown.get() > 0 {
                return countdown.set(countdown.get() - 1);
            }
            *found.borrow_mut() = Some(format!("{action:?}").split(['(', ' ', '{']).next().unwrap().to_owned());
            what(&mut others.borrow_mut());
            if crashes {
                resume_unwind(Box::new(CRASHED));
            }
        })));
        let delivered = catch_unwind(AssertUnwindSafe(|| Group::pass(now_ms, &mut node)));
        planted::at_every_action(None);
        let mut group = group.borrow_mut();
        match delivered {
            Ok(delivered) => {
                group.members[who].node = Some(node);
                group.members[who].delivered.extend(delivered);
                group.look(who);
            }
            Err(panic) if panic.downcast_ref() == Some(&CRASHED) => break,
            Err(panic) => resume_unwind(panic),
        }
        // The disk is slow, so there are passes between the request to save and the moment at which it is done.
        if pass % 6 == 5 {
            group.members[who].disk.media().step(usize::MAX);
        }
        let others: Vec<usize> = (0..group.members.len()).filter(|&other| other != who).collect();
        group.now_ms += 2;
        group.run(&others, 1);
    }
    let group = Rc::into_inner(group).unwrap().into_inner();
    (stopped_at.take(), group)
}

/// The members of a group of four that are neither `who` nor the leaver deliver the same. So does `who` if it stays.
fn check_pause(group: &Group, who: usize, leaver: usize, long: bool) {
    let stays: Vec<usize> = (0..4).filter(|&member| member != leaver && (!long || member != who)).collect();
    let sorted = |member: usize| {
        let mut all = group.members[member].delivered.clone();
        all.sort_by_key(|&(view, sender, _, byte)| (view, sender, byte));
        all
    };
    for &member in &stays {
        assert!(group.runs(member), "{member}: {:?}", group.phase(member));
        assert_eq!(group.view(member), group.view(stays[0]), "{member}");
        assert!(group.view(member) >= Some(1), "{member} is still in view 0");
        assert_eq!(sorted(member), sorted(stays[0]), "{member}");
    }
    let others = &group.members[stays[0]].delivered;
    if !long {
        assert_eq!(others.len(), 8);
        assert!(matches!(group.phase(leaver), Some(Phase::Left)), "{:?}", group.phase(leaver));
    }
    for member in [who, leaver] {
        // It may have been removed. What it was delivered as safe or durable was not lost.
        let kept = |message: &&Message| message.2 != Mode::Ordered && message.1 != member as u32 + 1;
        let mut kept = group.members[member].delivered.iter().filter(kept);
        let lost = kept.find(|message| !others.contains(message));
        assert_eq!(lost, None, "{member} was delivered a message that the others were not");
        let phase = group.phase(member).unwrap();
        let ended = matches!(phase, Phase::Running | Phase::Left | Phase::Stopped(Error::Removed { .. }));
        assert!(ended, "{member}: {phase:?}");
    }
}

/// Member `who` of four stands still before each of its actions while `leaver` leaves. The others run on, for longer than
/// the failure timeout if `long`.
fn pause_at_every_action(who: usize, leaver: usize, long: bool) -> BTreeMap<String, usize> {
    let mut positions = BTreeMap::new();
    for at in 0.. {
        let mut group = Group::new(4);
        for sender in 0..4 {
            group.send(sender, 1, Mode::Durable);
            group.send(sender, 2, Mode::Ordered);
        }
        group.poll(0);
        group.poll(3);
        group.node(leaver).leave();
        let others: Vec<usize> = (0..4).filter(|&other| other != who).collect();
        let (action, mut group) = stopped(group, who, at, false, move |group| {
            if long { group.pass_time(&others, 3 * TIMEOUT_MS) } else { group.run(&others, 20) }
        });
        group.pass_time(&[0, 1, 2, 3], 3 * TIMEOUT_MS);
        let checked = catch_unwind(AssertUnwindSafe(|| check_pause(&group, who, leaver, long && action.is_some())));
        if let Err(panic) = checked {
            println!("{who} stood still before its action {at}, {action:?}; {leaver} left; {long}");
            resume_unwind(panic);
        }
        let Some(action) = action else { return positions };
        *positions.entry(action).or_default() += 1;
    }
    positions
}

/// Of three members, 2 is dead. Member `who` crashes before action `at` of the view's end. Its last writes land if
/// `lands`. Then the other one goes on, and crashes as well. `who` comes back with 2, and the other one at last.
fn crash_at(who: usize, at: usize, lands: bool, seed: u64) -> Option<String> {
    let mut group = Group::new(3);
    let mut rng = Rng::new(seed);
    for sender in 0..2 {
        group.send(sender, 1, Mode::Durable);
        group.send(sender, 2, Mode::Safe);
        group.poll(sender);
    }
    group.crash(2, &mut rng);
    let (action, mut group) = stopped(group, who, at, true, move |group| {
        if lands {
            group.net.world().drain();
        }
    });
    action.as_ref()?;
    let other = 1 - who;
    group.crash(who, &mut rng);
    group.pass_time(&[other], TIMEOUT_MS);
    group.crash(other, &mut rng);
    for back in [who, 2] {
        group.restart(back);
    }
    group.pass_time(&[0, 1, 2], 10 * TIMEOUT_MS);
    group.restart(other);
    group.pass_time(&[0, 1, 2], 10 * TIMEOUT_MS);
    let running: Vec<usize> = (0..3).filter(|&who| group.runs(who)).collect();
    let phases: Vec<_> = (0..3).map(|who| group.phase(who)).collect();
    assert!(running.len() >= 2, "no majority runs: {phases:?}");
    assert!(running.iter().all(|&who| group.view(who) == group.view(running[0])), "two groups");
    let logs: Vec<_> = running.iter().map(|&who| group.members[who].disk.media().records.clone()).collect();
    assert!(logs.iter().all(|log| *log == logs[0]), "two histories (guarantee 4)");
    for member in &group.members {
        for &(view, sender, mode, byte) in member.delivered.iter().filter(|message| message.2 == Mode::Durable) {
            let kept = logs[0].iter().any(|r| (r.sender.0, r.mode, r.payload.first()) == (sender, mode, Some(&byte)));
            assert!(kept, "message {byte} of {sender} was delivered as durable in view {view}, and is lost");
        }
    }
    action
}

/// Crashes a member at every position. The error is the first breach of a guarantee.
fn crash_at_every_action() -> Result<BTreeMap<String, usize>, String> {
    let mut positions = BTreeMap::new();
    for (who, lands, seed) in [(0, true, 1), (1, true, 1), (0, false, 2), (1, false, 3), (1, true, 4), (0, true, 5)] {
        for at in 0.. {
            let crashed = catch_unwind(AssertUnwindSafe(|| crash_at(who, at, lands, seed)));
            let action = crashed.map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                format!("{who} crashes before action {at} ({lands}, {seed}): {text}")
            })?;
            let Some(action) = action else { break };
            *positions.entry(action).or_default() += 1;
        }
    }
    Ok(positions)
}

#[test]
fn a_view_change_survives_a_preemption_at_any_step() {
    let mut positions = BTreeMap::new();
    for (leaver, who) in [0, 2].into_iter().flat_map(|leaver| (0..4).map(move |who| (leaver, who))) {
        for long in [false, true] {
            for (action, count) in pause_at_every_action(who, leaver, long) {
                *positions.entry(action).or_default() += count;
            }
        }
    }
    println!("{positions:?}");
    for action in
        ["Run", "Wedge", "DeliverRest", "Flush", "Vote", "Save", "Show", "Close", "Deliver", "Install", "Part"]
    {
        assert!(positions.get(action).is_some_and(|count: &usize| *count > 0), "never before {action}: {positions:?}");
    }
}

#[test]
fn a_view_change_survives_a_crash_at_any_step() {
    let positions = crash_at_every_action().unwrap();
    println!("{positions:?}");
    for action in ["Wedge", "Flush", "Vote", "Save", "Show", "Close", "Deliver", "Install"] {
        assert!(positions.get(action).is_some_and(|count| *count > 0), "never before {action}: {positions:?}");
    }
    // The test would notice a node that does not persist before it shows.
    for bug in [Bug::ShowBeforeSaved, Bug::VoteBeforeSaved] {
        planted::plant(Some(bug));
        let noticed = crash_at_every_action();
        planted::plant(None);
        assert!(noticed.is_err_and(|what| what.contains("two decisions")), "{bug:?} goes unnoticed");
    }
}
