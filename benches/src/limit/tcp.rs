//! Raw TCP: every sender writes its bytes to every peer, and every member reads and discards the incoming bytes.

use super::{Work, finish};
use crate::Result;
use crate::args::LimitArgs;
use crate::control::{Control, Plan, Word};
use crate::measure::{Cpu, sleep_until};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The most bytes per system call.
const CHUNK: usize = 256 << 10;
/// How long a member waits for the others to start.
const MEET: Duration = Duration::from_secs(30);

struct Link {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// The bytes that are still to be written and read.
    to_write: u64,
    to_read: u64,
}

struct Mesh {
    links: Vec<Option<Link>>,
    epoll: Epoll,
    source: Vec<u8>,
    sink: Vec<u8>,
    work: Work,
}

/// Runs the member: see [`crate::control`].
pub(super) fn work(args: &LimitArgs, plan: &Plan, control: &Control) -> Result<()> {
    let mut mesh = Mesh::new(connect(plan)?)?;
    let senders = args.senders.count(args.members());
    mesh.move_bytes(plan.rank, senders, args.run.warmup(args.messages) * args.size)?;
    control.say(&Word::Ready)?;
    let start_ns = control.wait_start();
    sleep_until(start_ns);
    mesh.work = Work::default();
    let cpu = Cpu::now();
    mesh.move_bytes(plan.rank, senders, args.messages * args.size)?;
    finish(control, start_ns, cpu, mesh.work)
}

/// Opens one connection per pair: each member connects to those of lower rank and identifies itself.
pub(crate) fn connect(plan: &Plan) -> Result<Vec<Option<TcpStream>>> {
    let me = plan.rank;
    let listener = TcpListener::bind(&plan.addresses[me])?;
    let mut streams: Vec<Option<TcpStream>> = plan.addresses.iter().map(|_| None).collect();
    for (rank, address) in plan.addresses[..me].iter().enumerate() {
        let mut stream = dial(address)?;
        stream.write_all(&[me as u8])?;
        streams[rank] = Some(stream);
    }
    for _ in me + 1..plan.addresses.len() {
        let (mut stream, _) = listener.accept()?;
        let mut rank = [0];
        stream.read_exact(&mut rank)?;
        let place = streams.get_mut(usize::from(rank[0])).ok_or("a process that is not a member connected")?;
        *place = Some(stream);
    }
    for stream in streams.iter().flatten() {
        stream.set_nodelay(true)?;
    }
    Ok(streams)
}

fn dial(address: &str) -> Result<TcpStream> {
    let deadline = Instant::now() + MEET;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(format!("cannot reach {address}: {error}").into()),
        }
    }
}

impl Mesh {
    fn new(streams: Vec<Option<TcpStream>>) -> Result<Mesh> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        for (rank, stream) in streams.iter().enumerate() {
            if let Some(stream) = stream {
                stream.set_nonblocking(true)?;
                epoll.add(stream, EpollEvent::new(interest, rank as u64))?;
            }
        }
        let link = |stream| Link { stream, readable: true, writable: true, to_write: 0, to_read: 0 };
        Ok(Mesh {
            links: streams.into_iter().map(|stream| stream.map(link)).collect(),
            epoll,
            source: vec![7; CHUNK],
            sink: vec![0; CHUNK],
            work: Work::default(),
        })
    }

    /// Each of the first `senders` members sends `bytes` to each peer. Returns when everything is written and read.
    fn move_bytes(&mut self, me: usize, senders: usize, bytes: u64) -> Result<()> {
        for (rank, link) in self.links.iter_mut().enumerate() {
            if let Some(link) = link {
                link.to_write += bytes * u64::from(me < senders);
                link.to_read += bytes * u64::from(rank < senders);
            }
        }
        while self.links.iter().flatten().any(|link| link.to_write + link.to_read > 0) {
            let mut more = false;
            for link in self.links.iter_mut().flatten() {
                more |= link.read(&mut self.sink, &mut self.work)?;
                more |= link.write(&self.source, &mut self.work)?;
            }
            self.wait(if more { EpollTimeout::ZERO } else { EpollTimeout::NONE })?;
        }
        Ok(())
    }

    fn wait(&mut self, timeout: EpollTimeout) -> Result<()> {
        if timeout == EpollTimeout::NONE && !self.links.iter().flatten().any(|l| l.to_write + l.to_read > 0) {
            return Ok(());
        }
        let mut events = [EpollEvent::empty(); 64];
        self.work.system_calls += 1;
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            if let Some(Some(link)) = self.links.get_mut(event.data() as usize) {
                link.readable |= event.events().contains(EpollFlags::EPOLLIN);
                link.writable |= event.events().contains(EpollFlags::EPOLLOUT);
            }
        }
        Ok(())
    }
}

/// The bytes moved by a nonblocking call; 0 if it would have to wait.
fn moved(result: io::Result<usize>) -> Result<usize> {
    match result {
        Ok(0) => Err("a peer closed its connection".into()),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => Ok(other?),
    }
}

impl Link {
    /// Makes one system call. Returns true if another one may succeed at once.
    fn read(&mut self, sink: &mut [u8], work: &mut Work) -> Result<bool> {
        if !self.readable || self.to_read == 0 {
            return Ok(false);
        }
        // Never more than expected: the peer may be ahead, in its next round.
        let want = sink.len().min(usize::try_from(self.to_read).unwrap_or(usize::MAX));
        work.system_calls += 1;
        let count = moved(self.stream.read(&mut sink[..want]))?;
        self.to_read -= count as u64;
        self.readable = count == want;
        Ok(self.readable && self.to_read > 0)
    }

    /// Makes one system call. Returns true if another one may succeed at once.
    fn write(&mut self, source: &[u8], work: &mut Work) -> Result<bool> {
        if !self.writable || self.to_write == 0 {
            return Ok(false);
        }
        let want = source.len().min(usize::try_from(self.to_write).unwrap_or(usize::MAX));
        work.system_calls += 1;
        let count = moved(self.stream.write(&source[..want]))?;
        self.to_write -= count as u64;
        self.writable = count == want;
        Ok(self.writable && self.to_write > 0)
    }
}
