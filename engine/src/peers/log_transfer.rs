//! Transfers a log from one member to another: to a joiner, or to a member that is behind after a restart.
//!
//! The outer format is that of a state transfer (see [`crate::peers::transfer`]). The content begins with a checkpoint if the
//! log does not go back far enough: {1, view, number, time, length: u64 each, bytes}. Then come records, {2, view,
//! number, time, sender, mode, kind, length: u64 each, bytes}, and a 0 as the end.

use crate::app::{Handler, text_of};
use crate::error::Error;
use crate::log::{Iter, Journal, Kind, Log, OwnedRecord, Record, Release, Snapshot};
use crate::meet::questions::{self, Asker, Reply, Request};
use crate::membership::Peer;
use crate::node::HARD_STATE;
use crate::peers::gate::{Gate, Source};
use crate::peers::log_store::DISK_TIME;
use crate::peers::patience::Patient;
use crate::peers::replay;
use crate::peers::transfer::{self, CONNECT_TIME, Chunks, Restored, Taker, Trouble};
use crate::process::Life;
use crate::shared::snapshot::Covered;
use crate::thread::{self, OWN_STACK_BYTES};
use crate::types::{MemberId, Mode, Version};
use crate::words::{put_words, read_words};
use socket2::Socket;
use std::any::Any;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

/// The maximum length of a received record, in bytes. Every frame is shorter.
const RECORD_BYTES_MAX: u64 = 1 << 28;
/// Number of records that are handed over at a time.
const RECORDS_PER_BATCH: usize = 256;

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The content of a transfer, as a stream of bytes.
pub(crate) struct Sent {
    checkpoint: Option<Snapshot>,
    records: Iter,
    below: Version,
    /// The next bytes of the stream; those before `at` have been read already.
    buffer: Vec<u8>,
    at: usize,
    in_checkpoint: bool,
    ended: bool,
}

