//! The guarantees, checked at each delivery, at each view change and at the end of a run. The failure texts name their
//! numbers in `docs/guarantees.md`.

use super::media::Written;
use crate::log::Kind;
use crate::membership::ViewChange;
use crate::multicast::Delivery;
use crate::types::{Mode, Ticket};
use std::collections::{BTreeMap, BTreeSet};

/// A message as its sender made it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) len: usize,
    pub(crate) mode: Mode,
    pub(crate) ticket: Ticket,
    /// The place in the order of the last message, not counting `fifo`, that the sender had delivered before.
    pub(crate) after: Option<(u64, u64)>,
    pub(crate) committed: bool,
}

/// Returns one byte of a message's content, which depends on the subgroup, the sender, the place in the sender's order
/// and the position.
pub(crate) fn content(subgroup: usize, sender: usize, number: usize, at: usize) -> u8 {
    let mixed = (sender as u64 + 1) * 0x9e37_79b9 + (number as u64 + 1) * 0x85eb_ca6b + at as u64 * 0xc2b2_ae35;
    let mixed = mixed + subgroup as u64 * 0x27d4_eb2f;
    (mixed ^ (mixed >> 17)) as u8
}

/// A message by its sender and its place in the sender's order.
type Message = (usize, usize);

/// The sequence number of a delivery that is not `fifo`, and its time; the time is 0 in a group without a log.
type Place = (u64, u64);

/// A delivery that waits until it is known which messages came before it.
struct Early {
    sender: usize,
    view: u64,
    sequence: u64,
    mode: Mode,
    ticket: Option<Ticket>,
    time_ns: u64,
    payload: Vec<u8>,
}

/// The past of one process.
#[derive(Default)]
struct Past {
    /// Per sender, the number of messages delivered; `None` until the extent of a joiner's state is known.
    counts: Option<Vec<usize>>,
    early: Vec<Early>,
    /// Per view: the message of each sequence number, and the places of the ordered deliveries.
    views: BTreeMap<u64, (BTreeMap<u64, Message>, Vec<Place>)>,
    /// The view that it runs.
    view: Option<u64>,
    /// The place of its last delivery that is not `fifo`.
    last: Option<(u64, u64)>,
}

/// The common deliveries of the processes that went on from a view.
struct End {
    counts: Vec<usize>,
    all: BTreeMap<u64, Message>,
    ordered: Vec<Place>,
}

impl End {
    /// Checks that the log of process `at` has what was delivered in this view, with the same times.
    fn agrees(&self, at: usize, view: u64, log: &End) {
        assert_eq!(self.all, log.all, "process {at}: its log of view {view} is not what was delivered (guarantee 4)");
        assert_eq!(self.ordered, log.ordered, "process {at}: the times in its log of view {view} (guarantee 10)");
    }
}

/// The checks of one subgroup in a run; see the module.
#[derive(Default)]
pub(crate) struct Oracle {
    subgroup: usize,
    /// Per sender, its messages in FIFO order.
    pub(crate) sent: Vec<Vec<Sent>>,
    pasts: Vec<Past>,
    /// The one order: (view, number) to message.
    order: BTreeMap<(u64, u64), (Message, Mode)>,
    /// Messages that any process was delivered as safe.
    safe: BTreeSet<(u64, u64)>,
    /// Messages that any process was delivered as durable, if that means all voters.
    durable: BTreeSet<(u64, u64)>,
    pub(crate) durable_is_all: bool,
    /// Views that ended with the death of all their processes: messages that were only safe may be lost.
    failed: BTreeSet<u64>,
    /// The one change to each view.
    changes: BTreeMap<u64, ViewChange>,
    ends: BTreeMap<u64, End>,
    pub(crate) fifo_overtakes: u64,
    pub(crate) deliveries: u64,
}

impl Oracle {
    pub(crate) fn new(subgroup: usize) -> Oracle {
        Oracle { subgroup, ..Oracle::default() }
    }

    /// Adds a process. A founder begins without deliveries, a joiner with those that the state of its first view
    /// covers.
    pub(crate) fn add(&mut self, founder: bool) {
        self.sent.push(Vec::new());
        let mut past = Past::default();
        if founder {
            past.counts = Some(Vec::new());
        }
        self.pasts.push(past);
    }

