//! The state of a meeting and its loop: one thread, which waits only in poll(2).

use super::check;
use super::dial::{self, Dial, NameCheck, RETRY_TIME};
use super::listen::Listening;
use super::names::Names;
use super::outside::Surroundings;
use super::talk::{CLOSING_TIME, Stage, Talk};
use super::wire::{BODY_MAX, Decoder, Hello, Message};
use crate::config::{Config, Member};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::process::Private;
use crate::shortage;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::{Socket, TcpKeepalive};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Most accepted connections in the handshake. One more replaces the oldest.
const STRANGERS_MAX: usize = 256;
/// Most connections accepted in one pass, so that a flood of them does not delay the others.
const ACCEPTS_PER_PASS: usize = 64;
/// The interval at which the meeting checks the facts from outside, in milliseconds.
const OUTSIDE_LOOK_MS: u128 = 100;
/// A link is probed every second. Without an answer for this many seconds, the process at its other end is gone.
const DEAD_LINK_SECONDS: u64 = 3;
/// The time for which another process may hold this one's place. It may be a predecessor that died with its host,
/// unannounced.
const DUPLICATE_TIME: Duration = Duration::from_secs(DEAD_LINK_SECONDS + 3);
/// The time before the deadline in which the names of missing members that connect to this one are looked up.
const NAME_CHECK_TIME: Duration = Duration::from_secs(3);
/// Pause in accepting when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The peer has ended its side of the stream; nix has no name for the flag.
const POLLRDHUP: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// The sockets by rank, the incarnations by rank, and the listening socket.
pub(super) type Meet = (Vec<Option<Private<Socket>>>, Vec<u64>, Listening);

/// An established stream.
struct Link {
    socket: Private<Socket>,
    incarnation: u64,
    /// Receives the one message after the handshake, `Ready`. The bytes behind it belong to the fabric.
    inbox: Decoder,
    /// The other end has links to all others.
    is_ready: bool,
    /// The other end has been sent our `Ready`.
    ready_sent: bool,
}

pub(super) struct Meeting<'a> {
    pub(super) config: &'a Config,
    pub(super) rank: usize,
    pub(super) hello: Hello,
    /// Our hello, encoded. The next two are our accept and our ready.
    pub(super) greeting: Vec<u8>,
    pub(super) accept: Vec<u8>,
    ready: Vec<u8>,
    /// By rank: the last observed reason why there is no link.
    pub(super) obstacles: Vec<Option<String>>,
    deadline: Deadline,
    listening: Listening,
    accept_at: Instant,
    /// The error of the last attempt to accept a connection, if it failed.
    accept_obstacle: Option<String>,
    /// One for each lower rank.
    dials: Vec<Dial>,
    /// One for each higher rank.
    names: Vec<NameCheck>,
    talks: Vec<Talk>,
    links: Vec<Option<Link>>,
    /// The error that ended the meeting, and the time limit for sending refusals to the others.
    failed: Option<(Error, Instant)>,
    /// The time since which another process has held this one's place.
    duplicate: Option<Instant>,
    pub(super) around: Surroundings<'a>,
}

impl<'a> Meeting<'a> {
    pub(super) fn new(
        config: &'a Config,
        rank: usize,
        incarnation: u64,
        deadline: Deadline,
        listening: Listening,
        around: Surroundings<'a>,
    ) -> Result<Self, Error> {
        let count = config.members.len();
        let own = config
            .members
            .get(rank)
            .ok_or_else(|| Error::Config(format!("rank {rank} is not below the number of members, {count}")))?;
        let hello = Hello { former: around.former.clone(), ..check::our_hello(config, own.id, incarnation) };
        let encode = |message: &Message| {
            let too_long = || Error::Config(format!("the member list exceeds {BODY_MAX} bytes: shorten the addresses"));
            message.encode().ok_or_else(too_long)
        };
        let (now, names) = (Instant::now(), Names::default());
        let wrong = |m: &Member, e| Error::Config(format!("address `{}` of member {}: {e}", m.address, m.id));
        let dials = config.members[..rank].iter();
        let dials = dials.map(|m| Dial::new(&m.address, &names, now).map_err(|e| wrong(m, e)));
        let checks = config.members[rank + 1..].iter();
        let checks = checks.map(|m| NameCheck::new(&m.address, &names, now).map_err(|e| wrong(m, e)));
        Ok(Meeting {
            config,
            rank,
            greeting: encode(&Message::Hello(hello.clone()))?,
            accept: encode(&Message::Accept)?,
            ready: encode(&Message::Ready)?,
            hello,
            obstacles: vec![None; count],
            deadline,
            dials: dials.collect::<Result<_, _>>()?,
            names: checks.collect::<Result<_, _>>()?,
            listening,
            accept_at: now,
            accept_obstacle: None,
            talks: Vec::new(),
            links: std::iter::repeat_with(|| None).take(count).collect(),
            failed: None,
            duplicate: None,
            around,
        })
    }

