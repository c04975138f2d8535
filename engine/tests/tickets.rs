//! Tickets: a sender waits until its own message is delivered or durable, and recognises it when it is delivered.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/folder.rs"]
mod folder;

use galerna::{
    Config, Delivery, Error, FabricKind, Group, LogConfig, Member, MemberId, Mode, SubgroupId, Ticket, Until,
};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(60);

fn config(fabric: FabricKind, n: u32) -> Config {
    let addresses = (1..=n).zip(common::addresses(fabric, n));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    let mut config = Config::new("tickets", fabric, members);
    config.ring_bytes = 64 << 10;
    config.verbs = common::patient_verbs();
    config
}

/// One delivery: the sender, the ticket, the time, the payload.
type Seen = Arc<Mutex<Vec<(MemberId, Option<Ticket>, u64, Vec<u8>)>>>;

fn join_all(config: &Config, blocked: &Arc<AtomicBool>) -> Vec<(Group, Seen)> {
    let joins: Vec<_> = config
        .members
        .iter()
        .map(|member| {
            let (config, seen) = (config.clone().with_member(member.id), Seen::default());
            let (sink, blocked, last) = (seen.clone(), blocked.clone(), member.id.0 as usize == config.members.len());
            let handler = move |d: Delivery<'_>| {
                while last && blocked.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                sink.lock().unwrap().push((d.sender, d.ticket, d.time_ns, d.payload.to_vec()));
            };
            std::thread::spawn(move || (Group::join(config, handler).unwrap(), seen))
        })
        .collect();
    joins.into_iter().map(|join| join.join().unwrap()).collect()
}

/// Several threads send in all modes, with abandoned reservations between, and each waits for each of its messages.
fn waits_for_each(fabric: FabricKind, modes: &[Mode]) {
    let config = config(fabric, 3);
    let members = join_all(&config, &Arc::default());
    std::thread::scope(|scope| {
        for (group, seen) in &members {
            for thread in 0..2u8 {
                scope.spawn(move || {
                    for i in 0..300u32 {
                        if i % 7 == 0 {
                            let reservation = group.reserve(MAIN, 40, LONG).unwrap();
                            assert_eq!(reservation.as_ptr().addr() % 8, 0, "a reservation begins at a multiple of 8");
                            drop(reservation);
                        }
                        let payload = [&[thread][..], &i.to_le_bytes()].concat();
                        let mode = modes[i as usize % modes.len()];
                        let ticket = group.send(MAIN, mode, &payload, LONG).unwrap();
                        group.wait(MAIN, ticket, Until::Delivered, LONG).unwrap();
                        let me = group.member();
                        let found = |(sender, own, _, bytes): &(MemberId, Option<Ticket>, u64, Vec<u8>)| {
                            *sender == me && *own == Some(ticket) && *bytes == payload
                        };
                        assert!(seen.lock().unwrap().iter().rev().any(found), "{payload:?} with {ticket:?}");
                    }
                });
            }
        }
    });
    for (group, seen) in &members {
        let seen = seen.lock().unwrap();
        let own: Vec<_> = seen.iter().filter(|(sender, ..)| *sender == group.member()).collect();
        let tickets: HashSet<_> = own.iter().map(|(_, ticket, ..)| ticket.unwrap()).collect();
        assert_eq!(tickets.len(), 600, "each message has a ticket of its own");
        assert!(own.is_sorted_by_key(|(_, ticket, ..)| *ticket), "tickets grow in the order of delivery");
        assert!(seen.iter().all(|(_, _, time_ns, _)| *time_ns == 0), "there is no log");
        assert!(seen.iter().all(|(sender, ticket, ..)| (*sender == group.member()) == ticket.is_some()));
    }
    for (group, _) in members {
        group.leave(LONG).unwrap();
    }
}

#[test]
fn each_message_is_waited_for() {
    for fabric in common::fabrics() {
        waits_for_each(fabric, &[Mode::Fifo, Mode::Ordered, Mode::Safe]);
    }
}

#[test]
fn a_wait_ends_with_the_callback_and_not_before() {
    let blocked = Arc::new(AtomicBool::new(true));
    let members = join_all(&config(FabricKind::Shm, 2), &blocked);
    let (group, seen) = &members[1];
    let ticket = group.send(MAIN, Mode::Safe, b"x", LONG).unwrap();
    for _ in 0..20 {
        let early = group.wait(MAIN, ticket, Until::Delivered, Duration::from_millis(5));
        assert!(matches!(early, Err(Error::TimedOut { .. })), "{early:?}");
    }
    let asked = group.wait(MAIN, ticket, Until::Delivered, Duration::ZERO);
    assert!(matches!(asked, Err(Error::TimedOut { .. })), "{asked:?}");
    blocked.store(false, Ordering::SeqCst);
    group.wait(MAIN, ticket, Until::Delivered, LONG).unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1);
    // The ticket stays valid, also for a wait of no time.
    group.wait(MAIN, ticket, Until::Delivered, Duration::ZERO).unwrap();
}

