//! Raw RDMA: every sender writes its messages from its ring to the same offset of a copy of the ring at every peer.

use super::{Work, connect, finish};
use crate::Result;
use crate::args::LimitArgs;
use crate::control::{Control, Plan, Word};
use crate::measure::{Cpu, sleep_until};
use crate::place;
use galerna::fabric::verbs::raw::{Raw, RawLink};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The most bytes of one request, as in the engine's fabric.
const PIECE_MAX: usize = 1 << 20;
/// How long a peer may take to connect.
const MEET: Duration = Duration::from_secs(30);
/// How long a sender polls for completions before it sleeps, as in the engine. Below: the longest sleep.
const SPIN: Duration = Duration::from_micros(20);
const TICK: Duration = Duration::from_millis(100);

/// The bytes that a message takes in the ring.
fn stride(args: &LimitArgs) -> usize {
    (args.size as usize).next_multiple_of(8)
}

/// The bytes of memory that the parent must create: 0. Refuses a message that does not fit a ring.
pub(super) fn memory_bytes(args: &LimitArgs) -> Result<usize> {
    super::fits_ring(args.size, stride(args), args.ring_bytes).map(|()| 0)
}

struct Peer {
    rank: usize,
    stream: TcpStream,
    link: RawLink,
    /// The requests of this round that are not posted yet.
    left: u64,
    /// The number of the next request, which determines the message and the piece of it.
    next: u64,
}

struct Mesh {
    raw: Raw,
    peers: Vec<Peer>,
    size: usize,
    stride: usize,
    /// The number of messages that fit a ring.
    slots: u64,
    /// The requests per message.
    pieces: u64,
}

/// Runs the member: see [`crate::control`].
pub(super) fn work(args: &LimitArgs, plan: &Plan, control: &Control) -> Result<()> {
    let mut mesh = Mesh::new(args, plan)?;
    let senders = args.senders.count(args.members());
    mesh.run(plan.rank, senders, args.run.warmup(args.messages))?;
    control.say(&Word::Ready)?;
    let start_ns = control.wait_start();
    sleep_until(start_ns);
    let (cpu, before) = (Cpu::now(), mesh.posted());
    mesh.run(plan.rank, senders, args.messages)?;
    let (work_requests, doorbells) = mesh.posted();
    let work = Work { work_requests: work_requests - before.0, doorbells: doorbells - before.1, ..Work::default() };
    finish(control, start_ns, cpu, work)
}

impl Mesh {
    fn new(args: &LimitArgs, plan: &Plan) -> Result<Mesh> {
        let (size, stride) = (args.size as usize, stride(args));
        let raw = Raw::open(&args.transport.verbs()?, place::ip(&plan.addresses[plan.rank]), args.ring_bytes)?;
        let mut peers = Vec::new();
        // Every member connects in rank order. So members never wait in a cycle for peers that are busy with others.
        for (rank, stream) in connect(plan)?.into_iter().enumerate() {
            let Some(mut stream) = stream else { continue };
            let link = raw.connect(&mut stream, MEET)?;
            peers.push(Peer { rank, stream, link, left: 0, next: 0 });
        }
        let (slots, pieces) = ((args.ring_bytes / stride) as u64, size.div_ceil(PIECE_MAX) as u64);
        Ok(Mesh { raw, peers, size, stride, slots, pieces })
    }

    /// The work requests and doorbells so far.
    fn posted(&self) -> (u64, u64) {
        let each = self.peers.iter().map(|peer| peer.link.posted());
        each.fold((0, 0), |sum, posted| (sum.0 + posted.0, sum.1 + posted.1))
    }

    /// Each of the first `senders` members writes `messages` to each peer. Returns when this is done.
    fn run(&mut self, me: usize, senders: usize, messages: u64) -> Result<()> {
        if me < senders {
            self.peers.iter_mut().for_each(|peer| peer.left = messages * self.pieces);
            self.write_all()?;
            for peer in &mut self.peers {
                peer.stream.write_all(&[0])?;
            }
        }
        for peer in self.peers.iter_mut().filter(|peer| peer.rank < senders) {
            peer.stream.read_exact(&mut [0]).map_err(|e| format!("member {} is gone: {e}", peer.rank + 1))?;
        }
        Ok(())
    }

    /// Writes the remaining messages and waits until all are acknowledged. It polls for a while, then sleeps.
    ///
    /// On rxe the kernel does the device's work: a process that only polled would take the processor from it.
    fn write_all(&mut self) -> Result<()> {
        let mut idle_since = None;
        loop {
            let moved = self.step()?;
            if self.peers.iter().all(|peer| peer.left == 0 && peer.link.is_idle()) {
                return Ok(());
            }
            if moved {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                self.peers.iter().try_for_each(|peer| peer.link.tell())?;
                if !self.step()? {
                    self.raw.sleep(TICK)?;
                }
                idle_since = None;
            }
        }
    }

    /// Takes completions, and posts requests as far as there is room. Returns true if it did either.
    fn step(&mut self) -> Result<bool> {
        let mut moved = false;
        for at in 0..self.peers.len() {
            moved |= self.peers[at].link.poll()?;
            let count = (self.peers[at].link.room() as u64).min(self.peers[at].left);
            for _ in 0..count {
                let range = self.range(self.peers[at].next);
                let peer = &mut self.peers[at];
                (peer.next, peer.left) = (peer.next + 1, peer.left - 1);
                peer.link.write(range, peer.left == 0);
            }
            self.peers[at].link.ring()?;
            moved |= count > 0;
        }
        Ok(moved)
    }

    /// The offsets of the bytes of request `number` in the ring.
    fn range(&self, number: u64) -> std::ops::Range<usize> {
        let (message, piece) = (number / self.pieces, (number % self.pieces) as usize);
        let start = (message % self.slots) as usize * self.stride;
        start + piece * PIECE_MAX..start + self.size.min((piece + 1) * PIECE_MAX)
    }
}
