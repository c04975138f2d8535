//! What a process that meets the others learns meanwhile from elsewhere, and what it says to those that ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by the meeting and the thread that asks members and contacts.
#[derive(Debug, Default)]
pub(crate) struct Outside(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    runs: bool,
    /// Where its members are found.
    ways: Vec<String>,
    /// Why the group must not be founded yet.
    obstacle: Option<String>,
    /// Where a founder says that members of a former group are found, and which founder; nobody has asked there yet.
    former: Vec<(String, u32)>,
}

impl Outside {
    /// Nothing is known but this obstacle, if there is one.
    pub(crate) fn new(obstacle: Option<String>) -> Outside {
        Outside(Mutex::new(State { obstacle, ..State::default() }))
    }

    /// The group runs without this process, and its members are found there.
    pub(crate) fn runs(&self, ways: Vec<String>) {
        let mut state = self.lock();
        (state.runs, state.ways) = (true, ways);
    }

    /// Where the members of the group that runs are found.
    pub(crate) fn ways(&self) -> Vec<String> {
        self.lock().ways.clone()
    }

    pub(super) fn is_running(&self) -> bool {
        self.lock().runs
    }

    /// Replaces what stands in the way of founding.
    pub(crate) fn set_obstacle(&self, obstacle: Option<String>) {
        self.lock().obstacle = obstacle;
    }

    /// What stands in the way of founding.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let state = self.lock();
        let asks = |(address, member): &(String, u32)| {
            format!("the member at {address}, which was in the group with member {member} and has not been asked yet")
        };
        state.obstacle.clone().or_else(|| state.former.first().map(asks))
    }

    /// Founder `member` was in a group of this name with those at `addresses`.
    pub(super) fn tell(&self, addresses: &[String], member: u32) {
        let mut state = self.lock();
        for address in addresses {
            if !state.former.iter().any(|(known, _)| known == address) {
                state.former.push((address.clone(), member));
            }
        }
    }

    /// The members of a former group that the founders know of. The group cannot be founded before [`Outside::asked`] is called
    /// with them.
    pub(crate) fn former(&self) -> Vec<(String, u32)> {
        self.lock().former.clone()
    }

    /// All of these are among those that are asked.
    pub(crate) fn asked(&self, former: &[(String, u32)]) {
        self.lock().former.retain(|known| !former.contains(known));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the message that answers a question with this body.
pub(crate) type Answering<'a> = &'a (dyn Fn(&[u8]) -> Vec<u8> + Sync);

/// What a meeting has to do with others than the founders.
#[derive(Default)]
pub(crate) struct Surroundings<'a> {
    pub(crate) outside: Arc<Outside>,
    /// Where members of a group of this name are found that this process has been in, and that are no founders.
    pub(crate) former: Vec<String>,
    /// Without it the connection is closed on a question.
    pub(crate) answer: Option<Answering<'a>>,
}
