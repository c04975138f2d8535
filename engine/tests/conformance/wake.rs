//! Sleeping and waking. A time limit is reached only when a test fails.

use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const COUNTER: usize = 0;

/// Whether the member's descriptor is readable, now or before `wait` is over.
fn readable(me: &Endpoint, wait: Duration) -> bool {
    let Some(fd) = me.fabric.fd() else { unreachable!("the harness says that there is one") };
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(wait).unwrap();
    poll(&mut fds, timeout).unwrap() > 0
}

fn sleep(me: &Endpoint) {
    assert!(readable(me, WATCHDOG), "member {} was not woken", me.rank);
}

/// Polls until `ready`, and sleeps whenever there is nothing to poll.
fn sleep_until(me: &mut Endpoint, random: &mut Random, ready: impl Fn(&Endpoint) -> bool) {
    let mut armed = false;
    while !ready(me) {
        // A sleep may follow a new `arm`, or an earlier one that still holds.
        if !armed || random.below(2) == 0 {
            me.fabric.arm();
            armed = true;
        }
        pause(random);
        // A write that landed without the peer's engine is found only by a look at the row.
        if !me.poll() && !ready(me) {
            pause(random);
            sleep(me);
            if random.below(2) == 0 {
                me.fabric.disarm();
                armed = false;
            }
            me.poll();
        }
    }
    me.fabric.disarm();
}

/// Waits not at all or for a tiny time, so that the steps of both sides meet in every order.
fn pause(random: &mut Random) {
    match random.below(4) {
        0 => {}
        1 => thread::yield_now(),
        _ => (0..random.below(300)).for_each(|_| std::hint::spin_loop()),
    }
}

/// One `arm`, three writes: each write makes the descriptor readable once more.
pub(crate) fn a_write_wakes_a_sleeper<H: Harness>() {
    if !H::HAS_FD {
        return;
    }
    let (mut harness, mut members) = H::cluster(2, &[table(1, 64)]);
    settle(&mut harness, &mut members);
    members[1].fabric.arm();
    for value in 1..=3 {
        while members[1].poll() {}
        assert!(!readable(&members[1], Duration::ZERO));
        members[0].announce(&[1], COUNTER, value);
        members[0].fabric.submit();
        let deadline = Instant::now() + WATCHDOG;
        while !readable(&members[1], Duration::from_millis(1)) {
            // The writer may first have to learn that the other member sleeps.
            members[0].poll();
            assert!(Instant::now() < deadline, "member 1 was not woken");
        }
        if value == 3 {
            members[1].fabric.disarm();
        }
        while members[1].sees(0, COUNTER) != value {
            members[1].poll();
        }
        // The next poll consumes the wake-up, armed or not.
        members[1].poll();
        assert!(!readable(&members[1], Duration::ZERO));
    }
}

/// Member 0 writes before the other end is attached, and never sleeps. Its later writes must still wake member 1.
pub(crate) fn a_write_before_the_attach_costs_no_wake_up<H: Harness>() {
    if !H::HAS_FD {
        return;
    }
    let mut harness = H::new(&[table(1, 64)]);
    let mut members = [SLOT_OF[0], SLOT_OF[1]].map(|slot| harness.process(slot));
    let [of_first, of_second] = harness.link(SLOT_OF[0], SLOT_OF[1]);
    members[0].attach(1, of_first);
    members[0].announce(&[1], COUNTER, 1);
    members[0].fabric.submit();
    settle(&mut harness, &mut members);
    members[1].attach(0, of_second);
    settle(&mut harness, &mut members);
    let deadline = Instant::now() + WATCHDOG;
    for value in 2..=40 {
        members[1].fabric.arm();
        while members[1].poll() {}
        // The writer learns that the other member sleeps before it writes.
        (0..100).for_each(|_| {
            members[0].poll();
        });
        members[0].announce(&[1], COUNTER, value);
        members[0].fabric.submit();
        while members[1].sees(0, COUNTER) != value {
            assert!(Instant::now() < deadline, "value {value} was slept over");
            if readable(&members[1], Duration::from_millis(1)) {
                members[1].poll();
            }
            members[0].poll();
        }
        members[1].fabric.disarm();
    }
}

/// Two members take turns; each sleeps while it is the other's turn.
pub(crate) fn no_wake_up_is_lost_between_two<H: Harness>() {
    const ROUNDS: u64 = 20_000;
    if !H::HAS_FD {
        return;
    }
    let (_harness, members) = H::cluster(2, &[table(1, 64)]);
    let play = |mut me: Endpoint| {
        let peer = 1 - me.rank;
        let mut random = Random(11 + me.rank as u64);
        for round in 1..=ROUNDS {
            if me.rank == 1 {
                sleep_until(&mut me, &mut random, |me| me.sees(peer, COUNTER) >= round);
            }
            me.announce(&[peer], COUNTER, round);
            pause(&mut random);
            me.fabric.submit();
            if me.rank == 0 {
                sleep_until(&mut me, &mut random, |me| me.sees(peer, COUNTER) >= round);
            }
        }
        me
    };
    play_in_threads(members, play);
}

