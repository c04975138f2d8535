//! The stream of a state transfer: both ends wait for each other until one deadline, that of the join, for as long as both are
//! in the group.

use crate::fabric::meet::Quiet;
use socket2::{Socket, TcpKeepalive};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// How often an end that waits looks whether it still has to.
pub(super) const LOOK_TIME: Duration = Duration::from_millis(200);
/// A connection whose other host says nothing for so long is asked for a sign of life, by the system.
const SILENCE_TIME: Duration = Duration::from_secs(5);
/// Pause between the questions, and their number.
const QUESTION_TIME: Duration = Duration::from_secs(1);
const QUESTIONS: u32 = 5;

/// See the module.
pub(super) struct Patient<'a> {
    socket: &'a Socket,
    deadline: Instant,
    /// Whether the other end is still waited for.
    goes_on: &'a dyn Fn() -> bool,
}

impl<'a> Patient<'a> {
    pub(super) fn new(socket: &'a Socket, deadline: Instant, goes_on: &'a dyn Fn() -> bool) -> io::Result<Patient<'a>> {
        socket.set_read_timeout(Some(LOOK_TIME))?;
        socket.set_write_timeout(Some(LOOK_TIME))?;
        let questions =
            TcpKeepalive::new().with_time(SILENCE_TIME).with_interval(QUESTION_TIME).with_retries(QUESTIONS);
        // Sockets of the own host need none, and have none.
        let _ = socket.set_tcp_keepalive(&questions);
        Ok(Patient { socket, deadline, goes_on })
    }

    /// One step that may have to be made again.
    fn step(&self, mut step: impl FnMut(&Socket) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match step(self.socket) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if !(self.goes_on)() {
                        return Err(io::Error::new(
                            ErrorKind::ConnectionAborted,
                            "the other end is not in the group any more",
                        ));
                    }
                    if Instant::now() >= self.deadline {
                        return Err(io::Error::new(ErrorKind::TimedOut, "the time that the join may take is over"));
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
