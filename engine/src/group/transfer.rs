//! The group's state on its way to a process that joins: chunks, each with its checksum, in threads of their own.
//!
//! A chunk is {length u32, crc32c of its bytes u32} little endian, then the bytes; one of length zero ends the state, and
//! carries the checksum of all lengths before it, so that a lost chunk is noticed too.

use super::door::STEP_TIME;
use super::gate::Gate;
use super::handler::Handler;
use super::wire::{self, Reply, Request};
use crate::error::Error;
use crate::multicast::words;
use crate::node::Node;
use socket2::Socket;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long a source may say nothing in the middle of a state; one whose process has ended is noticed at once.
const SILENCE_TIME: Duration = Duration::from_secs(60);
/// Most bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// How often the progress is told.
const PROGRESS_BYTES: u64 = 64 << 20;

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sends all of `state`.
pub(super) fn send(socket: &mut impl Write, state: &mut dyn Read) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut lengths = 0;
    loop {
        let mut len = 0;
        while len < chunk.len() {
            match state.read(&mut chunk[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let bytes = &chunk[..len];
        // It fits: at most `CHUNK_BYTES`.
        let length = (len as u32).to_le_bytes();
        let checksum = if len == 0 { lengths } else { crc32c::crc32c(bytes) };
        lengths = crc32c::crc32c_append(lengths, &length);
        socket.write_all(&[length, checksum.to_le_bytes()].concat())?;
        socket.write_all(bytes)?;
        if len == 0 {
            return Ok(());
        }
    }
}

/// The receiving end of [`send`]: fails where a checksum does.
pub(super) struct Chunks<R> {
    from: R,
    chunk: Vec<u8>,
    at: usize,
    lengths: u32,
    total: u64,
    ended: bool,
}

impl Chunks<Socket> {
    /// From a source that has answered: it may need a while to produce its state, or the next piece of it.
    pub(super) fn from_source(socket: Socket, gate: &Gate) -> io::Result<Chunks<Socket>> {
        socket.set_read_timeout(Some(SILENCE_TIME))?;
        gate.watch(&socket);
        Ok(Chunks::new(socket))
    }
}

impl<R: Read> Chunks<R> {
    pub(super) fn new(from: R) -> Chunks<R> {
        Chunks { from, chunk: Vec::new(), at: 0, lengths: 0, total: 0, ended: false }
    }

    fn next(&mut self) -> io::Result<()> {
        let mut head = [0; 8];
        self.from.read_exact(&mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let (length, checksum) = ([l0, l1, l2, l3], u32::from_le_bytes([c0, c1, c2, c3]));
        let len = u32::from_le_bytes(length) as usize;
        if len > CHUNK_BYTES {
            return Err(malformed(format!("a chunk of {len} bytes; the limit is {CHUNK_BYTES}")));
        }
        self.chunk.resize(len, 0);
        self.at = 0;
        self.from.read_exact(&mut self.chunk)?;
        let found = if len == 0 { self.lengths } else { crc32c::crc32c(&self.chunk) };
        if found != checksum {
            let at = self.total;
            return Err(malformed(format!("the checksum of the chunk at byte {at} is {found:#x}, not {checksum:#x}")));
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
        if self.at == self.chunk.len() && !self.ended {
            self.next()?;
        }
        let len = into.len().min(self.chunk.len() - self.at);
        into[..len].copy_from_slice(&self.chunk[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// The application with the state, and what the state covers.
pub(super) struct Restored {
    pub(super) handler: Box<dyn Handler>,
    pub(super) result: Result<Covered, Error>,
}

/// What an application has been told: everything of the views before `view`, and of that one the messages with numbers below
/// one, and those that were delivered ahead of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Covered {
    pub(super) view: u64,
    pub(super) below: u64,
    /// Rising.
    pub(super) ahead: Vec<u64>,
}

impl Covered {
    /// What this process has been delivered by now.
    pub(super) fn of(node: &Node) -> Covered {
        let (below, mut ahead) = node.multicast().covered();
        ahead.sort_unstable();
        Covered { view: node.view().map_or(0, |view| view.number), below, ahead }
    }

    /// Whether a message is among it.
    pub(super) fn has(&self, view: u64, sequence: u64) -> bool {
        view < self.view || view == self.view && (sequence < self.below || self.ahead.binary_search(&sequence).is_ok())
    }

    /// Whether all of it is part of `told`.
    pub(super) fn is_within(&self, told: &Covered) -> bool {
        let ahead = || self.ahead.iter().all(|&sequence| told.has(self.view, sequence));
        told.view > self.view || told.view == self.view && told.below >= self.below && ahead()
    }

    /// What precedes the application's bytes in a state or a checkpoint: how many messages it covers ahead of the order, and
    /// their numbers, u64 each.
    pub(super) fn head(&self) -> Vec<u8> {
        words([self.ahead.len() as u64].into_iter().chain(self.ahead.iter().copied()))
    }

    /// Reads [`Covered::head`] of a state that covers so much.
    pub(super) fn read(from: &mut dyn Read, view: u64, below: u64) -> io::Result<Covered> {
        let mut word = || {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        let count = word()?;
        let ahead = (0..count).map(|_| word()).collect::<io::Result<Vec<u64>>>()?;
        match ahead.is_sorted() {
            true => Ok(Covered { view, below, ahead }),
            false => Err(malformed("a state whose numbers do not rise".to_owned())),
        }
    }
}

/// Takes the state from one of `sources`, the next one when one fails, in a thread; `done` is called when the result is
/// there. `wanted` is the group, and the view that the state must cover the begin of.
pub(super) fn start(
    mut handler: Box<dyn Handler>,
    gate: Gate,
    sources: Vec<String>,
    wanted: (u64, u64),
    deadline: Instant,
    done: impl FnOnce() + Send + 'static,
) -> io::Result<Receiver<Restored>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new().name("galerna-transfer".to_owned()).spawn(move || {
        let result = take(&mut *handler, &gate, &sources, wanted, deadline).map_err(Error::StateTransfer);
        // The driver may be gone: then nobody needs it.
        let _ = sender.send(Restored { handler, result });
        done();
    })?;
    Ok(receiver)
}

fn take(
    handler: &mut dyn Handler,
    gate: &Gate,
    sources: &[String],
    wanted: (u64, u64),
    deadline: Instant,
) -> Result<Covered, String> {
    let mut obstacle = "there is no member to take it from".to_owned();
    loop {
        for source in sources {
            match take_from(handler, gate, source, wanted) {
                Ok(covered) => return Ok(covered),
                Err(error) => obstacle = format!("from {source}: {error}"),
            }
            tracing::warn!(obstacle, "state transfer");
            if Instant::now() >= deadline || gate.is_shut() {
                return Err(obstacle);
            }
        }
        if sources.is_empty() {
            return Err(obstacle);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn take_from(
    handler: &mut dyn Handler,
    gate: &Gate,
    source: &str,
    (group_id, view): (u64, u64),
) -> io::Result<Covered> {
    let (socket, reply) = wire::ask(source, &Request::State { group_id, view }, STEP_TIME)?;
    let (view, below) = match reply {
        Reply::State { view, below } => (view, below),
        Reply::Refused { reason } => return Err(io::Error::other(reason)),
        other => return Err(malformed(format!("an answer to another question: {other:?}"))),
    };
    let mut chunks = Chunks::from_source(socket, gate)?;
    let covered = Covered::read(&mut chunks, view, below)?;
    let restored = catch_unwind(AssertUnwindSafe(|| gate.pass(|| handler.restore(&mut chunks))));
    let restored = restored.map_err(|_| io::Error::other("the application's `restore` panicked"))?;
    restored.ok_or_else(|| io::Error::other("the attempt to join is over"))??;
    // An application that stops reading early has what it wants; the rest still proves that nothing was cut off.
    io::copy(&mut chunks, &mut io::sink())?;
    Ok(covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(state: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        send(&mut wire, &mut &state[..]).unwrap();
        wire
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
}
