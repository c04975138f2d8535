//! The state of a meeting and its one loop: a single thread, nothing but poll(2) waits.

use super::check;
use super::dial::{self, Dial, RETRY_TIME};
use super::listen::Listening;
use super::talk::{CLOSING_TIME, Stage, Talk};
use super::wire::{BODY_MAX, Hello, Message};
use crate::config::Config;
use crate::error::Error;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::Socket;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The most accepted connections whose handshake lasts; the oldest makes way for the next one.
const STRANGERS_MAX: usize = 256;
/// Connections accepted in one pass, so that a flood does not hold up the others.
const ACCEPTS_PER_PASS: usize = 64;
/// How often the meeting looks whether the group runs already, in milliseconds.
const RUNS_LOOK_MS: u128 = 250;
/// Pause in accepting when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The other end sent its end of stream; nix has no name for it.
const POLLRDHUP: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// The sockets by rank, the incarnations, and the socket that listens.
pub(super) type Meet = (Vec<Option<Socket>>, Vec<u64>, Listening);

/// An established stream.
struct Link {
    socket: Socket,
    incarnation: u64,
    /// Closed by a member that had finished its meeting: there are bytes to read before the end. The fabric is to see
    /// both, unless the member is back before that.
    ended: bool,
}

pub(super) struct Meeting<'a> {
    pub(super) config: &'a Config,
    pub(super) rank: usize,
    pub(super) hello: Hello,
    /// Our hello and our accept, encoded.
    pub(super) greeting: Vec<u8>,
    pub(super) accept: Vec<u8>,
    /// By rank: why there is no link, as last seen.
    pub(super) obstacles: Vec<Option<String>>,
    deadline: Instant,
    listening: Listening,
    accept_at: Instant,
    /// One for each lower rank.
    dials: Vec<Dial>,
    talks: Vec<Talk>,
    links: Vec<Option<Link>>,
    /// What ended the meeting, and until when the others may still be told.
    failed: Option<(Error, Instant)>,
}

impl<'a> Meeting<'a> {
    pub(super) fn new(
        config: &'a Config,
        rank: usize,
        incarnation: u64,
        deadline: Instant,
        listening: Listening,
    ) -> Result<Self, Error> {
        let count = config.members.len();
        let own = config
            .members
            .get(rank)
            .ok_or_else(|| Error::Config(format!("rank {rank} is none of the {count} members'")))?;
        let hello = check::our_hello(config, own.id, incarnation);
        let encode = |message: &Message| {
            let too_long = || Error::Config(format!("the member list exceeds {BODY_MAX} bytes: shorten the addresses"));
            message.encode().ok_or_else(too_long)
        };
        let now = Instant::now();
        let dials = config.members[..rank].iter().map(|m| {
            Dial::new(&m.address, now)
                .map_err(|e| Error::Config(format!("address `{}` of member {}: {e}", m.address, m.id)))
        });
        Ok(Meeting {
            config,
            rank,
            greeting: encode(&Message::Hello(hello.clone()))?,
            accept: encode(&Message::Accept)?,
            hello,
            obstacles: vec![None; count],
            deadline,
            dials: dials.collect::<Result<_, _>>()?,
            listening,
            accept_at: now,
            talks: Vec::new(),
            links: std::iter::repeat_with(|| None).take(count).collect(),
            failed: None,
        })
    }

    /// Meets everybody: the sockets by rank, non-blocking, the incarnations, and the socket that listens.
    pub(super) fn run(mut self, runs: &AtomicBool) -> Result<Meet, Error> {
        loop {
            let now = Instant::now();
            if let Some((error, until)) = &self.failed {
                let telling = self.talks.iter().any(|talk| talk.stage == Stage::Closing);
                if !telling || now >= *until {
                    return Err(error.clone());
                }
            } else if self.is_complete() {
                return Ok(self.finish());
            } else if runs.load(Ordering::Relaxed) {
                return Err(Error::AlreadyRuns { member: self.hello.member });
            } else if now >= self.deadline {
                return Err(self.missing());
            } else {
                self.dial(now);
            }
            self.expire(now);
            self.wait()?;
        }
    }

    fn is_complete(&self) -> bool {
        self.links.iter().enumerate().all(|(rank, link)| rank == self.rank || link.is_some())
    }

