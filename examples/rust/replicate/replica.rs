//! One replica of a list of lines. This file contains everything that this example does with Galerna.

use crate::history::History;
use crate::views::Views;
use galerna::{Config, Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId, View};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The subgroup that contains every member.
const EVERYBODY: SubgroupId = SubgroupId(0);
/// How long a line may wait for space in the ring, and a leave for the other members.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member of the group, with the lines that were delivered to it.
pub(crate) struct Replica {
    group: Group,
    mode: Mode,
    store: Arc<Store>,
    sent_at: Sender<Instant>,
}

/// The state that the callbacks build and the rest of the program reads.
#[derive(Default)]
struct Store {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) history: History,
    /// The latency of each line that this member sent: from the call of `send` to the delivery at this member.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) last_delivery: Option<Instant>,
    pub(crate) views: Views,
    /// Number of lines received with the state, if the group already ran.
    pub(crate) taken: usize,
    stopped: Option<Error>,
}

/// The callbacks. Galerna calls them in its own thread.
struct Callbacks {
    me: MemberId,
    store: Arc<Store>,
    /// The times at which this member sent its lines, in the order of sending. They are delivered in the same order.
    sent_at: Receiver<Instant>,
}

impl Handler for Callbacks {
    fn deliver(&mut self, message: Delivery<'_>) {
        let now = Instant::now();
        let mut state = self.store.lock();
        state.history.append(message.sender.0, message.payload);
        state.last_delivery = Some(now);
        state.views.delivery(now);
        if message.sender == self.me
            && let Ok(sent_at) = self.sent_at.try_recv()
        {
            state.latencies.push(now - sent_at);
        }
        self.store.changed.notify_all();
    }

    fn view(&mut self, view: &View) {
        self.store.lock().views.begins(view);
        self.store.changed.notify_all();
    }

    fn stopped(&mut self, reason: &Error) {
        self.store.lock().stopped = Some(reason.clone());
        self.store.changed.notify_all();
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.store.lock().history.snapshot()))
    }

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let history = History::restore(state)?;
        let mut state = self.store.lock();
        state.taken = history.len();
        state.history = history;
        Ok(())
    }
}

impl Replica {
    /// Founds the group together with the other members, or joins it and receives the lines so far if it already runs.
    pub(crate) fn join(config: Config, me: MemberId, mode: Mode) -> Result<Replica, Error> {
        let store = Arc::new(Store::default());
        let (sent_at, receiver) = channel();
        let callbacks = Callbacks { me, store: store.clone(), sent_at: receiver };
        let group = Group::join(config.with_member(me), callbacks)?;
        Ok(Replica { group, mode, store, sent_at })
    }

    /// Sends a line to every member, including this one. Waits while the ring is full.
    pub(crate) fn send(&self, line: &[u8]) -> Result<(), Error> {
        // This fails only if the group has stopped, and then the send below returns the reason.
        let _ = self.sent_at.send(Instant::now());
        self.group.send(EVERYBODY, self.mode, line, PATIENCE).map(|_| ())
    }

    /// Number of lines delivered so far.
    pub(crate) fn delivered(&self) -> usize {
        self.store.lock().history.len()
    }

    /// Returns the first member that failed. The first failure of `expected` does not count.
    pub(crate) fn failed(&self, expected: Option<u32>) -> Option<u32> {
        self.store.lock().failed(expected)
    }

    /// Waits until `reached` returns a value for the state. Fails if the group stops first.
    pub(crate) fn wait_for<T>(&self, mut reached: impl FnMut(&State) -> Option<T>) -> Result<T, Error> {
        let mut state = self.store.lock();
        loop {
            // Checked before `stopped`: a condition that is met counts even if the group has stopped since.
            if let Some(value) = reached(&state) {
                return Ok(value);
            }
            if let Some(reason) = &state.stopped {
                return Err(reason.clone());
            }
            state = self.store.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Describes the failure of another member, as far as this member knows it.
    pub(crate) fn fault(&self, member: u32) -> String {
        self.group.fault(MemberId(member)).unwrap_or_else(|| "other members could not reach it".to_owned())
    }

    /// Leaves the group once every member has received all that this member sent. Returns the final state.
    pub(crate) fn leave(self) -> Result<State, Error> {
        self.group.leave(PATIENCE)?;
        Ok(std::mem::take(&mut *self.store.lock()))
    }
}

impl State {
    /// See [`Replica::failed`].
    pub(crate) fn failed(&self, expected: Option<u32>) -> Option<u32> {
        let mut expected = expected;
        self.views.failed().find(|&id| expected.take_if(|expected| *expected == id).is_none())
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
