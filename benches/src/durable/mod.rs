//! `galerna-bench durable`: the cost of durability for a group, against the same bytes and syncs without a group.

mod args;
pub(crate) mod crowd;

pub(crate) use args::DurableArgs;

use crate::Result;
use crate::log::place::Place;
use crate::log::sides::{Raw, filler};
use crate::measure::{Latencies, Spread, Summary, now_ns};
use crate::report::{Rounds, latency, show};
use crowd::{MAIN, Member, PATIENCE, Seen, join_all, send_all, side_by_side};
use galerna::Mode;
use galerna::log::LogStats;
use serde::Serialize;
use std::path::Path;
use std::sync::Barrier;

/// The number of single messages before the same number of raw writes.
///
/// Raw writes come in a row, because raw is a thread that writes alone: no log may sync between two of its writes.
const PROBES_OF_A_TURN: u64 = 50;

/// One pair. Counts are the sum over all logs.
#[derive(Serialize)]
struct Pair {
    /// The rate of the group divided by the rate of the raw writes.
    ratio: f64,
    /// The ratio of the median latencies.
    latency_ratio: f64,
    group_seconds: f64,
    raw_seconds: f64,
    records: u64,
    bytes: u64,
    syncs: u64,
}

#[derive(Serialize)]
struct Side {
    /// The messages of all senders that each member delivers.
    messages_per_second: Spread,
    /// The same as payload bytes.
    megabytes_per_second: Spread,
    latency_us: Option<Summary>,
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    flags: &'a DurableArgs,
    /// The messages of all members in one run.
    messages: u64,
    /// Whether the files are in memory. A sync then costs nothing, and the figures mean little.
    in_memory: bool,
    ratio_median: f64,
    ratio_min: f64,
    ratio_max: f64,
    latency_ratio_median: f64,
    latency_ratio_min: f64,
    latency_ratio_max: f64,
    /// The records per sync of a log.
    records_per_sync: Spread,
    pairs: Vec<Pair>,
    group: Side,
    raw: Side,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &DurableArgs) -> Result<()> {
    let place = Place::make(args.dir.as_deref())?;
    if place.in_memory() {
        let path = place.path().display();
        eprintln!("warning: {path} is in memory, where a sync costs nothing: give a --dir on a disk");
    }
    let logs = place.path().join("logs");
    std::fs::create_dir(&logs)?;
    let config = crowd::config(args.members, args.size, args.ring_bytes, &logs)?;
    let members = join_all(&config, Seen::default, |_| Ok(()))?;
    let rounds = Rounds::new(args.pairs, "pairs", 1);
    // The first pair is discarded, because it is the first to use the connections, rings and files.
    one_pair(args, &place, &members, &mut [Latencies::new()?, Latencies::new()?])?;
    let (mut pairs, mut latencies) = (Vec::new(), [Latencies::new()?, Latencies::new()?]);
    for pair in 1..=args.pairs {
        pairs.push(one_pair(args, &place, &members, &mut latencies)?);
        rounds.show(pair);
    }
    rounds.end();
    let report = report(args, place.in_memory(), pairs, &latencies);
    show(&report, args.json, || text(&report))
}

fn report<'a>(args: &'a DurableArgs, in_memory: bool, pairs: Vec<Pair>, latencies: &[Latencies; 2]) -> Report<'a> {
    let messages = args.messages() * args.members;
    let of = |figure: fn(&Pair) -> f64| Spread::of(pairs.iter().map(figure).collect());
    let side = |seconds: fn(&Pair) -> f64, latencies: &Latencies| {
        let per_second = |amount: f64| Spread::of(pairs.iter().map(|pair| amount / seconds(pair)).collect());
        Side {
            messages_per_second: per_second(messages as f64),
            megabytes_per_second: per_second((messages * args.size) as f64 / 1e6),
            latency_us: latencies.summary(),
        }
    };
    let (ratios, latency_ratios) = (of(|pair| pair.ratio), of(|pair| pair.latency_ratio));
    Report {
        kind: "durable",
        flags: args,
        messages,
        in_memory,
        ratio_median: ratios.median,
        ratio_min: ratios.min,
        ratio_max: ratios.max,
        latency_ratio_median: latency_ratios.median,
        latency_ratio_min: latency_ratios.min,
        latency_ratio_max: latency_ratios.max,
        records_per_sync: of(|pair| pair.records as f64 / pair.syncs.max(1) as f64),
        group: side(|pair| pair.group_seconds, &latencies[0]),
        raw: side(|pair| pair.raw_seconds, &latencies[1]),
        pairs,
    }
}

/// The counters of the logs, once all work is durable.
fn stats(members: &[Member]) -> Result<Vec<LogStats>> {
    members.iter().try_for_each(|member| member.group.persist(MAIN, PATIENCE))?;
    Ok(members.iter().map(|member| member.group.log_stats(MAIN)).collect::<std::result::Result<_, _>>()?)
}

