//! `galerna-log verify`

use crate::args::VerifyArgs;
use crate::walk::Walk;
use crate::{Failure, Result};
use galerna::Error;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;

/// The size of a record's header on disk.
const HEAD_BYTES: u64 = 64;
/// The number of records between two updates of the bar. More frequent updates would cost too much.
const RECORDS_PER_STEP: u64 = 1024;

#[derive(Default)]
struct Found {
    records: u64,
    payload_bytes: u64,
    damages: Vec<String>,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<()> {
    let mut walk = Walk::all(&args.dir)?;
    let total = walk.log.segments().iter().map(|segment| segment.bytes).sum();
    let bar = bar(total);
    let mut found = Found::default();
    records(&mut walk, &bar, &mut found)?;
    bar.finish_and_clear();
    let beside = beside(&mut walk, &args.dir, &mut found)?;
    walk.tell_trimmed();
    if let Some((file, offset)) = walk.log.torn() {
        println!("torn tail: {file} at {offset}: the last record is incomplete; the log ends before it");
    }
    let Found { records, payload_bytes, damages } = found;
    let whole = if damages.is_empty() { "whole" } else { "readable" };
    let segments = walk.log.segments().len();
    println!("{whole}: {records} records with {payload_bytes} bytes in {segments} segments{beside}");
    match damages.split_last() {
        None => Ok(()),
        Some((last, others)) => {
            others.iter().for_each(|damage| eprintln!("error: {damage}"));
            Err(Failure::Damaged(last.clone()))
        }
    }
}

/// A progress bar on a terminal, otherwise a hidden one.
fn bar(total_bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total_bytes);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} to go") {
        bar.set_style(style);
    }
    bar
}

fn records(walk: &mut Walk, bar: &ProgressBar, found: &mut Found) -> Result<()> {
    let mut bytes = 0;
    loop {
        match walk.next() {
            Ok(None) => return Ok(()),
            Ok(Some(entry)) => {
                found.records += 1;
                found.payload_bytes += entry.len() as u64;
                bytes += (HEAD_BYTES + entry.len() as u64).next_multiple_of(8);
                if found.records.is_multiple_of(RECORDS_PER_STEP) {
                    bar.set_position(bytes);
                }
            }
            Err(Failure::Damaged(what)) => {
                // Continue in the next segment. Its header gives its beginning.
                let segments = walk.log.segments();
                let damaged = segments.iter().position(|segment| what.contains(&segment.file));
                found.damages.push(what);
                let Some(next) = damaged.and_then(|n| segments.get(n + 1)) else { return Ok(()) };
                walk.skip_to(next.before.map(|(version, _)| version));
            }
            Err(other) => return Err(other),
        }
    }
}

/// Checks the checkpoint and the blobs, and describes those that exist.
fn beside(walk: &mut Walk, dir: &Path, found: &mut Found) -> Result<String> {
    let mut there = String::new();
    match walk.log.load_snapshot() {
        Ok(None) => {}
        Ok(Some(snapshot)) => there += &format!("; checkpoint up to {}, {} bytes", snapshot.version, snapshot.len),
        Err(damage) => note(damage, found)?,
    }
    for file in walk.log.missing().to_vec().iter().filter(|file| file.ends_with(".blob")) {
        let what = "the file is missing".to_owned();
        note(Error::LogDamaged { file: dir.join(file).display().to_string(), offset: 0, what }, found)?;
    }
    let listing = |error: std::io::Error| Failure::Unusable(format!("cannot list {}: {error}", dir.display()));
    let mut blobs = 0;
    for entry in std::fs::read_dir(dir).map_err(listing)? {
        let name = entry.map_err(listing)?.file_name();
        let Some(blob) = name.to_str().and_then(|name| name.strip_suffix(".blob")) else { continue };
        match walk.log.load(blob) {
            Ok(_) => blobs += 1,
            // A file that has a blob's suffix by chance.
            Err(Error::Misuse(_)) => {}
            Err(damage) => note(damage, found)?,
        }
    }
    if blobs > 0 {
        there += &format!("; {blobs} blobs");
    }
    Ok(there)
}

fn note(error: Error, found: &mut Found) -> Result<()> {
    match Failure::from(error) {
        Failure::Damaged(what) => found.damages.push(what),
        other => return Err(other),
    }
    Ok(())
}
