//! Tests of the checker itself: it finds nothing in correct histories, and it finds each error that is put into them.
//! There is at least one error for each guarantee.

use super::load::{MARKS, log_name, records_name};
use super::{Case, check};
use crate::record::{Message, Place, Process, Record, Restored, Sender, State, Tag, ViewRecord};
use std::collections::BTreeMap;

/// The state of a process while the test writes its history.
#[derive(Default, Clone)]
struct Writer {
    state: State,
    next: BTreeMap<Sender, u64>,
}

/// The files of a made-up run.
#[derive(Default)]
struct Story {
    files: BTreeMap<String, Vec<String>>,
    writers: BTreeMap<Process, Writer>,
    sent: BTreeMap<Sender, u64>,
    ms: u64,
}

fn process(id: u32, life: u32) -> Process {
    Process { id, life }
}

impl Story {
    fn line(&mut self, file: String, text: &str) {
        self.ms += 1;
        let line = format!("{} {text}", self.ms);
        self.files.entry(file).or_default().push(line);
    }

    fn write(&mut self, by: Process, record: &Record) {
        self.line(records_name(by), &record.to_string());
    }

    fn mark(&mut self, text: &str) {
        self.line(MARKS.to_owned(), text);
    }

    /// Writes the next message of a process, with or without a tag.
    fn send(&mut self, by: Process, mode: char, tagged: bool) -> Message {
        let number = self.sent.entry((by, 0)).or_default();
        let (thread, at) = (0, *number);
        *number += 1;
        let (len, crc) = (if tagged { 100 } else { 3 }, by.id * 1000 + at as u32);
        self.write(by, &Record::Send { thread, number: at, mode, len, crc });
        self.write(by, &Record::Accepted { thread, number: at });
        let tag = tagged.then_some(Tag { life: by.life, thread, number: at });
        Message { sender: by.id, mode, len, crc, tag }
    }

    /// Writes a delivery at all of `to`. `from` is the process that has sent the message.
    fn deliver(&mut self, to: &[Process], place: Place, message: Message, from: Process) {
        for &by in to {
            self.write(by, &Record::Delivery { place, message });
            let writer = self.writers.entry(by).or_default();
            writer.state.add(place, message.crc);
            *writer.next.entry((from, 0)).or_default() += 1;
        }
    }

    fn view(&mut self, at: &[Process], number: u64, members: &[u32], joined: &[u32], failed: &[u32]) {
        for &by in at {
            let state = self.writers.entry(by).or_default().state;
            let voters = Some(members.iter().filter(|id| !joined.contains(id)).copied().collect());
            let (members, joined, failed) = (members.to_vec(), joined.to_vec(), failed.to_vec());
            let view = ViewRecord { number, members, voters, joined, left: Vec::new(), failed, state };
            self.write(by, &Record::View(Box::new(view)));
        }
    }

    fn restore(&mut self, to: Process, from: Process) {
        let writer = self.writers[&from].clone();
        let next = writer.next.iter().map(|(sender, next)| (*sender, *next)).collect();
        self.write(to, &Record::Restored(Box::new(Restored { state: writer.state, next })));
        self.writers.insert(to, writer);
    }

    fn log(&mut self, id: u32, text: &str) {
        self.files.entry(log_name(id)).or_default().push(text.to_owned());
    }

    fn case(&self) -> Case {
        let text = |lines: &Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        Case::parse(&self.files.iter().map(|(name, lines)| (name.clone(), text(lines))).collect::<Vec<_>>())
    }

    /// Finds the first line of a process that contains `what`.
    fn find(&mut self, by: Process, what: &str) -> (&mut Vec<String>, usize) {
        let lines = self.files.get_mut(&records_name(by)).unwrap();
        let at = lines.iter().position(|line| line.contains(what));
        let at = at.unwrap_or_else(|| panic!("{by} has no line with {what}: {lines:#?}"));
        (lines, at)
    }

    fn drop(mut self, by: Process, what: &str) -> Story {
        let (lines, at) = self.find(by, what);
        lines.remove(at);
        self
    }

    fn replace(mut self, by: Process, what: &str, with: &str) -> Story {
        let (lines, at) = self.find(by, what);
        lines[at] = lines[at].replace(what, with);
        self
    }

    /// Moves the line that contains `what` in front of the line that contains `before`.
    fn move_before(mut self, by: Process, what: &str, before: &str) -> Story {
        let (lines, at) = self.find(by, what);
        let line = lines.remove(at);
        let (lines, at) = self.find(by, before);
        lines.insert(at, line);
        self
    }

    fn append(mut self, by: Process, text: &str) -> Story {
        self.line(records_name(by), text);
        self
    }

