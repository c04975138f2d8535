//! The records of a member: one line per event. Each is written with one `write(2)` before the described call returns,
//! so the file of a killed process is complete.
//!
//! A line is the time (milliseconds of the host's monotonic clock, the same for all processes), a letter, and fields:
//!
//! | | |
//! |---|---|
//! | `B pid` | the process begins |
//! | `J view` | `join` has returned |
//! | `S thread number mode len crc` | a thread is about to send its message `number` |
//! | `A thread number` | that message was accepted |
//! | `X thread number error` | that message was not accepted |
//! | `D view sequence sender mode len crc life thread number` | a delivery; the last three are `-` without a tag |
//! | `V number members voters joined left failed count sum` | a view, and the state of the application as it begins |
//! | `R count sum next` | the state was taken from a member or a checkpoint; `next` is `id.life.thread=number,...` |
//! | `F thread number k` | a flush has ended that the thread began before its message `number` |
//! | `P thread number` | the same of a persist: the messages below `number` are durable |
//! | `U below` | everything numbered below this is durable |
//! | `C time_ns version` | the closed time, and the last record of the process's own log up to it |
//! | `Y member text` | a member is suspected |
//! | `E how error text` | the end: `left`, `stopped`, `join` or `leave`, and the error |
//!
//! The runner writes marks about processes in the same form (see [`Mark`]), and the logs as they are on disk at the
//! end.

use std::fmt;

/// A process: the id of a member, and the number of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) life: u32,
}

impl Process {
    pub(crate) fn parse(text: &str) -> Option<Process> {
        let (id, life) = text.split_once('.')?;
        Some(Process { id: id.parse().ok()?, life: life.parse().ok()? })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.life)
    }
}

/// A sending thread of a process.
pub(crate) type Sender = (Process, u32);

/// The identity that a payload carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) life: u32,
    pub(crate) thread: u32,
    pub(crate) number: u64,
}

/// Length of a tag at the beginning of a payload, in bytes. Shorter messages have no tag; only thread 0 sends such
/// messages.
pub(crate) const TAG_BYTES: usize = 16;

impl Tag {
    pub(crate) fn bytes(self) -> [u8; TAG_BYTES] {
        let mut bytes = [0; TAG_BYTES];
        bytes[..4].copy_from_slice(&self.life.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.thread.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    pub(crate) fn of(payload: &[u8]) -> Option<Tag> {
        let tag = payload.get(..TAG_BYTES)?;
        let word = |at: usize| u32::from_le_bytes([tag[at], tag[at + 1], tag[at + 2], tag[at + 3]]);
        let number = u64::from(word(8)) | u64::from(word(12)) << 32;
        Some(Tag { life: word(0), thread: word(4), number })
    }
}

/// The identity of a message: two deliveries with the same values count as the same message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) sender: u32,
    /// `f`, `o`, `s` or `d`.
    pub(crate) mode: char,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    pub(crate) tag: Option<Tag>,
}

impl Message {
    /// Whether the message is delivered at its place in the order (every mode except `fifo`).
    pub(crate) fn is_ordered(&self) -> bool {
        self.mode != 'f'
    }

    /// Whether the message is kept if a single member that was delivered it survives.
    pub(crate) fn is_safe(&self) -> bool {
        matches!(self.mode, 's' | 'd')
    }
}

/// The view and the number of a message in the order.
pub(crate) type Place = (u64, u64);

/// The state of the application: the number of messages applied, and a sum over them that does not depend on their
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) count: u64,
    pub(crate) sum: u64,
}