    /// Process `at` delivers a message of process `sender`.
    pub(crate) fn deliver(&mut self, at: usize, sender: usize, delivery: &Delivery<'_>) {
        let early = Early {
            sender,
            view: delivery.view,
            sequence: delivery.sequence,
            mode: delivery.mode,
            ticket: delivery.ticket,
            time_ns: delivery.time_ns,
            payload: delivery.payload.to_vec(),
        };
        self.deliveries += 1;
        assert_eq!(
            self.pasts[at].view,
            Some(delivery.view),
            "process {at}: a delivery of another view than its own (guarantee 8)"
        );
        if early.mode != Mode::Fifo {
            self.pasts[at].last = Some((early.view, early.sequence));
        }
        if self.pasts[at].counts.is_some() { self.take(at, early) } else { self.pasts[at].early.push(early) }
    }

    /// The place in the order of the last message, not counting `fifo`, that process `at` has delivered.
    pub(crate) fn last_of(&self, at: usize) -> Option<(u64, u64)> {
        self.pasts[at].last
    }

    fn take(&mut self, at: usize, it: Early) {
        let Early { sender, view, sequence, mode, ticket, time_ns, payload } = it;
        let past = &mut self.pasts[at];
        let counts = past.counts.as_mut().unwrap();
        counts.resize(self.sent.len(), 0);
        let number = counts[sender];
        counts[sender] += 1;
        let what = format!("process {at}, view {view}, sequence {sequence}, message {number} of sender {sender}");
        let sent = self.sent[sender].get(number).unwrap_or_else(|| panic!("{what}: nobody sent it (guarantee 5)"));
        assert!(sent.committed, "{what}: delivered before it was committed (guarantee 5)");
        assert_eq!(payload.len(), sent.len, "{what}: length (guarantee 5)");
        assert_eq!(mode, sent.mode, "{what}: mode (guarantee 5)");
        let wrong = payload.iter().enumerate().find(|&(i, &byte)| byte != content(self.subgroup, sender, number, i));
        assert!(wrong.is_none(), "{what}: content differs at byte {} (guarantee 5)", wrong.unwrap().0);
        let caused = sent.after < Some((view, sequence));
        assert!(caused, "{what}: sent after {:?} was delivered to its sender (guarantee 6)", sent.after);
        let expected = (sender == at).then_some(sent.ticket);
        assert_eq!(ticket, expected, "{what}: ticket");
        let entry = ((sender, number), mode);
        let known = *self.order.entry((view, sequence)).or_insert(entry);
        assert_eq!(known, entry, "{what}: another member delivered something else there (guarantee 1)");
        let (all, ordered) = past.views.entry(view).or_default();
        assert!(all.insert(sequence, entry.0).is_none(), "{what}: twice (guarantee 5)");
        if mode == Mode::Fifo {
            self.fifo_overtakes += u64::from(ordered.last().is_none_or(|&(last, _)| last < sequence));
            return;
        }
        if let Some(&(last, _)) = ordered.last() {
            assert!(last < sequence, "{what}: after {last} (guarantee 1)");
        }
        ordered.push((sequence, time_ns));
        if mode >= Mode::Safe {
            self.safe.insert((view, sequence));
        }
        if mode == Mode::Durable && self.durable_is_all {
            self.durable.insert((view, sequence));
        }
    }

    /// Process `at` begins a view.
    pub(crate) fn install(&mut self, at: usize, change: &ViewChange) {
        let number = change.view.number;
        let known = self.changes.entry(number).or_insert_with(|| change.clone());
        assert_eq!(known, change, "process {at}: two decisions about view {number} (guarantee 7)");
        assert!(
            change.view.members.iter().any(|m| m.peer.incarnation == at as u64 + 1),
            "process {at} is not in {number} (guarantee 7)"
        );
        let before = self.pasts[at].view.replace(number);
        if number == 0 {
            return;
        }
        match before {
            Some(before) => {
                assert_eq!(before + 1, number, "process {at} skips a view (guarantee 2)");
                self.end_view(at, before);
            }
            None => {
                if let Some(end) = self.ends.get(&(number - 1)) {
                    self.pasts[at].counts = Some(end.counts.clone());
                }
            }
        }
    }

