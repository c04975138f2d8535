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
//!            ...
//! Ready            <->  Ready
//! ```
//!
//! The higher rank counts the link when `Accept` is sent, the lower when it is read. A process that has links to all
//! others says `Ready` over each, and its meeting ends when all others have said so: a link that breaks before that is
//! made again, and a process that dies is waited for, until the deadline. So no founder begins, and takes another for
//! dead, while that one still meets the rest.
//!
//! Every other connection is a stranger's, and neither its bytes nor its silence hold up the meeting. A member of a group
//! that runs already refuses with `Running`: the process is to join it.

pub(crate) mod address;
pub(crate) mod check;
pub(crate) mod dial;
mod handshake;
pub(crate) mod listen;
mod meeting;
pub(crate) mod names;
pub(crate) mod outside;
mod quiet;
pub(crate) mod talk;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod wire;

use crate::config::{Config, MemberId};
use crate::error::Error;
use listen::Listening;
use meeting::Meeting;
use outside::Surroundings;
pub(crate) use quiet::Quiet;
use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Instant;
use wire::{Code, Message, Refuse};

/// What a completed meeting hands to a fabric.
#[derive(Debug)]
pub struct Met<S> {
    /// The stream to the member of each rank, `None` for this process; blocking, and no byte beyond the handshake was
    /// read.
    pub streams: Vec<Option<S>>,
    /// The random number of each process' life, by rank. That of rank 0 names the group.
    pub incarnations: Vec<u64>,
    /// The socket on which this process was found, and can be found on.
    pub(crate) listening: Listening,
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
    let listening = listen(config, rank)?;
    meet(config, rank, incarnation, deadline, listening, Surroundings::default())
}

/// As [`meet_tcp`], over unix sockets: addresses are `unix:PATH`.
///
/// # Errors
/// As [`meet_tcp`].
pub fn meet_unix(config: &Config, rank: usize, incarnation: u64, deadline: Instant) -> Result<Met<UnixStream>, Error> {
    let listening = listen(config, rank)?;
    meet(config, rank, incarnation, deadline, listening, Surroundings::default())
}

fn listen(config: &Config, rank: usize) -> Result<Listening, Error> {
    let count = config.members.len();
    let own = config.members.get(rank);
    let own = own.ok_or_else(|| Error::Config(format!("rank {rank} is none of the {count} members'")))?;
    listen::listen(config.listens_at(&own.address))
}

/// As [`meet_tcp`] or [`meet_unix`], on a socket that listens already; gives up with [`Error::AlreadyRuns`] when it is learned
/// from elsewhere that the group runs without this process.
pub(crate) fn meet<S: From<Socket>>(
    config: &Config,
    rank: usize,
    incarnation: u64,
    deadline: Instant,
    listening: Listening,
    around: Surroundings<'_>,
) -> Result<Met<S>, Error> {
    let meeting = Meeting::new(config, rank, incarnation, deadline, listening, around)?;
    let (links, incarnations, listening) = meeting.run()?;
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
    Ok(Met { streams, incarnations, listening })
}

/// What a process that does not found the group says to one that comes to found it, which asks again.
pub(crate) fn not_founding(member: MemberId, reason: &str) -> Vec<u8> {
    let (key, value, reason) = (String::new(), String::new(), reason.to_owned());
    let refuse = Refuse { code: Code::NotFounding, member, key, value, reason };
    Message::Refuse(refuse).encode().unwrap_or_default()
}

/// Answers a process that came to found the group: it runs already. Then waits for the other end to have read it.
pub(crate) fn refuse_running(socket: &mut Socket, member: MemberId) -> io::Result<()> {
    let reason = "the group runs already".to_owned();
    let refuse = Refuse { code: Code::Running, member, key: String::new(), value: String::new(), reason };
    let message = Message::Refuse(refuse).encode().unwrap_or_default();
    Quiet(socket).write_all(&message)?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut rest = [0; 256];
    // Closing with unread bytes would reset the connection, and the answer might be lost with it.
    while socket.read(&mut rest)? > 0 {}
    Ok(())
}
