//! A released link: sends the queued bytes, then the end of the stream, and discards everything that comes in.

use super::link::Link;
use super::send::{Outbox, Sent};
use crate::fabric::{FabricStats, Row};
use crate::process::Private;
use nix::sys::epoll::EpollFlags;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// Most bytes discarded in one pass.
const PASS_BYTES: usize = 1 << 20;

/// A released link. Readiness is tracked as in [`Link`].
pub(super) struct Parting {
    /// Identifies the link in the events of the epoll.
    pub(super) token: u64,
    pub(super) stream: Private<TcpStream>,
    outbox: Outbox,
    readable: bool,
    writable: bool,
    /// The peer's end of the stream was read.
    peer_ended: bool,
    /// Nothing more is sent: the end of our stream was sent, or the connection broke.
    own_ended: bool,
}

impl Parting {
    /// Takes over `link`. The sources of its queued writes may change from now on.
    pub(super) fn new(link: Link, token: u64, own: &[Arc<Row>]) -> Parting {
        let Link { stream, mut outbox, .. } = link;
        outbox.copy_own(own);
        Parting { token, stream, outbox, readable: true, writable: true, peer_ended: false, own_ended: false }
    }

    /// Records an event of the epoll.
    pub(super) fn note(&mut self, flags: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.readable |= flags.intersects(ended | EpollFlags::EPOLLIN);
        self.writable |= flags.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
    }

    /// Whether something is still to be sent and the kernel may take it.
    pub(super) fn is_sending(&self) -> bool {
        self.writable && !self.own_ended
    }

    /// Serves the link for one pass. True once the socket can be closed.
    ///
    /// Closing a socket that holds unread bytes resets the connection, and the bytes that the kernel has not sent yet
    /// are lost. So the peer's bytes are read, and the socket stays open until the peer ends its stream.
    pub(super) fn serve(&mut self, own: &[Arc<Row>], stats: &mut FabricStats) -> bool {
        if self.is_sending() {
            match self.outbox.send(self.stream.as_fd(), own, stats) {
                Sent::Ready => {}
                Sent::Full => self.writable = false,
                Sent::Failed(_) => return true,
            }
        }
        if !self.own_ended && self.outbox.is_empty() {
            // Fails only on a connection that broke.
            let _ = self.stream.shutdown(Shutdown::Write);
            self.own_ended = true;
        }
        if self.discard(stats).is_err() {
            return true;
        }
        self.own_ended && self.peer_ended
    }

    /// Discards received bytes for one pass.
    pub(super) fn discard(&mut self, stats: &mut FabricStats) -> io::Result<()> {
        let mut left = PASS_BYTES;
        while left > 0 && self.readable && !self.peer_ended {
            let (fd, flags) = (self.stream.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
            stats.system_calls += 1;
            // SAFETY: with MSG_TRUNC a TCP socket drops the bytes and writes to no buffer.
            let taken = unsafe { libc::recv(fd, std::ptr::null_mut(), left, flags) };
            match usize::try_from(taken).map_err(|_| io::Error::last_os_error()) {
                Ok(0) => self.peer_ended = true,
                Ok(taken) => {
                    stats.bytes_received += taken as u64;
                    left = left.saturating_sub(taken);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
