//! Messages between processes outside the fabric: to join, to link, to fetch the group's state or log.
//!
//! A message is the preamble of a meeting (see `fabric/meet`), with kinds of its own, and a body in TOML. These
//! messages are few and short, and people can read them. Numbers are at most 2^63 - 1, the limit of TOML.

use crate::config::FabricKind;
use crate::config::address;
use crate::fabric::Slot;
use crate::meet::Quiet;
use crate::meet::dial;
use crate::meet::wire::{BODY_MAX, KIND_HELLO, KIND_REQUEST, PREAMBLE_LEN, preamble, with_preamble};
use crate::membership::Peer;
use crate::types::MemberId;
use serde::{Deserialize, Serialize};
use socket2::Socket;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

const KIND_REPLY: u8 = 17;
/// The maximum time for a join, in milliseconds: a year.
const LEFT_MAX_MS: u64 = 365 * 24 * 3600 * 1000;

/// A process and its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) slot: Slot,
    pub(crate) id: u32,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
}

impl Place {
    pub(crate) fn new(peer: Peer, address: &str) -> Place {
        Place { slot: peer.slot, id: peer.id.0, incarnation: peer.incarnation, address: address.to_owned() }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer { slot: self.slot, id: MemberId(self.id), incarnation: self.incarnation }
    }
}

/// A process that takes the group's state or log, and the time it has left, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asker {
    pub(crate) id: u32,
    pub(crate) incarnation: u64,
    pub(crate) left_ms: u64,
}

impl Asker {
    /// An asker that must be done by `deadline`.
    pub(crate) fn new(peer: Peer, deadline: Instant) -> Asker {
        let left = deadline.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(LEFT_MAX_MS);
        Asker { id: peer.id.0, incarnation: peer.incarnation, left_ms }
    }

    /// The deadline, on the clock of the receiving end.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.left_ms.min(LEFT_MAX_MS))
    }
}

/// A question to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Does the group run? `founds`: the asker is this member, has no log, and waits for all founders.
    Ask { group: String, founds: Option<u32> },
    /// Admit this process, which has this configuration, to the group.
    Join { group: String, agreed: Vec<(String, String)>, id: u32, incarnation: u64, address: String },
    /// Does the process of this incarnation listen here? The leader asks this before it admits the process.
    Dial { incarnation: u64 },
    /// Ask process `to` to dial `from`, which cannot reach it. Sent to a member that can reach `to`.
    Relay { group_id: u64, from: Place, since: u64, to: Place },
    /// The same request, as that member passes it on to `to`.
    DialBack { group_id: u64, from: Place, since: u64, to: Place },
    /// Use this connection for a link of the fabric. The slot of the sending process was assigned in view `since`.
    Link { group_id: u64, from: Place, since: u64, to: Place },
    /// Use this connection to make a broken link again. Sent by a member of this view; both ends keep their
    /// incarnations.
    Relink { group_id: u64, view: u64, from: Place, to: Place },
    /// Send the application's state. The first view of the asker is `view`, so the state must include everything before
    /// it.
    State { group_id: u64, view: u64, asker: Asker },
    /// Send the records of the log from version `from` on and below `below`, {view, number} each.
    ///
    /// `ended`: the log must go that far, and the asker has joined.
    Log { group_id: u64, from: (u64, u64), below: (u64, u64), ended: bool, asker: Asker },
}