    /// Runs the meeting. Returns the non-blocking sockets by rank, the incarnations, and the listening socket.
    pub(super) fn run(mut self) -> Result<Meet, Error> {
        loop {
            let now = Instant::now();
            if let Some((error, until)) = &self.failed {
                let telling = self.talks.iter().any(|talk| talk.stage == Stage::Closing);
                if !telling || now >= *until {
                    return Err(error.clone());
                }
            } else if self.all_are_ready() {
                return Ok(self.finish());
            } else if self.around.outside.is_running() {
                return Err(Error::AlreadyRuns { member: self.hello.member });
            } else if now >= self.deadline.at() {
                return Err(self.missing());
            } else {
                self.dial(now);
                self.check_names(now);
            }
            self.expire(now);
            self.wait()?;
        }
    }

    /// Whether this process has links to all others and may found the group, and all others have sent `Ready`.
    ///
    /// No process begins earlier: a founder that has met all others would suspect those that are still connecting.
    fn all_are_ready(&mut self) -> bool {
        let is_complete = self.links.iter().enumerate().all(|(rank, link)| rank == self.rank || link.is_some());
        if !is_complete || self.around.outside.obstacle().is_some() {
            return false;
        }
        for rank in 0..self.links.len() {
            let Some(link) = self.links[rank].as_mut().filter(|link| !link.ready_sent) else { continue };
            link.ready_sent =
                matches!(link.socket.send_with_flags(&self.ready, libc::MSG_NOSIGNAL), Ok(n) if n == self.ready.len());
            if !link.ready_sent {
                self.hang_up(rank);
                return false;
            }
        }
        self.links.iter().flatten().all(|link| link.is_ready)
    }

    fn finish(self) -> Meet {
        let own = self.hello.incarnation;
        let incarnations = self.links.iter().map(|link| link.as_ref().map_or(own, |l| l.incarnation)).collect();
        let socket = |link: Link| {
            // If it fails, an idle link is still probed, which does no harm.
            let _ = link.socket.set_keepalive(false);
            link.socket
        };
        (self.links.into_iter().map(|link| link.map(socket)).collect(), incarnations, self.listening)
    }

