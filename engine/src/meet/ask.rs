//! Asks many processes the same question at once: one thread, non-blocking connections, one deadline.

use crate::meet::dial::{self, Dial};
use crate::meet::names::Names;
use crate::meet::questions::{self, Reply, Request};
use crate::meet::talk::is_self_connected;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::Socket;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Interval at which pending host name lookups are checked, in milliseconds.
const LOOKUP_LOOK_MS: u128 = 10;

/// The processes to ask, possibly many times. Resolved host names are cached between questions.
pub(crate) struct Asker {
    names: Names,
    targets: Vec<Target>,
}

struct Target {
    address: String,
    /// `None` if the address is malformed.
    dial: Option<Dial>,
}

/// The progress of the question to one process.
enum Stage {
    /// No connection attempt is under way; `tried` attempts have been made.
    Idle {
        tried: usize,
    },
    /// The system is connecting; this is attempt number `tried`.
    Connecting {
        socket: Socket,
        tried: usize,
    },
    /// The question is being sent, then the answer is being received.
    Talking {
        socket: Socket,
        sent: usize,
        inbox: Vec<u8>,
    },
    Over,
}

impl Asker {
    pub(crate) fn new(addresses: impl IntoIterator<Item = String>) -> Asker {
        let mut asker = Asker { names: Names::default(), targets: Vec::new() };
        for address in addresses {
            asker.add(address);
        }
        asker
    }

    /// Adds the process at this address to all later questions; returns false if it was added before.
    pub(crate) fn add(&mut self, address: String) -> bool {
        let is_new = !self.targets.iter().any(|target| target.address == address);
        if is_new {
            let dial = Dial::new(&address, &self.names, Instant::now()).ok();
            self.targets.push(Target { address, dial });
        }
        is_new
    }

    /// The addresses of the processes to ask.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(|target| target.address.as_str())
    }

    /// Asks all processes, and passes each answer or error to `heard` as it arrives, with the address.
    ///
    /// Returns when all processes have answered, or after `timeout`. The callback `heard` can return a shorter time to
    /// wait for the remaining answers.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        timeout: Duration,
        mut heard: impl FnMut(&str, io::Result<Reply>) -> Option<Duration>,
    ) -> io::Result<()> {
        let question = questions::question(request)?;
        let mut deadline = Instant::now() + timeout;
        let mut stages: Vec<Stage> = self.targets.iter().map(|_| Stage::Idle { tried: 0 }).collect();
        loop {
            let now = Instant::now();
            for (target, stage) in self.targets.iter_mut().zip(&mut stages) {
                let answer = match std::mem::replace(stage, Stage::Over) {
                    Stage::Over => None,
                    _ if now >= deadline => {
                        let what = format!("no answer within {} ms", timeout.as_millis());
                        Some(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
                    }
                    started => match target.advance(started, &question, now) {
                        Ok((next, answer)) => {
                            *stage = next;
                            answer.map(Ok)
                        }
                        Err(error) => Some(Err(error)),
                    },
                };
                if let Some(left) = answer.and_then(|answer| heard(&target.address, answer)) {
                    deadline = deadline.min(now + left);
                }
            }
            if stages.iter().all(|stage| matches!(stage, Stage::Over)) {
                return Ok(());
            }
            wait(&stages, &question, deadline)?;
        }
    }
}

