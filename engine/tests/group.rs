//! Whole members in one process, over the real fabrics: one order, every mode, flush, leave, failures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use galerna::{Config, Delivery, Error, FabricKind, Group, Member, MemberId, Mode, SubgroupId};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(60);

/// The deliveries of one member: sender, sequence number, payload.
type History = Arc<Mutex<Vec<(u32, u64, Vec<u8>)>>>;

fn addresses(fabric: FabricKind, n: u32) -> Vec<Member> {
    let addresses = (1..=n).zip(common::addresses(fabric, n));
    addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect()
}

fn config(fabric: FabricKind, n: u32) -> Config {
    let mut config = Config::new("test", fabric, addresses(fabric, n));
    config.ring_bytes = 64 << 10;
    config.verbs = common::patient_verbs();
    config
}

fn recorder() -> (History, impl FnMut(Delivery<'_>) + Send + 'static) {
    let history = History::default();
    let sink = history.clone();
    (history, move |d: Delivery<'_>| sink.lock().unwrap().push((d.sender.0, d.sequence, d.payload.to_vec())))
}

fn join_all(config: &Config) -> Vec<(Group, History)> {
    let ids: Vec<_> = config.members.iter().map(|m| m.id).collect();
    let joins = ids.into_iter().map(|id| {
        let config = config.clone().with_member(id);
        std::thread::spawn(move || {
            let (history, handler) = recorder();
            (Group::join(config, handler).unwrap(), history)
        })
    });
    joins.collect::<Vec<_>>().into_iter().map(|j| j.join().unwrap()).collect()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn one_order(fabric: FabricKind, n: u32, mode: Mode) {
    let each = 3000u32;
    let members = join_all(&config(fabric, n));
    std::thread::scope(|scope| {
        for (group, _) in &members {
            scope.spawn(move || {
                for i in 0..each {
                    let len = 4 + (i as usize * 37) % 900;
                    let mut payload = vec![i as u8; len];
                    payload[..4].copy_from_slice(&i.to_le_bytes());
                    group.send(MAIN, mode, &payload, LONG).unwrap();
                }
                group.flush(MAIN, galerna::Copies::All, LONG).unwrap();
            });
        }
    });
    let all = (n * each) as usize;
    wait_for("all deliveries", || members.iter().all(|(_, h)| h.lock().unwrap().len() == all));
    let histories: Vec<_> = members.iter().map(|(_, h)| h.lock().unwrap().clone()).collect();
    for history in &histories {
        if mode != Mode::Fifo {
            assert_eq!(history, &histories[0]);
        }
        for sender in 1..=n {
            let numbers =
                history.iter().filter(|m| m.0 == sender).map(|m| u32::from_le_bytes(m.2[..4].try_into().unwrap()));
            assert!(numbers.eq(0..each), "sender {sender} out of order");
        }
    }
    let leaves: Vec<_> = members.into_iter().map(|(g, _)| std::thread::spawn(move || g.leave(LONG))).collect();
    for leave in leaves {
        leave.join().unwrap().unwrap();
    }
}

#[test]
fn tcp_safe() {
    one_order(FabricKind::Tcp, 3, Mode::Safe);
}

#[test]
fn shm_safe() {
    one_order(FabricKind::Shm, 3, Mode::Safe);
}

#[test]
fn verbs_in_every_mode() {
    if common::fabrics().contains(&FabricKind::Verbs) {
        one_order(FabricKind::Verbs, 3, Mode::Safe);
        one_order(FabricKind::Verbs, 5, Mode::Ordered);
        one_order(FabricKind::Verbs, 2, Mode::Fifo);
    }
}

#[test]
fn tcp_ordered_five_members() {
    one_order(FabricKind::Tcp, 5, Mode::Ordered);
}

#[test]
fn shm_ordered_five_members() {
    one_order(FabricKind::Shm, 5, Mode::Ordered);
}

#[test]
fn tcp_fifo() {
    one_order(FabricKind::Tcp, 2, Mode::Fifo);
}

#[test]
fn shm_fifo_alone() {
    one_order(FabricKind::Shm, 1, Mode::Fifo);
}

#[test]
fn the_others_go_on_when_a_member_fails() {
    for fabric in common::fabrics() {
        let mut members = join_all(&config(fabric, 3));
        drop(members.remove(1));
        for (group, _) in &members {
            wait_for("the next view", || group.view().number == 1);
            let view = group.view();
            assert_eq!(
                (&view.members, &view.failed),
                (&vec![MemberId(1), MemberId(3)], &vec![MemberId(2)]),
                "{fabric}"
            );
            group.send(MAIN, Mode::Safe, b"we go on", LONG).unwrap();
            group.flush(MAIN, galerna::Copies::All, LONG).unwrap();
        }
        for (_, history) in &members {
            wait_for("both messages", || history.lock().unwrap().len() == 2);
        }
    }
}

#[test]
fn a_leaver_is_named_and_loses_nothing() {
    for fabric in common::fabrics() {
        let mut members = join_all(&config(fabric, 3));
        let (leaver, _) = members.remove(0);
        for i in 0..500u32 {
            leaver.send(MAIN, Mode::Safe, &i.to_le_bytes(), LONG).unwrap();
        }
        leaver.leave(LONG).unwrap();
        assert!(matches!(leaver.try_send(MAIN, Mode::Safe, b"x"), Err(Error::Left)));
        assert!(matches!(leaver.leave(LONG), Err(Error::Left)));
        for (group, history) in &members {
            wait_for("the next view", || group.view().number == 1);
            assert_eq!(group.view().left, [MemberId(1)]);
            assert_eq!(history.lock().unwrap().len(), 500);
        }
    }
}

/// Neither of two members can know whether the other one is dead or only cut off.
#[test]
fn one_of_two_stops_unless_it_is_told_to_go_on() {
    for fabric in common::fabrics() {
        for lone_survivor in [false, true] {
            let mut members = join_all(&Config { lone_survivor, partition_timeout_ms: 2000, ..config(fabric, 2) });
            drop(members.remove(0));
            let (group, _) = &members[0];
            if lone_survivor {
                wait_for("the next view", || group.view().members == [MemberId(2)]);
                group.send(MAIN, Mode::Safe, b"alone", LONG).unwrap();
                group.flush(MAIN, galerna::Copies::All, LONG).unwrap();
            } else {
                wait_for("the group to stop", || group.stopped().is_some());
                assert!(matches!(group.stopped(), Some(Error::Partitioned { view: 0, .. })), "{:?}", group.stopped());
                let refused = group.try_send(MAIN, Mode::Safe, b"too late").unwrap_err();
                assert!(matches!(refused, Error::Partitioned { .. }), "{refused}");
                assert!(matches!(group.flush(MAIN, galerna::Copies::All, LONG), Err(Error::Partitioned { .. })));
            }
        }
    }
}

#[test]
fn the_applications_own_loop_can_drive() {
    for fabric in common::fabrics() {
        let config = config(fabric, 2);
        let threads: Vec<_> = (1..=2)
            .map(|id| {
                let config = config.clone().with_member(MemberId(id));
                std::thread::spawn(move || {
                    let (history, handler) = recorder();
                    let (group, mut driver) = Group::join_driven(config, handler).unwrap();
                    let mut sent = 0u32;
                    let done = driver.wait(LONG, || {
                        while sent < 2000 && group.try_send(MAIN, Mode::Safe, &sent.to_le_bytes()).is_ok() {
                            sent += 1;
                        }
                        history.lock().unwrap().len() == 4000
                    });
                    assert!(done.unwrap());
                    let flush = group.start_flush(MAIN, galerna::Copies::All).unwrap();
                    assert!(driver.wait(LONG, || flush.is_done()).unwrap());
                    driver.leave(LONG).unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    }
}

/// The others see a leave, and are delivered everything that was accepted, also the messages behind an open
/// reservation.
#[test]
fn an_open_reservation_does_not_hold_up_a_leave() {
    for fabric in common::fabrics() {
        for commits in [false, true] {
            let members = join_all(&config(fabric, 3));
            let (leaver, (stays, history)) = (&members[0].0, &members[1]);
            let mut open = leaver.reserve(MAIN, 4, LONG).unwrap();
            for _ in 0..20 {
                leaver.send(MAIN, Mode::Safe, b"behind", LONG).unwrap();
            }
            std::thread::scope(|scope| {
                let leaves = scope.spawn(|| leaver.leave(Duration::from_secs(if commits { 40 } else { 6 })));
                wait_for("the leave's begin", || matches!(leaver.try_send(MAIN, Mode::Safe, b"x"), Err(Error::Left)));
                if commits {
                    open.copy_from_slice(b"open");
                    open.commit(Mode::Safe).unwrap();
                    leaves.join().unwrap().unwrap();
                } else {
                    leaves.join().unwrap().unwrap();
                    // The bytes of the reservation stay valid as long as it exists.
                    open.copy_from_slice(b"late");
                    assert!(matches!(open.commit(Mode::Safe), Err(Error::Left)), "{fabric}");
                }
            });
            wait_for("the view without it", || stays.view().members.len() == 2);
            assert_eq!(
                (stays.view().left.clone(), stays.view().failed.clone()),
                (vec![MemberId(1)], vec![]),
                "{fabric}"
            );
            let count = |text: &[u8]| history.lock().unwrap().iter().filter(|(_, _, bytes)| bytes == text).count();
            let expected = if commits { (20, 1, 0) } else { (20, 0, 0) };
            assert_eq!((count(b"behind"), count(b"open"), count(b"late")), expected, "{fabric}");
        }
    }
}

/// The same for a group that the application drives, and for a leave that begins in a callback.
#[test]
fn a_driven_leave_and_one_from_a_callback_drop_open_reservations_too() {
    let config = config(FabricKind::Tcp, 2);
    let own = config.clone().with_member(MemberId(1));
    let driven = std::thread::spawn(move || {
        let (group, driver) = Group::join_driven(own, |_: Delivery<'_>| {}).unwrap();
        let open = group.reserve(MAIN, 4, LONG).unwrap();
        driver.leave(Duration::from_secs(4)).unwrap();
        assert!(matches!(open.commit(Mode::Safe), Err(Error::Left)));
    });
    let cell: Arc<Mutex<Option<Group>>> = Arc::default();
    let (inside, leaves) = (cell.clone(), Arc::new(Mutex::new(None)));
    let said = leaves.clone();
    let group = Group::join(config.with_member(MemberId(2)), move |_: Delivery<'_>| {
        if let Some(group) = inside.lock().unwrap().take() {
            *said.lock().unwrap() = Some(group.leave(Duration::from_secs(4)));
        }
    });
    let group = group.unwrap();
    driven.join().unwrap();
    wait_for("the view without the driven one", || group.view().left == [MemberId(1)]);
    *cell.lock().unwrap() = Some(group.clone());
    group.send(MAIN, Mode::Safe, b"leave", LONG).unwrap();
    let open = group.reserve(MAIN, 4, LONG);
    wait_for("the leave", || leaves.lock().unwrap().is_some());
    assert!(matches!(*leaves.lock().unwrap(), Some(Err(Error::WouldBlock(_)))));
    if let Ok(open) = open {
        wait_for("the drop", || group.start_flush(MAIN, galerna::Copies::All).is_err());
        std::thread::sleep(Duration::from_secs(3));
        assert!(matches!(open.commit(Mode::Safe), Err(Error::Left)));
    }
}
