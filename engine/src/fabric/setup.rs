//! Errors of link set-up, on fabrics that exchange more than bytes.

use super::Slot;
use crate::error::Error;
use std::io;
use std::os::fd::AsRawFd;

/// Why one or more links could not be set up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SetupError {
    /// A peer violated the set-up protocol, or its link broke.
    #[error("{0}")]
    Peer(PeerFault),
    /// The deadline passed before these peers had finished.
    #[error("not finished at the deadline: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Missing(Vec<PeerFault>),
    /// This process could not get a resource that it needs.
    #[error(transparent)]
    Local(Error),
}

/// A fault that was observed at one peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the process in slot {peer}: {what}")]
pub struct PeerFault {
    /// The peer.
    pub peer: Slot,
    /// A description of the fault: something the peer did, or failed to do.
    pub what: String,
}

/// The result of [`hear`] on a stream that carries nothing, but stays open as long as the peer runs.
pub(super) enum Heard {
    /// Nothing has happened.
    Silence,
    /// The peer closed the stream, or died.
    End,
    /// The peer sent a byte, which it must not.
    Byte(u8),
    /// The stream broke.
    Broken(io::Error),
}

/// Checks such a stream without waiting.
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