fn one_pair(args: &DurableArgs, place: &Place, members: &[Member], latencies: &mut [Latencies; 2]) -> Result<Pair> {
    let payload = filler(args.size);
    let before = stats(members)?;
    let (start, end) = send_all(members, args.messages(), &payload)?;
    let after = stats(members)?;
    let logged: Vec<LogStats> = std::iter::zip(&after, &before)
        .map(|(after, before)| LogStats {
            records: after.records - before.records,
            bytes: after.bytes - before.bytes,
            batches: after.batches - before.batches,
        })
        .collect();
    let directory = place.fresh()?;
    let raw_ns = raw(&directory, &logged)?;
    let [quick, slow] = probe(args, &directory, &members[0], &payload)?;
    let sum = |figure: fn(&LogStats) -> u64| logged.iter().map(figure).sum();
    let group_ns = end - start;
    let pair = Pair {
        ratio: raw_ns as f64 / group_ns as f64,
        latency_ratio: quick.quantile_us(0.5) / slow.quantile_us(0.5),
        group_seconds: group_ns as f64 / 1e9,
        raw_seconds: raw_ns as f64 / 1e9,
        records: sum(|stats| stats.records),
        bytes: sum(|stats| stats.bytes),
        syncs: sum(|stats| stats.batches),
    };
    latencies.iter_mut().zip([quick, slow]).for_each(|(all, own)| all.add(&own.counts()));
    Ok(pair)
}

/// Writes the same bytes with the same number of syncs, in parallel threads. Returns the duration in nanoseconds.
fn raw(directory: &Path, logged: &[LogStats]) -> Result<u64> {
    let files = logged
        .iter()
        .enumerate()
        .map(|(n, stats)| Ok((*stats, Raw::new(&directory.join(n.to_string()), stats.bytes)?)));
    let files = files.collect::<Result<Vec<_>>>()?;
    let ready = Barrier::new(files.len());
    let times = side_by_side(files, |(stats, mut file)| {
        let (syncs, mut at) = (stats.batches.max(1), 0);
        ready.wait();
        let start = now_ns();
        for n in 1..=syncs {
            // Distributes the bytes evenly over the syncs.
            let end = (u128::from(stats.bytes) * u128::from(n) / u128::from(syncs)) as u64;
            file.durable_write(end - at)?;
            at = end;
        }
        Ok((start, now_ns()))
    })?;
    let start = times.iter().map(|&(start, _)| start).min().unwrap_or_default();
    Ok(times.iter().map(|&(_, end)| end).max().unwrap_or_default() - start)
}

/// Measures single durable messages of one member and single raw writes, some of each in turn, in an idle group.
fn probe(args: &DurableArgs, directory: &Path, member: &Member, payload: &[u8]) -> Result<[Latencies; 2]> {
    let mut raw = Raw::new(&directory.join("probe"), args.probes * args.size)?;
    let (mut by_group, mut by_raw) = (Latencies::new()?, Latencies::new()?);
    let mut left = args.probes;
    while left > 0 {
        let turn = left.min(PROBES_OF_A_TURN);
        left -= turn;
        for _ in 0..turn {
            let start = now_ns();
            member.seen.aim_at(member.seen.count() + 1);
            member.group.send(MAIN, Mode::Durable, payload, PATIENCE)?;
            by_group.record(member.seen.wait_for_all()? - start);
        }
        // Wait for the remaining work of the logs, so that it does not disturb the raw writes.
        member.group.persist(MAIN, PATIENCE)?;
        for _ in 0..turn {
            by_raw.record(raw.durable_write(args.size)?);
        }
    }
    Ok([by_group, by_raw])
}

fn text(report: &Report<'_>) -> String {
    let args = report.flags;
    let mut text = format!(
        "{} members, each sends {} durable messages of {} bytes in each run\n",
        args.members,
        args.messages(),
        args.size
    );
    for (n, pair) in report.pairs.iter().enumerate() {
        text += &format!(
            "pair {}: group/raw {:.3}; all logs: {} records, {} bytes, {} syncs; one message, group/raw: {:.2}\n",
            n + 1,
            pair.ratio,
            pair.records,
            pair.bytes,
            pair.syncs,
            pair.latency_ratio
        );
    }
    for (what, side) in [("group", &report.group), ("raw", &report.raw)] {
        let (rate, megabytes) = (&side.messages_per_second, &side.megabytes_per_second);
        text += &format!(
            "{what}: {:.0} messages/s (least {:.0}, most {:.0}), {:.1} MB/s of payload",
            rate.median, rate.min, rate.max, megabytes.median
        );
        text += &latency("  one durable", side.latency_us.as_ref());
        text.push('\n');
    }
    text + &format!(
        "rate, group/raw: median {:.3}, least {:.3}, most {:.3}; records per sync: {:.1}\n\
         one message, group/raw at the median: {:.2} ({:.2} to {:.2})",
        report.ratio_median,
        report.ratio_min,
        report.ratio_max,
        report.records_per_sync.median,
        report.latency_ratio_median,
        report.latency_ratio_min,
        report.latency_ratio_max,
    )
}
