//! Processes that are attached while others are at work, and slots that pass to another process.

use super::links::{ACK, COUNTER, HALF, acknowledge, half, image, rounds, rounds_after};
use super::*;
use crate::error::Error;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// Offset of the acknowledgements: one per writer, a cache line apart.
const ACKS: usize = 1024;
/// Offset of a word per peer that was attached late: the first round that is for this peer, too. It is one more than
/// the last round that the writer had posted.
const FROMS: usize = 2048;

/// Links that are still to be attached, each from a given round on. The last one comes first.
type Late = Vec<(u64, Rank, Connection)>;

/// Writes rounds to all peers that the member has attached, until it and they have all rounds.
fn party(
    rank: Rank,
    members: usize,
    founders: Vec<Rank>,
    mut late: Late,
    last: u64,
) -> impl FnMut(&mut Endpoint) -> bool + Send {
    let (mut posted, mut seen) = (0, [0; SLOT_OF.len()]);
    // Each peer with the first round that it must acknowledge.
    let mut peers: Vec<(Rank, u64)> = founders.iter().map(|&peer| (peer, 1)).collect();
    move |me| {
        while let Some((_, peer, link)) = late.pop_if(|(round, ..)| *round <= posted) {
            me.attach(peer, link);
            me.announce(&[peer], FROMS + 64 * peer, posted + 1);
            peers.push((peer, posted + 1));
        }
        for &(peer, _) in &peers {
            let from = if founders.contains(&peer) { 1 } else { me.sees(peer, FROMS + 64 * rank) };
            let counter = me.sees(peer, COUNTER);
            if from > 0 && counter >= from && counter != seen[peer] {
                assert_filled(me.row(peer), half(counter), counter * 8 + peer as u64);
                seen[peer] = counter;
                me.announce(&[peer], ACKS + 64 * peer, counter);
            }
        }
        let has = |(peer, since): (Rank, u64)| posted < since || me.sees(peer, ACKS + 64 * rank) == posted;
        let all_have = peers.iter().copied().all(has);
        if all_have && posted < last && me.may_change() {
            posted += 1;
            fill(me.own(), half(posted), posted * 8 + rank as u64);
            let ranks: Vec<Rank> = peers.iter().map(|(peer, _)| *peer).collect();
            for &peer in &ranks {
                me.write(peer, half(posted), Source::Stable);
            }
            me.announce(&ranks, COUNTER, posted);
            return false;
        }
        all_have && posted == last && (0..members).all(|peer| peer == rank || seen[peer] == last)
    }
}

/// Three members are at work when a fourth is attached. Each attaches it at another time, and it attaches each of them
/// at another time.
pub(crate) fn whoever_comes_late_takes_part<H: Harness>() {
    const ROUNDS: u64 = 80;
    let (mut harness, mut members) = H::cluster(3, &[table(1, 2 * HALF)]);
    members.push(harness.process(SLOT_OF[3]));
    let mut late: Vec<Late> = (0..4).map(|_| Late::new()).collect();
    for founder in 0..3 {
        let [of_founder, of_late] = harness.link(SLOT_OF[founder], SLOT_OF[3]);
        late[founder].push((10 + 20 * founder as u64, 3, of_founder));
        late[3].insert(0, (15 * founder as u64, founder, of_late));
    }
    let founders = |rank: Rank| (0..3).filter(|r| rank < 3 && *r != rank).collect::<Vec<_>>();
    let act = |(rank, late)| Box::new(party(rank, 4, founders(rank), late, ROUNDS)) as Act<'_>;
    run(&mut harness, &mut members, late.into_iter().enumerate().map(act).collect());
    settle(&mut harness, &mut members);
    members.iter().for_each(|member| assert_eq!(member.events, []));
}

/// How the slot of a process becomes free for another one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Farewell {
    Sever,
    Release,
    /// Nothing is called: the attachment itself ends the former link.
    None,
}

/// The former process goes on writing while its successor is attached and writes, too.
pub(crate) fn a_slot_attached_anew_starts_at_zero<H: Harness>() {
    const BASE: u64 = 1000;
    const ROUNDS: u64 = 20;
    for (cut, farewell) in (0..24).zip([Farewell::Sever, Farewell::Release, Farewell::None].into_iter().cycle()) {
        let (mut harness, mut members) = H::cluster(2, &[table(1, 2 * HALF)]);
        let mut successor = harness.process(SLOT_OF[1]);
        let [of_keeper, of_successor] = harness.link(SLOT_OF[0], SLOT_OF[1]);
        successor.attach(0, of_successor);
        members.push(successor);
        let (mut link, mut old) = (Some(of_keeper), None);
        let keeper = |me: &mut Endpoint| {
            if old.is_some() {
                return me.sees(1, COUNTER) > BASE && acknowledge(me, 1, &[1]) == BASE + ROUNDS;
            }
            if acknowledge(me, 1, &[1]) >= cut {
                me.fabric.submit();
                match farewell {
                    Farewell::Sever => me.sever(1),
                    Farewell::Release => me.release(1),
                    Farewell::None => {}
                }
                let row = me.rows[1][0].clone();
                me.attach(1, link.take().unwrap());
                assert!(image(me.row(1)).iter().all(|word| *word == 0), "{farewell:?}");
                let counter = row.word(COUNTER).load(Ordering::Acquire);
                if counter > 0 {
                    assert_filled(&row, half(counter), counter);
                }
                old = Some((image(&row), row));
                // The successor has waited for this.
                me.announce(&[1], ACK, BASE);
            }
            false
        };
        let former = rounds(&[0], cut + 10);
        let successor = rounds_after(BASE, &[0], BASE + ROUNDS);
        run(&mut harness, &mut members, vec![Box::new(keeper), Box::new(former), Box::new(successor)]);
        settle(&mut harness, &mut members);
        let (kept, row) = old.unwrap();
        assert!(kept == image(&row), "{farewell:?}: the former process has written to its old row");
        assert!(image(members[0].row(1)) == image(members[2].own()), "{farewell:?}: not what the successor wrote");
        assert_eq!(members[0].events, [], "{farewell:?}");
        assert_eq!((members[1].links_down(0), members[1].events.len()), (1, 1), "{farewell:?}");
        assert_eq!(members[2].events, [], "{farewell:?}");
    }
}

/// Bad slots and connections are refused, and the existing link goes on.
pub(crate) fn bad_slots_and_connections_are_refused<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, 64)]);
    for slot in [SLOT_OF[0], SLOTS, usize::MAX] {
        let [link, _other] = harness.link(SLOT_OF[0], SLOT_OF[1]);
        assert!(matches!(members[0].fabric.attach(slot, link), Err(Error::Misuse(_))), "slot {slot}");
    }
    let foreign = if H::HAS_FD && !H::SHARED {
        Connection::Simulated(0)
    } else {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Connection::Tcp(TcpStream::connect(listener.local_addr().unwrap()).unwrap().into())
    };
    assert!(matches!(members[0].fabric.attach(SLOT_OF[1], foreign), Err(Error::Misuse(_))));
    let reader = |me: &mut Endpoint| me.sees(0, COUNTER) == 1;
    let writer = |me: &mut Endpoint| {
        me.announce(&[1], COUNTER, 1);
        true
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
    members.iter().for_each(|member| assert_eq!(member.events, []));
}
