//! Makes a running node out of a configuration: founds the group with the others, or joins it if it runs already.

use crate::app::Handler;
use crate::bootstrap::admission::{Admitted, admission, link_all};
use crate::bootstrap::founding;
use crate::bootstrap::idle::{Idle, IdleAcceptor};
use crate::bootstrap::restart::Search;
use crate::config::address;
use crate::config::{Config, Found};
use crate::deadline::{Cancel, Deadline};
use crate::driver::{Driver, Start};
use crate::error::Error;
use crate::fabric::{Fabric, Row, TableSpec};
use crate::log::{Log, Release, deferred};
use crate::meet::listen::{self, Listening};
use crate::meet::questions::Place;
use crate::membership::{self, HardState, Peer, Settings};
use crate::multicast::{self, Durability, Multicast, Origin};
use crate::node::{Node, Recovery};
use crate::peers::acceptor::{Acceptor, LocalIdentity};
use crate::peers::contacts::{Contacts, Memory};
use crate::peers::linking::{self, STEP_TIME, Seated};
use crate::peers::log_store::{LogStore, Past};
use crate::peers::relink::Caller;
use crate::shared::Shared;
use crate::shared::pulse::Pulse;
use crate::types::EVERYBODY;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Pause between two attempts.
const AGAIN_TIME: Duration = Duration::from_millis(100);
/// An attempt with less time than this may end before the other processes have answered.
const SHORT_TIME: Duration = Duration::from_secs(1);

/// The result of an attempt to join.
pub(crate) enum Attempt {
    Joined(Arc<Shared>, Box<Driver>),
    /// The attempt failed for now: returns the handler and the obstacle.
    Again(Box<dyn Handler>, String),
}

impl Attempt {
    pub(crate) fn again(driver: Driver, obstacle: String) -> Result<Attempt, Error> {
        let handler = driver.into_handler().ok_or_else(|| Error::Internal("the handler is lost".to_owned()))?;
        Ok(Attempt::Again(handler, obstacle))
    }
}

/// Joins the group. A cancellation ends the join with [`Error::Left`].
pub(crate) fn join(
    config: &Config,
    handler: Box<dyn Handler>,
    cancel: &Cancel,
) -> Result<(Arc<Shared>, Driver), Error> {
    config.check()?;
    let (id, address, _) = config.own()?;
    let mut store = config.log.as_ref().map(|log| LogStore::open(log, config, id)).transpose()?;
    let begun = Instant::now();
    let hint = address::own_loopback_hint(config, address);
    if let Some(hint) = &hint {
        tracing::warn!(hint, "the other members may not reach this process");
    }
    let joined = try_to_join(config, &mut store, handler, cancel).map_err(|error| match error {
        Error::Missing { .. } | Error::TimedOut { .. } | Error::Listen { .. } if cancel.is_set() => Error::Left,
        error => as_seen(error, config, begun, hint),
    });
    if let (Err(_), Some(store)) = (&joined, &store) {
        store.close();
    }
    joined
}

/// Converts the error of the last attempt for the caller of `join`.
///
/// It gets the time that the whole join took, which ends at `join_timeout_ms`, and other possible causes.
fn as_seen(error: Error, config: &Config, begun: Instant, hint: Option<String>) -> Error {
    let passed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    // An attempt does not end exactly at the timeout.
    let is_over = passed_ms.saturating_add(config.join_timeout_ms / 20) >= config.join_timeout_ms;
    let after_ms = if is_over { config.join_timeout_ms } else { passed_ms };
    match error {
        Error::Missing { missing, .. } => {
            let missing = match hint {
                Some(hint) => format!("{missing}; the other members may not reach this process: {hint}"),
                None => missing,
            };
            Error::Missing { missing, after_ms }
        }
        Error::TimedOut { what, .. } => Error::TimedOut { what, after_ms },
        other => other,
    }
}

