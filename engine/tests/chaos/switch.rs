//! The network between the hosts of a run. A switch in this process forwards the Ethernet frames of their tap devices,
//! and treats them by a rule per direction of each pair. It has one thread, and its queues are bounded.

use crate::netns::Host;
use crate::rng::Rng;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The treatment of the frames of one direction. Zeros let all frames through at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rule {
    /// All frames are lost.
    pub(crate) cut: bool,
    /// TCP connections are reset, at both ends.
    pub(crate) reset: bool,
    /// Each frame waits `delay_ms` and up to `jitter_ms` more, in milliseconds; the frames stay in order.
    pub(crate) delay_ms: u64,
    pub(crate) jitter_ms: u64,
    /// Of a thousand frames, so many are lost, are duplicated, or are overtaken.
    pub(crate) lost: usize,
    pub(crate) twice: usize,
    pub(crate) overtaken: usize,
    /// Bandwidth in bytes per millisecond; 0 means no limit.
    pub(crate) bytes_per_ms: u64,
}

/// Limit of the waiting frames of one direction, in bytes; further frames are lost, as in any switch.
const QUEUE_BYTES: usize = 2 << 20;
/// On a slow direction no more frames wait than pass in so many milliseconds. Otherwise the direction would stay slow
/// long after its rule has ended.
const QUEUE_MS: u64 = 500;
const FRAME_BYTES: usize = 1 << 16;
/// Frames taken from one host before the next host's turn.
const FRAMES_PER_TURN: usize = 64;

pub(crate) struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Indexed by the numbers of sender and receiver.
    rules: Mutex<Vec<Vec<Rule>>>,
    over: AtomicBool,
}

/// A frame that waits, with its receiver and its sender.
struct Waiting {
    to: usize,
    from: usize,
    bytes: Vec<u8>,
}

/// The state of one direction.
#[derive(Default, Clone, Copy)]
struct Direction {
    queued_bytes: usize,
    last_due: Option<Instant>,
    free_at: Option<Instant>,
}

impl Switch {
    pub(crate) fn start(hosts: Arc<Vec<Host>>, seed: u64) -> Switch {
        let size = 1 + hosts.iter().map(|host| usize::from(host.number)).max().unwrap_or(0);
        let rules = Mutex::new(vec![vec![Rule::default(); size]; size]);
        let shared = Arc::new(Shared { rules, over: AtomicBool::new(false) });
        let seen = shared.clone();
        let forward = move || {
            let ways = vec![vec![Direction::default(); size]; size];
            Forwarder {
                hosts,
                shared: seen,
                ways,
                heap: BinaryHeap::new(),
                count: 0,
                frames: Vec::new(),
                rng: Rng::new(seed),
            }
            .run();
        };
        Switch { shared, thread: Some(std::thread::spawn(forward)) }
    }

    /// Changes the rule of a direction.
    pub(crate) fn change(&self, from: u32, to: u32, change: impl FnOnce(&mut Rule)) {
        change(&mut self.shared.rules.lock().unwrap()[from as usize][to as usize]);
    }

    /// Changes all rules.
    pub(crate) fn change_all(&self, mut change: impl FnMut(&mut Rule)) {
        self.shared.rules.lock().unwrap().iter_mut().flatten().for_each(&mut change);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Forwarder {
    hosts: Arc<Vec<Host>>,
    shared: Arc<Shared>,
    ways: Vec<Vec<Direction>>,
    /// The due time, a number that keeps frames of one due time in order, and the index in `frames`.
    heap: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    count: u64,
    frames: Vec<Option<Waiting>>,
    rng: Rng,
}

impl Forwarder {
    fn run(mut self) {
        let mut buffer = vec![0; FRAME_BYTES];
        while !self.shared.over.load(Ordering::Relaxed) {
            self.send_due();
            let hosts = self.hosts.clone();
            let mut fds: Vec<PollFd<'_>> =
                hosts.iter().map(|host| PollFd::new(host.tap.as_fd(), PollFlags::POLLIN)).collect();
            let wait = self.heap.peek().map_or(Duration::from_millis(50), |Reverse((due, ..))| {
                due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50))
            });
            let wait_ms = wait.as_micros().div_ceil(1000) as u16;
            let _ = poll(&mut fds, PollTimeout::from(wait_ms));
            for host in hosts.iter() {
                for _ in 0..FRAMES_PER_TURN {
                    match nix::unistd::read(&host.tap, &mut buffer) {
                        Ok(len) if len > 14 => self.take(usize::from(host.number), &buffer[..len]),
                        _ => break,
                    }
                }
            }
        }
    }

