//! A member stops between any two actions that the membership wants of it while a view ends: it stands still for a
//! while, or it crashes and comes back with its disk. Each position of the list is tried, one after the other.
//!
//! This file has the group, the pauses and the founding; [`crashes`] has the crashes of running groups.
//!
//! In [`super::scenarios`] a member on shared memory stands still between any two loads and stores, too.

mod crashes;

use super::clocks::HostClocks;
use super::fabric::Net;
use super::media::SimJournal;
use super::rng::Rng;
use crate::error::Error;
use crate::fabric::{Connection, TableSpec};
use crate::membership::{self, Action, Peer, Settings};
use crate::multicast::{self, Delivery, Durability, Multicast, Origin, SendRing};
use crate::node::{Node, Phase};
use crate::planted::{self, Bug};
use crate::types::{MemberId, Mode, SubgroupId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

const TIMEOUT_MS: u64 = 200;
const RING_BYTES: usize = 4096;
/// Passes of the member that is stopped. A view change takes fewer.
const PASSES: usize = 90;

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

fn settings(slot: usize) -> Settings {
    Settings {
        failure_timeout_ms: TIMEOUT_MS,
        partition_timeout_ms: 20 * TIMEOUT_MS,
        join_timeout_ms: 100 * TIMEOUT_MS,
        lone_survivor: false,
        restart_wait_ms: TIMEOUT_MS,
        logs: true,
        subgroups: 1,
        clock_skew_max_ms: 1000,
        seed: slot as u64,
    }
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
    /// If set, the disks are slow, and that of this member is slower than the others.
    slow_disks: Option<(Rng, usize)>,
}

impl Group {
    /// Makes members in slots 0 to `n` - 1 that run view 0.
    fn new(n: usize) -> Group {
        let mut group = Group::founding(n);
        let all: Vec<usize> = (0..n).collect();
        group.run(&all, 6);
        assert!(all.iter().all(|&who| group.runs(who)));
        group
    }

    /// Makes the founders of view 0, linked with each other. None of them has made a pass.
    fn founding(n: usize) -> Group {
        let specs = [membership::table_spec(), multicast::table_spec(SubgroupId(0), RING_BYTES)];
        let net = Net::new(&specs, false, 7);
        let (members, decisions) = (Vec::new(), BTreeMap::new());
        let mut group = Group { net, specs, members, made: 0, now_ms: 0, decisions, slow_disks: None };
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
        group
    }

    fn process(&mut self, slot: usize, disk: SimJournal) -> Member {
        let settings = settings(slot);
        self.made += 1;
        let (process, fabric, rows) = self.net.process(slot);
        let peer = Peer { slot, id: MemberId(slot as u32 + 1), incarnation: self.made };
        let (spec, durability) = (self.specs[1], Some(Durability { k: 0 }));
        let most = RING_BYTES / 2 - 16;
        let multicast = Multicast::new(SubgroupId(0), spec, slot, rows[1].clone(), most, durability, Origin::default());
        let ring = multicast.ring().clone();
        let mut node = Node::new(peer, Box::new(fabric), rows[0].clone(), vec![multicast], settings, self.now_ms)
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
    ///
    /// The messages go to `delivered` one by one, so that those before a crash in the pass are checked too.
    fn pass(now_ms: u64, node: &mut Node, delivered: &mut Vec<Message>) {
        node.set_wall_clock(HostClocks::right_ns(now_ms));
        node.poll(now_ms, &mut |d: Delivery<'_>| {
            assert!(d.payload.iter().all(|&byte| byte == d.payload[0]), "a mixture of messages: {d:?}");
            delivered.push((d.view, d.sender.0, d.mode, d.payload[0]));
        });
    }

    fn poll(&mut self, who: usize) {
        let now_ms = self.now_ms;
        let Member { node: Some(node), delivered, .. } = &mut self.members[who] else { return };
        Group::pass(now_ms, node, delivered);
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
                self.write(who);
            }
        }
    }

    /// Lets the disk of `who` write. A slow disk often does not.
    fn write(&mut self, who: usize) {
        let most = self.slow_disks.as_mut().map_or(usize::MAX, |(rng, slowest)| {
            let writes = rng.chance(1, if *slowest == who { 30 } else { 5 });
            if writes { 1 + rng.below(4) } else { 0 }
        });
        self.members[who].disk.media().step(most);
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
    ///
    /// A process that had left stays away: as a new member it would have to join.
    fn restart(&mut self, who: usize) {
        let disk = self.members[who].disk.clone();
        let (hard_state, recovery) = disk.media().recover().expect("a member that ran has a hard state");
        if !hard_state.is_member() {
            return;
        }
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

/// A position at which a member stops.
#[derive(Debug, Clone, Copy)]
struct Position {
    who: usize,
    /// Counts only the actions of this kind, if given.
    kind: Option<&'static str>,
    at: usize,
    /// The member crashes there. Otherwise it stands still, then continues.
    crashes: bool,
}

/// The kind of an action.
fn kind(action: &Action) -> String {
    let text = format!("{action:?}");
    let kind = text.split([' ', '{']).next().unwrap();
    match kind.strip_prefix("Show(") {
        Some(what) => format!("Show({}", what.split('(').next().unwrap()).trim_end_matches(')').to_owned() + ")",
        None => kind.split('(').next().unwrap().to_owned(),
    }
}

/// Lets a member make passes, and runs `meanwhile` before the action at this position.
///
/// The others make passes between its own. Returns the kind of the action, or `None` if the member wants fewer actions.
fn stopped(
    group: Group,
    position: Position,
    meanwhile: impl Fn(&mut Group) + Clone + 'static,
) -> (Option<String>, Group) {
    let Position { who, kind: wanted, at, crashes } = position;
    let group = Rc::new(RefCell::new(group));
    let (left, stopped_at) = (Rc::new(Cell::new(at)), Rc::new(RefCell::new(None)));
    for pass in 0..PASSES {
        let Some(mut node) = group.borrow_mut().members[who].node.take() else { break };
        let now_ms = group.borrow().now_ms;
        let (others, countdown, found, what) = (group.clone(), left.clone(), stopped_at.clone(), meanwhile.clone());
        planted::at_every_action(Some(Box::new(move |action| {
            let kind = kind(action);
            if found.borrow().is_some() || wanted.is_some_and(|wanted| wanted != kind) {
                return;
            }
            if countdown.get() > 0 {
                return countdown.set(countdown.get() - 1);
            }
            *found.borrow_mut() = Some(kind);
            what(&mut others.borrow_mut());
            if crashes {
                resume_unwind(Box::new(CRASHED));
            }
        })));
        let mut delivered = Vec::new();
        let passed = catch_unwind(AssertUnwindSafe(|| Group::pass(now_ms, &mut node, &mut delivered)));
        planted::at_every_action(None);
        let mut group = group.borrow_mut();
        group.members[who].delivered.extend(delivered);
        match passed {
            Ok(()) => {
                group.members[who].node = Some(node);
                group.look(who);
            }
            Err(panic) if panic.downcast_ref() == Some(&CRASHED) => break,
            Err(panic) => resume_unwind(panic),
        }
        // The disk is slow, so there are passes between the request to save and the moment at which it is done.
        if group.slow_disks.is_some() {
            group.write(who);
        } else if pass % 6 == 5 {
            group.members[who].disk.media().step(usize::MAX);
        }
        let others: Vec<usize> = (0..group.members.len()).filter(|&other| other != who).collect();
        group.now_ms += 2;
        group.run(&others, 1);
    }
    let group = Rc::into_inner(group).unwrap().into_inner();
    (stopped_at.take(), group)
}

/// Runs each crash before one action after the other, until its member wants fewer. Counts the kinds of the actions.
///
/// The error is the first breach of a guarantee.
fn at_every_action<C: Copy + Debug>(
    crashes: impl IntoIterator<Item = C>,
    run: impl Fn(C, usize) -> Option<String>,
) -> Result<BTreeMap<String, usize>, String> {
    let mut positions = BTreeMap::new();
    for crash in crashes {
        for at in 0.. {
            let crashed = catch_unwind(AssertUnwindSafe(|| run(crash, at)));
            let action = crashed.map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                format!("{crash:?} before action {at}: {}", text.unwrap_or_default())
            })?;
            let Some(action) = action else { break };
            *positions.entry(action).or_default() += 1;
        }
    }
    Ok(positions)
}

