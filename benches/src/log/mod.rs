//! `galerna-bench log`: the cost of the persistent log, against the same bytes and syncs without a log.

mod args;
pub(crate) mod place;
pub(crate) mod sides;

pub(crate) use args::LogArgs;

use crate::Result;
use crate::measure::{Latencies, Spread, Summary, median};
use crate::report::{Rounds, latency, show};
use args::Load;
use place::Place;
use serde::Serialize;
use sides::{Raw, Run};

/// The single durable appends of each pair, for loads that do not contain any.
const PROBES: u64 = 100;

/// One side, over all pairs.
#[derive(Serialize)]
struct Side {
    /// Records per second, run by run.
    records_per_second: Spread,
    megabytes_per_second: Spread,
    /// The syncs of a run.
    syncs: Spread,
    cpu_us_per_record: f64,
    latency_us: Option<Summary>,
}

/// One pair.
#[derive(Serialize)]
struct Pair {
    ratio: f64,
    latency_p50_ratio: f64,
    latency_p99_ratio: f64,
    records_per_sync: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    flags: &'a LogArgs,
    load: Load,
    /// The records and bytes of one run.
    records: u64,
    bytes: u64,
    /// Whether the files are in memory. A sync then costs nothing, and the figures mean little.
    in_memory: bool,
    /// The ratio of the log's records per second to those of the raw writes, pair by pair.
    ratio_median: f64,
    ratio_min: f64,
    ratio_max: f64,
    /// The ratio of a durable append to one raw write with its sync.
    latency_p50_ratio: Spread,
    latency_p99_ratio: Spread,
    /// The records per sync.
    records_per_sync: f64,
    pairs: Vec<Pair>,
    log: Side,
    raw: Side,
}

/// The runs of one side, and its latencies.
struct Runs {
    runs: Vec<Run>,
    latencies: Latencies,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &LogArgs) -> Result<()> {
    args.check()?;
    let place = Place::make(args.dir.as_deref())?;
    if place.in_memory() {
        let path = place.path().display();
        eprintln!("warning: {path} is in memory, where a sync costs nothing: give a --dir on a disk");
    }
    let rounds = Rounds::new(args.pairs, "pairs", 1);
    // The first pair is discarded, because its files get memory that was never used before.
    one_pair(args, &place, &mut [Runs::new()?, Runs::new()?])?;
    let (mut pairs, mut sides) = (Vec::new(), [Runs::new()?, Runs::new()?]);
    for pair in 1..=args.pairs {
        pairs.push(one_pair(args, &place, &mut sides)?);
        rounds.show(pair);
    }
    rounds.end();
    let of = |figure: fn(&Pair) -> f64| Spread::of(pairs.iter().map(figure).collect());
    let ratios = of(|pair| pair.ratio);
    let [log, raw] = &sides;
    let report = Report {
        kind: "log",
        flags: args,
        load: args.load(),
        records: args.records(),
        bytes: args.records() * args.size,
        in_memory: place.in_memory(),
        ratio_median: ratios.median,
        ratio_min: ratios.min,
        ratio_max: ratios.max,
        latency_p50_ratio: of(|pair| pair.latency_p50_ratio),
        latency_p99_ratio: of(|pair| pair.latency_p99_ratio),
        records_per_sync: median(&pairs.iter().map(|pair| pair.records_per_sync).collect::<Vec<_>>()),
        log: log.side(),
        raw: raw.side(),
        pairs,
    };
    show(&report, args.json, || text(&report))
}

fn one_pair(args: &LogArgs, place: &Place, sides: &mut [Runs; 2]) -> Result<Pair> {
    let directory = place.fresh()?;
    let log = sides::new_log(&directory)?;
    let mut raw = Raw::new(&directory.join("raw"), args.records() * args.size)?;
    let (mut by_log, mut by_raw) = (Run::new()?, Run::new()?);
    // In small turns, so that a disturbance of the machine affects both sides.
    for records in args.turns() {
        let syncs = sides::logged(args, &log, records, &mut by_log)?;
        sides::unlogged(args, &mut raw, records, syncs.max(1), &mut by_raw)?;
    }
    log.close()?;
    let latencies = match args.load() {
        Load::Batches(_) => sides::probe(args, &place.fresh()?, PROBES)?,
        Load::Appenders(_) => [by_log.latencies.clone(), by_raw.latencies.clone()],
    };
    let [quick, slow] = &latencies;
    let pair = Pair {
        ratio: by_log.records_per_second() / by_raw.records_per_second(),
        latency_p50_ratio: quick.quantile_us(0.5) / slow.quantile_us(0.5),
        latency_p99_ratio: quick.quantile_us(0.99) / slow.quantile_us(0.99),
        records_per_sync: by_log.records as f64 / by_log.syncs.max(1) as f64,
    };
    for ((side, run), latencies) in sides.iter_mut().zip([by_log, by_raw]).zip(&latencies) {
        side.runs.push(run);
        side.latencies.add(&latencies.counts());
    }
    Ok(pair)
}

impl Runs {
    fn new() -> Result<Runs> {
        Ok(Runs { runs: Vec::new(), latencies: Latencies::new()? })
    }

    fn side(&self) -> Side {
        let of = |figure: fn(&Run) -> f64| Spread::of(self.runs.iter().map(figure).collect());
        let sum = |figure: fn(&Run) -> u64| self.runs.iter().map(figure).sum::<u64>() as f64;
        Side {
            records_per_second: of(Run::records_per_second),
            megabytes_per_second: of(|run| run.bytes as f64 / run.seconds / 1e6),
            syncs: of(|run| run.syncs as f64),
            cpu_us_per_record: sum(|run| run.cpu_us) / sum(|run| run.records),
            latency_us: self.latencies.summary(),
        }
    }
}

fn text(report: &Report<'_>) -> String {
    let load = match report.load {
        Load::Batches(records) => format!("batches of {records}, two in flight"),
        Load::Appenders(threads) => format!("{threads} threads, each waiting for each of its records"),
    };
    let mut text = format!("{} records of {} bytes in each run: {load}\n", report.records, report.flags.size);
    for (n, pair) in report.pairs.iter().enumerate() {
        text += &format!(
            "pair {}: log/raw {:.3}, {:.1} records per sync; durable append, log/raw: p50 {:.2}, p99 {:.2}\n",
            n + 1,
            pair.ratio,
            pair.records_per_sync,
            pair.latency_p50_ratio,
            pair.latency_p99_ratio,
        );
    }
    for (what, side) in [("log", &report.log), ("raw", &report.raw)] {
        let (rate, megabytes) = (&side.records_per_second, &side.megabytes_per_second);
        text += &format!(
            "{what}: {:.0} records/s (least {:.0}, most {:.0}), {:.1} MB/s, {:.0} syncs, {:.2} µs of CPU per record",
            rate.median, rate.min, rate.max, megabytes.median, side.syncs.median, side.cpu_us_per_record
        );
        text += &latency("  one durable", side.latency_us.as_ref());
        text.push('\n');
    }
    let (p50, p99) = (&report.latency_p50_ratio, &report.latency_p99_ratio);
    text + &format!(
        "rate, log/raw: median {:.3}, least {:.3}, most {:.3}; records per sync: {:.1}\n\
         durable append, log/raw: p50 {:.2} ({:.2} to {:.2}), p99 {:.2} ({:.2} to {:.2})",
        report.ratio_median,
        report.ratio_min,
        report.ratio_max,
        report.records_per_sync,
        p50.median,
        p50.min,
        p50.max,
        p99.median,
        p99.min,
        p99.max,
    )
}
