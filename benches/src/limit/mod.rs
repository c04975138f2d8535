//! `galerna-bench limit`: the same processes, fan-out and bytes as a cluster, without a protocol.

mod shm;
mod tcp;
mod verbs;

pub(crate) use shm::{copy, map};
pub(crate) use tcp::connect;

use crate::Result;
use crate::args::{Fabric, LimitArgs, name};
use crate::control::{Control, Job, Plan};
use crate::crew::{self, Reports, Task};
use crate::measure::{Cpu, memory_kib, now_ns};
use crate::report::show;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The measurements of one member.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    ns: u64,
    cpu: Cpu,
    rss_peak_kib: u64,
    system_calls: u64,
    work_requests: u64,
    doorbells: u64,
}

/// Counters of one member for its report.
#[derive(Debug, Default, Clone, Copy)]
struct Work {
    system_calls: u64,
    work_requests: u64,
    doorbells: u64,
}

#[derive(Serialize)]
struct Limit<'a> {
    kind: &'static str,
    flags: &'a LimitArgs,
    messages: u64,
    seconds: f64,
    messages_per_second: f64,
    megabytes_per_second: f64,
    cpu_us_per_message: f64,
    cpu_cores: f64,
    wire_bytes_per_payload_byte: f64,
    system_calls_per_message: f64,
    /// As for a cluster.
    work_requests_per_message: Option<f64>,
    doorbells_per_message: Option<f64>,
    rss_peak_mib: f64,
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    member: usize,
    seconds: f64,
    messages_per_second: f64,
    megabytes_per_second: f64,
    cpu_us_per_message: f64,
    cpu_user_seconds: f64,
    cpu_system_seconds: f64,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &LimitArgs) -> Result<()> {
    let members = args.members();
    args.transport.verbs()?;
    let memory_bytes = match args.transport.fabric {
        Fabric::Tcp => 0,
        Fabric::Shm => shm::memory_bytes(args)?,
        Fabric::Verbs => verbs::memory_bytes(args)?,
    };
    let task = Task {
        fabric: args.transport.fabric,
        hosts: args.transport.here.hosts.clone(),
        across: args.transport.across.clone(),
        members,
        job: Job::Limit(args.clone()),
        timeout: Duration::from_secs(args.run.timeout_s),
        memory_bytes,
        deliveries: 0,
    };
    let messages = args.messages * args.senders.count(members) as u64;
    match crew::run(&task)? {
        Reports::All(reports) => {
            let limit = put_together(args, messages, &reports);
            show(&limit, args.run.json, || text(&limit))
        }
        Reports::Own(rank, report) => {
            let member = member(rank + 1, args, messages, &report);
            show(&member, args.run.json, || member_text(&member))
        }
    }
}

fn put_together<'a>(args: &'a LimitArgs, messages: u64, reports: &[Report]) -> Limit<'a> {
    let seconds = reports.iter().map(|r| r.ns).max().unwrap_or(0) as f64 / 1e9;
    let rate = messages as f64 / seconds;
    let cpu_us = reports.iter().map(|r| r.cpu.total_us()).sum::<u64>() as f64;
    let deliveries = messages as f64 * reports.len() as f64;
    let per_message = |count: fn(&Report) -> u64| {
        let all = reports.iter().map(count).sum::<u64>() as f64;
        Some(all / messages as f64).filter(|_| args.transport.fabric == Fabric::Verbs)
    };
    Limit {
        kind: "limit",
        flags: args,
        messages,
        seconds,
        messages_per_second: rate,
        megabytes_per_second: rate * args.size as f64 / 1e6,
        cpu_us_per_message: cpu_us / deliveries,
        cpu_cores: cpu_us / 1e6 / seconds,
        wire_bytes_per_payload_byte: 1.0,
        system_calls_per_message: reports.iter().map(|r| r.system_calls).sum::<u64>() as f64 / deliveries,
        work_requests_per_message: per_message(|r| r.work_requests),
        doorbells_per_message: per_message(|r| r.doorbells),
        rss_peak_mib: reports.iter().map(|r| r.rss_peak_kib).max().unwrap_or(0) as f64 / 1024.0,
        members: (1..).zip(reports).map(|(m, r)| member(m, args, messages, r)).collect(),
    }
}

fn member(member: usize, args: &LimitArgs, messages: u64, report: &Report) -> Member {
    let seconds = report.ns as f64 / 1e9;
    let rate = messages as f64 / seconds;
    Member {
        member,
        seconds,
        messages_per_second: rate,
        megabytes_per_second: rate * args.size as f64 / 1e6,
        cpu_us_per_message: report.cpu.total_us() as f64 / messages as f64,
        cpu_user_seconds: report.cpu.user_us as f64 / 1e6,
        cpu_system_seconds: report.cpu.system_us as f64 / 1e6,
    }
}

fn member_text(m: &Member) -> String {
    format!(
        "member {}: {:.3} s: {:.0} messages/s, {:.1} MB/s; {:.3} µs of CPU per message\n\
         the command of member 1 shows the whole",
        m.member, m.seconds, m.messages_per_second, m.megabytes_per_second, m.cpu_us_per_message,
    )
}

fn text(limit: &Limit<'_>) -> String {
    format!(
        "raw limit of {}, {} members, senders {}, {} bytes, {} messages in {:.3} s\n\
         throughput: {:.0} messages/s, {:.1} MB/s at every member\n\
         cost: {:.3} µs of CPU per delivered message ({:.2} cores busy), {:.4} system calls per delivered message{}",
        name(&limit.flags.transport.fabric),
        limit.members.len(),
        name(&limit.flags.senders),
        limit.flags.size,
        limit.messages,
        limit.seconds,
        limit.messages_per_second,
        limit.megabytes_per_second,
        limit.cpu_us_per_message,
        limit.cpu_cores,
        limit.system_calls_per_message,
        match (limit.work_requests_per_message, limit.doorbells_per_message) {
            (Some(requests), Some(doorbells)) =>
                format!("\nRDMA: {requests:.3} work requests and {doorbells:.3} doorbells per message"),
            _ => String::new(),
        },
    )
}

/// Refuses a ring that is too small for a message, which takes `stride` bytes.
fn fits_ring(size: u64, stride: usize, ring_bytes: usize) -> Result<()> {
    if ring_bytes < stride {
        return Err(
            format!("--size {size} is over the limit of a ring of {ring_bytes} bytes: raise --ring-bytes").into()
        );
    }
    Ok(())
}

/// Runs the member: see [`crate::control`].
pub(crate) fn work(args: &LimitArgs, plan: &Plan, control: &Control) -> Result<()> {
    match args.transport.fabric {
        Fabric::Tcp => tcp::work(args, plan, control),
        Fabric::Shm => shm::work(args, plan, control),
        Fabric::Verbs => verbs::work(args, plan, control),
    }
}

/// Reports the work done since `start_ns`, and waits for the end.
fn finish(control: &Control, start_ns: u64, cpu: Cpu, work: Work) -> Result<()> {
    let (end_ns, cpu) = (now_ns(), Cpu::now().since(cpu));
    control.done(&Report {
        ns: end_ns.saturating_sub(start_ns),
        cpu,
        rss_peak_kib: memory_kib("VmHWM"),
        system_calls: work.system_calls,
        work_requests: work.work_requests,
        doorbells: work.doorbells,
    })?;
    control.wait_end();
    Ok(())
}