impl Sent {
    /// Sends the records of `log` from `from` on and below `below`. Begins with the checkpoint if the log does not go
    /// back to `from`.
    pub(crate) fn new(log: &Log, from: Version, below: Version) -> Result<Sent, Error> {
        let (mut buffer, mut checkpoint, mut iter) = (Vec::new(), None, log.iter(from..));
        if !goes_back_to(log, from)? {
            let saved = log.load_snapshot()?.ok_or_else(|| Error::LogTrimmed {
                wanted: from.to_string(),
                oldest: "unknown; there is no checkpoint".to_owned(),
            })?;
            iter = log.iter(saved.version.next()..);
            put_words(&mut buffer, [1, saved.version.view, saved.version.sequence, saved.time_ns, saved.len]);
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
                put_words(&mut self.buffer, [2, view, sequence, time_ns, u64::from(sender.0), mode, kind, len]);
                self.buffer.extend(payload);
            }
            Some(Err(error)) => return Err(io::Error::other(error)),
            _ => {
                put_words(&mut self.buffer, [0]);
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

/// Whether a log contains every record from `from` on: it goes back that far, or to the group's beginning.
///
/// A log that was trimmed, or that began with another member's checkpoint, does not go back to the beginning.
fn goes_back_to(log: &Log, from: Version) -> Result<bool, Error> {
    let Some(oldest) = log.oldest()? else { return Ok(false) };
    if from >= oldest {
        return Ok(true);
    }
    let first = log.get(oldest)?.map(|entry| entry.record().kind);
    Ok(oldest.view == 0 && first == Some(Kind::Decision))
}

/// The reply that refuses a request for records; `None` if the request can be served.
pub(crate) fn refusal(log: &Log, from: Version, below: Version, ended: bool) -> Option<Reply> {
    let end = log.durable().unwrap_or_default();
    if ended && end < below {
        return Some(Reply::Refused { reason: format!("its log ends at {end} so far, before {below}") });
    }
    let failed = |error: Error| Some(Reply::Failed { reason: format!("its log cannot be read: {error}") });
    match (goes_back_to(log, from), log.has_snapshot()) {
        (Err(error), _) | (Ok(false), Err(error)) => failed(error),
        (Ok(false), Ok(false)) => {
            let reason = format!("the log does not go back to {from}, and there is no checkpoint");
            Some(Reply::Refused { reason })
        }
        _ => None,
    }
}

/// A [`Sent`] that is opened when its first byte is read.
pub(crate) struct Given<'l> {
    log: &'l Log,
    from: Version,
    below: Version,
    sent: Option<Sent>,
}

impl<'l> Given<'l> {
    pub(crate) fn new(log: &'l Log, from: Version, below: Version) -> Given<'l> {
        Given { log, from, below, sent: None }
    }
}

impl Read for Given<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.sent {
            Some(sent) => sent.read(into),
            None => {
                let sent = Sent::new(self.log, self.from, self.below).map_err(io::Error::other)?;
                self.sent.insert(sent).read(into)
            }
        }
    }
}

/// Reads one record; `None` at the end. A checkpoint before the record goes to `checkpoint`.
fn receive(
    from: &mut impl Read,
    checkpoint: &mut dyn FnMut(Version, u64, &mut dyn Read) -> io::Result<()>,
) -> io::Result<Option<OwnedRecord>> {
    loop {
        let [what] = read_words(from)?;
        match what {
            0 => return Ok(None),
            1 => {
                let [view, sequence, time_ns, len] = read_words(from)?;
                let mut bytes = from.take(len);
                checkpoint(Version { view, sequence }, time_ns, &mut bytes)?;
                if bytes.limit() > 0 {
                    return Err(malformed("the checkpoint ends too early"));
                }
            }
            2 => {
                let [view, sequence, time_ns, sender, mode, kind, len] = read_words(from)?;
                let unknown = |key: &str, bits: u64| malformed(format!("a record of the unknown {key} {bits}"));
                let known_mode = u32::try_from(mode).ok().and_then(Mode::from_bits);
                let mode = known_mode.ok_or_else(|| unknown("mode", mode))?;
                let known_kind = u8::try_from(kind).ok().and_then(Kind::from_bits);
                let kind = known_kind.ok_or_else(|| unknown("kind", kind))?;
                if len > RECORD_BYTES_MAX {
                    return Err(malformed(format!("a record of {len} bytes; the limit is {RECORD_BYTES_MAX}")));
                }
                // The length is only announced: the memory grows with the bytes that arrive.
                let mut payload = Vec::with_capacity(len.min(4096) as usize);
                if (from.take(len).read_to_end(&mut payload)? as u64) < len {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let sender = MemberId(u32::try_from(sender).map_err(|_| unknown("sender", sender))?);
                let (version, payload) = (Version { view, sequence }, payload.into());
                return Ok(Some(OwnedRecord { version, time_ns, sender, mode, kind, payload }));
            }
            other => return Err(malformed(format!("{other:#x} is neither the tag of a record nor that of the end"))),
        }
    }
}

/// The part of another member's log that this process needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) me: Peer,
    pub(crate) group_id: u64,
    pub(crate) from: Version,
    pub(crate) below: Version,
    /// The source must have completed the views below `below`.
    pub(crate) ended: bool,
    pub(crate) deadline: Instant,
}

fn ask(source: &Source, gate: &Gate, wanted: Wanted) -> io::Result<Socket> {
    let Wanted { me, group_id, from, below, ended, deadline } = wanted;
    let pair = |version: Version| (version.view, version.sequence);
    let asker = Asker::new(me, deadline);
    let request = Request::Log { group_id, from: pair(from), below: pair(below), ended, asker };
    let socket = questions::begin(&source.address, &request, CONNECT_TIME)?;
    gate.watch(source.peer, &socket);
    Ok(socket)
}

fn is_given(stream: &mut Patient<'_>) -> Result<(), Trouble> {
    match questions::hear(stream)? {
        Reply::Log {} => Ok(()),
        Reply::Refused { reason } => Err(Trouble::Passing(reason)),
        Reply::Failed { reason } => Err(Trouble::Source(reason)),
        other => Err(malformed(format!("an unexpected answer: {other:?}")).into()),
    }
}

/// A transfer of records to a process that is being restarted.
pub(crate) struct Fetch {
    pub(crate) batches: Receiver<io::Result<Vec<OwnedRecord>>>,
    pub(crate) from: Peer,
    gate: Gate,
    life: Life,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // In a forked child, the connection belongs to the parent.
        if !self.life.is_over() {
            self.gate.shut();
        }
    }
}