/// An answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The group runs: its id, the member that answers, and the addresses of the present view's members.
    Runs { group_id: u64, member: u32, places: Vec<Place> },
    /// This process is in no group. `been`: it has been in one, and `places` are the last known addresses of its
    /// members.
    Waits { been: bool, places: Vec<Place> },
    /// All processes of the group have ended. This one waits for the others, with this configuration.
    ///
    /// `only_founded`: its log contains nothing but the first view. `view`: the last view that is on its disk.
    Restarting { group_id: u64, place: Place, agreed: Vec<(String, String)>, only_founded: bool, view: u64 },
    /// The process is admitted to the group.
    ///
    /// The fields are the group's id and fabric, the process's place, the view in which its slot was assigned, and the
    /// processes to link with.
    Admitted { group_id: u64, fabric: FabricKind, me: Place, since: u64, others: Vec<Place> },
    /// Another member decides this, at this address.
    Elsewhere { address: String },
    /// Not now; ask again later.
    Later { reason: String },
    /// Refused permanently.
    Refused { reason: String },
    /// A key of the configuration differs.
    Disagreement { member: u32, key: String, value: String },
    /// The process of this incarnation listens here.
    Dialled {},
    /// The connection is the fabric's from here on. As the answer to a relayed request: the process is linked now.
    Linked {},
    /// The state follows in chunks. It covers the views before `view`, and of that view all messages numbered below
    /// `below`.
    State { view: u64, below: u64 },
    /// The records follow in chunks.
    Log {},
    /// A permanent failure of the application's `snapshot` or of this process's disk. From a process that takes a
    /// state: of the application's `restore`.
    Failed { reason: String },
    /// From a process that takes a state: the transfer is complete.
    Taken {},
    /// To a member that asks to make its link again: view `view` began without it. `left`: it had asked to leave.
    GoneOn { view: u64, left: bool },
}

/// The first message on a connection.
pub(crate) enum First {
    Request(Request),
    /// The other end assumes that the group is still to be founded.
    Hello,
}

