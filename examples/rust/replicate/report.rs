//! What is shown at the end.

use crate::lines::Lines;
use crate::member::Outcome;
use crate::options::{DeliveryMode, Run, name};
use std::time::Duration;

/// The members' histories, the throughput, and the latencies.
pub(crate) fn show(run: &Run, lines: &Lines, outcomes: &[Outcome]) {
    println!(
        "{} lines of {}, {} members, fabric {}, mode {}\n",
        lines.len(),
        run.workload.file.display(),
        run.members,
        name(run.fabric),
        name(run.workload.mode)
    );
    println!("{:>6}  {:>9}  SHA-256 of its history", "member", "lines");
    for (id, outcome) in outcomes.iter().enumerate() {
        println!("{id:>6}  {:>9}  {}", outcome.lines, outcome.digest);
    }
    let slowest = outcomes.iter().map(|o| o.elapsed).max().unwrap_or_default();
    if !slowest.is_zero() {
        let seconds = slowest.as_secs_f64();
        println!(
            "\nthroughput: {:.0} lines/s, {:.2} MB/s, until the slowest member had all after {}",
            lines.len() as f64 / seconds,
            lines.total_bytes() as f64 / 1e6 / seconds,
            time(slowest)
        );
    }
    println!("\nlatency, from the call of send to the own delivery:");
    println!("{:>6}  {:>10}  {:>10}  {:>10}  {:>10}", "member", "p50", "p99", "p99.9", "max");
    for (id, outcome) in outcomes.iter().enumerate() {
        match outcome.latencies {
            Some(latencies) => {
                let [p50, p99, p999, max] = latencies.map(time);
                println!("{id:>6}  {p50:>10}  {p99:>10}  {p999:>10}  {max:>10}");
            }
            None => println!("{id:>6}  sent nothing"),
        }
    }
}

/// What was found to be equal.
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
