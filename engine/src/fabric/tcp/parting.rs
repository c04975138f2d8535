//! A link that was released: what was queued goes out, then our end, and what comes in is thrown away.

use super::link::Link;
use super::send::{Outbox, Sent};
use crate::fabric::{FabricStats, Row};
use nix::sys::epoll::EpollFlags;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// Most bytes thrown away in one pass.
const PASS_BYTES: usize = 1 << 20;

/// See the module. Readiness is kept as in [`Link`].
pub(super) struct Parting {
    /// What the epoll says of it.
    pub(super) token: u64,
    pub(super) stream: TcpStream,
    outbox: Outbox,
    readable: bool,
    writable: bool,
    /// Nothing comes in any more.
    peer_ended: bool,
    /// Nothing goes out any more: our end was sent, or the connection broke.
    own_ended: bool,
}

impl Parting {
    /// Takes over `link`; the sources of what is queued may change from here on.
    pub(super) fn new(link: Link, token: u64, own: &[Arc<Row>]) -> Parting {
        let Link { stream, mut outbox, .. } = link;
        outbox.copy_own(own);
        Parting { token, stream, outbox, readable: true, writable: true, peer_ended: false, own_ended: false }
    }

    /// Notes what the kernel told.
    pub(super) fn note(&mut self, flags: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.readable |= flags.intersects(ended | EpollFlags::EPOLLIN);
        self.writable |= flags.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
    }

    /// Whether it has something to send and the kernel may take it.
    pub(super) fn is_sending(&self) -> bool {
        self.writable && !self.own_ended
    }

    /// One pass. True once nothing is left to do but to close the socket.
    ///
    /// A socket that is closed while it holds bytes unread resets the connection, and what the kernel has not sent yet is
    /// lost: so the peer's bytes are taken, and the socket is kept until its end.
    pub(super) fn serve(&mut self, own: &[Arc<Row>], stats: &mut FabricStats) -> bool {
        if self.is_sending() {
            match self.outbox.send(self.stream.as_fd(), own, stats) {
                Sent::Ready => {}
                Sent::Full => self.writable = false,
                Sent::Failed(_) => return true,
            }
        }
        if !self.own_ended && self.outbox.is_empty() {
            // It fails only on a connection that broke.
            let _ = self.stream.shutdown(Shutdown::Write);
            self.own_ended = true;
        }
        if self.discard(stats).is_err() {
            return true;
        }
        self.own_ended && self.peer_ended
    }

    /// Throws away what came in, one pass.
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
