//! Holds what all processes of a run wrote down, dead ones included, against the guarantees, number by number.
//!
//! It sees files only: it can be run on what a failed run has left, and on histories that are wrong on purpose
//! (`wrong.rs`). The numbers are those of the project's list of guarantees:
//!
//! | | guarantee | what is compared | where |
//! |---|---|---|---|
//! | 1 | total order | each place of the order, and the gaps below a process's last ordered message | `order` |
//! | 2 | virtual synchrony | the messages of a view at all that went on from it, and the state as views begin | `order`, `views` |
//! | 3 | safe delivery | safe messages, flushed ones too, at all that went on | `order`, `streams` |
//! | 4 | durability | durable messages and acknowledgements after a restart | `order`, `streams` |
//! | 5 | FIFO | the numbers of each sending thread at each receiver, and the bytes | `streams` |
//! | 6 | causality | the place of a message against those of the messages delivered before it was sent | `streams` |
//! | 7 | one primary partition | one list of members per view number, a majority from view to view, nothing after the end | `views` |
//! | 8 | firewall | the sender of each message against the view | `streams` |
//! | 9 | liveness | where the processes are at the end, when a majority could go on for long | `ends` |
//! | 10 | closed time | what was past against the logs at the end, and the logs against each other | `logs` |
//! | 11 | no silent loss | how each process ended | `ends` |
//!
//! What files cannot show: that no message is delivered of which no file tells, and delays.

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

/// What a process wrote down, and what follows from it.
pub(crate) struct Life {
    pub(crate) process: Process,
    /// The time of each line and what it says; the first line of the file has index 0.
    pub(crate) lines: Vec<(u64, Record)>,
    epochs: Vec<Epoch>,
    /// The last life of its member that was to be there at the end.
    is_final: bool,
    was_killed: bool,
}

/// What a process was delivered of one view.
struct Epoch {
    view: u64,
    /// From its own log, before it was told of any view: the view was over.
    replayed: bool,
    /// From the first message of the view on.
    whole: bool,
    /// To the last one.
    complete: bool,
    /// Number in the order and line, by number.
    got: Vec<(u64, usize)>,
    /// The greatest number of a message that kept its place, and of one that was safe.
    frontier: Option<u64>,
    last_safe: Option<u64>,
}

/// A log as it is on a member's disk at the end.
pub(crate) struct Log {
    pub(crate) id: u32,
    records: Vec<crate::record::Logged>,
}

#[derive(Default)]
pub(crate) struct Case {
    pub(crate) lives: Vec<Life>,
    logs: Vec<Log>,
    has_log: bool,
    /// A leaver on shared memory may miss its view's last messages.
    leavers_miss: bool,
    /// At the end everything had arrived.
    whole: bool,
    all_dead_ms: Vec<u64>,
    disks: Vec<u32>,
    killed: Vec<Process>,
    last: Vec<Process>,
}

/// What was found.
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

/// Violations, of each guarantee at most so many: the rest follows from the first ones more often than not.
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

/// Which view is known by which number, and where it says so.
type Views<'a> = BTreeMap<u64, (&'a ViewRecord, Process, usize)>;

/// Checks everything.
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

    /// A line, to be shown.
    fn show(&self, line: usize) -> String {
        format!("{} line {}: {} {}", self.process, line + 1, self.lines[line].0, self.lines[line].1)
    }

    fn views(&self) -> impl Iterator<Item = (usize, &ViewRecord)> {
        self.lines.iter().enumerate().filter_map(|(line, (_, record))| match record {
            Record::View(view) => Some((line, &**view)),
            _ => None,
        })
    }

    /// How it ended by its own account: the line, how, with which error and text.
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

    /// For each id the lives and the views as of which they can have sent.
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

/// Which life of a member was in a view.
fn life_in(begins: &HashMap<u32, Vec<(u64, u32)>>, id: u32, view: u64) -> Option<u32> {
    begins.get(&id)?.iter().filter(|(first, _)| *first <= view).map(|(_, life)| *life).max()
}
