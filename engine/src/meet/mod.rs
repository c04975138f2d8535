//! The founding of a group: its configured members connect to each other and check that their configurations agree.
//!
//! [`meet_tcp`] and [`meet_unix`] return when this process has one stream to every other member and all of them have
//! the same configuration. The next bytes on each stream, directly behind the handshake, belong to the fabric.
//!
//! Every member listens on its own address. In each pair, the member of the higher rank connects to the one of the
//! lower rank, and tries again until the deadline. So members may start in any order. Then:
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
//! The higher rank counts the link as established when it has sent `Accept`, the lower rank when it has read it. A
//! process with links to all others sends `Ready` over each of them. Its meeting ends when all others have sent
//! `Ready`, too. Until then, a link that breaks is made again, and a process that dies is awaited, up to the deadline.
//! Otherwise a founder could begin while another one still connects to the rest, and suspect that one.
//!
//! Every other connection comes from a *stranger*, a process that is not a configured member. Neither its bytes nor its
//! silence delay the meeting. A member of a group that runs already refuses with `Running`, and the process has to join
//! instead.

pub(crate) mod ask;
pub(crate) mod asking;
pub(crate) mod check;
pub(crate) mod dial;
mod handshake;
pub(crate) mod listen;
mod meeting;
pub(crate) mod names;
pub(crate) mod outside;
pub(crate) mod questions;
mod quiet;
pub(crate) mod talk;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod wire;

use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::process::Private;
use crate::types::MemberId;
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

/// The result of a completed meeting, for a fabric.
#[derive(Debug)]
pub struct Met<S> {
    /// By rank: the stream to each member, `None` for this process. The streams block, and no byte beyond the handshake
    /// has been read.
    pub streams: Vec<Option<S>>,
    /// By rank: the random number of each process's incarnation. The number of rank 0 identifies the group.
    pub incarnations: Vec<u64>,
    /// The socket on which this process listened during the meeting, and continues to listen.
    pub(crate) listening: Listening,
}

/// Meets the other members of `config` over TCP, as the member of rank `rank`. `incarnation` is a fresh random number.
///
/// # Errors
/// * [`Error::Config`]: an address is not `HOST:PORT`, or no member has the rank.
/// * [`Error::Listen`]: the own address cannot be listened on, for instance because this member runs already.
/// * [`Error::Disagreement`]: a member has another group name or configuration.
/// * [`Error::Refused`]: a member refuses this process, or another member answers at its address.
/// * [`Error::Missing`]: at the deadline, with the last obstacle of each missing member.
/// * [`Error::Io`]: a system call failed for a reason that concerns no single member.
pub fn meet_tcp(config: &Config, rank: usize, incarnation: u64, deadline: Instant) -> Result<Met<TcpStream>, Error> {
    let listening = listen(config, rank)?;
    meet(config, rank, incarnation, deadline.into(), listening, Surroundings::default())
}

/// As [`meet_tcp`], but over unix sockets: addresses are `unix:PATH`.
///
/// # Errors
/// As [`meet_tcp`].
pub fn meet_unix(config: &Config, rank: usize, incarnation: u64, deadline: Instant) -> Result<Met<UnixStream>, Error> {
    let listening = listen(config, rank)?;
    meet(config, rank, incarnation, deadline.into(), listening, Surroundings::default())
}

fn listen(config: &Config, rank: usize) -> Result<Listening, Error> {
    let count = config.members.len();
    let own = config.members.get(rank);
    let own = own.ok_or_else(|| Error::Config(format!("rank {rank} is not below the number of members, {count}")))?;
    listen::listen(config.listens_at(&own.address))
}

/// As [`meet_tcp`] or [`meet_unix`], with a socket that listens already. Returns [`Error::AlreadyRuns`] when another
/// source reports that the group runs without this process.
pub(crate) fn meet<S: From<Private<Socket>>>(
    config: &Config,
    rank: usize,
    incarnation: u64,
    deadline: Deadline,
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

/// The refusal for a founder, by a process that does not found the group at present. The founder asks again.
pub(crate) fn not_founding(member: MemberId, reason: &str) -> Vec<u8> {
    let (key, value, reason) = (String::new(), String::new(), reason.to_owned());
    let refuse = Refuse { code: Code::NotFounding, member, key, value, reason };
    Message::Refuse(refuse).encode().unwrap_or_default()
}

/// Refuses a founder because the group runs already. Then waits until the other end has read the refusal.
pub(crate) fn refuse_running(socket: &mut Socket, member: MemberId) -> io::Result<()> {
    let reason = "the group runs already".to_owned();
    let refuse = Refuse { code: Code::Running, member, key: String::new(), value: String::new(), reason };
    let message = Message::Refuse(refuse).encode().unwrap_or_default();
    Quiet(socket).write_all(&message)?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut rest = [0; 256];
    // Closing with unread bytes would reset the connection, and the answer could be lost.
    while socket.read(&mut rest)? > 0 {}
    Ok(())
}