    /// Takes in a frame from a host.
    fn take(&mut self, from: usize, frame: &[u8]) {
        let to_all = frame[0] & 1 == 1;
        let hosts = self.hosts.clone();
        for host in hosts.iter() {
            let to = usize::from(host.number);
            if to != from && (to_all || frame[..6] == crate::netns::mac(host.number)) {
                self.treat(from, to, frame);
            }
        }
    }

    fn treat(&mut self, from: usize, to: usize, frame: &[u8]) {
        let rule = self.shared.rules.lock().unwrap()[from][to];
        if rule.cut || self.rng.below(1000) < rule.lost {
            return;
        }
        if rule.reset
            && let Some((forth, back)) = resets(frame)
        {
            forth.into_iter().for_each(|bytes| self.put(to, &bytes));
            return self.put(from, &back);
        }
        let copies = if self.rng.below(1000) < rule.twice { 2 } else { 1 };
        for _ in 0..copies {
            self.queue(from, to, frame, &rule);
        }
    }

    fn queue(&mut self, from: usize, to: usize, frame: &[u8], rule: &Rule) {
        let overtaken = self.rng.below(1000) < rule.overtaken;
        let jitter = if rule.jitter_ms > 0 { self.rng.below(rule.jitter_ms as usize) as u64 } else { 0 };
        let way = &mut self.ways[from][to];
        let now = Instant::now();
        let most_bytes = match rule.bytes_per_ms {
            0 => QUEUE_BYTES,
            rate => QUEUE_BYTES.min((rate * QUEUE_MS) as usize),
        };
        // A frame that is lost delays no other frame.
        if way.queued_bytes + frame.len() > most_bytes {
            return;
        }
        let mut due = now + Duration::from_millis(rule.delay_ms + jitter);
        if let Some(bytes_per_ms) = Some(rule.bytes_per_ms).filter(|rate| *rate > 0) {
            due = due.max(way.free_at.unwrap_or(now));
            way.free_at = Some(due + Duration::from_micros(frame.len() as u64 * 1000 / bytes_per_ms));
        }
        if overtaken {
            due += Duration::from_millis(1 + self.rng.below(20) as u64);
        } else {
            // The frame stays behind the frames that wait already.
            due = due.max(way.last_due.unwrap_or(due));
            way.last_due = Some(due);
        }
        if due <= now && way.queued_bytes == 0 {
            return self.put(to, frame);
        }
        way.queued_bytes += frame.len();
        let waiting = Waiting { to, from, bytes: frame.to_vec() };
        let free = self.frames.iter().position(Option::is_none).unwrap_or_else(|| {
            self.frames.push(None);
            self.frames.len() - 1
        });
        self.frames[free] = Some(waiting);
        self.count += 1;
        self.heap.push(Reverse((due, self.count, free)));
    }

    fn send_due(&mut self) {
        while let Some(&Reverse((due, _, at))) = self.heap.peek() {
            if due > Instant::now() {
                return;
            }
            self.heap.pop();
            let Some(Waiting { to, from, bytes }) = self.frames[at].take() else { continue };
            self.ways[from][to].queued_bytes -= bytes.len();
            // A cut also loses the frames that are on the way.
            if !self.shared.rules.lock().unwrap()[from][to].cut {
                self.put(to, &bytes);
            }
        }
    }

    fn put(&self, to: usize, frame: &[u8]) {
        if let Some(host) = self.hosts.iter().find(|host| usize::from(host.number) == to) {
            // If the host does not take the frame, the frame is lost.
            let _ = nix::unistd::write(&host.tap, frame);
        }
    }
}

const IP: usize = 14;

/// For a TCP frame, makes the reset for its receiver (none for a SYN), and the reset for its sender.
fn resets(frame: &[u8]) -> Option<(Option<Vec<u8>>, Vec<u8>)> {
    if frame.len() < IP + 40 || frame[12..14] != [8, 0] || frame[IP + 9] != 6 {
        return None;
    }
    let tcp = IP + usize::from(frame[IP] & 15) * 4;
    let word = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    let (sequence, acknowledged) = (word(tcp + 4)?, word(tcp + 8)?);
    let flags = *frame.get(tcp + 13)?;
    let (syn, ack, rst) = (flags & 2 != 0, flags & 16 != 0, flags & 4 != 0);
    if rst {
        return None;
    }
    let back = match syn && !ack {
        true => segment(frame, tcp, true, 0, sequence.wrapping_add(1)),
        false => segment(frame, tcp, true, acknowledged, sequence.wrapping_add(1)),
    };
    let forth = ack.then(|| segment(frame, tcp, false, sequence, acknowledged));
    Some((forth, back))
}

