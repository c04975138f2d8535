//! Crashes before every action of a view change and of a restart, and of a whole group at once.

use super::*;
use crate::fabric::Fabric;
use crate::log::Kind;
use crate::membership::{Actions, Fact, Membership, Moment, Role, Show, View};
use crate::multicast::End;

/// The two members of three that lose the third one.
const PAIR: [usize; 2] = [0, 1];

/// Three members that have sent messages. Then 2 dies, and only 1 has its last ones.
fn bereaved(rng: &mut Rng) -> Group {
    let mut group = Group::new(3);
    for sender in PAIR {
        group.send(sender, 1, Mode::Durable);
        group.send(sender, 2, Mode::Safe);
        group.poll(sender);
    }
    let [zero, one, two] = [0, 1, 2].map(|who| group.members[who].process);
    group.net.world().stall(two, zero, true);
    group.send(2, 1, Mode::Durable);
    group.send(2, 2, Mode::Safe);
    group.poll(2);
    group.net.world().drain_link(two, one);
    group.crash(2, rng);
    group.net.world().stall(two, zero, false);
    group
}

/// Checks a group some time after the last crash: a majority runs in one view with one log, and nothing durable is lost.
fn check(group: &Group, most_running: usize) {
    let all = 0..group.members.len();
    let running: Vec<usize> = all.clone().filter(|&who| group.runs(who)).collect();
    let phases: Vec<_> = all.clone().map(|who| group.phase(who)).collect();
    assert!(running.len() >= most_running, "no majority runs: {phases:?}");
    assert!(running.iter().all(|&who| group.view(who) == group.view(running[0])), "two groups (guarantee 7)");
    let log = |who: usize| group.members[who].disk.media().records.clone();
    let kept = log(running[0]);
    assert!(running.iter().all(|&who| log(who) == kept), "two histories (guarantee 4)");
    for who in all {
        let member = &group.members[who];
        let place = |&(_, sender, mode, byte): &Message| {
            kept.iter().position(|r| (r.sender.0, r.mode, r.payload.first()) == (sender, mode, Some(&byte)))
        };
        for message in member.delivered.iter().filter(|message| message.2 == Mode::Durable) {
            assert!(place(message).is_some(), "{who} was delivered {message:?}, which is lost (guarantee 4)");
        }
        let places: Vec<usize> = member.delivered.iter().filter_map(place).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{who} was delivered {places:?} of the log (guarantees 1 and 5)");
        if running.contains(&who) {
            continue;
        }
        // It came back when the others had gone on without it. As a process it would join anew.
        let phase = group.phase(who);
        let late =
            matches!(phase, None | Some(Phase::Restarting | Phase::Left | Phase::Stopped(Error::Removed { .. })));
        assert!(late, "{who}: {phase:?}");
        let mine = log(who);
        let common = mine.iter().zip(&kept).take_while(|(a, b)| a == b).count();
        // The others may have ended its last view before the end of its log, without messages that it alone had.
        let is_cut = kept.get(common).zip(mine.get(common)).is_some_and(|(next, own)| {
            next.kind == Kind::Decision && next.version.view == own.version.view + 1 && own.kind == Kind::Message
        });
        assert!(common > 0 && (common == mine.len() || is_cut), "{who} has another log: {mine:?}, {kept:?}");
    }
}

/// How a member crashes, and which of its writes are not lost.
#[derive(Debug, Clone, Copy)]
struct Crash {
    who: usize,
    at: usize,
    /// Its last writes land at the others.
    lands: bool,
    seed: u64,
}

impl Crash {
    fn stop(self, group: Group) -> (Option<String>, Group) {
        let position = Position { who: self.who, kind: None, at: self.at, crashes: true };
        stopped(group, position, move |group| {
            if self.lands {
                group.net.world().drain();
            }
        })
    }
}

/// Of three members, 2 is dead, and `who` crashes while the view ends. Then the other one goes on, and crashes as well.
/// `who` comes back with 2, and the other one at last.
fn crash_in_a_view_change(crash: Crash) -> Option<String> {
    let (who, mut rng) = (crash.who, Rng::new(crash.seed));
    let (action, mut group) = crash.stop(bereaved(&mut rng));
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
    check(&group, 2);
    action
}

