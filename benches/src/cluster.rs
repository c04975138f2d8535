//! `galerna-bench cluster`: combines the measurements of the members.

use crate::Result;
use crate::args::{ClusterArgs, Fabric, name};
use crate::control::Job;
use crate::crew::{self, Reports, Task};
use crate::measure::{Latencies, Summary};
use crate::member::{Counters, Report};
use crate::report::{latency, ratio, show, shown};
use serde::Serialize;
use std::time::Duration;

/// The result of a run. The names contain the units; MB are 10^6 bytes of payload.
#[derive(Serialize)]
struct Cluster<'a> {
    kind: &'static str,
    flags: &'a ClusterArgs,
    /// The messages that each member delivered.
    messages: u64,
    /// The time until the last member had delivered all messages.
    seconds: f64,
    messages_per_second: f64,
    megabytes_per_second: f64,
    latency_of: &'static str,
    latency_us: Option<Summary>,
    /// With a schedule: the latency from the commit instead of from the scheduled time.
    latency_from_commit_us: Option<Summary>,
    /// The CPU time of all members per message delivered at one member.
    cpu_us_per_message: f64,
    /// The CPU time of all members, in cores.
    cpu_cores: f64,
    wire_bytes_per_payload_byte: Option<f64>,
    messages_per_batch_sent: Option<f64>,
    messages_per_batch_delivered: Option<f64>,
    system_calls_per_message: f64,
    /// The work requests and doorbells of all members' RDMA devices per message. Below: the same per message and
    /// receiver.
    ///
    /// Null on other fabrics.
    work_requests_per_message: Option<f64>,
    doorbells_per_message: Option<f64>,
    work_requests_per_message_and_peer: Option<f64>,
    doorbells_per_message_and_peer: Option<f64>,
    /// The sum over all members.
    counters: Counters,
    rss_peak_mib: f64,
    members: Vec<Member>,
}

/// The part of one member.
#[derive(Serialize)]
struct Member {
    member: usize,
    delivered: u64,
    seconds: f64,
    messages_per_second: f64,
    megabytes_per_second: f64,
    cpu_us_per_message: f64,
    cpu_user_seconds: f64,
    cpu_system_seconds: f64,
    rss_peak_mib: f64,
    counters: Counters,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    args.check()?;
    let senders = args.senders.count(args.members()) as u64;
    let task = Task {
        fabric: args.transport.fabric,
        hosts: args.transport.here.hosts.clone(),
        across: args.transport.across.clone(),
        members: args.members(),
        job: Job::Cluster(args.clone()),
        timeout: Duration::from_secs(args.run.timeout_s),
        memory_bytes: 0,
        deliveries: (args.run.warmup(args.messages) + args.messages) * senders,
    };
    match crew::run(&task)? {
        Reports::All(reports) => {
            let cluster = put_together(args, &reports)?;
            show(&cluster, args.run.json, || text(&cluster))
        }
        Reports::Own(rank, report) => {
            let member = member(rank, args.size, &report);
            show(&member, args.run.json, || member_text(&member))
        }
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn member(rank: usize, size: usize, report: &Report) -> Member {
    let seconds = report.ns as f64 / 1e9;
    let rate = report.delivered as f64 / seconds;
    Member {
        member: rank + 1,
        delivered: report.delivered,
        seconds,
        messages_per_second: rate,
        megabytes_per_second: rate * size as f64 / 1e6,
        cpu_us_per_message: report.cpu.total_us() as f64 / report.delivered as f64,
        cpu_user_seconds: report.cpu.user_us as f64 / 1e6,
        cpu_system_seconds: report.cpu.system_us as f64 / 1e6,
        rss_peak_mib: mib(report.rss_peak_kib),
        counters: report.counters,
    }
}

fn put_together<'a>(args: &'a ClusterArgs, reports: &[Report]) -> Result<Cluster<'a>> {
    let (mut latencies, mut from_commit) = (Latencies::new()?, Latencies::new()?);
    let mut counters = Counters::default();
    for report in reports {
        latencies.add(&report.latencies);
        from_commit.add(&report.from_commit);
        counters.add(&report.counters);
    }
    let messages = reports.first().map_or(0, |r| r.delivered);
    let seconds = reports.iter().map(|r| r.ns).max().unwrap_or(0) as f64 / 1e9;
    let cpu_us = reports.iter().map(|r| r.cpu.total_us()).sum::<u64>() as f64;
    let deliveries = messages as f64 * reports.len() as f64;
    let rate = messages as f64 / seconds;
    let per_message =
        |count: u64| ratio(count as f64, messages as f64).filter(|_| args.transport.fabric == Fabric::Verbs);
    let peers = reports.len() as f64 - 1.0;
    let per_peer = |count: u64| per_message(count).and_then(|each| ratio(each, peers));
    let fan_out = counters.bytes_sent as f64 * peers;
    Ok(Cluster {
        kind: "cluster",
        flags: args,
        messages,
        seconds,
        messages_per_second: rate,
        megabytes_per_second: rate * args.size as f64 / 1e6,
        latency_of: match args.rate {
            Some(_) if args.transport.across.any() => "scheduled time to own delivery, every message",
            Some(_) => "scheduled time to delivery, every message at every member",
            None => "commit to own delivery, samples",
        },
        latency_us: latencies.summary(),
        latency_from_commit_us: from_commit.summary(),
        cpu_us_per_message: cpu_us / deliveries,
        cpu_cores: cpu_us / 1e6 / seconds,
        wire_bytes_per_payload_byte: ratio(counters.wire_bytes_sent as f64, fan_out),
        messages_per_batch_sent: ratio(counters.messages_sent as f64, counters.batches_sent as f64),
        messages_per_batch_delivered: ratio(deliveries, counters.batches_delivered as f64),
        system_calls_per_message: counters.system_calls as f64 / deliveries,
        work_requests_per_message: per_message(counters.work_requests),
        doorbells_per_message: per_message(counters.doorbells),
        work_requests_per_message_and_peer: per_peer(counters.work_requests),
        doorbells_per_message_and_peer: per_peer(counters.doorbells),
        counters,
        rss_peak_mib: mib(reports.iter().map(|r| r.rss_peak_kib).max().unwrap_or(0)),
        members: (0..).zip(reports).map(|(rank, r)| member(rank, args.size, r)).collect(),
    })
}

