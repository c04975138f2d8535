//! Facts that a meeting learns from processes outside of it, and its answers to their questions.

use crate::sync::lock;
use std::sync::{Arc, Mutex, MutexGuard};

/// The facts, shared between the meeting and the thread that asks members and contacts.
#[derive(Debug, Default)]
pub(crate) struct Outside(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    runs: bool,
    /// The addresses of the running group's members.
    ways: Vec<String>,
    /// The reason not to found the group yet.
    obstacle: Option<String>,
    /// Addresses of members of a former group, each with the founder that reported it. Nobody has asked there yet.
    former: Vec<(String, u32)>,
}

impl Outside {
    /// No facts except this obstacle, if any.
    pub(crate) fn new(obstacle: Option<String>) -> Outside {
        Outside(Mutex::new(State { obstacle, ..State::default() }))
    }

    /// Records that the group runs without this process, with its members at the addresses `ways`.
    pub(crate) fn runs(&self, ways: Vec<String>) {
        let mut state = self.lock();
        (state.runs, state.ways) = (true, ways);
    }

    /// The addresses of the running group's members.
    pub(crate) fn ways(&self) -> Vec<String> {
        self.lock().ways.clone()
    }

    pub(super) fn is_running(&self) -> bool {
        self.lock().runs
    }

    /// Replaces the reason not to found the group yet.
    pub(crate) fn set_obstacle(&self, obstacle: Option<String>) {
        self.lock().obstacle = obstacle;
    }

    /// The reason not to found the group yet, if any.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let state = self.lock();
        let asks = |(address, member): &(String, u32)| {
            format!("the member at {address}, which was in the group with member {member} and has not been asked yet")
        };
        state.obstacle.clone().or_else(|| state.former.first().map(asks))
    }

    /// Records that founder `member` was in a group of this name together with the members at `addresses`.
    pub(super) fn tell(&self, addresses: &[String], member: u32) {
        let mut state = self.lock();
        for address in addresses {
            if !state.former.iter().any(|(known, _)| known == address) {
                state.former.push((address.clone(), member));
            }
        }
    }

    /// The members of a former group that founders have reported. The group cannot be founded until [`Outside::asked`]
    /// is called with them.
    pub(crate) fn former(&self) -> Vec<(String, u32)> {
        self.lock().former.clone()
    }

    /// Records that all of these are now among the processes that are asked.
    pub(crate) fn asked(&self, former: &[(String, u32)]) {
        self.lock().former.retain(|known| !former.contains(known));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

/// Makes the complete answer to a question with the given body.
pub(crate) type Answering<'a> = &'a (dyn Fn(&[u8]) -> Vec<u8> + Sync);

/// The dealings of a meeting with processes that are not founders.
#[derive(Default)]
pub(crate) struct Surroundings<'a> {
    pub(crate) outside: Arc<Outside>,
    /// Addresses of members of a group of this name in which this process has been, except the founders.
    pub(crate) former: Vec<String>,
    /// Answers questions. Without it the connection of a question is closed.
    pub(crate) answer: Option<Answering<'a>>,
}
