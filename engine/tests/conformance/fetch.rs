//! Data that a member fetches instead of receiving them by their owner's write.

use super::links::{ACK, COUNTER, HALF, acknowledge, rounds};
use super::*;

const LARGE: usize = 4 << 20;
const SMALL: usize = 1 << 20;
const DATA: usize = LARGE + SMALL;

/// The round with which every owner fills its data.
const ROUND: u64 = 77;

/// The owner's act: writes all its data to `peers`, and stays until they have acknowledged them.
fn give<'a>(peers: &'a [Rank]) -> Act<'a> {
    let mut posted = false;
    Box::new(move |me| {
        if !std::mem::replace(&mut posted, true) {
            fill(me.own(), COLUMNS..COLUMNS + DATA, ROUND);
            for &peer in peers {
                me.write(peer, COLUMNS..COLUMNS + DATA, Source::Stable);
            }
            me.announce(peers, COUNTER, 1);
        }
        peers.iter().all(|peer| me.sees(*peer, ACK) == 1)
    })
}

fn take(owner: Rank) -> Act<'static> {
    Box::new(move |me| {
        let has = me.sees(owner, COUNTER) == 1;
        if has && me.own().word(ACK).load(Ordering::Relaxed) == 0 {
            me.announce(&[owner], ACK, 1);
        }
        has
    })
}

/// Member 2 has given its data to member 1 only, and has died. Member 0 fetches them from member 1, while both write
/// rounds.
pub(crate) fn a_dead_members_data_come_from_another<H: Harness>() {
    const ROUNDS: u64 = 100;
    let (mut harness, mut members) = H::cluster(3, &[table(1, DATA)]);
    run(&mut harness, &mut members, vec![idle(), take(2), give(&[1])]);
    harness.kill(members.remove(2));
    assert!(H::SHARED || members[0].row(2).word(COLUMNS).load(Ordering::Relaxed) == 0);

    let mut random = Random(41);
    let mut asked = Vec::new();
    let mut end = COLUMNS + LARGE;
    while end < COLUMNS + DATA {
        let start = end;
        end = (end + 8 * (1 + random.below(200))).min(COLUMNS + DATA);
        asked.push(start..end);
    }
    asked.push(COLUMNS..COLUMNS + LARGE);
    let count = asked.len();
    // Fetched in another order than they have in memory.
    for i in (1..count).rev() {
        asked.swap(i, random.below(i + 1));
    }
    let want: Vec<_> = asked.iter().map(|range| (2, range.clone())).collect();
    // The counters that `give` and `take` left have no meaning here.
    for member in &members {
        for word in [COUNTER, ACK] {
            member.own().word(word).store(0, Ordering::Relaxed);
        }
    }
    let (mut write, mut next, mut checked) = (rounds(&[1], ROUNDS), 0, 0);
    let fetcher = |me: &mut Endpoint| {
        // A few at a time, so that the fetches come between the writes.
        for _ in 0..random.below(50) {
            if next < count && me.links_down(2) == 1 {
                me.fetch(1, 2, asked[next].clone());
                next += 1;
            }
        }
        let fetched = me.fetched(1);
        fetched[checked..].iter().for_each(|(_, range)| assert_filled(me.row(2), range.clone(), ROUND));
        checked = fetched.len();
        let read = acknowledge(me, 1, &[1]);
        write(me) && read == ROUNDS && checked == count
    };
    let mut write = rounds(&[0], ROUNDS);
    let source = |me: &mut Endpoint| {
        let read = acknowledge(me, 0, &[0]);
        write(me) && read == ROUNDS
    };
    run(&mut harness, &mut members, vec![Box::new(fetcher), Box::new(source)]);
    settle(&mut harness, &mut members);
    assert!(members[0].fetched(1) == want, "not what was asked for, in this order");
    assert_filled(members[0].row(2), COLUMNS..COLUMNS + DATA, ROUND);
    assert_filled(members[1].row(2), COLUMNS..COLUMNS + DATA, ROUND);
    assert_eq!((members[0].links_down(2), members[0].events.len()), (1, count + 1));
    assert_eq!((members[1].links_down(2), members[1].events.len()), (1, 1));
}

