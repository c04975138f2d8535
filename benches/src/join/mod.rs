//! `galerna-bench join`: measures the duration of a join with a large state, and its effect on the group.

mod args;
pub(crate) mod founder;
pub(crate) mod joiner;

pub(crate) use args::JoinArgs;

use crate::Result;
use crate::args::name;
use crate::control::{Job, Order};
use crate::crew::{Crew, Task};
use crate::measure::{Spread, now_ns};
use crate::place::{AcrossArgs, sample_addresses};
use crate::report::{Rounds, show};
use founder::{Pauses, Seen};
use joiner::Joined;
use serde::Serialize;
use std::time::Duration;

/// The least time without a join before each join.
const QUIET_MIN: Duration = Duration::from_millis(500);
/// The assumed transfer rate of a slow join, in bytes of state per second, used before the first join was measured.
const SLOW: f64 = 100e6;

/// The result of a run, in ms, over each join, or over each founder at each join.
#[derive(Serialize)]
struct Joins<'a> {
    kind: &'static str,
    flags: &'a JoinArgs,
    joins: u64,
    join_ms: Spread,
    /// The transfer rate of the state at the median.
    megabytes_per_second: f64,
    delivery_pause_ms: Compared,
    send_wait_ms: Compared,
    each: Vec<Each>,
}

#[derive(Serialize)]
struct Compared {
    during: Spread,
    before: Spread,
}

/// One join. Each figure is the longest pause among all founders.
#[derive(Serialize)]
struct Each {
    join_ms: f64,
    delivery_pause_during_ms: f64,
    delivery_pause_before_ms: f64,
    send_wait_during_ms: f64,
    send_wait_before_ms: f64,
}

/// A join, and the length of the time without a join before it.
struct Round {
    joined: Joined,
    quiet_ns: u64,
}

impl Round {
    fn ns(&self) -> u64 {
        self.joined.end_ns - self.joined.begin_ns
    }

    /// A founder's longest pause during the join, and its longest pause in a period of the same length before it.
    fn longest_ms(&self, pauses: &Pauses) -> [f64; 2] {
        let Joined { begin_ns, end_ns } = self.joined;
        let before_ns = begin_ns - self.ns().min(self.quiet_ns);
        // Only the part of a pause after the start of the join counts: the part before has another cause.
        let during = |begin: u64, end: u64| if begin < end_ns { end.saturating_sub(begin.max(begin_ns)) } else { 0 };
        let before = |begin: u64, end: u64| if end > before_ns { end.min(begin_ns).saturating_sub(begin) } else { 0 };
        [pauses.longest_ms(during), pauses.longest_ms(before)]
    }
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &JoinArgs) -> Result<()> {
    let members = args.members as usize;
    args.config(&sample_addresses(args.fabric, members))?;
    let progress = Rounds::new(args.joins, "joins", 1);
    let all = u32::try_from(args.joins + 1)?;
    let mut founders = Crew::start(&task(args, members, Job::Found(args.clone()), all))?;
    founders.get_ready()?;
    let mut rounds: Vec<Round> = Vec::new();
    for number in 1..=args.joins {
        let usual = rounds.last().map_or(args.state as f64 / SLOW, |last| 1.5 * last.ns() as f64 / 1e9);
        let round = round(args, &founders, Duration::from_secs_f64(usual).max(QUIET_MIN));
        // A failed founder is the more likely cause, so its error is reported first.
        let round = founders.check().and(round).map_err(|e| format!("join {number} of {}: {e}", args.joins))?;
        if round.quiet_ns < round.ns() {
            eprintln!(
                "join {number} took longer than the time without a join before it, so the figures for that time cover a shorter time"
            );
        }
        rounds.push(round);
        progress.show(number);
    }
    founders.order(Order::Report)?;
    let seen: Vec<Seen> = founders.finish(None)?;
    progress.end();
    let joins = evaluate(args, &rounds, &seen);
    show(&joins, args.json, || text(&joins))
}

fn task(args: &JoinArgs, members: usize, job: Job, joins: u32) -> Task {
    let timeout = Duration::from_secs(args.timeout_s).saturating_mul(joins);
    let (hosts, across) = (args.here.hosts.clone(), AcrossArgs::default());
    Task { fabric: args.fabric, hosts, across, members, job, timeout, memory_bytes: 0, deliveries: 0 }
}

