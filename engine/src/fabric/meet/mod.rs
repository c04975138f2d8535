//! How the configured members find each other and check that they agree.
//!
//! [`meet_tcp`] and [`meet_unix`] return when this process has one stream to every other member, each at the same
//! configuration; what the fabric sends next follows the handshake directly.
//!
//! Every member listens on its own address; of each pair, the higher rank connects to the lower and tries again until
//! the deadline, so members start in any order. Then:
//!
//! ```text
//! higher rank                   lower rank
//! Hello            ->
//!                  <-   Hello, or Refuse (why)
//! Accept, or Refuse ->
//! ```
//!
//! The higher rank counts the link when `Accept` is sent, the lower when it is read. A link that closes while other
//! members are still missing makes its member missing again: it may be restarted. Whoever else connects is a stranger,
//! and neither its bytes nor its silence hold up the meeting.

mod check;
mod dial;
mod handshake;
mod listen;
mod meeting;
mod talk;
#[cfg(test)]
mod tests;
mod wire;

use crate::config::Config;
use crate::error::Error;
use meeting::Meeting;
use socket2::Socket;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// What a completed meeting hands to a fabric.
#[derive(Debug)]
pub struct Met<S> {
    /// The stream to the member of each rank, `None` for this process; blocking, and no byte beyond the handshake was
    /// read.
    pub streams: Vec<Option<S>>,
    /// The random number of each process' life, by rank. That of rank 0 names the group.
    pub incarnations: Vec<u64>,
}

/// Meets the other members of `config` over TCP as the member of rank `rank`; `incarnation` is a fresh random number.
///
/// # Errors
/// * [`Error::Config`]: an address is not `HOST:PORT`, or the rank is none of the members'.
/// * [`Error::Listen`]: the own address cannot be listened on, for instance because this member runs already.
/// * [`Error::Disagreement`]: a member has another group name or configuration.
/// * [`Error::Refused`]: a member does not want this process, or another member answers at its address.
/// * [`Error::Missing`]: at the deadline, with the last obstacle of each member that is missing.
/// * [`Error::Io`]: the system failed at something that concerns no single member.
pub fn meet_tcp(config: &Config, rank: usize, incarnation: u64, deadline: Instant) -> Result<Met<TcpStream>, Error> {
    meet(config, rank, incarnation, deadline, false)
}

/// As [`meet_tcp`], over unix sockets: addresses are `unix:PATH`. The socket's file is removed when the meeting is over.
///
/// # Errors
/// As [`meet_tcp`].
pub fn meet_unix(config: &Config, rank: usize, incarnation: u64, deadline: Instant) -> Result<Met<UnixStream>, Error> {
    meet(config, rank, incarnation, deadline, true)
}

fn meet<S: From<Socket>>(
    config: &Config,
    rank: usize,
    incarnation: u64,
    deadline: Instant,
    unix: bool,
) -> Result<Met<S>, Error> {
    if let Some(member) = config.members.iter().find(|m| m.address.starts_with("unix:") != unix) {
        let expected = if unix { "unix:PATH" } else { "HOST:PORT" };
        return Err(Error::Config(format!(
            "address `{}` of member {}: expected {expected}",
            member.address, member.id
        )));
    }
    let (links, incarnations) = Meeting::new(config, rank, incarnation, deadline)?.run()?;
    let mut streams = Vec::with_capacity(links.len());
    for link in links {
        streams.push(match link {
            None => None,
            Some(socket) => {
                socket.set_nonblocking(false).map_err(|e| Error::io("cannot set a stream to blocking mode", e))?;
                Some(S::from(socket))
            }
        });
    }
    Ok(Met { streams, incarnations })
}