    fn finish(self) -> Meet {
        let own = self.hello.incarnation;
        let incarnations = self.links.iter().map(|link| link.as_ref().map_or(own, |l| l.incarnation)).collect();
        (self.links.into_iter().map(|link| link.map(|l| l.socket)).collect(), incarnations, self.listening)
    }

    fn missing(&self) -> Error {
        let absent =
            self.config.members.iter().enumerate().filter(|(r, _)| *r != self.rank && self.links[*r].is_none());
        let lines = absent.map(|(r, member)| {
            let default = if r > self.rank { "no connection from it yet" } else { "no answer yet" };
            let obstacle = self.obstacles[r].as_deref().unwrap_or(default);
            format!("member {} at {} ({obstacle})", member.id, member.address)
        });
        let missing = lines.collect::<Vec<_>>().join(", ");
        Error::Missing { missing, after_ms: self.config.join_timeout_ms }
    }

    /// Ends the meeting; the first cause counts.
    pub(super) fn fail(&mut self, error: Error) {
        self.failed.get_or_insert_with(|| (error, Instant::now() + CLOSING_TIME));
    }

    pub(super) fn obstacle(&mut self, rank: usize, what: String) {
        if self.obstacles[rank].as_ref() != Some(&what) {
            tracing::debug!("meeting: member {} is missing: {what}", self.config.members[rank].id);
            self.obstacles[rank] = Some(what);
        }
    }

    pub(super) fn retry(&mut self, rank: usize, after: Duration) {
        if let Some(dial) = self.dials.get_mut(rank) {
            dial.busy = false;
            dial.at = Instant::now() + after;
        }
    }

    /// Whether another process holds the place of this member.
    pub(super) fn is_taken(&mut self, rank: usize, incarnation: u64) -> bool {
        // It may have died since poll(2) was asked.
        if self.links[rank].as_ref().is_some_and(|link| has_hung_up(&link.socket)) {
            self.hang_up(rank);
        }
        // The same process that comes again lost its earlier connection: the new one replaces it.
        self.links[rank].as_ref().is_some_and(|link| !link.ended && link.incarnation != incarnation)
    }

    pub(super) fn establish(&mut self, rank: usize, incarnation: u64, talk: Talk) {
        tracing::debug!("meeting: member {} has met us over {}", self.config.members[rank].id, talk.place);
        self.links[rank] = Some(Link { socket: talk.socket, incarnation, ended: false });
        if let Some(dial) = self.dials.get_mut(rank) {
            dial.busy = false;
        }
    }

    /// The other end of a link has closed it.
    fn hang_up(&mut self, rank: usize) {
        let Some(link) = &mut self.links[rank] else { return };
        if matches!(link.socket.peek(&mut [MaybeUninit::uninit()]), Ok(n) if n > 0) {
            link.ended = true;
        } else {
            self.links[rank] = None;
        }
        self.obstacle(rank, "its connection closed after the handshake: it died or gave up".into());
        self.retry(rank, RETRY_TIME);
    }

    /// Starts the connection attempts that are due.
    fn dial(&mut self, now: Instant) {
        for rank in 0..self.dials.len() {
            let is_up = self.links[rank].as_ref().is_some_and(|link| !link.ended);
            let dial = &mut self.dials[rank];
            if is_up || dial.busy || now < dial.at {
                continue;
            }
            dial.at = now + RETRY_TIME;
            let attempt = match dial.target(now) {
                Ok(None) => continue,
                Ok(Some(target)) => dial::connect(&target).map_err(|e| super::talk::Broken::Connect(e).to_string()),
                Err(obstacle) => Err(obstacle),
            };
            match attempt {
                Ok(socket) => {
                    dial.busy = true;
                    let place = self.config.members[rank].address.clone();
                    self.talks.push(Talk::outgoing(socket, place, rank, now));
                }
                Err(obstacle) => self.obstacle(rank, obstacle),
            }
        }
    }

    /// Drops the connections whose time is over.
    fn expire(&mut self, now: Instant) {
        let (kept, expired) = std::mem::take(&mut self.talks).into_iter().partition(|talk| now < talk.deadline);
        self.talks = kept;
        for talk in Vec::<Talk>::into_iter(expired) {
            let what = match talk.stage {
                Stage::Connecting => "the connection attempt is not answered",
                _ => "it did not complete the handshake in time",
            };
            self.broken(&talk, what, false);
        }
    }

