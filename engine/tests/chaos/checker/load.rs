//! Reads the files of a run into a [`Case`].

use super::{Case, Epoch, Life, Log};
use crate::record::{Logged, Mark, Process, Record};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// Name of the file with the runner's marks.
pub(crate) const MARKS: &str = "marks";

pub(crate) fn records_name(process: Process) -> String {
    format!("member-{process}.records")
}

pub(crate) fn log_name(id: u32) -> String {
    format!("log-{id}.records")
}

/// Calls `each` for every complete line. The last line of a killed process may be incomplete and is skipped.
fn lines(file: impl io::Read, mut each: impl FnMut(&str)) -> io::Result<()> {
    let (mut reader, mut line) = (BufReader::new(file), String::new());
    while reader.read_line(&mut line)? > 0 {
        if let Some(whole) = line.strip_suffix('\n') {
            each(whole);
        }
        line.clear();
    }
    Ok(())
}

/// Panics at a line that does not have the form in which the tests write it.
fn malformed<T>(file: &str, line: &str) -> T {
    panic!("{file}: not a line of its form: {line}")
}

impl Case {
    /// Reads the files that a run has left in `folder`.
    pub(crate) fn read(folder: &Path) -> io::Result<Case> {
        let mut case = Case::default();
        let mut names: Vec<String> = std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            if name == MARKS || name.ends_with(".records") {
                case.take(&name, std::fs::File::open(folder.join(&name))?)?;
            }
        }
        case.prepare();
        Ok(case)
    }

    /// Builds a case from pairs of file name and text.
    pub(crate) fn parse(files: &[(String, String)]) -> Case {
        let mut case = Case::default();
        for (name, text) in files {
            case.take(name, text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        case.prepare();
        case
    }

    fn take(&mut self, name: &str, file: impl io::Read) -> io::Result<()> {
        let stem = name.strip_suffix(".records").unwrap_or(name);
        if let Some(process) = stem.strip_prefix("member-").and_then(Process::parse) {
            let mut read = Vec::new();
            lines(file, |line| read.push(Record::parse(line).unwrap_or_else(|| malformed(name, line))))?;
            let (epochs, is_final, was_killed) = (Vec::new(), false, false);
            self.lives.push(Life { process, lines: read, epochs, is_final, was_killed });
        } else if let Some(id) = stem.strip_prefix("log-").and_then(|id| id.parse().ok()) {
            let mut records = Vec::new();
            lines(file, |line| records.push(Logged::parse(line).unwrap_or_else(|| malformed(name, line))))?;
            self.logs.push(Log { id, records });
        } else if name == MARKS {
            let mut marks = Vec::new();
            lines(file, |line| marks.push(Mark::parse(line).unwrap_or_else(|| malformed(name, line))))?;
            marks.into_iter().for_each(|(ms, mark)| self.mark(ms, &mark));
        }
        Ok(())
    }

    fn mark(&mut self, ms: u64, mark: &Mark) {
        match mark {
            Mark::Group { fabric, log } => (self.has_log, self.leavers_miss) = (*log, fabric == "shm"),
            Mark::Disk(id) => self.disks.push(*id),
            Mark::AllDead => self.all_dead_ms.push(ms),
            Mark::Whole => self.whole = true,
            Mark::Killed(process) => self.killed.push(*process),
            Mark::Final(process) => self.last.push(*process),
        }
    }

    fn prepare(&mut self) {
        self.lives.sort_by_key(|life| life.process);
        // A process that had to be in the group at the end but wrote no file counts as missing, too.
        for &process in &self.last {
            if !self.lives.iter().any(|life| life.process == process) {
                let (lines, epochs) = (Vec::new(), Vec::new());
                self.lives.push(Life { process, lines, epochs, is_final: true, was_killed: false });
            }
        }
        for life in &mut self.lives {
            life.is_final = self.last.contains(&life.process);
            life.was_killed = self.killed.contains(&life.process);
            life.epochs = epochs(life, self.whole, !self.leavers_miss);
        }
    }
}

/// Returns the views of a life, each with the messages that were delivered in it.
///
/// The last view is complete if its process stayed to the end and everything had arrived by then (`whole`), or if the
/// process left and leavers are delivered everything (`leavers_have_all`).
fn epochs(life: &Life, whole: bool, leavers_have_all: bool) -> Vec<Epoch> {
    let mut epochs: Vec<Epoch> = Vec::new();
    let (mut live, mut restored) = (None, false);
    for (line, (_, record)) in life.lines.iter().enumerate() {
        match record {
            Record::View(view) => {
                if let Some(last) = epochs.last_mut() {
                    last.complete = true;
                }
                epochs.push(Epoch::new(view.number, false, !restored));
                (live, restored) = (Some(view.number), false);
            }
            Record::Restored(_) => {
                // The restored state replaces everything that was delivered before it.
                epochs.clear();
                restored = true;
            }
            Record::Delivery { place: (view, number), message } => {
                if live.is_none() && epochs.last().is_none_or(|epoch| epoch.view != *view) {
                    if let Some(last) = epochs.last_mut() {
                        last.complete = true;
                    }
                    epochs.push(Epoch::new(*view, true, !restored));
                    restored = false;
                }
                let Some(epoch) = epochs.last_mut() else { continue };
                epoch.got.push((*number, line));
                if message.is_ordered() {
                    epoch.frontier = epoch.frontier.max(Some(*number));
                }
                if message.is_safe() {
                    epoch.last_safe = epoch.last_safe.max(Some(*number));
                }
            }
            _ => {}
        }
    }
    let stays = whole && life.is_final && life.end().is_none();
    if let Some(last) = epochs.last_mut() {
        last.complete |= stays || life.has_left() && leavers_have_all;
    }
    epochs.iter_mut().for_each(|epoch| epoch.got.sort_unstable());
    epochs
}

impl Epoch {
    fn new(view: u64, replayed: bool, whole: bool) -> Epoch {
        Epoch { view, replayed, whole, complete: false, got: Vec::new(), frontier: None, last_safe: None }
    }
}
