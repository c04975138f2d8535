//! Transfers the group's state to a joiner, in chunks with checksums, in threads of their own.
//!
//! A chunk is {length u32, crc32c of its bytes u32}, little endian, then the bytes. A chunk of length zero ends the
//! state. Its checksum covers all lengths before it, so that a lost chunk is detected, too.

use crate::app::{Handler, text_of};
use crate::error::Error;
use crate::meet::questions::{self, Asker, Reply, Request};
use crate::membership::Peer;
use crate::peers::gate::{Gate, Source};
use crate::peers::patience::Patient;
use crate::shared::snapshot::Covered;
use crate::thread;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Time limit for a source to accept a connection.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Pause after all sources were asked. It doubles each time, from the first value up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time limit for sending the result of the transfer to the source.
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);
/// The maximum length of a chunk, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// A flag in the length of a chunk: the bytes are not state, but the reason why there is no more of it.
const FAILED: u32 = 1 << 31;
/// Progress is logged each time this number of bytes has arrived.
const PROGRESS_BYTES: u64 = 64 << 20;

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The reason why a state was not sent completely.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The state could not be read; the other end has been informed.
    State(io::Error),
    /// The connection broke, or the other end is not waited for any more.
    Link(io::Error),
}

/// Sends all of `state`, or the reason why it cannot be read.
pub(crate) fn send(stream: &mut impl Write, state: &mut dyn Read) -> Result<(), Halt> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut lengths = 0;
    loop {
        let mut len = 0;
        while len < chunk.len() {
            let read = catch_unwind(AssertUnwindSafe(|| state.read(&mut chunk[len..])));
            match read.unwrap_or_else(|_| Err(io::Error::other("reading it panicked"))) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    say_why(stream, &e.to_string()).map_err(Halt::Link)?;
                    return Err(Halt::State(e));
                }
            }
        }
        let bytes = &chunk[..len];
        // The length is at most `CHUNK_BYTES`, so it fits.
        let length = (len as u32).to_le_bytes();
        let checksum = if len == 0 { lengths } else { crc32c::crc32c(bytes) };
        lengths = crc32c::crc32c_append(lengths, &length);
        stream.write_all(&[length, checksum.to_le_bytes()].concat()).map_err(Halt::Link)?;
        stream.write_all(bytes).map_err(Halt::Link)?;
        if len == 0 {
            return Ok(());
        }
    }
}

fn say_why(stream: &mut impl Write, why: &str) -> io::Result<()> {
    let text = &why.as_bytes()[..why.len().min(CHUNK_BYTES)];
    let (length, checksum) = (FAILED | text.len() as u32, crc32c::crc32c(text));
    stream.write_all(&[length.to_le_bytes(), checksum.to_le_bytes()].concat())?;
    stream.write_all(text)
}

/// An obstacle to taking a state.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// A problem of the connection or of the moment. Another source is asked, and this one again later.
    Passing(String),
    /// A permanent problem of this source, which is not asked again.
    Source(String),
    /// A problem of this process, which is final.
    Own(Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Passing(error.to_string())
    }
}

/// The receiving end of [`send`]. Reading fails if a checksum is wrong.
pub(crate) struct Chunks<R> {
    from: R,
    chunk: Vec<u8>,
    at: usize,
    lengths: u32,
    total: u64,
    ended: bool,
    /// The reason why nothing more can be read.
    trouble: Option<Trouble>,
}

impl<R: Read> Chunks<R> {
    pub(crate) fn new(from: R) -> Chunks<R> {
        Chunks { from, chunk: Vec::new(), at: 0, lengths: 0, total: 0, ended: false, trouble: None }
    }