/// Four members write at any time, and one sleeps until it has seen all their writes. They sleep until it acknowledges.
pub(crate) fn no_wake_up_is_lost_with_many_writers<H: Harness>() {
    const MEMBERS: usize = 5;
    const ROUNDS: u64 = 3000;
    if !H::HAS_FD {
        return;
    }
    let (_harness, members) = H::cluster(MEMBERS, &[table(1, 64)]);
    let play = |mut me: Endpoint| {
        let mut random = Random(21 + me.rank as u64);
        for round in 1..=ROUNDS {
            if me.rank == 0 {
                sleep_until(&mut me, &mut random, |me| (1..MEMBERS).all(|r| me.sees(r, COUNTER) >= round));
                me.announce(&[1, 2, 3, 4], COUNTER, round);
                me.fabric.submit();
            } else {
                pause(&mut random);
                me.announce(&[0], COUNTER, round);
                me.fabric.submit();
                sleep_until(&mut me, &mut random, |me| me.sees(0, COUNTER) >= round);
            }
        }
        me
    };
    play_in_threads(members, play);
}

/// Runs `play` for each member in a thread. All members stay until all have ended, so that no link breaks early.
fn play_in_threads(members: Vec<Endpoint>, play: impl Fn(Endpoint) -> Endpoint + Copy + Send) {
    thread::scope(|scope| {
        let threads: Vec<_> = members.into_iter().map(|me| scope.spawn(move || play(me))).collect();
        let ended: Vec<_> =
            threads.into_iter().map(|t| t.join().unwrap_or_else(|cause| resume_unwind(cause))).collect();
        for me in &ended {
            assert_eq!(me.events, []);
        }
    });
}

/// A sleeping member has written nothing and waits for no peer; still it must learn of a death.
pub(crate) fn a_death_wakes_a_sleeper<H: Harness>() {
    if !H::HAS_FD {
        return;
    }
    let (mut harness, mut members) = H::cluster(3, &[table(1, 64)]);
    settle(&mut harness, &mut members);
    for member in &mut members {
        member.fabric.arm();
        assert!(!member.poll());
    }
    harness.kill(members.remove(1));
    for member in &mut members {
        while member.events.is_empty() {
            sleep(member);
            member.poll();
        }
        assert_eq!(member.links_down(1), 1, "{:?}", member.events);
        member.poll();
        assert!(!readable(member, Duration::ZERO), "a link that was reported keeps the member awake");
    }
}

/// Nothing was written, so nothing wakes a member and nothing is sent.
pub(crate) fn an_idle_fabric_is_not_readable<H: Harness>() {
    if !H::HAS_FD {
        return;
    }
    let (mut harness, mut members) = H::cluster(3, &[table(1, 64)]);
    settle(&mut harness, &mut members);
    let sent: Vec<_> = members.iter().map(|m| m.fabric.stats().bytes_sent).collect();
    for _ in 0..3 {
        for member in &mut members {
            member.fabric.arm();
            assert!(!member.poll());
        }
        for member in &mut members {
            assert!(!readable(member, Duration::ZERO));
            assert!(!member.poll());
            member.fabric.disarm();
        }
        settle(&mut harness, &mut members);
    }
    let sent_since: Vec<_> = members.iter().map(|m| m.fabric.stats().bytes_sent).collect();
    assert_eq!(sent_since, sent);
    assert!(members.iter().all(|m| m.events.is_empty()));
}

/// The asking member sleeps until the answer is there. The answering member sleeps except while it answers.
pub(crate) fn fetches_wake_both_ends<H: Harness>() {
    const ROUNDS: usize = 500;
    if !H::HAS_FD {
        return;
    }
    let (_harness, members) = H::cluster(2, &[table(1, 1 << 20)]);
    let play = |mut me: Endpoint| {
        let mut random = Random(51 + me.rank as u64);
        if me.rank == 1 {
            sleep_until(&mut me, &mut random, |me| me.sees(0, COUNTER) == 1);
            return me;
        }
        for round in 1..=ROUNDS {
            let len = 8 << random.below(18);
            me.fetch(1, 1, COLUMNS..COLUMNS + len.min(1 << 20));
            me.fabric.submit();
            sleep_until(&mut me, &mut random, |me| me.fetched(1).len() == round);
        }
        me.announce(&[1], COUNTER, 1);
        me.fabric.submit();
        me.events.clear();
        me
    };
    play_in_threads(members, play);
}

/// A sleeping member learns of its release, and of the writes before it.
pub(crate) fn a_release_wakes_a_sleeper<H: Harness>() {
    if !H::HAS_FD {
        return;
    }
    let (mut harness, mut members) = H::cluster(2, &[table(1, 64)]);
    settle(&mut harness, &mut members);
    members[1].fabric.arm();
    while members[1].poll() {}
    members[0].announce(&[1], COUNTER, 1);
    members[0].release(1);
    while members[1].events.is_empty() {
        sleep(&members[1]);
        members[1].poll();
    }
    assert_eq!((members[1].links_down(0), members[1].events.len()), (1, 1));
    assert_eq!(members[1].sees(0, COUNTER), 1);
    for member in &mut members {
        while member.poll() {}
        member.poll();
        assert!(!readable(member, Duration::ZERO), "a link that has ended keeps the member awake");
    }
    assert_eq!(members[0].events, []);
}
