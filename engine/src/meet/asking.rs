//! A question on its way to another process: the name is looked up, then the question is sent and the answer received.
//! None of the steps blocks.

use super::dial::{self, Dial};
use super::names::Names;
use super::questions::{self, Reply, Request, plain};
use super::talk;
use crate::deadline::Deadline;
use crate::process::Private;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Interval at which a pending host name lookup is checked.
pub(super) const LOOKUP_LOOK_TIME: Duration = Duration::from_millis(10);

/// See the module.
pub(crate) struct Asking {
    question: Vec<u8>,
    /// Number of addresses that were tried, the present one included.
    tried: usize,
    /// `None` while the host name is being looked up.
    connection: Option<Connection>,
}

/// The connection to one address of the process.
struct Connection {
    socket: Private<Socket>,
    is_connected: bool,
    sent: usize,
    heard: Vec<u8>,
}

impl Asking {
    /// Prepares the question with this encoding. The first step begins to send it.
    pub(crate) fn new(question: Vec<u8>) -> Asking {
        Asking { question, tried: 0, connection: None }
    }

    /// The socket and the event for which the next step waits; `None` while the host name is being looked up.
    pub(crate) fn waits_for(&self) -> Option<PollFd<'_>> {
        let connection = self.connection.as_ref()?;
        let sends = connection.sent < self.question.len();
        Some(PollFd::new(connection.socket.as_fd(), if sends { PollFlags::POLLOUT } else { PollFlags::POLLIN }))
    }

    /// Whether the connection is established, so that the other process may answer.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_connected)
    }

    /// The socket of the connection, after the answer.
    pub(crate) fn into_socket(self) -> Option<Private<Socket>> {
        self.connection.map(|connection| connection.socket)
    }

    /// Sends and receives as much as possible without blocking. Returns the answer once it is complete; reads no byte
    /// beyond it.
    ///
    /// `dial` has the addresses of the process. If the connection to one fails, the next one is tried.
    pub(crate) fn step(&mut self, dial: &mut Dial, now: Instant) -> io::Result<Option<Reply>> {
        loop {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => match dial.target(now).map_err(io::Error::other)? {
                    None => return Ok(None),
                    Some(target) => {
                        self.tried += 1;
                        match dial::connect(&target) {
                            Ok(socket) => self.connection.insert(Connection::new(socket)),
                            Err(error) if self.tried >= dial.choices() => return Err(error),
                            Err(_) => continue,
                        }
                    }
                },
            };
            match connection.step(&self.question) {
                Err(_) if !connection.is_connected && self.tried < dial.choices() => self.connection = None,
                result => return result,
            }
        }
    }
}

impl Connection {
    fn new(socket: Socket) -> Connection {
        Connection { socket: Private::new(socket), is_connected: false, sent: 0, heard: Vec::new() }
    }

    fn step(&mut self, question: &[u8]) -> io::Result<Option<Reply>> {
        if !self.is_connected {
            self.is_connected = talk::is_connected(&self.socket)?;
            if !self.is_connected {
                return Ok(None);
            }
        }
        let later = |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        while let Some(rest) = question.get(self.sent..).filter(|rest| !rest.is_empty()) {
            // Without the flag, a closed connection would kill a process that has the default SIGPIPE handling.
            match self.socket.send_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(error) if later(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        loop {
            // The size is bounded: an answer that announces more than the limit of a message is an error.
            let missing = match questions::answer_of(&self.heard)? {
                Ok(reply) => return Ok(Some(reply)),
                Err(missing) => missing,
            };
            let mut more = vec![0; missing];
            match self.socket.read(&mut more) {
                Ok(0) => {
                    let what = "it closed the connection without an answer";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
                }
                Ok(count) => self.heard.extend_from_slice(&more[..count]),
                Err(error) if later(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Like [`questions::ask`], but ends when the deadline passes, to which a cancellation may bring it forward. It ends
/// then even if the name service does not answer.
pub(crate) fn ask(address: &str, request: &Request, timeout: Duration, deadline: &Deadline) -> io::Result<Reply> {
    ask_by(&Names::default(), address, request, timeout, deadline)
}

fn ask_by(
    names: &Names,
    address: &str,
    request: &Request,
    timeout: Duration,
    deadline: &Deadline,
) -> io::Result<Reply> {
    let begun = Instant::now();
    let mut dial = Dial::new(address, names, begun)?;
    let mut asking = Asking::new(questions::question(request)?);
    let answer = finish(&mut asking, &mut dial, &deadline.or(begun + timeout));
    answer.map_err(|error| plain(error, begun.elapsed().min(timeout)))
}

/// Waits for the answer until the deadline.
fn finish(asking: &mut Asking, dial: &mut Dial, deadline: &Deadline) -> io::Result<Reply> {
    let (mut tried, mut share) = (0, deadline.at());
    loop {
        if let Some(reply) = asking.step(dial, Instant::now())? {
            return Ok(reply);
        }
        if deadline.is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // An address that does not answer must leave time for the others.
        let others = dial.choices().saturating_sub(asking.tried);
        if asking.tried != tried {
            tried = asking.tried;
            share = Instant::now() + deadline.left() / (others as u32 + 1);
        } else if others > 0 && Instant::now() >= share {
            asking.connection = None;
            continue;
        }
        let mut fds: Vec<PollFd<'_>> = asking.waits_for().into_iter().collect();
        let slice = if fds.is_empty() { deadline.slice().min(LOOKUP_LOOK_TIME) } else { deadline.or(share).slice() };
        // Rounded up, so that the last wait does not end before the deadline.
        let ms = u16::try_from(slice.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(ms)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadline::Cancel;

    /// A name service that does not answer delays a cancellation by no more than one look at the deadline.
    #[test]
    fn a_cancellation_does_not_wait_for_the_name_service() {
        let (names, cancel) = (Names::unanswered(), Cancel::default());
        let deadline = Deadline::after(Duration::from_secs(600), &cancel);
        let begun = Instant::now();
        let cancels = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            cancel.set(Duration::ZERO);
        });
        let request = Request::Ask { group: "g".to_owned(), founds: None };
        let answer = ask_by(&names, "some-host:7001", &request, Duration::from_secs(600), &deadline);
        let took = begun.elapsed();
        cancels.join().unwrap();
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(60), "{took:?}");
    }

    #[test]
    fn a_name_that_is_unknown_is_reported() {
        let request = Request::Ask { group: "g".to_owned(), founds: None };
        let time = Duration::from_secs(60);
        let deadline = Deadline::after(time, &Cancel::default());
        let error = ask("no such host:7001", &request, time, &deadline).unwrap_err().to_string();
        assert!(error.starts_with("its host name cannot be resolved: "), "{error}");
    }
}