fn rdma_text(c: &Cluster<'_>) -> String {
    let Some(requests) = c.work_requests_per_message else { return String::new() };
    format!(
        "\nRDMA, all members together: {requests:.3} work requests and {} doorbells per message; \
         per message and peer {} and {}",
        precise(c.doorbells_per_message),
        precise(c.work_requests_per_message_and_peer),
        precise(c.doorbells_per_message_and_peer),
    )
}

fn precise(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"))
}

fn member_text(m: &Member) -> String {
    format!(
        "member {}: {} messages delivered in {:.3} s: {:.0} messages/s, {:.1} MB/s\n\
         cost: {:.3} µs of CPU per delivered message; {} writes, {} work requests, {} doorbells, {} sleeps\n\
         the command of member 1 shows the whole",
        m.member,
        m.delivered,
        m.seconds,
        m.messages_per_second,
        m.megabytes_per_second,
        m.cpu_us_per_message,
        m.counters.writes_posted,
        m.counters.work_requests,
        m.counters.doorbells,
        m.counters.sleeps,
    )
}

fn text(c: &Cluster<'_>) -> String {
    let of_schedule = latency("latency from commit", c.latency_from_commit_us.as_ref());
    format!(
        "{} over {}, {} members, senders {}, {} bytes, {} messages in {:.3} s\n\
         throughput: {:.0} messages/s, {:.1} MB/s delivered at every member{}{of_schedule}\n\
         cost: {:.3} µs of CPU per delivered message ({:.2} cores busy), {:.2} system calls per delivered message\n\
         wire: {} bytes per payload byte and receiver{}\n\
         batches: {} messages per batch sent, {} per batch delivered; {} nulls, {} passes, {} sleeps\n\
         memory: {:.1} MiB at most",
        name(&c.flags.mode),
        name(&c.flags.transport.fabric),
        c.members.len(),
        name(&c.flags.senders),
        c.flags.size,
        c.messages,
        c.seconds,
        c.messages_per_second,
        c.megabytes_per_second,
        latency(&format!("latency ({})", c.latency_of), c.latency_us.as_ref()),
        c.cpu_us_per_message,
        c.cpu_cores,
        c.system_calls_per_message,
        shown(c.wire_bytes_per_payload_byte),
        rdma_text(c),
        shown(c.messages_per_batch_sent),
        shown(c.messages_per_batch_delivered),
        c.counters.nulls_sent,
        c.counters.passes,
        c.counters.sleeps,
        c.rss_peak_mib,
    )
}
