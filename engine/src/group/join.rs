//! From a configuration to a running node: founds the group with the others, or joins it if it runs already.

use super::door::{Door, STEP_TIME, Sign};
use super::driver::Driver;
use super::entry::{Admitted, admission, link_all};
use super::handler::Handler;
use super::linking;
use super::reception::Reception;
use super::revive::Search;
use super::shared::Shared;
use super::vault::{Past, Vault};
use super::wire::{self, Place, Reply, Request};
use crate::config::{Config, MemberId, SubgroupId};
use crate::error::Error;
use crate::fabric::meet::listen::{self, Listening};
use crate::fabric::{Fabric, Row, SetupError, TableSpec, meet};
use crate::log::{Log, Release, held};
use crate::membership::{self, Ledger, Peer, Settings};
use crate::multicast::{self, Durability, Multicast, Origin};
use crate::node::{Node, Recovery};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The subgroup that holds every member.
const EVERYBODY: SubgroupId = SubgroupId(0);
/// How long the first question, whether the group runs, may take.
const ASK_TIME: Duration = Duration::from_millis(300);

/// What an attempt to join came to.
enum Attempt {
    Joined(Arc<Shared>, Box<Driver>),
    /// Not now: the handler comes back, with the obstacle.
    Again(Box<dyn Handler>, String),
}

impl Attempt {
    fn again(driver: Driver, obstacle: String) -> Result<Attempt, Error> {
        let handler = driver.into_handler().ok_or_else(|| Error::Internal("the handler is lost".to_owned()))?;
        Ok(Attempt::Again(handler, obstacle))
    }
}

pub(super) fn join(config: &Config, handler: Box<dyn Handler>) -> Result<(Arc<Shared>, Driver), Error> {
    config.check()?;
    let (id, _, _) = config.own()?;
    let mut vault = config.log.as_ref().map(|log| Vault::open(log, config, id)).transpose()?;
    let joined = try_to_join(config, &mut vault, handler);
    if let (Err(_), Some(vault)) = (&joined, &vault) {
        vault.close();
    }
    joined
}

/// One attempt after the other, each as the moment suggests.
fn try_to_join(
    config: &Config,
    vault: &mut Option<Vault>,
    mut handler: Box<dyn Handler>,
) -> Result<(Arc<Shared>, Driver), Error> {
    let (id, address, rank) = config.own()?;
    let deadline = Instant::now() + Duration::from_millis(config.join_timeout_ms);
    loop {
        // Asked before this process listens: others that ask too would wait for its answer.
        let runs = anybody_runs(config, id, false);
        let past = match vault.as_ref().filter(|_| !runs) {
            Some(vault) => vault.past()?,
            None => None,
        };
        let listening = listen::listen(config.listens_at(address))?;
        // A process that has a log never founds.
        let founder = rank.filter(|_| !runs && vault.as_ref().is_none_or(|vault| !vault.has_log()));
        let attempt = match (past, &mut *vault, founder) {
            (Some(past), Some(vault), _) => restart(config, vault, past, deadline, listening, handler)?,
            (_, vault, Some(rank)) => found_or_join(config, vault.as_mut(), rank, deadline, listening, handler)?,
            (_, vault, None) => attempt(config, vault.as_mut(), handler, deadline, listening)?,
        };
        match attempt {
            Attempt::Joined(shared, driver) => return Ok((shared, *driver)),
            Attempt::Again(back, obstacle) if Instant::now() < deadline => {
                tracing::info!(obstacle, "not in the group yet");
                handler = back;
            }
            Attempt::Again(_, missing) => return Err(Error::Missing { missing, after_ms: config.join_timeout_ms }),
        }
    }
}

