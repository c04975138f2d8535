//! `galerna-bench pingpong`: measures round trips between two processes, without a protocol.

use crate::Result;
use crate::args::{Fabric, PingPongArgs, name};
use crate::control::{Control, Job, Plan, Word};
use crate::crew::{self, Reports, Task};
use crate::limit::{connect, copy, map};
use crate::measure::{Cpu, Latencies, Summary, exact_timers, now_ns, sleep_until};
use crate::place;
use crate::report::{latency, show, show_own};
use galerna::fabric::Row;
use galerna::fabric::verbs::raw::{Raw, RawLink};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The bytes of a row's columns: at 0 the number of turns that the owner has written. The bytes of a turn follow.
const COLUMNS: usize = 64;
/// The number of polls of a word or a socket before the thread yields its core.
const LOOKS_PER_YIELD: u32 = 1000;
/// How long a process waits for the other one to start.
const MEET: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
struct Report {
    ns: u64,
    cpu: Cpu,
    latencies: Vec<(u64, u64)>,
    from_send: Vec<(u64, u64)>,
}

#[derive(Serialize)]
struct PingPong<'a> {
    kind: &'static str,
    flags: &'a PingPongArgs,
    messages: u64,
    seconds: f64,
    messages_per_second: f64,
    latency_of: &'static str,
    latency_us: Option<Summary>,
    /// With a schedule: the latency from the actual send.
    latency_from_commit_us: Option<Summary>,
    cpu_us_per_message: f64,
    cpu_cores: f64,
}

/// Runs the benchmark and shows the result.
pub(crate) fn run(args: &PingPongArgs) -> Result<()> {
    args.transport.verbs()?;
    let memory_bytes = match args.transport.fabric {
        Fabric::Tcp | Fabric::Verbs => 0,
        Fabric::Shm => COLUMNS + (args.size as usize).next_multiple_of(64),
    };
    if args.transport.across.any() && args.transport.across.count(2) != 2 {
        return Err("a ping-pong has two members: give two addresses in --across".into());
    }
    let task = Task {
        fabric: args.transport.fabric,
        hosts: args.transport.here.hosts.clone(),
        across: args.transport.across.clone(),
        members: 2,
        job: Job::PingPong(args.clone()),
        timeout: Duration::from_secs(args.run.timeout_s),
        memory_bytes,
        deliveries: 0,
    };
    let reports: Vec<Report> = match crew::run(&task)? {
        Reports::All(reports) => reports,
        // This member only answers, so it has no latencies to show.
        Reports::Own(rank, report) => return show_own("ping-pong", rank, &report.cpu, args.run.json),
    };
    let (mut latencies, mut from_send) = (Latencies::new()?, Latencies::new()?);
    for report in &reports {
        latencies.add(&report.latencies);
        from_send.add(&report.from_send);
    }
    let cpu_us = reports.iter().map(|r| r.cpu.total_us()).sum::<u64>() as f64;
    let seconds = reports.iter().map(|r| r.ns).max().unwrap_or(0) as f64 / 1e9;
    let result = PingPong {
        kind: "pingpong",
        flags: args,
        messages: args.messages,
        seconds,
        messages_per_second: args.messages as f64 / seconds,
        latency_of: match args.rate {
            Some(_) => "scheduled time to the end of the round trip",
            None => "round trip",
        },
        latency_us: latencies.summary(),
        latency_from_commit_us: from_send.summary(),
        cpu_us_per_message: cpu_us / args.messages as f64,
        cpu_cores: cpu_us / 1e6 / seconds,
    };
    show(&result, args.run.json, || text(&result))
}

