//! Networks that lose packets and break, under groups on RDMA. The tests need the simulated hosts of `soft-roce/run`;
//! commands of these (`rxe-cut` and others) cause the faults. Elsewhere every test reports that it is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use galerna::Verbs;
use galerna::{Config, Delivery, Error, FabricKind, Group, Member, MemberId, Mode, SubgroupId};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(60);
/// The host, and therefore the member, that suffers every fault.
const VICTIM: &str = "3";

/// The deliveries of one member: sender and number.
type History = Arc<Mutex<Vec<(u32, u32)>>>;

/// Exclusive use of the one network, which is intact at the beginning and at the end of each test.
struct Network(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Network {
    fn take() -> Option<Network> {
        static ALONE: Mutex<()> = Mutex::new(());
        let there = common::fabrics().contains(&FabricKind::Verbs);
        there.then(|| Network(ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn does(&self, command: &str, arguments: &[&str]) {
        let status =
            Command::new(command).args(arguments).status().expect("soft-roce/run has these commands on its PATH");
        assert!(status.success(), "{command} {arguments:?}: {status}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("rxe-heal").arg(VICTIM).status();
    }
}

/// Makes three members on three hosts.
fn group(failure_timeout_ms: u64, verbs: Verbs) -> Vec<(Group, History)> {
    let addresses = (1..).zip(common::addresses(FabricKind::Verbs, 3));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    let config = Config {
        ring_bytes: 64 << 10,
        failure_timeout_ms,
        verbs,
        partition_timeout_ms: failure_timeout_ms.max(4000),
        ..Config::new("faults", FabricKind::Verbs, members)
    };
    let joins = (1..=3).map(|id| {
        let config = config.clone().with_member(MemberId(id));
        std::thread::spawn(move || {
            let history = History::default();
            let sink = history.clone();
            let handler = move |d: Delivery<'_>| {
                let number = u32::from_le_bytes(d.payload[..4].try_into().unwrap());
                sink.lock().unwrap().push((d.sender.0, number));
            };
            (Group::join(config, handler).unwrap(), history)
        })
    });
    joins.collect::<Vec<_>>().into_iter().map(|join| join.join().unwrap()).collect()
}

/// Sends numbers until a send is refused, or `most` were sent. Returns the count.
fn send(group: &Group, most: u32) -> u32 {
    let mut payload = [7; 500];
    for number in 0..most {
        payload[..4].copy_from_slice(&number.to_le_bytes());
        match group.send(MAIN, Mode::Safe, &payload, LONG) {
            Ok(_) => {}
            Err(Error::TimedOut { .. }) => panic!("member {} waits for ever", group.member()),
            Err(_) => return number,
        }
    }
    most
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A member is cut off while all send. The others go on without it, and it delivers nothing that they do not.
fn is_removed_after(fault: &str) {
    let Some(network) = Network::take() else { return };
    let members = group(1500, common::patient_verbs());
    std::thread::scope(|scope| {
        for (group, _) in &members {
            scope.spawn(|| send(group, 1_000_000));
        }
        let [first, second, third] = &members[..] else { unreachable!() };
        wait_for("a stream", || first.1.lock().unwrap().len() > 500);
        network.does(fault, &[VICTIM]);
        let since = Instant::now();
        wait_for("the next view", || [first, second].iter().all(|(group, _)| group.view().number > 0));
        println!("{fault}: the others went on after {:?}: {:?}", since.elapsed(), first.0.fault(MemberId(3)));
        for (group, _) in [first, second] {
            assert_eq!(
                (&group.view().members, &group.view().failed),
                (&vec![MemberId(1), MemberId(2)], &vec![MemberId(3)])
            );
        }
        let before = first.1.lock().unwrap().len();
        wait_for("deliveries without it", || first.1.lock().unwrap().len() > before + 500);
        wait_for("the end of the one that is cut off", || third.0.stopped().is_some());
        println!("{fault}: it stopped: {}", third.0.stopped().unwrap());
        members.iter().for_each(|(group, _)| group.abandon());
    });
    let histories: Vec<_> = members.iter().map(|(_, history)| history.lock().unwrap().clone()).collect();
    let common = histories[0].len().min(histories[1].len());
    assert_eq!(histories[0][..common], histories[1][..common]);
    assert!(histories[0].starts_with(&histories[2]) || histories[1].starts_with(&histories[2]), "it went its own way");
}

#[test]
fn a_host_whose_cable_is_pulled_is_removed() {
    is_removed_after("rxe-cut");
}

#[test]
fn a_host_behind_a_broken_switch_is_removed() {
    is_removed_after("rxe-isolate");
}

/// TCP traffic goes on, but an answer over TCP is no sign of life.
#[test]
fn a_host_that_loses_all_rdma_packets_is_removed() {
    is_removed_after("rxe-drop");
}

#[test]
fn a_host_whose_interface_goes_down_is_removed() {
    is_removed_after("rxe-down");
}

/// No member loses its place, and no message is lost, while `fault` lasts.
fn is_survived(each: u32, verbs: Verbs, fault: impl FnOnce(&Network)) {
    let Some(network) = Network::take() else { return };
    let members = group(20_000, verbs);
    std::thread::scope(|scope| {
        for (group, _) in &members {
            scope.spawn(|| assert_eq!(send(group, each), each, "{:?}", group.stopped()));
        }
        fault(&network);
    });
    wait_for("all deliveries", || members.iter().all(|(_, h)| h.lock().unwrap().len() == 3 * each as usize));
    let first = members[0].1.lock().unwrap().clone();
    for (group, history) in &members {
        let faults = [1, 2, 3].map(|id| group.fault(MemberId(id)));
        assert_eq!(group.view().number, 0, "{faults:?}");
        assert_eq!(*history.lock().unwrap(), first);
    }
}

/// The devices resend lost packets.
#[test]
fn lost_packets_cost_nobody_its_place() {
    is_survived(1000, Verbs { timeout: 16, ..Verbs::default() }, |network| network.does("rxe-drop", &[VICTIM, "1"]));
}

#[test]
fn a_short_silence_costs_nobody_its_place() {
    // The commands take time, too.
    is_survived(5000, common::patient_verbs(), |network| {
        network.does("rxe-drop", &[VICTIM]);
        std::thread::sleep(Duration::from_millis(300));
        network.does("rxe-drop", &[VICTIM, "0"]);
    });
}