/// Founds the group with all others, unless it runs already.
fn found_or_join(
    config: &Config,
    vault: Option<&mut Vault>,
    rank: usize,
    deadline: Instant,
    listening: Listening,
    handler: Box<dyn Handler>,
) -> Result<Attempt, Error> {
    match found(config, vault, rank, deadline, listening) {
        Ok(founded) => {
            let (shared, mut driver) = founded.start(config, handler)?;
            driver.install(|_| false)?;
            Ok(Attempt::Joined(shared, Box::new(driver)))
        }
        Err(Error::AlreadyRuns { .. }) => Ok(Attempt::Again(handler, "the group runs already".to_owned())),
        Err(error) => Err(error),
    }
}

/// Starts the group again with all others whose processes ended; `Again` if it runs, goes on without this one, or is founded
/// again, as its founding did not come to an end.
fn restart(
    config: &Config,
    vault: &mut Vault,
    past: Past,
    deadline: Instant,
    listening: Listening,
    handler: Box<dyn Handler>,
) -> Result<Attempt, Error> {
    let Past { group_id, ledger, recovery, places } = past;
    let (_, address, rank) = config.own()?;
    let me = Peer { incarnation: incarnation(), ..ledger.me() };
    let (fabric, own, linking) = linking::new_fabric(config, places.fabric, me.slot, &specs(config))?;
    let log = vault.of(group_id)?;
    let may_found = rank.is_some() && ledger.view().number == 0 && !log.has_snapshot()?;
    let wake = Wake::default();
    let node = node(config, me, fabric, own, deadline)?.with_journal(Box::new(log.journal(wake.call())));
    let addresses = HashMap::from([(me.incarnation, address.to_owned())]);
    let sign = Sign::new(config, group_id, me, address, linking.clone());
    let durable = Some(Durable { log, wake, release: None });
    let ready = Ready { node, me, sign, addresses, listening, durable, restarts: Some((ledger, recovery)) };
    let (shared, mut driver) = ready.start(config, handler)?;
    let place = Place::new(me, address);
    let search = Search::start(config, group_id, place, &places, linking, shared.clone());
    let search = search.map_err(|e| Error::io("cannot start the thread that looks for the others", e))?;
    // Whoever has no log has not written the first view down, so nobody has run in it.
    let founded_in_vain = |node: &Node| {
        let only_founded = may_found && node.has_only_founded();
        shared.only_founded.store(only_founded, Ordering::Relaxed);
        only_founded && shared.founders().may_begin_anew(config, me.id)
    };
    let gives_up =
        |node: &Node| search.disagreement().is_some() || search.finds_it_running(node) || founded_in_vain(node);
    let obstacle = match driver.install(gives_up) {
        Ok(true) => return Ok(Attempt::Joined(shared, Box::new(driver))),
        Ok(false) => match search.disagreement() {
            Some(error) => return Err(error),
            None if founded_in_vain(&driver.node) => {
                vault.discard()?;
                "not all founders wrote the first view down: they meet again"
            }
            None => "the group runs without this process, which joins it anew",
        },
        // Nobody has told the application anything yet.
        Err(Error::Removed { .. }) if shared.restarting.load(Ordering::Relaxed) => {
            "the group goes on without this process, which joins it anew"
        }
        Err(error) => return Err(error),
    };
    Attempt::again(driver, obstacle.to_owned())
}