#[test]
fn wrong_waits_are_refused() {
    let members = join_all(&config(FabricKind::Shm, 1), &Arc::default());
    let group = &members[0].0;
    let ticket = group.send(MAIN, Mode::Safe, b"x", LONG).unwrap();
    let future = Ticket::new(ticket.get() + 1).unwrap();
    for future in [future, Ticket::new(u64::MAX).unwrap()] {
        for until in [Until::Delivered, Until::Durable] {
            let refused = group.wait(MAIN, future, until, LONG);
            assert!(matches!(refused, Err(Error::Misuse(_))), "{refused:?}");
        }
    }
    let durable = group.wait(MAIN, ticket, Until::Durable, LONG);
    assert!(matches!(durable, Err(Error::Misuse(_))), "{durable:?}");
    let unknown = group.wait(SubgroupId(1), ticket, Until::Delivered, LONG);
    assert!(matches!(unknown, Err(Error::UnknownSubgroup(_))), "{unknown:?}");
    assert_eq!(Ticket::new(0), None);
}

#[test]
fn a_wait_ends_when_the_group_ends() {
    let blocked = Arc::new(AtomicBool::new(true));
    let members = join_all(&config(FabricKind::Shm, 2), &blocked);
    // The second member's callback blocks, so its own message waits behind the first one's.
    members[0].0.send(MAIN, Mode::Safe, b"first", LONG).unwrap();
    let group = members[1].0.clone();
    let ticket = group.send(MAIN, Mode::Safe, b"x", LONG).unwrap();
    let waiter = std::thread::spawn(move || group.wait(MAIN, ticket, Until::Delivered, LONG));
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    let left = members[1].0.leave(Duration::from_millis(200));
    assert!(matches!(left, Err(Error::TimedOut { .. })), "{left:?}");
    blocked.store(false, Ordering::SeqCst);
    let ended = waiter.join().unwrap();
    assert!(matches!(ended, Ok(()) | Err(Error::Left)), "{ended:?}");
    assert!(begin.elapsed() < LONG / 2);
}

#[test]
fn a_callback_cannot_wait_for_what_is_not_delivered_yet() {
    let mut config = config(FabricKind::Shm, 1);
    config.ring_bytes = 64 << 10;
    let slot: Arc<Mutex<Option<Group>>> = Arc::default();
    let (inner, answers) = (slot.clone(), Arc::new(Mutex::new(Vec::new())));
    let sink = answers.clone();
    let handler = move |d: Delivery<'_>| {
        if d.payload == b"ask" {
            let group = inner.lock().unwrap().clone().unwrap();
            let next = group.send(MAIN, Mode::Safe, b"next", Duration::ZERO).unwrap();
            sink.lock().unwrap().push(group.wait(MAIN, next, Until::Delivered, LONG));
            // The message itself counts as delivered only after this callback.
            sink.lock().unwrap().push(group.wait(MAIN, d.ticket.unwrap(), Until::Delivered, LONG));
        }
    };
    let group = Group::join(config.with_member(MemberId(1)), handler).unwrap();
    *slot.lock().unwrap() = Some(group.clone());
    let ticket = group.send(MAIN, Mode::Safe, b"ask", LONG).unwrap();
    group.wait(MAIN, ticket, Until::Delivered, LONG).unwrap();
    let answers = std::mem::take(&mut *answers.lock().unwrap());
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::WouldBlock(_)))), "{answers:?}");
    assert_eq!(answers.len(), 2);
    slot.lock().unwrap().take();
}

#[test]
fn a_durable_wait_is_over_when_the_message_is_on_disk_and_deliveries_carry_the_time_of_its_record() {
    let folder = folder::Folder::new("tickets");
    let mut config = config(FabricKind::Tcp, 3);
    config.log = Some(LogConfig::new(&folder.0));
    let members = join_all(&config, &Arc::default());
    let mut sequences = Vec::new();
    for i in 0..40u8 {
        let (group, _) = &members[usize::from(i) % 3];
        let mode = [Mode::Ordered, Mode::Safe, Mode::Durable][usize::from(i / 3) % 3];
        let ticket = group.send(MAIN, mode, &[i; 20], LONG).unwrap();
        group.wait(MAIN, ticket, Until::Durable, LONG).unwrap();
        // From then on a wait of no time succeeds.
        group.wait(MAIN, ticket, Until::Durable, Duration::ZERO).unwrap();
        group.wait(MAIN, Ticket::new(1).unwrap(), Until::Durable, Duration::ZERO).unwrap();
        sequences.push(group.frontiers(MAIN).unwrap().durable);
    }
    assert!(sequences.windows(2).all(|pair| pair[0] <= pair[1]) && sequences[39] >= 40, "{sequences:?}");
    for (group, _) in &members {
        group.flush(MAIN, galerna::Copies::All, LONG).unwrap();
        group.persist(MAIN, LONG).unwrap();
    }
    for (group, seen) in &members {
        let seen = seen.lock().unwrap();
        let times: Vec<_> = seen.iter().map(|(_, _, time_ns, bytes)| (*time_ns, bytes.clone())).collect();
        let log: Vec<_> = group.read_log(MAIN).unwrap().iter(..).map(|entry| entry.unwrap()).collect();
        let records = log.iter().map(galerna::log::Entry::record).filter(|r| r.kind == galerna::log::Kind::Message);
        let records: Vec<_> = records.map(|record| (record.time_ns, record.payload.to_vec())).collect();
        assert_eq!(times, records);
    }
}
