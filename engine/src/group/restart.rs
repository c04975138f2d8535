//! Restarts a group after all of its processes have ended.
//!
//! Every process that comes back looks for the others of its last view, links with them, and continues from its hard state
//! (see `membership/restart.rs`).

use super::acceptor::PeerRequest;
use super::admission;
use super::ask::Asker;
use super::driver::Driver;
use super::gate::Source;
use super::linking::Linking;
use super::log_transfer;
use super::shared::Shared;
use super::wire::{Place, Reply, Request};
use crate::config::Config;
use crate::config::MemberId;
use crate::error::Error;
use crate::fabric::meet::check;
use crate::node::{Node, Phase};
use crate::thread::{self, OWN_STACK_BYTES};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pause between two searches for the other members.
const LOOK_TIME: Duration = Duration::from_millis(200);
/// Pause after a failed fetch, in milliseconds.
const FETCH_PAUSE_MS: u64 = 200;
/// The process in the lower slot dials again if a link is still missing after this time.
const AGAIN_TIME: Duration = Duration::from_secs(1);
/// The process in the higher slot dials a process that has not been linked for this time.
const HIGHER_WAITS: Duration = Duration::from_secs(2);
/// Time limit for a question.
const ASK_TIME: Duration = Duration::from_millis(500);

/// The founders that have nothing to lose by founding anew.
#[derive(Default)]
pub(super) struct Founders {
    meet: bool,
    with_nothing: HashSet<MemberId>,
}

impl Founders {
    /// Notes a founder that has no log and waits for the other founders.
    pub(super) fn meets(&mut self, id: MemberId) {
        self.meet = true;
        self.with_nothing.insert(id);
    }

    /// Notes a founder that is being restarted. `only_founded`: its log contains nothing but the first view.
    fn restarts(&mut self, id: MemberId, only_founded: bool) {
        match only_founded {
            true => self.with_nothing.insert(id),
            false => self.with_nothing.remove(&id),
        };
    }

    /// Whether the founders may found the group anew, although `me` has a log that contains nothing.
    ///
    /// That is so if a founder waits for the others, and all founders other than `me` are known to have nothing.
    pub(super) fn may_begin_anew(&self, config: &Config, me: MemberId) -> bool {
        self.meet && config.members.iter().all(|member| member.id == me || self.with_nothing.contains(&member.id))
    }
}

/// The answers of the other processes.
#[derive(Default)]
struct Heard {
    /// The member that answered last that the group runs.
    runs: Option<MemberId>,
    /// The first difference in configuration or group that was seen, and its time.
    disagrees: Option<(Instant, Error)>,
    /// The addresses of the members of the running group.
    learned: Vec<Place>,
    /// The members that this process is linked with.
    linked: HashSet<MemberId>,
}

/// Searches for the other members in a thread, until it is dropped.
pub(super) struct Search {
    over: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
}

/// The state of the searching thread.
struct Seeker {
    config: Config,
    group_id: u64,
    me: Place,
    linking: Linking,
    shared: Arc<Shared>,
    heard: Arc<Mutex<Heard>>,
    /// For each process that is not linked, by incarnation: when it was first seen, or last dialled.
    unlinked: HashMap<u64, Instant>,
}

impl Search {
    /// Starts the search. `addresses` are those of the last view's members and of all other processes that may know.
    pub(super) fn start(
        config: &Config,
        group_id: u64,
        me: Place,
        addresses: Vec<String>,
        linking: Linking,
        shared: Arc<Shared>,
    ) -> Result<Search, Error> {
        let search = Search { over: Arc::default(), heard: Arc::default() };
        let over = search.over.clone();
        let (config, heard, unlinked) = (config.clone(), search.heard.clone(), HashMap::new());
        let mut seeker = Seeker { config, group_id, me, linking, shared, heard, unlinked };
        let mut asker = Asker::new(addresses);
        let look = move || {
            let request = Request::Ask { group: seeker.config.group.clone(), founds: None };
            while !over.load(Ordering::Relaxed) {
                let mut replies = Vec::new();
                let asked = asker.ask(&request, ASK_TIME, |address, reply| {
                    replies.push((address.to_owned(), reply));
                    None
                });
                if let Err(error) = asked {
                    tracing::warn!(%error, "cannot ask for the other members");
                }
                for (address, reply) in replies {
                    match reply {
                        Ok(reply) => seeker.hear(&address, reply),
                        Err(error) => tracing::debug!(%error, address, "restart"),
                    }
                }
                std::thread::sleep(LOOK_TIME);
            }
        };
        thread::spawn("galerna-restart", "looks for the other members", OWN_STACK_BYTES, look)?;
        Ok(search)
    }

    /// Whether the group runs without this process.
    ///
    /// That is so if a member that is not linked with this process answers that the group runs. A linked member may
    /// simply have entered this view first.
    pub(super) fn finds_it_running(&self, node: &Node) -> bool {
        lock(&self.heard).runs.take().is_some_and(|id| !node.is_linked_with(id))
    }

    /// Notes the members that this process is linked with, so that a broken link can be made again.
    pub(super) fn note_links(&self, node: &Node) {
        lock(&self.heard).linked = node.linked_with().collect();
    }

