//! How much of the kernel's memory the links may hold.
//!
//! The kernel has one bound for the buffers of all its TCP connections (`tcp_mem`). Where they reach it, it drops what arrives and
//! sends again ever more slowly, and members that run look dead. By itself it lets each connection have megabytes. Members of one
//! group may all share a host: `n` of them have `n` times `n - 1` ends there. So each end gets its share of the bound, once that is
//! small: a group of less than some thirty members has never that many connections, and keeps what the kernel gives it.
//!
//! A share is never so small that the window is smaller than a segment of the loopback device (64 KiB): the kernel would send
//! each only when a timer tells it to.

use super::Slot;
use socket2::SockRef;
use std::net::TcpStream;

/// The unit of `tcp_mem`, where pages are smallest.
const PAGE_BYTES: usize = 4096;
/// A larger share is no bound: the kernel's own choice is better, and what is not sent is bounded already.
const SHARE_MAX: usize = super::UNSENT_BYTES as usize;
const STEP: usize = 8 << 10;
/// Twice of this, which is for receiving, holds more than a segment.
const SHARE_MIN: usize = 48 << 10;
/// The kernel takes twice of what it is told for what it needs itself; one share is for sending, and two are for receiving.
const SHARES_PER_END: usize = 6;

/// The bound of the host, and what was set.
pub(super) struct Buffers {
    /// Bytes of all connections at which the kernel begins to save; `None` if it does not say.
    pressure: Option<usize>,
    share: Option<usize>,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
        let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
        Buffers { pressure: pages.map(|pages| pages.saturating_mul(PAGE_BYTES)), share: None }
    }

    /// The share where a process has so many links; `None`: what the kernel likes.
    fn share(&self, links: usize) -> Option<usize> {
        let share = self.pressure? / (SHARES_PER_END * links * (links + 1)).max(1);
        // In large steps, so that it changes rarely.
        (share < SHARE_MAX).then(|| (share - share % STEP).max(SHARE_MIN))
    }

    /// Gives each of all `links` its share, after that of `made` was made. What cannot be set is as the kernel likes.
    pub(super) fn bound(&mut self, links: &[(Slot, &TcpStream)], made: Slot) {
        let share = self.share(links.len());
        let changed = std::mem::replace(&mut self.share, share) != share;
        let Some(share) = share else { return };
        for (_, stream) in links.iter().filter(|&&(peer, _)| changed || peer == made) {
            let socket = SockRef::from(stream);
            if let Err(error) = socket.set_recv_buffer_size(2 * share).and_then(|()| socket.set_send_buffer_size(share))
            {
                tracing::debug!(%error, share, "the buffers of a connection are not bounded");
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
