//! Guarantees 9 and 11: in which view each process is at the end, and how each process ended.

use super::{Case, Findings, Life, Views};
use crate::record::Record;

/// Reasons that name an action of the network, of the other members or of the runner.
const FAIR: [&str; 8] =
    ["Removed", "Partitioned", "Missing", "TimedOut", "StateTransfer", "Refused", "Listen", "AlreadyRuns"];
/// Further reasons that a process may give after the runner made its disk fail.
const OF_THE_DISK: [&str; 4] = ["LogFull", "LogFailed", "Io", "StateTransfer"];

pub(super) fn check(case: &Case, views: &Views<'_>, findings: &mut Findings) {
    for life in &case.lives {
        check_end(case, life, findings);
        check_suspicions(life, findings);
    }
    check_liveness(case, views, findings);
}

/// A process that ends by itself must record a reason.
fn check_end(case: &Case, life: &Life, findings: &mut Findings) {
    let process = life.process;
    let Some((line, how, error, text)) = life.end() else {
        if !life.was_killed && !life.is_final {
            let last = life.lines.len().checked_sub(1).map_or("it wrote nothing".to_owned(), |last| life.show(last));
            findings.add(11, &[process], format!("ended without a word: {last}"));
        }
        return;
    };
    let excused = case.disks.contains(&process.id) && OF_THE_DISK.contains(&error);
    if how != "left" && !FAIR.contains(&error) && !excused {
        let what = format!("ended for a reason that nothing done to it explains: {}", life.show(line));
        findings.add(11, &[process], what);
    }
    if how != "left" && text.trim().is_empty() {
        findings.add(11, &[process], format!("names no reason: {}", life.show(line)));
    }
}

/// All members run the same code, so none may be accused of breaking the protocol.
fn check_suspicions(life: &Life, findings: &mut Findings) {
    for (line, (_, record)) in life.lines.iter().enumerate() {
        let Record::Suspected { text, .. } = record else { continue };
        if text.contains("broke the protocol") {
            findings.add(11, &[life.process], format!("an innocent member is accused: {}", life.show(line)));
            return;
        }
    }
}

/// The processes that must be in the group at the end are in it, in one view.
fn check_liveness(case: &Case, views: &Views<'_>, findings: &mut Findings) {
    let latest = views.last_key_value().map(|(number, (view, ..))| (*number, *view));
    for life in case.finals() {
        let process = life.process;
        if let Some((line, ..)) = life.end() {
            let what = format!("was to be in the group at the end: {}", life.show(line));
            findings.add(9, &[process], what);
            continue;
        }
        let last = life.views().last();
        match (last, latest) {
            (Some((line, view)), Some((number, latest))) => {
                let missing: Vec<u32> =
                    case.finals().map(|life| life.process.id).filter(|id| !latest.members.contains(id)).collect();
                if view.number != number || !missing.is_empty() {
                    let what =
                        format!("at the end the group is in view {number}, without {missing:?}: {}", life.show(line));
                    findings.add(9, &[process], what);
                }
            }
            _ => findings.add(9, &[process], "was to be in the group at the end, and was in no view".to_owned()),
        }
    }
}
