//! A question on its way to another process. None of its steps blocks.

use super::questions::{self, Reply, Request, plain};
use crate::config::address;
use crate::deadline::Deadline;
use crate::process::Private;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct Asking {
    pub(crate) socket: Private<Socket>,
    question: Vec<u8>,
    sent: usize,
    heard: Vec<u8>,
}

impl Asking {
    /// Begins to ask. If the name in `address` has several addresses, `turn` selects one.
    pub(crate) fn begin(address: &str, turn: usize, request: &Request) -> io::Result<Asking> {
        let question = questions::question(request)?;
        let socket = Private::new(questions::begin_connect(address, turn)?);
        Ok(Asking { socket, question, sent: 0, heard: Vec::new() })
    }

    pub(crate) fn waits_for(&self) -> PollFlags {
        if self.sent < self.question.len() { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Whether a part of the question has been sent, so that the other process may answer it.
    pub(crate) fn has_begun(&self) -> bool {
        self.sent > 0
    }

    /// Sends and receives as much as possible without blocking. Returns the answer once it is complete; reads no byte
    /// beyond it.
    pub(crate) fn step(&mut self) -> io::Result<Option<Reply>> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        let later = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected)
        };
        while self.sent < self.question.len() {
            match self.socket.send_with_flags(&self.question[self.sent..], libc::MSG_NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(error) if later(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        loop {
            let missing = match questions::answer_of(&self.heard)? {
                Ok(reply) => return Ok(Some(reply)),
                Err(missing) => missing,
            };
            let mut more = vec![0; missing];
            match self.socket.read(&mut more) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
                Ok(count) => self.heard.extend_from_slice(&more[..count]),
                Err(error) if later(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the answer until the deadline.
    fn finish(mut self, deadline: &Deadline) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.step()? {
                return Ok(reply);
            }
            let slice = deadline.slice();
            if slice.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut fds = [PollFd::new(self.socket.as_fd(), self.waits_for())];
            // Rounded up, so that the last wait does not end before the deadline.
            let ms = u16::try_from(slice.as_millis() + 1).unwrap_or(u16::MAX);
            match poll(&mut fds, PollTimeout::from(ms)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Like [`questions::ask`], but ends when the deadline passes, to which a cancellation may bring it forward.
pub(crate) fn ask(address: &str, request: &Request, timeout: Duration, deadline: &Deadline) -> io::Result<Reply> {
    let begun = Instant::now();
    let whole = deadline.or(begun + timeout);
    let candidates = if address.starts_with("unix:") { 1 } else { address::resolve(address)?.len().max(1) };
    let mut last = io::ErrorKind::TimedOut.into();
    for turn in 0..candidates {
        // An address that does not answer must leave time for the others.
        let share = whole.or(Instant::now() + whole.left() / (candidates - turn) as u32);
        match Asking::begin(address, turn, request).and_then(|asking| asking.finish(&share)) {
            Ok(reply) => return Ok(reply),
            Err(error) => last = error,
        }
    }
    Err(plain(last, begun.elapsed().min(timeout)))
}