    fn log_replace(mut self, id: u32, what: &str, with: &str) -> Story {
        let lines = self.files.get_mut(&log_name(id)).unwrap();
        let at = lines.iter().position(|line| line.contains(what)).unwrap();
        lines[at] = lines[at].replace(what, with);
        self
    }
}

const ONE: Process = Process { id: 1, life: 1 };
const TWO: Process = Process { id: 2, life: 1 };
const THREE: Process = Process { id: 3, life: 1 };
const THREE_AGAIN: Process = Process { id: 3, life: 2 };

/// Three members found a group, one is killed, two go on, and it returns. Has messages of all modes, and a stop at the
/// end.
fn plain() -> Story {
    let mut story = Story::default();
    story.mark("G tcp plain");
    let all = [ONE, TWO, THREE];
    story.view(&all, 0, &[1, 2, 3], &[], &[]);
    let first = story.send(ONE, 's', true);
    story.deliver(&all, (0, 0), first, ONE);
    let second = story.send(TWO, 'o', false);
    story.deliver(&all, (0, 1), second, TWO);
    let third = story.send(THREE, 'f', true);
    story.deliver(&[THREE], (0, 2), third, THREE);
    let fourth = story.send(ONE, 's', true);
    story.deliver(&[ONE, TWO], (0, 2), third, THREE);
    story.deliver(&all, (0, 3), fourth, ONE);
    story.write(ONE, &Record::Flush { thread: 0, number: 2, k: 0 });
    // The third member alone is delivered this message; it is removed from the group.
    let fifth = story.send(THREE, 'o', true);
    story.deliver(&[THREE], (0, 5), fifth, THREE);
    story.mark("K 3.1");
    story.view(&[ONE, TWO], 1, &[1, 2], &[], &[3]);
    let sixth = story.send(TWO, 's', true);
    story.deliver(&[ONE, TWO], (1, 10), sixth, TWO);
    story.restore(THREE_AGAIN, ONE);
    let now = [ONE, TWO, THREE_AGAIN];
    story.view(&now, 2, &[1, 2, 3], &[3], &[]);
    let seventh = story.send(ONE, 's', true);
    story.deliver(&now, (2, 20), seventh, ONE);
    story.view(&now, 3, &[1, 2, 3], &[], &[]);
    let eighth = story.send(THREE_AGAIN, 'o', true);
    story.deliver(&now, (3, 30), eighth, THREE_AGAIN);
    for process in now {
        story.mark(&format!("Z {process}"));
    }
    story.mark("W");
    story
}

/// Two members with a log: both are killed and started again, and both logs are kept.
fn durable() -> Story {
    let mut story = Story::default();
    story.mark("G tcp log");
    let (one, two) = (ONE, TWO);
    story.view(&[one, two], 0, &[1, 2], &[], &[]);
    let first = story.send(one, 'd', true);
    story.deliver(&[one, two], (0, 1), first, one);
    story.write(one, &Record::Closed { time_ns: 150, last: Some((0, 1)) });
    let second = story.send(two, 's', true);
    story.deliver(&[one, two], (0, 2), second, two);
    story.write(one, &Record::Durable { below: 3 });
    story.write(two, &Record::Persisted { thread: 0, number: 1 });
    // This message is lost when both members die.
    let third = story.send(one, 's', true);
    story.deliver(&[one], (0, 3), third, one);
    story.mark("K 1.1");
    story.mark("K 2.1");
    story.mark("T");
    let again = [process(1, 2), process(2, 2)];
    story.deliver(&again, (0, 1), first, one);
    story.deliver(&again, (0, 2), second, two);
    story.view(&again, 1, &[1, 2], &[], &[]);
    let fourth = story.send(again[1], 'd', true);
    story.deliver(&again, (1, 11), fourth, again[1]);
    for id in [1, 2] {
        story.mark(&format!("Z {id}.2"));
        for line in ["0 0 50 0 o d 8 1", "0 1 100 1 d m 100 3e8", "0 2 200 2 s m 100 7d0", "1 10 300 0 o d 9 2"] {
            story.log(id, line);
        }
    }
    story.log(1, "1 11 400 2 d m 100 7d0");
    story.mark("W");
    story
}

#[test]
fn what_a_killed_process_had_not_read_yet_is_not_missed() {
    let again = process(1, 2);
    let mut story = durable();
    let lines = story.files.get_mut(&records_name(again)).unwrap();
    lines.truncate(1);
    story.files.get_mut(MARKS).unwrap().retain(|line| !line.contains(" Z 1.2"));
    story.mark("K 1.2");
    assert_eq!(found(&story), Vec::<String>::new());
}

