//! Links that are made again between the same two processes.

use super::links::{ACK, COUNTER, HALF, acknowledge, half, image, rounds, rounds_after};
use super::*;
use crate::error::Error;

/// The state of the former link when it is made again.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    /// Both ends take it for up.
    Up,
    /// Member 0 severed its end; the other end may have noticed.
    Severed,
    /// Member 1 severed its end; the other end may have noticed.
    SeveredThere,
    /// Both ends were severed.
    SeveredAtBoth,
}

const ALL: [Before; 4] = [Before::Up, Before::Severed, Before::SeveredThere, Before::SeveredAtBoth];

impl Before {
    fn applies_to(self, rank: Rank) -> bool {
        match self {
            Before::Up => false,
            Before::Severed => rank == 0,
            Before::SeveredThere => rank == 1,
            Before::SeveredAtBoth => true,
        }
    }
}

/// Both members have written to each other before, and do so afterwards.
pub(crate) fn rows_keep_their_contents<H: Harness>() {
    const ROUNDS: u64 = 12;
    for before in ALL {
        let (mut harness, mut members) = H::cluster(2, &[table(1, 2 * HALF)]);
        let both = |after: u64| {
            let act = |other: Rank| {
                let mut write = rounds_after(after, if other == 1 { &[1] } else { &[0] }, after + ROUNDS);
                Box::new(move |me: &mut Endpoint| {
                    let read = acknowledge(me, other, &[other]);
                    write(me) && read == after + ROUNDS
                }) as Act<'_>
            };
            vec![act(1), act(0)]
        };
        run(&mut harness, &mut members, both(0));
        settle(&mut harness, &mut members);
        for (rank, member) in members.iter_mut().enumerate() {
            if before.applies_to(rank) {
                member.sever(1 - rank);
            }
        }
        if before != Before::Up {
            settle(&mut harness, &mut members);
        }
        let kept: Vec<_> = (0..2).map(|rank| image(members[rank].row(1 - rank))).collect();
        let links = harness.link_again(SLOT_OF[0], SLOT_OF[1]);
        for (rank, link) in links.into_iter().enumerate() {
            members[rank].relink(1 - rank, link);
        }
        settle(&mut harness, &mut members);
        for rank in 0..2 {
            assert!(image(members[rank].row(1 - rank)) == kept[rank], "{before:?}: the row at member {rank} changed");
            assert!(image(members[rank].own()) == kept[1 - rank], "{before:?}: the row of member {rank} changed");
            members[rank].events.clear();
        }
        run(&mut harness, &mut members, both(ROUNDS));
        members.iter().for_each(|member| assert_eq!(member.events, [], "{before:?}"));
    }
}

/// Member 0 writes as fast as it can while member 1 makes the link again, and for a while afterwards. Then member 0
/// makes the link again, too. Everything that it writes from then on arrives, in order.
pub(crate) fn nothing_of_the_former_link_lands<H: Harness>() {
    /// The counter of writes to the former link after it was severed. `NEW` is the first counter on the new link.
    const LOST: u64 = 1 << 30;
    const NEW: u64 = 1 << 40;
    const ROUNDS: u64 = 30;
    for (cut, before) in (0..24).zip(ALL.into_iter().cycle()) {
        let (mut harness, mut members) = H::cluster(2, &[table(1, 2 * HALF)]);
        let [of_writer, of_reader] = harness.link_again(SLOT_OF[0], SLOT_OF[1]);
        let (mut of_writer, mut of_reader) = (Some(of_writer), Some(of_reader));
        // 0: the first link; 1: the reader has the new one; 2: the writer has it, too.
        let stage = AtomicUsize::new(0);
        let (mut lost, mut posted, mut more) = (0, 0, rounds_after(NEW, &[1], NEW + ROUNDS));
        let writer = |me: &mut Endpoint| match stage.load(Ordering::Acquire) {
            2 => more(me),
            at => {
                if me.may_change() {
                    posted += 1;
                    lost += at as u64;
                    fill(me.own(), half(posted), posted);
                    me.write(1, half(posted), Source::Stable);
                    me.announce(&[1], COUNTER, if at == 0 { posted } else { LOST + posted });
                    me.fabric.submit();
                }
                // A link that is down accepts every write.
                if lost == 20 || at == 1 && me.links_down(1) > 0 && lost > 2 {
                    // These writes wait on the former link when it is replaced.
                    me.write(1, half(posted), Source::Stable);
                    me.announce(&[1], COUNTER, LOST);
                    if before.applies_to(0) {
                        me.sever(1);
                    }
                    me.relink(1, of_writer.take().unwrap());
                    me.no_breach();
                    me.events.clear();
                    assert!(me.may_change(), "what was queued for the former link is not complete");
                    assert!(!me.fabric.has_unsent(), "what was queued for the former link is still to be sent");
                    me.announce(&[1], COUNTER, NEW);
                    stage.store(2, Ordering::Release);
                }
                false
            }
        };
        let mut kept = None;
        let reader = |me: &mut Endpoint| {
            let counter = me.sees(0, COUNTER);
            match stage.load(Ordering::Acquire) {
                0 if counter >= cut => {
                    if before.applies_to(1) {
                        me.sever(0);
                    }
                    me.relink(0, of_reader.take().unwrap());
                    kept = Some(image(me.row(0)));
                    stage.store(1, Ordering::Release);
                }
                0 => {}
                1 => {
                    let now = image(me.row(0));
                    let may_differ = H::SHARED || stage.load(Ordering::Acquire) > 1;
                    assert!(may_differ || kept.as_ref() == Some(&now), "a write to the former link landed");
                }
                _ => {
                    assert!(H::SHARED || !(LOST..NEW).contains(&counter), "a write to the former link landed");
                    if counter == NEW {
                        me.announce(&[0], ACK, NEW);
                    }
                    return counter > NEW && acknowledge(me, 0, &[0]) == NEW + ROUNDS;
                }
            }
            false
        };
        run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
        members[1].no_breach();
        assert_eq!(members[1].events.len(), 0, "{before:?}, {cut}: {:?}", members[1].events);
        assert!(members[0].links_down(1) <= 1 && members[0].events.len() <= 1, "{:?}", members[0].events);
    }
}

