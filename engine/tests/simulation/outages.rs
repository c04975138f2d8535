//! Outages: links that break and can be made again after a while.

use super::cluster::{Actor, Arrival, Cluster};
use super::fabric::again;
use crate::membership::Departure;
use crate::node::Phase;

/// One end of a connection that is being made: its process, the other process, and the view of the process that
/// dialled.
struct End {
    at: usize,
    with: usize,
    view: u64,
    dialled: bool,
    number: u64,
}

/// The state of broken links and of connections that are being made.
#[derive(Default)]
pub(super) struct Outages {
    /// Two processes that cannot connect, and the end of that time.
    apart: Vec<(usize, usize, u64)>,
    ends: Vec<End>,
    /// Answers on their way to a process: (receiver, sender, the view in which the receiver asked, the way in which it
    /// departed).
    answers: Vec<(usize, usize, u64, Departure)>,
    /// The number of the last connection.
    made: u64,
}

impl Outages {
    /// The two processes cannot connect before `until_ms`.
    pub(super) fn begin(&mut self, a: usize, b: usize, until_ms: u64) {
        self.apart.push((a.min(b), a.max(b), until_ms));
    }

    fn is_apart(&self, a: usize, b: usize, now_ms: u64) -> bool {
        let pair = (a.min(b), a.max(b));
        self.apart.iter().any(|&(a, b, until_ms)| (a, b) == pair && now_ms < until_ms)
    }

    /// Returns the number of a new connection. Later ones have higher numbers. Of two that cross, the one from the
    /// lower slot counts as the later one, since both nodes keep it.
    fn number(&mut self, from: usize, to: usize, from_lower: bool) -> u64 {
        self.made += 2;
        // A connection that the lower end has taken is severed when the other end asks for a new one.
        let crossing = self.ends.iter().find(|end| (end.at, end.with) == (to, from));
        match crossing.filter(|_| !from_lower) {
            Some(end) => end.number - 1,
            None => self.made,
        }
    }

    /// Whether a connection that `from` has dialled to `to` is on its way. `to` may dial at the same time: of two
    /// connections that cross, both nodes keep the same one.
    fn dials(&self, from: usize, to: usize) -> bool {
        let theirs = |end: &End| (end.at, end.with, end.dialled);
        self.ends.iter().map(theirs).any(|end| end == (from, to, true) || end == (to, from, false))
    }
}

impl Cluster {
    /// The host of `who` dials a member to which its node has lost the link. Returns true if a connection or an answer
    /// is on its way.
    pub(super) fn dial(&mut self, who: usize) -> bool {
        if self.actors[who].ended() || self.actors[who].paused > 0 {
            return false;
        }
        let lost = self.actors[who].node.broken_links();
        let Some(view) = self.actors[who].node.view().map(|view| view.number).filter(|_| !lost.is_empty()) else {
            return false;
        };
        let with = lost[self.rng.below(lost.len())].incarnation as usize - 1;
        let (from, to) = (self.actors[who].process, self.actors[with].process);
        let dumb = self.net.world().is_stalled(from, to) || self.net.world().is_stalled(to, from);
        let apart = dumb || self.outages.is_apart(who, with, self.now_ms) || self.outages.dials(who, with);
        if apart || self.actors[with].ended() || self.actors[with].paused > 0 {
            return false;
        }
        let peer = self.actors[who].peer;
        self.actors[with].awake = true;
        if let Some((_, departure)) = self.actors[with].node.has_gone_on_without(peer, view) {
            self.say(|| format!("{who} dials {with}, which has gone on without it: {departure:?}"));
            for other in self.actors.iter().filter_map(|actor| actor.node.view().filter(|other| other.number > view)) {
                assert!(other.members.iter().all(|member| member.peer != peer), "{who} is in view {}", other.number);
            }
            let known = self.outages.answers.iter().any(|&(at, ..)| at == who);
            self.outages.answers.extend((!known).then_some((who, with, view, departure)));
            return !known;
        }
        if let Err(why) = self.actors[with].node.may_relink(peer, view) {
            self.say(|| format!("{who} dials {with}, which refuses: {why}"));
            return false;
        }
        let number = self.outages.number(who, with, peer.slot < self.actors[with].peer.slot);
        self.say(|| format!("{who} dials {with}: connection {number}"));
        for (at, with, dialled) in [(who, with, true), (with, who, false)] {
            self.outages.ends.push(End { at, with, view, dialled, number });
        }
        true
    }

