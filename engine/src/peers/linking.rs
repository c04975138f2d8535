//! Turns connected streams into links of the group's fabric.

use crate::config::address;
use crate::config::{Config, FabricKind};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fabric::{Connection, Fabric, Row, SetupError, Slot, TableSpec, shm, tcp, verbs};
use crate::meet::Quiet;
use crate::meet::questions::{self, Place, Reply, Request};
use crate::process::Private;
use crate::types::MemberId;
use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time limit for each step of a visitor. A visitor is the process at the other end of an accepted connection.
pub(crate) const STEP_TIME: Duration = Duration::from_secs(5);
/// Time limit for the answer of a process that this one links with.
pub(crate) const LINK_TIME: Duration = Duration::from_secs(3);

/// The method that turns streams into links, by the kind of fabric.
#[derive(Debug, Clone)]
pub(crate) enum Linking {
    Tcp,
    Shm(shm::Offer),
    Verbs(verbs::Offer),
}

/// A fabric without peers, the own rows in the order of the tables, and the method to make links.
pub(crate) type NewFabric = (Box<dyn Fabric>, Vec<Arc<Row>>, Linking);

/// Makes the fabric of the process in `slot`; `kind` is not `auto`.
pub(crate) fn new_fabric(
    config: &Config,
    kind: FabricKind,
    slot: Slot,
    specs: &[TableSpec],
) -> Result<NewFabric, Error> {
    Ok(match kind {
        FabricKind::Auto | FabricKind::Tcp => {
            let (fabric, own) = tcp::TcpFabric::new(slot, specs)?;
            (Box::new(fabric), own, Linking::Tcp)
        }
        FabricKind::Shm => {
            let (fabric, own, offer) = shm::ShmFabric::new(slot, specs)?;
            (Box::new(fabric), own, Linking::Shm(offer))
        }
        FabricKind::Verbs => {
            // If the engine stands still for longer than this, other members may consider it dead.
            let patience = Duration::from_millis((config.failure_timeout_ms / 4).min(250));
            let address = own_address(config);
            let (fabric, own, offer) = verbs::VerbsFabric::new(slot, specs, &config.verbs, address, patience)?;
            (Box::new(fabric), own, Linking::Verbs(offer))
        }
    })
}

/// Checks that this process can make the fabric that the configuration demands.
///
/// A local problem is thus reported at once, and not after a wait for the others.
pub(crate) fn check_local(config: &Config, specs: &[TableSpec]) -> Result<(), Error> {
    match config.fabric {
        // All founders decide together whether the group uses verbs.
        FabricKind::Auto | FabricKind::Tcp => Ok(()),
        kind @ (FabricKind::Shm | FabricKind::Verbs) => new_fabric(config, kind, 0, specs).map(drop),
    }
}

impl Linking {
    /// The kind of the group's fabric.
    pub(crate) fn kind(&self) -> FabricKind {
        match self {
            Linking::Tcp => FabricKind::Tcp,
            Linking::Shm(_) => FabricKind::Shm,
            Linking::Verbs(_) => FabricKind::Verbs,
        }
    }

    /// Like [`Linking::link`], with processes that were linked before. Their links broke.
    pub(crate) fn link_again(
        &self,
        streams: Vec<(Slot, Private<Socket>)>,
        deadline: &Deadline,
    ) -> Result<Vec<(Slot, Connection)>, SetupError> {
        match self {
            Linking::Verbs(offer) => {
                let streams = streams.into_iter().map(|(slot, stream)| (slot, stream.map(TcpStream::from))).collect();
                let prepared = offer.exchange_again(streams, deadline.clone())?;
                Ok(prepared.into_iter().map(|(slot, link)| (slot, Connection::Verbs(Box::new(link)))).collect())
            }
            Linking::Tcp | Linking::Shm(_) => self.link(streams, deadline),
        }
    }

    /// Makes links with the processes in these slots, all at once. Each of those processes makes its end at the same
    /// time.
    pub(crate) fn link(
        &self,
        streams: Vec<(Slot, Private<Socket>)>,
        deadline: &Deadline,
    ) -> Result<Vec<(Slot, Connection)>, SetupError> {
        match self {
            Linking::Tcp => {
                Ok(streams.into_iter().map(|(slot, s)| (slot, Connection::Tcp(s.map(TcpStream::from)))).collect())
            }
            Linking::Shm(offer) => {
                let streams = streams.into_iter().map(|(slot, stream)| (slot, stream.map(UnixStream::from))).collect();
                let prepared = offer.exchange(streams, deadline.clone())?;
                Ok(prepared.into_iter().map(|(slot, link)| (slot, Connection::Shm(link))).collect())
            }
            Linking::Verbs(offer) => {
                let streams = streams.into_iter().map(|(slot, stream)| (slot, stream.map(TcpStream::from))).collect();
                let prepared = offer.exchange(streams, deadline.clone())?;
                Ok(prepared.into_iter().map(|(slot, link)| (slot, Connection::Verbs(Box::new(link)))).collect())
            }
        }
    }
}