/// Fetches records in a thread, for a process that is being restarted. The channel ends after the records or an error.
pub(crate) fn fetch(source: Source, wanted: Wanted, wake: impl Fn() + Send + 'static) -> Result<Fetch, Error> {
    let (sender, batches) = sync_channel(4);
    let (from, gate) = (source.peer, Gate::default());
    gate.offer(vec![source.clone()]);
    let watched = gate.clone();
    thread::spawn("galerna-fetch", "fetches missing log records", OWN_STACK_BYTES, move || {
        if let Err(trouble) = pour(&source, &watched, wanted, &sender, &wake) {
            let what = match trouble {
                Trouble::Passing(what) | Trouble::Source(what) => what,
                Trouble::Own(error) => error.to_string(),
            };
            let _ = sender.send(Err(io::Error::other(format!("from {source}: {what}"))));
        }
        drop(sender);
        wake();
    })?;
    Ok(Fetch { batches, from, gate, life: Life::present() })
}

fn pour(
    source: &Source,
    gate: &Gate,
    wanted: Wanted,
    into: &SyncSender<io::Result<Vec<OwnedRecord>>>,
    wake: &impl Fn(),
) -> Result<(), Trouble> {
    let socket = ask(source, gate, wanted)?;
    let goes_on = || gate.wants(source.peer);
    let mut stream = Patient::new(&socket, wanted.deadline, &goes_on)?;
    is_given(&mut stream)?;
    let mut from = Chunks::new(stream);
    let mut none = |_, _, _: &mut dyn Read| Err(io::Error::other("its log does not go back far enough"));
    let mut batch = Vec::new();
    loop {
        let next = receive(&mut from, &mut none)?;
        let ended = next.is_none();
        batch.extend(next);
        if ended || batch.len() >= RECORDS_PER_BATCH {
            // The driver may be gone, and the records are not needed then.
            if into.send(Ok(std::mem::take(&mut batch))).is_err() || ended {
                return Ok(());
            }
            wake();
        }
    }
}

/// The means by which a joiner takes over the group's log.
pub(crate) struct Takeover {
    pub(crate) log: Arc<Log>,
    pub(crate) release: Release,
    pub(crate) wake: Box<dyn Fn() + Send + Sync>,
}

/// Completes the log up to the beginning of the taker's view, then restores the application from it, in a thread.
///
/// Without `takeover` the log is complete already. The application gets the checkpoint and the records after it.
pub(crate) fn start(
    mut handler: Box<dyn Handler>,
    gate: Gate,
    log: Arc<Log>,
    takeover: Option<Takeover>,
    taker: Taker,
    done: impl FnOnce() + Send + 'static,
) -> Result<Receiver<Restored>, Error> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn("galerna-transfer", "receives the group's log", taker.stack_bytes, move || {
        let taken = match takeover {
            Some(takeover) => take_over(takeover, &gate, taker).map(Some),
            // Records that the restart added may not be on disk yet.
            None => log.sync(DISK_TIME).map(|()| None),
        };
        let result = taken.and_then(|from| tell(&mut *handler, &gate, &log, taker.view, from));
        // The driver may be gone, and the result is not needed then.
        let _ = sender.send(Restored { handler, result });
        done();
    })?;
    Ok(receiver)
}

/// The source of the log, and the connection over which it waits for the result.
type Giver = (Source, Socket);