fn text(result: &PingPong<'_>) -> String {
    format!(
        "ping-pong over {}{}, {} bytes, {} round trips in {:.3} s{}{}\n\
         cost: {:.3} µs of CPU per round trip, both processes ({:.2} cores busy)",
        name(&result.flags.transport.fabric),
        if result.flags.spin || result.flags.transport.fabric == Fabric::Verbs { ", spinning" } else { "" },
        result.flags.size,
        result.messages,
        result.seconds,
        latency(&format!("latency ({})", result.latency_of), result.latency_us.as_ref()),
        latency("round trip", result.latency_from_commit_us.as_ref()),
        result.cpu_us_per_message,
        result.cpu_cores,
    )
}

/// A way to send a message to the other process and to wait for one.
trait Wire {
    fn send(&mut self, message: &[u8]) -> Result<()>;
    fn receive(&mut self, message: &mut [u8]) -> Result<()>;
}

/// Runs the member: see [`crate::control`].
pub(crate) fn work(args: &PingPongArgs, plan: &Plan, control: &Control) -> Result<()> {
    exact_timers();
    match args.transport.fabric {
        Fabric::Tcp => {
            let stream = connect(plan)?.into_iter().flatten().next().ok_or("no peer")?;
            stream.set_nonblocking(args.spin)?;
            play(Socket(stream), args, plan, control)
        }
        Fabric::Shm => play(Memory::new(args, plan)?, args, plan, control),
        Fabric::Verbs => play(Rdma::new(args, plan)?, args, plan, control),
    }
}

fn play(mut wire: impl Wire, args: &PingPongArgs, plan: &Plan, control: &Control) -> Result<()> {
    let mut message = vec![7; args.size as usize];
    let serves = plan.rank == 0;
    let mut game =
        Game { wire: &mut wire, message: &mut message, latencies: Latencies::new()?, from_send: Latencies::new()? };
    game.rounds(serves, args.run.warmup(args.messages), None)?;
    control.say(&Word::Ready)?;
    let start_ns = control.wait_start();
    sleep_until(start_ns);
    (game.latencies, game.from_send) = (Latencies::new()?, Latencies::new()?);
    let cpu = Cpu::now();
    let schedule = args.rate.map(|rate| (start_ns, 1e9 / rate as f64));
    game.rounds(serves, args.messages, schedule)?;
    control.done(&Report {
        ns: now_ns().saturating_sub(start_ns),
        cpu: Cpu::now().since(cpu),
        latencies: game.latencies.counts(),
        from_send: game.from_send.counts(),
    })?;
    control.wait_end();
    Ok(())
}

struct Game<'a, W> {
    wire: &'a mut W,
    message: &'a mut [u8],
    latencies: Latencies,
    from_send: Latencies,
}

impl<W: Wire> Game<'_, W> {
    fn rounds(&mut self, serves: bool, rounds: u64, schedule: Option<(u64, f64)>) -> Result<()> {
        for round in 0..rounds {
            if !serves {
                self.wire.receive(self.message)?;
                self.wire.send(self.message)?;
                continue;
            }
            let due_ns = schedule.map(|(start, step)| start + (round as f64 * step) as u64);
            due_ns.into_iter().for_each(sleep_until);
            let sent_ns = now_ns();
            self.wire.send(self.message)?;
            self.wire.receive(self.message)?;
            let now = now_ns();
            self.latencies.record(now.saturating_sub(due_ns.unwrap_or(sent_ns)));
            if schedule.is_some() {
                self.from_send.record(now.saturating_sub(sent_ns));
            }
        }
        Ok(())
    }
}

