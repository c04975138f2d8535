//! Writing to a socket whose other end may be gone.

use socket2::Socket;
use std::io::{self, Write};

/// A socket whose writes fail when the other end is gone. Plain ones raise SIGPIPE then, which ends a process that is not
/// Rust's and has not said otherwise.
pub(crate) struct Quiet<'s>(pub(crate) &'s Socket);

impl Write for Quiet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