    /// The host of `who`, which restarts, makes a broken link to another restarting process anew. Returns true if it
    /// has.
    pub(super) fn link_again(&mut self, who: usize) -> bool {
        let restarts = |a: &Actor| !a.ended() && matches!(a.node.phase(), Phase::Restarting);
        let me = &self.actors[who];
        let lost = |other: &usize| {
            let it = &self.actors[*other];
            let comes = |from, at| self.arrivals.iter().any(|arrival| (arrival.from, arrival.at) == (from, at));
            let (from, to) = (me.process, it.process);
            let dumb = self.net.world().is_stalled(from, to) || self.net.world().is_stalled(to, from);
            let apart = dumb || self.outages.is_apart(who, *other, self.now_ms);
            let coming = comes(who, *other) || comes(*other, who);
            restarts(it) && me.peer.slot < it.peer.slot && !me.node.is_linked_with(it.peer.id) && !apart && !coming
        };
        let Some(with) = (0..self.actors.len()).find(lost).filter(|_| restarts(me) && me.paused == 0) else {
            return false;
        };
        let number = self.outages.number(who, with, true);
        let [connection, theirs] = again(me.process, self.actors[with].process, number);
        let peer = self.actors[with].peer;
        self.say(|| format!("{who} links itself with {with} again: connection {number}"));
        if self.actors[who].node.attach(peer, 0, connection).is_err() {
            return false;
        }
        self.actors[who].awake = true;
        self.report.links_again += 1;
        self.arrivals.push(Arrival { at: with, from: who, since: 0, connection: theirs });
        true
    }

    /// Delivers an answer: the others have gone on without the process that dialled. Returns false if no answer can be
    /// delivered.
    fn hear(&mut self) -> bool {
        let ready = |&(at, ..): &(usize, usize, u64, Departure)| self.actors[at].paused == 0;
        let Some(n) = self.outages.answers.iter().position(ready) else { return false };
        let (at, from, view, departure) = self.outages.answers.swap_remove(n);
        let peer = self.actors[from].peer;
        if !self.actors[at].ended() {
            self.actors[at].node.learn_gone_on(peer, view, departure);
            self.actors[at].awake = true;
            self.report.told_gone_on += 1;
        }
        true
    }

    /// Delivers an answer, or lets one end of a new connection be taken. Returns false if neither is possible.
    pub(super) fn connect(&mut self) -> bool {
        if self.hear() {
            return true;
        }
        let ready = |end: &End| self.actors[end.at].paused == 0;
        let ready: Vec<usize> =
            self.outages.ends.iter().enumerate().filter(|(_, end)| ready(end)).map(|(at, _)| at).collect();
        if ready.is_empty() {
            return false;
        }
        let End { at, with, view, dialled, number } = self.outages.ends.swap_remove(ready[self.rng.below(ready.len())]);
        let (mine, theirs) = (self.actors[at].process, self.actors[with].process);
        let [connection, _] = again(mine, theirs, number);
        let peer = self.actors[with].peer;
        let taken = !self.actors[at].ended() && self.actors[at].node.relink(peer, view, dialled, connection).is_ok();
        self.actors[at].awake = true;
        if taken {
            self.say(|| format!("{at} has its link with {with} again: connection {number}"));
            self.report.relinks += 1;
        } else {
            // The other end finds this connection broken, now or when it takes it.
            self.net.world().refuse(mine, theirs, number);
        }
        true
    }

