//! `galerna-bench compare`: runs two benchmarks in turn, and reports their ratio pair by pair.

use crate::Result;
use crate::args::{ClusterArgs, Fabric, name};
use crate::measure::median;
use crate::report::show;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The benchmark with which a cluster is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Against {
    /// `galerna-bench limit`.
    Limit,
    /// `galerna-bench pingpong`, at the rate of the cluster (`paced`) or as fast as possible.
    PingPong { paced: bool },
    /// `galerna-bench cluster`, of this binary (with other flags) or of the given one.
    Cluster(Option<PathBuf>),
}

fn against(text: &str) -> std::result::Result<Against, String> {
    match text.split_once(':') {
        None if text == "limit" => Ok(Against::Limit),
        None if text == "pingpong" => Ok(Against::PingPong { paced: true }),
        None if text == "pingpong-unpaced" => Ok(Against::PingPong { paced: false }),
        None if text == "cluster" => Ok(Against::Cluster(None)),
        Some(("BINARY", path)) if !path.is_empty() => Ok(Against::Cluster(Some(path.into()))),
        _ => Err("expected limit, pingpong, pingpong-unpaced, cluster or BINARY:PATH".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Metric {
    /// Messages per second. A ratio above 1 is better.
    Throughput,
    /// The median latency. A ratio below 1 is better.
    Latency,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// The number of pairs of runs: at least 5, so that one disturbed run does not decide the result.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(5..=1000))]
    pub(crate) pairs: u64,
    /// The other side: limit, pingpong (at the same --rate), pingpong-unpaced (one ping after the other), cluster (this
    /// binary, with --against-fabric or --with) or BINARY:PATH (a cluster of another galerna-bench). Default: cluster
    /// with --against-fabric or --with, otherwise limit.
    #[arg(long, value_parser = against)]
    pub(crate) against: Option<Against>,
    /// The fabric of the other side.
    #[arg(long, value_enum)]
    pub(crate) against_fabric: Option<Fabric>,
    /// Flags that are added for the other side, separated by blanks, e.g. --with "--spin-us 0 --mode ordered".
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    pub(crate) with: Option<String>,
    /// The figure to compare. Default: latency if the other side is pingpong, otherwise throughput.
    #[arg(long, value_enum)]
    pub(crate) metric: Option<Metric>,
}

/// One side: a command line, and the results of its runs.
#[derive(Serialize)]
struct Side {
    /// The command line without the path of the program.
    command: String,
    #[serde(skip)]
    program: PathBuf,
    #[serde(skip)]
    arguments: Vec<String>,
    /// The metric, run by run.
    values: Vec<f64>,
    median: f64,
    runs: Vec<Value>,
}

#[derive(Serialize)]
struct Comparison {
    kind: &'static str,
    metric: Metric,
    /// The ratio of each run of `a` to the run of `b` that follows it.
    ratios: Vec<f64>,
    ratio_median: f64,
    ratio_min: f64,
    ratio_max: f64,
    /// Ratios of other figures that both sides have. They show whether side `a` costs more when the machine is busy.
    cpu_ratio_median: Option<f64>,
    p99_ratio_median: Option<f64>,
    from_commit_ratio_median: Option<f64>,
    a: Side,
    b: Side,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    args.cluster.check()?;
    if args.cluster.transport.across.any() {
        return Err("compare runs on one machine only: run `cluster` and the other benchmark separately".into());
    }
    let (against, metric) = other_side(args)?;
    let exe = std::env::current_exe()?;
    let mut a = Side::new(exe.clone(), cluster_flags(&args.cluster));
    let mut b = b_side(args, &against, exe)?;
    let talks = std::io::stderr().is_terminal();
    let mut ratios = Vec::new();
    for pair in 1..=args.pairs {
        let (x, y) = (a.run(metric)?, b.run(metric)?);
        ratios.push(x / y);
        if talks {
            eprintln!("pair {pair}: {x:.1} / {y:.1} = {:.3}", x / y);
        }
    }
    a.median = median(&a.values);
    b.median = median(&b.values);
    let comparison = Comparison {
        kind: "compare",
        metric,
        ratio_median: median(&ratios),
        ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratio_max: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ratios,
        cpu_ratio_median: ratio_of(&a, &b, "/cpu_us_per_message"),
        p99_ratio_median: ratio_of(&a, &b, "/latency_us/p99"),
        from_commit_ratio_median: ratio_of(&a, &b, "/latency_from_commit_us/p50"),
        a,
        b,
    };
    show(&comparison, args.cluster.run.json, || text(&comparison))
}

/// The median ratio of a figure that the runs of both sides have.
fn ratio_of(a: &Side, b: &Side, pointer: &str) -> Option<f64> {
    let figure = |run: &Value| run.pointer(pointer)?.as_f64();
    let ratios = a.runs.iter().zip(&b.runs);
    let ratios: Option<Vec<f64>> = ratios.map(|(x, y)| Some(figure(x)? / figure(y)?)).collect();
    Some(median(&ratios?)).filter(|r| r.is_finite())
}

fn other_side(args: &CompareArgs) -> Result<(Against, Metric)> {
    let varied = args.against_fabric.is_some() || args.with.is_some();
    let against = args.against.clone().unwrap_or(match varied {
        true => Against::Cluster(None),
        false => Against::Limit,
    });
    if against == Against::Cluster(None) && !varied {
        return Err("--against cluster needs --against-fabric or --with: both sides would be the same".into());
    }
    let metric = args.metric.unwrap_or(match against {
        Against::PingPong { .. } => Metric::Latency,
        _ => Metric::Throughput,
    });
    match (&against, metric) {
        (Against::PingPong { .. }, Metric::Throughput) => {
            Err("a ping-pong has no throughput: give --metric latency".into())
        }
        (Against::Limit, Metric::Latency) => {
            Err("the limit has no latency: give --metric throughput, or --against pingpong".into())
        }
        _ => Ok((against, metric)),
    }
}

fn b_side(args: &CompareArgs, against: &Against, exe: PathBuf) -> Result<Side> {
    let mut flags = args.cluster.clone();
    let fabric = &mut flags.transport.fabric;
    *fabric = args.against_fabric.unwrap_or(*fabric);
    let (program, mut arguments) = match against {
        Against::Limit => (exe, limit_flags(&flags)),
        Against::PingPong { paced } => {
            flags.rate = flags.rate.filter(|_| *paced);
            (exe, pingpong_flags(&flags))
        }
        Against::Cluster(None) => (exe, cluster_flags(&flags)),
        Against::Cluster(Some(path)) => (path.clone(), cluster_flags(&flags)),
    };
    let extra = args.with.iter().flat_map(|flags| flags.split_whitespace());
    arguments.extend(extra.map(str::to_owned));
    Ok(Side::new(program, arguments))
}

/// `--name value` pairs.
fn pairs<const N: usize>(flags: [(&str, Option<String>); N]) -> Vec<String> {
    let given = flags.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.flat_map(|(name, value)| [format!("--{name}"), value]).collect()
}

fn cluster_flags(args: &ClusterArgs) -> Vec<String> {
    let mut flags = vec!["cluster".to_owned(), "--json".to_owned()];
    flags.extend(args.busy_poll.then(|| "--busy-poll".to_owned()));
    flags.extend(pairs([
        ("fabric", Some(name(&args.transport.fabric))),
        ("members", Some(args.members.to_string())),
        ("senders", Some(name(&args.senders))),
        ("size", Some(args.size.to_string())),
        ("messages", Some(args.messages.to_string())),
        ("outstanding", args.outstanding.map(|v| v.to_string())),
        ("mode", Some(name(&args.mode))),
        ("rate", args.rate.map(|v| v.to_string())),
        ("drive", Some(name(&args.drive))),
        ("ring-bytes", args.engine.ring_bytes.map(|v| v.to_string())),
        ("spin-us", args.engine.spin_us.map(|v| v.to_string())),
        ("burst", args.burst.map(|v| v.to_string())),
        ("warmup", args.run.warmup.map(|v| v.to_string())),
        ("timeout-s", Some(args.run.timeout_s.to_string())),
    ]));
    flags.extend(args.transport.flags());
    flags
}

fn limit_flags(args: &ClusterArgs) -> Vec<String> {
    let mut flags = vec!["limit".to_owned(), "--json".to_owned()];
    flags.extend(pairs([
        ("fabric", Some(name(&args.transport.fabric))),
        ("members", Some(args.members.to_string())),
        ("senders", Some(name(&args.senders))),
        ("size", Some(args.size.to_string())),
        ("messages", Some(args.messages.to_string())),
        ("ring-bytes", args.engine.ring_bytes.filter(|_| args.transport.fabric != Fabric::Tcp).map(|v| v.to_string())),
        ("warmup", args.run.warmup.map(|v| v.to_string())),
        ("timeout-s", Some(args.run.timeout_s.to_string())),
    ]));
    flags.extend(args.transport.flags());
    flags
}

fn pingpong_flags(args: &ClusterArgs) -> Vec<String> {
    let mut flags = vec!["pingpong".to_owned(), "--json".to_owned()];
    flags.extend(args.busy_poll.then(|| "--spin".to_owned()));
    flags.extend(pairs([
        ("fabric", Some(name(&args.transport.fabric))),
        ("size", Some(args.size.to_string())),
        ("messages", Some(args.messages.to_string())),
        ("rate", args.rate.map(|v| v.to_string())),
        ("warmup", args.run.warmup.map(|v| v.to_string())),
        ("timeout-s", Some(args.run.timeout_s.to_string())),
    ]));
    flags.extend(args.transport.flags());
    flags
}

impl Side {
    fn new(program: PathBuf, arguments: Vec<String>) -> Side {
        Side {
            command: arguments.join(" "),
            program,
            arguments,
            values: Vec::new(),
            median: f64::NAN,
            runs: Vec::new(),
        }
    }

    /// Runs the side once, and returns the value of the metric.
    fn run(&mut self, metric: Metric) -> Result<f64> {
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(|e| format!("cannot run {}: {e}", self.program.display()))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`{}` failed: {}", self.command, why.trim()).into());
        }
        let run: Value = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("`{}` printed no JSON object: {e}", self.command))?;
        let figure = match metric {
            Metric::Throughput => &run["messages_per_second"],
            Metric::Latency => &run["latency_us"]["p50"],
        };
        let figure = figure
            .as_f64()
            .ok_or_else(|| format!("`{}` reported no {}: try a larger --size", self.command, name(&metric)))?;
        self.values.push(figure);
        self.runs.push(run);
        Ok(figure)
    }
}

fn text(c: &Comparison) -> String {
    let unit = match c.metric {
        Metric::Throughput => "messages/s, more is better",
        Metric::Latency => "µs at the median, less is better",
    };
    let mut text = format!("A: {}\nB: {}\n{unit}\n", c.a.command, c.b.command);
    for (i, ratio) in c.ratios.iter().enumerate() {
        text += &format!("pair {}: A {:.1}, B {:.1}, A/B {ratio:.3}\n", i + 1, c.a.values[i], c.b.values[i]);
    }
    text += &format!(
        "medians: A {:.1}, B {:.1}; A/B: median {:.3}, least {:.3}, most {:.3}",
        c.a.median, c.b.median, c.ratio_median, c.ratio_min, c.ratio_max
    );
    for (what, ratio) in [
        ("CPU time per message", c.cpu_ratio_median),
        ("99th percentile", c.p99_ratio_median),
        ("median latency from commit", c.from_commit_ratio_median),
    ] {
        text += &ratio.map_or_else(String::new, |r| format!("\nA/B of {what}: {r:.3}"));
    }
    text
}