/// The owner never wrote its data to any peer; a fetch from the owner brings them.
pub(crate) fn data_come_from_their_owner<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, 2 * HALF)]);
    fill(members[1].own(), COLUMNS..COLUMNS + 2 * HALF, ROUND);
    let ranges = [COLUMNS..COLUMNS + 8, COLUMNS + 2 * HALF - 8..COLUMNS + 2 * HALF, COLUMNS..COLUMNS + HALF];
    let mut asked = false;
    let fetcher = |me: &mut Endpoint| {
        if !std::mem::replace(&mut asked, true) {
            ranges.iter().for_each(|range| me.fetch(1, 1, range.clone()));
        }
        me.fetched(1).len() == ranges.len()
    };
    run(&mut harness, &mut members, vec![Box::new(fetcher), idle()]);
    for range in ranges {
        assert_filled(members[0].row(1), range, ROUND);
    }
    let rest = COLUMNS + HALF..COLUMNS + 2 * HALF - 8;
    assert!(H::SHARED || rest.step_by(8).all(|at| members[0].row(1).word(at).load(Ordering::Relaxed) == 0));
    assert_eq!(members[0].events.len(), 3);
    assert_eq!(members[1].events, []);
}

/// The peer dies when any part of the answers may have been sent. Fetched ranges are complete; the rest is fetched from
/// another member.
pub(crate) fn a_fetch_from_a_peer_that_dies_ends_with_the_link<H: Harness>() {
    const PARTS: usize = 8;
    let part = |i: usize| COLUMNS + DATA / PARTS * i..COLUMNS + DATA / PARTS * (i + 1);
    for cut in 0..10 {
        let (mut harness, mut members) = H::cluster(3, &[table(1, DATA)]);
        run(&mut harness, &mut members, vec![idle(), take(2), give(&[1])]);
        (0..PARTS).for_each(|i| members[0].fetch(1, 2, part(i)));
        for _ in 0..cut {
            for member in &mut members[..2] {
                member.poll();
                harness.step();
            }
        }
        harness.kill(members.remove(1));
        let until_down = |me: &mut Endpoint| me.links_down(1) == 1;
        run(&mut harness, &mut members, vec![Box::new(until_down), Box::new(until_down)]);
        let me = &mut members[0];
        let got = me.fetched(1).len();
        assert!(me.fetched(1) == (0..got).map(|i| (2, part(i))).collect::<Vec<_>>());
        assert!(matches!(me.events.last(), Some(Event::LinkDown { .. })), "{:?}", me.events);
        (0..got).for_each(|i| assert_filled(me.row(2), part(i), ROUND));
        let before = me.events.len();
        let mut asked = false;
        let fetcher = |me: &mut Endpoint| {
            if !std::mem::replace(&mut asked, true) {
                me.fetch(1, 2, part(0));
                (got..PARTS).for_each(|i| me.fetch(2, 2, part(i)));
            }
            me.fetched(2).len() == PARTS - got
        };
        run(&mut harness, &mut members, vec![Box::new(fetcher), idle()]);
        settle(&mut harness, &mut members);
        assert_filled(members[0].row(2), COLUMNS..COLUMNS + DATA, ROUND);
        assert_eq!(members[0].events.len(), before + PARTS - got);
    }
}

/// A fetch from a peer that was never attached, was severed or was released does nothing. The owner of the row may be
/// such a process, too.
pub(crate) fn a_fetch_from_nobody_does_nothing<H: Harness>() {
    let (mut harness, mut members) = H::cluster(4, &[table(1, 4096)]);
    members[0].sever(1);
    members[0].release(2);
    for peer in [0, 1, 2, 4, 5] {
        for owner in 1..4 {
            members[0].fetch(peer, owner, COLUMNS..COLUMNS + 4096);
        }
    }
    assert!(!members[0].fabric.has_unsent());
    settle(&mut harness, &mut members);
    assert_eq!(members[0].events, []);
    assert_eq!(members[3].events, []);
}