/// Makes one attempt after the other, each of the kind that fits the present situation.
fn try_to_join(
    config: &Config,
    store: &mut Option<LogStore>,
    mut handler: Box<dyn Handler>,
    cancel: &Cancel,
) -> Result<(Arc<Shared>, Driver), Error> {
    let (_, address, rank) = config.own()?;
    let deadline = &Deadline::after(Duration::from_millis(config.join_timeout_ms), cancel);
    let log = match store.as_ref().and_then(|store| Some((store, store.group_id()?))) {
        Some((store, group_id)) => Some((group_id, store.places()?)),
        None => None,
    };
    let mut contacts = Contacts::new(config, log)?;
    let mut listening = Some(listen::in_time(config.listens_at(address), deadline)?);
    linking::check_local(config, &specs(config))?;
    let mut before: Option<String> = None;
    loop {
        let is_short = deadline.left() < SHORT_TIME.min(Duration::from_millis(config.join_timeout_ms / 4));
        // The process asks before it listens. If several processes ask at once, each would otherwise wait for an answer
        // of the others.
        drop(listening.take());
        let look = contacts.look(None, deadline)?;
        let past = match store.as_ref().filter(|_| !look.runs) {
            Some(store) => store.past()?,
            None => None,
        };
        let listening = listen::in_time(config.listens_at(address), deadline)?;
        let why = not_founding(config, rank, store.as_ref(), look.runs);
        let attempt = match (past, &mut *store, rank.filter(|_| why.is_none())) {
            (Some(past), Some(store), _) => restart(config, store, past, deadline, listening, handler, &mut contacts)?,
            (_, store, Some(rank)) => {
                let founder = founding::Founder { config, rank, deadline };
                founder.found_or_join(store.as_mut(), listening, handler, &mut contacts, look.obstacle)?
            }
            (_, store, None) => {
                let why = why.unwrap_or_default();
                attempt(config, store.as_mut(), handler, deadline, listening, &mut contacts, &why)?
            }
        };
        match attempt {
            Attempt::Joined(shared, driver) => return Ok((shared, *driver)),
            Attempt::Again(back, obstacle) if !deadline.is_over() => {
                tracing::info!(obstacle, "not in the group yet; trying again");
                handler = back;
                if !is_short || before.is_none() {
                    before = Some(obstacle);
                }
                std::thread::sleep(AGAIN_TIME);
            }
            // An attempt that the deadline cuts short does not find the cause. The attempt before it did.
            Attempt::Again(_, obstacle) => {
                let missing = before.filter(|_| is_short).unwrap_or(obstacle);
                return Err(Error::Missing { missing, after_ms: config.join_timeout_ms });
            }
        }
    }
}

/// The reason why this process must not found the group; `None` if it may.
fn not_founding(config: &Config, rank: Option<usize>, store: Option<&LogStore>, runs: bool) -> Option<String> {
    let why = match rank {
        None => "its id is not listed in `members`",
        Some(_) if runs => "the group runs already, so it joins",
        // The process has been in the group. The log of a failed founding is removed by now.
        Some(_) if store.is_some_and(LogStore::has_log) => "its log shows that it was in the group before",
        Some(_) if config.found == Found::Never => "`found` is \"never\" in its configuration",
        Some(_) => return None,
    };
    Some(format!("this process does not found the group: {why}"))
}

/// Restarts the group with the other members, after the processes of all members have ended.
///
/// Returns `Again` if the group runs, goes on without this process, or must be founded again because its founding
/// failed, and also if members are missing at the deadline.
fn restart(
    config: &Config,
    store: &mut LogStore,
    past: Past,
    deadline: &Deadline,
    listening: Listening,
    handler: Box<dyn Handler>,
    contacts: &mut Contacts,
) -> Result<Attempt, Error> {
    let Past { group_id, hard_state, recovery, places } = past;
    let (_, address, rank) = config.own()?;
    let me = Peer { incarnation: incarnation(), ..hard_state.me() };
    let (fabric, own, linking) = linking::new_fabric(config, places.fabric, me.slot, &specs(config))?;
    let log = store.of(group_id)?;
    let may_found =
        rank.is_some() && config.found == Found::IfNew && hard_state.view().number == 0 && !log.has_snapshot()?;
    let wake = Wake::default();
    let node = node(config, me, fabric, own, deadline.at())?.with_journal(Box::new(log.journal(wake.call())));
    let addresses = HashMap::from([(me.incarnation, address.to_owned())]);
    let sign = LocalIdentity::new(config, group_id, me, address, linking.clone());
    let durable = Some(Durable { log, wake, release: None });
    let restarts = Some((hard_state, recovery));
    let deadline_at = deadline.at();
    let ready =
        Ready { node, me, sign, addresses, places: Vec::new(), listening, durable, restarts, deadline: deadline_at };
    let (shared, mut driver) = ready.start(config, handler)?;
    let place = Place::new(me, address);
    let search =
        Search::start(config, group_id, place, contacts.addresses(), linking, shared.clone(), deadline.clone())?;
    // A founder without a log has not written the first view to disk, so no member has run in that view.
    let founded_in_vain = |node: &Node| {
        let only_founded = may_found && node.has_only_founded();
        shared.only_founded.store(only_founded, Ordering::Relaxed);
        only_founded && shared.founders().may_begin_anew(config, me.id)
    };
    let gives_up = |node: &Node| {
        search.note(node, &shared);
        search.disagreement().is_some() || search.finds_it_running(node) || founded_in_vain(node)
    };
    let installed = driver.install(deadline.cancel(), gives_up);
    let view = shared.view_on_disk.load(Ordering::Relaxed);
    let obstacle = match installed {
        Ok(true) => return Ok(Attempt::Joined(shared, Box::new(driver))),
        Ok(false) => match search.disagreement() {
            Some(error) => return Err(error),
            None if founded_in_vain(driver.node()) => {
                store.discard()?;
                contacts.forget_log();
                "not all founders have view 0 on disk: founding begins again".to_owned()
            }
            None => "the group runs without this process; joining it as a new member".to_owned(),
        },
        // The application has not been called yet, so it can join as a new process.
        Err(Error::Removed { .. }) if shared.restarting.load(Ordering::Relaxed) => search.continued_without(view),
        Err(Error::Missing { missing, .. }) => match search.earlier_views(view) {
            Some(earlier) => format!("{missing}; {earlier}"),
            None => missing,
        },
        Err(error) => return Err(error),
    };
    contacts.learn(&search.learned());
    Attempt::again(driver, obstacle)
}

