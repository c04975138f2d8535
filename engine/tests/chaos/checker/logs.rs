//! Guarantee 10: compares the logs on disk at the end with the closed times that were reported, with each other, and
//! with the deliveries.

use super::{Case, Epoch, Findings, Life, Log};
use crate::record::{Logged, Place, Process, Record};

pub(super) fn check(case: &Case, findings: &mut Findings) {
    // A log that is still catching up may be shorter, or may end with records that its group has decided otherwise.
    if !case.whole {
        return;
    }
    let finals: Vec<(&Log, Process)> = case.logs.iter().filter_map(|log| Some((log, owner(case, log)?))).collect();
    let Some(&(longest, by)) = finals.iter().max_by_key(|(log, _)| log.records.last().map(|last| last.place)) else {
        return;
    };
    for &(log, process) in &finals {
        check_own(log, process, findings);
        check_against(log, process, longest, by, findings);
    }
    for life in &case.lives {
        for &(log, process) in &finals {
            check_past(life, log, process, findings);
        }
    }
    check_deliveries(case, longest, by, findings);
}

/// Returns the process that had the log at the end.
fn owner(case: &Case, log: &Log) -> Option<Process> {
    case.finals().map(|life| life.process).find(|process| process.id == log.id)
}

fn check_own(log: &Log, process: Process, findings: &mut Findings) {
    for pair in log.records.windows(2) {
        if pair[1].place <= pair[0].place || pair[1].time_ns <= pair[0].time_ns {
            let what = format!("records that do not rise in its log: {}; {}", pair[0], pair[1]);
            findings.add(10, &[process], what);
        }
    }
}

/// Where two logs cover the same range, one must be a prefix of the other.
fn check_against(log: &Log, process: Process, longest: &Log, by: Process, findings: &mut Findings) {
    let first = |log: &Log| log.records.first().map(|first| first.place);
    let (Some(own), Some(other)) = (first(log), first(longest)) else { return };
    let from = own.max(other);
    let tail =
        |log: &'_ Log| log.records.iter().skip_while(move |record| record.place < from).cloned().collect::<Vec<_>>();
    let (ours, theirs) = (tail(log), tail(longest));
    if let Some((one, other)) = ours.iter().zip(&theirs).find(|(one, other)| one != other) {
        let what = format!("logs differ: {one} in that of {process}; {other} in that of {by}");
        findings.add(10, &[process, by], what);
    }
}

/// Each closed time that a life recorded must agree with a log at the end.
fn check_past(life: &Life, log: &Log, process: Process, findings: &mut Findings) {
    let Some(oldest) = log.records.first() else { return };
    let mut at = 0;
    for (line, (_, record)) in life.lines.iter().enumerate() {
        let Record::Closed { time_ns, last } = record else { continue };
        if *time_ns < oldest.time_ns {
            continue;
        }
        // The recorded closed times rise.
        while log.records.get(at).is_some_and(|record| record.time_ns <= *time_ns) {
            at += 1;
        }
        while at > 0 && log.records[at - 1].time_ns > *time_ns {
            at -= 1;
        }
        let found = at.checked_sub(1).map(|at| log.records[at].place);
        if found != *last {
            let what =
                format!("the last record up to that time is {found:?} in the log of {process}: {}", life.show(line));
            return findings.add(10, &[life.process, process], what);
        }
    }
}

/// In each finished view, and in the last one as far as the log goes, the log must match the deliveries.
fn check_deliveries(case: &Case, log: &Log, by: Process, findings: &mut Findings) {
    let (Some(first), Some(end)) = (log.records.first(), log.records.last()) else { return };
    let mut seen = std::collections::HashSet::new();
    for life in &case.lives {
        let whole = life.epochs.iter().filter(|epoch| epoch.whole && epoch.complete && !epoch.replayed);
        for epoch in whole.filter(|epoch| epoch.view > first.place.0 || first.place == (0, 0)) {
            if seen.insert(epoch.view) {
                check_view(life, epoch, log, end.place, by, findings);
            }
        }
    }
}

fn check_view(life: &Life, epoch: &Epoch, log: &Log, end: Place, by: Process, findings: &mut Findings) {
    let from = log.records.partition_point(|record| record.place < (epoch.view, 0));
    let records = log.records[from..].iter().take_while(|record| record.place.0 == epoch.view);
    let mut records = records.filter(|record| record.kind == 'm').peekable();
    for &(number, line) in &epoch.got {
        if (epoch.view, number) > end {
            break;
        }
        let message = life.delivery(line).1;
        let same = |record: &&Logged| {
            let head = (record.place.1, record.sender, record.mode, record.len, record.crc);
            head == (number, message.sender, message.mode, message.len, message.crc)
        };
        let found = records.next();
        if !found.as_ref().is_some_and(same) {
            let what = format!("the log of {by} has {found:?} where this was delivered: {}", life.show(line));
            return findings.add(10, &[life.process, by], what);
        }
    }
    if let Some(more) = records.peek().filter(|more| more.place < end) {
        let what = format!("the log of {by} has {more}, which {} was not delivered", life.process);
        findings.add(10, &[life.process, by], what);
    }
}
