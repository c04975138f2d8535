//! `galerna-bench restart`: measures how long a group with long logs takes to come back after the end of all its
//! members.

mod args;

pub(crate) use args::RestartArgs;

use crate::Result;
use crate::durable::crowd::{self, MAIN, Member, PATIENCE, Seen, join_all, send_all, side_by_side, tagged};
use crate::log::place::Place;
use crate::measure::{Spread, now_ns};
use crate::report::{Rounds, show};
use galerna::{Config, Mode};
use serde::Serialize;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The messages of each member after the checkpoint. A restart delivers these again.
const LATER: u64 = 4;

#[derive(Serialize)]
struct Restart {
    /// The time from the first call of join to the first delivery of a new message, at the last member.
    ms: f64,
    /// The time from the first call of join until every member has joined and sent its message.
    joined_ms: f64,
    /// The bytes returned by read system calls, divided by the number of members.
    read_bytes_per_member: u64,
    /// The messages that each member delivered again, on average.
    told_again_per_member: f64,
    /// The time to read the last segment of each log.
    raw_ms: f64,
    raw_bytes_per_member: u64,
    ratio: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'static str,
    flags: &'a RestartArgs,
    in_memory: bool,
    /// The payload in each log before the first restart.
    bytes_per_member: u64,
    fill_seconds: f64,
    restart_ms: Spread,
    joined_ms: Spread,
    raw_ms: Spread,
    read_bytes_per_member: Spread,
    raw_bytes_per_member: Spread,
    ratio_median: f64,
    ratio_min: f64,
    ratio_max: f64,
    restarts: Vec<Restart>,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &RestartArgs) -> Result<()> {
    let place = Place::make(args.dir.as_deref())?;
    let logs = place.path().join("logs");
    fs::create_dir(&logs)?;
    let config = crowd::config(args.members, args.size.max(args.fill_size), None, &logs)?;
    let start = now_ns();
    let messages = args.bytes.div_ceil(args.fill_size * args.members);
    fill(&config, messages, args.fill_size)?;
    let fill_seconds = (now_ns() - start) as f64 / 1e9;
    let rounds = Rounds::new(args.restarts, "restarts", 1);
    let mut restarts = Vec::new();
    for n in 1..=args.restarts {
        restarts.push(restart(args, &config, &logs, n)?);
        rounds.show(n);
    }
    rounds.end();
    let of = |figure: fn(&Restart) -> f64| Spread::of(restarts.iter().map(figure).collect());
    let ratios = of(|restart| restart.ratio);
    let report = Report {
        kind: "restart",
        flags: args,
        in_memory: place.in_memory(),
        bytes_per_member: messages * args.members * args.fill_size,
        fill_seconds,
        restart_ms: of(|restart| restart.ms),
        joined_ms: of(|restart| restart.joined_ms),
        raw_ms: of(|restart| restart.raw_ms),
        read_bytes_per_member: of(|restart| restart.read_bytes_per_member as f64),
        raw_bytes_per_member: of(|restart| restart.raw_bytes_per_member as f64),
        ratio_median: ratios.median,
        ratio_min: ratios.min,
        ratio_max: ratios.max,
        restarts,
    };
    show(&report, args.json, || text(&report))
}

/// Fills all logs, then drops all members.
fn fill(config: &Config, messages: u64, size: u64) -> Result<()> {
    let members = join_all(config, Seen::default, |_| Ok(()))?;
    let (payload, later) = (tagged(0, size), messages.min(LATER));
    send_all(&members, messages - later, &payload)?;
    side_by_side(&members, |member| {
        member.group.persist(MAIN, PATIENCE)?;
        Ok(member.group.checkpoint(MAIN, PATIENCE)?)
    })?;
    send_all(&members, later, &payload)?;
    members.iter().try_for_each(|member| member.group.persist(MAIN, PATIENCE))?;
    drop_all(members)
}

/// Drops all members in parallel, so that none has the time to continue without another one.
fn drop_all(members: Vec<Member>) -> Result<()> {
    side_by_side(members, |member| {
        drop(member);
        Ok(())
    })?;
    Ok(())
}

