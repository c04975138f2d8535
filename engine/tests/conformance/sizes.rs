//! Writes of every size, many at once, and between many members.

use super::*;

const COUNTER: usize = 0;
/// Offset of the acknowledgements: one per sender, a cache line apart.
const ACKS: usize = 1024;

/// Sizes from one word to the whole data area, at the beginning, at the end and anywhere.
pub(crate) fn every_size_arrives<H: Harness>() {
    const DATA: usize = 8 << 20;
    let (mut harness, mut members) = H::cluster(2, &[table(1, DATA)]);
    let mut random = Random(6);
    let mut ranges = Vec::new();
    for len in [8, 16, 64, 4096, 65_536, (3 << 20) + 8, DATA] {
        let anywhere = 8 * random.below((DATA - len) / 8 + 1);
        ranges.extend([0, DATA - len, anywhere].map(|start| COLUMNS + start..COLUMNS + start + len));
    }
    let last = ranges.len() as u64;
    let mut posted = 0;
    let writer = |me: &mut Endpoint| {
        if me.sees(1, ACKS) == posted && posted < last && me.may_change() {
            let range = ranges[posted as usize].clone();
            posted += 1;
            fill(me.own(), range.clone(), posted);
            me.write(1, range, Source::Stable);
            me.announce(&[1], COUNTER, posted);
        }
        me.sees(1, ACKS) == last
    };
    let mut seen = 0;
    let reader = |me: &mut Endpoint| {
        let counter = me.sees(0, COUNTER);
        if counter != seen {
            assert_filled(me.row(0), ranges[seen as usize].clone(), counter);
            seen = counter;
            me.announce(&[0], ACKS, seen);
        }
        seen == last
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
}

/// Thousands of words in a random order, one write each.
pub(crate) fn many_small_writes_in_one_submit<H: Harness>() {
    const WORDS: usize = 5000;
    let data = 8 * WORDS.next_multiple_of(8);
    let (mut harness, mut members) = H::cluster(2, &[table(1, data)]);
    let mut posted = false;
    let writer = move |me: &mut Endpoint| {
        if posted {
            return !me.fabric.has_unsent();
        }
        let mut random = Random(7);
        let mut places: Vec<usize> = (0..WORDS).map(|i| COLUMNS + 8 * i).collect();
        for i in (1..WORDS).rev() {
            places.swap(i, random.below(i + 1));
        }
        let before = me.fabric.stats().writes_posted;
        for place in places {
            fill(me.own(), place..place + 8, 1);
            me.write(1, place..place + 8, Source::Stable);
        }
        me.announce(&[1], COUNTER, 1);
        assert_eq!(me.fabric.stats().writes_posted, before + WORDS as u64 + 1);
        me.fabric.submit();
        posted = true;
        false
    };
    let reader = |me: &mut Endpoint| {
        let seen = me.sees(0, COUNTER) == 1;
        if seen {
            assert_filled(me.row(0), COLUMNS..COLUMNS + 8 * WORDS, 1);
        }
        seen
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
}

/// All members write rounds of data to all others, in two tables at once, and wait for all before the next round.
pub(crate) fn five_members_write_to_each_other<H: Harness>() {
    const MEMBERS: usize = 5;
    const ROUNDS: u64 = 60;
    const DATA: usize = 64 << 10;
    let (mut harness, mut members) = H::cluster(MEMBERS, &[table(3, DATA), table(9, DATA)]);
    let len = |sender: Rank, round: u64| 8 * (1 + Random(1 + round * 8 + sender as u64).below(DATA / 8));
    let act = |rank: Rank| {
        let peers: Vec<Rank> = (0..MEMBERS).filter(|r| *r != rank).collect();
        let mut posted = 0;
        let mut seen = [0; MEMBERS];
        move |me: &mut Endpoint| {
            for &peer in &peers {
                let counter = me.sees(peer, COUNTER);
                if counter != seen[peer] {
                    let range = COLUMNS..COLUMNS + len(peer, counter);
                    assert_filled(&me.rows[peer][0], range.clone(), counter * 8 + peer as u64);
                    assert_filled(&me.rows[peer][1], range, counter * 8 + peer as u64 + (1 << 40));
                    seen[peer] = counter;
                    me.announce(&[peer], ACKS + 64 * peer, counter);
                }
            }
            let all_have = |round: u64| peers.iter().all(|p| me.sees(*p, ACKS + 64 * rank) == round);
            if all_have(posted) && posted < ROUNDS && me.may_change() {
                posted += 1;
                let range = COLUMNS..COLUMNS + len(rank, posted);
                for (table, salt) in [(0, 0), (1, 1 << 40)] {
                    fill(&me.rows[rank][table], range.clone(), posted * 8 + rank as u64 + salt);
                    for &peer in &peers {
                        me.write_to(table, peer, range.clone(), Source::Stable);
                    }
                }
                me.announce(&peers, COUNTER, posted);
                return false;
            }
            all_have(ROUNDS) && peers.iter().all(|p| seen[*p] == ROUNDS)
        }
    };
    let acts = (0..MEMBERS).map(|rank| Box::new(act(rank)) as Act<'_>).collect();
    run(&mut harness, &mut members, acts);
    members.iter().for_each(Endpoint::no_breach);
}

/// A store to a row without a push: the peer sees it exactly where the fabric reports that rows are shared. Readers
/// rely on that report to decide whether they need protection.
pub(crate) fn a_store_is_seen_by_the_peer_or_is_not<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, 64)]);
    for (value, offset) in [(7, 0), (8, COLUMNS - 8), (9, COLUMNS)] {
        members[0].own().word(offset).store(value, Ordering::Release);
        settle(&mut harness, &mut members);
        let seen = members[1].sees(0, offset) == value;
        for member in &members {
            assert_eq!(member.fabric.shares_rows(), seen, "the word at {offset}");
        }
        assert_eq!(H::SHARED, seen);
    }
}

/// The fabric's count of bytes that came from a peer grows while they come, on a fabric that counts them.
pub(crate) fn bytes_that_come_are_counted<H: Harness>() {
    let (mut harness, mut members) = H::cluster(3, &[table(1, 1 << 20)]);
    assert!(members.iter().all(|member| member.fabric.received_from(SLOTS) == 0), "nobody");
    let counts = |members: &[Endpoint]| [1, 2].map(|peer| members[0].fabric.received_from(SLOT_OF[peer]));
    settle(&mut harness, &mut members);
    let before = counts(&members);
    let writer = |me: &mut Endpoint| {
        if me.own().word(0).load(Ordering::Relaxed) == 0 {
            me.write(0, COLUMNS..COLUMNS + (1 << 20), Source::Stable);
            me.announce(&[0], 0, 1);
        }
        true
    };
    let reader = |me: &mut Endpoint| me.sees(1, 0) == 1;
    run(&mut harness, &mut members, vec![Box::new(reader), Box::new(writer), idle()]);
    let after = counts(&members);
    assert_eq!(after[1], before[1], "member 2 has sent nothing");
    assert!(after[0] == 0 || after[0] >= before[0] + (1 << 20), "{before:?} {after:?}");
}
