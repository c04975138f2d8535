//! Advice for the case that the system has no file descriptor, memory or port left for a call.

use nix::errno::Errno;
use std::io;

/// The kernel reports a lack of ports for outgoing connections like a lack of an address of the family.
const NO_PORT: &str = "this host has no free port for an outgoing connection (enlarge `net.ipv4.ip_local_port_range`, or close connections), or no IPv6 address for an IPv6 connection";

/// The missing resource and the remedy, for an error that goes away once more of the resource is available.
pub(crate) fn advice(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error().map(Errno::from_raw)? {
        Errno::EMFILE => Some("this process has no file descriptor left: close some, or raise its limit (`ulimit -n`)"),
        Errno::ENFILE => Some("the system has no file descriptor left: close some, or raise `fs.file-max`"),
        Errno::ENOMEM => Some("the system has no memory left: free some"),
        Errno::EADDRNOTAVAIL => Some(NO_PORT),
        _ => None,
    }
}

/// The error's text, with the advice if there is any.
pub(crate) fn explained(error: &io::Error) -> String {
    advice(error).map_or_else(|| error.to_string(), |advice| format!("{error}: {advice}"))
}