/// Makes a reset segment for the connection of `frame`.
fn segment(frame: &[u8], tcp: usize, back: bool, sequence: u32, acknowledged: u32) -> Vec<u8> {
    let mut bytes = frame[..IP].to_vec();
    let (mut source, mut target) = ([frame[IP + 12], frame[IP + 13], frame[IP + 14], frame[IP + 15]], [0; 4]);
    target.copy_from_slice(&frame[IP + 16..IP + 20]);
    let mut ports = [frame[tcp], frame[tcp + 1], frame[tcp + 2], frame[tcp + 3]];
    if back {
        bytes[..6].copy_from_slice(&frame[6..12]);
        bytes[6..12].copy_from_slice(&frame[..6]);
        (source, target) = (target, source);
        ports.rotate_left(2);
    }
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend(source);
    ip.extend(target);
    let sum = checksum(&ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut body = ports.to_vec();
    body.extend(sequence.to_be_bytes());
    body.extend(acknowledged.to_be_bytes());
    // Five words of header; flags RST and ACK.
    body.extend([0x50, 0x14, 0, 0, 0, 0, 0, 0]);
    let pseudo = sum_of(&ip[12..20], 6 + 20);
    let sum = checksum(&body, pseudo);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(ip);
    bytes.extend(body);
    bytes
}

fn sum_of(bytes: &[u8], begin: u32) -> u32 {
    bytes
        .chunks(2)
        .fold(begin, |sum, pair| sum + (u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low))))
}

fn checksum(bytes: &[u8], begin: u32) -> u16 {
    let mut sum = sum_of(bytes, begin);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Makes a connection between two hosts; the first one connects.
    fn connect(hosts: &Arc<Vec<Host>>) -> (TcpStream, TcpStream) {
        let on = |n: usize| {
            let hosts = hosts.clone();
            move || {
                hosts[n].enter().unwrap();
                (hosts[1].ip.clone(), 7001)
            }
        };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (serve, dial) = (on(1), on(0));
        let server = std::thread::spawn(move || {
            let listener = TcpListener::bind(serve()).unwrap();
            ready.send(()).unwrap();
            listener.accept().unwrap().0
        });
        is_ready.recv().unwrap();
        let client = std::thread::spawn(move || TcpStream::connect(dial()).unwrap());
        (client.join().unwrap(), server.join().unwrap())
    }

    #[test]
    fn frames_are_forwarded_held_up_and_answered_by_resets() {
        let hosts = match (1..=2).map(|n| Host::new(n, 1500)).collect::<Result<Vec<_>, _>>() {
            Ok(hosts) => Arc::new(hosts),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "no network namespaces or tap devices: {error}");
                return crate::world::say_once(&format!("SKIPPED: the switch: no network namespaces ({error})"));
            }
        };
        let switch = Switch::start(hosts.clone(), 1);
        let (mut client, mut server) = connect(&hosts);
        client.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // TCP delivers all bytes in order under every one of these rules.
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n / 251) as u8).collect();
        let bad = Rule {
            delay_ms: 2,
            jitter_ms: 3,
            lost: 10,
            twice: 50,
            overtaken: 100,
            bytes_per_ms: 2000,
            ..Rule::default()
        };
        let mut came = vec![0; sent.len()];
        for rule in [Rule::default(), bad] {
            switch.change_all(|all| *all = rule);
            std::thread::scope(|scope| {
                scope.spawn(|| client.write_all(&sent).unwrap());
                server.read_exact(&mut came).unwrap();
            });
            assert!(came == sent, "{rule:?}");
        }
        // A cut holds up one direction only.
        switch.change_all(|all| *all = Rule::default());
        switch.change(1, 2, |rule| rule.cut = true);
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client.write_all(b"held").unwrap();
        let none = server.read(&mut came).unwrap_err();
        assert!(matches!(none.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{none}");
        switch.change(1, 2, |rule| rule.cut = false);
        server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        server.read_exact(&mut came[..4]).unwrap();
        assert_eq!(&came[..4], b"held");
        // Both ends see a reset.
        switch.change_all(|all| all.reset = true);
        client.write_all(b"never").unwrap();
        assert_eq!(server.read(&mut came).unwrap_err().kind(), ErrorKind::ConnectionReset);
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(client.read(&mut came).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
