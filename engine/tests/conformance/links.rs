//! Links that are severed, that break and that are closed.

use super::*;

pub(super) const COUNTER: usize = 0;
pub(super) const ACK: usize = 64;
pub(super) const HALF: usize = 32 << 10;

/// Rounds alternate between two halves of the data, so that the last counted round is complete at any instant.
pub(super) fn half(round: u64) -> Range<usize> {
    let start = COLUMNS + HALF * (round % 2) as usize;
    start..start + HALF
}

/// Writes rounds of data and counter. Each round begins when all peers with a link have acknowledged the one before.
pub(super) fn rounds(peers: &[Rank], last: u64) -> impl FnMut(&mut Endpoint) -> bool + Send {
    rounds_after(0, peers, last)
}

/// Like [`rounds`], but the first round is the one after `posted`.
pub(super) fn rounds_after(mut posted: u64, peers: &[Rank], last: u64) -> impl FnMut(&mut Endpoint) -> bool + Send {
    move |me| {
        let up: Vec<Rank> = peers.iter().copied().filter(|p| me.links_down(*p) == 0).collect();
        let all_have = up.iter().all(|p| me.sees(*p, ACK) == posted);
        if all_have && posted < last && me.may_change() {
            posted += 1;
            fill(me.own(), half(posted), posted);
            for &peer in peers {
                me.write(peer, half(posted), Source::Stable);
            }
            me.announce(peers, COUNTER, posted);
            return false;
        }
        all_have && posted == last
    }
}

/// Checks the round that `writer` has counted, and acknowledges it to `peers`. Returns the counter.
pub(super) fn acknowledge(me: &mut Endpoint, writer: Rank, peers: &[Rank]) -> u64 {
    let counter = me.sees(writer, COUNTER);
    if me.own().word(ACK).load(Ordering::Relaxed) != counter {
        assert_filled(me.row(writer), half(counter), counter);
        me.announce(peers, ACK, counter);
    }
    counter
}

pub(super) fn image(row: &Row) -> Vec<u64> {
    (0..row.len()).step_by(8).map(|offset| row.word(offset).load(Ordering::Relaxed)).collect()
}

/// Member 1 severs member 0, which goes on with member 2. The row at member 1 keeps its contents and its address.
pub(crate) fn nothing_lands_after_sever<H: Harness>() {
    for cut in 0..60 {
        let last = cut + 10;
        let mut random = Random(31 + cut);
        let (mut harness, mut members) = H::cluster(3, &[table(1, 2 * HALF)]);
        let mut kept = None;
        let severer = |me: &mut Endpoint| {
            if kept.is_none() && acknowledge(me, 0, &[0]) >= cut {
                let address = me.row(0).ptr(0..0);
                // The writer has the acknowledgement or will have it soon, so the cut falls anywhere in its next round.
                me.fabric.submit();
                (0..random.below(1000)).for_each(|_| std::hint::spin_loop());
                me.sever(0);
                assert_eq!(me.row(0).ptr(0..0), address);
                let counter = me.sees(0, COUNTER);
                if counter > 0 {
                    assert_filled(me.row(0), half(counter), counter);
                }
                kept = Some(image(me.row(0)));
            }
            me.sees(2, ACK) == last
        };
        let reader = |me: &mut Endpoint| acknowledge(me, 0, &[0, 1]) == last;
        let writer = rounds(&[1, 2], last);
        run(&mut harness, &mut members, vec![Box::new(writer), Box::new(severer), Box::new(reader)]);
        settle(&mut harness, &mut members);
        assert!(kept == Some(image(members[1].row(0))), "the severed member's row has changed");
        assert_eq!(members[0].links_down(1), 1, "{:?}", members[0].events);
        assert_eq!(members[1].events, [], "who severs is told nothing");
        assert_eq!(members[2].events, []);
    }
}

/// The call has no effect, and the other links go on.
pub(crate) fn severing_twice_or_oneself_or_the_dead_is_harmless<H: Harness>() {
    const ROUNDS: u64 = 20;
    let (mut harness, mut members) = H::cluster(4, &[table(1, 2 * HALF)]);
    harness.kill(members.remove(3));
    let until_down = || Box::new(|me: &mut Endpoint| me.links_down(3) == 1) as Act<'_>;
    run(&mut harness, &mut members, vec![until_down(), until_down(), until_down()]);
    let me = &mut members[0];
    for peer in [3, 3, 0, 0, 1, 1] {
        me.sever(peer);
    }
    let before = me.fabric.stats().bytes_sent;
    for peer in [3, 0, 1] {
        let ticket = me.write(peer, 0..8, Source::Stable);
        me.fabric.submit();
        assert!(me.fabric.completed() >= ticket);
    }
    assert!(!me.fabric.has_unsent());
    assert_eq!(me.fabric.stats().bytes_sent, before, "a write to nobody was sent");
    assert_eq!(me.sees(0, 0), 0);
    let cut_off = |me: &mut Endpoint| me.links_down(0) == 1;
    let reader = |me: &mut Endpoint| acknowledge(me, 0, &[0]) == ROUNDS;
    run(&mut harness, &mut members, vec![Box::new(rounds(&[2], ROUNDS)), Box::new(cut_off), Box::new(reader)]);
    members.iter().for_each(Endpoint::no_breach);
}