fn found(story: &Story) -> Vec<String> {
    check(&story.case()).iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_found_in_right_histories() {
    assert_eq!(found(&plain()), Vec::<String>::new());
    assert_eq!(found(&durable()), Vec::<String>::new());
}

/// Asserts that the checker finds the guarantee broken and names the process.
fn breaks(guarantee: u8, by: Process, story: &Story) {
    let found = check(&story.case());
    let named = found.iter().any(|one| one.guarantee == guarantee && one.processes.contains(&by));
    assert!(named, "guarantee {guarantee} of {by}: {:#?}", found.iter().map(ToString::to_string).collect::<Vec<_>>());
}

#[test]
fn guarantee_1_total_order() {
    breaks(1, TWO, &plain().move_before(TWO, "D 0 3 1 s", "D 0 1 2 o"));
    // Another message has the same place.
    breaks(1, TWO, &plain().replace(TWO, "D 0 3 1 s 100 3e9 1 0 1", "D 0 3 2 s 100 3e9 1 0 1"));
    // A removed member has a gap below its last message.
    breaks(1, THREE, &plain().drop(THREE, "D 0 1 2 o"));
    // The other members have the messages that it was delivered below its last safe message.
    breaks(1, THREE, &plain().replace(THREE, "D 0 5 3 o", "D 0 2 3 o"));
    // No process went on from the view: 3.1 has a message in between that 1.1 lacks.
    let mut story = plain();
    for process in [ONE, TWO, THREE_AGAIN] {
        let name = records_name(process);
        let end = story.files[&name].iter().position(|line| line.contains(" V 1 ") || line.contains(" R "));
        story.files.get_mut(&name).unwrap().truncate(end.unwrap_or(0));
        story = story.append(process, "E stopped Partitioned cut off");
    }
    story.files.get_mut(MARKS).unwrap().retain(|line| !line.contains(" Z "));
    assert_eq!(found(&story), Vec::<String>::new());
    breaks(1, ONE, &story.drop(ONE, "D 0 1 2 o"));
}

#[test]
fn guarantee_2_virtual_synchrony() {
    breaks(2, TWO, &plain().drop(TWO, "D 0 2 3 f"));
    breaks(2, TWO, &plain().drop(TWO, "V 1 "));
    // A message of one view is delivered in the next.
    breaks(2, TWO, &plain().move_before(TWO, "V 1 1,2", "D 0 3 1 s"));
    // A transfer left a message out, so the state differs.
    let count = "V 3 1,2,3 1,2,3 - - - 6";
    breaks(2, THREE_AGAIN, &plain().drop(THREE_AGAIN, "D 2 20").replace(THREE_AGAIN, count, &count.replace('6', "5")));
    let state = plain().case().lives.iter().find(|life| life.process == ONE).unwrap().views().last().unwrap().1.state;
    breaks(2, ONE, &plain().replace(ONE, &format!("{:x}", state.sum), "1234"));
    breaks(2, THREE_AGAIN, &plain().drop(THREE_AGAIN, " R "));
}

#[test]
fn guarantee_3_safe_delivery() {
    breaks(3, TWO, &plain().drop(TWO, "D 0 3 1 s"));
    // A member that died was delivered a safe message, and no other member was.
    breaks(3, THREE, &plain().replace(THREE, "D 0 5 3 o", "D 0 5 3 s"));
    // A flush is recorded of messages that were not received by all.
    breaks(3, ONE, &plain().append(ONE, "F 0 9 0"));
}

#[test]
fn guarantee_4_durability() {
    let (one, again) = (process(1, 1), process(1, 2));
    breaks(4, one, &durable().replace(one, "D 0 3 1 s", "D 0 3 1 d"));
    breaks(4, again, &durable().drop(again, "D 0 1 1 d"));
    // Messages were reported as durable, and are gone.
    breaks(4, one, &durable().append(one, "U 4"));
    breaks(4, one, &durable().append(one, "P 0 2"));
}

#[test]
fn guarantee_5_fifo() {
    // A message is delivered twice.
    breaks(5, TWO, &plain().append(TWO, "D 3 30 3 o 100 bb8 2 0 0"));
    // A message is left out at all processes, so that only the numbers of its sender show it.
    let mut story = plain();
    for process in [ONE, TWO, THREE] {
        story = story.drop(process, "D 0 0 1 s");
    }
    breaks(5, ONE, &story);
    // A short message without a tag is left out.
    let mut story = plain();
    for process in [ONE, TWO, THREE] {
        story = story.drop(process, "D 0 1 2 o");
    }
    breaks(5, TWO, &story);
    // The bytes differ from the ones sent; the message was not sent; the message was refused.
    breaks(5, THREE_AGAIN, &plain().replace(THREE_AGAIN, "D 3 30 3 o 100 bb8", "D 3 30 3 o 100 bb9"));
    breaks(5, ONE, &plain().append(ONE, "D 3 40 2 s 100 7d2 1 0 2"));
    breaks(5, ONE, &plain().replace(ONE, "A 0 1", "X 0 1 TimedOut"));
    // An accepted message is lost at a process that is in the group at the end.
    breaks(5, TWO, &plain().drop(TWO, "D 3 30"));
}

#[test]
fn guarantee_6_causality() {
    // 1.1 sends its second message after the third place was delivered to it, but the message has an earlier place.
    let story = plain().move_before(ONE, "D 2 20 1 s", "S 0 1 s").replace(ONE, "D 2 20 1 s", "D 0 4 2 s");
    breaks(6, ONE, &story);
}

#[test]
fn guarantee_7_one_primary_partition() {
    breaks(7, TWO, &plain().replace(TWO, "V 1 1,2 1,2", "V 1 2,3 2,3"));
    // A second group: the member that comes back founds it.
    let second = plain().replace(THREE_AGAIN, "V 2 1,2,3", "V 0 3");
    breaks(7, THREE_AGAIN, &second);
    // A minority goes on.
    let mut story = plain();
    for process in [ONE, TWO] {
        story = story.replace(process, "V 1 1,2 1,2", "V 1 1 1");
    }
    breaks(7, TWO, &story);
    // A delivery comes after the end.
    breaks(7, THREE, &plain().append(THREE, "E stopped Removed it was").append(THREE, "D 0 7 1 s 100 3ea 1 0 2"));
}

#[test]
fn guarantee_8_firewall() {
    // A message of the removed process is delivered in the view without it.
    breaks(8, ONE, &plain().append(ONE, "D 1 11 3 s 100 bb9 1 0 1"));
    // A message of the former life is delivered while the next life is in the group.
    breaks(8, TWO, &plain().replace(TWO, "D 3 30 3 o 100 bb8 2 0 0", "D 3 30 3 o 100 bb9 1 0 1"));
    // The sender was never a member.
    breaks(8, TWO, &plain().append(TWO, "D 3 40 7 s 100 bb9 1 0 1"));
}

#[test]
fn guarantee_9_liveness() {
    // A message is accepted long after all faults, and is delivered nowhere.
    breaks(9, TWO, &plain().append(TWO, "S 0 2 s 100 1").append(TWO, "A 0 2"));
    breaks(9, TWO, &plain().append(TWO, "E stopped Partitioned cut off"));
    let mut story = plain();
    story.mark("Z 4.1");
    breaks(9, process(4, 1), &story);
    breaks(9, THREE_AGAIN, &plain().drop(THREE_AGAIN, "D 3 30").drop(THREE_AGAIN, "V 3"));
}

#[test]
fn guarantee_10_closed_time() {
    let again = process(1, 2);
    // A record has a time that was closed; a record is gone; the bytes differ; a time differs.
    breaks(10, ONE, &durable().log_replace(1, "0 2 200", "0 2 140"));
    breaks(10, ONE, &durable().replace(ONE, "C 150 0.1", "C 250 0.3"));
    breaks(10, again, &durable().log_replace(1, "0 2 200 2 s m 100 7d0", "0 2 200 2 s m 100 7d1"));
    breaks(10, again, &durable().log_replace(1, "0 2 200", "0 2 201"));
    breaks(10, again, &durable().log_replace(1, "1 10 300", "1 10 100"));
    // The logs agree with each other, but not with the deliveries.
    let mut story = durable();
    for id in [1, 2] {
        story.files.get_mut(&log_name(id)).unwrap().retain(|line| !line.starts_with("1 11"));
        story.log(id, "1 11 400 1 d m 100 7d0");
    }
    breaks(10, again, &story);
}

#[test]
fn guarantee_11_no_silent_loss() {
    let mut story = plain();
    story.files.get_mut(MARKS).unwrap().retain(|line| !line.contains(" K 3.1"));
    breaks(11, THREE, &story);
    breaks(11, THREE, &plain().append(THREE, "E stopped Internal the engine contradicts itself"));
    breaks(11, THREE, &plain().append(THREE, "E stopped LogFailed its disk failed, as it did not"));
    breaks(11, THREE, &plain().append(THREE, "E stopped Removed  "));
    breaks(11, ONE, &plain().append(ONE, "Y 2 it broke the protocol and was severed: a frame of 0 words"));
}