    /// The reason why reading has failed, if it has. It never comes from the reader itself.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble.clone()
    }

    fn next(&mut self) -> Result<(), Trouble> {
        let mut head = [0; 8];
        self.from.read_exact(&mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let (length, checksum) = ([l0, l1, l2, l3], u32::from_le_bytes([c0, c1, c2, c3]));
        let (failed, len) = (u32::from_le_bytes(length) & FAILED, u32::from_le_bytes(length) & !FAILED);
        let len = len as usize;
        if len > CHUNK_BYTES {
            return Err(malformed(format!("a chunk of {len} bytes; the limit is {CHUNK_BYTES}")).into());
        }
        self.chunk.resize(len, 0);
        self.at = 0;
        self.from.read_exact(&mut self.chunk)?;
        let found = if len == 0 && failed == 0 { self.lengths } else { crc32c::crc32c(&self.chunk) };
        if found != checksum {
            let at = self.total;
            let what = format!("the checksum of the chunk at byte {at} is {found:#x}, not {checksum:#x}");
            return Err(malformed(what).into());
        }
        if failed != 0 {
            let why = String::from_utf8_lossy(&std::mem::take(&mut self.chunk)).into_owned();
            return Err(Trouble::Source(format!("it could not read its state: {why}")));
        }
        self.lengths = crc32c::crc32c_append(self.lengths, &length);
        let before = self.total / PROGRESS_BYTES;
        self.total += len as u64;
        if self.total / PROGRESS_BYTES > before || len == 0 {
            tracing::info!(bytes = self.total, done = len == 0, "state transfer");
        }
        self.ended = len == 0;
        Ok(())
    }
}

impl<R: Read> Read for Chunks<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.trouble.is_none() && self.at == self.chunk.len() && !self.ended {
            self.trouble = self.next().err();
        }
        if let Some(Trouble::Passing(what) | Trouble::Source(what)) = &self.trouble {
            return Err(io::Error::other(what.clone()));
        }
        let len = into.len().min(self.chunk.len() - self.at);
        into[..len].copy_from_slice(&self.chunk[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// The handler with the restored state, and the messages that the state covers.
pub(crate) struct Restored {
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) result: Result<Covered, Error>,
}

/// The parameters of a process that receives the group's state.
///
/// The state must cover everything before the beginning of view `view`, and must be here by `deadline`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taker {
    pub(crate) me: Peer,
    pub(crate) group_id: u64,
    pub(crate) view: u64,
    pub(crate) deadline: Instant,
    /// The stack size of the thread that calls the application.
    pub(crate) stack_bytes: usize,
}

/// Takes the state from one of the gate's sources, in a thread. Calls `done` when the result is available.
pub(crate) fn start(
    mut handler: Box<dyn Handler>,
    gate: Gate,
    taker: Taker,
    done: impl FnOnce() + Send + 'static,
) -> Result<Receiver<Restored>, Error> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn("galerna-transfer", "receives the group's state", taker.stack_bytes, move || {
        let result = from_any(&gate, taker.deadline, |source| take_from(&mut *handler, &gate, source, taker));
        // The driver may be gone, and the result is not needed then.
        let _ = sender.send(Restored { handler, result });
        done();
    })?;
    Ok(receiver)
}

/// Asks one source after the other, until a transfer is complete, an obstacle is final, or the deadline has passed.
pub(crate) fn from_any<T>(
    gate: &Gate,
    deadline: Instant,
    mut take: impl FnMut(&Source) -> Result<T, Trouble>,
) -> Result<T, Error> {
    let mut obstacle = "there is no member to receive it from".to_owned();
    let (mut failed, mut pause) = (HashSet::new(), PAUSE_MIN);
    loop {
        let sources: Vec<Source> =
            gate.sources().into_iter().filter(|s| !failed.contains(&s.peer.incarnation)).collect();
        for source in &sources {
            if !gate.wants(source.peer) {
                continue;
            }
            match take(source) {
                Ok(taken) => return Ok(taken),
                Err(Trouble::Own(error)) => return Err(error),
                Err(Trouble::Passing(what)) => obstacle = format!("from {source}: {what}"),
                Err(Trouble::Source(what)) => {
                    obstacle = format!("from {source}: {what}");
                    failed.insert(source.peer.incarnation);
                }
            }
            tracing::warn!(obstacle, "state transfer");
            if Instant::now() >= deadline {
                break;
            }
        }
        // All remaining sources may have failed permanently.
        let hopeless = !failed.is_empty() && gate.sources().iter().all(|s| failed.contains(&s.peer.incarnation));
        if hopeless || Instant::now() >= deadline || gate.is_shut() {
            return Err(Error::StateTransfer(obstacle));
        }
        std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        pause = PAUSE_MAX.min(2 * pause);
    }
}

