//! Guarantees 5, 6 and 8, and acknowledgements of a sender's own messages: checks each sender's stream at each
//! receiver.

use super::{Case, Findings, Life, Views, life_in};
use crate::record::{Message, Place, Process, Record, Sender};
use std::collections::HashMap;

/// A message as its sender recorded it.
struct Sent {
    mode: char,
    len: u32,
    crc: u32,
    line: usize,
    accepted: bool,
    refused: bool,
    /// The place and line of the last ordered message delivered to the sending process before it sent this one.
    after: Option<(Place, usize)>,
}

/// The messages of each sender, in the order of their numbers.
type AllSent = HashMap<Sender, Vec<Sent>>;
/// For each sender, how many of its messages a process has.
type Next = HashMap<Sender, u64>;

pub(super) fn check(case: &Case, views: &Views<'_>, findings: &mut Findings) {
    let mut sent = AllSent::new();
    case.lives.iter().for_each(|life| read_sent(life, &mut sent));
    let begins = case.begins();
    let mut last: Vec<(&Life, Next)> = Vec::new();
    for life in &case.lives {
        let next = Receiver { life, sent: &sent, next: Next::new(), findings }
            .check(views, |id, view| life_in(&begins, id, view));
        if case.whole && life.is_final && life.end().is_none() {
            last.push((life, next));
        }
    }
    for life in &case.lives {
        check_kept(case, life, &sent, &last, findings);
    }
}

fn read_sent(life: &Life, sent: &mut AllSent) {
    let mut after = None;
    for (line, (_, record)) in life.lines.iter().enumerate() {
        match record {
            Record::Delivery { place, message } if message.is_ordered() => after = after.max(Some((*place, line))),
            &Record::Send { thread, number, mode, len, crc } => {
                let stream = sent.entry((life.process, thread)).or_default();
                // A message that was refused is sent again under its number.
                stream.truncate(number as usize);
                assert_eq!(stream.len() as u64, number, "the test's own numbers: {}", life.show(line));
                stream.push(Sent { mode, len, crc, line, accepted: false, refused: false, after });
            }
            &Record::Accepted { thread, .. } | &Record::Refused { thread, .. } => {
                let accepted = matches!(record, Record::Accepted { .. });
                if let Some(sent) = sent.get_mut(&(life.process, thread)).and_then(|stream| stream.last_mut()) {
                    (sent.accepted, sent.refused) = (accepted, !accepted);
                }
            }
            _ => {}
        }
    }
}

struct Receiver<'a> {
    life: &'a Life,
    sent: &'a AllSent,
    next: Next,
    findings: &'a mut Findings,
}

