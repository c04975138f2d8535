//! Single situations, step by step, that once went wrong.

use super::fabric::Net;
use crate::config::{MemberId, SubgroupId};
use crate::error::Error;
use crate::membership::{self, Membership};
use crate::multicast::{self, Mode, Multicast, Origin, SendRing, column};
use crate::node::{Node, Phase};
use std::sync::Arc;
use std::sync::atomic::Ordering;

struct Stage {
    net: Net,
    nodes: Vec<Node>,
    rings: Vec<Arc<SendRing>>,
}

/// Members with rings of 4,096 bytes that run view 0.
fn stage(n: usize) -> Stage {
    stage_of(n, 4096)
}

fn stage_of(n: usize, ring: usize) -> Stage {
    let specs = [membership::table_spec(), multicast::table_spec(SubgroupId(0), n, ring)];
    let net = Net::new(n, &specs, 7);
    let ids: Vec<MemberId> = (1..=n as u32).map(MemberId).collect();
    let (mut nodes, mut rings) = (Vec::new(), Vec::new());
    for me in 0..n {
        let (fabric, mut tables) = net.endpoint(me);
        let multicast = Multicast::new(SubgroupId(0), ids.clone(), tables.pop().unwrap(), me, 1024, Origin::default());
        rings.push(multicast.ring().clone());
        let membership = Membership::new(tables.pop().unwrap(), me);
        nodes.push(Node::new(ids.clone(), Box::new(fabric), membership, vec![multicast], 0, u64::MAX));
    }
    let mut stage = Stage { net, nodes, rings };
    stage.net.world().drain();
    (0..n).for_each(|who| stage.poll(who));
    assert!(stage.nodes.iter().all(|node| matches!(node.phase(), Phase::Running)));
    stage
}

impl Stage {
    fn poll(&mut self, who: usize) {
        self.nodes[who].poll(1, &mut |_| {});
    }

    fn send(&self, who: usize, len: usize) {
        let claim = self.rings[who].claim(len).unwrap();
        self.rings[who].commit(claim, Mode::Safe);
    }

    /// A hostile member shows `value` to member `at`.
    fn forge(&self, at: usize, of: usize, offset: usize, value: u64) {
        self.net.world().copy(1, at, of).word(offset).store(value, Ordering::Release);
    }

    /// Everything lands and everybody runs, many times over.
    fn settle(&mut self, who: &[usize]) {
        for _ in 0..200 {
            self.net.world().drain();
            who.iter().for_each(|&w| self.poll(w));
        }
    }
}

/// Padding that a reader has stepped over, but whose null it has not delivered, is not done with.
#[test]
fn dropped_reservations_are_freed_in_a_quiet_group() {
    let mut s = stage(3);
    s.send(1, 8);
    s.poll(1);
    s.net.world().drain_link(1, 0);
    s.poll(0);
    for _ in 0..4 {
        let claim = s.rings[0].claim(1000).unwrap();
        s.rings[0].abandon(claim);
    }
    s.poll(0);
    s.net.world().drain_link(0, 1);
    s.poll(1);
    s.settle(&[0, 1, 2]);
    let _ = s.rings[0].claim(1000);
    s.settle(&[0, 1, 2]);
    assert!(s.rings[0].claim(1000).is_ok(), "all is delivered, and the ring stays full");
}

/// One word of a peer must not keep the engine busy, nor claim what cannot be.
#[test]
fn a_flood_of_nulls_is_a_breach() {
    let mut s = stage(2);
    s.forge(1, 0, column::PUBLISHED.0, ((1 << 31) - 1) << 32);
    s.poll(1);
    assert!(matches!(s.nodes[1].phase(), Phase::Stopped(Error::Contract { member: MemberId(1), .. })));
}

/// Whoever hears that a survivor stopped because of a failure stops too, even if the culprit only hangs.
#[test]
fn a_member_that_only_one_has_severed_ends_the_group() {
    let mut s = stage(3);
    s.send(2, 8);
    s.poll(2);
    s.net.world().drain();
    s.poll(0);
    s.forge(0, 1, column::received(0).0, 1 << 40);
    s.poll(0);
    assert!(matches!(s.nodes[0].phase(), Phase::Stopped(Error::Contract { member: MemberId(2), .. })));
    s.settle(&[0, 2]);
    let phase = s.nodes[2].phase();
    assert!(matches!(phase, Phase::Stopped(Error::MemberFailed { member: MemberId(2), .. })), "{phase:?}");
}

fn poll_count(s: &mut Stage, who: usize) -> usize {
    let mut count = 0;
    s.nodes[who].poll(1, &mut |_| count += 1);
    count
}