fn take_from(
    handler: &mut dyn Handler,
    gate: &Gate,
    source: &Source,
    Taker { me, group_id, view, deadline, .. }: Taker,
) -> Result<Covered, Trouble> {
    let request = Request::State { group_id, view, asker: Asker::new(me, deadline) };
    let socket = questions::begin(&source.address, &request, CONNECT_TIME)?;
    gate.watch(source.peer, &socket);
    let goes_on = || gate.wants(source.peer);
    let mut stream = Patient::new(&socket, deadline, &goes_on)?;
    let (view, below) = match questions::hear(&mut stream)? {
        Reply::State { view, below } => (view, below),
        Reply::Refused { reason } => return Err(Trouble::Passing(reason)),
        Reply::Failed { reason } => return Err(Trouble::Source(reason)),
        other => return Err(malformed(format!("an unexpected answer: {other:?}")).into()),
    };
    let mut chunks = Chunks::new(stream);
    let taken = restore(handler, gate, &mut chunks, view, below).map_err(|trouble| match trouble {
        Trouble::Own(Error::StateTransfer(what)) => {
            Trouble::Own(Error::StateTransfer(format!("{what} (from {source})")))
        }
        other => other,
    });
    say_last_words(&socket, &taken, &goes_on);
    taken
}

fn restore(
    handler: &mut dyn Handler,
    gate: &Gate,
    chunks: &mut Chunks<Patient<'_>>,
    view: u64,
    below: u64,
) -> Result<Covered, Trouble> {
    let trouble = |chunks: &Chunks<_>, error: io::Error| chunks.trouble().unwrap_or_else(|| error.into());
    let covered = Covered::read(chunks, view, below).map_err(|error| trouble(chunks, error))?;
    let restored = catch_unwind(AssertUnwindSafe(|| gate.pass(|| handler.restore(chunks))));
    let restored = restored.map_err(|panic| Trouble::Own(Error::CallbackPanicked(text_of(&*panic))))?;
    let restored = restored.ok_or_else(|| Trouble::Passing("the attempt to join is over".to_owned()))?;
    if let Err(error) = restored {
        // The application may only have passed on an error of reading the state.
        let own = || Trouble::Own(Error::StateTransfer(format!("the application's `restore` failed: {error}")));
        return Err(chunks.trouble().unwrap_or_else(own));
    }
    // The application may stop reading early. The rest is read to verify that the state is complete.
    io::copy(chunks, &mut io::sink()).map_err(|error| trouble(chunks, error))?;
    Ok(covered)
}

/// Sends the result of the transfer to the source, for people. The source may be gone.
pub(crate) fn say_last_words<T>(socket: &socket2::Socket, taken: &Result<T, Trouble>, goes_on: &dyn Fn() -> bool) {
    let words = match taken {
        Ok(_) => Reply::Taken {},
        Err(Trouble::Own(error)) => Reply::Failed { reason: error.to_string() },
        Err(Trouble::Passing(what) | Trouble::Source(what)) => Reply::Refused { reason: what.clone() },
    };
    let until = Instant::now() + LAST_WORDS_TIME;
    let Ok(mut stream) = Patient::new(socket, until, goes_on) else { return };
    if questions::say(&mut stream, &words).is_ok() {
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // Unread bytes would reset the connection on close, and the result would be lost.
        let mut rest = [0; 4096];
        while Instant::now() < until && stream.read(&mut rest).is_ok_and(|n| n > 0) {}
    }
}

