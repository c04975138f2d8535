//! Compares the records of all processes of a run, dead ones included, with the numbered guarantees.
//!
//! It reads files only. So it can check the files of a failed run again, and it can check histories that are wrong on
//! purpose (`wrong.rs`). The numbers are those of the project's list of guarantees:
//!
//! | | guarantee | what is compared | where |
//! |---|---|---|---|
//! | 1 | total order | each place of the order, and the gaps below a process's last ordered message | `order` |
//! | 2 | virtual synchrony | a view's messages at all that went on, and the initial states | `order`, `views` |
//! | 3 | safe delivery | safe messages, and flushed ones, at all that went on | `order`, `streams` |
//! | 4 | durability | durable messages and acknowledgements after a restart | `order`, `streams` |
//! | 5 | FIFO | the numbers of each sending thread at each receiver, and the bytes | `streams` |
//! | 6 | causality | a message's place against those of the messages delivered before it was sent | `streams` |
//! | 7 | one primary partition | one member list per view number, majorities, nothing after the end | `views` |
//! | 8 | firewall | the sender of each message against the view | `streams` |
//! | 9 | liveness | the views of the processes at the end, when a majority could go on for long | `ends` |
//! | 10 | closed time | the closed times against the logs at the end, and the logs against each other | `logs` |
//! | 11 | no silent loss | how each process ended | `ends` |
//!
//! Files cannot show delays, or the delivery of a message that no file records.

mod ends;
pub(crate) mod load;
mod logs;
mod order;
mod streams;
mod views;
mod wrong;

use crate::record::{Message, Place, Process, Record, ViewRecord};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// The records of one process, and facts derived from them.
pub(crate) struct Life {
    pub(crate) process: Process,
    /// The time and the record of each line; the first line of the file has index 0.
    pub(crate) lines: Vec<(u64, Record)>,
    epochs: Vec<Epoch>,
    /// True for the last life of a member that had to be in the group at the end.
    is_final: bool,
    was_killed: bool,
}

/// The messages that a process was delivered in one view.
struct Epoch {
    view: u64,
    /// The deliveries come from the process's own log, before its first view: the view was over by then.
    replayed: bool,
    /// The deliveries begin with the first message of the view.
    whole: bool,
    /// The deliveries include the last message of the view.
    complete: bool,
    /// Number in the order and line index of each message, sorted by number.
    got: Vec<(u64, usize)>,
    /// The greatest number of a message that keeps its place in the order (not `fifo`), and of a safe or durable one.
    frontier: Option<u64>,
    last_safe: Option<u64>,
}

/// The log on a member's disk at the end.
pub(crate) struct Log {
    pub(crate) id: u32,
    records: Vec<crate::record::Logged>,
}

#[derive(Default)]
pub(crate) struct Case {
    pub(crate) lives: Vec<Life>,
    logs: Vec<Log>,
    has_log: bool,
    /// A leaver on shared memory may miss the last messages of its last view.
    leavers_miss: bool,
    /// At the end every message had arrived.
    whole: bool,
    all_dead_ms: Vec<u64>,
    disks: Vec<u32>,
    killed: Vec<Process>,
    last: Vec<Process>,
}

/// A breach of one guarantee that the checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) guarantee: u8,
    pub(crate) processes: Vec<Process>,
    pub(crate) what: String,
}

const NAMES: [&str; 11] = [
    "total order",
    "virtual synchrony",
    "safe delivery",
    "durability",
    "FIFO",
    "causality",
    "one primary partition",
    "firewall",
    "liveness",
    "closed time",
    "no silent loss",
];

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES[usize::from(self.guarantee) - 1];
        let processes: Vec<String> = self.processes.iter().map(Process::to_string).collect();
        write!(f, "guarantee {} ({name}), {}: {}", self.guarantee, processes.join(", "), self.what)
    }
}

/// The violations found, limited per guarantee, since later ones usually follow from the first ones.
#[derive(Default)]
struct Findings {
    found: Vec<Violation>,
    counts: [usize; 12],
}

const MOST_PER_GUARANTEE: usize = 8;

impl Findings {
    fn add(&mut self, guarantee: u8, processes: &[Process], what: String) {
        let count = &mut self.counts[usize::from(guarantee)];
        *count += 1;
        if *count <= MOST_PER_GUARANTEE {
            self.found.push(Violation { guarantee, processes: processes.to_vec(), what });
        }
    }
}

/// Each view by its number, with the process and the line that recorded it.
type Views<'a> = BTreeMap<u64, (&'a ViewRecord, Process, usize)>;

/// Checks all guarantees.
pub(crate) fn check(case: &Case) -> Vec<Violation> {
    let mut findings = Findings::default();
    let views = views::check(case, &mut findings);
    order::check(case, &mut findings);
    streams::check(case, &views, &mut findings);
    logs::check(case, &mut findings);
    ends::check(case, &views, &mut findings);
    findings.found
}

impl Life {
    fn delivery(&self, line: usize) -> (Place, Message) {
        match &self.lines[line].1 {
            Record::Delivery { place, message } => (*place, *message),
            other => unreachable!("line {} is no delivery but {other}", line + 1),
        }
    }

    /// Formats a line for an error text.
    fn show(&self, line: usize) -> String {
        format!("{} line {}: {} {}", self.process, line + 1, self.lines[line].0, self.lines[line].1)
    }

    fn views(&self) -> impl Iterator<Item = (usize, &ViewRecord)> {
        self.lines.iter().enumerate().filter_map(|(line, (_, record))| match record {
            Record::View(view) => Some((line, &**view)),
            _ => None,
        })
    }

    /// The recorded end of the process: the line, the way it ended, the error and its text.
    fn end(&self) -> Option<(usize, &str, &str, &str)> {
        self.lines.iter().enumerate().find_map(|(line, (_, record))| match record {
            Record::End { how, error, text } => Some((line, how.as_str(), error.as_str(), text.as_str())),
            _ => None,
        })
    }

    fn has_left(&self) -> bool {
        self.end().is_some_and(|(_, how, ..)| how == "left")
    }
}

impl Epoch {
    fn line_of(&self, number: u64) -> Option<usize> {
        let at = self.got.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(self.got[at].1)
    }
}

impl Case {
    fn finals(&self) -> impl Iterator<Item = &Life> {
        self.lives.iter().filter(|life| life.is_final)
    }

    /// For each member id, its lives, each with the first view in which that life can have sent.
    fn begins(&self) -> HashMap<u32, Vec<(u64, u32)>> {
        let mut begins: HashMap<u32, Vec<(u64, u32)>> = HashMap::new();
        for life in &self.lives {
            if let Some((_, view)) = life.views().next() {
                begins.entry(life.process.id).or_default().push((view.number, life.process.life));
            }
        }
        begins
    }
}

/// Returns the life of a member that was in a view.
fn life_in(begins: &HashMap<u32, Vec<(u64, u32)>>, id: u32, view: u64) -> Option<u32> {
    begins.get(&id)?.iter().filter(|(first, _)| *first <= view).map(|(_, life)| *life).max()
}
