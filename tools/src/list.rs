//! `galerna-log list`

use crate::Result;
use crate::args::ListArgs;
use crate::record::{Moment, rfc3339};
use crate::walk;
use galerna::Error;
use galerna::Version;
use galerna::log::{ReadOnlyLog, SegmentCount, SegmentInfo};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};

#[derive(Serialize)]
struct Report {
    directory: String,
    group_hex: String,
    subgroup: u32,
    member: u64,
    segments: Vec<Segment>,
    records: u64,
    /// The bytes of the records on disk, headers included.
    bytes: u64,
    payload_bytes: u64,
    /// The oldest record. Earlier ones were trimmed.
    low: Option<Moment>,
    last: Option<Moment>,
    checkpoint: Option<Checkpoint>,
    torn: Option<Torn>,
}

#[derive(Serialize)]
struct Segment {
    number: u64,
    file: String,
    file_bytes: u64,
    records: u64,
    bytes: u64,
    payload_bytes: u64,
    first: Option<Moment>,
    last: Option<Moment>,
}

#[derive(Serialize)]
struct Checkpoint {
    #[serde(flatten)]
    at: Moment,
    bytes: u64,
}

#[derive(Serialize)]
struct Torn {
    file: String,
    offset: u64,
}

type Found = (SegmentInfo, SegmentCount);

pub(crate) fn run(args: &ListArgs) -> Result<()> {
    let (log, found) = count(args)?;
    let checkpoint = log.load_snapshot()?.map(|snapshot| (snapshot.version, snapshot.time_ns, snapshot.len));
    let text = if args.json {
        serde_json::to_string(&report(args, &log, &found, checkpoint))? + "\n"
    } else {
        text(args, &log, &found, checkpoint)
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Counts the records of all segments. Repeats the count if a segment was trimmed or cut in the meantime.
fn count(args: &ListArgs) -> Result<(ReadOnlyLog, Vec<Found>)> {
    let mut doubted = None;
    loop {
        let log = walk::open(&args.dir)?;
        let counted = log.segments().into_iter().map(|info| Ok((log.count(&info)?, info)));
        let counted: std::result::Result<Vec<_>, Error> = counted.collect();
        match counted {
            Ok(counted) => return Ok((log, counted.into_iter().map(|(count, info)| (info, count)).collect())),
            Err(error) if doubted.as_ref() == Some(&error.to_string()) => return Err(error.into()),
            Err(error) => doubted = Some(error.to_string()),
        }
    }
}

/// The last record of a segment, if the segment has any.
fn last(info: &SegmentInfo, count: &SegmentCount) -> Option<(Version, u64)> {
    info.last.filter(|_| count.records > 0)
}

fn report(args: &ListArgs, log: &ReadOnlyLog, found: &[Found], checkpoint: Option<(Version, u64, u64)>) -> Report {
    let segment = |(info, count): &Found| Segment {
        number: info.number,
        file: info.file.clone(),
        file_bytes: info.file_bytes,
        records: count.records,
        bytes: info.bytes,
        payload_bytes: count.payload_bytes,
        first: count.first.map(Moment::of),
        last: last(info, count).map(Moment::of),
    };
    let identity = log.identity();
    Report {
        directory: args.dir.display().to_string(),
        group_hex: format!("{:#018x}", identity.group_id()),
        subgroup: identity.subgroup,
        member: identity.member,
        segments: found.iter().map(segment).collect(),
        records: found.iter().map(|(_, count)| count.records).sum(),
        bytes: found.iter().map(|(info, _)| info.bytes).sum(),
        payload_bytes: found.iter().map(|(_, count)| count.payload_bytes).sum(),
        low: found.iter().find_map(|(_, count)| count.first).map(Moment::of),
        last: found.iter().rev().find_map(|(info, count)| last(info, count)).map(Moment::of),
        checkpoint: checkpoint
            .map(|(version, time_ns, bytes)| Checkpoint { at: Moment::of((version, time_ns)), bytes }),
        torn: log.torn().map(|(file, offset)| Torn { file: file.to_owned(), offset }),
    }
}

fn shown(moment: Option<(Version, u64)>) -> String {
    moment.map_or_else(|| "-".to_owned(), |(version, time_ns)| format!("{version} of {}", rfc3339(time_ns)))
}

fn text(args: &ListArgs, log: &ReadOnlyLog, found: &[Found], checkpoint: Option<(Version, u64, u64)>) -> String {
    let identity = log.identity();
    let group = if identity.group == [0; 16] { "none".to_owned() } else { format!("{:#018x}", identity.group_id()) };
    let (subgroup, member) = (identity.subgroup, identity.member);
    let mut text = format!("{}: group {group}, subgroup {subgroup}, member {member}\n", args.dir.display());
    for (info, count) in found {
        let (first, last) = (shown(count.first), shown(last(info, count)));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}  {} records, {} bytes: {first} to {last}", info.file, count.records, info.bytes);
    }
    let records: u64 = found.iter().map(|(_, count)| count.records).sum();
    let low = shown(found.iter().find_map(|(_, count)| count.first));
    let checkpoint = checkpoint.map_or_else(
        || "none".to_owned(),
        |(version, time_ns, bytes)| format!("up to {}, {bytes} bytes", shown(Some((version, time_ns)))),
    );
    let _ = writeln!(text, "{records} records in {} segments; oldest: {low}; checkpoint: {checkpoint}", found.len());
    if let Some((file, offset)) = log.torn() {
        let _ = writeln!(text, "torn tail: {file} at {offset}");
    }
    text
}