fn restart(args: &RestartArgs, config: &Config, logs: &Path, n: u64) -> Result<Restart> {
    let payload = tagged(n, args.size);
    let (read_before, start) = (read_so_far()?, now_ns());
    let members = join_all(
        config,
        || Seen::looking_for(n),
        |group| Ok(group.send(MAIN, Mode::Durable, &payload, PATIENCE).map(|_| ())?),
    )?;
    let joined_ns = now_ns() - start;
    let found = members.iter().map(|member| member.seen.wait_for_found()).collect::<Result<Vec<_>>>()?;
    let read = read_so_far()? - read_before;
    let ns = found.into_iter().max().unwrap_or(start) - start;
    members.iter().try_for_each(|member| member.group.persist(MAIN, PATIENCE))?;
    let told: u64 = members.iter().map(|member| member.seen.told_before()).sum();
    drop_all(members)?;
    let tails = config.members.iter().map(|member| tail(&logs.join(format!("{}-{}", config.group, member.id))));
    let tails = tails.collect::<Result<Vec<_>>>()?;
    let start = now_ns();
    let raw_bytes: u64 = side_by_side(tails, |path| read_plainly(&path))?.into_iter().sum();
    let raw_ns = now_ns() - start;
    Ok(Restart {
        ms: ns as f64 / 1e6,
        joined_ms: joined_ns as f64 / 1e6,
        read_bytes_per_member: read / args.members,
        told_again_per_member: told as f64 / args.members as f64,
        raw_ms: raw_ns as f64 / 1e6,
        raw_bytes_per_member: raw_bytes / args.members,
        ratio: ns as f64 / raw_ns as f64,
    })
}

/// The bytes that read system calls have returned to this process so far.
///
/// They come mostly from files, because the members communicate by other system calls.
fn read_so_far() -> Result<u64> {
    let counters = fs::read_to_string("/proc/self/io")?;
    let read = counters.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
    Ok(read.ok_or("/proc/self/io has no line `rchar`")?)
}

/// The last segment of a log.
fn tail(log: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(log).map_err(|e| format!("cannot list {}: {e}", log.display()))?;
    let paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let segments = paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "segment"));
    Ok(segments.max().ok_or_else(|| format!("{} has no segment", log.display()))?)
}

/// Reads a whole file, in pieces that stay in the processor's cache. Returns the number of bytes.
fn read_plainly(path: &Path) -> Result<u64> {
    let (mut file, mut buffer, mut bytes) = (File::open(path)?, vec![0; 256 << 10], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            n => bytes += n as u64,
        }
    }
}

fn text(report: &Report<'_>) -> String {
    let (args, mb) = (report.flags, |bytes: f64| bytes / 1e6);
    let mut text = format!(
        "{} members with {:.1} MB of payload in each log, filled in {:.1} s\n",
        args.members,
        mb(report.bytes_per_member as f64),
        report.fill_seconds
    );
    for (n, restart) in report.restarts.iter().enumerate() {
        text += &format!(
            "restart {}: {:.1} ms (joined {:.1}), {:.1} MB read by each, {:.1} messages delivered again; raw {:.1} ms for {:.1} MB each; ratio {:.2}\n",
            n + 1,
            restart.ms,
            restart.joined_ms,
            mb(restart.read_bytes_per_member as f64),
            restart.told_again_per_member,
            restart.raw_ms,
            mb(restart.raw_bytes_per_member as f64),
            restart.ratio
        );
    }
    let (ms, raw) = (&report.restart_ms, &report.raw_ms);
    text + &format!(
        "restart [ms]: median {:.1}, least {:.1}, most {:.1}; reading the last segments: {:.1} ({:.1} to {:.1})\n\
         ratio: median {:.2}, least {:.2}, most {:.2}; MB read by each member: {:.1}, raw: {:.1}",
        ms.median,
        ms.min,
        ms.max,
        raw.median,
        raw.min,
        raw.max,
        report.ratio_median,
        report.ratio_min,
        report.ratio_max,
        mb(report.read_bytes_per_member.median),
        mb(report.raw_bytes_per_member.median),
    )
}
