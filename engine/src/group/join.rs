//! From a configuration to a running node: meet, register memory, show oneself installed, wait for the others.

use super::driver::Driver;
use super::handler::Handler;
use super::shared::Shared;
use crate::config::{Config, FabricKind, SubgroupId};
use crate::error::Error;
use crate::fabric::{Connection, Fabric, Row, Slot, TableSpec, meet, shm, tcp};
use crate::membership::{self, Peer, Settings};
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
    let rank = config.rank()?;
    let deadline = Instant::now() + Duration::from_millis(config.join_timeout_ms);
    let specs = [membership::table_spec(), multicast::table_spec(EVERYBODY, config.ring_bytes)];
    let Connected { fabric, own, links, founders } = connect(config, rank, &specs, deadline)?;
    let [row, ring_row] = <[_; 2]>::try_from(own).map_err(|_| Error::Misuse("the fabric did not make its rows"))?;
    let me = founders[rank];
    let everybody = Multicast::new(EVERYBODY, specs[1], me.slot, ring_row, config.max_message(), Origin::default());
    let rings = vec![everybody.ring().clone()];
    let left = deadline.saturating_duration_since(Instant::now());
    let settings = Settings {
        failure_timeout_ms: config.failure_timeout_ms,
        partition_timeout_ms: config.partition_timeout_ms,
        join_timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        lone_survivor: config.lone_survivor,
        seed: me.incarnation,
    };
    let mut node = Node::new(me, fabric, row, everybody, settings, 0);
    for (slot, connection) in links {
        node.attach(founders[slot], connection)?;
    }
    node.found(&founders, Origin::default(), 0);
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|e| Error::io("cannot make an event descriptor", e))?;
    let shared = Arc::new(Shared::new(me.id, rings, event));
    let mut driver = Driver::new(node, shared.clone(), handler, config)?;
    driver.install()?;
    Ok((shared, driver))
}

/// Founders that have met: the fabric, the own rows, and what leads to the others.
struct Connected {
    fabric: Box<dyn Fabric>,
    own: Vec<Arc<Row>>,
    links: Vec<(Slot, Connection)>,
    /// By rank.
    founders: Vec<Peer>,
}

/// Meets the founders, whose slots are their ranks.
fn connect(config: &Config, me: Slot, specs: &[TableSpec], deadline: Instant) -> Result<Connected, Error> {
    let incarnation = RandomState::new().hash_one((std::process::id(), me));
    let founders = |incarnations: Vec<u64>| {
        let ids = config.members.iter().map(|member| member.id).enumerate();
        ids.zip(incarnations).map(|((slot, id), incarnation)| Peer { slot, id, incarnation }).collect()
    };
    match config.fabric {
        FabricKind::Tcp => {
            let met = meet::meet_tcp(config, me, incarnation, deadline)?;
            let links = by_slot(met.streams).map(|(slot, stream)| (slot, Connection::Tcp(stream))).collect();
            let (fabric, own) = tcp::TcpFabric::new(me, specs)?;
            Ok(Connected { fabric: Box::new(fabric), own, links, founders: founders(met.incarnations) })
        }
        FabricKind::Shm => {
            let met = meet::meet_unix(config, me, incarnation, deadline)?;
            let (fabric, own, offer) = shm::ShmFabric::new(me, specs)?;
            let prepared = offer.exchange(by_slot(met.streams).collect(), deadline);
            let prepared = prepared.map_err(|e| set_up_error(config, e))?.into_iter();
            let links = prepared.map(|(slot, prepared)| (slot, Connection::Shm(prepared))).collect();
            Ok(Connected { fabric: Box::new(fabric), own, links, founders: founders(met.incarnations) })
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