impl State {
    pub(crate) fn add(&mut self, (view, sequence): Place, crc: u32) {
        let words = [view, sequence, u64::from(crc)];
        let mixed = words.iter().fold(0x51_7c_c1_b7_27_22_0a_95_u64, |digest, word| {
            let mixed = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ (mixed >> 29)
        });
        self.count += 1;
        self.sum = self.sum.wrapping_add(mixed);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewRecord {
    pub(crate) number: u64,
    pub(crate) members: Vec<u32>,
    /// None if the engine does not report them.
    pub(crate) voters: Option<Vec<u32>>,
    pub(crate) joined: Vec<u32>,
    pub(crate) left: Vec<u32>,
    pub(crate) failed: Vec<u32>,
    pub(crate) state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) state: State,
    pub(crate) next: Vec<(Sender, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Begin { pid: u32 },
    Joined { view: u64 },
    Send { thread: u32, number: u64, mode: char, len: u32, crc: u32 },
    Accepted { thread: u32, number: u64 },
    Refused { thread: u32, number: u64, error: String },
    Delivery { place: Place, message: Message },
    View(Box<ViewRecord>),
    Restored(Box<Restored>),
    Flush { thread: u32, number: u64, k: usize },
    Persisted { thread: u32, number: u64 },
    Durable { below: u64 },
    Closed { time_ns: u64, last: Option<Place> },
    Suspected { member: u32, text: String },
    End { how: String, error: String, text: String },
}

fn list(ids: &[u32]) -> String {
    match ids {
        [] => "-".to_owned(),
        ids => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    }
}

fn parse_list(text: &str) -> Option<Vec<u32>> {
    if text == "-" { Some(Vec::new()) } else { text.split(',').map(|id| id.parse().ok()).collect() }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Begin { pid } => write!(f, "B {pid}"),
            Record::Joined { view } => write!(f, "J {view}"),
            Record::Send { thread, number, mode, len, crc } => write!(f, "S {thread} {number} {mode} {len} {crc:x}"),
            Record::Accepted { thread, number } => write!(f, "A {thread} {number}"),
            Record::Refused { thread, number, error } => write!(f, "X {thread} {number} {error}"),
            Record::Delivery { place: (view, sequence), message } => {
                let Message { sender, mode, len, crc, tag } = message;
                write!(f, "D {view} {sequence} {sender} {mode} {len} {crc:x} ")?;
                match tag {
                    Some(Tag { life, thread, number }) => write!(f, "{life} {thread} {number}"),
                    None => write!(f, "- - -"),
                }
            }
            Record::View(view) => {
                let ViewRecord { number, members, voters, joined, left, failed, state } = &**view;
                let voters = voters.as_ref().map_or("?".to_owned(), |voters| list(voters));
                let [members, joined, left, failed] = [members, joined, left, failed].map(|ids| list(ids));
                let State { count, sum } = state;
                write!(f, "V {number} {members} {voters} {joined} {left} {failed} {count} {sum:x}")
            }
            Record::Restored(restored) => {
                let next: Vec<String> = restored
                    .next
                    .iter()
                    .map(|((process, thread), next)| format!("{process}.{thread}={next}"))
                    .collect();
                let next = if next.is_empty() { "-".to_owned() } else { next.join(",") };
                write!(f, "R {} {:x} {next}", restored.state.count, restored.state.sum)
            }
            Record::Flush { thread, number, k } => write!(f, "F {thread} {number} {k}"),
            Record::Persisted { thread, number } => write!(f, "P {thread} {number}"),
            Record::Durable { below } => write!(f, "U {below}"),
            Record::Closed { time_ns, last: Some((view, sequence)) } => write!(f, "C {time_ns} {view}.{sequence}"),
            Record::Closed { time_ns, last: None } => write!(f, "C {time_ns} -"),
            Record::Suspected { member, text } => write!(f, "Y {member} {}", one_line(text)),
            Record::End { how, error, text } => write!(f, "E {how} {error} {}", one_line(text)),
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " / ")
}

/// The fields of a line.
struct Fields<'a>(std::str::SplitN<'a, char>);

