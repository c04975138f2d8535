//! Where and when to connect to one member of a lower rank.

use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// Pause between two connection attempts.
pub(super) const RETRY_TIME: Duration = Duration::from_millis(25);
/// Pause after a handshake that failed: whoever answers there is not to be hammered.
pub(super) const RETRY_AFTER_ANSWER_TIME: Duration = Duration::from_millis(200);
/// Pause between two look-ups of a host name.
const LOOKUP_TIME: Duration = Duration::from_secs(1);

/// The attempts to reach one member.
pub(super) struct Dial {
    address: String,
    /// A host name, which may get its address only when the member's machine comes up.
    is_name: bool,
    known: Vec<SockAddr>,
    next: usize,
    lookup: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
    lookup_at: Instant,
    /// No attempt before this.
    pub(super) at: Instant,
    /// An attempt is under way.
    pub(super) busy: bool,
}

impl Dial {
    pub(super) fn new(address: &str, now: Instant) -> io::Result<Dial> {
        let (known, is_name) = match address.strip_prefix("unix:") {
            Some(path) => (vec![SockAddr::unix(path)?], false),
            None => match address.parse::<SocketAddr>() {
                Ok(address) => (vec![address.into()], false),
                Err(_) => (Vec::new(), true),
            },
        };
        let address = address.to_owned();
        Ok(Dial { address, is_name, known, next: 0, lookup: None, lookup_at: now, at: now, busy: false })
    }

    /// The address for the next attempt, in turn when there are several; `None` while the name is looked up.
    /// The error says why there is none.
    pub(super) fn target(&mut self, now: Instant) -> Result<Option<SockAddr>, String> {
        let looked_up = if self.is_name { self.look_up(now) } else { Ok(()) };
        if self.known.is_empty() {
            return looked_up.map(|()| None);
        }
        let target = self.known.get(self.next % self.known.len()).cloned();
        self.next = self.next.wrapping_add(1);
        Ok(target)
    }

    /// Looks the name up in a thread of its own: a slow name service must not hold up the other members.
    fn look_up(&mut self, now: Instant) -> Result<(), String> {
        if self.lookup.is_none() && now >= self.lookup_at {
            self.lookup_at = now + LOOKUP_TIME;
            let (sender, receiver) = mpsc::sync_channel(1);
            let address = self.address.clone();
            std::thread::Builder::new()
                .name("galerna-lookup".into())
                .spawn(move || {
                    // Nobody listens any more once the meeting is over.
                    let _ = sender.send(address.to_socket_addrs().map(Iterator::collect));
                })
                .map_err(|e| format!("cannot start a thread to look up its host name: {e}"))?;
            self.lookup = Some(receiver);
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

/// Starts to connect; the socket becomes writable when it is decided.
pub(super) fn connect(target: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(target.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if target.domain() != Domain::UNIX {
        // The system may pick a member's own port for this end; the member can then still listen on it.
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
    }
    match socket.connect(target) {
        Ok(()) => Ok(socket),
        // On a unix socket EAGAIN is a full backlog, and nothing is under way.
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}
