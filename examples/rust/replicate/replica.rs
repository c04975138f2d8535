//! One replica of a list of lines: everything this example does with Galerna is in this file.

use crate::history::History;
use crate::views::Views;
use galerna::{Config, Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId, View};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The subgroup that holds every member.
const EVERYBODY: SubgroupId = SubgroupId(0);
/// How long a line may wait for a place in the ring, and a leave for the other members.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member of the group, and what was delivered to it.
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
    /// From the call of `send` to the own delivery, of each line that this member sent.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) last_delivery: Option<Instant>,
    pub(crate) views: Views,
    /// Lines that came with the state of a group that ran already.
    pub(crate) taken: usize,
    stopped: Option<Error>,
}

/// What Galerna calls, in its own thread.
struct Callbacks {
    me: MemberId,
    store: Arc<Store>,
    /// When each of the own lines was sent, in their order, which is that of their deliveries.
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
    /// Returns when all members of the group have met; if the group runs already, when this process has joined it, and has
    /// the lines so far.
    pub(crate) fn join(config: Config, me: MemberId, mode: Mode) -> Result<Replica, Error> {
        let store = Arc::new(Store::default());
        let (sent_at, receiver) = channel();
        let callbacks = Callbacks { me, store: store.clone(), sent_at: receiver };
        let group = Group::join(config.with_member(me), callbacks)?;
        Ok(Replica { group, mode, store, sent_at })
    }

    /// Sends a line to every member, this one included; waits while the ring is full.
    pub(crate) fn send(&self, line: &[u8]) -> Result<(), Error> {
        // Nobody listens any more if the group has stopped, and then the send says why.
        let _ = self.sent_at.send(Instant::now());
        self.group.send(EVERYBODY, self.mode, line, PATIENCE)
    }

    /// Lines delivered so far.
    pub(crate) fn delivered(&self) -> usize {
        self.store.lock().history.len()
    }

    /// The first member that failed, but for the first failure of `expected`.
    pub(crate) fn failed(&self, expected: Option<u32>) -> Option<u32> {
        self.store.lock().failed(expected)
    }

    /// Waits until `reached` says something about the state, or the group stops before that.
    pub(crate) fn wait_for<T>(&self, mut reached: impl FnMut(&State) -> Option<T>) -> Result<T, Error> {
        let mut state = self.store.lock();
        loop {
            // What is reached is reached, even if the group has stopped since.
            if let Some(value) = reached(&state) {
                return Ok(value);
            }
            if let Some(reason) = &state.stopped {
                return Err(reason.clone());
            }
            state = self.store.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What this member knows of the failure of another.
    pub(crate) fn fault(&self, member: u32) -> String {
        self.group.fault(MemberId(member)).unwrap_or_else(|| "others could not reach it".to_owned())
    }

    /// Leaves once everything that this member sent has reached all; returns what was delivered to it.
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
