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
    let specs = [membership::table_spec(), multicast::table_spec(SubgroupId(0), 4096)];
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
    s.forge(0, 1, column::RECEIVED.0, 1 << 40);
    s.poll(0);
    assert!(matches!(s.nodes[0].phase(), Phase::Stopped(Error::Contract { member: MemberId(2), .. })));
    s.settle(&[0, 2]);
    let phase = s.nodes[2].phase();
    assert!(matches!(phase, Phase::Stopped(Error::MemberFailed { member: MemberId(2), .. })), "{phase:?}");
}