/// Wakes the engine, once there is one.
#[derive(Default, Clone)]
pub(crate) struct Wake(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl Wake {
    pub(crate) fn call(&self) -> Box<dyn Fn() + Send + Sync> {
        let wake = self.0.clone();
        Box::new(move || {
            if let Some(wake) = wake.get() {
                wake();
            }
        })
    }
}

/// A process's access to the group's log.
pub(crate) struct Durable {
    pub(crate) log: Arc<Log>,
    pub(crate) wake: Wake,
    /// Only at a joiner: releases the records that are held back until the earlier part of the log is complete.
    pub(crate) release: Option<Release>,
}

/// A random number for this run of the process; at most 2^63 - 1, see [`crate::meet::questions`].
pub(crate) fn incarnation() -> u64 {
    (RandomState::new().hash_one(std::process::id()) >> 1).max(1)
}

/// A process that has its fabric, its node and the data for its acceptor, and is about to run.
pub(crate) struct Ready {
    pub(crate) node: Node,
    pub(crate) me: Peer,
    pub(crate) sign: LocalIdentity,
    pub(crate) addresses: HashMap<u64, String>,
    /// At a joiner: the addresses of the members of the running group.
    pub(crate) places: Vec<Place>,
    pub(crate) listening: Listening,
    pub(crate) durable: Option<Durable>,
    pub(crate) restarts: Option<(HardState, Recovery)>,
    pub(crate) deadline: Instant,
}

impl Ready {
    pub(crate) fn start(self, config: &Config, handler: Box<dyn Handler>) -> Result<(Arc<Shared>, Driver), Error> {
        let rings = vec![self.node.subgroup(EVERYBODY).ring().clone()];
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::io("cannot make an event descriptor", e))?;
        let pulse =
            Pulse::new(config.failure_timeout_ms).map_err(|e| Error::io("cannot make an event descriptor", e))?;
        let log = self.durable.as_ref().map(|durable| durable.log.clone());
        let shared = Arc::new(Shared::new(self.me.id, config.stack_bytes, rings, log, event, pulse));
        shared.restarting.store(self.restarts.is_some(), Ordering::Relaxed);
        let view = self.restarts.as_ref().map_or(0, |(hard_state, _)| hard_state.view().number);
        shared.view_on_disk.store(view, Ordering::Relaxed);
        shared.lock().places = Arc::new(self.places);
        let caller = Caller {
            shared: shared.clone(),
            linking: self.sign.linking.clone(),
            group_id: self.sign.group_id,
            me: Place::new(self.me, &self.sign.address),
        };
        let (wake, release) = self.durable.map(|durable| (durable.wake, durable.release)).unzip();
        if let Some(wake) = wake {
            // This is the only place that sets it.
            let _ = wake.0.set(shared.waker());
        }
        let start = Start {
            node: self.node,
            shared: shared.clone(),
            handler,
            caller,
            addresses: self.addresses,
            memory: Memory::new(config)?,
            acceptor: Acceptor::open(self.listening, self.sign, shared.clone())?,
            deadline: self.deadline,
            release: release.flatten(),
            restarts: self.restarts,
        };
        Ok((shared, Driver::new(start, config)?))
    }
}