/// Fetches over the former link give no event; fetches over the new one do.
pub(crate) fn fetches_end_with_the_former_link<H: Harness>() {
    const ROUND: u64 = 5;
    let (mut harness, mut members) = H::cluster(2, &[table(1, 2 * HALF)]);
    fill(members[1].own(), COLUMNS..COLUMNS + 2 * HALF, ROUND);
    let [of_asker, of_owner] = harness.link_again(SLOT_OF[0], SLOT_OF[1]);
    let (lost, wanted) = (COLUMNS..COLUMNS + HALF, COLUMNS + HALF..COLUMNS + 2 * HALF);
    (0..3).for_each(|_| members[0].fetch(1, 1, lost.clone()));
    members[0].fabric.submit();
    members[0].relink(1, of_asker);
    members[0].fetch(1, 1, wanted.clone());
    members[1].relink(0, of_owner);
    let asker = |me: &mut Endpoint| !me.fetched(1).is_empty();
    run(&mut harness, &mut members, vec![Box::new(asker), idle()]);
    settle(&mut harness, &mut members);
    assert_eq!(members[0].fetched(1), [(1, wanted.clone())]);
    assert_filled(members[0].row(1), wanted, ROUND);
    assert_eq!(members[0].events.len(), 1, "{:?}", members[0].events);
    members[1].no_breach();
}

/// Two members write to each other and to a third. Their link is made again all the time, by either end first. The
/// member that makes it again repeats the writes that the other may lack.
pub(crate) fn a_link_is_made_again_and_again<H: Harness>() {
    let (mut harness, mut members) = H::cluster(3, &[table(1, 2 * HALF)]);
    for time in 1..=12 {
        let [first, second] = if time % 2 == 0 { [0, 1] } else { [1, 0] };
        let [of_first, of_second] = harness.link_again(SLOT_OF[first], SLOT_OF[second]);
        members[first].relink(second, of_first);
        members[first].announce(&[second, 2], COUNTER, time);
        members[first].fabric.submit();
        (0..time % 3).for_each(|_| harness.step());
        members[second].relink(first, of_second);
        fill(members[second].own(), half(time), time);
        for peer in [first, 2] {
            members[second].write(peer, half(time), Source::Stable);
        }
        members[second].announce(&[first, 2], COUNTER, time);
        let act = |rank: Rank| {
            Box::new(move |me: &mut Endpoint| {
                me.may_change() && (0..2).all(|peer| peer == rank || me.sees(peer, COUNTER) == time)
            }) as Act<'_>
        };
        run(&mut harness, &mut members, vec![act(0), act(1), act(2)]);
        for reader in [first, 2] {
            assert_filled(members[reader].row(second), half(time), time);
        }
        // A reference to a row from before also shows the writes that come over the new link.
        assert_eq!(members[2].events, []);
        for member in &mut members[..2] {
            member.no_breach();
            member.events.clear();
        }
    }
}

/// The end of the new link is reported once, after everything that came over it. Data on it wake a sleeping member.
pub(crate) fn a_link_that_was_made_again_breaks_as_any_other<H: Harness>() {
    const ROUNDS: u64 = 10;
    let (mut harness, mut members) = H::cluster(2, &[table(1, 2 * HALF)]);
    let links = harness.link_again(SLOT_OF[0], SLOT_OF[1]);
    for (rank, link) in links.into_iter().enumerate() {
        members[rank].relink(1 - rank, link);
    }
    let reader = |me: &mut Endpoint| acknowledge(me, 0, &[0]) == ROUNDS;
    run(&mut harness, &mut members, vec![Box::new(rounds(&[1], ROUNDS)), Box::new(reader)]);
    settle(&mut harness, &mut members);
    members.iter().for_each(|member| assert_eq!(member.events, []));
    harness.kill(members.remove(0));
    run(&mut harness, &mut members, vec![Box::new(|me| me.links_down(0) == 1)]);
    settle(&mut harness, &mut members);
    assert_eq!((members[0].links_down(0), members[0].events.len()), (1, 1), "{:?}", members[0].events);
    assert_eq!(members[0].sees(0, COUNTER), ROUNDS);
}

/// A relink is refused in a slot without an attached peer, and with a connection of another kind.
pub(crate) fn what_cannot_be_made_again_is_refused<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, 64)]);
    let _stranger = harness.process(SLOT_OF[2]);
    for (slot, of) in
        [(SLOT_OF[2], SLOT_OF[2]), (SLOT_OF[0], SLOT_OF[1]), (SLOTS, SLOT_OF[1]), (usize::MAX, SLOT_OF[1])]
    {
        let [link, _other] = harness.link(SLOT_OF[0], of);
        assert!(matches!(members[0].fabric.relink(slot, link), Err(Error::Misuse(_))), "slot {slot}");
    }
    let reader = |me: &mut Endpoint| me.sees(0, COUNTER) == 1;
    let writer = |me: &mut Endpoint| {
        me.announce(&[1], COUNTER, 1);
        true
    };
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
    members.iter().for_each(|member| assert_eq!(member.events, []));
}