/// Of three members, 2 is dead, and the other two crash once they have voted and one of them knows the decision. All
/// three come back, and `who` crashes again during the restart. The rest goes on, and crashes; all come back again.
fn crash_in_a_restart(crash: Crash) -> Option<String> {
    let (who, mut rng) = (crash.who, Rng::new(crash.seed));
    let position = Position { who: 0, kind: Some("Close"), at: 0, crashes: true };
    let (action, mut group) = stopped(bereaved(&mut rng), position, |_| {});
    assert!(action.is_some());
    PAIR.into_iter().for_each(|who| group.crash(who, &mut rng));
    (0..3).for_each(|back| group.restart(back));
    let (action, mut group) = crash.stop(group);
    action.as_ref()?;
    group.crash(who, &mut rng);
    let others: Vec<usize> = (0..3).filter(|&other| other != who).collect();
    group.pass_time(&others, 3 * TIMEOUT_MS);
    others.iter().for_each(|&other| group.crash(other, &mut rng));
    (0..3).for_each(|back| group.restart(back));
    group.pass_time(&[0, 1, 2], 20 * TIMEOUT_MS);
    check(&group, 2);
    action
}

/// Two of four members leave, and the disks are slow. The power fails everywhere before an action of `who`. Every process
/// that had not ended comes back.
fn power_failure(crash: Crash) -> Option<String> {
    let mut rng = Rng::new(crash.seed);
    let mut group = Group::new(4);
    group.slow_disks = Some((Rng::new(crash.seed + 100), crash.seed as usize % 6));
    for sender in 0..4 {
        group.send(sender, 1, Mode::Durable);
        group.send(sender, 2, Mode::Safe);
        group.poll(sender);
    }
    [2, 3].into_iter().for_each(|leaver| group.node(leaver).leave());
    let (action, mut group) = crash.stop(group);
    action.as_ref()?;
    let up: Vec<usize> = (0..4).filter(|&who| !matches!(group.phase(who), Some(Phase::Left))).collect();
    up.iter().for_each(|&who| group.crash(who, &mut rng));
    group.slow_disks = None;
    up.iter().for_each(|&back| group.restart(back));
    group.pass_time(&up, 20 * TIMEOUT_MS);
    assert!(PAIR.into_iter().all(|who| group.runs(who)), "no majority runs: {:?}", PAIR.map(|who| group.phase(who)));
    check(&group, 2);
    action
}

/// Makes each crash at every position. A crash is a member, whether its writes land, and a seed.
fn crash_at_every_action(
    crashes: impl IntoIterator<Item = (usize, bool, u64)>,
    run: fn(Crash) -> Option<String>,
) -> Result<BTreeMap<String, usize>, String> {
    at_every_action(crashes, |(who, lands, seed), at| run(Crash { who, at, lands, seed }))
}

fn in_a_view_change() -> Result<BTreeMap<String, usize>, String> {
    let crashes = [(0, true, 1), (1, true, 1), (0, false, 2), (1, false, 3), (1, true, 4), (0, true, 5)];
    crash_at_every_action(crashes, crash_in_a_view_change)
}

fn in_a_restart() -> Result<BTreeMap<String, usize>, String> {
    let crashes = (0..3).flat_map(|who| [(who, true, 1), (who, false, 2), (who, true, 3)]);
    crash_at_every_action(crashes, crash_in_a_restart)
}

/// Each seed has disks of other speeds. With 0 to 3, the disk of that member is slower than the others.
fn of_all_at_once(seeds: &[u64]) -> Result<BTreeMap<String, usize>, String> {
    let crashes = (0..4).flat_map(|who| seeds.iter().map(move |&seed| (who, seed % 2 == 0, seed)));
    crash_at_every_action(crashes, power_failure)
}

