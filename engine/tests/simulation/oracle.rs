//! What must hold, checked at each delivery and at the end of a run.

use crate::config::MemberId;
use crate::multicast::{Delivery, Mode};
use std::collections::BTreeMap;

/// A message as its sender made it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) len: usize,
    pub(crate) mode: Mode,
    pub(crate) committed: bool,
}

/// Every byte of a message's content follows from its sender, its place in the sender's order and the position.
pub(crate) fn content(sender: usize, number: usize, at: usize) -> u8 {
    let mixed = (sender as u64 + 1) * 0x9e37_79b9 + (number as u64 + 1) * 0x85eb_ca6b + at as u64 * 0xc2b2_ae35;
    (mixed ^ (mixed >> 17)) as u8
}

/// See the module.
pub(crate) struct Oracle {
    /// Per sender, its messages in FIFO order.
    pub(crate) sent: Vec<Vec<Sent>>,
    /// Per member and sender, how many messages were delivered.
    counts: Vec<Vec<usize>>,
    /// Per member and sender, one above the index of the last of them.
    passed: Vec<Vec<u64>>,
    /// The one order: number to (sender, place in its order, mode).
    order: BTreeMap<u64, (usize, usize, Mode)>,
    /// Per member, the numbers of its `ordered` and `safe` deliveries.
    histories: Vec<Vec<u64>>,
    pub(crate) fifo_overtakes: u64,
}

impl Oracle {
    pub(crate) fn new(n: usize) -> Oracle {
        Oracle {
            sent: vec![Vec::new(); n],
            counts: vec![vec![0; n]; n],
            passed: vec![vec![0; n]; n],
            order: BTreeMap::new(),
            histories: vec![Vec::new(); n],
            fifo_overtakes: 0,
        }
    }

    /// Member `at` delivers; `stable[s]` messages of stream s have really reached every member.
    pub(crate) fn deliver(&mut self, at: usize, delivery: &Delivery<'_>, stable: &[u64]) {
        let MemberId(id) = delivery.sender;
        let sender = id as usize - 1;
        let number = self.counts[at][sender];
        let what = format!("member {at}, sequence {}, message {number} of sender {sender}", delivery.sequence);
        let sent = self.sent[sender].get(number).unwrap_or_else(|| panic!("{what}: nobody sent it"));
        assert!(sent.committed, "{what}: delivered before it was committed");
        assert_eq!(delivery.payload.len(), sent.len, "{what}: length");
        assert_eq!(delivery.mode, sent.mode, "{what}: mode");
        let wrong = delivery.payload.iter().enumerate().find(|&(i, &byte)| byte != content(sender, number, i));
        assert!(wrong.is_none(), "{what}: content differs at byte {}", wrong.unwrap().0);
        self.counts[at][sender] += 1;
        self.passed[at][sender] = delivery.sequence / self.sent.len() as u64 + 1;
        let entry = (sender, number, sent.mode);
        let known = *self.order.entry(delivery.sequence).or_insert(entry);
        assert_eq!(known, entry, "{what}: another member delivered something else there");
        if sent.mode == Mode::Fifo {
            self.fifo_overtakes += u64::from(self.histories[at].last().is_none_or(|&last| last < delivery.sequence));
            return;
        }
        if let Some(&last) = self.histories[at].last() {
            assert!(last < delivery.sequence, "{what}: after {last}");
        }
        self.histories[at].push(delivery.sequence);
        if sent.mode == Mode::Safe {
            // Nothing that anybody was delivered up to here can be lost any more.
            let below = self.order.range(..=delivery.sequence).map(|(&q, e)| (e.0, q / stable.len() as u64));
            let loose = below.rev().find(|&(s, index)| index >= stable[s]);
            assert!(loose.is_none(), "{what}: safe, but not everybody has (stream, index) {loose:?}");
        }
    }

    /// Total order: every history is a prefix of the one order.
    pub(crate) fn check_prefixes(&self) {
        let all: Vec<u64> = self.order.iter().filter(|(_, e)| e.2 != Mode::Fifo).map(|(&q, _)| q).collect();
        for (member, history) in self.histories.iter().enumerate() {
            assert_eq!(history[..], all[..history.len()], "member {member}: its history is no prefix");
        }
    }

    /// Whether member `at` has delivered everything that was sent.
    pub(crate) fn has_all(&self, at: usize) -> bool {
        (0..self.sent.len()).all(|sender| self.has_all_of(at, sender))
    }

    /// Whether member `at` has delivered everything that `sender` sent.
    pub(crate) fn has_all_of(&self, at: usize, sender: usize) -> bool {
        self.counts[at][sender] == self.sent[sender].len()
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.counts.iter().flatten().map(|&c| c as u64).sum()
    }

    /// The number that message `number` of `sender` got, once anybody has delivered it.
    pub(crate) fn sequence_of(&self, sender: usize, number: usize) -> Option<u64> {
        self.order.iter().find(|(_, e)| e.0 == sender && e.1 == number).map(|(&q, _)| q)
    }

    /// Per stream, one above the index of the last message that member `at` has delivered.
    pub(crate) fn passed(&self, at: usize) -> Vec<u64> {
        self.passed[at].clone()
    }

    /// What a safe delivery and a successful leave promise: every stopped survivor has it too.
    pub(crate) fn check_uniform(&self, left: &[usize], stopped: &[usize]) {
        for &at in stopped {
            for by in 0..self.histories.len() {
                for q in &self.histories[by] {
                    let must = left.contains(&by) || self.order[q].2 == Mode::Safe;
                    assert!(
                        !must || self.histories[at].contains(q),
                        "number {q} of {:?} was delivered by {by} (left {left:?}) and not by {at}",
                        self.order[q]
                    );
                }
            }
        }
    }
}
