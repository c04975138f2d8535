//! Formats records, versions and times.

use galerna::Mode;
use galerna::Version;
use galerna::log::{Entry, Kind};
use serde::Serialize;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// A record, as written by `export`.
#[derive(Serialize)]
pub(crate) struct Line {
    view: u64,
    sequence: u64,
    time_ns: u64,
    time: String,
    sender: u32,
    mode: &'static str,
    kind: &'static str,
    bytes: usize,
    payload_hex: String,
}

/// A version with its time, as shown by `list --json`.
#[derive(Serialize)]
pub(crate) struct Moment {
    view: u64,
    sequence: u64,
    time_ns: u64,
    time: String,
}

impl Moment {
    pub(crate) fn of((version, time_ns): (Version, u64)) -> Moment {
        Moment { view: version.view, sequence: version.sequence, time_ns, time: rfc3339(time_ns) }
    }
}

pub(crate) fn rfc3339(time_ns: u64) -> String {
    humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(time_ns)).to_string()
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Fifo => "fifo",
        Mode::Ordered => "ordered",
        Mode::Safe => "safe",
        Mode::Durable => "durable",
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Message => "message",
        Kind::Decision => "decision",
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n & 15)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}

impl Line {
    pub(crate) fn of(entry: &Entry) -> Line {
        let record = entry.record();
        Line {
            view: record.version.view,
            sequence: record.version.sequence,
            time_ns: record.time_ns,
            time: rfc3339(record.time_ns),
            sender: record.sender.0,
            mode: mode(record.mode),
            kind: kind(record.kind),
            bytes: record.payload.len(),
            payload_hex: hex(record.payload),
        }
    }
}

/// The line for a record, without the payload.
pub(crate) fn head(entry: &Entry) -> String {
    let record = entry.record();
    format!(
        "{}  {}  sender {}  {}  {}  {} bytes",
        record.version,
        rfc3339(record.time_ns),
        record.sender.0,
        mode(record.mode),
        kind(record.kind),
        record.payload.len()
    )
}

/// The payload on one line.
pub(crate) fn text(payload: &[u8]) -> String {
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    match std::str::from_utf8(payload) {
        Ok(text) if !text.contains(odd) => {
            // Escape line breaks, so that the payload stays on one line and the original can be recovered from the
            // text.
            text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
        }
        _ => format!("hex {}", hex(payload)),
    }
}

/// The payload in lines of 16 bytes: offset, hexadecimal digits, and ASCII characters.
pub(crate) fn dump(payload: &[u8]) -> String {
    let mut dump = String::new();
    for (n, row) in payload.chunks(16).enumerate() {
        let digits: Vec<String> =
            row.chunks(8).map(|half| half.iter().map(|byte| hex(&[*byte]) + " ").collect()).collect();
        let ascii: String =
            row.iter().map(|&b| if b.is_ascii_graphic() || b == b' ' { char::from(b) } else { '.' }).collect();
        // Writing to a string does not fail.
        let _ = writeln!(dump, "  {:08x}  {:<49} |{ascii}|", 16 * n, digits.join(" "));
    }
    dump
}