#[test]
fn a_view_change_survives_a_crash_at_any_step() {
    let positions = in_a_view_change().unwrap();
    let shows = ["Show(Flush)", "Show(Vote)"];
    let rest =
        ["Lost", "Run", "Wedge", "DeliverRest", "Flush", "Obtain", "Vote", "Save", "Close", "Deliver", "Install"];
    assert_stopped_before(&positions, &[&shows[..], &rest[..]].concat());
    // The test would notice a node that does not persist a vote before it shows it.
    for bug in [Bug::ShowBeforeSaved, Bug::VoteBeforeSaved] {
        assert_notices(bug, in_a_view_change, "two decisions");
    }
}

#[test]
fn a_restart_survives_a_crash_at_any_step() {
    let positions = in_a_restart().unwrap();
    let shows = ["Show(Flush)", "Show(Vote)"];
    let rest = ["FetchLog", "Vote", "Save", "CloseLog", "Settle", "Resume", "Start", "Install"];
    assert_stopped_before(&positions, &[&shows[..], &rest[..]].concat());
}

#[test]
fn a_view_change_survives_a_power_failure_at_any_step() {
    let long = std::env::var_os("GALERNA_LONG").is_some();
    let positions = of_all_at_once(if long { &[0, 1, 2, 3, 4, 5] } else { &[2, 5] }).unwrap();
    let with_slow_disks = || of_all_at_once(&[0, 2, 5]);
    assert_notices(Bug::LeaverSavesFirst, with_slow_disks, "no majority runs");
    // A member that promised more than it has cannot end the view after the restart.
    assert_notices(Bug::FlushBeforeSaved, with_slow_disks, "before what was decided");
    let shows = ["Show(Flush)", "Show(Vote)"];
    let rest = ["Wedge", "Flush", "Vote", "Save", "Close", "Deliver", "Install", "Part"];
    assert_stopped_before(&positions, &[&shows[..], &rest[..]].concat());
}

/// The kinds of the actions that follow from `fact`.
fn follows(membership: &mut Membership, at: &Moment, fact: Fact<'_>, fabric: &mut dyn Fabric) -> Vec<String> {
    let mut todo = Actions::new();
    assert!(membership.step(at, fact, fabric, &mut todo).is_ok());
    todo.iter().map(kind).collect()
}

#[test]
fn the_steps_at_the_end_of_an_epoch_come_in_order() {
    let net = Net::new(&[membership::table_spec()], false, 7);
    let (_, mut fabric, rows) = net.process(0);
    let me = Peer { slot: 0, id: MemberId(1), incarnation: 1 };
    let mut alone = Membership::new(me, rows[0].clone(), settings(0), 0);
    assert!(alone.found(View::first(&[me], 1, 0)).is_some(), "a founder with a log has to save the view first");
    assert!(!alone.publish(&Show::View, &mut fabric));
    let at = Moment { now_ms: 0, until_ms: 1000, role: Role::Runs { leaves: false, is_silent: false, ending: false } };
    let ends = vec![End { messages: 0, frames: 0, word: 0 }];
    assert_eq!(follows(&mut alone, &at, Fact::Pass, &mut fabric), ["Run"]);
    assert_eq!(follows(&mut alone, &at, Fact::Wedged(ends.clone()), &mut fabric), ["DeliverRest", "Flush"]);
    // The vote is the last action of the list.
    let here = Fact::Here { have: ends.clone(), awaited: Vec::new() };
    assert_eq!(follows(&mut alone, &at, here, &mut fabric), ["Show(Flush)", "Vote"]);
    // Before the flush is shown, there is nothing to vote on.
    assert_eq!(follows(&mut alone, &at, Fact::Clock, &mut fabric), ["Show(Vote)"]);
    assert!(alone.publish(&Show::Flush(ends), &mut fabric));
    assert_eq!(follows(&mut alone, &at, Fact::Clock, &mut fabric), ["Save", "Show(Vote)"]);
    // The same vote is saved once.
    assert_eq!(follows(&mut alone, &at, Fact::Clock, &mut fabric), ["Show(Vote)"]);
}
