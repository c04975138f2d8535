//! Starts a group again all of whose processes ended: every process that comes back looks for the others of its last view,
//! links itself with them, and goes on as its ledger says (see `membership/restart.rs`).

use super::door::Visit;
use super::driver::Driver;
use super::entry;
use super::linking::Linking;
use super::records::{self, Owned};
use super::shared::Shared;
use super::vault::Places;
use super::wire::{self, Place, Reply, Request};
use crate::config::Config;
use crate::config::MemberId;
use crate::error::Error;
use crate::fabric::meet::check;
use crate::node::{Node, Phase};
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pause between two looks for the others.
const LOOK_TIME: Duration = Duration::from_millis(200);
/// Pause after a fetch that failed, in milliseconds.
const FETCH_PAUSE_MS: u64 = 200;
/// How long a question may take.
const ASK_TIME: Duration = Duration::from_millis(500);

/// Which founders have nothing to lose.
#[derive(Default)]
pub(super) struct Founders {
    meet: bool,
    with_nothing: HashSet<MemberId>,
}

impl Founders {
    /// This one has no log, and meets the others.
    pub(super) fn meets(&mut self, id: MemberId) {
        self.meet = true;
        self.with_nothing.insert(id);
    }

    /// This one is being restarted.
    fn restarts(&mut self, id: MemberId, only_founded: bool) {
        match only_founded {
            true => self.with_nothing.insert(id),
            false => self.with_nothing.remove(&id),
        };
    }

    /// Whether some of the founders meet, and all but `me` are known to have nothing, so that nobody will miss a log of `me` that
    /// has nothing either.
    pub(super) fn may_begin_anew(&self, config: &Config, me: MemberId) -> bool {
        self.meet && config.members.iter().all(|member| member.id == me || self.with_nothing.contains(&member.id))
    }
}

/// What the others said.
#[derive(Default)]
struct Heard {
    /// Who said last that the group runs.
    runs: Option<MemberId>,
    /// Its configuration differs, as was seen first then.
    disagrees: Option<(Instant, Error)>,
}

/// Looks for the others in a thread until it is dropped.
pub(super) struct Search {
    over: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
}

impl Search {
    pub(super) fn start(
        config: &Config,
        group_id: u64,
        me: Place,
        places: &Places,
        linking: Linking,
        shared: Arc<Shared>,
    ) -> io::Result<Search> {
        let search = Search { over: Arc::default(), heard: Arc::default() };
        let listed = config.members.iter().map(|member| (member.id.0, member.address.clone()));
        let kept = places.places.iter().map(|place| (place.id, place.address.clone()));
        // What the log says is later than what the configuration says.
        let mut contacts: Vec<(u32, String)> = kept.chain(listed).filter(|(id, _)| *id != me.id).collect();
        let mut seen = HashSet::new();
        contacts.retain(|contact| seen.insert(contact.clone()));
        let (config, over, heard) = (config.clone(), search.over.clone(), search.heard.clone());
        let agreed = config.agreed();
        let look = move || {
            let mut linked = HashSet::new();
            while !over.load(Ordering::Relaxed) {
                for (id, address) in &contacts {
                    let request = Request::Ask { group: config.group.clone(), founds: None };
                    match wire::ask(address, &request, ASK_TIME).map(|(_, reply)| reply) {
                        Ok(Reply::Runs {}) => lock(&heard).runs = Some(MemberId(*id)),
                        Ok(Reply::Restarting { group_id: theirs, place, agreed: other, only_founded })
                            if theirs == group_id =>
                        {
                            shared.founders().restarts(MemberId(*id), only_founded);
                            if let Some((key, _, value)) = check::difference(&agreed, &other) {
                                let error = entry::disagreement(&config, *id, key, value);
                                lock(&heard).disagrees.get_or_insert((Instant::now(), error));
                                continue;
                            }
                            // One of the two makes the link.
                            if place.slot > me.slot && !linked.contains(&place.incarnation) {
                                match entry::link(group_id, (&me, 0), &place, &linking) {
                                    Ok(connection) => {
                                        linked.insert(place.incarnation);
                                        shared.visit(Visit::Link { place, since: 0, connection });
                                    }
                                    Err(error) => tracing::debug!(%error, address, "restart"),
                                }
                            }
                        }
                        Ok(other) => tracing::debug!(?other, address, "restart"),
                        Err(error) => tracing::debug!(%error, address, "restart"),
                    }
                }
                std::thread::sleep(LOOK_TIME);
            }
        };
        std::thread::Builder::new().name("galerna-revive".to_owned()).spawn(look)?;
        Ok(search)
    }

    /// Whether the group runs without this process: somebody says so that is not linked with it. Whoever is may only have
    /// been quicker to begin the view that this process is in, too.
    pub(super) fn finds_it_running(&self, node: &Node) -> bool {
        lock(&self.heard).runs.take().is_some_and(|id| !node.is_linked_with(id))
    }

    /// That a member which is being restarted, too, has another configuration; after a while, in which that one sees it as well.
    pub(super) fn disagreement(&self) -> Option<Error> {
        let heard = lock(&self.heard);
        heard.disagrees.as_ref().filter(|(since, _)| since.elapsed() > 5 * LOOK_TIME).map(|(_, error)| error.clone())
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

/// Records on their way from another member's log.
pub(super) struct Fetch {
    batches: Receiver<io::Result<Vec<Owned>>>,
}

impl Driver {
    /// Fetches what the own log lacks to go on with the others. True if anything moved.
    pub(super) fn fetch_log(&mut self, now_ms: u64) -> bool {
        if !matches!(self.node.phase(), Phase::Restarting) {
            self.fetch = None;
            return false;
        }
        let mut moved = false;
        while let Some(fetch) = &self.fetch {
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
        let Some(source) = self.reception.address_of(need.from) else { return moved };
        let shared = self.shared.clone();
        let wanted = records::Wanted {
            group_id: self.reception.group_id(),
            from: need.after.next(),
            below: need.below,
            ended: false,
        };
        match records::fetch(source, wanted, move || shared.ask()) {
            Ok(batches) => self.fetch = Some(Fetch { batches }),
            Err(error) => tracing::error!(%error, "cannot start the thread that fetches the log"),
        }
        tracing::info!(from = need.from.id.0, after = %need.after, below = %need.below, "fetching what the log lacks");
        moved
    }
}
