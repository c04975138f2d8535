//! A log on its way from one member to another: of a process that joins or that is behind after a restart.
//!
//! The stream is that of a state transfer (see [`super::transfer`]). In it: perhaps a checkpoint, if the log does not go back
//! far enough, {1, view, number, time, length: u64 each, bytes}; then records, {2, view, number, time, sender, mode, kind,
//! length: u64 each, bytes}; then a 0.

use super::door::STEP_TIME;
use super::gate::Gate;
use super::handler::Handler;
use super::transfer::{self, Chunks, Covered, Restored};
use super::vault::DISK_TIME;
use super::wire::{self, Reply, Request};
use crate::config::{MemberId, SubgroupId};
use crate::error::Error;
use crate::fabric::meet::Quiet;
use crate::log::{Iter, Journal, Kind, Log, Record, Release, Snapshot, Version};
use crate::multicast::{Delivery, Mode};
use crate::node::LEDGER;
use std::io::{self, Read};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The most bytes of a record that is believed: a frame has fewer.
const RECORD_BYTES_MAX: u64 = 1 << 28;
/// Records handed over at a time.
const RECORDS_PER_BATCH: usize = 256;

/// A record with its bytes.
pub(super) struct Owned {
    version: Version,
    time_ns: u64,
    sender: MemberId,
    mode: Mode,
    kind: Kind,
    payload: Vec<u8>,
}

impl Owned {
    pub(super) fn record(&self) -> Record<'_> {
        let Owned { version, time_ns, sender, mode, kind, ref payload } = *self;
        Record { version, time_ns, sender, mode, kind, payload }
    }
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn put(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend(word.to_le_bytes()));
}

/// What is sent, as something to read.
pub(super) struct Sent {
    checkpoint: Option<Snapshot>,
    records: Iter,
    below: Version,
    /// Bytes to give next, up to a position of which they are given already.
    buffer: Vec<u8>,
    at: usize,
    in_checkpoint: bool,
    ended: bool,
}

impl Sent {
    /// The records of `log` from one version on and below another; from its checkpoint on, if it does not go back that far.
    pub(super) fn new(log: &Log, from: Version, below: Version) -> Result<Sent, Error> {
        let (mut buffer, mut checkpoint, mut iter) = (Vec::new(), None, log.iter(from..));
        if !goes_back_to(log, from)? {
            let saved = log.load_snapshot()?.ok_or_else(|| Error::LogTrimmed {
                wanted: from.to_string(),
                oldest: "unknown, and there is no checkpoint".to_owned(),
            })?;
            iter = log.iter(saved.version.next()..);
            put(&mut buffer, &[1, saved.version.view, saved.version.sequence, saved.time_ns, saved.len]);
            checkpoint = Some(saved);
        }
        let in_checkpoint = checkpoint.is_some();
        Ok(Sent { checkpoint, records: iter, below, buffer, at: 0, in_checkpoint, ended: false })
    }

    fn next(&mut self) -> io::Result<()> {
        (self.at, self.ended) = (0, false);
        self.buffer.clear();
        match self.records.next() {
            Some(Ok(entry)) if entry.version() < self.below => {
                let Record { version, time_ns, sender, mode, kind, payload } = entry.record();
                let Version { view, sequence } = version;
                let (mode, kind, len) = (mode as u64, kind as u64, payload.len() as u64);
                put(&mut self.buffer, &[2, view, sequence, time_ns, u64::from(sender.0), mode, kind, len]);
                self.buffer.extend(payload);
            }
            Some(Err(error)) => return Err(io::Error::other(error)),
            _ => {
                put(&mut self.buffer, &[0]);
                self.ended = true;
            }
        }
        Ok(())
    }
}

