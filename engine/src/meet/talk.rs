//! One connection during its handshake: its buffers, its deadline and its progress.

use super::wire::{Decoder, Garbage, Message};
use crate::process::Private;
use crate::shortage;
use socket2::Socket;
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// The time limit of one connection attempt; another attempt follows.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(3);
/// The time limit of a whole handshake, no matter how the other end spreads its bytes.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// The time that a refused connection has to read the reason.
pub(super) const CLOSING_TIME: Duration = Duration::from_secs(1);

/// The progress of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Outgoing: the system is connecting.
    Connecting,
    /// Incoming: nothing is known about the other end.
    AwaitHello,
    /// Outgoing: our hello is on its way.
    AwaitReply,
    /// Incoming: the other end was verified and has been sent our hello.
    AwaitAccept { rank: usize, incarnation: u64 },
    /// Outgoing: the link is established when our last bytes have been sent.
    SendAccept { incarnation: u64 },
    /// The other end is being sent the reason for the refusal.
    Closing,
}

/// Why a connection cannot be used any more.
#[derive(Debug)]
pub(super) enum Broken {
    Connect(io::Error),
    SelfConnected,
    Closed { midway: bool },
    Io(io::Error),
    Garbage(Garbage),
    Unexpected,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused => write!(f, "connection refused"),
            Broken::Connect(e) => write!(f, "cannot connect: {}", shortage::explained(e)),
            Broken::SelfConnected => write!(f, "connection refused (the attempt met itself)"),
            Broken::Closed { midway: false } => write!(f, "it closed the connection during the handshake"),
            Broken::Closed { midway: true } => write!(f, "it closed the connection in the middle of a message"),
            Broken::Io(e) => write!(f, "the connection broke during the handshake: {e}"),
            Broken::Garbage(garbage) => garbage.fmt(f),
            Broken::Unexpected => write!(f, "it sent a handshake message out of turn"),
        }
    }
}

/// A connection that is not a link yet.
pub(super) struct Talk {
    pub(super) socket: Private<Socket>,
    /// The address at the other end, for log and error texts.
    pub(super) place: String,
    /// The rank to which this connection was made; `None` for an accepted one.
    pub(super) toward: Option<usize>,
    pub(super) stage: Stage,
    pub(super) deadline: Instant,
    outbox: Vec<u8>,
    sent: usize,
    inbox: Decoder,
}

impl Talk {
    pub(super) fn outgoing(socket: Socket, place: String, rank: usize, now: Instant) -> Talk {
        Talk::new(socket, place, Some(rank), Stage::Connecting, now + CONNECT_TIME)
    }

    pub(super) fn incoming(socket: Socket, place: String, now: Instant) -> Talk {
        Talk::new(socket, place, None, Stage::AwaitHello, now + HANDSHAKE_TIME)
    }

    fn new(socket: Socket, place: String, toward: Option<usize>, stage: Stage, deadline: Instant) -> Talk {
        let socket = Private::new(socket);
        Talk { socket, place, toward, stage, deadline, outbox: Vec::new(), sent: 0, inbox: Decoder::default() }
    }

    /// True while bytes wait to be sent, or the system is connecting.
    pub(super) fn wants_write(&self) -> bool {
        self.stage == Stage::Connecting || self.sent < self.outbox.len()
    }

    /// Whether the connection attempt has succeeded; false while it is under way.
    pub(super) fn connected(&self) -> Result<bool, Broken> {
        match is_connected(&self.socket) {
            Err(_) if is_self_connected(&self.socket) => Err(Broken::SelfConnected),
            result => result.map_err(Broken::Connect),
        }
    }

    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    /// Sends the queued bytes. True once all of them have been sent.
    pub(super) fn flush(&mut self) -> Result<bool, Broken> {
        while let Some(rest) = self.outbox.get(self.sent..).filter(|rest| !rest.is_empty()) {
            // Without the flag, writing to a closed connection would kill a process with the default handling of
            // SIGPIPE.
            match self.socket.send_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Broken::Io(e)),
            }
        }
        Ok(true)
    }

    /// Reads the next message and no byte beyond it; `None` until it is complete.
    pub(super) fn receive(&mut self) -> Result<Option<Message>, Broken> {
        receive(&self.socket, &mut self.inbox)
    }

    /// Queues the last message of a connection that is refused.
    pub(super) fn close_with(&mut self, message: &Message, now: Instant) {
        self.close_with_bytes(&message.encode().unwrap_or_default(), now);
    }

    /// Queues the last bytes of a connection that is no longer used.
    pub(super) fn close_with_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.queue(bytes);
        self.stage = Stage::Closing;
        self.deadline = now + CLOSING_TIME;
    }

    /// Sends the last message and waits for the other end to close. True when the connection is finished.
    ///
    /// Closing with unread bytes would reset the connection, and the refusal could be lost.
    pub(super) fn linger(&mut self) -> bool {
        match self.flush() {
            Ok(true) => {
                if self.socket.shutdown(std::net::Shutdown::Write).is_err() {
                    return true;
                }
            }
            Ok(false) => {}
            Err(_) => return true,
        }
        let mut bytes = [0; 4096];
        // Bounded, so that an end that sends without pause does not delay the others.
        for _ in 0..16 {
            match (&*self.socket).read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }
}

/// Reads the next message and no byte beyond it; `None` until it is complete.
pub(super) fn receive(mut socket: &Socket, inbox: &mut Decoder) -> Result<Option<Message>, Broken> {
    let mut bytes = [0; 4096];
    loop {
        let want = inbox.wanted().min(bytes.len());
        match socket.read(&mut bytes[..want]) {
            Ok(0) => return Err(Broken::Closed { midway: !inbox.is_empty() }),
            Ok(n) => {
                if let Some(message) = inbox.push(&bytes[..n]).map_err(Broken::Garbage)? {
                    return Ok(Some(message));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Broken::Io(e)),
        }
    }
}

/// Whether the connection attempt has succeeded; false while it is under way.
pub(super) fn is_connected(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        // No process listens on that port.
        Ok(_) if is_self_connected(socket) => Err(io::ErrorKind::ConnectionRefused.into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a socket is connected to itself. An attempt to connect over loopback succeeds if nobody listens on the port
/// and the system picks that very port for the own end.
pub(crate) fn is_self_connected(socket: &Socket) -> bool {
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(local), Ok(peer)) => local.as_socket().is_some() && local.as_socket() == peer.as_socket(),
        _ => false,
    }
}
