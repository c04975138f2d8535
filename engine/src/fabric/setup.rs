//! What can go wrong when two processes set up a link, on fabrics that exchange more than bytes.

use super::Slot;
use crate::error::Error;
use std::io;
use std::os::fd::AsRawFd;

/// Why a link, or some of several, could not be set up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SetupError {
    /// A peer did something that it must not do, or its link broke.
    #[error("{0}")]
    Peer(PeerFault),
    /// The deadline passed; these peers had not finished.
    #[error("at the deadline: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Missing(Vec<PeerFault>),
    /// This process could not get what it needs.
    #[error(transparent)]
    Local(Error),
}

/// What was observed of one peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the process in slot {peer}: {what}")]
pub struct PeerFault {
    /// The peer.
    pub peer: Slot,
    /// What it did, or failed to do.
    pub what: String,
}

/// What a stream tells that carries nothing, but stays open as long as the peer lives.
pub(super) enum Heard {
    /// Nothing.
    Silence,
    /// The peer closed it, or died.
    End,
    /// A byte, which it must not send.
    Byte(u8),
    /// It broke.
    Broken(io::Error),
}

/// Listens to such a stream, without waiting.
pub(super) fn hear(stream: &impl AsRawFd) -> Heard {
    let mut byte = [0_u8];
    // SAFETY: receives into one byte that is alive.
    let count = unsafe { libc::recv(stream.as_raw_fd(), byte.as_mut_ptr().cast(), 1, libc::MSG_DONTWAIT) };
    match count {
        0 => Heard::End,
        1.. => Heard::Byte(byte[0]),
        _ => match io::Error::last_os_error() {
            e if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Heard::Silence,
            e => Heard::Broken(e),
        },
    }
}