/// The IP address of this process; peers reach the RDMA port that has this address.
fn own_address(config: &Config) -> Option<IpAddr> {
    let (_, address, _) = config.own().ok()?;
    let address = address::resolve(address).ok()?.first()?.ip();
    Some(address).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

const CAN: u8 = b'v';
const CANNOT: u8 = b't';

/// The kind of fabric on which the founders agree.
///
/// For `auto` it is verbs if every founder can use verbs, otherwise tcp. Each founder sends its ability to all others,
/// so all get the same result.
pub(crate) fn agree(
    config: &Config,
    specs: &[TableSpec],
    streams: &mut [Option<Private<Socket>>],
    deadline: &Deadline,
) -> Result<FabricKind, Error> {
    if config.fabric != FabricKind::Auto {
        return Ok(config.fabric);
    }
    let bytes = specs.iter().map(|spec| spec.row_len).sum::<usize>() * config.members.len();
    let obstacle = verbs::usable(&config.verbs, own_address(config), bytes).err();
    let own = if obstacle.is_none() { CAN } else { CANNOT };
    if let Some(obstacle) = &obstacle {
        tracing::info!("the group uses tcp: {obstacle}");
    }
    let ids = config.members.iter().map(|member| member.id);
    let mut peers: Vec<(MemberId, &mut Private<Socket>)> =
        ids.zip(streams).filter_map(|(id, stream)| Some((id, stream.as_mut()?))).collect();
    let left = || deadline.left().max(Duration::from_millis(1));
    let patience = left();
    let failed = |id: MemberId, e: io::Error| Error::Missing {
        missing: format!(
            "member {id} (met, but it did not send whether it can use RDMA: {})",
            questions::plain(e, patience)
        ),
        after_ms: config.join_timeout_ms,
    };
    for (id, stream) in &mut peers {
        let said = stream.set_write_timeout(Some(left())).and_then(|()| Quiet(stream).write_all(&[own]));
        said.map_err(|e| failed(*id, e))?;
    }
    let mut kind = if own == CAN { FabricKind::Verbs } else { FabricKind::Tcp };
    for (id, stream) in &mut peers {
        let mut theirs = [0];
        loop {
            let slice = deadline.slice().max(Duration::from_millis(1));
            match stream.set_read_timeout(Some(slice)).and_then(|()| stream.read_exact(&mut theirs)) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !deadline.is_over() => {}
                Err(e) => return Err(failed(*id, e)),
            }
        }
        match theirs[0] {
            CAN => {}
            CANNOT => {
                tracing::info!("the group uses tcp: member {id} cannot use RDMA");
                kind = FabricKind::Tcp;
            }
            other => {
                let what = format!("its byte for RDMA is {other:#x}, not {CAN:#x} (usable) or {CANNOT:#x} (unusable)");
                return Err(Error::Contract { member: *id, what });
            }
        }
    }
    Ok(kind)
}

/// Turns a connection into a link of the fabric, after both ends have agreed on it. `again`: the two were linked
/// before.
pub(crate) fn connection(
    socket: Private<Socket>,
    peer: usize,
    linking: &Linking,
    again: bool,
) -> io::Result<Connection> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(None)?;
    let (streams, deadline) = (vec![(peer, socket)], Deadline::from(Instant::now() + STEP_TIME));
    let links = if again { linking.link_again(streams, &deadline) } else { linking.link(streams, &deadline) };
    let links = links.map_err(io::Error::other)?;
    let link = links.into_iter().next().ok_or_else(|| io::Error::other("the fabric returned no link"))?;
    Ok(link.1)
}

/// The shortage of this process because of which [`connection`] failed; `None` if the fault is the peer's or the link's.
pub(crate) fn own_shortage(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<SetupError>()? {
        SetupError::Local(error @ Error::Io { .. }) => Some(error.to_string()),
        _ => None,
    }
}

/// A process, and the view in which its slot was assigned.
pub(crate) struct Seated {
    pub(crate) place: Place,
    pub(crate) since: u64,
}

/// Asks `other` to link with this process, and makes the link.
pub(crate) fn link(group_id: u64, me: &Seated, other: &Place, linking: &Linking) -> io::Result<Connection> {
    let request = Request::Link { group_id, from: me.place.clone(), since: me.since, to: other.clone() };
    match questions::ask(&other.address, &request, LINK_TIME)? {
        (socket, Reply::Linked {}) => connection(Private::new(socket), other.slot, linking, false),
        (_, Reply::Refused { reason }) => Err(io::Error::other(reason)),
        (_, reply) => Err(io::Error::other(format!("an unexpected answer: {reply:?}"))),
    }
}