/// A time without a join, followed by a process that joins and leaves.
fn round(args: &JoinArgs, founders: &Crew, quiet: Duration) -> Result<Round> {
    let quiet_since_ns = now_ns();
    std::thread::sleep(quiet);
    let mut joiner = Crew::start(&task(args, 1, Job::Join(args.clone(), founders.addresses().to_vec()), 1))?;
    joiner.get_ready()?;
    joiner.order(Order::Start(now_ns()))?;
    let joined = joiner.finish::<Joined>(None)?.pop().ok_or("the joining process ended without a report")?;
    Ok(Round { joined, quiet_ns: joined.begin_ns.saturating_sub(quiet_since_ns) })
}

fn evaluate<'a>(args: &'a JoinArgs, rounds: &[Round], seen: &[Seen]) -> Joins<'a> {
    let of = |round: &Round, pauses: fn(&Seen) -> &Pauses| -> Vec<[f64; 2]> {
        seen.iter().map(|seen| round.longest_ms(pauses(seen))).collect()
    };
    let compared = |pauses: fn(&Seen) -> &Pauses| {
        let longest: Vec<_> = rounds.iter().flat_map(|round| of(round, pauses)).collect();
        let [during, before] = [0, 1].map(|side| Spread::of(longest.iter().map(|pair| pair[side]).collect()));
        Compared { during, before }
    };
    let most = |pairs: &[[f64; 2]], side: usize| pairs.iter().map(|pair| pair[side]).fold(0.0, f64::max);
    let each = |round: &Round| {
        let (deliveries, sends) = (of(round, |seen| &seen.deliveries), of(round, |seen| &seen.sends));
        Each {
            join_ms: round.ns() as f64 / 1e6,
            delivery_pause_during_ms: most(&deliveries, 0),
            delivery_pause_before_ms: most(&deliveries, 1),
            send_wait_during_ms: most(&sends, 0),
            send_wait_before_ms: most(&sends, 1),
        }
    };
    let join_ms = Spread::of(rounds.iter().map(|round| round.ns() as f64 / 1e6).collect());
    Joins {
        kind: "join",
        flags: args,
        joins: args.joins,
        megabytes_per_second: args.state as f64 / 1e3 / join_ms.median,
        join_ms,
        delivery_pause_ms: compared(|seen| &seen.deliveries),
        send_wait_ms: compared(|seen| &seen.sends),
        each: rounds.iter().map(each).collect(),
    }
}

fn text(j: &Joins<'_>) -> String {
    let mut lines = vec![
        format!(
            "{} joins with a state of {} bytes over {}, {} founders, all sending safe messages of {} bytes, {}/s each",
            j.joins,
            j.flags.state,
            name(&j.flags.fabric),
            j.flags.members,
            j.flags.size,
            j.flags.rate
        ),
        format!("{:<62} {:>10} {:>10} {:>10}", "[ms]", "median", "min", "max"),
    ];
    for (what, s) in [
        ("join, until the process has the whole state", &j.join_ms),
        ("longest pause between own deliveries, during the join", &j.delivery_pause_ms.during),
        ("  and in as long a time before it", &j.delivery_pause_ms.before),
        ("longest wait of a send, during the join", &j.send_wait_ms.during),
        ("  and in as long a time before it", &j.send_wait_ms.before),
    ] {
        lines.push(format!("{what:<62} {:>10.3} {:>10.3} {:>10.3}", s.median, s.min, s.max));
    }
    lines.push(format!("the state was transferred with {:.0} MB/s at the median", j.megabytes_per_second));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_where_it_lies() {
        let ms = |ms: u64| 1_000_000 * ms;
        let joined = Joined { begin_ns: ms(100), end_ns: ms(120) };
        let longest = |quiet: u64, pauses: &[(u64, u64)]| {
            let mut all = Pauses::default();
            pauses.iter().for_each(|&(begin, end)| all.add(ms(begin), ms(end)));
            Round { joined, quiet_ns: ms(quiet) }.longest_ms(&all)
        };
        assert_eq!(longest(50, &[]), [0.0, 0.0]);
        assert_eq!(longest(50, &[(10, 79), (85, 90), (101, 104), (121, 160)]), [3.0, 5.0]);
        assert_eq!(longest(50, &[(70, 107), (119, 130)]), [11.0, 30.0], "across a border");
        assert_eq!(longest(5, &[(80, 94), (96, 98)]), [0.0, 2.0], "before the quiet time");
    }
}