impl Receiver<'_> {
    fn check(mut self, views: &Views<'_>, life_in: impl Fn(u32, u64) -> Option<u32>) -> Next {
        for (line, (_, record)) in self.life.lines.iter().enumerate() {
            match record {
                Record::Restored(restored) => self.next = restored.next.iter().copied().collect(),
                Record::Delivery { place, message } => {
                    let id = message.sender;
                    let in_view = life_in(id, place.0);
                    let is_member = views.get(&place.0).is_none_or(|(view, ..)| view.members.contains(&id));
                    let life = message.tag.map_or(in_view, |tag| Some(tag.life));
                    if !is_member || life != in_view {
                        let what = match is_member {
                            true => format!("in view {} member {id} is life {in_view:?}", place.0),
                            false => format!("member {id} is not in view {}", place.0),
                        };
                        self.findings.add(8, &[self.life.process], format!("{what}: {}", self.life.show(line)));
                        continue;
                    }
                    let Some(life) = life else {
                        let what =
                            format!("no process of member {id} was in the group by then: {}", self.life.show(line));
                        self.findings.add(8, &[self.life.process], what);
                        continue;
                    };
                    self.deliver(line, *place, message, Process { id, life });
                }
                _ => {}
            }
        }
        self.next
    }

    fn deliver(&mut self, line: usize, place: Place, message: &Message, from: Process) {
        let me = self.life.process;
        let sender = (from, message.tag.map_or(0, |tag| tag.thread));
        let next = self.next.entry(sender).or_default();
        let due = *next;
        let number = message.tag.map_or(due, |tag| tag.number);
        *next = number + 1;
        if number != due {
            let what = match number < due {
                true => format!("number {number} of {from} comes again or late, {due} was due"),
                false => format!("numbers {due} to {} of {from} are left out", number - 1),
            };
            return self.findings.add(5, &[me, from], format!("{what}: {}", self.life.show(line)));
        }
        let sent = self.sent.get(&sender).and_then(|stream| stream.get(number as usize));
        let Some(sent) = sent else {
            let what = format!("{from} has not sent this: {}", self.life.show(line));
            return self.findings.add(5, &[me, from], what);
        };
        let same = (sent.mode, sent.len, sent.crc) == (message.mode, message.len, message.crc);
        if !same || sent.refused {
            let Sent { mode, len, crc, line: at, .. } = sent;
            let how = if sent.refused { "whose send was refused" } else { "with these bytes" };
            let what = format!(
                "{from} has sent number {number} as {mode}, {len} bytes, {crc:x} (line {}), not what came, {how}: {}",
                at + 1,
                self.life.show(line)
            );
            return self.findings.add(5, &[me, from], what);
        }
        // A `fifo` message may overtake messages of other senders.
        let overtakes = sent.after.filter(|(after, _)| message.is_ordered() && *after >= place);
        if let Some((after, at)) = overtakes {
            let what = format!(
                "{from} sent it (line {}) after it was delivered {after:?} (line {}), which comes later: {}",
                sent.line + 1,
                at + 1,
                self.life.show(line)
            );
            self.findings.add(6, &[from, me], what);
        }
    }
}

/// Messages that were acknowledged to their sender must be at all processes that are in the group at the end.
fn check_kept(case: &Case, life: &Life, sent: &AllSent, last: &[(&Life, Next)], findings: &mut Findings) {
    let mut promise = |guarantee: u8, sender: Sender, below: u64, why: &str| {
        for (by, next) in last {
            let got = next.get(&sender).copied().unwrap_or(0);
            if got < below {
                let missing = sent.get(&sender).and_then(|stream| stream.get(got as usize));
                let missing = missing.map_or(String::new(), |sent| format!(": {}", life.show(sent.line)));
                let what = format!(
                    "{why} below {below} of thread {}, but {} has {got} of them{missing}",
                    sender.1, by.process
                );
                findings.add(guarantee, &[life.process, by.process], what);
            }
        }
    };
    for (line, (ms, record)) in life.lines.iter().enumerate() {
        match record {
            Record::Flush { thread, number, k: 0 } if case.all_dead_ms.iter().all(|dead| dead < ms) => {
                promise(
                    3,
                    (life.process, *thread),
                    *number,
                    &format!("line {} says that all have the messages", line + 1),
                );
            }
            Record::Persisted { thread, number } => {
                promise(4, (life.process, *thread), *number, &format!("line {} says durable", line + 1));
            }
            _ => {}
        }
    }
    let stays = life.is_final && life.end().is_none();
    if !stays && !life.has_left() {
        return;
    }
    for (sender, stream) in sent.iter().filter(|(sender, _)| sender.0 == life.process) {
        let accepted = stream.iter().rposition(|sent| sent.accepted).map_or(0, |at| at as u64 + 1);
        // If some processes have it, the others lost it (guarantee 5). If none has it, it made no progress (guarantee
        // 9).
        let some = last.iter().any(|(_, next)| next.get(sender).copied().unwrap_or(0) >= accepted);
        promise(if some || life.has_left() { 5 } else { 9 }, *sender, accepted, "accepted are those");
    }
}
