//! `galerna-bench idle`: measures the cost of a group that does nothing.

use crate::Result;
use crate::args::{IdleArgs, name};
use crate::control::{Control, Job, Plan, Word};
use crate::crew::{self, Reports, Task};
use crate::measure::{Cpu, memory_kib};
use crate::place::sample_addresses;
use crate::report::{show, show_own};
use galerna::{Delivery, Group, MemberId, Mode, SubgroupId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The messages that each member sends before it idles.
///
/// Below: their content, the time limit for delivering them, and the time in which the group comes to rest.
const MESSAGES: usize = 10;
const MESSAGE: &[u8] = b"about to do nothing";
const GREETING: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    cpu: Cpu,
    rss_kib: u64,
    rss_peak_kib: u64,
    passes: u64,
    sleeps: u64,
    ring_bytes: usize,
}

#[derive(Serialize)]
struct Idle<'a> {
    kind: &'static str,
    flags: &'a IdleArgs,
    seconds: u64,
    /// The CPU time of all members together, in percent of one core.
    cpu_percent: f64,
    cpu_us: u64,
    /// The size of all rings of one member. It has one ring per member.
    rings_mib_per_member: f64,
    rss_mib: Vec<f64>,
    rss_peak_mib: Vec<f64>,
    passes: u64,
    sleeps: u64,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &IdleArgs) -> Result<()> {
    let members = args.members();
    let sample = sample_addresses(args.transport.fabric, members);
    args.engine.config(args.transport.fabric, &args.transport.here, &sample, MESSAGE.len())?.check()?;
    let task = Task {
        fabric: args.transport.fabric,
        hosts: args.transport.here.hosts.clone(),
        across: args.transport.across.clone(),
        members,
        job: Job::Idle(args.clone()),
        timeout: Duration::from_secs(args.seconds + 60),
        memory_bytes: 0,
        deliveries: 0,
    };
    let reports: Vec<Report> = match crew::run(&task)? {
        Reports::All(reports) => reports,
        Reports::Own(rank, report) => return show_own("idle", rank, &report, args.json),
    };
    let mib = |kib: u64| kib as f64 / 1024.0;
    let cpu_us: u64 = reports.iter().map(|r| r.cpu.total_us()).sum();
    let idle = Idle {
        kind: "idle",
        flags: args,
        seconds: args.seconds,
        cpu_percent: cpu_us as f64 / 1e4 / args.seconds as f64,
        cpu_us,
        rings_mib_per_member: reports.first().map_or(0, |r| r.ring_bytes * members) as f64 / f64::from(1 << 20),
        rss_mib: reports.iter().map(|r| mib(r.rss_kib)).collect(),
        rss_peak_mib: reports.iter().map(|r| mib(r.rss_peak_kib)).collect(),
        passes: reports.iter().map(|r| r.passes).sum(),
        sleeps: reports.iter().map(|r| r.sleeps).sum(),
    };
    show(&idle, args.json, || text(&idle))
}

fn text(idle: &Idle<'_>) -> String {
    format!(
        "{} members over {} idle for {} s: {:.3} % of one core together ({} µs)\n\
         memory: rings {:.1} MiB per member; resident [MiB]: {:.1?}\n\
         {} passes, {} sleeps",
        idle.rss_mib.len(),
        name(&idle.flags.transport.fabric),
        idle.seconds,
        idle.cpu_percent,
        idle.cpu_us,
        idle.rings_mib_per_member,
        idle.rss_mib,
        idle.passes,
        idle.sleeps,
    )
}

/// Runs the member: see [`crate::control`].
pub(crate) fn work(args: &IdleArgs, plan: &Plan, control: &Control) -> Result<()> {
    let main = SubgroupId(0);
    let config = args.engine.config(args.transport.fabric, &args.transport.here, &plan.addresses, MESSAGE.len())?;
    let config = config.with_member(MemberId(plan.rank as u32 + 1));
    let ring_bytes = config.ring_bytes;
    let group = Group::join(config, |_: Delivery<'_>| {})?;
    for _ in 0..MESSAGES {
        group.send(main, Mode::Safe, MESSAGE, GREETING)?;
    }
    group.flush(main, galerna::Copies::All, GREETING)?;
    control.say(&Word::Ready)?;
    control.wait_start();
    std::thread::sleep(SETTLE);
    let (before, cpu) = (group.stats(main)?, Cpu::now());
    std::thread::sleep(Duration::from_secs(args.seconds));
    let (after, cpu) = (group.stats(main)?, Cpu::now().since(cpu));
    control.done(&Report {
        cpu,
        rss_kib: memory_kib("VmRSS"),
        rss_peak_kib: memory_kib("VmHWM"),
        passes: after.passes - before.passes,
        sleeps: after.sleeps - before.sleeps,
        ring_bytes,
    })?;
    control.wait_end();
    Ok(())
}