/// Calls the engine, once there is one.
#[derive(Default, Clone)]
struct Wake(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl Wake {
    fn call(&self) -> Box<dyn Fn() + Send + Sync> {
        let wake = self.0.clone();
        Box::new(move || {
            if let Some(wake) = wake.get() {
                wake();
            }
        })
    }
}

/// What a process has of the group's log.
struct Durable {
    log: Arc<Log>,
    wake: Wake,
    /// Of one that joins.
    release: Option<Release>,
}

/// A random number for this life of the process; at most 2^63 - 1, see [`wire`].
pub(super) fn incarnation() -> u64 {
    (RandomState::new().hash_one(std::process::id()) >> 1).max(1)
}

/// Whether any other listed member says that the group runs.
fn anybody_runs(config: &Config, me: MemberId, founds: bool) -> bool {
    let founds = founds.then_some(me.0);
    let ask = |address: &str| {
        let request = Request::Ask { group: config.group.clone(), founds };
        matches!(wire::ask(address, &request, ASK_TIME), Ok((_, Reply::Runs {})))
    };
    std::thread::scope(|scope| {
        let others = config.members.iter().filter(|member| member.id != me);
        let asked: Vec<_> = others.map(|member| scope.spawn(|| ask(&member.address))).collect();
        asked.into_iter().any(|asked| asked.join().unwrap_or(false))
    })
}

/// A process that has its fabric, its node and its door's sign, and is about to run.
struct Ready {
    node: Node,
    me: Peer,
    sign: Sign,
    addresses: HashMap<u64, String>,
    listening: Listening,
    durable: Option<Durable>,
    restarts: Option<(Ledger, Recovery)>,
}

impl Ready {
    fn start(self, config: &Config, handler: Box<dyn Handler>) -> Result<(Arc<Shared>, Driver), Error> {
        let rings = vec![self.node.multicast().ring().clone()];
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::io("cannot make an event descriptor", e))?;
        let log = self.durable.as_ref().map(|durable| durable.log.clone());
        let shared = Arc::new(Shared::new(self.me.id, rings, log, event));
        shared.restarting.store(self.restarts.is_some(), Ordering::Relaxed);
        let (group_id, fabric) = (self.sign.group_id, self.sign.linking.kind());
        let door = Door::open(self.listening, self.sign, shared.clone())
            .map_err(|e| Error::io("cannot start the thread that listens", e))?;
        let reception = Reception::new(group_id, fabric, self.addresses, door);
        let mut driver = Driver::new(self.node, shared.clone(), handler, reception, config)?;
        if let Some(Durable { wake, release, .. }) = self.durable {
            // Set once, here.
            let _ = wake.0.set(shared.waker());
            driver.newcomer.takes_over(release);
        }
        if let Some((ledger, recovery)) = self.restarts {
            driver.newcomer.replays();
            driver.node.restart(ledger, recovery);
        }
        Ok((shared, driver))
    }
}

fn specs(config: &Config) -> [TableSpec; 2] {
    [membership::table_spec(), multicast::table_spec(EVERYBODY, config.ring_bytes)]
}

fn node(
    config: &Config,
    me: Peer,
    fabric: Box<dyn Fabric>,
    own: Vec<Arc<Row>>,
    deadline: Instant,
) -> Result<Node, Error> {
    let [row, ring_row] = <[_; 2]>::try_from(own).map_err(|_| Error::Misuse("the fabric did not make its rows"))?;
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
        seed: me.incarnation,
    };
    Ok(Node::new(me, fabric, row, everybody, settings, 0))
}

/// Meets the founders, whose slots are their ranks.
fn found(
    config: &Config,
    vault: Option<&mut Vault>,
    rank: usize,
    deadline: Instant,
    listening: Listening,
) -> Result<Ready, Error> {
    let (me, runs) = (config.members[rank].id, Arc::new(AtomicBool::new(false)));
    let incarnation = incarnation();
    let watch = Watch::start(config, me, runs.clone());
    let founders = |incarnations: &[u64]| -> Vec<Peer> {
        let ids = config.members.iter().map(|member| member.id).enumerate();
        ids.zip(incarnations).map(|((slot, id), &incarnation)| Peer { slot, id, incarnation }).collect()
    };
    let meet::Met { mut streams, incarnations, listening } =
        meet::meet::<Socket>(config, rank, incarnation, deadline, listening, &runs)?;
    drop(watch);
    let kind = linking::agree(config, &specs(config), &mut streams, deadline)?;
    let (fabric, own, linking) = linking::new_fabric(config, kind, rank, &specs(config))?;
    let streams = streams.into_iter().enumerate().filter_map(|(slot, stream)| Some((slot, stream?)));
    let links = linking.link(streams.collect(), deadline).map_err(|e| set_up_error(config, e))?;
    let founders = founders(&incarnations);
    let mut node = node(config, founders[rank], fabric, own, deadline)?;
    let mut durable = None;
    if let Some(vault) = vault {
        let (log, wake) = (vault.of(incarnations[0])?, Wake::default());
        node = node.with_journal(Box::new(log.journal(wake.call())));
        durable = Some(Durable { log, wake, release: None });
    }
    for (slot, connection) in links {
        node.attach(founders[slot], 0, connection)?;
    }
    node.found(&founders, Origin::default());
    let addresses = incarnations.iter().zip(&config.members).map(|(&i, member)| (i, member.address.clone())).collect();
    let me = founders[rank];
    let sign = Sign::new(config, incarnations[0], me, &config.members[rank].address, linking);
    Ok(Ready { node, me, sign, addresses, listening, durable, restarts: None })
}

