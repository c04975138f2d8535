//! Restarts a group after all of its processes have ended.
//!
//! Every process that comes back looks for the others of its last view, links with them, and continues from its hard state
//! (see `membership/restart.rs`).

use crate::bootstrap::admission;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::meet::ask::Asker;
use crate::meet::check;
use crate::meet::questions::{Place, Reply, Request};
use crate::node::Node;
use crate::peers::linking::{self, Linking, Seated};
use crate::shared::Shared;
use crate::shared::requests::PeerRequest;
use crate::sync::lock;
use crate::thread::{self, OWN_STACK_BYTES};
use crate::types::MemberId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Pause between two searches for the other members.
const LOOK_TIME: Duration = Duration::from_millis(200);
/// The process in the lower slot dials again if a link is still missing after this time.
const AGAIN_TIME: Duration = Duration::from_secs(1);
/// The process in the higher slot dials a process that has not been linked for this time.
const HIGHER_WAITS: Duration = Duration::from_secs(2);
/// Time limit for a question.
const ASK_TIME: Duration = Duration::from_millis(500);

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
    /// For each other restarting member: the last view on its disk, and its address.
    views: BTreeMap<u32, (u64, String)>,
}

/// Searches for the other members in a thread, until it is dropped.
pub(crate) struct Search {
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
    pub(crate) fn start(
        config: &Config,
        group_id: u64,
        me: Place,
        addresses: Vec<String>,
        linking: Linking,
        shared: Arc<Shared>,
        deadline: Deadline,
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
                let asked = asker.ask(&request, ASK_TIME, &deadline, |address, reply| {
                    replies.push((address.to_owned(), reply));
                    None
                });
                if let Err(error) = asked {
                    tracing::warn!(%error, "cannot ask other processes whether the group runs");
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
    pub(crate) fn finds_it_running(&self, node: &Node) -> bool {
        lock(&self.heard).runs.take().is_some_and(|id| !node.is_linked_with(id))
    }

    /// Notes the members that this process is linked with, so that a broken link can be made again, and the last view on
    /// its disk.
    pub(crate) fn note(&self, node: &Node, shared: &Shared) {
        lock(&self.heard).linked = node.linked_with().collect();
        if let Some(view) = node.view().filter(|_| shared.restarting.load(Ordering::Relaxed)) {
            shared.view_on_disk.store(view.number, Ordering::Relaxed);
        }
    }

    /// The obstacle if other members wait with the logs of a later view than `view`, the last one on this process's disk.
    ///
    /// Then the group continued without this process, which no majority of its own view can change.
    pub(crate) fn later_view(&self, view: u64) -> Option<String> {
        let heard = lock(&self.heard);
        let later = heard.views.iter().filter(|(_, (other, _))| *other > view);
        let waiting: Vec<_> =
            later.map(|(id, (other, address))| format!("member {id} at {address} in view {other}")).collect();
        (!waiting.is_empty()).then(|| {
            format!(
                "a running group: it continued without this process, which has only view {view} on disk and joins anew; those that \
                 wait for others to run again: {}; their own errors name the members that they need",
                waiting.join(", ")
            )
        })
    }

    /// Names the members that wait with the logs of an earlier view than `view`. They are here, but count for no
    /// majority.
    pub(crate) fn earlier_views(&self, view: u64) -> Option<String> {
        let heard = lock(&self.heard);
        let earlier = heard.views.iter().filter(|(_, (other, _))| *other < view);
        let waiting: Vec<_> =
            earlier.map(|(id, (other, address))| format!("member {id} at {address} with view {other}")).collect();
        (!waiting.is_empty()).then(|| format!("with older logs, which do not count, wait here: {}", waiting.join(", ")))
    }

    /// The addresses of the members of the running group, from the answers so far.
    pub(crate) fn learned(&self) -> Vec<Place> {
        lock(&self.heard).learned.clone()
    }

    /// The error if another restarting member has a different configuration, or if another group has the same name.
    ///
    /// It is returned only after a delay, so that the other process sees the difference as well.
    pub(crate) fn disagreement(&self) -> Option<Error> {
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
            Reply::Restarting { group_id, place, agreed, only_founded, view } => {
                // This also applies to a process of another group that was never completely founded.
                self.shared.founders().restarts(MemberId(place.id), only_founded);
                if group_id == self.group_id {
                    lock(&self.heard).views.insert(place.id, (view, place.address.clone()));
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
            let me = Seated { place: self.me.clone(), since: 0 };
            match linking::link(self.group_id, &me, &place, &self.linking) {
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

impl Drop for Search {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