/// The leaver's own safe message was missing at a survivor, although the leave succeeded.
#[test]
fn a_leavers_message_waits_for_a_null_that_is_late() {
    let mut s = stage(3);
    s.send(1, 8);
    s.poll(1);
    s.net.world().drain_link(1, 0);
    s.net.world().drain_link(1, 2);
    s.poll(0);
    let mut at2 = poll_count(&mut s, 2);
    s.net.world().drain_link(0, 1);
    s.net.world().drain_link(2, 1);
    s.nodes[1].leave();
    let at1 = poll_count(&mut s, 1);
    s.net.world().drain_link(1, 2);
    s.net.world().drain_link(1, 0);
    at2 += poll_count(&mut s, 2);
    for _ in 0..50 {
        s.net.world().drain();
        s.poll(0);
        s.poll(1);
        at2 += poll_count(&mut s, 2);
    }
    assert_eq!((at1, at2), (1, 1));
}

/// Once: a safe message was delivered by one survivor and not by another.
#[test]
fn survivors_of_a_leave_deliver_the_same() {
    // 0 silent, 1 sends, 2 leaves, 3 is the victim.
    let mut s = stage(4);
    s.send(1, 8);
    s.poll(1);
    s.net.world().drain();
    s.nodes[2].leave();
    s.poll(2);
    let mut at3 = poll_count(&mut s, 3);
    s.poll(0);
    for to in [0, 1, 3] {
        s.net.world().drain_link(2, to);
    }
    at3 += poll_count(&mut s, 3);
    let mut at1 = 0;
    for _ in 0..50 {
        s.net.world().drain();
        s.poll(0);
        at1 += poll_count(&mut s, 1);
        s.poll(2);
        at3 += poll_count(&mut s, 3);
    }
    assert_eq!(at1, at3, "1 delivered {at1}, 3 delivered {at3}");
}

/// Once: a leaver went while it held nulls back.
#[test]
fn a_leaver_does_not_go_with_nulls_held_back() {
    let mut s = stage(2);
    for _ in 0..4 {
        s.send(0, 1000);
    }
    s.poll(0);
    s.net.world().drain_link(0, 1);
    s.poll(1);
    s.net.world().drain_link(1, 0);
    for _ in 0..20 {
        s.poll(0);
    }
    assert!(s.rings[0].claim(1024).is_err(), "starved");
    s.net.world().drain_link(0, 1);
    for _ in 0..20 {
        s.poll(1);
    }
    for _ in 0..6 {
        s.send(1, 8);
    }
    s.poll(1);
    s.net.world().drain_link(1, 0);
    // The application's last try found no space; now it leaves.
    s.nodes[0].leave();
    s.poll(0);
    for _ in 0..50 {
        s.net.world().drain();
        s.poll(1);
        s.poll(0);
    }
    let multicast = &s.nodes[1].multicasts()[0];
    let target = multicast.flush_target(s.rings[1].next_ticket());
    let flush_done = target.is_some_and(|t| multicast.received_by(0, &t));
    assert!(!flush_done || multicast.delivered_mine(), "everybody has received it, the leaver too; nobody delivers it");
}

/// More `fifo` messages of the leaver than a pass delivers.
#[test]
fn a_leavers_fifo_messages_may_take_several_passes() {
    let mut s = stage_of(3, 1 << 22);
    let count = 30_000;
    for _ in 0..count {
        let claim = s.rings[1].claim(0).unwrap();
        s.rings[1].commit(claim, Mode::Fifo);
    }
    s.poll(1);
    s.net.world().drain_link(1, 0);
    s.net.world().drain_link(1, 2);
    s.poll(0);
    let mut at2 = poll_count(&mut s, 2);
    s.net.world().drain_link(0, 1);
    s.net.world().drain_link(2, 1);
    s.nodes[1].leave();
    for _ in 0..20 {
        s.poll(1);
    }
    s.net.world().drain_link(1, 2);
    for _ in 0..20 {
        at2 += poll_count(&mut s, 2);
    }
    s.settle(&[0, 1]);
    for _ in 0..20 {
        at2 += poll_count(&mut s, 2);
    }
    assert_eq!(at2, count);
}

/// A leaver that claims to have received what never was.
#[test]
fn a_leaver_that_lies_does_not_keep_the_group() {
    let mut s = stage(3);
    // So that the next number is not the leaver's: 0 and 1 have something.
    s.send(0, 8);
    s.settle(&[0, 1, 2]);
    let table = column::received(2).0;
    s.forge(1, 0, table, 5);
    s.nodes[0].leave();
    for who in [0, 2] {
        s.nodes[who].poll(1, &mut |_| {});
    }
    s.settle(&[0, 1, 2]);
    assert!(matches!(s.nodes[1].phase(), Phase::Stopped(_)));
}
