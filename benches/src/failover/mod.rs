//! `galerna-bench failover`: measures how long a group pauses when one of its members is killed.

pub(crate) mod member;

use crate::Result;
use crate::args::{FailoverArgs, name};
use crate::control::{Job, Order};
use crate::crew::{Crew, Task};
use crate::measure::{Spread, now_ns};
use crate::place::{AcrossArgs, sample_addresses};
use crate::report::{Rounds, show};
use member::Seen;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The result of a run, in µs, over each survivor of each kill.
#[derive(Serialize)]
struct Failover<'a> {
    kind: &'static str,
    flags: &'a FailoverArgs,
    kills: u64,
    detection_us: Spread,
    installation_us: Spread,
    gap_us: Spread,
    next_delivery_us: Spread,
    back_us: Spread,
    /// The first suspicions of the survivors, by reason, and their number.
    notices: BTreeMap<String, u64>,
}

/// The figures of all survivors so far, in µs.
#[derive(Default)]
struct Figures {
    detection: Vec<f64>,
    installation: Vec<f64>,
    gap: Vec<f64>,
    next_delivery: Vec<f64>,
    back: Vec<f64>,
    notices: BTreeMap<String, u64>,
}

impl Figures {
    /// Adds the observations of a survivor of a kill at `killed_ns`.
    fn add(&mut self, killed_ns: u64, seen: Seen) {
        let us = |from_ns: u64, to_ns: u64| to_ns.saturating_sub(from_ns) as f64 / 1000.0;
        let pauses = seen.pauses.iter().filter(|(_, end)| *end >= killed_ns && *end <= seen.back_ns);
        self.detection.push(us(killed_ns, seen.suspected_ns));
        self.installation.push(us(seen.suspected_ns, seen.view_ns));
        self.gap.push(pauses.map(|&(begin, end)| us(begin, end)).fold(0.0, f64::max));
        self.next_delivery.push(us(seen.suspected_ns, seen.next_ns));
        self.back.push(us(killed_ns, seen.back_ns));
        *self.notices.entry(seen.notice).or_default() += 1;
    }
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &FailoverArgs) -> Result<()> {
    args.config(&sample_addresses(args.fabric, args.members as usize))?;
    let progress = Rounds::new(args.kills, "kills", 10);
    let mut figures = Figures::default();
    for kill in 0..args.kills {
        let (killed_ns, survivors) = round(args).map_err(|e| format!("kill {} of {}: {e}", kill + 1, args.kills))?;
        survivors.into_iter().for_each(|seen| figures.add(killed_ns, seen));
        progress.show(kill + 1);
    }
    progress.end();
    let failover = Failover {
        kind: "failover",
        flags: args,
        kills: args.kills,
        detection_us: Spread::of(figures.detection),
        installation_us: Spread::of(figures.installation),
        gap_us: Spread::of(figures.gap),
        next_delivery_us: Spread::of(figures.next_delivery),
        back_us: Spread::of(figures.back),
        notices: figures.notices,
    };
    show(&failover, args.json, || text(&failover))
}

/// Runs one group with one kill. Returns the time of the kill and the observations of each survivor.
fn round(args: &FailoverArgs) -> Result<(u64, Vec<Seen>)> {
    let mut crew = Crew::start(&Task {
        fabric: args.fabric,
        hosts: args.here.hosts.clone(),
        across: AcrossArgs::default(),
        members: args.members as usize,
        job: Job::Failover(args.clone()),
        timeout: Duration::from_secs(args.timeout_s),
        memory_bytes: 0,
        deliveries: 0,
    })?;
    crew.get_ready()?;
    crew.order(Order::Start(now_ns()))?;
    // A random delay, so that the kill is not in step with the members' activity.
    std::thread::sleep(Duration::from_micros(now_ns() % (500 * args.warmup_ms)));
    let killed_ns = crew.kill(args.victim())?;
    let survivors: Vec<Seen> = crew.finish(None)?;
    let victim = args.victim() as u32 + 1;
    for seen in &survivors {
        if seen.failed != [victim] || seen.suspect != victim || seen.suspected_ns < killed_ns {
            return Err(format!(
                "member {victim} was killed, but a survivor suspected member {} first ({}), and continued without {:?}",
                seen.suspect, seen.notice, seen.failed
            )
            .into());
        }
    }
    Ok((killed_ns, survivors))
}

fn text(f: &Failover<'_>) -> String {
    let mut lines = vec![
        format!(
            "{} kills of the {} over {}, {} members, all sending safe messages of {} bytes{}",
            f.kills,
            name(&f.flags.victim),
            name(&f.flags.fabric),
            f.flags.members,
            f.flags.size,
            f.flags.rate.map_or_else(String::new, |rate| format!(", {rate}/s each")),
        ),
        format!("{:<52} {:>9} {:>9} {:>9} {:>9}", "of each survivor [ms]", "median", "p99", "min", "max"),
    ];
    for (what, s) in [
        ("detection: from the kill to its first notice", &f.detection_us),
        ("installation: from the notice to its next view", &f.installation_us),
        ("gap: longest pause between two deliveries", &f.gap_us),
        ("next delivery: from the notice", &f.next_delivery_us),
        ("recovery: from the kill to a delivery in the next view", &f.back_us),
    ] {
        let [median, p99, min, max] = [s.median, s.p99, s.min, s.max].map(|us| us / 1000.0);
        lines.push(format!("{what:<52} {median:>9.3} {p99:>9.3} {min:>9.3} {max:>9.3}"));
    }
    let notices = f.notices.iter().map(|(what, count)| format!("{count} times `{what}`"));
    lines.push(format!("first notices: {}", notices.collect::<Vec<_>>().join(", ")));
    lines.join("\n")
}
