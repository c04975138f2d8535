//! Guarantee 7, and the part of guarantee 2 about the state: one view per number, entered with one state by a majority
//! of the view before.

use super::{Case, Findings, Life, Views};
use crate::record::{Process, Record, State, ViewRecord};
use std::collections::BTreeMap;

pub(super) fn check<'a>(case: &'a Case, findings: &mut Findings) -> Views<'a> {
    let mut views: Views<'a> = BTreeMap::new();
    let mut states: BTreeMap<u64, (State, Process, String)> = BTreeMap::new();
    for life in &case.lives {
        check_own(life, findings);
        for (line, view) in life.views() {
            let (first, by, at) = *views.entry(view.number).or_insert((view, life.process, line));
            if !are_same(first, view) {
                let what = format!("view {} is {first:?} for {by} (line {}); {}", view.number, at + 1, life.show(line));
                findings.add(7, &[by, life.process], what);
            }
        }
        check_states(case, life, &mut states, findings);
    }
    for (number, (view, by, line)) in &views {
        let Some((before, ..)) = number.checked_sub(1).and_then(|before| views.get(&before)) else { continue };
        check_majority(before, view, *by, *line, findings);
    }
    views
}

/// Compares two records of a view. If one of them lacks the voters, the other's voters count.
fn are_same(a: &ViewRecord, b: &ViewRecord) -> bool {
    let voters = a.voters.is_none() || b.voters.is_none() || a.voters == b.voters;
    voters && (&a.members, &a.joined, &a.left, &a.failed) == (&b.members, &b.joined, &b.left, &b.failed)
}

/// Checks a life by itself: its views follow each other and contain it, and nothing comes after its end.
fn check_own(life: &Life, findings: &mut Findings) {
    let views: Vec<_> = life.views().collect();
    for pair in views.windows(2) {
        if pair[1].1.number != pair[0].1.number + 1 {
            let what = format!("a view is left out: {}; {}", life.show(pair[0].0), life.show(pair[1].0));
            findings.add(2, &[life.process], what);
        }
    }
    for (line, view) in views {
        if !view.members.contains(&life.process.id) {
            findings.add(7, &[life.process], format!("runs in a view that it is not in: {}", life.show(line)));
        }
    }
    let Some((end, ..)) = life.end() else { return };
    let after = life.lines.iter().enumerate().skip(end + 1);
    let is_told = |record: &Record| matches!(record, Record::Delivery { .. } | Record::View(_));
    if let Some((line, _)) = { after }.find(|(_, (_, record))| is_told(record)) {
        let what = format!("is told something after its end: {}; {}", life.show(end), life.show(line));
        findings.add(7, &[life.process], what);
    }
}

/// A majority of a view's voters must go on to the next view, or leave in an orderly way.
fn check_majority(before: &ViewRecord, view: &ViewRecord, by: Process, line: usize, findings: &mut Findings) {
    let Some(voters) = &before.voters else { return };
    let goes_on = |id: &&u32| view.members.contains(id) || view.left.contains(id);
    let on = voters.iter().filter(goes_on).count();
    if 2 * on <= voters.len() {
        let what = format!("view {}: {on} of the voters {voters:?} go on; line {}: {view:?}", view.number, line + 1);
        findings.add(7, &[by], what);
    }
}

/// All processes enter a view with the same state. A process that has just restored a state may be ahead.
fn check_states(
    case: &Case,
    life: &Life,
    states: &mut BTreeMap<u64, (State, Process, String)>,
    findings: &mut Findings,
) {
    let (mut restored, mut ahead) = (false, false);
    let mut first = true;
    for (line, (_, record)) in life.lines.iter().enumerate() {
        match record {
            Record::Restored(_) => (restored, ahead) = (true, true),
            Record::Delivery { .. } => ahead = false,
            Record::View(view) => {
                if first && view.number > 0 && !restored && !case.has_log {
                    let what = format!("joins without the group's state: {}", life.show(line));
                    findings.add(2, &[life.process], what);
                }
                first = false;
                if !std::mem::take(&mut ahead) {
                    let shown = life.show(line);
                    let (state, by, at) =
                        states.entry(view.number).or_insert((view.state, life.process, shown.clone()));
                    if *state != view.state {
                        let what = format!("one view, two states: {at}; {shown}");
                        findings.add(2, &[*by, life.process], what);
                    }
                }
            }
            _ => {}
        }
    }
}
