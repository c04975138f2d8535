//! The part of guarantees 1 to 4 that concerns the messages of a view: compares the deliveries of each process with
//! those of the others and of the processes that went on.

use super::{Case, Epoch, Findings, Life};
use crate::record::{Message, Place, Record};
use std::collections::{BTreeMap, HashMap};

pub(super) fn check(case: &Case, findings: &mut Findings) {
    check_places(case, findings);
    let mut by_view: BTreeMap<u64, Vec<(&Life, &Epoch)>> = BTreeMap::new();
    for life in &case.lives {
        check_own(life, findings);
        for epoch in &life.epochs {
            by_view.entry(epoch.view).or_default().push((life, epoch));
        }
    }
    for all in by_view.values() {
        check_view(all, findings);
    }
}

/// No place in the order holds two messages.
fn check_places(case: &Case, findings: &mut Findings) {
    let mut places: HashMap<Place, (Message, &Life, usize)> = HashMap::new();
    for life in &case.lives {
        for (line, (_, record)) in life.lines.iter().enumerate() {
            let Record::Delivery { place, message } = record else { continue };
            let (first, by, at) = places.entry(*place).or_insert((*message, life, line));
            if first != message {
                let what = format!("one place, two messages: {}; {}", by.show(*at), life.show(line));
                findings.add(1, &[by.process, life.process], what);
            }
        }
    }
}

/// Checks a life by itself: views follow each other, ordered messages come in order, and none comes twice.
fn check_own(life: &Life, findings: &mut Findings) {
    let (mut view, mut last): (Option<u64>, Option<(Place, usize)>) = (None, None);
    for (line, (_, record)) in life.lines.iter().enumerate() {
        match record {
            Record::View(next) => view = Some(next.number),
            Record::Restored(_) => last = None,
            Record::Delivery { place, message } => {
                if view.is_some_and(|view| view != place.0) {
                    let what = format!("delivered in view {view:?}: {}", life.show(line));
                    findings.add(2, &[life.process], what);
                }
                if !message.is_ordered() {
                    continue;
                }
                if let Some((before, at)) = last.replace((*place, line)).filter(|(before, _)| before >= place) {
                    let what = format!("{before:?} comes before {place:?}: {}; {}", life.show(at), life.show(line));
                    findings.add(1, &[life.process], what);
                }
            }
            _ => {}
        }
    }
    for epoch in &life.epochs {
        for pair in epoch.got.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let what = format!("delivered twice: {}; {}", life.show(pair[0].1), life.show(pair[1].1));
            findings.add(5, &[life.process], what);
        }
    }
}

/// Compares the deliveries of all processes in one view.
fn check_view(all: &[(&Life, &Epoch)], findings: &mut Findings) {
    let has_all = |(_, epoch): &&(&Life, &Epoch)| epoch.whole && epoch.complete;
    // Prefers a process that was a member until the view's end over one that read the view from its log.
    let lived = all.iter().filter(has_all).find(|(_, epoch)| !epoch.replayed);
    let Some(&(by, reference)) = lived.or_else(|| all.iter().find(has_all)) else {
        return check_undecided(all, findings);
    };
    for &(life, epoch) in all {
        if epoch.whole {
            check_missing(life, epoch, by, reference, findings);
        }
        check_extra(life, epoch, by, reference, findings);
    }
}

/// Finds messages that the reference was delivered and that `life` must have been delivered, too.
fn check_missing(life: &Life, epoch: &Epoch, by: &Life, reference: &Epoch, findings: &mut Findings) {
    let below = if epoch.complete { u64::MAX } else { epoch.frontier.unwrap_or(0) };
    let due = reference.got.iter().take_while(|(number, _)| *number < below);
    let missing: Vec<usize> =
        due.filter(|(number, _)| epoch.line_of(*number).is_none()).map(|(_, line)| *line).collect();
    let Some(&first) = missing.first() else { return };
    let (view, count) = (epoch.view, missing.len());
    let message = by.delivery(first).1;
    let (guarantee, end) = match (epoch.complete, message.mode) {
        (true, 'd') if epoch.replayed => (4, "read the view in its log".to_owned()),
        (true, 's' | 'd') => (3, "went on from the view".to_owned()),
        (true, _) => (2, "went on from the view".to_owned()),
        (false, _) => (1, format!("was delivered number {below}, which comes later")),
    };
    let what =
        format!("view {view}: {} lacks {count} messages and {end}; the first is {}", life.process, by.show(first));
    findings.add(guarantee, &[life.process, by.process], what);
}

/// Finds messages that `life` was delivered and a process with the whole view was not.
fn check_extra(life: &Life, epoch: &Epoch, by: &Life, reference: &Epoch, findings: &mut Findings) {
    let durable_below = durable_below(life);
    for &(number, line) in epoch.got.iter().filter(|(number, _)| reference.line_of(*number).is_none()) {
        let message = life.delivery(line).1;
        let acknowledged = durable_below.iter().any(|(at, below)| *at > line && number < *below);
        let below_safe = epoch.last_safe.is_some_and(|safe| number <= safe);
        let guarantee = match message.mode {
            'd' => 4,
            _ if acknowledged => 4,
            // If the reference comes from a log, all processes that had the message may have died at once.
            's' if !reference.replayed => 3,
            _ if epoch.complete => 2,
            _ if below_safe && !reference.replayed => 1,
            _ => continue,
        };
        let acknowledged = if acknowledged { ", acknowledged as durable" } else { "" };
        let what = format!(
            "view {}: {} has not got this message{acknowledged} and has all of the view: {}",
            epoch.view,
            by.process,
            life.show(line)
        );
        findings.add(guarantee, &[life.process, by.process], what);
    }
}

/// The lines that record that everything below a number is durable.
fn durable_below(life: &Life) -> Vec<(usize, u64)> {
    let lines = life.lines.iter().enumerate();
    let told = lines.filter_map(|(line, (_, record))| match record {
        Record::Durable { below } => Some((line, *below)),
        _ => None,
    });
    // The last such line covers all earlier ones, and there are many, so only the last one is kept.
    let mut told: Vec<_> = told.collect();
    let keep = told.len().saturating_sub(1);
    told.drain(..keep);
    told
}

/// No process went on from the view: below the last ordered message of both, any two processes must have the same
/// messages.
fn check_undecided(all: &[(&Life, &Epoch)], findings: &mut Findings) {
    let whole = all.iter().filter(|(_, epoch)| epoch.whole);
    let Some(&(by, reference)) = whole.max_by_key(|(_, epoch)| epoch.frontier) else { return };
    for &(life, epoch) in all.iter().filter(|(_, epoch)| epoch.whole) {
        let below = epoch.frontier.unwrap_or(0);
        for (one, own, other, others) in [(life, epoch, by, reference), (by, reference, life, epoch)] {
            let due = own.got.iter().take_while(|(number, _)| *number < below);
            if let Some(&(_, line)) = { due }.find(|(number, _)| others.line_of(*number).is_none()) {
                let what = format!(
                    "view {}: {} was delivered number {below} and not what comes before it: {}",
                    epoch.view,
                    other.process,
                    one.show(line)
                );
                findings.add(1, &[other.process, one.process], what);
            }
        }
    }
}
