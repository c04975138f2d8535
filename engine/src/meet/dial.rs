//! The attempts to connect to one process: where and when.

use super::names::{Answer, Names};
use super::talk;
use crate::config::address;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

/// Pause between two connection attempts.
pub(super) const RETRY_TIME: Duration = Duration::from_millis(25);
/// Pause after a failed handshake, so that the process at that address is not flooded with attempts.
pub(super) const RETRY_AFTER_ANSWER_TIME: Duration = Duration::from_millis(200);
/// Pause between two look-ups of a host name.
const LOOKUP_TIME: Duration = Duration::from_secs(1);

/// The attempts to reach one member.
pub(crate) struct Dial {
    address: String,
    names: Names,
    /// The address needs a look-up; a host name may get its address only when the member's machine starts.
    is_name: bool,
    known: Vec<SockAddr>,
    next: usize,
    lookup: Option<Answer>,
    lookup_at: Instant,
    /// No attempt before this time.
    pub(super) at: Instant,
    /// An attempt is under way.
    pub(super) busy: bool,
}

impl Dial {
    pub(crate) fn new(address: &str, names: &Names, now: Instant) -> io::Result<Dial> {
        let is_unix = address.starts_with("unix:");
        let (known, is_name) = match address {
            name if !is_unix && address::is_name(name) => (Vec::new(), true),
            _ => match addresses(address) {
                Ok(found) => (found, false),
                Err(error) if is_unix => return Err(error),
                // Its interface may appear later.
                Err(_) => (Vec::new(), true),
            },
        };
        let (address, names) = (address.to_owned(), names.clone());
        Ok(Dial { address, names, is_name, known, next: 0, lookup: None, lookup_at: now, at: now, busy: false })
    }

    /// The number of known addresses to try; at least 1.
    pub(crate) fn choices(&self) -> usize {
        self.known.len().max(1)
    }

    /// The address for the next attempt, in turn if there are several; `None` during a look-up. The error is the reason
    /// why there is none.
    pub(crate) fn target(&mut self, now: Instant) -> Result<Option<SockAddr>, String> {
        let looked_up = if self.is_name { self.look_up(now) } else { Ok(()) };
        if self.known.is_empty() {
            return looked_up.map(|()| None);
        }
        let target = self.known.get(self.next % self.known.len()).cloned();
        self.next = self.next.wrapping_add(1);
        Ok(target)
    }

    /// The hint for a name that leads only to this host.
    pub(super) fn hint(&self) -> Option<String> {
        let known: Vec<SocketAddr> = self.known.iter().filter_map(SockAddr::as_socket).collect();
        address::loopback_hint(&self.address, &known)
    }

    /// Looks the name up in a separate thread, so that a slow name service does not delay the other members.
    fn look_up(&mut self, now: Instant) -> Result<(), String> {
        if self.lookup.is_none() && now >= self.lookup_at {
            self.lookup_at = now + LOOKUP_TIME;
            let asked = self.names.look_up(&self.address);
            self.lookup = Some(asked.map_err(|error| error.to_string())?);
        }
        let Some(lookup) = &self.lookup else { return Ok(()) };
        let answer = match lookup.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => Err("its host name could not be looked up".to_owned()),
            Ok(Err(e)) => Err(format!("its host name cannot be resolved: {e}")),
            Ok(Ok(found)) if found.is_empty() => Err("its host name has no address".to_owned()),
            Ok(Ok(found)) => {
                self.known = found.into_iter().map(SockAddr::from).collect();
                Ok(())
            }
        };
        self.lookup = None;
        answer
    }
}

/// Looks up the host name of a member that connects to this process. The result only explains why it is missing.
pub(super) struct NameCheck {
    dial: Dial,
    /// The reason why the last look-up found no address.
    pub(super) obstacle: Option<String>,
}

impl NameCheck {
    pub(super) fn new(address: &str, names: &Names, now: Instant) -> io::Result<NameCheck> {
        Ok(NameCheck { dial: Dial::new(address, names, now)?, obstacle: None })
    }

    /// Looks the name up if that is due.
    pub(super) fn look(&mut self, now: Instant) {
        match self.dial.target(now) {
            Ok(None) => {}
            Ok(Some(_)) => self.obstacle = None,
            Err(obstacle) => self.obstacle = Some(obstacle),
        }
    }
}

/// The addresses to try for `HOST:PORT` or `unix:PATH`. Waits for the name service if HOST is a name.
pub(super) fn addresses(address: &str) -> io::Result<Vec<SockAddr>> {
    match address.strip_prefix("unix:") {
        Some(path) => Ok(vec![SockAddr::unix(path)?]),
        None => Ok(address::resolve(address)?.into_iter().map(SockAddr::from).collect()),
    }
}

/// Connects, and waits at most `timeout`. The socket blocks.
pub(super) fn connect_within(target: &SockAddr, timeout: Duration) -> io::Result<Socket> {
    let deadline = Instant::now() + timeout;
    let left = || deadline.saturating_duration_since(Instant::now());
    let socket = loop {
        match connect(target) {
            Ok(socket) => break socket,
            // The backlog of a unix socket is full.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !left().is_zero() => {
                std::thread::sleep(left().min(RETRY_TIME));
            }
            Err(e) => return Err(e),
        }
    };
    while !talk::is_connected(&socket)? {
        let left = left();
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let ms = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], ms) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Starts to connect. The socket becomes writable when the attempt has succeeded or failed.
pub(crate) fn connect(target: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(target.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if target.domain() != Domain::UNIX {
        // The system may choose a member's port for this end. With this option the member can listen on that port
        // nevertheless, even while the closed connection is in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
    }
    match socket.connect(target) {
        Ok(()) => Ok(socket),
        // On a unix socket EAGAIN means a full backlog, and no attempt is under way then.
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}