/// Asks again and again, while the founders meet, whether the group runs without this process: a member that was restarted
/// is not looked for by the others.
struct Watch {
    over: Arc<AtomicBool>,
}

impl Watch {
    fn start(config: &Config, me: MemberId, runs: Arc<AtomicBool>) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let (seen, config) = (over.clone(), config.clone());
        let watch = move || {
            while !seen.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                if !seen.load(Ordering::Relaxed) && anybody_runs(&config, me, true) {
                    return runs.store(true, Ordering::Relaxed);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("galerna-watch".to_owned()).spawn(watch) {
            tracing::warn!(%error, "cannot start the thread that looks for a running group");
        }
        Watch { over }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// One attempt: a place, links with all, and to be named in a view.
fn attempt(
    config: &Config,
    vault: Option<&mut Vault>,
    handler: Box<dyn Handler>,
    deadline: Instant,
    listening: Listening,
) -> Result<Attempt, Error> {
    let Admitted { group_id, fabric, me, since, others } = match admission(config, deadline)? {
        Ok(admitted) => admitted,
        Err(obstacle) => return Ok(Attempt::Again(handler, obstacle)),
    };
    let peer = me.peer();
    let (fabric, own, linking) = linking::new_fabric(config, fabric, peer.slot, &specs(config))?;
    let mut node = node(config, peer, fabric, own, deadline)?;
    let mut durable = None;
    if let Some(vault) = vault {
        let (log, (held, release)) = (vault.of(group_id)?, held());
        node = node.with_journal(Box::new(held));
        durable = Some(Durable { log, wake: Wake::default(), release: Some(release) });
    }
    let addresses = others.iter().chain([&me]).map(|place| (place.incarnation, place.address.clone())).collect();
    let sign = Sign::new(config, group_id, peer, &me.address, linking.clone());
    let ready = Ready { node, me: peer, sign, addresses, listening, durable, restarts: None };
    let (shared, mut driver) = ready.start(config, handler)?;
    let obstacle = link_all(&shared, group_id, (&me, since), &others, &linking)?;
    // The leader may have died, or somebody may be unreachable: then a new attempt finds out.
    let patience = Duration::from_millis(config.failure_timeout_ms.saturating_mul(2)).max(STEP_TIME);
    let give_up = deadline.min(Instant::now() + patience);
    if driver.install(|_| Instant::now() >= give_up)? {
        return Ok(Attempt::Joined(shared, Box::new(driver)));
    }
    let what = obstacle.lock().map(|what| what.clone()).unwrap_or_default();
    let what = if what.is_empty() { "the group has not taken this process in yet".to_owned() } else { what };
    Attempt::again(driver, what)
}

fn set_up_error(config: &Config, error: SetupError) -> Error {
    match error {
        SetupError::Peer(fault) => Error::Refused { member: config.members[fault.peer].id, reason: fault.what },
        SetupError::Missing(faults) => {
            let missing = faults.iter().map(|f| format!("member {} ({})", config.members[f.peer].id, f.what));
            Error::Missing { missing: missing.collect::<Vec<_>>().join(", "), after_ms: config.join_timeout_ms }
        }
        SetupError::Local(error) => error,
    }
}
