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
use crate::peers::contacts::NAMED_MAX;
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
/// A process that has not answered for this time has perhaps ended.
const STILL_THERE: Duration = Duration::from_secs(2);
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
    /// The last answer of each other restarting member.
    views: BTreeMap<u32, Seen>,
}

/// An answer of another restarting member.
struct Seen {
    at: Instant,
    address: String,
    /// The last view on its disk.
    view: u64,
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

    /// The obstacle when the others have continued without this process, which has only view `view` on disk. It names the
    /// members that wait with a later view.
    pub(crate) fn continued_without(&self, view: u64) -> String {
        let waiting = self.waiting(|other| other > view);
        let waiting = match waiting.is_empty() {
            true => String::new(),
            false => {
                format!("; with later views, others wait for more members, and their own errors name them: {waiting}")
            }
        };
        format!(
            "a running group: it continued without this process, which has only view {view} on disk and joins anew{waiting}"
        )
    }

    /// Names the members that wait with an earlier view on disk than `view`.
    pub(crate) fn earlier_views(&self, view: u64) -> Option<String> {
        let waiting = self.waiting(|other| other < view);
        (!waiting.is_empty()).then(|| {
            format!("with earlier views on disk, so that they count only if they are in view {view}, wait: {waiting}")
        })
    }

    /// The members that have answered lately, and have such a view on disk.
    fn waiting(&self, has: impl Fn(u64) -> bool) -> String {
        let heard = lock(&self.heard);
        let lately = heard.views.iter().filter(|(_, seen)| seen.at.elapsed() < STILL_THERE && has(seen.view));
        let named =
            lately.take(NAMED_MAX).map(|(id, seen)| format!("member {id} at {} with view {}", seen.address, seen.view));
        named.collect::<Vec<_>>().join(", ")
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
                    let seen = Seen { at: Instant::now(), address: address.to_owned(), view };
                    lock(&self.heard).views.insert(place.id, seen);
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
