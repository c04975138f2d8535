//! Free ports for members that a test or a benchmark starts.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Finds a port outside the range from which the system takes ports for outgoing connections. So no connection can take
/// the port between this call and the moment in which the member listens on it, or while that member is away.
fn free_port(host: &str) -> io::Result<TcpListener> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(977);
    let ports = || 10_000 + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
    let free = (0..20_000).find_map(|_| TcpListener::bind((host, ports() as u16)).ok());
    free.map_or_else(|| TcpListener::bind((host, 0)), Ok)
}

/// Returns addresses with free ports, one for each host.
pub(crate) fn free_addresses<'h>(hosts: impl Iterator<Item = &'h str>) -> io::Result<Vec<String>> {
    // All listeners are open at once, so that no port is given out twice.
    let listeners = hosts.map(free_port).collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}