/// Asserts that `run` notices `bug` by the breach that `what` names.
fn assert_notices(bug: Bug, run: fn() -> Result<BTreeMap<String, usize>, String>, what: &str) {
    planted::plant(Some(bug));
    let noticed = run();
    planted::plant(None);
    println!("{bug:?}: {noticed:?}");
    assert!(noticed.as_ref().is_err_and(|text| text.contains(what)), "{bug:?} goes unnoticed: {noticed:?}");
}

/// Asserts that each of these kinds of actions is among the positions.
fn assert_stopped_before(positions: &BTreeMap<String, usize>, kinds: &[&str]) {
    println!("{positions:?}");
    let never: Vec<_> = kinds.iter().filter(|kind| !positions.contains_key(**kind)).collect();
    assert!(never.is_empty(), "no member was stopped before {never:?}: {positions:?}");
}

/// The members of a group of four that are neither `who` nor the leaver deliver the same. So does `who` if it stays.
fn check_pause(group: &Group, who: usize, leaver: usize, long: bool) {
    let stays: Vec<usize> = (0..4).filter(|&member| member != leaver && (!long || member != who)).collect();
    let delivered = |member: usize| &group.members[member].delivered;
    let others = delivered(stays[0]);
    for &member in &stays {
        assert!(group.runs(member), "{member}: {:?}", group.phase(member));
        assert_eq!(group.view(member), group.view(stays[0]), "{member}");
        assert!(group.view(member) >= Some(1), "{member} is still in view 0");
        assert_eq!(delivered(member), others, "{member}: another order, or other messages (guarantees 1 and 2)");
    }
    let has_left = matches!(group.phase(leaver), Some(Phase::Left));
    assert!(has_left || long && leaver == who, "{leaver} has not left: {:?}", group.phase(leaver));
    for sender in 0..4 {
        let messages: Vec<_> = others.iter().filter(|message| message.1 == sender as u32 + 1).collect();
        let bytes: Vec<u8> = messages.iter().map(|message| message.3).collect();
        // A sender that stands still for long may be removed, and then its last messages may be missing.
        let all = stays.contains(&sender) || sender == leaver && has_left;
        assert!([1, 2].starts_with(&bytes), "the messages of {sender} are {bytes:?} (guarantee 5)");
        assert!(!all || bytes.len() == 2, "of the messages of {sender} only {bytes:?} came (guarantees 5 and 11)");
    }
    for member in [who, leaver] {
        // It may have been removed. What it was delivered as safe or durable was not lost, its own messages included.
        let mut kept = delivered(member).iter().filter(|message| message.2 != Mode::Ordered);
        let lost = kept.find(|message| !others.contains(message));
        assert_eq!(lost, None, "{member} was delivered a message that the others were not (guarantee 3)");
        let last = delivered(member).iter().rposition(|message| message.2 != Mode::Ordered);
        let sure = &delivered(member)[..last.map_or(0, |last| last + 1)];
        assert!(
            others.starts_with(sure),
            "{member}: {:?}, but the others: {others:?} (guarantee 1)",
            delivered(member)
        );
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
        let position = Position { who, kind: None, at, crashes: false };
        let (action, mut group) = stopped(group, position, move |group| {
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
    let shows = ["Show(Flush)", "Show(Vote)"];
    let rest = ["Run", "Wedge", "DeliverRest", "Flush", "Vote", "Save", "Close", "Deliver", "Install", "Part", "Quit"];
    assert_stopped_before(&positions, &[&shows[..], &rest[..]].concat());
}

/// Founder `who` of three crashes before its action `at`, and founder 2 died before if `one_is_dead`.
fn crash_while_founding(who: usize, at: usize, one_is_dead: bool) -> Option<String> {
    let mut group = Group::founding(3);
    // No disk is slower than the others.
    group.slow_disks = Some((Rng::new(who as u64), usize::MAX));
    let mut rng = Rng::new(at as u64);
    if one_is_dead {
        group.net.world().drain();
        group.crash(2, &mut rng);
    }
    let (action, mut group) = stopped(group, Position { who, kind: None, at, crashes: true }, |_| {});
    action.as_ref()?;
    // A member that runs counts on all founders: each of them comes back in the view.
    let runs: Vec<usize> = (0..3).filter(|&other| group.runs(other)).collect();
    (0..3).filter(|&member| !one_is_dead || member != 2).for_each(|member| group.crash(member, &mut rng));
    let forgets = (0..3).find(|&member| group.members[member].disk.media().recover().is_none());
    assert!(runs.is_empty() || forgets.is_none(), "{runs:?} ran, and founder {forgets:?} has forgotten the view");
    action
}

fn while_founding() -> Result<BTreeMap<String, usize>, String> {
    let crashes = [(0, false), (1, false), (2, false), (0, true)];
    at_every_action(crashes, |(who, one_is_dead), at| crash_while_founding(who, at, one_is_dead))
}

#[test]
fn no_founder_forgets_a_view_that_runs() {
    let positions = while_founding().unwrap();
    assert_stopped_before(&positions, &["Show(View)", "Start", "Limit", "Lost", "Run"]);
    assert_notices(Bug::ViewBeforeSaved, while_founding, "has forgotten the view");
}