/// Posts `count` pieces of data, each with its counter, to all `peers`.
pub(super) fn post_pieces(me: &mut Endpoint, peers: &[Rank], count: u64) {
    for round in 1..=count {
        let range = piece(round);
        fill(me.own(), range.clone(), round);
        for &peer in peers {
            me.write(peer, range.clone(), Source::Stable);
        }
        me.announce(peers, COUNTER, round);
    }
}

pub(super) const PIECES: u64 = 256;
pub(super) const PIECE: usize = 8192;

fn piece(round: u64) -> Range<usize> {
    let start = COLUMNS + (round - 1) as usize * PIECE;
    start..start + PIECE
}

pub(super) fn assert_all_pieces(me: &Endpoint, writer: Rank) {
    assert_eq!(me.sees(writer, COUNTER), PIECES, "member {} lacks rounds of member {writer}", me.rank);
    for round in 1..=PIECES {
        assert_filled(me.row(writer), piece(round), round);
    }
}

/// A member dies with much of its data still on the way. Each survivor has all of it when its fabric reports the death,
/// and the death is reported once.
pub(crate) fn link_down_comes_once_and_last<H: Harness>() {
    let (mut harness, mut members) = H::cluster(4, &[table(1, PIECES as usize * PIECE)]);
    let mut posted = false;
    let doomed = move |me: &mut Endpoint| {
        if !std::mem::replace(&mut posted, true) {
            post_pieces(me, &[0, 1, 3], PIECES);
        }
        !me.fabric.has_unsent()
    };
    run(&mut harness, &mut members, vec![idle(), idle(), Box::new(doomed), idle()]);
    harness.kill(members.remove(2));
    let act = |me: &mut Endpoint| {
        let down = me.links_down(2) > 0;
        if down {
            assert_all_pieces(me, 2);
        }
        down
    };
    run(&mut harness, &mut members, vec![Box::new(act), Box::new(act), Box::new(act)]);
    settle(&mut harness, &mut members);
    for member in &members {
        assert_eq!(member.events.len(), 1, "{:?}", member.events);
        assert_all_pieces(member, 2);
        assert!(!member.fabric.closed());
    }
}

/// Polls as a member does that has long callbacks and no time to sleep.
pub(crate) fn who_polls_seldom_learns_of_a_death<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, 0)]);
    settle(&mut harness, &mut members);
    harness.kill(members.remove(1));
    let is_told = (0..20).any(|_| {
        if H::HAS_FD {
            thread::sleep(Duration::from_millis(20));
        }
        (0..100).for_each(|_| harness.step());
        members[0].poll();
        members[0].links_down(1) > 0
    });
    assert!(is_told, "twenty polls did not tell");
}

/// One member queues much and closes at once. It goes on polling, and so do the others.
pub(crate) fn what_was_queued_before_close_arrives<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, PIECES as usize * PIECE)]);
    let mut posted = false;
    let leaver = move |me: &mut Endpoint| {
        if !std::mem::replace(&mut posted, true) {
            post_pieces(me, &[1], PIECES);
            me.fabric.close();
        }
        me.fabric.closed()
    };
    let other = |me: &mut Endpoint| {
        let down = me.links_down(0) > 0;
        if down {
            assert_all_pieces(me, 0);
        }
        down && me.fabric.closed()
    };
    run(&mut harness, &mut members, vec![Box::new(leaver), Box::new(other)]);
    settle(&mut harness, &mut members);
    assert_eq!(members[1].links_down(0), 1);
    assert!(members[0].links_down(1) <= 1);
    members.iter().for_each(Endpoint::no_breach);
}

/// All members queue much and close at once. All data arrive, and all fabrics close.
pub(crate) fn all_can_close_at_once<H: Harness>() {
    let (mut harness, mut members) = H::cluster(3, &[table(1, PIECES as usize * PIECE)]);
    let act = |rank: Rank| {
        let mut posted = false;
        move |me: &mut Endpoint| {
            if !std::mem::replace(&mut posted, true) {
                let peers: Vec<Rank> = (0..3).filter(|r| *r != rank).collect();
                post_pieces(me, &peers, PIECES);
                me.fabric.close();
            }
            me.fabric.closed()
        }
    };
    run(&mut harness, &mut members, (0..3).map(|rank| Box::new(act(rank)) as Act<'_>).collect());
    for member in &members {
        (0..3).for_each(|writer| assert_all_pieces(member, writer));
        member.no_breach();
    }
}
