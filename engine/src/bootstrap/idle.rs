//! Answers questions from other processes while this process is in no group.
//!
//! Other processes ask whether the group runs, possibly because this process is one of their contacts. Without an
//! answer they would not found the group. The thread in this module answers while this process asks to be admitted.

use crate::config::Config;
use crate::error::Error;
use crate::meet;
use crate::meet::listen::Listening;
use crate::meet::questions::{self, First, Reply, Request};
use crate::peers::contacts::Contacts;
use crate::thread::{self, OWN_STACK_BYTES};
use crate::types::MemberId;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time limit for the question of a connected process.
const VISIT_TIME: Duration = Duration::from_secs(2);
/// Maximum number of connections at a time; a new connection replaces the oldest.
const VISITORS_MAX: usize = 64;
/// Pause in accepting when the system has no free descriptor, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 50;

/// The answers of a process that is in no group.
pub(crate) struct Idle {
    group: String,
    me: MemberId,
    /// The incarnation of a process that asks to be admitted.
    incarnation: Option<u64>,
    waits: Reply,
    not_founding: Vec<u8>,
}

impl Idle {
    /// Prepares the answers. `not_founding` is the reason why this process does not found the group.
    pub(crate) fn new(config: &Config, contacts: &Contacts, not_founding: &str) -> Result<Idle, Error> {
        let (me, _, _) = config.own()?;
        let waits = contacts.waits();
        let not_founding = meet::not_founding(me, not_founding);
        Ok(Idle { group: config.group.clone(), me, incarnation: None, waits, not_founding })
    }

    /// Sets the incarnation with which this process asks to be admitted.
    ///
    /// The leader dials back, and this process must then answer with it.
    pub(crate) fn known_as(self, incarnation: u64) -> Idle {
        Idle { incarnation: Some(incarnation), ..self }
    }

    /// Returns the message that answers the question with this body.
    pub(crate) fn answer(&self, question: &[u8]) -> Vec<u8> {
        let reply = match questions::request(&String::from_utf8_lossy(question)) {
            Ok(request) => self.reply(&request),
            Err(error) => Reply::Refused { reason: format!("the question is malformed: {error}") },
        };
        let mut bytes = Vec::new();
        // Writing to memory cannot fail. An answer that is too long is replaced by an empty one.
        let _ = questions::send_reply(&mut bytes, &reply);
        bytes
    }

    fn reply(&self, request: &Request) -> Reply {
        match request {
            Request::Ask { group, .. } | Request::Join { group, .. } if *group != self.group => {
                Reply::Disagreement { member: self.me.0, key: "group".to_owned(), value: self.group.clone() }
            }
            Request::Ask { .. } => self.waits.clone(),
            Request::Join { .. } => Reply::Later { reason: "it is not in the group yet".to_owned() },
            Request::Dial { incarnation } if Some(*incarnation) == self.incarnation => Reply::Dialled {},
            Request::Dial { .. } => {
                Reply::Refused { reason: format!("another process (member {}) listens there", self.me) }
            }
            Request::Link { .. }
            | Request::Relink { .. }
            | Request::Relay { .. }
            | Request::DialBack { .. }
            | Request::State { .. }
            | Request::Log { .. } => Reply::Refused { reason: format!("member {} is not in a group yet", self.me) },
        }
    }
}

/// The thread that answers until it is closed.
pub(crate) struct IdleAcceptor {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<Listening>>,
}

impl IdleAcceptor {
    pub(crate) fn open(listening: Listening, idle: Idle) -> Result<IdleAcceptor, Error> {
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.map_err(|e| Error::io("cannot make an event descriptor", e))?);
        let seen = stop.clone();
        let serve = move || {
            serve(&listening, &seen, &idle);
            listening
        };
        let thread = thread::spawn("galerna-acceptor", "answers whether the group runs", OWN_STACK_BYTES, serve)?;
        Ok(IdleAcceptor { stop, thread: Some(thread) })
    }

    /// Ends the thread and returns the listening socket.
    pub(crate) fn close(mut self) -> Result<Listening, Error> {
        let ended = self.end().and_then(|thread| thread.join().ok());
        ended.ok_or_else(|| Error::Internal("the thread that answers whether the group runs panicked".to_owned()))
    }

    fn end(&mut self) -> Option<JoinHandle<Listening>> {
        // The write cannot fail, because no other thread writes this counter.
        let _ = self.stop.write(1);
        self.thread.take()
    }
}

impl Drop for IdleAcceptor {
    fn drop(&mut self) {
        if let Some(thread) = self.end() {
            let _ = thread.join();
        }
    }
}

/// A connection over which the complete question has not arrived yet.
struct Visitor {
    socket: Socket,
    inbox: Vec<u8>,
    until: Instant,
}

fn serve(listening: &Listening, stop: &EventFd, idle: &Idle) {
    let mut visitors: Vec<Visitor> = Vec::new();
    loop {
        let mut fds = vec![
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(listening.socket.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(visitors.iter().map(|visitor| PollFd::new(visitor.socket.as_fd(), PollFlags::POLLIN)));
        let timeout = if visitors.is_empty() { PollTimeout::NONE } else { PollTimeout::from(200u8) };
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                return tracing::error!(%error, "cannot wait for connections: this process no longer answers whether the group runs");
            }
        }
        if fds[0].revents().is_some_and(|flags| !flags.is_empty()) {
            return;
        }
        drop(fds);
        let now = Instant::now();
        visitors.retain_mut(|visitor| now < visitor.until && hear(visitor, idle));
        match listening.socket.accept() {
            Ok((socket, _)) => {
                if visitors.len() >= VISITORS_MAX {
                    visitors.remove(0);
                }
                if socket.set_nonblocking(true).is_ok() {
                    visitors.push(Visitor { socket, inbox: Vec::new(), until: now + VISIT_TIME });
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                std::thread::sleep(Duration::from_millis(ACCEPT_PAUSE_MS));
            }
        }
    }
}

/// Reads the available bytes, and answers once the question is complete. Returns false if the connection is over.
fn hear(visitor: &mut Visitor, idle: &Idle) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match (&visitor.socket).read(&mut bytes) {
            Ok(0) => return false,
            Ok(n) => visitor.inbox.extend_from_slice(&bytes[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return false,
        }
        let answer = match questions::first_of(&visitor.inbox) {
            Ok(None) => continue,
            Ok(Some(First::Hello)) => idle.not_founding.clone(),
            Ok(Some(First::Request(request))) => {
                let mut bytes = Vec::new();
                let _ = questions::send_reply(&mut bytes, &idle.reply(&request));
                bytes
            }
            Err(_) => return false,
        };
        // All bytes of the other end have been read, so closing does not discard the answer. The send buffer of a new
        // connection has room for it.
        let _ = visitor.socket.send_with_flags(&answer, libc::MSG_NOSIGNAL);
        return false;
    }
}
