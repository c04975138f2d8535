//! Links that end when the peer has received everything that was queued for it.

use super::links::{COUNTER, PIECE, PIECES, assert_all_pieces, image, post_pieces};
use super::*;

const GREETING: usize = 64;

/// Member 0 writes much to both others and releases member 1, which never stops writing to it.
pub(crate) fn what_was_queued_arrives_then_the_link_ends<H: Harness>() {
    for submit_first in [false, true] {
        let data = COLUMNS..COLUMNS + PIECES as usize * PIECE;
        let (mut harness, mut members) = H::cluster(3, &[table(1, data.len())]);
        let (mut kept, mut overwritten) = (None, false);
        let releaser = |me: &mut Endpoint| {
            if me.sees(1, GREETING) > 0 && kept.is_none() {
                post_pieces(me, &[1, 2], PIECES);
                if submit_first {
                    me.fabric.submit();
                }
                me.release(1);
                kept = Some(image(me.row(1)));
            }
            if kept.is_some() && !overwritten && me.may_change() {
                // The fabric does not read the data for the released peer from here any more.
                overwritten = true;
                if !H::SHARED {
                    fill(me.own(), data.clone(), u64::MAX);
                }
            }
            overwritten && me.sees(2, GREETING) == PIECES
        };
        let mut greetings = 0;
        let released = |me: &mut Endpoint| {
            greetings += 1;
            me.announce(&[0], GREETING, greetings);
            let down = me.links_down(0) > 0;
            if down {
                assert_all_pieces(me, 0);
            }
            down
        };
        let mut checked = false;
        let other = |me: &mut Endpoint| {
            if me.sees(0, COUNTER) == PIECES && !std::mem::replace(&mut checked, true) {
                assert_all_pieces(me, 0);
                me.announce(&[0], GREETING, PIECES);
            }
            checked
        };
        run(&mut harness, &mut members, vec![Box::new(releaser), Box::new(released), Box::new(other)]);
        settle(&mut harness, &mut members);
        assert!(kept == Some(image(members[0].row(1))), "the released member's row has changed");
        assert_eq!(members[0].events, []);
        assert_eq!((members[1].links_down(0), members[1].events.len()), (1, 1));
        assert_eq!(members[2].events, []);
    }
}

/// Member 1 does nothing while it is released with more in its queue than any transport buffers. Either the others go
/// on and close, or they stay and member 1 has everything when it runs again.
pub(crate) fn a_released_peer_that_does_not_read_blocks_nobody<H: Harness>() {
    const DATA: usize = 24 << 20;
    for close in [true, false] {
        let (mut harness, mut members) = H::cluster(3, &[table(1, DATA)]);
        let silent = members.remove(1);
        let mut posted = false;
        let releaser = |me: &mut Endpoint| {
            if !std::mem::replace(&mut posted, true) {
                fill(me.own(), COLUMNS..COLUMNS + DATA, 3);
                for peer in [1, 2] {
                    me.write(peer, COLUMNS..COLUMNS + DATA, Source::Stable);
                    me.announce(&[peer], COUNTER, 1);
                }
                me.release(1);
            }
            let done = me.may_change() && !me.fabric.has_unsent();
            if close && done {
                me.fabric.close();
            }
            done && (!close || me.fabric.closed())
        };
        let reader = |me: &mut Endpoint| {
            let done = me.sees(0, COUNTER) == 1;
            if close && done {
                // Closing would wait for the silent peer, so its link is severed first.
                me.sever(1);
                me.fabric.close();
            }
            done && (!close || me.fabric.closed())
        };
        run(&mut harness, &mut members, vec![Box::new(releaser), Box::new(reader)]);
        assert_filled(members[1].row(0), COLUMNS..COLUMNS + DATA, 3);
        if close {
            members.into_iter().for_each(|member| harness.kill(member));
            let mut left = [silent];
            let act = |me: &mut Endpoint| me.links_down(0) == 1 && me.links_down(2) == 1;
            run(&mut harness, &mut left, vec![Box::new(act)]);
            continue;
        }
        members.insert(1, silent);
        let act = |me: &mut Endpoint| me.links_down(0) == 1;
        run(&mut harness, &mut members, vec![idle(), Box::new(act), idle()]);
        assert_eq!(members[1].sees(0, COUNTER), 1);
        assert_filled(members[1].row(0), COLUMNS..COLUMNS + DATA, 3);
    }
}

/// The call has no effect, and the other links go on.
pub(crate) fn releasing_twice_or_oneself_or_the_dead_is_harmless<H: Harness>() {
    let (mut harness, mut members) = H::cluster(4, &[table(1, 64)]);
    harness.kill(members.remove(3));
    let until_down = || Box::new(|me: &mut Endpoint| me.links_down(3) == 1) as Act<'_>;
    run(&mut harness, &mut members, vec![until_down(), until_down(), until_down()]);
    let me = &mut members[0];
    for peer in [3, 3, 0, 0, 1, 1, 5] {
        me.release(peer);
        me.release(peer);
        me.sever(peer);
    }
    for slot in [SLOTS, usize::MAX] {
        me.fabric.release(slot);
        me.fabric.sever(slot);
    }
    for peer in [3, 0, 1, 5] {
        let ticket = me.write(peer, 0..8, Source::Stable);
        assert!(me.fabric.completed() >= ticket);
    }
    assert!(!me.fabric.has_unsent());
    let writer = |me: &mut Endpoint| {
        me.announce(&[1, 2], COUNTER, 1);
        true
    };
    let cut_off = |me: &mut Endpoint| me.links_down(0) == 1;
    let reader = |me: &mut Endpoint| me.sees(0, COUNTER) == 1;
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(cut_off), Box::new(reader)]);
    settle(&mut harness, &mut members);
    assert!(H::SHARED || members[1].sees(0, COUNTER) == 0);
    assert_eq!((members[0].links_down(3), members[0].events.len()), (1, 1));
    assert_eq!((members[2].links_down(3), members[2].events.len()), (1, 1));
}