fn malformed(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

fn encode(kind: u8, body: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = toml::to_string(body).map_err(malformed)?;
    let message = with_preamble(kind, body.as_bytes());
    message.ok_or_else(|| malformed(format!("a message of {} bytes; the limit is {BODY_MAX}", body.len())))
}

fn send(socket: &mut impl Write, kind: u8, body: &impl Serialize) -> io::Result<()> {
    socket.write_all(&encode(kind, body)?)
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

/// Reads the first message on a new connection.
pub(crate) fn first(socket: &mut Socket) -> io::Result<First> {
    match receive(socket, &[KIND_HELLO, KIND_REQUEST])? {
        (KIND_HELLO, _) => Ok(First::Hello),
        (_, body) => request(&body).map(First::Request),
    }
}

/// Decodes the first message of a new connection from `bytes`; `None` while it is incomplete.
pub(crate) fn first_of(bytes: &[u8]) -> io::Result<Option<First>> {
    let Some((head, rest)) = bytes.split_at_checked(PREAMBLE_LEN) else { return Ok(None) };
    let (kind, len) = preamble(head, &[KIND_HELLO, KIND_REQUEST]).map_err(malformed)?;
    let Some(body) = rest.get(..len) else { return Ok(None) };
    Ok(Some(match kind {
        KIND_HELLO => First::Hello,
        _ => First::Request(request(&String::from_utf8_lossy(body))?),
    }))
}

/// Decodes the body of a question.
pub(crate) fn request(body: &str) -> io::Result<Request> {
    toml::from_str(body).map_err(malformed)
}

/// Encodes a question.
pub(crate) fn question(request: &Request) -> io::Result<Vec<u8>> {
    encode(KIND_REQUEST, request)
}

/// Sends an answer, without a SIGPIPE if the connection is closed.
pub(crate) fn answer(socket: &mut Socket, reply: &Reply) -> io::Result<()> {
    send_reply(&mut Quiet(socket), reply)
}

pub(crate) fn send_reply(socket: &mut impl Write, reply: &Reply) -> io::Result<()> {
    send(socket, KIND_REPLY, reply)
}

/// Sends a message on a connection that is in use already.
pub(crate) fn say(stream: &mut impl Write, reply: &Reply) -> io::Result<()> {
    send(stream, KIND_REPLY, reply)
}

/// Receives a message from the other end.
pub(crate) fn hear(stream: &mut impl Read) -> io::Result<Reply> {
    let (_, body) = receive(stream, &[KIND_REPLY])?;
    toml::from_str(&body).map_err(malformed)
}

/// Sends a question to the process at `address`, and returns the connection. The answer is not read.
pub(crate) fn begin(address: &str, request: &Request, timeout: Duration) -> io::Result<Socket> {
    let socket = connect(address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    send(&mut Quiet(&socket), KIND_REQUEST, request)?;
    Ok(socket)
}

/// Whether no answer came in time. A socket with a time limit reports that as `WouldBlock`.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Rewords a socket error after a wait of up to `patience`.
///
/// The system's texts would be that a resource is unavailable, or that a buffer was not filled.
pub(crate) fn plain(error: io::Error, patience: Duration) -> io::Error {
    let text = match error.kind() {
        _ if is_timeout(&error) => format!("no answer within {} ms", patience.as_millis()),
        io::ErrorKind::UnexpectedEof => "it closed the connection without an answer".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused: no process listens there".to_owned(),
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// Asks the process at `address` (`HOST:PORT` or `unix:PATH`). The connection stays open after the answer.
pub(crate) fn ask(address: &str, request: &Request, timeout: Duration) -> io::Result<(Socket, Reply)> {
    exchange(address, request, timeout).map_err(|error| plain(error, timeout))
}

fn exchange(address: &str, request: &Request, timeout: Duration) -> io::Result<(Socket, Reply)> {
    let mut socket = begin(address, request, timeout)?;
    let reply = hear(&mut socket)?;
    Ok((socket, reply))
}

/// Checks that an address (`HOST:PORT` or `unix:PATH`) can be resolved.
pub(crate) fn resolve(address: &str) -> io::Result<()> {
    if address.starts_with("unix:") {
        return Ok(());
    }
    address::resolve(address).map(|_| ())
}

/// Decodes the answer that begins with `heard`, or returns the number of further bytes known to follow.
pub(crate) fn answer_of(heard: &[u8]) -> io::Result<Result<Reply, usize>> {
    let Some((first, rest)) = heard.split_at_checked(PREAMBLE_LEN) else { return Ok(Err(PREAMBLE_LEN - heard.len())) };
    let (_, len) = preamble(first, &[KIND_REPLY]).map_err(malformed)?;
    let Some(body) = rest.get(..len) else { return Ok(Err(len - rest.len())) };
    toml::from_str(&String::from_utf8_lossy(body)).map(Ok).map_err(malformed)
}

fn connect(address: &str, timeout: Duration) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    let (candidates, deadline) = (dial::addresses(address)?, Instant::now() + timeout);
    for (tried, candidate) in candidates.iter().enumerate() {
        // An address that does not answer must leave time for the others.
        let left = deadline.saturating_duration_since(Instant::now()) / (candidates.len() - tried) as u32;
        match dial::connect_within(candidate, left) {
            Ok(socket) => return Ok(socket),
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
            Request::Relink { group_id: 9, view: 3, from: place.clone(), to: place.clone() },
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
            Reply::Runs { group_id: u64::MAX >> 1, member: 3, places: vec![place.clone(), place.clone()] },
            Reply::Waits { been: true, places: Vec::new() },
            Reply::Linked {},
            Reply::GoneOn { view: 4, left: true },
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
            let mut bytes = Vec::new();
            send(&mut bytes, KIND_REPLY, reply).unwrap();
            assert_eq!(answer_of(&bytes).unwrap(), Ok(reply.clone()));
            for cut in 0..bytes.len() {
                let missing = answer_of(&bytes[..cut]).unwrap().unwrap_err();
                assert!((1..=bytes.len() - cut).contains(&missing), "{missing} after {cut} of {} bytes", bytes.len());
            }
            bytes.extend(b"what follows");
            assert_eq!(answer_of(&bytes).unwrap(), Ok(reply.clone()));
            let body = toml::to_string(reply).unwrap();
            assert_eq!(toml::from_str::<Reply>(&body).unwrap(), *reply, "{body}");
        }
        assert!(receive(&mut [0u8; 64].as_slice(), &[KIND_REQUEST]).is_err());
        assert!(answer_of(&[0; 64]).is_err());
    }
}
