//! From a configuration to a running node: meet, register memory, show oneself installed, wait for the others.

use super::driver::{Driver, Handler};
use super::shared::Shared;
use crate::config::{Config, FabricKind, SubgroupId};
use crate::error::Error;
use crate::fabric::{Connection, Fabric, Row, Slot, TableSpec, meet, shm, tcp};
use crate::membership::{self, Membership};
use crate::multicast::{self, Multicast, Origin};
use crate::node::Node;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The subgroup that holds every member.
const EVERYBODY: SubgroupId = SubgroupId(0);

pub(super) fn join(config: &Config, handler: Box<dyn Handler>) -> Result<(Arc<Shared>, Driver), Error> {
    config.check()?;
    let me = config.rank()?;
    let deadline = Instant::now() + Duration::from_millis(config.join_timeout_ms);
    let ids: Vec<_> = config.members.iter().map(|m| m.id).collect();
    let specs = [membership::table_spec(), multicast::table_spec(EVERYBODY, ids.len(), config.ring_bytes)];
    let (fabric, mut tables) = connect(config, me, &specs, deadline)?;
    let (Some(ring_rows), Some(membership_rows)) = (tables.pop(), tables.pop()) else {
        return Err(Error::Misuse("the fabric did not make the tables it was asked for"));
    };
    let membership = Membership::new(membership_rows, me);
    let everybody = Multicast::new(EVERYBODY, ids.clone(), ring_rows, me, config.max_message(), Origin::default());
    let rings = vec![everybody.ring().clone()];
    let left = deadline.saturating_duration_since(Instant::now());
    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let node = Node::new(ids.clone(), fabric, membership, vec![everybody], 0, left_ms);
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|e| Error::io("cannot make an event descriptor", e))?;
    let shared = Arc::new(Shared::new(ids, me, rings, event));
    let mut driver = Driver::new(node, shared.clone(), handler, config)?;
    driver.install()?;
    Ok((shared, driver))
}

/// A fabric whose peers are attached.
struct Connected {
    fabric: Box<dyn Fabric>,
    /// The own row of each table.
    own: Vec<Arc<Row>>,
    /// The rows of each peer, in the order of the tables.
    peers: Vec<(Slot, Vec<Arc<Row>>)>,
}

impl Connected {
    fn new(mut fabric: Box<dyn Fabric>, own: Vec<Arc<Row>>, links: Vec<(Slot, Connection)>) -> Result<Self, Error> {
        let attach = |(slot, link)| fabric.attach(slot, link).map(|rows| (slot, rows));
        let peers = links.into_iter().map(attach).collect::<Result<_, _>>()?;
        Ok(Connected { fabric, own, peers })
    }
}

/// Meets the founders, whose slots are their ranks.
fn connect(config: &Config, me: Slot, specs: &[TableSpec], deadline: Instant) -> Result<Connected, Error> {
    let incarnation = RandomState::new().hash_one((std::process::id(), me));
    match config.fabric {
        FabricKind::Tcp => {
            let met = meet::meet_tcp(config, me, incarnation, deadline)?;
            let links = by_slot(met.streams).map(|(slot, stream)| (slot, Connection::Tcp(stream))).collect();
            let (fabric, own) = tcp::TcpFabric::new(me, specs)?;
            Connected::new(Box::new(fabric), own, links)
        }
        FabricKind::Shm => {
            let met = meet::meet_unix(config, me, incarnation, deadline)?;
            let (fabric, own, offer) = shm::ShmFabric::new(me, specs)?;
            let prepared = offer.exchange(by_slot(met.streams).collect(), deadline);
            let prepared = prepared.map_err(|e| set_up_error(config, e))?.into_iter();
            let links = prepared.map(|(slot, prepared)| (slot, Connection::Shm(prepared))).collect();
            Connected::new(Box::new(fabric), own, links)
        }
    }
}

/// The streams that there are, with their slots.
fn by_slot<S>(streams: Vec<Option<S>>) -> impl Iterator<Item = (Slot, S)> {
    streams.into_iter().enumerate().filter_map(|(slot, stream)| Some((slot, stream?)))
}

fn set_up_error(config: &Config, error: shm::SetupError) -> Error {
    match error {
        shm::SetupError::Peer(fault) => Error::Refused { member: config.members[fault.peer].id, reason: fault.what },
        shm::SetupError::Missing(faults) => {
            let missing = faults.iter().map(|f| format!("member {} ({})", config.members[f.peer].id, f.what));
            Error::Missing { missing: missing.collect::<Vec<_>>().join(", "), after_ms: config.join_timeout_ms }
        }
        shm::SetupError::Local(error) => error,
    }
}