impl<'a> Fields<'a> {
    fn text(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    fn hex(&mut self) -> Option<u64> {
        u64::from_str_radix(self.text()?, 16).ok()
    }

    fn crc(&mut self) -> Option<u32> {
        u32::try_from(self.hex()?).ok()
    }

    fn mode(&mut self) -> Option<char> {
        self.text()?.chars().next().filter(|mode| "fosd".contains(*mode))
    }

    fn list(&mut self) -> Option<Vec<u32>> {
        parse_list(self.text()?)
    }
}

impl Record {
    /// Parses a line into its time and record. Returns `None` if the line is incomplete.
    pub(crate) fn parse(line: &str) -> Option<(u64, Record)> {
        let (ms, rest) = line.split_once(' ')?;
        let (letter, rest) = rest.split_once(' ')?;
        let fields = match letter {
            "E" => 3,
            "Y" => 2,
            _ => 12,
        };
        let record = Record::parse_fields(letter, &mut Fields(rest.splitn(fields, ' ')))?;
        Some((ms.parse().ok()?, record))
    }

    fn parse_fields(letter: &str, f: &mut Fields<'_>) -> Option<Record> {
        Some(match letter {
            "B" => Record::Begin { pid: f.number()? },
            "J" => Record::Joined { view: f.number()? },
            "S" => {
                let (thread, number, mode) = (f.number()?, f.number()?, f.mode()?);
                Record::Send { thread, number, mode, len: f.number()?, crc: f.crc()? }
            }
            "A" => Record::Accepted { thread: f.number()?, number: f.number()? },
            "X" => Record::Refused { thread: f.number()?, number: f.number()?, error: f.text()?.to_owned() },
            "D" => {
                let place = (f.number()?, f.number()?);
                let (sender, mode, len, crc) = (f.number()?, f.mode()?, f.number()?, f.crc()?);
                let tag = match f.text()? {
                    "-" => None,
                    life => Some(Tag { life: life.parse().ok()?, thread: f.number()?, number: f.number()? }),
                };
                Record::Delivery { place, message: Message { sender, mode, len, crc, tag } }
            }
            "V" => {
                let (number, members) = (f.number()?, f.list()?);
                let voters = match f.text()? {
                    "?" => None,
                    voters => Some(parse_list(voters)?),
                };
                let (joined, left, failed) = (f.list()?, f.list()?, f.list()?);
                let state = State { count: f.number()?, sum: f.hex()? };
                Record::View(Box::new(ViewRecord { number, members, voters, joined, left, failed, state }))
            }
            "R" => {
                let state = State { count: f.number()?, sum: f.hex()? };
                let next = f.text()?;
                let entries = next.split(',').filter(|entry| *entry != "-").map(|entry| {
                    let (sender, next) = entry.split_once('=')?;
                    let (process, thread) = sender.rsplit_once('.')?;
                    Some(((Process::parse(process)?, thread.parse().ok()?), next.parse().ok()?))
                });
                Record::Restored(Box::new(Restored { state, next: entries.collect::<Option<Vec<_>>>()? }))
            }
            "F" => Record::Flush { thread: f.number()?, number: f.number()?, k: f.number()? },
            "P" => Record::Persisted { thread: f.number()?, number: f.number()? },
            "U" => Record::Durable { below: f.number()? },
            "C" => Record::Closed { time_ns: f.number()?, last: parse_place(f.text()?)? },
            "Y" => Record::Suspected { member: f.number()?, text: f.text()?.to_owned() },
            "E" => {
                let (how, error) = (f.text()?.to_owned(), f.text()?.to_owned());
                Record::End { how, error, text: f.text().unwrap_or_default().to_owned() }
            }
            _ => return None,
        })
    }
}

/// Parses a place; `-` gives `Some(None)`.
fn parse_place(text: &str) -> Option<Option<Place>> {
    if text == "-" {
        return Some(None);
    }
    let (view, sequence) = text.split_once('.')?;
    Some(Some((view.parse().ok()?, sequence.parse().ok()?)))
}

/// A fact that the runner knows about processes; one line each in its file of marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// `G fabric log|plain`: the group.
    Group { fabric: String, log: bool },
    /// `K process`: the runner has killed it.
    Killed(Process),
    /// `O id`: the member's disk has failed or was full.
    Disk(u32),
    /// `T`: all processes are dead at once.
    AllDead,
    /// `W`: at the end everything had arrived everywhere, and nothing more was sent.
    Whole,
    /// `Z process`: it must be in the group at the end, with everything, since all faults had ended long before.
    Final(Process),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Group { fabric, log } => write!(f, "G {fabric} {}", if *log { "log" } else { "plain" }),
            Mark::Killed(process) => write!(f, "K {process}"),
            Mark::Disk(id) => write!(f, "O {id}"),
            Mark::AllDead => write!(f, "T"),
            Mark::Whole => write!(f, "W"),
            Mark::Final(process) => write!(f, "Z {process}"),
        }
    }
}