    /// The addresses of the members of the running group, from the answers so far.
    pub(super) fn learned(&self) -> Vec<Place> {
        lock(&self.heard).learned.clone()
    }

    /// The error if another restarting member has a different configuration, or if another group has the same name.
    ///
    /// It is returned only after a delay, so that the other process sees the difference as well.
    pub(super) fn disagreement(&self) -> Option<Error> {
        let heard = lock(&self.heard);
        heard.disagrees.as_ref().filter(|(since, _)| since.elapsed() > 5 * LOOK_TIME).map(|(_, error)| error.clone())
    }
}

impl Seeker {
    /// Processes an answer.
    fn hear(&mut self, address: &str, reply: Reply) {
        match reply {
            Reply::Runs { group_id, member, places } if group_id == self.group_id => {
                let mut heard = lock(&self.heard);
                (heard.runs, heard.learned) = (Some(MemberId(member)), places);
            }
            Reply::Runs { group_id, .. } => self.other_group(group_id, &format!("runs at {address}")),
            Reply::Restarting { group_id, place, agreed, only_founded } => {
                // This also applies to a process of another group that was never completely founded.
                self.shared.founders().restarts(MemberId(place.id), only_founded);
                if group_id == self.group_id {
                    self.meet(address, place, &agreed);
                } else if !only_founded {
                    self.other_group(group_id, &format!("waits for its members at {address}"));
                }
            }
            other => tracing::debug!(?other, address, "restart"),
        }
    }

    /// Handles the answer of another restarting member: checks its configuration, and links with it if that is due.
    fn meet(&mut self, address: &str, place: Place, agreed: &[(String, String)]) {
        if let Some((key, _, value)) = check::difference(&self.config.agreed(), agreed) {
            return self.disagree(admission::disagreement(&self.config, place.id, key, value));
        }
        if lock(&self.heard).linked.contains(&MemberId(place.id)) || !self.shared.restarting.load(Ordering::Relaxed) {
            self.unlinked.remove(&place.incarnation);
            return;
        }
        // The process in the lower slot dials at once. The other one dials only if that has no effect.
        let since = self.unlinked.get(&place.incarnation);
        let due = match (place.slot > self.me.slot, since) {
            (lower, None) => lower,
            (true, Some(since)) => since.elapsed() >= AGAIN_TIME,
            (false, Some(since)) => since.elapsed() >= HIGHER_WAITS,
        };
        if since.is_none() || due {
            self.unlinked.insert(place.incarnation, Instant::now());
        }
        if due {
            match admission::link(self.group_id, (&self.me, 0), &place, &self.linking) {
                Ok(connection) => self.shared.request(PeerRequest::Link { place, since: 0, connection }),
                Err(error) => tracing::debug!(%error, address, "restart"),
            }
        }
    }

    fn other_group(&self, theirs: u64, what: &str) {
        self.disagree(Error::TwoGroups {
            group: self.config.group.clone(),
            ours: format!("{:#018x} (this process's log)", self.group_id),
            theirs: format!("{theirs:#018x} ({what})"),
        });
    }

    fn disagree(&self, error: Error) {
        lock(&self.heard).disagrees.get_or_insert((Instant::now(), error));
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Search {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Driver {
    /// Fetches the records that the own log lacks to continue with the others. Returns true if anything changed.
    pub(super) fn fetch_log(&mut self, now_ms: u64) -> bool {
        if !matches!(self.node.phase(), Phase::Restarting) {
            self.fetch = None;
            return false;
        }
        let mut moved = false;
        let shared = self.shared.clone();
        let slice = shared.pulse.begin();
        // The source may have gone.
        let need = self.node.log_need();
        self.fetch.take_if(|fetch| need.is_some_and(|need| need.from != fetch.from));
        while let Some(fetch) = &self.fetch {
            if slice.is_over() {
                // The rest follows in the next pass, because the other members wait for heartbeats.
                return true;
            }
            match fetch.batches.try_recv() {
                Ok(Ok(batch)) => {
                    batch.iter().for_each(|owned| self.node.take_record(owned.record()));
                    moved = true;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "fetching what the log lacks");
                    self.fetch_again_ms = now_ms + FETCH_PAUSE_MS;
                }
                Err(TryRecvError::Empty) => return moved,
                Err(TryRecvError::Disconnected) => self.fetch = None,
            }
        }
        let Some(need) = self.node.log_need().filter(|_| now_ms >= self.fetch_again_ms) else { return moved };
        let Some(address) = self.join_service.address_of(need.from) else { return moved };
        let source = Source { peer: need.from, address };
        let wanted = log_transfer::Wanted {
            me: self.node.me(),
            deadline: self.newcomer.deadline(),
            group_id: self.join_service.group_id(),
            from: need.after.next(),
            below: need.below,
            ended: false,
        };
        match log_transfer::fetch(source, wanted, move || shared.ask()) {
            Ok(fetch) => self.fetch = Some(fetch),
            Err(error) => {
                tracing::error!(%error, "fetching what the log lacks");
                self.fetch_again_ms = now_ms + FETCH_PAUSE_MS;
                return moved;
            }
        }
        tracing::info!(from = need.from.id.0, after = %need.after, below = %need.below, "fetching what the log lacks");
        moved
    }
}
