//! Writes to a socket that the other end may have closed.

use socket2::Socket;
use std::io::{self, Write};

/// A socket on which a write fails if the other end is gone. A plain write would raise SIGPIPE, which ends the process
/// unless it ignores the signal, as Rust programs do and others may not.
pub(crate) struct Quiet<'s>(pub(crate) &'s Socket);

impl Write for Quiet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