impl Mark {
    pub(crate) fn parse(line: &str) -> Option<(u64, Mark)> {
        let mut words = line.split(' ');
        let (ms, letter) = (words.next()?.parse().ok()?, words.next()?);
        let mark = match letter {
            "G" => Mark::Group { fabric: words.next()?.to_owned(), log: words.next()? == "log" },
            "K" => Mark::Killed(Process::parse(words.next()?)?),
            "O" => Mark::Disk(words.next()?.parse().ok()?),
            "T" => Mark::AllDead,
            "W" => Mark::Whole,
            "Z" => Mark::Final(Process::parse(words.next()?)?),
            _ => return None,
        };
        Some((ms, mark))
    }
}

/// A record of a log on disk: `view sequence time_ns sender mode kind len crc`, where `kind` is `m` for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) place: Place,
    pub(crate) time_ns: u64,
    pub(crate) sender: u32,
    pub(crate) mode: char,
    pub(crate) kind: char,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Logged { place: (view, sequence), time_ns, sender, mode, kind, len, crc } = self;
        write!(f, "{view} {sequence} {time_ns} {sender} {mode} {kind} {len} {crc:x}")
    }
}

impl Logged {
    pub(crate) fn parse(line: &str) -> Option<Logged> {
        let mut f = Fields(line.splitn(8, ' '));
        let place = (f.number()?, f.number()?);
        let (time_ns, sender, mode) = (f.number()?, f.number()?, f.mode()?);
        let kind = f.text()?.chars().next()?;
        Some(Logged { place, time_ns, sender, mode, kind, len: f.number()?, crc: f.crc()? })
    }
}

#[test]
fn records_survive_the_file() {
    let lines = [
        "0 B 17",
        "1 J 3",
        "2 S 0 7 s 100 ab",
        "3 A 0 7",
        "4 X 1 8 TimedOut",
        "5 D 1 20 3 o 100 ab 1 0 7",
        "6 D 1 21 3 f 0 0 - - -",
        "7 V 2 1,2 1,2 - - 3 5 ff",
        "8 V 3 1,2 ? 2 3 - 5 ff",
        "9 R 5 ff 1.1.0=4,2.1.1=9",
        "9 R 0 0 -",
        "10 F 0 8 2",
        "11 P 0 8",
        "12 U 30",
        "13 C 1000 1.20",
        "14 C 1000 -",
        "15 Y 3 its link is down",
        "16 E stopped Removed this process was removed",
    ];
    for line in lines {
        let (ms, record) = Record::parse(line).unwrap_or_else(|| panic!("not a record: {line}"));
        assert_eq!(format!("{ms} {record}"), line);
        // The part of a line that a crash leaves does not parse as another record.
        assert!(Record::parse(&line[..3]).is_none(), "{line}");
    }
    for line in ["0 G tcp log", "1 K 2.1", "2 O 3", "3 T", "4 W", "5 Z 1.1"] {
        let (ms, mark) = Mark::parse(line).unwrap();
        assert_eq!(format!("{ms} {mark}"), line);
    }
    let line = "1 20 1000 3 d m 100 ab";
    assert_eq!(Logged::parse(line).unwrap().to_string(), line);
    let tag = Tag { life: 3, thread: 2, number: 1 << 40 };
    assert_eq!(Tag::of(&tag.bytes()), Some(tag));
    assert_eq!(Tag::of(&tag.bytes()[..15]), None);
}