    fn missing(&self) -> Error {
        let others = self.config.members.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
        let (met, absent): (Vec<_>, Vec<_>) = others.partition(|(rank, _)| self.links[*rank].is_some());
        let line = |(r, member): (usize, &Member)| {
            let default = || match r.checked_sub(self.rank + 1).map(|n| &self.names[n].obstacle) {
                Some(Some(what)) => format!("no connection from it yet; {what}"),
                Some(None) => "no connection from it yet".to_owned(),
                None => "no answer yet".to_owned(),
            };
            let obstacle = self.obstacles[r].clone().unwrap_or_else(default);
            // The failed connection may have been that member's, so the local error may explain why it is missing.
            let local = self.accept_obstacle.as_ref().filter(|_| r > self.rank);
            let local = local.map(|what| format!("; {what}")).unwrap_or_default();
            let hint = self.dials.get(r).and_then(Dial::hint).map(|hint| format!("; {hint}")).unwrap_or_default();
            format!("member {} at {} ({obstacle}{hint}{local})", member.id, member.address)
        };
        // An obstacle that only names an absent member without an obstacle of its own adds nothing.
        let is_known =
            |what: &String| absent.iter().any(|(r, m)| self.obstacles[*r].is_none() && what.contains(&m.address));
        let obstacle = self.around.outside.obstacle().filter(|what| !is_known(what));
        let mut missing: Vec<String> = absent.into_iter().map(line).collect();
        missing.extend(obstacle);
        if missing.is_empty() {
            // A member that has not met all others reports itself which ones it misses.
            let waits = met.into_iter().filter(|(r, _)| self.links[*r].as_ref().is_some_and(|link| !link.is_ready));
            missing
                .extend(waits.map(|(_, m)| format!("member {} at {} (met, but it waits for others)", m.id, m.address)));
        }
        Error::Missing { missing: missing.join(", "), after_ms: self.config.join_timeout_ms }
    }

