//! The stream of a state transfer.
//!
//! Both ends wait for each other until one deadline, that of the join, as long as both are in the group.

use crate::meet::Quiet;
use crate::meet::questions;
use socket2::{Socket, TcpKeepalive};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// Interval at which a waiting end checks whether to continue.
pub(crate) const LOOK_TIME: Duration = Duration::from_millis(200);
/// After this time without data from the other host, the system sends keepalive probes.
const SILENCE_TIME: Duration = Duration::from_secs(5);
/// Interval of the keepalive probes, and their number.
const QUESTION_TIME: Duration = Duration::from_secs(1);
const QUESTIONS: u32 = 5;

/// A stream with a deadline, that ends early if the other end leaves the group.
pub(crate) struct Patient<'a> {
    socket: &'a Socket,
    deadline: Instant,
    /// Whether the other end is still in the group.
    goes_on: &'a dyn Fn() -> bool,
}

impl<'a> Patient<'a> {
    pub(crate) fn new(socket: &'a Socket, deadline: Instant, goes_on: &'a dyn Fn() -> bool) -> io::Result<Patient<'a>> {
        socket.set_read_timeout(Some(LOOK_TIME))?;
        socket.set_write_timeout(Some(LOOK_TIME))?;
        let questions =
            TcpKeepalive::new().with_time(SILENCE_TIME).with_interval(QUESTION_TIME).with_retries(QUESTIONS);
        // A unix socket does not support keepalive, and needs none.
        let _ = socket.set_tcp_keepalive(&questions);
        Ok(Patient { socket, deadline, goes_on })
    }

    /// Repeats a read or write until it succeeds, fails, or has to be given up.
    fn step(&self, mut step: impl FnMut(&Socket) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match step(self.socket) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if questions::is_timeout(&e) => {
                    if !(self.goes_on)() {
                        return Err(io::Error::new(
                            ErrorKind::ConnectionAborted,
                            "the other end is not in the group any more",
                        ));
                    }
                    if Instant::now() >= self.deadline {
                        return Err(io::Error::new(ErrorKind::TimedOut, "the time limit of the join has passed"));
                    }
                }
                done => return done,
            }
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.step(|mut socket| socket.read(into))
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.step(|socket| Quiet(socket).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