    /// Breaks all links of the group at once.
    pub(super) fn storm(&mut self) -> bool {
        let processes: Vec<usize> = (0..self.actors.len()).filter(|&who| !self.actors[who].ended()).collect();
        if processes.len() < 2 {
            return false;
        }
        self.say(|| "every link breaks".to_owned());
        self.doubt(&processes);
        self.excuses += processes.len();
        let until_ms = self.outage_ends_ms();
        for (n, &a) in processes.iter().enumerate() {
            for &b in &processes[n + 1..] {
                self.break_link(a, b, until_ms);
            }
        }
        true
    }

    pub(super) fn break_link(&mut self, a: usize, b: usize, until_ms: u64) {
        self.net.world().cut(self.actors[a].process, self.actors[b].process);
        self.outages.begin(a, b, until_ms);
        self.report.cuts += 1;
    }

    /// The time at which an outage that begins now is over.
    pub(super) fn outage_ends_ms(&mut self) -> u64 {
        let most_ms = 3 * self.settings.failure_timeout_ms as usize;
        match self.plan.heals {
            true => self.now_ms + self.rng.below(most_ms) as u64,
            false => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenarios::{Stage, stage};
    use super::{Departure, again};
    use crate::error::Error;
    use crate::node::Phase;
    use crate::types::Mode;

    fn both_run_view(s: &mut Stage, view: u64) {
        for who in 0..2 {
            assert!(matches!(s.node(who).phase(), Phase::Running), "{:?}", s.node(who).phase());
            assert_eq!(s.view(who), view);
            assert_eq!(s.node(who).view().unwrap().members.len(), 2);
        }
    }

    /// Makes a broken link again, as the hosts of the two members do.
    fn link_again(s: &mut Stage, a: usize, b: usize) {
        let (peers, view) = ([s.peer(a), s.peer(b)], s.view(a));
        assert!(s.node(a).broken_links().contains(&peers[1]));
        assert_eq!(s.node(b).may_relink(peers[0], view), Ok(()));
        let [at_a, at_b] = again(a, b, 1);
        s.node(a).relink(peers[1], view, true, at_a).unwrap();
        s.node(b).relink(peers[0], view, false, at_b).unwrap();
    }

    /// One of two members stands still for longer than the failure timeout, and comes back.
    #[test]
    fn one_of_two_that_stood_still_is_heard_again() {
        for ms in [300, 1000] {
            let mut s = stage(2, 512, false);
            s.pass_time(&[0], ms);
            assert!(s.node(0).is_between_views(), "the other one is accused, and there is no majority without it");
            if ms > 500 {
                // The link has been silent for so long that it is made again.
                s.run(&[1], 3);
                link_again(&mut s, 0, 1);
            }
            s.pass_time(&[0, 1], 300);
            goes_on(s);
        }
    }

    fn goes_on(mut s: Stage) {
        both_run_view(&mut s, 1);
        assert!(s.send(1, 64, 1, Mode::Safe));
        s.pass_time(&[0, 1], 100);
        s.check(0, 1);
        assert_eq!(s.delivered(0), 1);
    }

    /// Two of three members stand still, and come back. The third, which waited for them, is not removed.
    #[test]
    fn a_majority_that_stood_still_does_not_remove_the_one_that_waited() {
        let mut s = stage(3, 512, false);
        s.pass_time(&[0], 300);
        assert!(s.node(0).is_between_views(), "the others are accused, and there is no majority without them");
        // The two run for a while before any write of theirs has reached the first one.
        s.run(&[1, 2], 6);
        s.pass_time(&[0, 1, 2], 300);
        for who in 0..3 {
            assert!(matches!(s.node(who).phase(), Phase::Running), "{who}: {:?}", s.node(who).phase());
            assert_eq!((s.view(who), s.node(who).view().unwrap().members.len()), (1, 3));
        }
    }

    /// The only link breaks with messages on their way, and is made again.
    #[test]
    fn what_was_lost_with_a_link_is_fetched_over_the_next_one() {
        let mut s = stage(2, 1024, false);
        for byte in 1..=3 {
            assert!(s.send(0, 64, byte, Mode::Safe));
            s.poll(0);
        }
        s.net.world().cut(0, 1);
        s.pass_time(&[0, 1], 50);
        let peers = [s.peer(0), s.peer(1)];
        assert_eq!(s.node(0).broken_links(), [peers[1]]);
        assert_eq!(s.node(1).may_relink(peers[0], 0), Ok(()));
        let [at_0, at_1] = again(0, 1, 1);
        s.node(0).relink(peers[1], 0, true, at_0).unwrap();
        s.run(&[0, 1], 3);
        assert!(s.node(0).is_between_views(), "the other end has not taken the link yet");
        s.node(1).relink(peers[0], 0, false, at_1).unwrap();
        s.pass_time(&[0, 1], 200);
        both_run_view(&mut s, 1);
        s.check(1, 0);
        assert_eq!((s.delivered(0), s.delivered(1)), (3, 3));
    }

    /// One of two members leaves. The link breaks before the other member, which leads, has learned that the leaver has
    /// accepted the decision. The leaver must stay until the other knows it.
    #[test]
    fn the_last_word_of_one_that_leaves_is_said_again() {
        for found_by_leaver in [false, true] {
            let mut s = stage(2, 512, false);
            assert!(s.send(1, 64, 1, Mode::Safe));
            s.node(1).leave();
            while !matches!(s.node(1).phase(), Phase::Parting) {
                s.now_ms += 1;
                s.poll(0);
                s.net.world().drain();
                // The leaver accepts, and finds that all have accepted, before any of its writes has gone out.
                (0..4).for_each(|_| s.poll(1));
            }
            // Everything on its way is lost.
            s.net.world().stall(1, 0, true);
            s.net.world().cut(0, 1);
            s.net.world().stall(1, 0, false);
            // Either end may be the first to find the link broken.
            s.pass_time(if found_by_leaver { &[0, 1] } else { &[0] }, 100);
            assert!(s.node(0).is_between_views());
            assert!(matches!(s.node(1).phase(), Phase::Parting), "{:?}", s.node(1).phase());
            let peers = [s.peer(0), s.peer(1)];
            assert_eq!(s.node(0).broken_links(), [peers[1]]);
            assert_eq!(s.node(1).may_relink(peers[0], 0), Ok(()));
            let [at_0, at_1] = again(0, 1, 1);
            s.node(1).relink(peers[0], 0, false, at_1).unwrap();
            s.node(0).relink(peers[1], 0, true, at_0).unwrap();
            s.pass_time(&[0, 1], 100);
            assert!(matches!(s.node(0).phase(), Phase::Running), "{:?}", s.node(0).phase());
            assert_eq!((s.view(0), s.delivered(0)), (1, 1));
            let phase = s.node(1).phase().clone();
            assert!(matches!(phase, Phase::Closing | Phase::Left), "{phase:?}");
        }
    }

    /// The links of one of three are cut while all processes run. It learns that the others went on without it when it
    /// dials them, not when the partition timeout has passed.
    #[test]
    fn one_without_which_the_others_went_on_is_told_so() {
        for leaves in [false, true] {
            let mut s = stage(3, 512, false);
            if leaves {
                s.node(2).leave();
                // The leaver has done its part. The others decide, and nothing of that reaches it.
                while !s.node(0).has_proposed() {
                    s.now_ms += 1;
                    (0..3).for_each(|who| s.poll(who));
                    s.net.world().drain();
                }
                s.net.world().stall(0, 2, true);
                s.net.world().stall(1, 2, true);
                s.pass_time(&[0, 1], 20);
                assert_eq!((s.view(0), s.view(1)), (1, 1));
            }
            s.net.world().cut(0, 2);
            s.net.world().cut(1, 2);
            s.net.world().stall(0, 2, false);
            s.net.world().stall(1, 2, false);
            s.pass_time(&[0, 1, 2], 50);
            let (peer, view) = (s.peer(2), s.view(2));
            assert_eq!((s.view(0), s.view(1), view), (1, 1, 0));
            let departure = if leaves { Departure::Left } else { Departure::Failed };
            for who in [0, 1] {
                assert_eq!(s.node(who).has_gone_on_without(peer, view), Some((1, departure)));
                assert!(s.node(who).may_relink(peer, view).is_err());
            }
            // An answer that the process did not ask for changes nothing.
            let told_by = s.peer(0);
            s.node(2).learn_gone_on(told_by, view + 1, departure);
            s.node(0).learn_gone_on(peer, 0, departure);
            assert!(s.node(2).is_between_views() && !matches!(s.node(2).phase(), Phase::Closing | Phase::Left));
            assert!(matches!(s.node(0).phase(), Phase::Running));
            assert_eq!(s.node(2).broken_links().len(), 2);
            s.node(2).learn_gone_on(told_by, view, departure);
            s.pass_time(&[0, 1, 2], 50);
            let phase = s.node(2).phase().clone();
            let expected = match leaves {
                true => matches!(phase, Phase::Closing | Phase::Left),
                false => matches!(phase, Phase::Stopped(Error::Removed { view: 1 })),
            };
            assert!(expected, "{phase:?}");
        }
    }

    /// A link is not made again in a view that is not ending, or with a process that is not a member.
    #[test]
    fn a_link_is_made_again_only_while_the_view_ends() {
        let mut s = stage(3, 512, false);
        let peer = s.peer(1);
        assert!(s.node(0).may_relink(peer, 7).is_err(), "another view");
        let other = crate::membership::Peer { incarnation: 99, ..peer };
        assert!(s.node(0).may_relink(other, 0).is_err(), "another life of the process");
        assert!(s.node(0).broken_links().is_empty());
        s.run(&[0, 1, 2], 3);
        assert_eq!(s.view(0), 0, "what was refused has changed nothing");
    }

    /// A request that has waited in the network is older than the link, which stays. A later one takes it down.
    #[test]
    fn a_request_that_is_older_than_the_link_does_not_take_it_down() {
        let mut s = stage(2, 512, false);
        s.net.world().cut(0, 1);
        s.pass_time(&[0, 1], 50);
        link_again(&mut s, 1, 0);
        let peer = s.peer(1);
        assert!(s.node(0).may_relink(peer, 0).is_err(), "it has waited in the network");
        assert!(s.node(0).broken_links().is_empty(), "the link stays up");
        // Member 1 stands still, so the view does not end meanwhile.
        s.pass_time(&[0], 200);
        assert_eq!(s.node(0).may_relink(peer, 0), Ok(()), "member 1 has found the new link broken");
        assert_eq!(s.node(0).broken_links(), [peer]);
    }

    /// A link that comes and goes does not keep a view open: the ninth accusation stays.
    #[test]
    fn a_link_that_comes_and_goes_is_given_up() {
        let mut s = stage(2, 512, false);
        let peers = [s.peer(0), s.peer(1)];
        let mut made = 0;
        // Member 1 never runs, so no decision is made.
        s.net.world().cut(0, 1);
        s.pass_time(&[0], 20);
        while !s.node(0).broken_links().is_empty() {
            made += 1;
            let [at_0, _] = again(0, 1, made);
            s.node(0).relink(peers[1], 0, true, at_0).unwrap();
            s.net.world().cut(0, 1);
            s.pass_time(&[0], 20);
            assert!(made < 20, "it is made again for ever");
        }
        assert_eq!(made, 4, "nine changes: accused five times, withdrawn four times");
    }
}
