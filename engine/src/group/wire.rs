//! What processes say to each other beside the fabric: to join, to link, to fetch the group's state.
//!
//! A message is the preamble of a meeting (see `fabric/meet`), with kinds of its own, and a body of TOML: these messages
//! are few and short, and a person can read them. Numbers are at most 2^63 - 1, as TOML has them.

use crate::config::{FabricKind, MemberId};
use crate::fabric::Slot;
use crate::fabric::meet::Quiet;
use crate::fabric::meet::wire::{BODY_MAX, KIND_HELLO, KIND_REQUEST, PREAMBLE_LEN, preamble, with_preamble};
use crate::membership::Peer;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::time::Duration;

const KIND_REPLY: u8 = 17;

/// A process, and where it is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) slot: Slot,
    pub(super) id: u32,
    pub(super) incarnation: u64,
    pub(super) address: String,
}

impl Place {
    pub(super) fn new(peer: Peer, address: &str) -> Place {
        Place { slot: peer.slot, id: peer.id.0, incarnation: peer.incarnation, address: address.to_owned() }
    }

    pub(super) fn peer(&self) -> Peer {
        Peer { slot: self.slot, id: MemberId(self.id), incarnation: self.incarnation }
    }
}

/// What is asked of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Whether the group runs; `founds`: the asker is this member, has no log, and waits for all founders.
    Ask { group: String, founds: Option<u32> },
    /// A place in the group, with the own configuration.
    Join { group: String, agreed: Vec<(String, String)>, id: u32, incarnation: u64, address: String },
    /// This very connection for the fabric, from the process that was given its place in view `since`.
    Link { group_id: u64, from: Place, since: u64, to: Place },
    /// The application's state, for a process whose first view is this one: all that came before it is part of the state.
    State { group_id: u64, view: u64 },
    /// The records of the log from one version on and below another, {view, number} each; `ended`: the log must go that far.
    Log { group_id: u64, from: (u64, u64), below: (u64, u64), ended: bool },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It does.
    Runs {},
    /// All its processes ended; this one, with this configuration, waits for the others; `only_founded`: its log has nothing but
    /// the first view.
    Restarting { group_id: u64, place: Place, agreed: Vec<(String, String)>, only_founded: bool },
    /// The group's fabric, the place, in which view it was given, and whom to link with.
    Admitted { group_id: u64, fabric: FabricKind, me: Place, since: u64, others: Vec<Place> },
    /// Another member decides this.
    Elsewhere { address: String },
    /// Not now; ask again.
    Later { reason: String },
    /// Not at all.
    Refused { reason: String },
    /// A key of the configuration differs.
    Disagreement { member: u32, key: String, value: String },
    /// What follows is the fabric's.
    Linked {},
    /// The state follows, in chunks: as of this view, with all its messages whose number is below this one.
    State { view: u64, below: u64 },
    /// The records follow, in chunks.
    Log {},
}

/// What came first on a connection.
pub(super) enum First {
    Request(Request),
    /// The other end thinks that the group is still to be founded.
    Hello,
}

fn malformed(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

fn send(socket: &mut impl Write, kind: u8, body: &impl Serialize) -> io::Result<()> {
    let body = toml::to_string(body).map_err(malformed)?;
    let message = with_preamble(kind, body.as_bytes());
    let message =
        message.ok_or_else(|| malformed(format!("a message of {} bytes; the limit is {BODY_MAX}", body.len())))?;
    socket.write_all(&message)
}

/// Receives a message of one of these kinds.
fn receive(socket: &mut impl Read, kinds: &[u8]) -> io::Result<(u8, String)> {
    let mut first = [0; PREAMBLE_LEN];
    socket.read_exact(&mut first)?;
    let (kind, len) = preamble(&first, kinds).map_err(malformed)?;
    let mut body = vec![0; len];
    socket.read_exact(&mut body)?;
    Ok((kind, String::from_utf8_lossy(&body).into_owned()))
}

/// Reads what a stranger says first.
pub(super) fn first(socket: &mut Socket) -> io::Result<First> {
    match receive(socket, &[KIND_HELLO, KIND_REQUEST])? {
        (KIND_HELLO, _) => Ok(First::Hello),
        (_, body) => toml::from_str(&body).map(First::Request).map_err(malformed),
    }
}

/// Sends an answer.
pub(super) fn answer(socket: &mut Socket, reply: &Reply) -> io::Result<()> {
    send(&mut Quiet(socket), KIND_REPLY, reply)
}

/// Asks the process at `address`, `HOST:PORT` or `unix:PATH`; the connection stays open behind the answer.
pub(super) fn ask(address: &str, request: &Request, timeout: Duration) -> io::Result<(Socket, Reply)> {
    let mut socket = connect(address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    send(&mut Quiet(&socket), KIND_REQUEST, request)?;
    let (_, body) = receive(&mut socket, &[KIND_REPLY])?;
    Ok((socket, toml::from_str(&body).map_err(malformed)?))
}

fn connect(address: &str, timeout: Duration) -> io::Result<Socket> {
    if let Some(path) = address.strip_prefix("unix:") {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A full backlog would block it.
        socket.set_write_timeout(Some(timeout))?;
        socket.connect(&SockAddr::unix(path)?)?;
        return Ok(socket);
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for candidate in address.to_socket_addrs()? {
        let socket = Socket::new(Domain::for_address(candidate), Type::STREAM, None)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect_timeout(&candidate.into(), timeout) {
            Ok(()) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_and_garbage_does_not() {
        let place = Place { slot: 3, id: 7, incarnation: u64::MAX >> 1, address: "[::1]:7".into() };
        let requests = [
            Request::Ask { group: "g".into(), founds: Some(3) },
            Request::Join {
                group: "g \"quoted\"".into(),
                agreed: vec![("a".into(), "b\nc".into())],
                id: 7,
                incarnation: 0,
                address: "unix:/a".into(),
            },
            Request::Link { group_id: 9, from: place.clone(), since: 4, to: place.clone() },
        ];
        for request in &requests {
            let mut bytes = Vec::new();
            send(&mut bytes, KIND_REQUEST, request).unwrap();
            let (kind, body) = receive(&mut bytes.as_slice(), &[KIND_REQUEST]).unwrap();
            assert_eq!((kind, toml::from_str::<Request>(&body).unwrap()), (KIND_REQUEST, request.clone()));
            assert!(receive(&mut &bytes[..bytes.len() - 1], &[KIND_REQUEST]).is_err(), "cut");
            assert!(receive(&mut bytes.as_slice(), &[KIND_REPLY]).is_err(), "another kind");
        }
        let replies = [
            Reply::Runs {},
            Reply::Linked {},
            Reply::Admitted {
                group_id: 1,
                fabric: FabricKind::Verbs,
                me: place.clone(),
                since: 5,
                others: vec![place.clone(), place],
            },
            Reply::State { view: 3, below: u64::MAX >> 1 },
        ];
        for reply in &replies {
            let body = toml::to_string(reply).unwrap();
            assert_eq!(toml::from_str::<Reply>(&body).unwrap(), *reply, "{body}");
        }
        assert!(receive(&mut [0u8; 64].as_slice(), &[KIND_REQUEST]).is_err());
    }
}
