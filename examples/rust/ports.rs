//! Free ports for members on one host.

use std::io;
use std::net::TcpListener;

/// Finds a port outside the range from which the system takes ports for outgoing connections. So no connection can take
/// the port between this call and the moment in which the member listens on it, or while that member is away.
pub(crate) fn free_port(host: &str) -> io::Result<TcpListener> {
    let begin = std::process::id().wrapping_mul(977);
    let port = |n: u32| (10_000 + begin.wrapping_add(n) % 20_000) as u16;
    let free = (0..20_000).find_map(|n| TcpListener::bind((host, port(n))).ok());
    free.map_or_else(|| TcpListener::bind((host, 0)), Ok)
}