/// Receives the result from the other end, after everything was sent or the connection broke. Returns the error if it
/// is final there.
pub(crate) fn last_words(socket: &socket2::Socket, deadline: Instant, goes_on: &dyn Fn() -> bool) -> Option<String> {
    let mut stream = Patient::new(socket, deadline, goes_on).ok()?;
    match questions::hear(&mut stream) {
        Ok(Reply::Failed { reason }) => Some(reason),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Parser, run};

    fn sent(state: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        send(&mut wire, &mut &state[..]).unwrap();
        wire
    }

    #[test]
    fn a_state_that_cannot_be_read_to_its_end_says_why() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let mut wire = Vec::new();
        let halt = send(&mut wire, &mut (&[7; 10][..]).chain(Fails));
        assert!(matches!(halt, Err(Halt::State(_))), "{halt:?}");
        let mut chunks = Chunks::new(wire.as_slice());
        let error = chunks.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("the disk is gone"), "{error}");
        assert!(matches!(chunks.trouble(), Some(Trouble::Source(_))));
        assert!(chunks.read(&mut [0]).is_err(), "and again");
    }

    #[test]
    fn states_of_all_sizes_survive() {
        for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17] {
            let state: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut got = Vec::new();
            Chunks::new(sent(&state).as_slice()).read_to_end(&mut got).unwrap();
            assert!(got == state, "{len} bytes");
        }
    }

    #[test]
    fn a_state_may_be_ahead_of_whoever_takes_it() {
        let of = |view, below, ahead: &[u64]| Covered { view, below, ahead: ahead.to_vec() };
        let covered = of(4, 70, &[75, 80]);
        assert!(covered.has(4, 69) && covered.has(4, 75) && covered.has(3, 90));
        assert!(!covered.has(4, 70) && !covered.has(4, 76) && !covered.has(5, 60));
        assert!(
            covered.is_within(&covered) && covered.is_within(&of(4, 76, &[80])) && covered.is_within(&of(5, 0, &[]))
        );
        assert!(!covered.is_within(&of(4, 69, &[75, 80])) && !covered.is_within(&of(4, 80, &[])));
        assert!(!covered.is_within(&of(3, 90, &[])));
        assert_eq!(Covered::read(&mut &covered.head()[..], 4, 70).unwrap(), covered);
        assert!(Covered::read(&mut &covered.head()[..23], 4, 70).is_err());
        assert!(Covered::read(&mut &of(4, 70, &[80, 75]).head()[..], 4, 70).is_err());
    }

    #[test]
    fn what_is_cut_flipped_or_left_out_is_noticed() {
        let wire = sent(&[5; 2 * CHUNK_BYTES]);
        let read = |wire: &[u8]| Chunks::new(wire).read_to_end(&mut Vec::new());
        assert!(read(&wire[..wire.len() - 1]).is_err());
        assert!(read(&wire[..CHUNK_BYTES + 8]).is_err(), "no end");
        let mut flipped = wire.clone();
        flipped[CHUNK_BYTES] ^= 1;
        assert!(read(&flipped).unwrap_err().to_string().contains("checksum"));
        let without_first = &wire[CHUNK_BYTES + 8..];
        assert!(read(without_first).unwrap_err().to_string().contains("checksum"));
    }

    /// Corrects the checksums of all chunks that are there in full.
    fn repair(wire: &mut [u8]) {
        let (mut at, mut lengths) = (0, 0);
        while let Some(head) = wire.get(at..at + 8) {
            let length = [head[0], head[1], head[2], head[3]];
            let len = (u32::from_le_bytes(length) & !FAILED) as usize;
            let Some(bytes) = wire.get(at + 8..at + 8 + len) else { return };
            let checksum = if u32::from_le_bytes(length) == 0 { lengths } else { crc32c::crc32c(bytes) };
            lengths = crc32c::crc32c_append(lengths, &length);
            wire[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
            at += 8 + len;
        }
    }

    #[test]
    fn fuzz_state_transfer() {
        let covered = Covered { view: 4, below: 70, ahead: vec![75, 80] };
        let mut failed = Vec::new();
        say_why(&mut failed, "the disk is gone").unwrap();
        let mut pieces = [sent(b"first")[..13].to_vec(), sent(b"second")].concat();
        repair(&mut pieces);
        let seeds = vec![sent(&[&covered.head()[..], b"state"].concat()), sent(&[0; 8]), pieces, failed];
        // A chunk is allocated before its bytes arrive, and another one to send the state again.
        let heap_max = (12, 2 * CHUNK_BYTES + (4 << 10));
        run(&Parser { name: "state transfer", seeds, repair: &repair, heap_max }, |wire| {
            let (mut chunks, mut state) = (Chunks::new(wire), Vec::new());
            if let Ok(covered) = Covered::read(&mut chunks, 4, 70) {
                state = covered.head();
                assert_eq!(Covered::read(&mut &state[..], 4, 70).unwrap(), covered);
            }
            if chunks.read_to_end(&mut state).is_err() {
                return matches!(chunks.trouble(), Some(Trouble::Source(_)));
            }
            let mut again = Vec::new();
            Chunks::new(sent(&state).as_slice()).read_to_end(&mut again).unwrap();
            assert!(again == state);
            true
        });
    }
}