    /// Waits until something is ready or due, and handles it.
    fn wait(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let accepting = now >= self.accept_at && self.failed.is_none();
        let linked: Vec<usize> =
            (0..self.links.len()).filter(|&r| self.links[r].as_ref().is_some_and(|link| !link.ended)).collect();
        let mut fds = Vec::with_capacity(1 + linked.len() + self.talks.len());
        let listen_flags = if accepting { PollFlags::POLLIN } else { PollFlags::empty() };
        fds.push(PollFd::new(self.listening.socket.as_fd(), listen_flags));
        for link in linked.iter().filter_map(|&r| self.links[r].as_ref()) {
            fds.push(PollFd::new(link.socket.as_fd(), POLLRDHUP));
        }
        for talk in &self.talks {
            let flags = match (talk.stage, talk.wants_write()) {
                (Stage::Connecting | Stage::SendAccept { .. }, _) => PollFlags::POLLOUT,
                (_, true) => PollFlags::POLLIN | PollFlags::POLLOUT,
                (_, false) => PollFlags::POLLIN,
            };
            fds.push(PollFd::new(talk.socket.as_fd(), flags));
        }
        match nix::poll::poll(&mut fds, self.timeout(now)) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(e) => return Err(Error::io("cannot wait for the other members", e)),
        }
        let ready: Vec<bool> = fds
            .iter()
            // `None` stands for flags that nix does not know, as POLLRDHUP.
            .map(|fd| fd.revents().is_none_or(|flags| !flags.is_empty()))
            .collect();
        drop(fds);
        let (links_ready, talks_ready) = ready[1..].split_at(linked.len());
        // Ends first: a member that was restarted takes the place of its former self.
        for (&rank, _) in linked.iter().zip(links_ready).filter(|(_, ready)| **ready) {
            self.hang_up(rank);
        }
        for (talk, &ready) in std::mem::take(&mut self.talks).into_iter().zip(talks_ready) {
            let kept = if ready { self.advance(talk) } else { Some(talk) };
            self.talks.extend(kept);
        }
        if accepting && ready[0] {
            self.accept(now);
        }
        Ok(())
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        let mut until = self.failed.as_ref().map_or(self.deadline, |(_, until)| *until);
        for talk in &self.talks {
            until = until.min(talk.deadline);
        }
        if self.failed.is_none() {
            for (dial, link) in self.dials.iter().zip(&self.links) {
                if !dial.busy && link.as_ref().is_none_or(|link| link.ended) {
                    until = until.min(dial.at);
                }
            }
            if now < self.accept_at {
                until = until.min(self.accept_at);
            }
        }
        // Rounded up, or the last millisecond would be spun through.
        let ms = until.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(ms.min(RUNS_LOOK_MS)).unwrap_or(PollTimeout::ZERO)
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_PASS {
            match self.listening.socket.accept() {
                Ok((socket, from)) => self.welcome(socket, &from, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    tracing::warn!("meeting: cannot accept a connection: {e}");
                    self.accept_at = now + ACCEPT_PAUSE;
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, socket: Socket, from: &socket2::SockAddr, now: Instant) {
        let place = from.as_socket().map_or_else(|| "this host".to_owned(), |address| address.to_string());
        if let Err(e) = socket.set_nonblocking(true) {
            tracing::warn!("meeting: dropped a connection from {place}: {e}");
            return;
        }
        if from.as_socket().is_some() && socket.set_tcp_nodelay(true).is_err() {
            tracing::debug!("meeting: {place}: small messages may be late");
        }
        let mut oldest = None;
        let mut incoming = 0;
        for (i, talk) in self.talks.iter().enumerate().filter(|(_, talk)| talk.toward.is_none()) {
            incoming += 1;
            // Whoever introduced itself as a member goes last.
            let key = (matches!(talk.stage, Stage::AwaitAccept { .. }), talk.deadline);
            if oldest.is_none_or(|(least, _)| key < least) {
                oldest = Some((key, i));
            }
        }
        if let Some((_, i)) = oldest.filter(|_| incoming >= STRANGERS_MAX) {
            let talk = self.talks.remove(i);
            self.broken(&talk, "too many connections that say nothing", false);
        }
        self.talks.push(Talk::incoming(socket, place, now));
    }
}

/// Whether the other end has closed, looked at now.
fn has_hung_up(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), POLLRDHUP)];
    matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}