impl Read for Sent {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            if self.in_checkpoint {
                let read = self.checkpoint.as_mut().map_or(Ok(0), |checkpoint| checkpoint.read(into))?;
                self.in_checkpoint = read > 0;
                if read > 0 {
                    return Ok(read);
                }
            }
            if self.ended {
                return Ok(0);
            }
            self.next()?;
        }
        let len = into.len().min(self.buffer.len() - self.at);
        into[..len].copy_from_slice(&self.buffer[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Whether a log has every record from `from` on: it goes back that far, or to the group's beginning. One that was trimmed, or
/// that began with somebody else's checkpoint, does not.
fn goes_back_to(log: &Log, from: Version) -> Result<bool, Error> {
    let Some(oldest) = log.oldest()? else { return Ok(false) };
    if from >= oldest {
        return Ok(true);
    }
    let first = log.get(oldest)?.map(|entry| entry.record().kind);
    Ok(oldest.view == 0 && first == Some(Kind::Decision))
}

/// Answers a request for records.
pub(super) fn give(
    socket: &mut socket2::Socket,
    log: &Log,
    from: Version,
    below: Version,
    ended: bool,
) -> io::Result<()> {
    let end = log.durable().unwrap_or_default();
    let refusal = match goes_back_to(log, from) {
        _ if ended && end < below => Some(format!("its log ends at {end} so far, before {below}")),
        Ok(false) if !log.has_snapshot().map_err(io::Error::other)? => {
            Some(format!("the log does not go back to {from}, and there is no checkpoint"))
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = refusal {
        return wire::answer(socket, &Reply::Refused { reason });
    }
    // Before a checkpoint is read and verified, which may take a while.
    wire::answer(socket, &Reply::Log {})?;
    let mut sent = Sent::new(log, from, below).map_err(io::Error::other)?;
    transfer::send(&mut Quiet(socket), &mut sent)
}

fn word(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn words<const N: usize>(from: &mut impl Read) -> io::Result<[u64; N]> {
    let mut all = [0; N];
    for each in &mut all {
        *each = word(from)?;
    }
    Ok(all)
}

/// Reads one record, or the end; a checkpoint before it goes to `checkpoint`.
fn receive(
    from: &mut impl Read,
    checkpoint: &mut dyn FnMut(Version, u64, &mut dyn Read) -> io::Result<()>,
) -> io::Result<Option<Owned>> {
    loop {
        match word(from)? {
            0 => return Ok(None),
            1 => {
                let [view, sequence, time_ns, len] = words(from)?;
                let mut bytes = from.take(len);
                checkpoint(Version { view, sequence }, time_ns, &mut bytes)?;
                if bytes.limit() > 0 {
                    return Err(malformed("a checkpoint that ends too early"));
                }
            }
            2 => {
                let [view, sequence, time_ns, sender, mode, kind, len] = words(from)?;
                let mode = u32::try_from(mode).ok().and_then(Mode::from_bits);
                let mode = mode.ok_or_else(|| malformed("a record of no known mode"))?;
                let kind = u8::try_from(kind).ok().and_then(Kind::from_bits);
                let kind = kind.ok_or_else(|| malformed("a record of no known kind"))?;
                if len > RECORD_BYTES_MAX {
                    return Err(malformed(format!("a record of {len} bytes")));
                }
                let mut payload = vec![0; len as usize];
                from.read_exact(&mut payload)?;
                let sender = MemberId(u32::try_from(sender).map_err(|_| malformed("a sender that is no member"))?);
                return Ok(Some(Owned { version: Version { view, sequence }, time_ns, sender, mode, kind, payload }));
            }
            other => return Err(malformed(format!("neither a record nor the end: {other:#x}"))),
        }
    }
}

/// What is wanted of another member's log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) group_id: u64,
    pub(super) from: Version,
    pub(super) below: Version,
    /// The views below are to be over at the source.
    pub(super) ended: bool,
}

fn ask(source: &str, gate: &Gate, wanted: Wanted) -> io::Result<Chunks<socket2::Socket>> {
    let Wanted { group_id, from, below, ended } = wanted;
    let pair = |version: Version| (version.view, version.sequence);
    let request = Request::Log { group_id, from: pair(from), below: pair(below), ended };
    match wire::ask(source, &request, STEP_TIME)? {
        (socket, Reply::Log {}) => Chunks::from_source(socket, gate),
        (_, Reply::Refused { reason }) => Err(io::Error::other(reason)),
        (_, other) => Err(malformed(format!("an answer to another question: {other:?}"))),
    }
}

/// Fetches records in a thread, for a process that is being restarted; the channel ends with the records, or with an error.
pub(super) fn fetch(
    source: String,
    wanted: Wanted,
    wake: impl Fn() + Send + 'static,
) -> io::Result<Receiver<io::Result<Vec<Owned>>>> {
    let (sender, receiver) = sync_channel(4);
    std::thread::Builder::new().name("galerna-fetch".to_owned()).spawn(move || {
        if let Err(error) = pour(&source, wanted, &sender, &wake) {
            let _ = sender.send(Err(io::Error::other(format!("from {source}: {error}"))));
        }
        drop(sender);
        wake();
    })?;
    Ok(receiver)
}

fn pour(source: &str, wanted: Wanted, into: &SyncSender<io::Result<Vec<Owned>>>, wake: &impl Fn()) -> io::Result<()> {
    let mut from = ask(source, &Gate::default(), wanted)?;
    let mut none = |_, _, _: &mut dyn Read| Err(io::Error::other("the log there does not go back far enough"));
    let mut batch = Vec::new();
    loop {
        let next = receive(&mut from, &mut none)?;
        let ended = next.is_none();
        batch.extend(next);
        if ended || batch.len() >= RECORDS_PER_BATCH {
            // The driver may be gone: then nobody needs it.
            if into.send(Ok(std::mem::take(&mut batch))).is_err() || ended {
                return Ok(());
            }
            wake();
        }
    }
}

/// What a process that joins needs to take over the group's log.
pub(super) struct Takeover {
    pub(super) log: Arc<Log>,
    pub(super) release: Release,
    pub(super) wake: Box<dyn Fn() + Send + Sync>,
    pub(super) sources: Vec<String>,
    pub(super) group_id: u64,
}

/// Brings the log up to the begin of view `view`, unless it goes there already (then `takeover` is none), and then the
/// application, from its checkpoint and the log after it; in a thread.
pub(super) fn start(
    mut handler: Box<dyn Handler>,
    gate: Gate,
    log: Arc<Log>,
    takeover: Option<Takeover>,
    view: u64,
    deadline: Instant,
    done: impl FnOnce() + Send + 'static,
) -> io::Result<Receiver<Restored>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new().name("galerna-transfer".to_owned()).spawn(move || {
        let taken = match takeover {
            Some(takeover) => take_over(takeover, &gate, view, deadline).map_err(Error::StateTransfer),
            // What the restart added may be on its way to the disk.
            None => log.sync(DISK_TIME),
        };
        let mut replay = || catch_unwind(AssertUnwindSafe(|| replay(&mut *handler, &gate, &log, view)));
        let panicked = |_| Error::CallbackPanicked("as the application was told the log".to_owned());
        let result = taken.and_then(|()| replay().map_err(panicked)?);
        // The driver may be gone: then nobody needs it.
        let _ = sender.send(Restored { handler, result });
        done();
    })?;
    Ok(receiver)
}

fn take_over(takeover: Takeover, gate: &Gate, view: u64, deadline: Instant) -> Result<(), String> {
    let Takeover { log, release, wake, sources, group_id } = takeover;
    let mut obstacle = "there is no member to take the log from".to_owned();
    // From here on this process's former votes count no more: the group has gone on without them.
    log.save(LEDGER, &[], DISK_TIME).map_err(|error| error.to_string())?;
    while Instant::now() < deadline && !gate.is_shut() {
        for source in &sources {
            // From the very first one, the group's own begin, if there is nothing here yet.
            let from = log.durable().map_or(Version::default(), Version::next);
            let wanted = Wanted { group_id, from, below: Version { view, sequence: 0 }, ended: true };
            match take_from(&log, gate, source, wanted) {
                Ok(()) => {
                    release.release(Box::new(log.journal(wake)) as Box<dyn Journal>);
                    return Ok(());
                }
                Err(error) => obstacle = format!("from {source}: {error}"),
            }
            tracing::warn!(obstacle, "taking over the log");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(obstacle)
}

fn take_from(log: &Log, gate: &Gate, source: &str, wanted: Wanted) -> io::Result<()> {
    let mut from = ask(source, gate, wanted)?;
    let mut keep = |version: Version, time_ns: u64, bytes: &mut dyn Read| -> io::Result<()> {
        let mut checkpoint = log.snapshot(version, time_ns).map_err(io::Error::other)?;
        checkpoint.fill(bytes, "receiving a checkpoint").map_err(io::Error::other)?;
        // Between what is here and what follows the checkpoint records are missing: what is here is of no use.
        if let Some(oldest) = log.oldest().map_err(io::Error::other)? {
            log.cut(oldest, DISK_TIME).map_err(io::Error::other)?;
        }
        log.install(checkpoint, DISK_TIME).map_err(io::Error::other)
    };
    let mut last = log.durable();
    while let Some(record) = receive(&mut from, &mut keep)? {
        // A restart of others may have ended this log's last view before the end of this log: the decision's number says where.
        if let Some(last) = last.take()
            && record.kind == Kind::Decision
            && record.version.view > last.view
            && record.version.sequence <= last.sequence
        {
            let from = Version { view: last.view, sequence: record.version.sequence };
            log.cut(from, DISK_TIME).map_err(io::Error::other)?;
        }
        log.append_record(record.record(), DISK_TIME).map_err(io::Error::other)?;
    }
    log.sync(DISK_TIME).map_err(io::Error::other)
}

/// Tells the application what the log holds of the views before `view`: its checkpoint, then what came after it. A checkpoint
/// that another member has taken meanwhile may cover more.
fn replay(handler: &mut dyn Handler, gate: &Gate, log: &Log, view: u64) -> Result<Covered, Error> {
    let mut after = Bound::Unbounded;
    let mut covered = Covered { view, below: 0, ahead: Vec::new() };
    if let Some(mut checkpoint) = log.load_snapshot()? {
        let version = checkpoint.version;
        after = Bound::Excluded(version);
        let failed = |error| Error::io("the application's `restore` of its checkpoint", error);
        covered = Covered::read(&mut checkpoint, view.max(version.view), version.next().sequence).map_err(failed)?;
        gate.pass(|| handler.restore(&mut checkpoint)).ok_or(Error::Left)?.map_err(failed)?;
    }
    for entry in log.iter((after, Bound::Unbounded)) {
        let entry = entry?;
        let Record { version, sender, mode, kind, payload, .. } = entry.record();
        if version.view >= view {
            break;
        }
        if kind == Kind::Message && covered.ahead.binary_search(&version.sequence).is_err() {
            let (subgroup, view, sequence) = (SubgroupId(0), version.view, version.sequence);
            let told = Delivery { subgroup, view, sender, sequence, mode, payload };
            gate.pass(|| handler.deliver(told)).ok_or(Error::Left)?;
        }
    }
    Ok(covered)
}