    /// Process `at` goes on from view `number`. All processes that do have the same deliveries in it.
    pub(crate) fn end_view(&mut self, at: usize, number: u64) {
        let senders = self.sent.len();
        let past = &mut self.pasts[at];
        // A joiner may leave its first view before the extent of its state is known; then there is nothing to compare
        // yet.
        let Some(counts) = &mut past.counts else { return };
        counts.resize(senders, 0);
        let counts = counts.clone();
        let (all, ordered) = past.views.entry(number).or_default().clone();
        if let Some(end) = self.ends.get_mut(&number) {
            end.counts.resize(senders, 0);
            assert_eq!(
                end.all, all,
                "process {at}: other messages in view {number} than another that went on from it (guarantee 2)"
            );
            assert_eq!(end.ordered, ordered, "process {at}: another order in view {number} (guarantee 1)");
            assert_eq!(end.counts, counts, "process {at}: a gap before the end of view {number} (guarantee 5)");
            return;
        }
        self.ends.insert(number, End { counts: counts.clone(), all, ordered });
        let waiting: Vec<usize> = (0..self.pasts.len())
            .filter(|&p| {
                let past = &self.pasts[p];
                past.counts.is_none() && past.view.is_some() && self.first_view(p) == Some(number + 1)
            })
            .collect();
        for process in waiting {
            self.pasts[process].counts = Some(counts.clone());
            for early in std::mem::take(&mut self.pasts[process].early) {
                self.take(process, early);
            }
        }
    }

    /// The first view that names the process.
    fn first_view(&self, process: usize) -> Option<u64> {
        let names = |change: &ViewChange| change.view.members.iter().any(|m| m.peer.incarnation == process as u64 + 1);
        self.changes.values().find(|change| names(change)).map(|change| change.view.number)
    }

    /// Each message that any process was delivered as safe was delivered to all that went on, with the same messages
    /// before it in the same order.
    pub(crate) fn check_uniform(&self) {
        for (view, end) in &self.ends {
            let kept = if self.failed.contains(view) { &self.durable } else { &self.safe };
            let safe: Vec<u64> = kept.range((*view, 0)..=(*view, u64::MAX)).map(|&(_, q)| q).collect();
            let lost = safe.iter().find(|q| !end.all.contains_key(q));
            assert!(
                lost.is_none(),
                "number {lost:?} of view {view} was delivered as safe or durable, and lost (guarantees 3 and 4)"
            );
            for (process, past) in self.pasts.iter().enumerate() {
                let Some((_, ordered)) = past.views.get(view) else { continue };
                let last_safe = ordered.iter().rposition(|(q, _)| safe.contains(q)).map_or(0, |i| i + 1);
                assert!(
                    end.ordered.starts_with(&ordered[..last_safe]),
                    "process {process}: its history of view {view} is no prefix up to its last safe message (guarantee 1)"
                );
            }
        }
    }

    /// The processes that run the last view have delivered the same messages in it.
    pub(crate) fn check_last(&mut self, running: &[usize]) {
        for &at in running {
            if let Some(view) = self.pasts[at].view {
                self.end_view(at, view);
            }
        }
    }

    /// Whether process `at` has delivered all messages of `sender`.
    pub(crate) fn has_all_of(&self, at: usize, sender: usize) -> bool {
        let count = self.pasts[at].counts.as_ref().and_then(|counts| counts.get(sender));
        count.copied().unwrap_or(0) == self.sent[sender].iter().filter(|sent| sent.committed).count()
    }