    /// Ends the meeting; the first error counts.
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
        // The present link may have ended after poll(2) returned.
        if self.links[rank].as_ref().is_some_and(|link| has_hung_up(&link.socket)) {
            self.hang_up(rank);
        }
        // A process of the same incarnation has lost its earlier connection; the new one replaces it.
        self.links[rank].as_ref().is_some_and(|link| link.incarnation != incarnation)
    }

    /// Handles a refusal because another process holds the place of this one. That process may have died unannounced,
    /// with its host; then its link is soon found to be dead. So this process tries again for [`DUPLICATE_TIME`].
    pub(super) fn is_duplicate(&mut self, rank: usize, error: Error) {
        if self.duplicate.get_or_insert_with(Instant::now).elapsed() >= DUPLICATE_TIME {
            return self.fail(error);
        }
        self.obstacle(rank, error.to_string());
        self.retry(rank, super::dial::RETRY_AFTER_ANSWER_TIME);
    }

    pub(super) fn establish(&mut self, rank: usize, incarnation: u64, talk: Talk) {
        tracing::debug!("meeting: linked with member {} over {}", self.config.members[rank].id, talk.place);
        let socket = talk.socket;
        if socket.local_addr().is_ok_and(|address| address.as_socket().is_some()) {
            let second = Duration::from_secs(1);
            let probes =
                TcpKeepalive::new().with_time(second).with_interval(second).with_retries(DEAD_LINK_SECONDS as u32);
            if let Err(error) = socket.set_tcp_keepalive(&probes) {
                tracing::debug!(%error, "meeting: cannot set TCP keepalive: the failure of a member's host may stay undetected");
            }
        }
        self.duplicate = None;
        self.links[rank] =
            Some(Link { socket, incarnation, inbox: Decoder::default(), is_ready: false, ready_sent: false });
        if let Some(dial) = self.dials.get_mut(rank) {
            dial.busy = false;
        }
    }

    /// Removes a link that the other end has closed.
    fn hang_up(&mut self, rank: usize) {
        if self.links[rank].take().is_some() {
            self.obstacle(rank, "its connection closed after the handshake: it died or gave up".into());
            self.retry(rank, RETRY_TIME);
        }
    }

    /// Handles a message on a link, or its end.
    fn hear(&mut self, rank: usize) {
        let Some(link) = self.links[rank].as_mut().filter(|link| !link.is_ready) else { return self.hang_up(rank) };
        match super::talk::receive(&link.socket, &mut link.inbox) {
            Ok(Some(Message::Ready)) => link.is_ready = true,
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => self.hang_up(rank),
        }
    }

    /// Starts the connection attempts that are due.
    fn dial(&mut self, now: Instant) {
        for rank in 0..self.dials.len() {
            let dial = &mut self.dials[rank];
            if self.links[rank].is_some() || dial.busy || now < dial.at {
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

    /// Shortly before the deadline, looks up the names of the missing members that connect to this one.
    fn check_names(&mut self, now: Instant) {
        if self.deadline.left() <= NAME_CHECK_TIME {
            let names = self.names.iter_mut().zip(&self.links[self.rank + 1..]);
            names.filter(|(_, link)| link.is_none()).for_each(|(name, _)| name.look(now));
        }
    }

    /// Ends the connections that have exceeded their deadlines.
    fn expire(&mut self, now: Instant) {
        let (kept, expired) = std::mem::take(&mut self.talks).into_iter().partition(|talk| now < talk.deadline);
        self.talks = kept;
        for talk in Vec::<Talk>::into_iter(expired) {
            let what = match talk.stage {
                Stage::Connecting => "the connection attempt got no answer",
                _ => "it did not complete the handshake in time",
            };
            self.broken(&talk, what, false);
        }
    }

    /// Waits until something is ready or due, and handles it.
    fn wait(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let accepting = now >= self.accept_at && self.failed.is_none();
        let linked: Vec<usize> = (0..self.links.len()).filter(|&rank| self.links[rank].is_some()).collect();
        let mut fds = Vec::with_capacity(1 + linked.len() + self.talks.len());
        let listen_flags = if accepting { PollFlags::POLLIN } else { PollFlags::empty() };
        fds.push(PollFd::new(self.listening.socket.as_fd(), listen_flags));
        for link in linked.iter().filter_map(|&r| self.links[r].as_ref()) {
            // The bytes behind `Ready` belong to the fabric, so only the end of the stream is awaited.
            let flags = if link.is_ready { POLLRDHUP } else { POLLRDHUP | PollFlags::POLLIN };
            fds.push(PollFd::new(link.socket.as_fd(), flags));
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
            // `None` stands for flags that nix does not know, such as POLLRDHUP.
            .map(|fd| fd.revents().is_none_or(|flags| !flags.is_empty()))
            .collect();
        drop(fds);
        let (links_ready, talks_ready) = ready[1..].split_at(linked.len());
        // Ends first, so that a restarted member can take the place of its previous incarnation.
        for (&rank, _) in linked.iter().zip(links_ready).filter(|(_, ready)| **ready) {
            self.hear(rank);
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
        let mut until = self.failed.as_ref().map_or_else(|| self.deadline.at(), |(_, until)| *until);
        for talk in &self.talks {
            until = until.min(talk.deadline);
        }
        if self.failed.is_none() {
            for (dial, link) in self.dials.iter().zip(&self.links) {
                if !dial.busy && link.is_none() {
                    until = until.min(dial.at);
                }
            }
            if now < self.accept_at {
                until = until.min(self.accept_at);
            }
        }
        // Rounded up; otherwise the loop would spin through the last millisecond.
        let ms = until.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(ms.min(OUTSIDE_LOOK_MS)).unwrap_or(PollTimeout::ZERO)
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_PASS {
            match self.listening.socket.accept() {
                Ok((socket, from)) => self.welcome(socket, &from, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    let what = format!("this process cannot accept a connection: {}", shortage::explained(&e));
                    if self.accept_obstacle.as_ref() != Some(&what) {
                        tracing::warn!("meeting: {what}");
                    }
                    self.accept_obstacle = Some(what);
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
            tracing::debug!("meeting: cannot set TCP_NODELAY for {place}: small messages may be late");
        }
        let mut oldest = None;
        let mut incoming = 0;
        for (i, talk) in self.talks.iter().enumerate().filter(|(_, talk)| talk.toward.is_none()) {
            incoming += 1;
            // A connection that has introduced itself as a member is dropped last.
            let key = (matches!(talk.stage, Stage::AwaitAccept { .. }), talk.deadline);
            if oldest.is_none_or(|(least, _)| key < least) {
                oldest = Some((key, i));
            }
        }
        if let Some((_, i)) = oldest.filter(|_| incoming >= STRANGERS_MAX) {
            let talk = self.talks.remove(i);
            self.broken(&talk, "too many connections without a handshake", false);
        }
        self.talks.push(Talk::incoming(socket, place, now));
    }
}

/// Whether the other end has closed the connection by now.
fn has_hung_up(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), POLLRDHUP)];
    matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}