fn take_over(takeover: Takeover, gate: &Gate, taker: Taker) -> Result<Giver, Error> {
    let Takeover { log, release, wake } = takeover;
    // From here on this process's former votes are void: the group has gone on without them.
    log.save(HARD_STATE, &[], DISK_TIME)?;
    let giver = transfer::from_any(gate, taker.deadline, |source| {
        // An empty log is fetched from the very first record on, the beginning of the group.
        let from = log.durable().map_or(Version::default(), Version::next);
        let below = Version { view: taker.view, sequence: 0 };
        let Taker { me, group_id, deadline, .. } = taker;
        take_from(&log, gate, source, Wanted { me, group_id, from, below, ended: true, deadline })
    })?;
    release.release(Box::new(log.journal(wake)) as Box<dyn Journal>);
    Ok(giver)
}

fn take_from(log: &Log, gate: &Gate, source: &Source, wanted: Wanted) -> Result<Giver, Trouble> {
    let socket = ask(source, gate, wanted)?;
    let goes_on = || gate.wants(source.peer);
    let mut stream = Patient::new(&socket, wanted.deadline, &goes_on)?;
    is_given(&mut stream)?;
    let mut from = Chunks::new(stream);
    // An error of the own log is final and is reported unchanged, in particular that its disk is full.
    let mut own = None;
    let taken = keep(log, &mut from, &mut own);
    let taken = taken.map_err(|error| match (from.trouble(), own) {
        (Some(trouble), _) => trouble,
        (None, Some(error)) => Trouble::Own(error),
        (None, None) => error.into(),
    });
    if taken.is_err() {
        transfer::say_last_words(&socket, &taken, &goes_on);
    }
    taken.map(|()| (source.clone(), socket))
}

/// Writes the received records into the log. An error of the log itself is stored in `own`.
fn keep(log: &Log, from: &mut impl Read, own: &mut Option<Error>) -> io::Result<()> {
    let own = std::cell::RefCell::new(own);
    let failed = |error: Error| {
        let said = io::Error::other(error.to_string());
        **own.borrow_mut() = Some(error);
        said
    };
    let mut keep = |version: Version, time_ns: u64, bytes: &mut dyn Read| -> io::Result<()> {
        let mut checkpoint = log.snapshot(version, time_ns).map_err(failed)?;
        checkpoint.fill(bytes, "receiving a checkpoint").map_err(failed)?;
        // Records are missing between this log and the checkpoint, so the old part is useless.
        if let Some(oldest) = log.oldest().map_err(failed)? {
            log.cut(oldest, DISK_TIME).map_err(failed)?;
        }
        log.install(checkpoint, DISK_TIME).map_err(failed)
    };
    let mut last = log.durable();
    while let Some(record) = receive(from, &mut keep)? {
        // A restart of other members may have ended this log's last view before the end of this log. The number of
        // their decision shows where.
        if let Some(last) = last.take()
            && record.kind == Kind::Decision
            && record.version.view > last.view
            && record.version.sequence <= last.sequence
        {
            let from = Version { view: last.view, sequence: record.version.sequence };
            log.cut(from, DISK_TIME).map_err(failed)?;
        }
        log.append_record(record.record(), DISK_TIME).map_err(failed)?;
    }
    log.sync(DISK_TIME).map_err(failed)
}

/// Passes the content of the log before view `view` to the application: its checkpoint, then the later messages.
///
/// The source receives the application's result for the checkpoint, like in any state transfer.
fn tell(handler: &mut dyn Handler, gate: &Gate, log: &Log, view: u64, from: Option<Giver>) -> Result<Covered, Error> {
    let panicked = |panic: Box<dyn Any + Send>| Error::CallbackPanicked(text_of(&*panic));
    let restored = catch_unwind(AssertUnwindSafe(|| replay::restore(handler, gate, log, view))).map_err(panicked);
    let restored = restored.and_then(|restored| restored);
    if let Some((source, socket)) = from {
        let taken = restored.as_ref().map(drop).map_err(|error| match error {
            Error::Left => Trouble::Passing("the attempt to join is over".to_owned()),
            error => Trouble::Own(error.clone()),
        });
        transfer::say_last_words(&socket, &taken, &|| gate.wants(source.peer));
    }
    let restored = restored?;
    catch_unwind(AssertUnwindSafe(|| replay::replay(handler, gate, log, view, &restored))).map_err(panicked)??;
    Ok(restored.covered)
}

#[cfg(test)]
mod tests;