    /// The number of messages that any process was delivered as durable, where that means all voters.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.len() as u64
    }

    pub(crate) fn views(&self) -> u64 {
        self.changes.len() as u64
    }

    /// Whether process `at` has installed no view yet.
    pub(crate) fn is_new(&self, at: usize) -> bool {
        self.pasts[at].view.is_none()
    }

    /// Replays the records of a log before view `before`. Returns the counts at the end, and the deliveries of each
    /// view.
    fn replay(&self, records: &[Written], before: u64) -> (Vec<usize>, BTreeMap<u64, End>) {
        let mut counts = vec![0; self.sent.len()];
        let mut views: BTreeMap<u64, End> = BTreeMap::new();
        for record in records {
            let (view, sequence) = (record.version.view, record.version.sequence);
            if record.kind == Kind::Decision {
                // Every view has an entry, also one without messages.
                let end = End { counts: counts.clone(), all: BTreeMap::new(), ordered: Vec::new() };
                views.entry(view).or_insert(end);
                continue;
            }
            let what = format!("the log's record {view}.{sequence}");
            let members = &self.changes.get(&view).unwrap_or_else(|| panic!("{what}: of no view")).view.members;
            let sender =
                members.iter().find(|m| m.peer.id == record.sender).unwrap_or_else(|| panic!("{what}: sender"));
            let sender = sender.peer.incarnation as usize - 1;
            let number = counts[sender];
            counts[sender] += 1;
            let sent = self.sent[sender].get(number).unwrap_or_else(|| panic!("{what}: nobody sent it (guarantee 5)"));
            let bytes = &record.payload;
            assert!(
                sent.committed && sent.mode == record.mode && sent.len == bytes.len(),
                "{what}: {record:?}, {sent:?}"
            );
            let is_wrong = |&(i, &byte): &(usize, &u8)| byte != content(self.subgroup, sender, number, i);
            let wrong = bytes.iter().enumerate().find(is_wrong);
            assert!(wrong.is_none(), "{what}: content differs (guarantee 4), of message {number} of {sender}");
            if let Some((known, _)) = self.order.get(&(view, sequence)) {
                assert_eq!(*known, (sender, number), "{what}: something else was delivered there (guarantee 4)");
            }
            let end = views.get_mut(&view).unwrap_or_else(|| panic!("{what}: before its view's begin"));
            end.counts.clone_from(&counts);
            end.all.insert(sequence, (sender, number));
            if record.mode != Mode::Fifo {
                end.ordered.push((sequence, record.time_ns));
            }
        }
        let last = counts.clone();
        views.retain(|view, _| *view < before);
        (last, views)
    }

    /// All processes failed; process `at` begins view `number` with this log.
    pub(crate) fn restore(&mut self, at: usize, records: &[Written], number: u64) {
        let (counts, views) = self.replay(records, number);
        for (view, end) in views {
            let durable: Vec<u64> = self.durable.range((view, 0)..=(view, u64::MAX)).map(|&(_, q)| q).collect();
            let lost = durable.iter().find(|q| !end.all.contains_key(q));
            assert!(
                lost.is_none(),
                "process {at}: {view}.{lost:?} was delivered as durable, and is not in its log (guarantee 4)"
            );
            self.pasts[at].views.insert(view, (end.all.clone(), end.ordered.clone()));
            match self.ends.get_mut(&view) {
                Some(known) => {
                    known.counts.resize(self.sent.len(), 0);
                    known.agrees(at, view, &end);
                    assert_eq!(
                        known.counts, end.counts,
                        "process {at}: counts at the end of view {view} (guarantee 4)"
                    );
                }
                None => {
                    self.failed.insert(view);
                    self.ends.insert(view, end);
                }
            }
        }
        self.pasts[at].counts = Some(counts);
    }

    /// Process `at` runs and has delivered everything: its log must hold its deliveries.
    pub(crate) fn check_log(&self, at: usize, records: &[Written]) {
        let (mut counts, views) = self.replay(records, u64::MAX);
        for (view, end) in views {
            if let Some(known) = self.ends.get(&view) {
                known.agrees(at, view, &end);
            }
        }
        let mut delivered = self.pasts[at].counts.clone().unwrap_or_default();
        counts.resize(self.sent.len(), 0);
        delivered.resize(self.sent.len(), 0);
        assert_eq!(
            counts, delivered,
            "process {at}: its log has another number of messages than it was delivered (guarantee 4)"
        );
    }
}