pub(crate) fn specs(config: &Config) -> [TableSpec; 2] {
    [membership::table_spec(), multicast::table_spec(EVERYBODY, config.ring_bytes)]
}

pub(crate) fn node(
    config: &Config,
    me: Peer,
    fabric: Box<dyn Fabric>,
    own: Vec<Arc<Row>>,
    deadline: Instant,
) -> Result<Node, Error> {
    let [row, ring_row] =
        <[_; 2]>::try_from(own).map_err(|_| Error::Misuse("the fabric did not create the rows of this process"))?;
    let [_, spec] = specs(config);
    let durability = config.log.as_ref().map(|log| Durability { k: log.durable_members });
    let everybody =
        Multicast::new(EVERYBODY, spec, me.slot, ring_row, config.max_message(), durability, Origin::default());
    let left = deadline.saturating_duration_since(Instant::now());
    let settings = Settings {
        failure_timeout_ms: config.failure_timeout_ms,
        partition_timeout_ms: config.partition_timeout_ms,
        join_timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        lone_survivor: config.lone_survivor,
        restart_wait_ms: config.log.as_ref().map_or(0, |log| log.restart_wait_ms),
        logs: config.log.is_some(),
        clock_skew_max_ms: config.log.as_ref().map_or(0, |log| log.clock_skew_max_ms),
        subgroups: 1,
        seed: me.incarnation,
    };
    Ok(Node::new(me, fabric, row, vec![everybody], settings, 0))
}

/// Makes one attempt to join: gets admitted, links with all processes, and waits to be in a view.
fn attempt(
    config: &Config,
    mut store: Option<&mut LogStore>,
    handler: Box<dyn Handler>,
    deadline: &Deadline,
    listening: Listening,
    contacts: &mut Contacts,
    why: &str,
) -> Result<Attempt, Error> {
    let incarnation = incarnation();
    let acceptor = IdleAcceptor::open(listening, Idle::new(config, contacts, why)?.known_as(incarnation))?;
    let admitted = admission(config, contacts, deadline, incarnation)?;
    let listening = acceptor.close()?;
    let Admitted { group_id, fabric, me, since, others } = match admitted {
        Ok(admitted) => admitted,
        Err(obstacle) => {
            return Ok(Attempt::Again(handler, format!("a member that admits this process ({why}; {obstacle})")));
        }
    };
    let peer = me.peer();
    let (fabric, own, linking) = linking::new_fabric(config, fabric, peer.slot, &specs(config))?;
    let mut node = node(config, peer, fabric, own, deadline.at())?;
    let mut durable = None;
    if let Some(store) = store.as_deref_mut() {
        let (log, (held, release)) = (store.of(group_id)?, deferred());
        node = node.with_journal(Box::new(held));
        durable = Some(Durable { log, wake: Wake::default(), release: Some(release) });
    }
    let addresses = others.iter().chain([&me]).map(|place| (place.incarnation, place.address.clone())).collect();
    let sign = LocalIdentity::new(config, group_id, peer, &me.address, linking.clone());
    let places = others.clone();
    let deadline_at = deadline.at();
    let ready =
        Ready { node, me: peer, sign, addresses, places, listening, durable, restarts: None, deadline: deadline_at };
    let (shared, mut driver) = ready.start(config, handler)?;
    let obstacle = link_all(&shared, group_id, Seated { place: me, since }, &others, &linking)?;
    // The leader may have died, or a process may be unreachable. A new attempt finds that out.
    let patience = Duration::from_millis(config.failure_timeout_ms.saturating_mul(2)).max(STEP_TIME);
    let give_up = deadline.at().min(Instant::now() + patience);
    if driver.install(deadline.cancel(), |_| Instant::now() >= give_up)? {
        return Ok(Attempt::Joined(shared, Box::new(driver)));
    }
    let what = obstacle.lock().map(|what| what.clone()).unwrap_or_default();
    let what = if what.is_empty() { "no view with this process has begun yet".to_owned() } else { what };
    let again = Attempt::again(driver, format!("admission to the group ({what})"));
    // The empty log must go: otherwise the next attempt would treat this process as a former member that comes back.
    store.map_or(Ok(()), LogStore::discard_empty)?;
    again
}