/// Waits until one of the connections is ready or a deadline is due.
fn wait(stages: &[Stage], question: &[u8], deadline: Instant) -> io::Result<()> {
    let mut fds = Vec::with_capacity(stages.len());
    let mut looks_up = false;
    for stage in stages {
        match stage {
            Stage::Idle { .. } => looks_up = true,
            Stage::Connecting { socket, .. } => fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLOUT)),
            Stage::Talking { socket, sent, .. } => {
                let flags = if *sent < question.len() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
                fds.push(PollFd::new(socket.as_fd(), flags));
            }
            Stage::Over => {}
        }
    }
    // The time is rounded up. Otherwise the loop would spin through the last millisecond.
    let ms = deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
    let ms = if looks_up { ms.min(LOOKUP_LOOK_MS) } else { ms };
    match nix::poll::poll(&mut fds, PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Target {
    /// Continues as far as possible without waiting. Returns the new stage, and the answer once it is complete.
    fn advance(&mut self, stage: Stage, question: &[u8], now: Instant) -> io::Result<(Stage, Option<Reply>)> {
        let Some(dial) = &mut self.dial else { return Err(io::Error::other("the address is malformed")) };
        let mut stage = stage;
        loop {
            stage = match stage {
                Stage::Idle { tried } => match dial.target(now).map_err(io::Error::other)? {
                    None => return Ok((Stage::Idle { tried }, None)),
                    Some(target) => match dial::connect(&target) {
                        Ok(socket) => Stage::Connecting { socket, tried: tried + 1 },
                        Err(error) if tried + 1 >= dial.choices() => return Err(error),
                        Err(_) => Stage::Idle { tried: tried + 1 },
                    },
                },
                Stage::Connecting { socket, tried } => match is_connected(&socket) {
                    Ok(true) => Stage::Talking { socket, sent: 0, inbox: Vec::new() },
                    Ok(false) => return Ok((Stage::Connecting { socket, tried }, None)),
                    Err(error) if tried >= dial.choices() => return Err(error),
                    Err(_) => Stage::Idle { tried },
                },
                Stage::Talking { socket, mut sent, mut inbox } => {
                    let answer = talk(&socket, question, &mut sent, &mut inbox)?;
                    let next = if answer.is_some() { Stage::Over } else { Stage::Talking { socket, sent, inbox } };
                    return Ok((next, answer));
                }
                Stage::Over => return Ok((Stage::Over, None)),
            }
        }
    }
}

/// Whether the connection attempt has succeeded; `false` while it is under way.
fn is_connected(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        // The socket is connected to itself, so no process listens on that port.
        Ok(_) if is_self_connected(socket) => Err(io::ErrorKind::ConnectionRefused.into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends the rest of the question, and reads the available part of the answer.
fn talk(mut socket: &Socket, question: &[u8], sent: &mut usize, inbox: &mut Vec<u8>) -> io::Result<Option<Reply>> {
    while let Some(rest) = question.get(*sent..).filter(|rest| !rest.is_empty()) {
        // Without the flag, a closed connection would kill a process that has the default SIGPIPE handling.
        match socket.send_with_flags(rest, libc::MSG_NOSIGNAL) {
            Ok(n) => *sent += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection without an answer"));
            }
            Ok(n) => {
                inbox.extend_from_slice(&bytes[..n]);
                // The size is bounded: an answer that announces more than the limit of a message is an error.
                if let Some(reply) = questions::reply(inbox)? {
                    return Ok(Some(reply));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::meet::listen;
    use std::net::TcpListener;

    fn question() -> Request {
        Request::Ask { group: "g".to_owned(), founds: None }
    }

    /// A process that answers every question with these bytes, after it has read something.
    fn answers(bytes: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                // The answer is sent in two pieces.
                for piece in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
                    let _ = io::Write::write_all(&mut stream, piece);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        address
    }

    fn reply_bytes(reply: &Reply) -> Vec<u8> {
        let mut bytes = Vec::new();
        questions::send_reply(&mut bytes, reply).unwrap();
        bytes
    }

    #[test]
    fn silence_and_garbage_hold_up_nobody_else() {
        // These connections are never accepted: the system connects them, and no process answers.
        let silent: Vec<_> = (0..40).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let runs = answers(reply_bytes(&Reply::Later { reason: "x".to_owned() }));
        let garbage = answers(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        let mut addresses: Vec<String> = silent.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        addresses.extend([garbage.clone(), runs.clone(), runs.clone(), "unix:/nothing/here".to_owned()]);
        let mut asker = Asker::new(addresses);
        let mut heard = Vec::new();
        let time = Duration::from_secs(2);
        let start = Instant::now();
        asker
            .ask(&question(), time, |address, answer| {
                heard.push((address.to_owned(), answer, start.elapsed()));
                None
            })
            .unwrap();
        assert_eq!(heard.len(), 43, "each once, and an address that was given twice is asked once");
        for (address, answer, after) in &heard {
            match answer {
                Ok(Reply::Later { .. }) => assert!(*address == runs && *after < time),
                Err(error) if *address == garbage => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}"),
                Err(error) if address.starts_with("unix:") => assert_eq!(error.kind(), io::ErrorKind::NotFound),
                Err(error) => assert!(error.kind() == io::ErrorKind::TimedOut && *after >= time, "{address}: {error}"),
                other => panic!("{address}: {other:?}"),
            }
        }
        // The first answer ends this question.
        let mut count = 0;
        asker
            .ask(&question(), Duration::from_secs(60), |_, answer| {
                count += usize::from(answer.is_ok());
                answer.is_ok().then_some(Duration::ZERO)
            })
            .unwrap();
        assert!(count == 1 && start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_name_is_tried_at_all_its_addresses() {
        let address = answers(reply_bytes(&Reply::Linked {}));
        let port = address.rsplit(':').next().unwrap();
        // The name often resolves to `::1` first, and no process listens there.
        let mut asker = Asker::new([format!("localhost:{port}")]);
        let mut heard = None;
        asker
            .ask(&question(), Duration::from_secs(30), |_, answer| {
                heard = Some(answer);
                None
            })
            .unwrap();
        assert!(matches!(heard, Some(Ok(Reply::Linked {}))), "{heard:?}");
    }

    /// A member can listen on a port that a former connection still holds in TIME_WAIT.
    ///
    /// The process that asked holds its end of the connection in TIME_WAIT, on a port that the system chose. The port
    /// may be a member's, and that member must be able to listen on it after a restart.
    #[test]
    fn a_member_can_listen_on_a_port_that_asked() {
        for asks_one in [false, true] {
            let mut attempts = Vec::new();
            // The system assigns one port to connections with several peers, so a connection of another test may hold
            // this port in TIME_WAIT for a minute. It does not hold ten ports in a row.
            let listens = (0..10).any(|_| match listen_on_port_that_asked(asks_one) {
                Ok(_) => true,
                Err(error) => {
                    attempts.push(error);
                    false
                }
            });
            assert!(listens, "{attempts:?}");
        }
    }

    fn listen_on_port_that_asked(asks_one: bool) -> Result<listen::Listening, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            io::Write::write_all(&mut stream, &reply_bytes(&Reply::Linked {})).unwrap();
            // The other end closes first.
            assert_eq!(stream.read(&mut [0; 1024]).unwrap(), 0);
            from
        });
        let time = Duration::from_secs(60);
        if asks_one {
            questions::ask(&address, &question(), time).unwrap();
        } else {
            Asker::new([address]).ask(&question(), time, |_, _| None).unwrap();
        }
        let port = server.join().unwrap().to_string();
        listen::listen(crate::config::address::ListenAt { address: &port, key: "`listen`" })
    }
}
