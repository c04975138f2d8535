//! The order in which writes become visible, and the bytes that they carry.

use super::*;

const COUNTER: usize = 0;
const ACK: usize = 64;

/// The writer announces the words in turn. A reader that reads them backwards finds each at least as new as the one
/// before.
pub(crate) fn writes_land_in_the_order_they_were_posted<H: Harness>() {
    const WORDS: usize = 8;
    const ROUNDS: u64 = 3000;
    let (mut harness, mut members) = H::cluster(2, &[table(1, 64)]);
    let (mut round, mut word) = (1, 0);
    let mut random = Random(1);
    let writer = move |me: &mut Endpoint| {
        for _ in 0..=random.below(20) {
            me.announce(&[1], 64 * word, round);
            if random.below(8) == 0 {
                me.fabric.submit();
            }
            word = (word + 1) % WORDS;
            round += u64::from(word == 0);
            if round > ROUNDS {
                return true;
            }
        }
        false
    };
    let reader = |me: &mut Endpoint| {
        let backwards: Vec<u64> = (0..WORDS).rev().map(|i| me.sees(0, 64 * i)).collect();
        assert!(backwards.is_sorted(), "{backwards:?}");
        backwards[0] == ROUNDS
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
}

/// All data of a round are there when its counter is. The writer waits for the reader before the next round.
pub(crate) fn data_precedes_its_counter<H: Harness>() {
    const ROUNDS: u64 = 200;
    const DATA: usize = 256 << 10;
    let (mut harness, mut members) = H::cluster(2, &[table(7, DATA)]);
    let len = |round: u64| 8 * (1 + Random(round).below(DATA / 8));
    let mut posted = 0;
    let writer = move |me: &mut Endpoint| {
        if me.sees(1, ACK) == posted && posted < ROUNDS && me.may_change() {
            posted += 1;
            let range = COLUMNS..COLUMNS + len(posted);
            fill(me.own(), range.clone(), posted);
            me.write(1, range, Source::Stable);
            me.announce(&[1], COUNTER, posted);
            me.fabric.submit();
        }
        me.sees(1, ACK) == ROUNDS
    };
    let mut seen = 0;
    let reader = move |me: &mut Endpoint| {
        let counter = me.sees(0, COUNTER);
        if counter != seen {
            assert_eq!(counter, seen + 1);
            assert_filled(me.row(0), COLUMNS..COLUMNS + len(counter), counter);
            seen = counter;
            me.announce(&[0], ACK, seen);
        }
        seen == ROUNDS
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
}

/// All bytes of each word are equal at every instant; small snapshots and whole columns alternate.
pub(crate) fn words_of_columns_are_never_torn<H: Harness>() {
    const ROUNDS: u64 = 4000;
    const LAST: usize = COLUMNS - 8;
    let (mut harness, mut members) = H::cluster(2, &[table(1, 64)]);
    let store = |me: &Endpoint, words: Range<usize>, value: u64| {
        for offset in words.step_by(8) {
            me.own().word(offset).store(value, Ordering::Release);
        }
    };
    let (mut round, mut stable) = (0, Ticket(0));
    let writer = move |me: &mut Endpoint| {
        if me.fabric.completed() < stable {
            return false;
        }
        round += 1;
        let value = (round % 256) * 0x0101_0101_0101_0101;
        if round % 16 == 0 {
            store(me, 0..LAST, value);
            stable = me.write(1, 0..LAST, Source::Stable);
        } else {
            let start = SNAPSHOT_MAX * (round as usize % 4);
            store(me, start..start + SNAPSHOT_MAX, value);
            me.write(1, start..start + SNAPSHOT_MAX, Source::Snapshot);
        }
        if round == ROUNDS {
            me.announce(&[1], LAST, 1);
        }
        round == ROUNDS
    };
    let reader = |me: &mut Endpoint| {
        for offset in (0..LAST).step_by(8) {
            let bytes = me.sees(0, offset).to_ne_bytes();
            assert!(bytes.iter().all(|b| *b == bytes[0]), "{bytes:x?} at {offset}");
        }
        me.sees(0, LAST) == 1
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
}

/// The counter is overwritten right after it was posted, many times before anything is sent. None of the later values
/// may arrive before the data that it guards.
pub(crate) fn a_snapshot_is_taken_when_it_is_posted<H: Harness>() {
    const ROUNDS: u64 = 3000;
    const PIECES: u64 = 64;
    const PIECE: usize = 4096;
    let (mut harness, mut members) = H::cluster(2, &[table(1, PIECES as usize * PIECE)]);
    let piece = |round: u64| {
        let start = COLUMNS + (round % PIECES) as usize * PIECE;
        start..start + PIECE
    };
    let mut random = Random(4);
    let mut posted = 0;
    let mut tickets = [Ticket(0); PIECES as usize];
    let writer = move |me: &mut Endpoint| {
        for _ in 0..=random.below(PIECES as usize) {
            let next = posted + 1;
            let used = tickets[(next % PIECES) as usize];
            if next > ROUNDS || next > me.sees(1, ACK) + PIECES || me.fabric.completed() < used {
                break;
            }
            fill(me.own(), piece(next), next);
            tickets[(next % PIECES) as usize] = me.write(1, piece(next), Source::Stable);
            me.announce(&[1], COUNTER, next);
            posted = next;
        }
        me.sees(1, ACK) == ROUNDS
    };
    let mut seen = 0;
    let reader = move |me: &mut Endpoint| {
        let counter = me.sees(0, COUNTER);
        for round in seen + 1..=counter {
            assert_filled(me.row(0), piece(round), round);
        }
        if counter > seen {
            seen = counter;
            me.announce(&[0], ACK, seen);
        }
        seen == ROUNDS
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
}

/// After completion the source is overwritten and never pushed again, and the peer keeps the posted bytes. Where peers
/// read the source itself, they see the change; there the protocol's counters determine when it is allowed.
pub(crate) fn a_completed_source_may_change<H: Harness>() {
    const ROUNDS: u64 = 100;
    const DATA: usize = 64 << 10;
    let (mut harness, mut members) = H::cluster(2, &[table(1, DATA)]);
    let (mut posted, mut ticket, mut counted) = (0, Ticket(0), 0);
    let writer = move |me: &mut Endpoint| {
        if me.sees(1, ACK) == posted && posted < ROUNDS {
            posted += 1;
            fill(me.own(), COLUMNS..COLUMNS + DATA, posted);
            ticket = me.write(1, COLUMNS..COLUMNS + DATA, Source::Stable);
            me.fabric.submit();
        }
        if counted < posted && me.fabric.completed() >= ticket {
            counted = posted;
            if !H::SHARED {
                fill(me.own(), COLUMNS..COLUMNS + DATA, u64::MAX);
            }
            me.announce(&[1], COUNTER, counted);
        }
        me.sees(1, ACK) == ROUNDS
    };
    let mut seen = 0;
    let reader = move |me: &mut Endpoint| {
        let counter = me.sees(0, COUNTER);
        if counter != seen {
            assert_filled(me.row(0), COLUMNS..COLUMNS + DATA, counter);
            seen = counter;
            me.announce(&[0], ACK, seen);
        }
        seen == ROUNDS
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
}
