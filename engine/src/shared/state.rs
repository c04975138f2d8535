//! The part of the shared state that changes seldom and is under a lock.

use super::requests::{CheckpointRequest, PeerRequest};
use super::wait::Pending;
use crate::app::{Frontiers, View};
use crate::error::Error;
use crate::meet::questions::Place;
use crate::multicast::Stats;
use crate::types::MemberId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A function of the application that is called with the result of a leave.
pub(crate) type LeftFn = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The limits of a leave.
pub(crate) struct LeaveTimes {
    /// When the driver drops all reservations that are still open.
    pub(crate) drops_at: Instant,
    /// When the driver ends, whether or not the other members have gone on without this process.
    pub(crate) ends_at: Instant,
    pub(crate) timeout: Duration,
}

/// State that changes seldom, under a lock.
pub(crate) struct State {
    /// The reason why the group stopped.
    pub(crate) stopped: Option<Error>,
    /// This process has asked to leave.
    pub(crate) leaving: bool,
    /// The limits of the leave. The driver takes them.
    pub(crate) leave_times: Option<LeaveTimes>,
    /// The application's function that is called with the result of the leave. The driver takes it.
    pub(crate) left: Option<LeftFn>,
    /// The other members have gone on without this process, which asked to leave. Only links remain to be ended.
    pub(crate) departed: bool,
    /// The driver has ended, with this result of the leave.
    pub(crate) ended: Option<Result<(), Error>>,
    /// Increases when ring space is freed while a thread waits for it.
    pub(super) space_epoch: u64,
    /// New flushes. The driver takes them.
    pub(crate) flushes: Vec<Pending>,
    pub(crate) stats: Vec<Stats>,
    /// The progress of the log.
    pub(crate) frontiers: Frontiers,
    /// Checkpoints that were requested. The driver takes them.
    pub(crate) checkpoints: Vec<CheckpointRequest>,
    /// Requests from the thread that accepts connections (the acceptor). The driver takes them.
    pub(crate) requests: Vec<PeerRequest>,
    /// The first fault of each member since the present view began; of a removed member, the one before its removal.
    pub(crate) faults: HashMap<MemberId, String>,
    /// The addresses of the members of the present view. Before a joiner's first view: of the processes that it links
    /// with.
    pub(crate) places: Arc<Vec<Place>>,
    /// The latest view of which the application was notified.
    pub(crate) view: Arc<View>,
    /// The incarnations of the processes in the present view. Only these may fetch the state, or the log of a running
    /// group.
    pub(crate) present: HashSet<u64>,
}

impl State {
    pub(super) fn new(subgroups: usize) -> State {
        State {
            stopped: None,
            leaving: false,
            departed: false,
            leave_times: None,
            left: None,
            ended: None,
            space_epoch: 0,
            flushes: Vec::new(),
            stats: vec![Stats::default(); subgroups],
            frontiers: Frontiers::default(),
            checkpoints: Vec::new(),
            requests: Vec::new(),
            faults: HashMap::new(),
            places: Arc::default(),
            view: Arc::default(),
            present: HashSet::new(),
        }
    }

    /// Updates the recorded faults when a view begins.
    ///
    /// The faults of the other members of the new view, and of members that left, are dropped. A removed member without a recorded fault gets a
    /// text. An error of this process itself, `me`, stays.
    pub(crate) fn note_departures(&mut self, view: &View, me: MemberId) {
        for member in view.members.iter().filter(|member| **member != me && !view.failed.contains(member)) {
            self.faults.remove(member);
        }
        // The end of its link is no fault of a member that has left.
        for member in view.left.iter().filter(|member| **member != me) {
            self.faults.remove(member);
        }
        for member in view.failed.iter().filter(|member| **member != me) {
            let unseen = match view.joined.contains(member) {
                true => "its former process had ended when its present one was started",
                false => "the other members removed it before this process observed anything",
            };
            self.faults.entry(*member).or_insert_with(|| unseen.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_link_is_no_fault_of_a_member_that_left() {
        let [me, stays, leaves, fails, unseen] = [1, 2, 3, 4, 5].map(MemberId);
        let mut state = State::new(1);
        for member in [me, stays, leaves, fails] {
            state.faults.insert(member, "the peer closed the connection".to_owned());
        }
        let view =
            View { members: vec![me, stays], left: vec![leaves], failed: vec![fails, unseen], ..View::default() };
        state.note_departures(&view, me);
        let mut faulty: Vec<_> = state.faults.keys().copied().collect();
        faulty.sort_unstable();
        assert_eq!(faulty, [me, fails, unseen]);
    }
}