/// Calls `step` until it returns true, and yields the core at intervals.
fn spin(mut step: impl FnMut() -> Result<bool>) -> Result<()> {
    for look in 1u32.. {
        if step()? {
            break;
        }
        if look.is_multiple_of(LOOKS_PER_YIELD) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

/// A connection, blocking or not. A call that would block is repeated.
struct Socket(TcpStream);

impl Socket {
    fn all(len: usize, mut step: impl FnMut(usize) -> std::io::Result<usize>) -> Result<()> {
        let mut at = 0;
        spin(|| {
            match step(at) {
                Ok(0) => return Err("the other process has ended".into()),
                Ok(count) => at += count,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(at == len)
        })
    }
}

impl Wire for Socket {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        Socket::all(message.len(), |at| self.0.write(&message[at..]))
    }

    fn receive(&mut self, message: &mut [u8]) -> Result<()> {
        Socket::all(message.len(), |at| self.0.read(&mut message[at..]))
    }
}

/// Shared memory. `bell` wakes the other side, unless both spin.
struct Memory {
    own: Row,
    other: Row,
    turns: u64,
    bell: Option<UnixStream>,
}

impl Memory {
    fn new(args: &PingPongArgs, plan: &Plan) -> Result<Memory> {
        let other = 1 - plan.rank;
        let path = plan.addresses[0].trim_start_matches("unix:");
        Ok(Memory {
            own: map(&plan.memory[plan.rank], COLUMNS)?,
            other: map(&plan.memory[other], COLUMNS)?,
            turns: 0,
            bell: match args.spin {
                true => None,
                false => Some(meet(Path::new(path), plan.rank)?),
            },
        })
    }
}

/// RDMA writes to the other process's memory. Both sides poll their own memory.
struct Rdma {
    /// The source memory of the writes, with the layout of a row above.
    raw: Raw,
    link: RawLink,
    turns: u64,
    /// The bytes of a turn, without the word that counts turns.
    len: usize,
}

impl Rdma {
    fn new(args: &PingPongArgs, plan: &Plan) -> Result<Rdma> {
        // A ping of up to 8 bytes is the counting word itself.
        let len = if args.size > 8 { args.size as usize } else { 0 };
        let raw = Raw::open(&args.transport.verbs()?, place::ip(&plan.addresses[plan.rank]), COLUMNS + len)?;
        let mut stream = connect(plan)?.into_iter().flatten().next().ok_or("no peer")?;
        let link = raw.connect(&mut stream, MEET)?;
        Ok(Rdma { raw, link, turns: 0, len })
    }
}

impl Wire for Rdma {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        while self.link.room() < 2 {
            self.link.poll()?;
        }
        if self.len > 0 {
            copy(message, self.raw.source(), COLUMNS);
            self.link.write(COLUMNS..COLUMNS + self.len, false);
        }
        let word = self.raw.source().word(0);
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Release);
        self.link.write(0..8, false);
        Ok(self.link.ring()?)
    }

    fn receive(&mut self, _message: &mut [u8]) -> Result<()> {
        self.turns += 1;
        let (link, turns) = (&mut self.link, self.turns);
        let mut looks = 0_u32;
        spin(|| {
            looks += 1;
            // A broken link is reported through its completions.
            if looks.is_multiple_of(LOOKS_PER_YIELD) {
                link.poll()?;
            }
            Ok(link.inbox().word(0).load(Ordering::Acquire) >= turns)
        })
    }
}

fn meet(path: &Path, rank: usize) -> Result<UnixStream> {
    if rank == 0 {
        return Ok(UnixListener::bind(path)?.accept()?.0);
    }
    let deadline = Instant::now() + MEET;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => return Err(format!("cannot reach the other process: {e}").into()),
        }
    }
}

impl Wire for Memory {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        copy(message, &self.own, COLUMNS);
        let turns = self.own.word(0).load(Ordering::Relaxed) + 1;
        self.own.word(0).store(turns, Ordering::Release);
        if let Some(bell) = &mut self.bell {
            bell.write_all(&[1])?;
        }
        Ok(())
    }

    /// Reads the first word of the message, as the engine's deliveries do.
    fn receive(&mut self, _message: &mut [u8]) -> Result<()> {
        self.turns += 1;
        if let Some(bell) = &mut self.bell {
            bell.read_exact(&mut [0])?;
        }
        let (other, turns) = (&self.other, self.turns);
        spin(|| Ok(other.word(0).load(Ordering::Acquire) >= turns))?;
        std::hint::black_box(other.word(COLUMNS).load(Ordering::Relaxed));
        Ok(())
    }
}
