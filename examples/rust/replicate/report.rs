//! The output at the end of a run.

use crate::lines::Lines;
use crate::member::Outcome;
use crate::options::{DeliveryMode, Run, name};
use crate::run::Victim;
use std::time::Duration;

/// Prints the members' histories, the throughput, and the latencies.
pub(crate) fn show(run: &Run, lines: &Lines, outcomes: &[(usize, Outcome)]) {
    println!(
        "{} lines of {}, {} members, fabric {}, mode {}\n",
        lines.len(),
        run.workload.file.display(),
        run.members,
        name(run.fabric),
        name(run.workload.mode)
    );
    println!("{:>6}  {:>9}  SHA-256 of its history", "member", "lines");
    for (id, outcome) in outcomes {
        println!("{id:>6}  {:>9}  {}", outcome.lines, outcome.digest);
    }
    let slowest = outcomes.iter().map(|(_, o)| o.elapsed).max().unwrap_or_default();
    let most = |of: fn(&Outcome) -> usize| outcomes.iter().map(|(_, o)| of(o)).max().unwrap_or(0) as f64;
    if !slowest.is_zero() {
        let seconds = slowest.as_secs_f64();
        println!(
            "\nthroughput: {:.0} lines/s, {:.2} MB/s, until the slowest member had all lines, after {}",
            most(|o| o.lines) / seconds,
            most(|o| o.bytes) / 1e6 / seconds,
            time(slowest)
        );
    }
    println!("\nlatency, from the call of send to the own delivery:");
    println!("{:>6}  {:>10}  {:>10}  {:>10}  {:>10}", "member", "p50", "p99", "p99.9", "max");
    for (id, outcome) in outcomes {
        match outcome.latencies {
            Some(latencies) => {
                let [p50, p99, p999, max] = latencies.map(time);
                println!("{id:>6}  {p50:>10}  {p99:>10}  {p999:>10}  {max:>10}");
            }
            None => println!("{id:>6}  sent nothing"),
        }
    }
}

/// Prints the views that the survivors of a kill and the replacement of the victim report.
pub(crate) fn show_views(victim: &Victim, outcomes: &[(usize, Outcome)]) {
    println!("\n{victim} was killed with SIGKILL. The views since, as the members report them:");
    println!("{:>6}  {:>4}  {:>14}  {:>17}  members", "member", "view", "after the kill", "deliveries paused");
    for (id, outcome) in outcomes {
        for seen in outcome.views.iter().filter(|seen| seen.number > 0) {
            let killed = victim.killed.unwrap_or_default();
            let changes = [("joined", &seen.joined), ("left", &seen.left), ("failed", &seen.failed)];
            let changes = changes.iter().filter(|(_, ids)| !ids.is_empty());
            let changes: Vec<_> = changes.map(|(what, ids)| format!("{} {what}", list(ids))).collect();
            // A joining process becomes a voter once it has the state. This begins a view with an otherwise unchanged
            // list.
            let changes = if changes.is_empty() {
                "the joined member has received the state".to_owned()
            } else {
                changes.join("; ")
            };
            let (after, pause) = (time(seen.at.saturating_sub(killed)), time(seen.pause_after(killed)));
            let members = list(&seen.members);
            println!("{id:>6}  {:>4}  {after:>14}  {pause:>17}  {members}: {changes}", seen.number);
        }
    }
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// Describes the lines that the replacement of a victim received and sent.
pub(crate) fn verdict_on(victim: &Victim, outcome: &Outcome) -> String {
    let (first, share) = (outcome.resumed_at, outcome.lines_by_sender[victim.id as usize]);
    format!(
        "Each member has every line exactly once. The process that replaced {victim} received {} lines from the others,\n\
         {first} of them sent by its predecessor, and sent the remaining {} of the {share}.",
        outcome.taken,
        share - first
    )
}

/// Describes the result of the comparison.
pub(crate) fn verdict(mode: DeliveryMode) -> &'static str {
    match mode {
        DeliveryMode::Fifo => {
            "Every member has each sender's lines in the order in which they were sent. Mode fifo promises no order \
             among\nsenders: only the digests by sender were compared, and the histories above may differ."
        }
        DeliveryMode::Ordered | DeliveryMode::Safe => "All members have the same lines in the same order.",
    }
}

fn time(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    match us {
        ..1e3 => format!("{us:.1} us"),
        ..1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}
