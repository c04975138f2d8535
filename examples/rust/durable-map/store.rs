//! One replica of the map. This file contains everything that this example does with Galerna.

use crate::map::{Change, Map};
use galerna::Version;
use galerna::{Config, Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId, View};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The subgroup that contains every member.
const EVERYBODY: SubgroupId = SubgroupId(0);
/// How long a change may wait for space in the ring, and a checkpoint for the group and the disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a leave may wait for the other members.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);

/// A member of the group, and its map.
pub(crate) struct Store {
    group: Group,
    shared: Arc<Shared>,
    life: u64,
}

/// The state that the callbacks build and the rest of the program reads.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    map: Map,
    /// Number of changes that this process has sent and that are not durable yet.
    pending: usize,
    stopped: Option<Error>,
}

/// An event that a member reports to the rest of the program.
pub(crate) enum News {
    /// A change of this process is durable and in the map. No crash can undo it, not even of all members at the same
    /// time.
    Acknowledged(Change),
    /// The present members of the group.
    Members(Vec<MemberId>),
    /// The group stopped, for this reason.
    Stopped(Error),
}

/// The callbacks. Galerna calls them in its own threads.
struct Callbacks {
    life: u64,
    shared: Arc<Shared>,
    news: Sender<News>,
}

impl Handler for Callbacks {
    /// Applies a change. It is delivered once it is on the members' disks. After a restart, the changes in the log
    /// after the last checkpoint are delivered again.
    fn deliver(&mut self, message: Delivery<'_>) {
        // Only this program sends messages. A message that it cannot decode is ignored, at every member.
        let Ok((life, change)) = Change::decode(message.payload) else { return };
        let own = (life == self.life).then(|| change.clone());
        let mut state = self.shared.lock();
        state.map.apply(change);
        if let Some(own) = own {
            state.pending -= 1;
            self.shared.changed.notify_all();
            // This fails only if the receiving thread has ended.
            let _ = self.news.send(News::Acknowledged(own));
        }
    }

    fn view(&mut self, view: &View) {
        let _ = self.news.send(News::Members(view.members.clone()));
    }

    fn stopped(&mut self, reason: &Error) {
        self.shared.lock().stopped = Some(reason.clone());
        self.shared.changed.notify_all();
        let _ = self.news.send(News::Stopped(reason.clone()));
    }

    /// Called for a checkpoint. The state must include all messages that were delivered so far.
    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.shared.lock().map.snapshot()))
    }

    /// Called with the last checkpoint. The messages of the log after it are delivered next.
    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        self.shared.lock().map = Map::restore(state)?;
        Ok(())
    }
}

impl Store {
    /// Joins the group. Returns when the group runs, for the first time or after a restart, and this member's map
    /// contains all changes of the group's log.
    pub(crate) fn join(config: Config, news: Sender<News>) -> Result<Store, Error> {
        let shared = Arc::new(Shared::default());
        // Distinguishes the changes of this process from those of its earlier runs. Such a change is in the log or was
        // never acknowledged, so no call waits for it.
        let life = RandomState::new().hash_one(std::process::id());
        let group = Group::join(config, Callbacks { life, shared: shared.clone(), news })?;
        Ok(Store { group, shared, life })
    }

    /// Sends a change. [`News::Acknowledged`] follows when the change is durable.
    pub(crate) fn send(&self, change: &Change) -> Result<(), Error> {
        self.shared.lock().pending += 1;
        let sent = self.group.send(EVERYBODY, Mode::Durable, &change.encode(self.life), PATIENCE);
        if sent.is_err() {
            self.shared.lock().pending -= 1;
        }
        sent.map(|_| ())
    }

    /// Runs `read` with the map once the map contains all changes that this process has sent.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Map) -> T) -> Result<T, Error> {
        let state = self.shared.lock();
        let waits = |state: &mut State| state.pending > 0 && state.stopped.is_none();
        let state = self.shared.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        match &state.stopped {
            Some(reason) => Err(reason.clone()),
            None => Ok(read(&state.map)),
        }
    }

    /// Stores the map on this member's disk, so that a restart begins with it, and deletes older records from the log.
    pub(crate) fn checkpoint(&self) -> Result<Version, Error> {
        let version = self.group.checkpoint(EVERYBODY, PATIENCE)?;
        self.group.trim_log(EVERYBODY, version)?;
        Ok(version)
    }

    /// Number of messages, counted from the first one, that no failure can revoke.
    pub(crate) fn durable(&self) -> Result<u64, Error> {
        Ok(self.group.frontiers(EVERYBODY)?.durable)
    }

    pub(crate) fn leave(self) -> Result<(), Error> {
        self.group.leave(LEAVE_PATIENCE)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
