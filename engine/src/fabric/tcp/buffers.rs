//! Bounds the kernel memory that the links' socket buffers use.
//!
//! The kernel has one limit for the buffers of all its TCP connections (`tcp_mem`). When they reach it, the kernel
//! drops arriving segments and retransmits at ever longer intervals, so that running members look dead. Left alone, it
//! grants each connection megabytes. All members of a group may be on one host, where `n` members have `n * (n - 1)`
//! connection ends. So each end gets a share of the limit as soon as that share is small. A group of fewer than about
//! thirty members never has so many connections, and keeps the kernel's own buffer sizes.
//!
//! A share is never so small that the TCP window is smaller than a segment of the loopback device (64 KiB). The kernel
//! would then send each segment only when a timer expires.

use super::Slot;
use socket2::SockRef;
use std::net::TcpStream;

/// The unit of `tcp_mem`: a page, at its smallest size.
const PAGE_BYTES: usize = 4096;
/// A larger share is not set: the kernel's own choice is better, and unsent bytes are bounded already.
const SHARE_MAX: usize = super::UNSENT_BYTES as usize;
const STEP: usize = 8 << 10;
/// The receive buffer is twice this size, and so holds more than a loopback segment.
const SHARE_MIN: usize = 48 << 10;
/// One share for sending and two for receiving; the kernel doubles each for its own overhead.
const SHARES_PER_END: usize = 6;

/// The limit of the host, and the share that was set.
pub(super) struct Buffers {
    /// Bytes in all connections above which the kernel begins to save memory; `None` if unknown.
    pressure: Option<usize>,
    share: Option<usize>,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
        let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
        Buffers { pressure: pages.map(|pages| pages.saturating_mul(PAGE_BYTES)), share: None }
    }

    /// The share of one end when a process has `links` links; `None` keeps the kernel's choice.
    fn share(&self, links: usize) -> Option<usize> {
        let share = self.pressure? / (SHARES_PER_END * links * (links + 1)).max(1);
        // Rounded down to large steps, so that the share changes rarely.
        (share < SHARE_MAX).then(|| (share - share % STEP).max(SHARE_MIN))
    }

    /// Sets the share of all `links` after the link of `made` was added. If a size cannot be set, the kernel's choice
    /// remains.
    pub(super) fn bound(&mut self, links: &[(Slot, &TcpStream)], made: Slot) {
        let share = self.share(links.len());
        let changed = std::mem::replace(&mut self.share, share) != share;
        let Some(share) = share else { return };
        for (_, stream) in links.iter().filter(|&&(peer, _)| changed || peer == made) {
            let socket = SockRef::from(stream);
            if let Err(error) = socket.set_recv_buffer_size(2 * share).and_then(|()| socket.set_send_buffer_size(share))
            {
                tracing::debug!(%error, share, "cannot limit the buffers of a connection");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_links_share_what_the_kernel_has() {
        let pressure = 1_572_315_136;
        let buffers = Buffers { pressure: Some(pressure), share: None };
        assert_eq!((buffers.share(0), buffers.share(4), buffers.share(30)), (None, None, None));
        for links in 33..64 {
            let share = buffers.share(links).unwrap();
            assert!(share >= SHARE_MIN && SHARES_PER_END * share * links * (links + 1) <= pressure, "{links}: {share}");
        }
        assert_eq!(Buffers { pressure: Some(1 << 20), share: None }.share(63), Some(SHARE_MIN));
        assert_eq!(Buffers { pressure: None, share: None }.share(63), None);
    }
}
